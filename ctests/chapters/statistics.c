/*
 * statistics.c: what RSASYNC_get_stats() tells, and the line of RSASYNC_STATS. Each case is a
 * process of its own, so that all numbers begin at 0.
 */
#include "deep.h"
#include "environment.h"
#include "jobs.h"
#include "process.h"
#include <errno.h>
#include <stddef.h>
#include <sys/resource.h>

/* All cases are OURS: libcrypto has nothing of the kind. */
#ifndef ON_LIBCRYPTO

static void check_counts(uint64_t starts, uint64_t pauses, uint64_t resumes, uint64_t finishes)
{
    struct rsasync_stats now = current_stats();

    CHECK_INT(now.starts, starts);
    CHECK_INT(now.pauses, pauses);
    CHECK_INT(now.resumes, resumes);
    CHECK_INT(now.finishes, finishes);
}

static void check_jobs(uint64_t running, uint64_t paused, uint64_t idle)
{
    struct rsasync_stats now = current_stats();

    CHECK_INT(now.jobs_running, running);
    CHECK_INT(now.jobs_paused, paused);
    CHECK_INT(now.jobs_idle, idle);
}

CASE(starts_pauses_resumes_and_finishes_are_counted, OURS,
     "each start, pause, resume and finish counts once")
{
    ASYNC_JOB *job;

    check_counts(0, 0, 0, 0);
    job = paused_job(NULL, 2, 9);
    check_counts(1, 1, 0, 0);
    resume_to_pause(job);
    check_counts(1, 2, 1, 0);
    finish(job, 9);
    check_counts(1, 2, 2, 1);
    ASYNC_pause_job(); /* outside a job it pauses nothing */
    check_counts(1, 2, 2, 1);
}

static int looks_inside(void *depth)
{
    int left = *(int *)depth;

    check_jobs((uint64_t)(4 - left), 1, 0);
    if (left > 0) {
        ASYNC_JOB *inner = NULL;
        int ret;

        left--;
        CHECK_INT(ASYNC_start_job(&inner, NULL, &ret, looks_inside, &left, sizeof left),
                  ASYNC_FINISH);
    }
    return 0;
}

CASE(jobs_are_counted_by_their_state, OURS,
     "jobs count as running, also those that wait for one they started, as paused, or as idle")
{
    ASYNC_JOB *paused = paused_job(NULL, 1, 1), *outer = NULL;
    int depth = 3, ret;

    check_jobs(0, 1, 0);
    CHECK_INT(ASYNC_start_job(&outer, NULL, &ret, looks_inside, &depth, sizeof depth),
              ASYNC_FINISH);
    check_jobs(0, 1, 4);
    finish(paused, 1);
    check_jobs(0, 0, 5);
    ASYNC_cleanup_thread();
    check_jobs(0, 0, 0);
}

static void *works(void *unused)
{
    for (int i = 0; i < 1000; i++)
        finish(paused_job(NULL, 1, i), i);
    return unused;
}

CASE(counts_outlive_their_threads, OURS,
     "the counts of threads that have ended stay; those of threads at work don't disturb each other")
{
    pthread_t threads[8];

    for (int i = 0; i < 8; i++)
        CHECK_INT(pthread_create(&threads[i], NULL, works, NULL), 0);
    for (int i = 0; i < 8; i++)
        CHECK_INT(pthread_join(threads[i], NULL), 0);
    check_counts(8000, 8000, 8000, 8000);
    on_new_thread(works, NULL);
    check_counts(9000, 9000, 9000, 9000);
    check_jobs(0, 0, 0);
}

/* valgrind and the sanitizers have memory of their own for each thread. */
CASE(threads_that_end_leave_no_memory,
     OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN | NOT_EMULATED,
     "thousands of threads, one after the other, leave nothing behind but their counts")
{
    long before;

    for (int i = 0; i < 500; i++)
        on_new_thread(works, NULL);
    before = resident();
    for (int i = 0; i < 8000; i++)
        on_new_thread(works, NULL);
    fprintf(stderr, "%ld KiB more\n", (resident() - before) / KIB);
    CHECK(resident() - before < 256 * KIB);
    check_counts(8500000, 8500000, 8500000, 8500000);
}

static int has_worked; /* how many threads have, under the mutex */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void *works_and_stays(void *unused)
{
    works(NULL);
    CHECK_INT(pthread_mutex_lock(&mutex), 0);
    has_worked++;
    CHECK_INT(pthread_cond_broadcast(&changed), 0);
    while (has_worked < 100)
        CHECK_INT(pthread_cond_wait(&changed, &mutex), 0);
    CHECK_INT(pthread_mutex_unlock(&mutex), 0);
    return unused;
}

