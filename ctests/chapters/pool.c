/*
 * pool.c: a thread's idle jobs and its limit (src/job/pool.rs): how they are made, replaced and
 * freed, and what happens when memory runs out.
 */
#include "every_call.h"
#include "process.h"
#include "refusals.h"
#include <limits.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum { MIB = 1 << 20 };

/* The start of a job is ASYNC_NO_JOBS and changes nothing. */
static void check_no_jobs(ASYNC_WAIT_CTX *ctx)
{
    ASYNC_JOB *job = NULL;
    int ret = -77;

    CHECK_INT(start_pausing_job(&job, ctx, &ret, 1, 0), ASYNC_NO_JOBS);
    CHECK(job == NULL);
    CHECK_INT(ret, -77);
}

/* The limit allows exactly n jobs more than those that are paused. */
static void check_room_for(int n)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB **job = calloc((size_t)n + 1, sizeof(*job));
    int i;

    for (i = 0; i < n; i++)
        job[i] = paused_job(ctx, 1, i);
    check_no_jobs(ctx);
    for (i = 0; i < n; i++)
        finish(job[i], i);
    free(job);
    ASYNC_WAIT_CTX_free(ctx);
}

/* The process can map only this much more memory, until lift_memory_limit(). */
static void limit_memory(size_t more_bytes)
{
    struct rlimit limit;

    CHECK_INT(getrlimit(RLIMIT_AS, &limit), 0);
    limit.rlim_cur = (rlim_t)kib("VmSize:") * 1024 + more_bytes;
    CHECK_INT(setrlimit(RLIMIT_AS, &limit), 0);
}

