/* reclaim.c: what idle jobs keep of the memory that they have touched, and how it comes back. */
#include "process.h"
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>

/*
 * All of it is OURS: libcrypto keeps the stacks of idle jobs as they are.
 */
enum { KIB = 1024, DEEP = 64 * KIB };

/* The process's resident memory is looked at, and that of these is in it. */
enum { MEASURED = OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN };

/* ---- jobs that go deep ---- */

__attribute__((noinline)) static int touch_deep(int seed)
{
    volatile unsigned char depth[DEEP];
    int sum = 0;

    for (int i = 0; i < DEEP; i += KIB)
        depth[i] = (unsigned char)(seed + i / KIB);
    for (int i = 0; i < DEEP; i += KIB)
        sum += depth[i];
    return sum;
}

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

/* A job is paused in the midst of its depth, and finds it as it was. */
static int paused_deep_job(void *unused)
{
    volatile unsigned char depth[DEEP];

    (void)unused;
    for (int i = 0; i < DEEP; i++)
        depth[i] = (unsigned char)(i / 7);
    ASYNC_pause_job();
    for (int i = 0; i < DEEP; i++)
        CHECK_INT(depth[i], (unsigned char)(i / 7));
    return 8;
}

static ASYNC_JOB *start(int (*func)(void *), int number)
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, func, &number, sizeof number), ASYNC_PAUSE);
    return job;
}

static int finish(ASYNC_JOB *job)
{
    int ret = -1;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    return ret;
}

/* So many jobs at once, each of which goes deep; then they are idle. */
static void burst(int count)
{
    static ASYNC_JOB *jobs[1000];

    CHECK(count <= 1000);
    for (int i = 0; i < count; i++)
        jobs[i] = start(deep_job, i);
    for (int i = 0; i < count; i++)
        CHECK_INT(finish(jobs[i]), touch_deep(i));
}

static void light_work(int count)
{
    for (int i = 0; i < count; i++) {
        ASYNC_JOB *job = NULL;
        int ret = -1;

        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, light_job, NULL, 0), ASYNC_FINISH);
        CHECK_INT(ret, 5);
    }
}

/* ---- by itself ---- */

/* The library's clock is the program's: this one can be put forward. */
static long put_forward;

int clock_gettime(clockid_t clock, struct timespec *time)
{
    long result = syscall(SYS_clock_gettime, clock, time);

    if (result == 0 && clock == CLOCK_MONOTONIC)
        time->tv_sec += put_forward;
    return (int)result;
}

/* Its madvise is the program's, too: how often memory was given back. */
static int given_back;

int madvise(void *start, size_t length, int advice)
{
    given_back += advice == MADV_DONTNEED;
    return (int)syscall(SYS_madvise, start, length, advice);
}

/* A thread looks when so many jobs have finished, and says so in rsasync.h. */
enum { LOOK_EVERY = 256 };

/* A busy time of so many seconds, in which one job at a time is enough. */
static void light_seconds(int seconds)
{
    for (int i = 0; i < seconds; i++) {
        put_forward++;
        light_work(LOOK_EVERY);
    }
}

CASE(what_was_not_needed_for_long_comes_back, MEASURED,
     "after a burst, idle jobs that the thread does without for a while keep a page each")
{
    enum { COUNT = 1000 };
    long before = resident();

    burst(COUNT);
    CHECK(resident() - before >= COUNT * (long)DEEP);
    light_seconds(25);
    CHECK(resident() - before <= COUNT * sysconf(_SC_PAGESIZE) * 3 / 2);
    /* They are as good as before. */
    burst(COUNT);
    CHECK(resident() - before >= COUNT * (long)DEEP);
    light_seconds(25);
    CHECK(resident() - before <= COUNT * sysconf(_SC_PAGESIZE) * 3 / 2);
    ASYNC_cleanup_thread();
}

CASE(a_quiet_thread_gives_back_as_well, MEASURED,
     "so they do if only now and then a job finishes, many seconds after the last")
{
    enum { COUNT = 1000 };
    long before = resident(), high;

    burst(COUNT);
    high = resident();
    for (int i = 0; i < COUNT + 3 * LOOK_EVERY; i++) {
        put_forward += 2;
        light_work(1);
    }
    CHECK(resident() - before <= high / 8);
    ASYNC_cleanup_thread();
}

CASE(jobs_that_are_gone_are_left_alone, OURS,
     "idle jobs may be freed, or used again, while others are still to give back")
{
    for (int used = 0; used < 2; used++) {
        burst(1000);
        for (int i = 0; i < 2; i++) {
            put_forward += 11;
            light_work(LOOK_EVERY);
        }
        if (used)
            burst(900);
        else
            ASYNC_cleanup_thread();
        light_work(2 * LOOK_EVERY);
    }
    burst(1000);
    ASYNC_cleanup_thread();
}

