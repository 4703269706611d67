/*
 * reclaim.c: idle jobs that a thread has not needed for ten seconds give the memory of their stacks
 * back, but for a page each; RSASYNC_trim_thread frees all idle jobs at once.
 */
#include "deep.h"
#include "environment.h"
#include "jobs.h"
#include "process.h"
#include "seccomp.h"
#include "set_clock.h"
#include <dlfcn.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

/* All cases are OURS: libcrypto keeps the stacks of idle jobs as they are. */

/* For cases that measure resident memory, of which valgrind and the sanitizers have their own. */
enum { MEASURED = OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN };

/* ---- jobs that touch much of their stacks ---- */

static int deep_job(void *seed)
{
    int sum = touch_deep(*(int *)seed);

    ASYNC_pause_job();
    return sum;
}

static int light_job(void *unused)
{
    (void)unused;
    return 5;
}

/* Writes 64 KiB of its stack, pauses, and finds them unchanged. */
static int stack_checking_job(void *unused)
{
    volatile unsigned char depth[DEEP_BYTES];

    (void)unused;
    for (int i = 0; i < DEEP_BYTES; i++)
        depth[i] = (unsigned char)(i / 7);
    ASYNC_pause_job();
    for (int i = 0; i < DEEP_BYTES; i++)
        CHECK_INT(depth[i], (unsigned char)(i / 7));
    return 8;
}

/* A job at its first pause; func gets a copy of the number. */
static ASYNC_JOB *start_paused(int (*func)(void *), int number)
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, func, &number, sizeof number), ASYNC_PAUSE);
    return job;
}

/* Has this many jobs at once, each of which touches 64 KiB of its stack; then they are idle. */
static void burst(int count)
{
    static ASYNC_JOB *jobs[1000];

    CHECK(count <= 1000);
    for (int i = 0; i < count; i++)
        jobs[i] = start_paused(deep_job, i);
    for (int i = 0; i < count; i++)
        finish(jobs[i], touch_deep(i));
}

/* Pauses, and returns its argument. */
static int light_and_paused(void *number)
{
    int result = *(int *)number;

    ASYNC_pause_job();
    return result;
}

/* Runs this many jobs, one at a time, which touch little. */
static void light_work(int count)
{
    for (int i = 0; i < count; i++) {
        ASYNC_JOB *job = NULL;
        int ret = -1;

        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, light_job, NULL, 0), ASYNC_FINISH);
        CHECK_INT(ret, 5);
    }
}

/* The library's calls of madvise come here: the cases count how often memory is given back. */
static int given_back;

int madvise(void *start, size_t length, int advice)
{
    static int (*next)(void *, size_t, int);

    if (next == NULL)
        next = (int (*)(void *, size_t, int))dlsym(RTLD_NEXT, "madvise");
    given_back += advice == MADV_DONTNEED;
    return next(start, length, advice);
}

/* How many jobs of a thread finish between two checks of its idle jobs; rsasync.h tells it too. */
enum { JOBS_PER_CHECK = 256 };

/* This many seconds of light work, with a check in each. */
static void light_seconds(int seconds)
{
    for (int i = 0; i < seconds; i++) {
        clock_offset_seconds++;
        light_work(JOBS_PER_CHECK);
    }
}

/* ---- stacks that are freed ---- */

static void *has_one_job(void *unused)
{
    light_work(1);
    return unused;
}

static long page_faults(void)
{
    struct rusage usage;

    CHECK_INT(getrusage(RUSAGE_SELF, &usage), 0);
    return usage.ru_minflt;
}

CASE(one_job_again_and_again_costs_no_fault, MEASURED,
     "to make one job and free it, again and again, by ASYNC_cleanup_thread() or the thread's end, "
     "gives no memory back and needs none anew")
{
    enum { TIMES = 300 };
    long before = 0;
    int i;

    for (i = -10; i < TIMES; i++) {
        if (i == 0)
            before = page_faults(), given_back = 0;
        light_work(1);
        ASYNC_cleanup_thread();
    }
    CHECK(page_faults() - before < TIMES / 10);
    for (i = 0; i < 10; i++)
        on_new_thread(has_one_job, NULL);
    CHECK_INT(given_back, 0);
}

