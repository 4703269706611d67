/*
 * orphans.c: paused jobs whose wait context was freed. Their stacks give back what they don't use;
 * with RSASYNC_RECLAIM_ORPHANS the jobs go after that many seconds.
 */
#include "deep.h"
#include "environment.h"
#include "jobs.h"
#include "process.h"
#include "set_clock.h"
#include <sys/mman.h>
#include <ucontext.h>

/* All cases are OURS: libcrypto's jobs use a context after it was freed. */

/* For cases that measure resident memory, of which valgrind and the sanitizers have their own. */
enum { MEASURED = OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN };

/* Pauses with a pattern on its stack, and nothing where it has called deep before. */
static int deep_then_pause(void *result)
{
    volatile int kept[100];

    touch_deep(0);
    for (int i = 0; i < 100; i++)
        kept[i] = i;
    ASYNC_pause_job();
    for (int i = 0; i < 100; i++)
        CHECK_INT(kept[i], i);
    touch_deep(0);
    return *(int *)result;
}

static ASYNC_JOB *start_deep(ASYNC_WAIT_CTX *ctx, int result)
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, deep_then_pause, &result, sizeof result),
              ASYNC_PAUSE);
    return job;
}

/* A paused job whose wait context is freed, as a server's connection that is dropped leaves it. */
static ASYNC_JOB *orphan(int result)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = start_deep(ctx, result);

    ASYNC_WAIT_CTX_free(ctx);
    return job;
}

/* This many jobs that don't pause. */
static void work(int count)
{
    for (int i = 0; i < count; i++) {
        ASYNC_JOB *job = NULL;
        int ret = -1;

        CHECK_INT(start_pausing_job(&job, NULL, &ret, 0, 5), ASYNC_FINISH);
        CHECK_INT(ret, 5);
    }
}

/* Enough work for a pass over a few thousand jobs, once in each of these seconds. */
static void work_seconds(int seconds)
{
    for (int i = 0; i < seconds; i++) {
        clock_offset_seconds++;
        work(4096);
    }
}

#ifndef ON_LIBCRYPTO
CASE(orphans_are_counted, OURS,
     "RSASYNC_get_stats counts paused jobs whose context was freed, until they finish")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *with_context = start_deep(ctx, 1), *without = start_deep(NULL, 2);
    ASYNC_JOB *first = orphan(3), *second = orphan(4);

    CHECK_INT(current_stats().jobs_paused, 4);
    CHECK_INT(current_stats().jobs_orphaned, 2);
    finish(first, 3);
    CHECK_INT(current_stats().jobs_orphaned, 1);
    finish(second, 4);
    finish(without, 2);
    finish(with_context, 1);
    CHECK_INT(current_stats().jobs_orphaned, 0);
    CHECK_INT(current_stats().jobs_idle, 4);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}
#endif

static void check_unused_pages_go(void)
{
    enum { COUNT = 500 };
    static ASYNC_JOB *jobs[COUNT];
    long before = resident();

    for (int i = 0; i < COUNT; i++)
        jobs[i] = orphan(i);
    CHECK(resident() - before > COUNT * (long)DEEP_BYTES / 2);
    work_seconds(2);
    CHECK(resident() - before < COUNT * 3 * sysconf(_SC_PAGESIZE));
    /* They have lost nothing. */
    for (int i = 0; i < COUNT; i++)
        finish(jobs[i], i);
    ASYNC_cleanup_thread();
}

CASE(an_orphan_gives_back_what_it_does_not_use, MEASURED,
     "the pages of an orphan's stack in which nothing is go back to the system; the job can still be "
     "resumed")
{
    check_unused_pages_go();
}

CASE(a_thread_that_only_makes_orphans_gives_them_back_too, MEASURED,
     "the same where no job ever finishes")
{
    enum { COUNT = 2000 };
    long before = resident();

    for (int i = 0; i < COUNT; i++) {
        if (i % 10 == 0)
            clock_offset_seconds++;
        orphan(i);
    }
    /* Where pages are large, that of the frames stays whole. */
    CHECK(resident() - before < COUNT * ((long)DEEP_BYTES / 4 + sysconf(_SC_PAGESIZE) - 4 * KIB));
}