CASE(what_is_used_meanwhile_comes_back_later, MEASURED,
     "jobs that are used while others give back do so themselves, when they have not been needed")
{
    enum { COUNT = 1000 };
    long before = resident(), high;

    burst(COUNT);
    high = resident();
    for (int i = 0; i < 2; i++) {
        put_forward += 11;
        light_work(LOOK_EVERY);
    }
    burst(COUNT / 5);
    put_forward += 11;
    light_work(LOOK_EVERY);
    light_seconds(25);
    CHECK(resident() - before <= high / 8);
    ASYNC_cleanup_thread();
}

CASE(what_has_come_back_costs_nothing_more, OURS,
     "a job gives back once, not again and again as long as it is idle")
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

CASE(paused_jobs_keep_what_they_have, OURS, "what an idle job gives back, a paused one keeps")
{
    ASYNC_JOB *paused;

    burst(100);
    paused = start(paused_deep_job, 0);
    light_seconds(25);
    CHECK_INT(finish(paused), 8);
    ASYNC_cleanup_thread();
}

CASE(a_job_that_pauses_meanwhile_keeps_what_it_has, OURS,
     "a job that was idle when a period began, and is paused when it ends, keeps what it has")
{
    /* A period begins, and after ten seconds the next. */
    for (int seconds = 1; seconds < 12; seconds++) {
        ASYNC_JOB *paused;

        burst(100);
        light_seconds(seconds);
        paused = start(paused_deep_job, 0);
        light_seconds(25);
        CHECK_INT(finish(paused), 8);
        ASYNC_cleanup_thread();
    }
}

static int marks_its_depth(void *number)
{
    volatile unsigned char depth[DEEP];
    int mark = *(int *)number % 255 + 1;

    for (int i = 0; i < DEEP; i += KIB)
        depth[i] = (unsigned char)mark;
    ASYNC_pause_job();
    for (int i = 0; i < DEEP; i += KIB)
        CHECK_INT(depth[i], mark);
    return mark;
}

CASE(jobs_needed_while_they_are_given_back_keep_what_they_have, OURS,
     "idle jobs that are started when the library has not come to them yet keep what they have")
{
    enum { COUNT = 3 * LOOK_EVERY };
    static ASYNC_JOB *jobs[COUNT];

    for (int seconds = 8; seconds < 25; seconds++) {
        burst(COUNT);
        light_seconds(seconds);
        for (int i = 0; i < COUNT; i++)
            jobs[i] = start(marks_its_depth, i);
        light_work(2 * LOOK_EVERY);
        for (int i = 0; i < COUNT; i++)
            CHECK_INT(finish(jobs[i]), i % 255 + 1);
        ASYNC_cleanup_thread();
    }
}

CASE(what_is_needed_again_and_again_stays, MEASURED,
     "jobs that are used every few seconds keep their pages, however many they are")
{
    enum { COUNT = 500 };
    struct rusage before, after;

    burst(COUNT);
    light_seconds(8);
    for (int i = 0; i < 6; i++) {
        CHECK_INT(getrusage(RUSAGE_SELF, &before), 0);
        burst(COUNT);
        CHECK_INT(getrusage(RUSAGE_SELF, &after), 0);
        /* A page that had gone back would be faulted in, 16 for each job. */
        CHECK(after.ru_minflt - before.ru_minflt < COUNT);
        light_seconds(8);
    }
    ASYNC_cleanup_thread();
}

CASE(nothing_comes_back_too_early, MEASURED,
     "within ten seconds of its use a job keeps its pages, whatever else the thread does")
{
    enum { COUNT = 500 };

    for (int offset = 0; offset < 10; offset += 3) {
        long before;

        put_forward += 11;
        light_seconds(1 + offset); /* a period begins with the first of them */
        burst(COUNT);
        before = resident();
        light_seconds(9);
        CHECK(resident() > before - COUNT * (long)DEEP / 10);
        ASYNC_cleanup_thread();
    }
}

CASE(it_is_given_back_bit_by_bit, MEASURED,
     "no call gives back the memory of more than some jobs")
{
    enum { COUNT = 1000, SOME = 16 };
    long last, most = 0;

    burst(COUNT);
    last = resident();
    for (int i = 0; i < 25 * LOOK_EVERY; i++) {
        long now;

        if (i % LOOK_EVERY == 0)
            put_forward++;
        light_work(1);
        now = resident();
        if (last - now > most)
            most = last - now;
        last = now;
    }
    CHECK(most >= DEEP);
    CHECK(most <= SOME * (long)(DEEP + 16 * KIB));
    ASYNC_cleanup_thread();
}

/* ---- asked for ---- */

#ifndef ON_LIBCRYPTO
static uint64_t stacks(void)
{
    struct rsasync_stats stats;

    RSASYNC_get_stats(&stats, sizeof stats);
    return stats.stacks_in_use;
}