#ifndef ON_LIBCRYPTO
CASE(a_freed_stack_keeps_little, MEASURED,
     "a freed stack of which a job has used more than 64 KiB gives its memory back; so does "
     "each that RSASYNC_trim_thread frees")
{
    light_work(1);
    ASYNC_cleanup_thread();
    given_back = 0;
    burst(1);
    ASYNC_cleanup_thread();
    CHECK_INT(given_back, 1);
    light_work(1);
    CHECK(RSASYNC_trim_thread() > 0);
    CHECK_INT(given_back, 2);
}
#endif

CASE(freed_stacks_keep_little_together, MEASURED,
     "of 400 stacks that were freed fewer than 100 keep memory")
{
    enum { COUNT = 400 };
    ASYNC_JOB *jobs[COUNT];
    long before;
    int i;

    for (i = 0; i < COUNT; i++)
        jobs[i] = start_paused(light_and_paused, i);
    before = resident();
    for (i = 0; i < COUNT; i++)
        finish(jobs[i], i);
    ASYNC_cleanup_thread();
    CHECK(before - resident() >= (COUNT - 100) * (long)getauxval(AT_PAGESZ));
}

#ifdef __GLIBC__ /* musl does not tell what its heap has in use */
/* Runs a job with so many bytes of arguments. */
static void job_with_args(size_t size)
{
    static char args[100000];
    ASYNC_JOB *job = NULL;
    int ret = -1;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, light_job, args, size), ASYNC_FINISH);
    CHECK_INT(ret, 5);
}

CASE(an_idle_job_keeps_little_of_arguments, MEASURED,
     "for arguments up to 4 KiB memory is allocated once, and stays with the idle job until it is "
     "freed; that for larger ones goes back at the job's end")
{
    enum { SLACK = 1000 }; /* what malloc has of its own */
    size_t before, with_args;

    job_with_args(100000);
    before = mallinfo2().uordblks;
    job_with_args(4096);
    with_args = mallinfo2().uordblks;
    CHECK(with_args >= before + 4096 - SLACK && with_args <= before + 4096 + SLACK);
    job_with_args(4000);
    CHECK_INT(mallinfo2().uordblks, with_args);
    job_with_args(100000);
    CHECK(mallinfo2().uordblks <= before + SLACK);
    job_with_args(4096);
    ASYNC_cleanup_thread();
    CHECK(mallinfo2().uordblks <= before + SLACK);
}
#endif

/* 257 jobs begin a block of stacks that is made ready at once. */
enum { CROWD = 257 };

CASE(a_crowd_commits_little_ahead, MEASURED | NOT_EMULATED,
     "the memory of a crowd's stacks is that of its jobs and at most one part in 16 more")
{
    ASYNC_JOB *jobs[CROWD];
    long page = sysconf(_SC_PAGESIZE), before;
    int i;

    for (i = 0; i < CROWD; i++)
        jobs[i] = NULL; /* resident from here on */
    light_work(1);
    before = resident();
    for (i = 0; i < CROWD; i++)
        jobs[i] = start_paused(light_and_paused, i);
    CHECK(resident() - before <= CROWD * page * 17 / 16 + 64 * 1024);
    for (i = 0; i < CROWD; i++)
        finish(jobs[i], i);
    ASYNC_cleanup_thread();
}

/* Jobs at once, which are idle then. */
static void run_a_crowd(void)
{
    ASYNC_JOB *jobs[CROWD];
    int i;

    for (i = 0; i < CROWD; i++)
        jobs[i] = start_paused(light_and_paused, i);
    for (i = 0; i < CROWD; i++)
        finish(jobs[i], i);
}

CASE(to_free_a_crowd_leaves_errno_alone, MEASURED | NOT_EMULATED,
     "errno is what it was after ASYNC_cleanup_thread, also where the kernel refuses to take the "
     "memory of stacks back")
{
    run_a_crowd();
    answer_advice(MADV_DONTNEED, EPERM);
    errno = 77;
    ASYNC_cleanup_thread();
    CHECK_INT(errno, 77);
}

static void *has_a_crowd(void *unused)
{
    run_a_crowd();
    return unused;
}

CASE(what_was_committed_ahead_goes_back, MEASURED | NOT_EMULATED,
     "threads that end, each after a crowd of jobs, leave no memory behind")
{
    long before;
    int i;

    for (i = 0; i < 4; i++)
        on_new_thread(has_a_crowd, NULL);
    before = resident();
    for (i = 0; i < 40; i++)
        on_new_thread(has_a_crowd, NULL);
    CHECK(resident() - before < 512L * 1024);
}

/* ---- without a call ---- */