static void lift_memory_limit(void)
{
    struct rlimit limit;

    CHECK_INT(getrlimit(RLIMIT_AS, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    CHECK_INT(setrlimit(RLIMIT_AS, &limit), 0);
}

/* ---- the limit ---- */

CASE(a_thread_without_init_has_no_limit, EVERYWHERE,
     "A thread that never called ASYNC_init_thread can have any number of jobs")
{
    enum { JOBS = 500 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS];
    int i;

    for (i = 0; i < JOBS; i++)
        job[i] = paused_job(ctx, 1, i);
    for (i = 0; i < JOBS; i++)
        finish(job[i], i);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

CASE(max_zero_is_no_limit, EVERYWHERE,
     "ASYNC_init_thread(0, 0) sets no limit, and takes an earlier one away")
{
    enum { JOBS = 500 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS];
    int i;

    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    CHECK_INT(ASYNC_init_thread(0, 0), 1);
    for (i = 0; i < JOBS; i++)
        job[i] = paused_job(ctx, 1, i);
    for (i = 0; i < JOBS; i++)
        finish(job[i], i);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

CASE(max_is_the_limit, EVERYWHERE,
     "At most `max` jobs exist at once, however many of them are made in advance")
{
    int init;

    for (init = 0; init <= 3; init++) {
        CHECK_INT(ASYNC_init_thread(3, (size_t)init), 1);
        check_room_for(3);
        check_room_for(3);
        ASYNC_cleanup_thread();
    }
}

CASE(an_end_makes_room_for_a_start, EVERYWHERE,
     "After ASYNC_NO_JOBS the start can be tried again, and succeeds when a job has ended")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[3];
    int i;

    CHECK_INT(ASYNC_init_thread(3, 0), 1);
    for (i = 0; i < 3; i++)
        job[i] = paused_job(ctx, 1, i);
    for (i = 3; i < 100; i++) {
        check_no_jobs(ctx);
        check_no_jobs(ctx);
        CHECK(ASYNC_get_current_job() == NULL);
        finish(job[i % 3], i - 3);
        job[i % 3] = paused_job(ctx, 1, i);
    }
    for (i = 100; i < 103; i++)
        finish(job[i % 3], i - 3);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

CASE(init_above_max_is_refused, EVERYWHERE,
     "ASYNC_init_thread with init above max, also with max 0, is 0, and the limit stays")
{
    CHECK_INT(ASYNC_init_thread(0, 1), 0);
    CHECK_INT(ASYNC_init_thread(2, 1), 1);
    CHECK_INT(ASYNC_init_thread(3, 4), 0);
    CHECK_INT(ASYNC_init_thread(0, 1), 0);
    CHECK_INT(ASYNC_init_thread(SIZE_MAX - 1, SIZE_MAX), 0);
    check_room_for(2);
    ASYNC_cleanup_thread();
}

#ifdef WITH_LIBCRYPTO
CASE(init_above_max_is_an_invalid_pool_size, EVERYWHERE | NEEDS_LIBCRYPTO,
     "The refusal of init above max queues one error: ASYNC_R_INVALID_POOL_SIZE")
{
    CHECK_INT(ASYNC_init_thread(3, 4), 0);
    check_queue(INVALID_POOL_SIZE);
    CHECK_INT(ASYNC_init_thread(0, 1), 0);
    check_queue(INVALID_POOL_SIZE);
}
#endif

#ifndef ON_LIBCRYPTO
CASE(a_refused_init_makes_and_frees_nothing, OURS,
     "A refused ASYNC_init_thread says why, makes no job, and keeps the idle jobs")
{
    CHECK_STR(RSASYNC_last_error(), "");
    CHECK_INT(ASYNC_init_thread(3, 4), 0);
    CHECK(RSASYNC_last_error()[0] != '\0');
    CHECK_INT(stacks_in_use(), 0);
    CHECK_INT(ASYNC_init_thread(3, 2), 1);
    CHECK_INT(ASYNC_init_thread(3, 4), 0);
    CHECK_INT(stacks_in_use(), 2);
    ASYNC_cleanup_thread();
}

CASE(no_jobs_has_a_reason, OURS, "After ASYNC_NO_JOBS RSASYNC_last_error says why")
{
    ASYNC_JOB *job;

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    job = paused_job(NULL, 1, 1);
    CHECK_STR(RSASYNC_last_error(), "");
    check_no_jobs(NULL);
    CHECK(RSASYNC_last_error()[0] != '\0');
    finish(job, 1);
    ASYNC_cleanup_thread();
}
#endif

CASE(max_may_be_any_size, UNTIL_3_2, "A max above INT_MAX is taken as it is")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    static const size_t sizes[] = { (size_t)INT_MAX + 1, (size_t)UINT_MAX + 2, SIZE_MAX };
    ASYNC_JOB *job[3];
    int i, k;

    /* Cut to an int, the second size would be a limit of one, and three jobs would not start. */
    for (k = 0; k < 3; k++) {
        CHECK_INT(ASYNC_init_thread(sizes[k], 1), 1);
        for (i = 0; i < 3; i++)
            job[i] = paused_job(ctx, 1, i);
        for (i = 0; i < 3; i++)
            finish(job[i], i);
        ASYNC_cleanup_thread();
    }
    ASYNC_WAIT_CTX_free(ctx);
}

static void *fills_its_pool(void *arg)
{
    (void)arg;
    CHECK_INT(ASYNC_init_thread(5, 5), 1);
    check_room_for(5);
    ASYNC_cleanup_thread();
    return NULL;
}

CASE(a_pool_is_its_threads_own, EVERYWHERE,
     "What a thread does to its pool does not affect the pool and jobs of another thread")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job;

    CHECK_INT(ASYNC_init_thread(3, 2), 1);
    job = paused_job(ctx, 1, 1);
    on_new_thread(fills_its_pool, NULL);
    check_room_for(2);
    finish(job, 1);
    check_room_for(3);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* ---- idle jobs ---- */

#ifndef ON_LIBCRYPTO
CASE(init_makes_its_jobs_at_once, OURS,
     "ASYNC_init_thread makes `init` jobs at once; a start takes an idle one before it makes one")
{
    ASYNC_JOB *job[5];
    int i;

    CHECK_INT(stacks_in_use(), 0);
    CHECK_INT(ASYNC_init_thread(10, 4), 1);
    CHECK_INT(stacks_in_use(), 4);
    for (i = 0; i < 5; i++) {
        job[i] = paused_job(NULL, 1, i);
        CHECK_INT(stacks_in_use(), i < 4 ? 4 : 5);
    }
    for (i = 0; i < 5; i++)
        finish(job[i], i);
    CHECK_INT(stacks_in_use(), 5);
    ASYNC_cleanup_thread();
}

CASE(idle_jobs_are_used_again, OURS,
     "A finished job becomes idle, and the next start takes it instead of making a stack")
{
    ASYNC_JOB *job[3];
    int i, k;

    for (k = 0; k < 100; k++) {
        for (i = 0; i < 3; i++)
            job[i] = paused_job(NULL, 1, i);
        for (i = 0; i < 3; i++)
            finish(job[(i + k) % 3], (i + k) % 3);
        CHECK_INT(stacks_in_use(), 3);
    }
    ASYNC_cleanup_thread();
}
#endif

/* ---- a second ASYNC_init_thread ---- */

CASE(a_second_init_sets_a_new_limit, EVERYWHERE,
     "A second ASYNC_init_thread replaces the limit, and counts only its own jobs against it")
{
    CHECK_INT(ASYNC_init_thread(5, 5), 1);
    CHECK_INT(ASYNC_init_thread(2, 0), 1);
    check_room_for(2);
    CHECK_INT(ASYNC_init_thread(4, 3), 1);
    check_room_for(4);
    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    check_room_for(1);
    ASYNC_cleanup_thread();
}

CASE(paused_jobs_do_not_count_against_a_new_limit, EVERYWHERE,
     "Jobs paused at a second ASYNC_init_thread stay valid and do not count against its limit")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *old[3];
    int i;

    CHECK_INT(ASYNC_init_thread(3, 0), 1);
    for (i = 0; i < 3; i++)
        old[i] = paused_job(ctx, 1, i);
    CHECK_INT(ASYNC_init_thread(2, 1), 1);
    check_room_for(2);
    for (i = 0; i < 3; i++) {
        CHECK(ASYNC_get_wait_ctx(old[i]) == ctx);
        finish(old[i], i);
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

CASE(paused_jobs_join_the_new_pool, EVERYWHERE,
     "Jobs paused at a second ASYNC_init_thread become idle jobs of the new pool when they end")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *old[3];
    int i;

    for (i = 0; i < 3; i++) {
        CHECK_INT(ASYNC_init_thread(1, 0), 1);
        old[i] = paused_job(ctx, 1, i);
    }
    CHECK_INT(ASYNC_init_thread(2, 0), 1);
    check_room_for(2);
    /* Each raises the number of jobs by one: a start takes an idle job whatever the limit. */
    for (i = 0; i < 3; i++) {
        finish(old[i], i);
        check_room_for(2 + i + 1);
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

static int inits_inside(void *arg)
{
    int me = *(int *)arg;

    CHECK_INT(ASYNC_init_thread(2, 1), 1);
    CHECK(ASYNC_get_current_job() != NULL);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(ASYNC_init_thread(3, 0), 1);
    CHECK_INT(*(int *)arg, me);
    return me;
}

CASE(init_works_inside_a_job, EVERYWHERE,
     "A running job that calls ASYNC_init_thread goes on, and joins the new pool when it ends")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int me = 5, ret;

    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, inits_inside, &me, sizeof(me)), ASYNC_PAUSE);
    check_room_for(2);
    finish(job, 5);
    check_room_for(4);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

#ifndef ON_LIBCRYPTO
/* libcrypto leaks the old pool and its idle jobs. */
CASE(a_second_init_frees_the_idle_jobs, OURS,
     "A second ASYNC_init_thread frees the old pool's idle jobs, and not the paused ones")
{
    ASYNC_JOB *job[2];
    int i;

    CHECK_INT(ASYNC_init_thread(10, 5), 1);
    for (i = 0; i < 2; i++)
        job[i] = paused_job(NULL, 1, i);
    CHECK_INT(ASYNC_init_thread(10, 4), 1);
    CHECK_INT(stacks_in_use(), 2 + 4);
    CHECK_INT(ASYNC_init_thread(10, 0), 1);
    CHECK_INT(stacks_in_use(), 2);
    for (i = 0; i < 2; i++)
        finish(job[i], i);
    CHECK_INT(stacks_in_use(), 2);
    CHECK_INT(ASYNC_init_thread(10, 1), 1);
    CHECK_INT(stacks_in_use(), 1);
    ASYNC_cleanup_thread();
    CHECK_INT(stacks_in_use(), 0);
}
#endif

/*
 * libcrypto leaks each old pool. NOT_ON_VALGRIND: the process's memory is mostly valgrind's own.
 * NOT_ON_TSAN: it keeps some memory for each fibre that has existed.
 */
CASE(many_inits_do_not_grow_the_process, OURS | NOT_ON_VALGRIND | NOT_ON_TSAN,
     "A thread that calls ASYNC_init_thread again and again holds the memory of one pool only")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job;
    long before = 0;
    int i;

    for (i = 0; i < 4000; i++) {
        if (i == 400)
            before = resident();
        CHECK_INT(ASYNC_init_thread(8, 8), 1);
        job = paused_job(ctx, 1, i);
        finish(job, i);
    }
    CHECK(resident() < before + MIB);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* ---- the end of a pool ---- */

CASE(cleanup_forgets_the_limit, EVERYWHERE,
     "After ASYNC_cleanup_thread the thread is as if it had never called ASYNC_init_thread")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[5];
    int i;

    CHECK_INT(ASYNC_init_thread(2, 2), 1);
    check_room_for(2);
    ASYNC_cleanup_thread();
    for (i = 0; i < 5; i++)
        job[i] = paused_job(ctx, 1, i);
    for (i = 0; i < 5; i++)
        finish(job[i], i);
    ASYNC_cleanup_thread();
    CHECK_INT(ASYNC_init_thread(2, 0), 1);
    check_room_for(2);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

CASE(cleanup_can_be_called_at_any_time, EVERYWHERE,
     "ASYNC_cleanup_thread may be the first call of a thread, and may be repeated")
{
    int i;

    for (i = 0; i < 10; i++)
        ASYNC_cleanup_thread();
    CHECK_INT(ASYNC_init_thread(2, 2), 1);
    for (i = 0; i < 10; i++)
        ASYNC_cleanup_thread();
    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    check_room_for(1);
    ASYNC_cleanup_thread();
}

CASE(every_call_works_after_cleanup, SINCE_3_0,
     "After ASYNC_cleanup_thread every call works as on a new thread, again and again")
{
    int i;

    for (i = 0; i < 3; i++) {
        make_every_call();
#ifndef ON_LIBCRYPTO
        CHECK_INT(ASYNC_set_mem_functions(NULL, NULL), 0);
#endif
        CHECK_INT(ASYNC_init_thread(2, 1), 1);
        check_room_for(2);
        ASYNC_cleanup_thread();
    }
}

/* libcrypto uses the thread's freed state when such a job ends. */
CASE(cleanup_leaves_paused_jobs_valid, OURS,
     "Jobs paused at ASYNC_cleanup_thread can be paused again and resumed to their end afterwards")
{
    enum { JOBS = 10 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS], *blocker = NULL;
    int i, ret = 0;

    CHECK_INT(ASYNC_init_thread(JOBS + 1, 3), 1);
    for (i = 0; i < JOBS; i++)
        job[i] = paused_job(ctx, 1, i);
    CHECK_INT(ASYNC_start_job(&blocker, ctx, &ret, blocks_and_pauses, NULL, 0), ASYNC_PAUSE);
    ASYNC_cleanup_thread();
    for (i = 0; i < JOBS; i++)
        CHECK(ASYNC_get_wait_ctx(job[i]) == ctx);
    for (i = 0; i < JOBS / 2; i++)
        finish(job[i], i);
    /* The other jobs end after one more clean-up, in a new pool. */
    ASYNC_cleanup_thread();
    CHECK_INT(ASYNC_init_thread(2, 1), 1);
    check_room_for(2);
    for (; i < JOBS; i++)
        finish(job[i], i);
    finish(blocker, 4);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

static int cleans_up_inside(void *arg)
{
    ASYNC_JOB *me = ASYNC_get_current_job();
    ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(me);
    int number = *(int *)arg;

    ASYNC_cleanup_thread();
    CHECK(ASYNC_get_current_job() == me);
    CHECK(ASYNC_get_wait_ctx(me) == ctx);
    CHECK_INT(*(int *)arg, number);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(ASYNC_get_current_job() == me);
    ASYNC_cleanup_thread();
    ASYNC_block_pause();
    ASYNC_cleanup_thread();
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(ASYNC_init_thread(3, 2), 1);
    ASYNC_unblock_pause();
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(*(int *)arg, number);
    return number;
}

/* libcrypto frees the thread's state that the running job uses. */
CASE(a_running_job_may_clean_up, OURS,
     "A running job that calls ASYNC_cleanup_thread stays the current job, and pauses and ends")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *paused;
    int me = 6, i, ret = -77;

    paused = paused_job(ctx, 1, 1);
    for (i = 0; i < 2; i++) {
        CHECK_INT(ASYNC_start_job(&job, ctx, &ret, cleans_up_inside, &me, sizeof(me)),
                  ASYNC_PAUSE);
        CHECK(ASYNC_get_current_job() == NULL);
        /* The second of its three pauses is blocked: the clean-up has kept the block. */
        CHECK_INT(resume(&job, &ret), ASYNC_PAUSE);
        CHECK_INT(ret, -77);
        finish(job, 6);
        job = NULL;
    }
    finish(paused, 1);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

#ifndef ON_LIBCRYPTO
static int cleans_up_and_pauses(void *arg)
{
    CHECK(arg == NULL);
    ASYNC_cleanup_thread();
    CHECK_INT(stacks_in_use(), 2);
    ASYNC_pause_job();
    return 6;
}

CASE(cleanup_frees_all_that_is_idle, OURS,
     "ASYNC_cleanup_thread frees the idle jobs only; a later one frees the jobs that end later")
{
    ASYNC_JOB *job[2], *cleaner = NULL;
    int i, ret;

    CHECK_INT(ASYNC_init_thread(10, 6), 1);
    ASYNC_cleanup_thread();
    CHECK_INT(stacks_in_use(), 0);

    CHECK_INT(ASYNC_init_thread(10, 6), 1);
    for (i = 0; i < 2; i++)
        job[i] = paused_job(NULL, 1, i);
    ASYNC_cleanup_thread();
    CHECK_INT(stacks_in_use(), 2);
    finish(job[0], 0);
    ASYNC_cleanup_thread();
    CHECK_INT(stacks_in_use(), 1);

    /* The same from inside a job: neither this job nor the paused one is idle. */
    CHECK_INT(ASYNC_init_thread(10, 6), 1);
    CHECK_INT(ASYNC_start_job(&cleaner, NULL, &ret, cleans_up_and_pauses, NULL, 0), ASYNC_PAUSE);
    finish(job[1], 1);
    finish(cleaner, 6);
    ASYNC_cleanup_thread();
    CHECK_INT(stacks_in_use(), 0);
}

static void *leaves_six_idle_jobs(void *arg)
{
    CHECK(arg == NULL);
    CHECK_INT(ASYNC_init_thread(6, 6), 1);
    check_room_for(6);
    CHECK_INT(stacks_in_use(), 6);
    return NULL;
}

CASE(a_threads_end_cleans_up, OURS,
     "The end of a thread frees what ASYNC_cleanup_thread would free")
{
    struct rsasync_stats stats;
    int i;

    for (i = 0; i < 10; i++) {
        on_new_thread(leaves_six_idle_jobs, NULL);
        CHECK_INT(stacks_in_use(), 0);
    }
    RSASYNC_get_stats(&stats, sizeof(stats));
    CHECK_INT(stats.jobs_abandoned, 0);
}
#endif

enum { FRAME_BYTES = 96 << 10 };

static int touches_its_stack(void *arg)
{
    unsigned char frame[FRAME_BYTES];
    size_t i, sum = 0;

    (void)arg;
    memset(frame, 1, sizeof(frame));
    ASYNC_pause_job();
    for (i = 0; i < sizeof(frame); i++)
        sum += frame[i];
    return (int)sum;
}

/*
 * libcrypto's stacks, 32 KiB, are too small for the frame. NOT_ON_VALGRIND: the process's memory
 * is mostly valgrind's own. Not on the sanitizers: they keep shadow memory of the stacks.
 */
CASE(cleanup_gives_the_stacks_memory_back, OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "ASYNC_cleanup_thread returns the memory that jobs used on their stacks to the system")
{
    enum { JOBS = 400 };
    ASYNC_JOB *job[JOBS] = { NULL };
    long before = resident();
    int i, ret;

    for (i = 0; i < JOBS; i++)
        CHECK_INT(ASYNC_start_job(&job[i], NULL, &ret, touches_its_stack, NULL, 0), ASYNC_PAUSE);
    CHECK(resident() >= before + JOBS * FRAME_BYTES);
    for (i = 0; i < JOBS; i++)
        finish(job[i], FRAME_BYTES);
    ASYNC_cleanup_thread();
    CHECK(resident() < before + 4 * MIB);
}

/* ---- when memory runs out ---- */

static int next_number;

/* Without args: when memory is out, the copy of args would be what fails. */
static int pauses_and_returns_its_number(void *arg)
{
    int me = next_number++;

    CHECK(arg == NULL);
    ASYNC_pause_job();
    return me;
}

/* Whether the memory of a few stacks cannot be mapped. */
static int memory_is_out(void)
{
    return mmap(NULL, 4 * MIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED;
}

/* Not on valgrind and ThreadSanitizer, here and below: the limit applies to their memory too. */
CASE(init_makes_do_with_fewer, UNTIL_3_2 | NOT_ON_VALGRIND | NOT_ON_TSAN | NOT_EMULATED,
     "An ASYNC_init_thread that runs out of memory succeeds with fewer jobs, and sets its limit")
{
    enum { JOBS = 2000 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB **job = calloc(JOBS + 1, sizeof(*job));
    int i;

    limit_memory(24 * MIB);
    CHECK_INT(ASYNC_init_thread(JOBS, JOBS), 1);
    CHECK(memory_is_out());
#ifndef ON_LIBCRYPTO
    CHECK(stacks_in_use() > 0);
    CHECK(stacks_in_use() < JOBS);
#endif
    finish(paused_job(ctx, 1, 0), 0);
    lift_memory_limit();
    for (i = 0; i < JOBS; i++)
        job[i] = paused_job(ctx, 1, i);
    check_no_jobs(ctx);
    for (i = 0; i < JOBS; i++)
        finish(job[i], i);
    free(job);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

#ifdef WITH_LIBCRYPTO
/* libcrypto queues an error if the allocation that fails is the job's, not the stack's. */
CASE(running_out_of_memory_for_jobs_queues_nothing,
     OURS | NEEDS_LIBCRYPTO | NOT_ON_VALGRIND | NOT_ON_TSAN | NOT_EMULATED,
     "Neither an ASYNC_init_thread that makes fewer jobs nor ASYNC_NO_JOBS queues an error")
{
    enum { JOBS = 10000 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB **job = calloc(JOBS, sizeof(*job));
    int i, made, code, ret;

    /* The first job allocates what the thread needs besides jobs, before the limit. */
    finish(paused_job(ctx, 1, 0), 0);
    limit_memory(24 * MIB);
    CHECK_INT(ASYNC_init_thread(JOBS, JOBS), 1);
    CHECK(ERR_peek_error() == 0);
    for (made = 0; made < JOBS; made++) {
        code = ASYNC_start_job(&job[made], ctx, &ret, pauses_and_returns_its_number, NULL, 0);
        if (code != ASYNC_PAUSE)
            break;
    }
    CHECK_INT(code, ASYNC_NO_JOBS);
    CHECK(ERR_peek_error() == 0);
    lift_memory_limit();
    for (i = 0; i < made; i++)
        finish(job[i], i);
    free(job);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}
#endif

CASE(no_jobs_when_no_stack_can_be_had, UNTIL_3_2 | NOT_ON_VALGRIND | NOT_ON_TSAN | NOT_EMULATED,
     "A start that finds no memory for a stack is ASYNC_NO_JOBS, and the other jobs still work")
{
    enum { JOBS = 20000 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB **job = calloc(JOBS, sizeof(*job)), *more = NULL;
    int made, i, code, ret = -77;

    limit_memory(100 * MIB);
    for (made = 0; made < JOBS; made++) {
        code = ASYNC_start_job(&job[made], ctx, &ret, pauses_and_returns_its_number, NULL, 0);
        if (code != ASYNC_PAUSE)
            break;
    }
    CHECK_INT(code, ASYNC_NO_JOBS);
    CHECK(job[made] == NULL);
    CHECK_INT(next_number, made);
    CHECK(memory_is_out());

    /* Half of the jobs end, and as many idle jobs can be started, but no more. */
    for (i = 0; i < made; i += 2)
        finish(job[i], i);
    for (i = 0; i < made; i += 2) {
        next_number = i;
        job[i] = NULL;
        CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, pauses_and_returns_its_number, NULL, 0),
                  ASYNC_PAUSE);
    }
    for (i = 0; i < 10; i++)
        CHECK_INT(ASYNC_start_job(&more, ctx, &ret, pauses_and_returns_its_number, NULL, 0),
                  ASYNC_NO_JOBS);

    /* With memory there are new jobs again. */
    lift_memory_limit();
    CHECK_INT(ASYNC_start_job(&more, ctx, &ret, pauses_and_returns_its_number, NULL, 0),
              ASYNC_PAUSE);
    CHECK_INT(resume(&more, &ret), ASYNC_FINISH);
    for (i = made - 1; i >= 0; i--)
        finish(job[i], i);
    free(job);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}