static void check_trim(void)
{
    enum { COUNT = 200 };
    long before, gone;
    size_t said;

    burst(COUNT);
    before = resident();
    errno = 77;
    said = RSASYNC_trim_thread();
    CHECK_INT(errno, 77);
    gone = before - resident();
    CHECK(said >= COUNT * (size_t)DEEP);
    CHECK(said <= COUNT * (size_t)(DEEP + 32 * KIB));
    CHECK(labs(gone - (long)said) <= (long)said / 20);
    CHECK_INT(stacks(), 0);
    CHECK_INT(RSASYNC_trim_thread(), 0);
    burst(COUNT);
    CHECK_INT(stacks(), COUNT);
    ASYNC_cleanup_thread();
}

CASE(trim_says_what_it_gives_back, MEASURED,
     "RSASYNC_trim_thread gives back what idle jobs have touched, and says how much that was")
{
    check_trim();
}

CASE(trim_says_what_it_gives_back_of_large_stacks, MEASURED,
     "the same of stacks that are larger than their jobs will ever need")
{
    CHECK_INT(setenv("RSASYNC_STACK_SIZE", "1M", 1), 0);
    check_trim();
}

static int trimming_job(void *idle)
{
    CHECK(RSASYNC_trim_thread() >= *(int *)idle * (size_t)DEEP);
    CHECK_INT(stacks(), 2);
    CHECK_INT(ASYNC_pause_job(), 1);
    return 6;
}

CASE(trim_leaves_jobs_that_have_not_finished, OURS,
     "RSASYNC_trim_thread frees idle jobs only: paused ones and the running one go on")
{
    int idle = 20;
    ASYNC_JOB *paused, *running;

    burst(idle + 2);
    paused = start(paused_deep_job, 0);
    running = start(trimming_job, idle);
    CHECK_INT(finish(paused), 8);
    CHECK_INT(finish(running), 6);
    CHECK_INT(stacks(), 2);
    CHECK(RSASYNC_trim_thread() >= DEEP);
    CHECK_INT(stacks(), 0);
}

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
    CHECK_INT(stacks(), 0);
    first = start(deep_job, 1);
    second = start(deep_job, 2);
    CHECK(refused());
    finish(second);
    RSASYNC_trim_thread();
    second = start(deep_job, 3);
    CHECK(refused());
    finish(first);
    finish(second);
    ASYNC_cleanup_thread();
}

CASE(trim_does_not_count_jobs_of_before, OURS,
     "jobs made before ASYNC_init_thread are not counted, when they are trimmed neither")
{
    ASYNC_JOB *job = start(deep_job, 1);

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    finish(job);
    CHECK(RSASYNC_trim_thread() >= DEEP);
    job = start(deep_job, 2);
    CHECK(refused());
    finish(job);
    ASYNC_cleanup_thread();
}

static void *trim(void *said)
{
    *(size_t *)said = RSASYNC_trim_thread();
    return NULL;
}

CASE(trim_is_about_the_calling_thread, OURS,
     "RSASYNC_trim_thread leaves other threads' idle jobs, and finds nothing in a new thread")
{
    pthread_t thread;
    size_t said = 1;

    burst(3);
    CHECK_INT(pthread_create(&thread, NULL, trim, &said), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_INT(said, 0);
    CHECK_INT(stacks(), 3);
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

CASE(trim_gives_a_programs_own_stacks_to_its_function, OURS,
     "stacks from a program's own function go back whole to its other one, and count so")
{
    CHECK_INT(ASYNC_set_mem_functions(own_alloc, own_free), 1);
    burst(4);
    CHECK_INT(RSASYNC_trim_thread(), 4 * 256 * KIB);
    CHECK_INT(freed, 4);
}

CASE(a_programs_own_stacks_are_left_as_they_are, OURS,
     "of idle jobs on stacks from a program's own function no memory is given back by itself")
{
    CHECK_INT(ASYNC_set_mem_functions(own_alloc, own_free), 1);
    burst(300);
    light_seconds(25);
    CHECK_INT(given_back, 0);
    ASYNC_cleanup_thread();
}

CASE(trim_says_nothing_of_what_it_cannot_give_back, MEASURED,
     "locked memory of stacks beside that of a paused job stays, and RSASYNC_trim_thread says so")
{
    ASYNC_JOB *paused;

    CHECK_INT(mlockall(MCL_FUTURE), 0);
    burst(3);
    paused = start(paused_deep_job, 0);
    errno = 77;
    CHECK_INT(RSASYNC_trim_thread(), 0);
    CHECK_INT(errno, 77);
    CHECK_INT(stacks(), 1);
    CHECK_INT(finish(paused), 8);
    ASYNC_cleanup_thread();
}
#endif