CASE(idle_jobs_give_memory_back, MEASURED,
     "idle jobs that a thread has not needed for more than ten seconds keep a page of memory each")
{
    enum { COUNT = 1000 };
    long before = resident();

    burst(COUNT);
    CHECK(resident() - before >= COUNT * (long)DEEP_BYTES);
    light_seconds(25);
    CHECK(resident() - before <= COUNT * sysconf(_SC_PAGESIZE) * 3 / 2);
    /* A second burst uses them again. */
    burst(COUNT);
    CHECK(resident() - before >= COUNT * (long)DEEP_BYTES);
    light_seconds(25);
    CHECK(resident() - before <= COUNT * sysconf(_SC_PAGESIZE) * 3 / 2);
    ASYNC_cleanup_thread();
}

/* The most that so many jobs keep of what they had: an eighth, or a page and a half each. */
static long most_of(long bytes, int jobs)
{
    long pages = jobs * sysconf(_SC_PAGESIZE) * 3 / 2;

    return pages > bytes / 8 ? pages : bytes / 8;
}

CASE(a_quiet_thread_gives_memory_back, MEASURED,
     "idle jobs give memory back also where jobs finish only rarely, seconds after each other")
{
    enum { COUNT = 1000 };
    long before = resident(), high;

    burst(COUNT);
    high = resident();
    for (int i = 0; i < COUNT + 3 * JOBS_PER_CHECK; i++) {
        clock_offset_seconds += 2;
        light_work(1);
    }
    CHECK(resident() - before <= most_of(high, COUNT));
    ASYNC_cleanup_thread();
}

CASE(freed_and_reused_jobs_are_left_alone, OURS,
     "idle jobs may be freed or used again before the library gives their memory back")
{
    for (int used = 0; used < 2; used++) {
        burst(1000);
        for (int i = 0; i < 2; i++) {
            clock_offset_seconds += 11;
            light_work(JOBS_PER_CHECK);
        }
        if (used)
            burst(900);
        else
            ASYNC_cleanup_thread();
        light_work(2 * JOBS_PER_CHECK);
    }
    burst(1000);
    ASYNC_cleanup_thread();
}

CASE(jobs_used_meanwhile_give_memory_back_later, MEASURED,
     "jobs used while others give memory back do so themselves once they are not needed")
{
    enum { COUNT = 1000 };
    long before = resident(), high;

    burst(COUNT);
    high = resident();
    for (int i = 0; i < 2; i++) {
        clock_offset_seconds += 11;
        light_work(JOBS_PER_CHECK);
    }
    burst(COUNT / 5);
    clock_offset_seconds += 11;
    light_work(JOBS_PER_CHECK);
    light_seconds(25);
    CHECK(resident() - before <= most_of(high, COUNT));
    ASYNC_cleanup_thread();
}

CASE(idle_jobs_give_memory_back_once, OURS,
     "a job that stays idle gives its memory back once")
{
    enum { COUNT = 500 };

    burst(COUNT);
    light_seconds(25);
    CHECK(given_back >= COUNT - 1);
    given_back = 0;
    light_seconds(50);
    CHECK_INT(given_back, 0);
    burst(COUNT);
    light_seconds(25);
    CHECK(given_back >= COUNT - 1);
    ASYNC_cleanup_thread();
}

CASE(paused_jobs_keep_their_memory, OURS,
     "a paused job gives no memory back, however long it is paused")
{
    ASYNC_JOB *paused;

    burst(100);
    paused = start_paused(stack_checking_job, 0);
    light_seconds(25);
    finish(paused, 8);
    ASYNC_cleanup_thread();
}

CASE(a_job_paused_meanwhile_keeps_its_memory, OURS,
     "a job that is idle when a period of ten seconds begins, and paused when it ends, keeps its "
     "memory")
{
    /* The job starts at every second of a period. */
    for (int seconds = 1; seconds < 12; seconds++) {
        ASYNC_JOB *paused;

        burst(100);
        light_seconds(seconds);
        paused = start_paused(stack_checking_job, 0);
        light_seconds(25);
        finish(paused, 8);
        ASYNC_cleanup_thread();
    }
}

static int stack_marking_job(void *number)
{
    volatile unsigned char depth[DEEP_BYTES];
    int mark = *(int *)number % 255 + 1;

    for (int i = 0; i < DEEP_BYTES; i += KIB)
        depth[i] = (unsigned char)mark;
    ASYNC_pause_job();
    for (int i = 0; i < DEEP_BYTES; i += KIB)
        CHECK_INT(depth[i], mark);
    return mark;
}