CASE(a_forked_child_counts_on, OURS | NOT_EMULATED,
     "a forked child has the counts of its parent's threads, those that it has lost included")
{
    pthread_t thread;
    int status;
    pid_t child;

    CHECK_INT(pthread_create(&thread, NULL, works_and_stays, NULL), 0);
    CHECK_INT(pthread_mutex_lock(&mutex), 0);
    while (has_worked == 0)
        CHECK_INT(pthread_cond_wait(&changed, &mutex), 0);
    CHECK_INT(pthread_mutex_unlock(&mutex), 0);
    works(NULL);
    child = fork();
    if (child == 0) {
        check_counts(2000, 2000, 2000, 2000);
        works(NULL);
        check_counts(3000, 3000, 3000, 3000);
        on_new_thread(works, NULL);
        check_counts(4000, 4000, 4000, 4000);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_INT(status, 0);
    check_counts(2000, 2000, 2000, 2000);
    CHECK_INT(pthread_mutex_lock(&mutex), 0);
    has_worked = 100;
    CHECK_INT(pthread_cond_broadcast(&changed), 0);
    CHECK_INT(pthread_mutex_unlock(&mutex), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
}

CASE(refusals_are_counted_by_reason, OURS,
     "each refusal counts once, under its reason")
{
    ASYNC_JOB *job = paused_job(NULL, 1, 1), *stale = job;
    struct rsasync_stats now;
    int ret;

    CHECK_INT(ASYNC_start_job(NULL, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
    CHECK_INT(ASYNC_WAIT_CTX_set_status(NULL, 1), 0);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    finish(job, 1);
    for (int i = 0; i < 3; i++)
        CHECK_INT(ASYNC_start_job(&stale, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
    job = NULL;
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, must_not_run, &ret, SIZE_MAX / 4), ASYNC_ERR);
    now = current_stats();
    CHECK_INT(now.refused_null, 2);
    CHECK_INT(now.refused_pool_size, 1);
    CHECK_INT(now.refused_state, 3);
    CHECK_INT(now.refused_memory, 1);
    CHECK_INT(now.no_jobs_limit, 0);
    CHECK_INT(now.no_jobs_memory, 0);
}

/* valgrind and the sanitizers need address space themselves. */
CASE(starts_without_a_job_are_counted_by_reason,
     OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN | NOT_EMULATED,
     "ASYNC_NO_JOBS counts under the limit, or under memory; it is neither a start nor a refusal")
{
    struct rlimit none = { 0, RLIM_INFINITY };
    ASYNC_JOB *job, *other = NULL;
    int ret;

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    job = paused_job(NULL, 1, 1);
    for (int i = 0; i < 3; i++)
        CHECK_INT(start_pausing_job(&other, NULL, &ret, 0, 0), ASYNC_NO_JOBS);
    CHECK_INT(ASYNC_init_thread(1000, 0), 1);
    CHECK_INT(setrlimit(RLIMIT_AS, &none), 0);
    while (start_pausing_job(&other, NULL, &ret, 1, 0) == ASYNC_PAUSE)
        other = NULL;
    CHECK_INT(current_stats().no_jobs_limit, 3);
    CHECK_INT(current_stats().no_jobs_memory, 1);
    CHECK_INT(current_stats().starts, current_stats().jobs_paused);
    CHECK_INT(current_stats().refused_memory, 0);
    finish(job, 1);
}

/* ---- stacks ---- */

static int deep_job(void *seed)
{
    return touch_deep(*(int *)seed) != 0;
}

/* On valgrind the library does not look into stacks. */
CASE(the_deepest_use_of_a_stack_is_told, OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "the deepest use of a stack is told to the byte, but for a few hundred, also when the stack is "
     "freed")
{
    ASYNC_JOB *job = NULL;
    int seed = 1, ret;
    uint64_t light, deep;

    finish(paused_job(NULL, 1, 1), 1);
    light = current_stats().stack_deepest_bytes;
    CHECK(light > 100 && light < 4 * KIB);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, deep_job, &seed, sizeof seed), ASYNC_FINISH);
    deep = current_stats().stack_deepest_bytes;
    /* The lowest byte that it writes is the first of its array. */
    CHECK(deep >= DEEP_BYTES && deep <= DEEP_BYTES + 512);
    CHECK(current_stats().stack_resident_bytes >= DEEP_BYTES);
    CHECK_INT(current_stats().stack_bytes, 128 * KIB);
    ASYNC_cleanup_thread();
    CHECK_INT(current_stats().stack_deepest_bytes, deep);
    CHECK_INT(current_stats().stack_resident_bytes, 0);
}

CASE(the_peak_of_stacks_is_told, OURS,
     "the peak is the most stacks that existed together; what was made counts up")
{
    ASYNC_JOB *jobs[10];

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 10 - round; i++)
            jobs[i] = paused_job(NULL, 1, i);
        for (int i = 0; i < 10 - round; i++)
            finish(jobs[i], i);
        ASYNC_cleanup_thread();
    }
    CHECK_INT(current_stats().stacks_peak, 10);
    CHECK_INT(current_stats().stacks_made, 10 + 9 + 8);
    CHECK_INT(current_stats().stacks_in_use, 0);
}