CASE(a_paused_job_with_a_context_keeps_its_pages, OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "a paused job gives nothing back as long as its context exists, nor does one without context")
{
    enum { COUNT = 200 };
    static ASYNC_JOB *jobs[2 * COUNT];
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    long before = resident();

    for (int i = 0; i < 2 * COUNT; i++)
        jobs[i] = start_deep(i % 2 ? ctx : NULL, i);
    work_seconds(30);
    CHECK(resident() - before > 2 * COUNT * (long)DEEP_BYTES);
    for (int i = 0; i < 2 * COUNT; i++)
        finish(jobs[i], i);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* ---- jobs that pause on a stack of their own ---- */

#ifdef __GLIBC__ /* musl has no ucontext */
enum { COROUTINE_BYTES = 64 * KIB };
static ucontext_t outside, coroutine;
static char *coroutine_stack;

static void pause_in_coroutine(void)
{
    volatile int kept[100];

    for (int i = 0; i < 100; i++)
        kept[i] = i;
    ASYNC_pause_job();
    for (int i = 0; i < 100; i++)
        CHECK_INT(kept[i], i);
}

static int runs_a_coroutine(void *unused)
{
    (void)unused;
    CHECK_INT(getcontext(&coroutine), 0);
    coroutine.uc_stack.ss_sp = coroutine_stack;
    coroutine.uc_stack.ss_size = COROUTINE_BYTES;
    coroutine.uc_link = &outside;
    makecontext(&coroutine, pause_in_coroutine, 0);
    CHECK_INT(swapcontext(&outside, &coroutine), 0);
    return 6;
}

/* AddressSanitizer and ThreadSanitizer know of swapcontext(), but not inside a fiber. */
CASE(an_orphan_may_have_paused_on_another_stack, OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "of a job that has paused on a coroutine's stack nothing is taken, wherever that stack lies")
{
    enum { PLACES = 2 };
    char *stacks[PLACES];

    /* One below the stacks of jobs in memory, one above. */
    stacks[0] = mmap(NULL, COROUTINE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    finish(start_deep(NULL, 1), 1);
    stacks[1] = mmap(NULL, COROUTINE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stacks[0] != MAP_FAILED && stacks[1] != MAP_FAILED);
    for (int place = 0; place < PLACES; place++) {
        ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
        ASYNC_JOB *job = NULL, *neighbours[8];
        int ret;

        coroutine_stack = stacks[place];
        for (int i = 0; i < 8; i++)
            neighbours[i] = start_deep(NULL, i);
        CHECK_INT(ASYNC_start_job(&job, ctx, &ret, runs_a_coroutine, NULL, 0), ASYNC_PAUSE);
        ASYNC_WAIT_CTX_free(ctx);
        work_seconds(3);
        finish(job, 6);
        for (int i = 0; i < 8; i++)
            finish(neighbours[i], i);
    }
    ASYNC_cleanup_thread();
}
#endif

/* ---- RSASYNC_RECLAIM_ORPHANS ---- */

CASE(orphans_stay_unless_asked_for, OURS,
     "without RSASYNC_RECLAIM_ORPHANS an orphan can be resumed after a day")
{
    ASYNC_JOB *job = orphan(7);

    work_seconds(2);
    clock_offset_seconds += 24 * 3600;
    work_seconds(3);
    finish(job, 7);
    ASYNC_cleanup_thread();
}

#ifndef ON_LIBCRYPTO
static int pauses(void *unused)
{
    (void)unused;
    return ASYNC_pause_job();
}

/* An orphan whose copy of arguments is too large for its stack: LeakSanitizer sees what is left. */
static ASYNC_JOB *orphan_with_large_args(void)
{
    static const char args[64 * KIB];
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, pauses, (void *)args, sizeof args), ASYNC_PAUSE);
    ASYNC_WAIT_CTX_free(ctx);
    return job;
}