CASE(jobs_started_before_their_turn_keep_their_memory, OURS,
     "idle jobs that start again before the library comes to them keep what they then write")
{
    enum { COUNT = 3 * JOBS_PER_CHECK };
    static ASYNC_JOB *jobs[COUNT];

    for (int seconds = 8; seconds < 25; seconds++) {
        burst(COUNT);
        light_seconds(seconds);
        for (int i = 0; i < COUNT; i++)
            jobs[i] = start_paused(stack_marking_job, i);
        light_work(2 * JOBS_PER_CHECK);
        for (int i = 0; i < COUNT; i++)
            finish(jobs[i], i % 255 + 1);
        ASYNC_cleanup_thread();
    }
}

CASE(jobs_needed_often_keep_their_memory, MEASURED,
     "jobs used every eight seconds keep their pages, however many there are")
{
    enum { COUNT = 500 };
    struct rusage before, after;

    burst(COUNT);
    light_seconds(8);
    for (int i = 0; i < 6; i++) {
        CHECK_INT(getrusage(RUSAGE_SELF, &before), 0);
        burst(COUNT);
        CHECK_INT(getrusage(RUSAGE_SELF, &after), 0);
        /* Had a job given its memory back, it would fault in 16 pages. */
        CHECK(after.ru_minflt - before.ru_minflt < COUNT);
        light_seconds(8);
    }
    ASYNC_cleanup_thread();
}

CASE(jobs_needed_lately_keep_their_memory, MEASURED,
     "a job keeps its pages for nine seconds after its use, whatever else the thread does")
{
    enum { COUNT = 500 };

    for (int offset = 0; offset < 10; offset += 3) {
        long before;

        clock_offset_seconds += 11;
        light_seconds(1 + offset); /* the first of them ends a period, and begins the next */
        burst(COUNT);
        before = resident();
        light_seconds(9);
        CHECK(resident() > before - COUNT * (long)DEEP_BYTES / 10);
        ASYNC_cleanup_thread();
    }
}

CASE(memory_is_given_back_in_small_steps, MEASURED,
     "no call gives back the memory of more than 16 jobs")
{
    enum { COUNT = 1000, MOST_JOBS = 16 };
    long last, most = 0;

    burst(COUNT);
    last = resident();
    for (int i = 0; i < 25 * JOBS_PER_CHECK; i++) {
        long now;

        if (i % JOBS_PER_CHECK == 0)
            clock_offset_seconds++;
        light_work(1);
        now = resident();
        if (last - now > most)
            most = last - now;
        last = now;
    }
    CHECK(most >= DEEP_BYTES);
    CHECK(most <= MOST_JOBS * (long)(DEEP_BYTES + 16 * KIB));
    ASYNC_cleanup_thread();
}

/* ---- RSASYNC_trim_thread ---- */

#ifndef ON_LIBCRYPTO
static void check_trim(void)
{
    enum { COUNT = 200 };
    long before, gone;
    size_t returned;

    burst(COUNT);
    before = resident();
    errno = 77;
    returned = RSASYNC_trim_thread();
    CHECK_INT(errno, 77);
    gone = before - resident();
    CHECK(returned >= COUNT * (size_t)DEEP_BYTES);
    CHECK(returned <= COUNT * (DEEP_BYTES + 28 * KIB + (size_t)sysconf(_SC_PAGESIZE)));
    if (sysconf(_SC_PAGESIZE) == (long)getauxval(AT_PAGESZ)) /* no larger ones are simulated */
        CHECK(labs(gone - (long)returned) <= (long)returned / 20);
    CHECK_INT(stacks_in_use(), 0);
    CHECK_INT(RSASYNC_trim_thread(), 0);
    burst(COUNT);
    CHECK_INT(stacks_in_use(), COUNT);
    ASYNC_cleanup_thread();
}

CASE(trim_returns_the_bytes_given_back, MEASURED,
     "RSASYNC_trim_thread gives back what idle jobs have touched, and returns how much that is")
{
    check_trim();
}

CASE(trim_returns_the_bytes_given_back_of_large_stacks, MEASURED,
     "the same with stacks of 1 MiB, of which jobs touch a small part")
{
    if (runs_again_with() == NULL)
        run_again_silently(__func__, "1M", "");
    else
        check_trim();
}

static int trimming_job(void *idle)
{
    CHECK(RSASYNC_trim_thread() >= *(int *)idle * (size_t)DEEP_BYTES);
    CHECK_INT(stacks_in_use(), 2);
    CHECK_INT(ASYNC_pause_job(), 1);
    return 6;
}