static void *makes_and_frees(void *unused)
{
    for (int i = 0; i < 20000; i++) {
        finish(paused_job(NULL, 1, 1), 1);
        ASYNC_cleanup_thread();
    }
    return unused;
}

CASE(the_peak_is_no_more_than_threads_had, OURS | NOT_ON_VALGRIND,
     "threads that each have one job at a time never have more together than there are threads")
{
    enum { THREADS = 24 };
    pthread_t threads[THREADS];

    for (int i = 0; i < THREADS; i++)
        CHECK_INT(pthread_create(&threads[i], NULL, makes_and_frees, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_INT(pthread_join(threads[i], NULL), 0);
    CHECK(current_stats().stacks_peak >= 1 && current_stats().stacks_peak <= THREADS);
    CHECK_INT(current_stats().stacks_made, THREADS * 20000);
}

CASE(a_program_of_an_older_header_gets_its_members, OURS,
     "a smaller structure gets the members that it has, and nothing behind it is written")
{
    struct rsasync_stats now;
    ASYNC_JOB *job = paused_job(NULL, 1, 1);

    memset(&now, 0x55, sizeof now);
    RSASYNC_get_stats(&now, offsetof(struct rsasync_stats, jobs_running));
    CHECK_INT(now.stacks_in_use, 1);
    CHECK_INT(now.jobs_abandoned, 0);
    CHECK_INT(now.jobs_running, 0x5555555555555555);
    RSASYNC_get_stats(&now, offsetof(struct rsasync_stats, jobs_idle));
    CHECK_INT(now.jobs_paused, 1);
    CHECK_INT(now.jobs_idle, 0x5555555555555555);
    finish(job, 1);
}

/* ---- RSASYNC_STATS ---- */

/* Runs the case again; returns the line that it prints. */
static const char *line_of(const char *name, const char *with)
{
    static char message[4096];

    CHECK_INT(status_with(name, "RSASYNC_STATS", "1", with, message, sizeof message), 0);
    return message;
}

CASE(the_line_tells_who_and_what, OURS | NOT_ON_VALGRIND,
     "RSASYNC_STATS=1 prints a line with the program, its pid and its jobs when the process exits")
{
    int pid, made, most, idle, running, paused, orphaned, abandoned, unguarded, end = 0;
    char version[32], program[64];
    const char *line;

    if (runs_again_with() != NULL) {
        ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

        finish(paused_job(NULL, 1, 1), 1);
        paused_job(ctx, 1, 1);
        ASYNC_WAIT_CTX_free(ctx);
        paused_job(NULL, 1, 1);
        finish(paused_job(NULL, 1, 1), 1);
        return;
    }
    line = line_of(__func__, "");
    fputs(line, stderr);
    sscanf(line, "rsasync %31s %63[^[][%d]: %d jobs made, %d at most together; at the end %d idle, "
           "%d running, %d paused, %d of them orphaned, %d abandoned; %d stacks without a guard\n%n",
           version, program, &pid, &made, &most, &idle, &running, &paused, &orphaned, &abandoned,
           &unguarded, &end);
    CHECK_INT(end, strlen(line));
    CHECK_STR(version, RSASYNC_version());
    CHECK_STR(program, __func__); /* so status_with() names the process */
    CHECK(pid > 0 && pid != getpid());
    CHECK_INT(made, 3);
    CHECK_INT(most, 3);
    CHECK_INT(idle, 1);
    CHECK_INT(running, 0);
    CHECK_INT(paused, 2);
    CHECK_INT(orphaned, 1);
    CHECK_INT(abandoned, 0);
    CHECK_INT(unguarded, 0);
}

CASE(a_process_without_jobs_prints_no_line, OURS | NOT_ON_VALGRIND,
     "a process that makes no job and no wait context prints nothing, nor does one that exits by "
     "_exit")
{
    const char *with = runs_again_with();

    if (with == NULL) {
        CHECK_STR(line_of(__func__, "nothing"), "");
        CHECK_STR(line_of(__func__, "_exit"), "");
        CHECK(line_of(__func__, "jobs")[0] != '\0');
    } else if (strcmp(with, "nothing") != 0) {
        finish(paused_job(NULL, 1, 1), 1);
        if (strcmp(with, "_exit") == 0)
            _exit(0);
    }
}
#endif