static void check_orphans_go(void)
{
    enum { COUNT = 300 };
    static ASYNC_JOB *jobs[COUNT];
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *kept = start_deep(ctx, 1), *without = start_deep(NULL, 2);
    int ret;

    for (int i = 0; i < COUNT - 1; i++)
        jobs[i] = orphan(i);
    jobs[COUNT - 1] = orphan_with_large_args();
    work_seconds(55);
    CHECK_INT(current_stats().jobs_orphaned, COUNT);
    CHECK_INT(current_stats().orphans_reclaimed, 0);
    work_seconds(10);
    CHECK_INT(current_stats().jobs_orphaned, 0);
    CHECK_INT(current_stats().orphans_reclaimed, COUNT);
    /* Those that are no orphans, and one idle job of the work. */
    CHECK_INT(stacks_in_use(), 3);
    for (int i = 0; i < COUNT; i++) {
        ASYNC_JOB *job = jobs[i];

        CHECK(ASYNC_get_wait_ctx(job) == NULL);
        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
    }
    finish(kept, 1);
    finish(without, 2);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

CASE(orphans_go_after_the_time_asked_for, OURS | NOT_ON_VALGRIND,
     "with RSASYNC_RECLAIM_ORPHANS=60 orphans are destroyed after 60 seconds, and their handles are "
     "refused; other paused jobs stay")
{
    call_with(__func__, "RSASYNC_RECLAIM_ORPHANS", "60", check_orphans_go);
}

static void check_limit_has_room_again(void)
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_init_thread(3, 0), 1);
    for (int i = 0; i < 3; i++)
        orphan(i);
    CHECK_INT(start_pausing_job(&job, NULL, &ret, 1, 0), ASYNC_NO_JOBS);
    clock_offset_seconds += 2;
    CHECK_INT(start_pausing_job(&job, NULL, &ret, 1, 0), ASYNC_NO_JOBS); /* sees them */
    clock_offset_seconds += 2;
    while (start_pausing_job(&job, NULL, &ret, 1, 0) == ASYNC_NO_JOBS)
        clock_offset_seconds++;
    CHECK_INT(current_stats().orphans_reclaimed, 3);
    finish(job, 0);
    ASYNC_cleanup_thread();
}

CASE(reclaimed_orphans_make_room_under_the_limit, OURS | NOT_ON_VALGRIND,
     "a thread whose limit is used up by orphans gets jobs again")
{
    call_with(__func__, "RSASYNC_RECLAIM_ORPHANS", "1", check_limit_has_room_again);
}

static void *leaves_orphans(void *jobs)
{
    for (int i = 0; i < 20; i++)
        ((ASYNC_JOB **)jobs)[i] = orphan(i);
    work_seconds(4);
    CHECK_INT(current_stats().jobs_orphaned, 20); /* those of the main thread */
    return NULL;
}

static void check_threads_reclaim_their_own(void)
{
    ASYNC_JOB *theirs[20], *own[20];

    for (int i = 0; i < 20; i++)
        own[i] = orphan(i);
    on_new_thread(leaves_orphans, theirs);
    CHECK_INT(current_stats().orphans_reclaimed, 20);
    for (int i = 0; i < 20; i++)
        finish(own[i], i);
    ASYNC_cleanup_thread();
}

CASE(a_thread_reclaims_its_own_orphans, OURS | NOT_ON_VALGRIND,
     "a thread destroys its own orphans, not those of another thread, which may just resume them")
{
    call_with(__func__, "RSASYNC_RECLAIM_ORPHANS", "1", check_threads_reclaim_their_own);
}

static void *frees(void *ctx)
{
    ASYNC_WAIT_CTX_free(ctx);
    return NULL;
}

static void check_freed_elsewhere(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    start_deep(ctx, 1);
    start_deep(ctx, 2);
    on_new_thread(frees, ctx);
    work_seconds(4);
    CHECK_INT(current_stats().orphans_reclaimed, 2);
    ASYNC_cleanup_thread();
}

CASE(a_context_of_two_jobs_may_be_freed_elsewhere, OURS | NOT_ON_VALGRIND,
     "two jobs of one context are orphans when another thread frees it")
{
    call_with(__func__, "RSASYNC_RECLAIM_ORPHANS", "1", check_freed_elsewhere);
}

CASE(a_time_without_sense_is_reported, OURS | NOT_ON_VALGRIND,
     "a value of RSASYNC_RECLAIM_ORPHANS that is no time is reported once, and ignored")
{
    static const char *const values[] = { "soon", "-1", "+5", "1.5", "864001", "60s", "" };
    char message[1024];

    if (runs_again_with() != NULL) {
        ASYNC_JOB *job = orphan(1);

        clock_offset_seconds += 24 * 3600;
        work_seconds(3);
        finish(job, 1);
        return;
    }
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        CHECK_INT(status_with(__func__, "RSASYNC_RECLAIM_ORPHANS", values[i], "", message,
                              sizeof message), 0);
        CHECK(strstr(message, "rsasync: RSASYNC_RECLAIM_ORPHANS=") == message);
        CHECK(strstr(message, "is ignored: give seconds") != NULL);
        CHECK(strchr(message, '\n') == message + strlen(message) - 1);
    }
}
#endif