CASE(trim_leaves_jobs_that_have_not_finished, OURS,
     "RSASYNC_trim_thread frees idle jobs only; paused jobs and the running one go on")
{
    int idle = 20;
    ASYNC_JOB *paused, *running;

    burst(idle + 2);
    paused = start_paused(stack_checking_job, 0);
    running = start_paused(trimming_job, idle);
    finish(paused, 8);
    finish(running, 6);
    CHECK_INT(stacks_in_use(), 2);
    CHECK(RSASYNC_trim_thread() >= DEEP_BYTES);
    CHECK_INT(stacks_in_use(), 0);
}

/* Whether the limit refuses another job. */
static int refused(void)
{
    ASYNC_JOB *job = NULL;
    int ret, number = 0;

    return ASYNC_start_job(&job, NULL, &ret, deep_job, &number, sizeof number) == ASYNC_NO_JOBS;
}

CASE(trim_leaves_the_limit, OURS,
     "after RSASYNC_trim_thread as many jobs can be made as ASYNC_init_thread allowed")
{
    ASYNC_JOB *first, *second;

    CHECK_INT(ASYNC_init_thread(2, 2), 1);
    CHECK(RSASYNC_trim_thread() > 0);
    CHECK_INT(stacks_in_use(), 0);
    first = start_paused(deep_job, 1);
    second = start_paused(deep_job, 2);
    CHECK(refused());
    finish(second, touch_deep(2));
    RSASYNC_trim_thread();
    second = start_paused(deep_job, 3);
    CHECK(refused());
    finish(first, touch_deep(1));
    finish(second, touch_deep(3));
    ASYNC_cleanup_thread();
}

CASE(trim_of_older_jobs_leaves_the_count, OURS,
     "jobs made before ASYNC_init_thread do not count against its limit, nor does trimming them")
{
    ASYNC_JOB *job = start_paused(deep_job, 1);

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    finish(job, touch_deep(1));
    CHECK(RSASYNC_trim_thread() >= DEEP_BYTES);
    job = start_paused(deep_job, 2);
    CHECK(refused());
    finish(job, touch_deep(2));
    ASYNC_cleanup_thread();
}

static void *trim(void *returned)
{
    *(size_t *)returned = RSASYNC_trim_thread();
    return NULL;
}

CASE(trim_frees_jobs_of_the_calling_thread_only, OURS,
     "RSASYNC_trim_thread leaves other threads' idle jobs, and returns 0 in a new thread")
{
    size_t returned = 1;

    burst(3);
    on_new_thread(trim, &returned);
    CHECK_INT(returned, 0);
    CHECK_INT(stacks_in_use(), 3);
    ASYNC_cleanup_thread();
}

static int freed;

static void *own_alloc(size_t *size)
{
    *size = 256 * KIB;
    return malloc(*size);
}

static void own_free(void *stack)
{
    freed++;
    free(stack);
}

CASE(trim_frees_a_programs_own_stacks, OURS,
     "stacks from a program's own alloc go to its own free, and their whole size is returned")
{
    CHECK_INT(ASYNC_set_mem_functions(own_alloc, own_free), 1);
    burst(4);
    CHECK_INT(RSASYNC_trim_thread(), 4 * 256 * KIB);
    CHECK_INT(freed, 4);
}

CASE(a_programs_own_stacks_keep_their_memory, OURS,
     "idle jobs on stacks from a program's own alloc give no memory back without a call")
{
    CHECK_INT(ASYNC_set_mem_functions(own_alloc, own_free), 1);
    burst(300);
    light_seconds(25);
    CHECK_INT(given_back, 0);
    ASYNC_cleanup_thread();
}

CASE(trim_counts_of_locked_memory_what_went_back, MEASURED | NOT_EMULATED,
     "under mlockall RSASYNC_trim_thread returns the bytes that went back, and no more")
{
    ASYNC_JOB *paused;
    long before, returned;

    CHECK_INT(mlockall(MCL_FUTURE), 0);
    burst(3);
    paused = start_paused(stack_checking_job, 0);
    errno = 77;
    before = resident();
    returned = (long)RSASYNC_trim_thread();
    CHECK_INT(errno, 77);
    CHECK(labs(before - resident() - returned) <= 64 * 1024);
    CHECK_INT(stacks_in_use(), 1);
    finish(paused, 8);
    ASYNC_cleanup_thread();
}
#endif
