/* The pool: a thread's idle jobs, its limit, and how both are made, renewed and freed. */
#include "check.h"
#include <limits.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#ifdef WITH_LIBCRYPTO
# include <openssl/err.h>
#endif

static int pauses_and_returns_who_it_was(void *arg)
{
    int me = *(int *)arg;

    ASYNC_pause_job();
    return me;
}

/* Starts a job that pauses once and then returns `me`. */
static int start(ASYNC_JOB **job, ASYNC_WAIT_CTX *ctx, int me)
{
    int ret = -77, code;

    *job = NULL;
    code = ASYNC_start_job(job, ctx, &ret, pauses_and_returns_who_it_was, &me, sizeof(me));
    CHECK(code == ASYNC_PAUSE ? *job != NULL : *job == NULL);
    CHECK_INT(ret, -77);
    return code;
}

static void finish(ASYNC_JOB **job, int me)
{
    int ret = -77;

    CHECK_INT(ASYNC_start_job(job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK(*job == NULL);
    CHECK_INT(ret, me);
}

/* Exactly n jobs can be had now, beside those that are paused already. */
static void check_room_for(int n)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB **job = calloc((size_t)n + 1, sizeof(*job));
    int i;

    for (i = 0; i < n; i++)
        CHECK_INT(start(&job[i], ctx, i), ASYNC_PAUSE);
    CHECK_INT(start(&job[n], ctx, n), ASYNC_NO_JOBS);
    for (i = 0; i < n; i++)
        finish(&job[i], i);
    free(job);
    ASYNC_WAIT_CTX_free(ctx);
}

#ifndef ON_LIBCRYPTO
static int stacks_in_use(void)
{
    struct rsasync_stats stats;

    RSASYNC_get_stats(&stats, sizeof(stats));
    return (int)stats.stacks_in_use;
}
#endif

/* What the process has mapped (0) or in use (1), in bytes. */
static size_t memory(int resident)
{
    size_t pages[2];
    FILE *f = fopen("/proc/self/statm", "r");

    CHECK(f != NULL);
    CHECK_INT(fscanf(f, "%zu %zu", &pages[0], &pages[1]), 2);
    fclose(f);
    return pages[resident] * (size_t)sysconf(_SC_PAGESIZE);
}

enum { MEGABYTE = 1 << 20 };

/* From now on the process can get only `more` bytes more. */
static void limit_memory(size_t more)
{
    struct rlimit limit;

    CHECK_INT(getrlimit(RLIMIT_AS, &limit), 0);
    limit.rlim_cur = memory(0) + more;
    CHECK_INT(setrlimit(RLIMIT_AS, &limit), 0);
}

static void lift_memory_limit(void)
{
    struct rlimit limit;

    CHECK_INT(getrlimit(RLIMIT_AS, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    CHECK_INT(setrlimit(RLIMIT_AS, &limit), 0);
}

/* The limit */

CASE(a_thread_without_init_has_no_limit, EVERYWHERE,
     "A thread that never called ASYNC_init_thread can have any number of jobs")
{
    enum { JOBS = 500 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS];
    int i;

    for (i = 0; i < JOBS; i++)
        CHECK_INT(start(&job[i], ctx, i), ASYNC_PAUSE);
    for (i = 0; i < JOBS; i++)
        finish(&job[i], i);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

CASE(max_zero_is_no_limit, EVERYWHERE, "ASYNC_init_thread(0, 0) sets no limit, also after one")
{
    enum { JOBS = 500 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS];
    int i;

    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    CHECK_INT(ASYNC_init_thread(0, 0), 1);
    for (i = 0; i < JOBS; i++)
        CHECK_INT(start(&job[i], ctx, i), ASYNC_PAUSE);
    for (i = 0; i < JOBS; i++)
        finish(&job[i], i);
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
     "After ASYNC_NO_JOBS the call can be tried again, and succeeds when a job has ended")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[3], *more = NULL;
    int i;

    CHECK_INT(ASYNC_init_thread(3, 0), 1);
    for (i = 0; i < 3; i++)
        CHECK_INT(start(&job[i], ctx, i), ASYNC_PAUSE);
    for (i = 3; i < 100; i++) {
        CHECK_INT(start(&more, ctx, i), ASYNC_NO_JOBS);
        CHECK_INT(start(&more, ctx, i), ASYNC_NO_JOBS);
        CHECK(ASYNC_get_current_job() == NULL);
        finish(&job[i % 3], i - 3);
        CHECK_INT(start(&job[i % 3], ctx, i), ASYNC_PAUSE);
    }
    for (i = 100; i < 103; i++)
        finish(&job[i % 3], i - 3);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

CASE(init_above_max_is_refused, EVERYWHERE,
     "ASYNC_init_thread with init above max, also above a max of 0, is 0; the old pool stays")
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
    static const size_t refused[][2] = { { 3, 4 }, { 0, 1 } };
    int i;

    for (i = 0; i < 2; i++) {
        unsigned long error;

        CHECK_INT(ASYNC_init_thread(refused[i][0], refused[i][1]), 0);
        error = ERR_get_error();
        CHECK_INT(ERR_GET_LIB(error), ERR_LIB_ASYNC);
        CHECK_INT(ERR_GET_REASON(error), 103);
        CHECK(ERR_get_error() == 0);
    }
}
#endif

#ifndef ON_LIBCRYPTO
CASE(a_refused_init_makes_and_frees_nothing, OURS,
     "ASYNC_init_thread with init above max says why, makes no job and leaves the idle ones")
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
    ASYNC_JOB *job, *more;

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    CHECK_INT(start(&job, NULL, 1), ASYNC_PAUSE);
    CHECK_STR(RSASYNC_last_error(), "");
    CHECK_INT(start(&more, NULL, 2), ASYNC_NO_JOBS);
    CHECK(RSASYNC_last_error()[0] != '\0');
    finish(&job, 1);
    ASYNC_cleanup_thread();
}
#endif

CASE(max_may_be_any_size, UNTIL_3_2, "A max above INT_MAX is taken as it is")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    static const size_t sizes[] = { (size_t)INT_MAX + 1, (size_t)UINT_MAX + 2, SIZE_MAX };
    ASYNC_JOB *job[3];
    int i, k;

    /* Three jobs each: were max cut to an int, the second would be 1, and allow but one. */
    for (k = 0; k < 3; k++) {
        CHECK_INT(ASYNC_init_thread(sizes[k], 1), 1);
        for (i = 0; i < 3; i++)
            CHECK_INT(start(&job[i], ctx, i), ASYNC_PAUSE);
        for (i = 0; i < 3; i++)
            finish(&job[i], i);
        ASYNC_cleanup_thread();
    }
    ASYNC_WAIT_CTX_free(ctx);
}

static void *has_a_pool_of_its_own(void *arg)
{
    (void)arg;
    CHECK_INT(ASYNC_init_thread(5, 5), 1);
    check_room_for(5);
    ASYNC_cleanup_thread();
    return NULL;
}

CASE(a_pool_is_its_threads_own, EVERYWHERE,
     "What a thread does to its pool is nothing to the pool and the jobs of another")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job;
    pthread_t thread;

    CHECK_INT(ASYNC_init_thread(3, 2), 1);
    CHECK_INT(start(&job, ctx, 1), ASYNC_PAUSE);
    CHECK_INT(pthread_create(&thread, NULL, has_a_pool_of_its_own, NULL), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    check_room_for(2);
    finish(&job, 1);
    check_room_for(3);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* Idle jobs */

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
        CHECK_INT(start(&job[i], NULL, i), ASYNC_PAUSE);
        CHECK_INT(stacks_in_use(), i < 4 ? 4 : 5);
    }
    for (i = 0; i < 5; i++)
        finish(&job[i], i);
    CHECK_INT(stacks_in_use(), 5);
    ASYNC_cleanup_thread();
}

CASE(idle_jobs_are_used_again, OURS,
     "A finished job lies idle, and serves the next starts without a new stack")
{
    ASYNC_JOB *job[3];
    int i, k;

    for (k = 0; k < 100; k++) {
        for (i = 0; i < 3; i++)
            CHECK_INT(start(&job[i], NULL, i), ASYNC_PAUSE);
        for (i = 0; i < 3; i++)
            finish(&job[(i + k) % 3], (i + k) % 3);
        CHECK_INT(stacks_in_use(), 3);
    }
    ASYNC_cleanup_thread();
}
#endif

/* Called again */

CASE(a_second_init_sets_a_new_limit, EVERYWHERE,
     "ASYNC_init_thread called again begins a new count at `init`, under the new limit")
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
        CHECK_INT(start(&old[i], ctx, i), ASYNC_PAUSE);
    CHECK_INT(ASYNC_init_thread(2, 1), 1);
    check_room_for(2);
    for (i = 0; i < 3; i++) {
        CHECK(ASYNC_get_wait_ctx(old[i]) == ctx);
        finish(&old[i], i);
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

CASE(paused_jobs_join_the_new_pool, EVERYWHERE,
     "Jobs paused at a second ASYNC_init_thread are idle jobs of the new pool when they finish")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *old[3];
    int i;

    for (i = 0; i < 3; i++) {
        CHECK_INT(ASYNC_init_thread(1, 0), 1);
        CHECK_INT(start(&old[i], ctx, i), ASYNC_PAUSE);
    }
    CHECK_INT(ASYNC_init_thread(2, 0), 1);
    check_room_for(2);
    /* Each adds one job to the two that the limit allows, as an idle job is always taken. */
    for (i = 0; i < 3; i++) {
        finish(&old[i], i);
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
     "A running job that calls ASYNC_init_thread goes on, and joins the new pool when it finishes")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int me = 5, ret;

    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, inits_inside, &me, sizeof(me)), ASYNC_PAUSE);
    check_room_for(2);
    finish(&job, 5);
    check_room_for(4);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

#ifndef ON_LIBCRYPTO
/* libcrypto leaks the old pool and its idle jobs. */
CASE(a_second_init_frees_the_idle_jobs, OURS,
     "ASYNC_init_thread called again frees the old pool's idle jobs, and not the paused ones")
{
    ASYNC_JOB *job[2];
    int i;

    CHECK_INT(ASYNC_init_thread(10, 5), 1);
    for (i = 0; i < 2; i++)
        CHECK_INT(start(&job[i], NULL, i), ASYNC_PAUSE);
    CHECK_INT(ASYNC_init_thread(10, 4), 1);
    CHECK_INT(stacks_in_use(), 2 + 4);
    CHECK_INT(ASYNC_init_thread(10, 0), 1);
    CHECK_INT(stacks_in_use(), 2);
    for (i = 0; i < 2; i++)
        finish(&job[i], i);
    CHECK_INT(stacks_in_use(), 2);
    CHECK_INT(ASYNC_init_thread(10, 1), 1);
    CHECK_INT(stacks_in_use(), 1);
    ASYNC_cleanup_thread();
    CHECK_INT(stacks_in_use(), 0);
}
#endif

/*
 * libcrypto leaks each old pool. On valgrind the memory of the process is valgrind's;
 * ThreadSanitizer keeps some of each fibre that ever was.
 */
CASE(many_inits_do_not_grow_the_process, OURS | NOT_ON_VALGRIND | NOT_ON_TSAN,
     "However often a thread calls ASYNC_init_thread, it holds one pool")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job;
    size_t before = 0;
    int i;

    for (i = 0; i < 4000; i++) {
        if (i == 400)
            before = memory(1);
        CHECK_INT(ASYNC_init_thread(8, 8), 1);
        CHECK_INT(start(&job, ctx, i), ASYNC_PAUSE);
        finish(&job, i);
    }
    CHECK(memory(1) < before + MEGABYTE);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* The end of a pool */

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
        CHECK_INT(start(&job[i], ctx, i), ASYNC_PAUSE);
    for (i = 0; i < 5; i++)
        finish(&job[i], i);
    ASYNC_cleanup_thread();
    CHECK_INT(ASYNC_init_thread(2, 0), 1);
    check_room_for(2);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

CASE(cleanup_can_be_called_at_any_time, EVERYWHERE,
     "ASYNC_cleanup_thread does no harm on a thread without jobs, as the first call or the tenth")
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

static int calls_back(void *arg)
{
    (void)arg;
    return 1;
}

static int makes_calls(void *arg)
{
    CHECK(arg == NULL);
    CHECK(ASYNC_get_current_job() != NULL);
    ASYNC_block_pause();
    CHECK_INT(ASYNC_pause_job(), 1);
    ASYNC_unblock_pause();
    CHECK_INT(ASYNC_pause_job(), 1);
    return 4;
}

/* Every function of the API, with its result; outside a job, and none paused. */
static void check_every_call(void)
{
    ASYNC_WAIT_CTX *ctx;
    ASYNC_JOB *job = NULL;
    ASYNC_callback_fn callback = NULL;
    void *data = NULL;
    OSSL_ASYNC_FD fd = -1, list[2];
    size_t n = 9, deleted = 9;
    int key, ret = 0;

    CHECK_INT(ASYNC_is_capable(), 1);
    CHECK(ASYNC_get_current_job() == NULL);
    CHECK_INT(ASYNC_pause_job(), 1);
    ASYNC_block_pause();
    ASYNC_unblock_pause();
    ctx = ASYNC_WAIT_CTX_new();
    CHECK(ctx != NULL);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key, 7, &ret, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, &key, &fd, &data), 1);
    CHECK(fd == 7 && data == &ret);
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(ctx, list, &n), 1);
    CHECK(n == 1 && list[0] == 7);
    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, NULL, &n, NULL, &deleted), 1);
    CHECK(n == 1 && deleted == 0);
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, calls_back, &key), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_callback(ctx, &callback, &data), 1);
    CHECK(callback == calls_back && data == &key);
    CHECK_INT(ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_EAGAIN), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(ctx), ASYNC_STATUS_EAGAIN);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, makes_calls, NULL, 0), ASYNC_PAUSE);
    CHECK(ASYNC_get_wait_ctx(job) == ctx);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key), 1);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 4);
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(ctx, NULL, &n), 1);
    CHECK_INT(n, 0);
    ASYNC_WAIT_CTX_free(ctx);
#ifndef ON_LIBCRYPTO
    {
        ASYNC_stack_alloc_fn alloc_fn = NULL;
        ASYNC_stack_free_fn free_fn = NULL;

        CHECK_INT(ASYNC_set_mem_functions(NULL, NULL), 0);
        ASYNC_get_mem_functions(&alloc_fn, &free_fn);
        CHECK(alloc_fn != NULL && free_fn != NULL);
    }
#endif
    CHECK_INT(ASYNC_init_thread(2, 1), 1);
    check_room_for(2);
}

CASE(every_call_works_after_cleanup, SINCE_3_0,
     "After ASYNC_cleanup_thread every call works as on a new thread, time and again")
{
    int i;

    for (i = 0; i < 3; i++) {
        check_every_call();
        ASYNC_cleanup_thread();
    }
}

/* libcrypto uses its freed state when such a job ends. */
CASE(cleanup_leaves_paused_jobs_valid, OURS,
     "Jobs paused at ASYNC_cleanup_thread can be paused again and resumed to their end afterwards")
{
    enum { JOBS = 10 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS], *calls = NULL;
    int i, ret = 0;

    CHECK_INT(ASYNC_init_thread(JOBS + 1, 3), 1);
    for (i = 0; i < JOBS; i++)
        CHECK_INT(start(&job[i], ctx, i), ASYNC_PAUSE);
    CHECK_INT(ASYNC_start_job(&calls, ctx, &ret, makes_calls, NULL, 0), ASYNC_PAUSE);
    ASYNC_cleanup_thread();
    for (i = 0; i < JOBS; i++)
        CHECK(ASYNC_get_wait_ctx(job[i]) == ctx);
    for (i = 0; i < JOBS / 2; i++)
        finish(&job[i], i);
    /* The rest ends after one more cleanup, and with a new pool in place. */
    ASYNC_cleanup_thread();
    CHECK_INT(ASYNC_init_thread(2, 1), 1);
    check_room_for(2);
    for (; i < JOBS; i++)
        finish(&job[i], i);
    CHECK_INT(ASYNC_start_job(&calls, ctx, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 4);
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

/* libcrypto frees the state it is running on. */
CASE(a_running_job_may_clean_up, OURS,
     "A running job that calls ASYNC_cleanup_thread is still the current one, pauses and ends well")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *paused;
    int me = 6, i, ret = -77;

    CHECK_INT(start(&paused, ctx, 1), ASYNC_PAUSE);
    for (i = 0; i < 2; i++) {
        CHECK_INT(ASYNC_start_job(&job, ctx, &ret, cleans_up_inside, &me, sizeof(me)),
                  ASYNC_PAUSE);
        CHECK(ASYNC_get_current_job() == NULL);
        /* One pause of the three is blocked; the count must have outlived the clean-up. */
        CHECK_INT(ASYNC_start_job(&job, ctx, &ret, NULL, NULL, 0), ASYNC_PAUSE);
        CHECK_INT(ret, -77);
        finish(&job, 6);
    }
    finish(&paused, 1);
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
     "ASYNC_cleanup_thread frees the idle jobs and no others: jobs that end later are freed later")
{
    ASYNC_JOB *job[2], *cleaner = NULL;
    int i, ret;

    CHECK_INT(ASYNC_init_thread(10, 6), 1);
    ASYNC_cleanup_thread();
    CHECK_INT(stacks_in_use(), 0);

    CHECK_INT(ASYNC_init_thread(10, 6), 1);
    for (i = 0; i < 2; i++)
        CHECK_INT(start(&job[i], NULL, i), ASYNC_PAUSE);
    ASYNC_cleanup_thread();
    CHECK_INT(stacks_in_use(), 2);
    finish(&job[0], 0);
    ASYNC_cleanup_thread();
    CHECK_INT(stacks_in_use(), 1);

    /* The same from inside a job: it, and the paused one, are not idle. */
    CHECK_INT(ASYNC_init_thread(10, 6), 1);
    CHECK_INT(ASYNC_start_job(&cleaner, NULL, &ret, cleans_up_and_pauses, NULL, 0), ASYNC_PAUSE);
    finish(&job[1], 1);
    CHECK_INT(ASYNC_start_job(&cleaner, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    ASYNC_cleanup_thread();
    CHECK_INT(stacks_in_use(), 0);
}

static void *has_six_idle_jobs(void *arg)
{
    CHECK(arg == NULL);
    CHECK_INT(ASYNC_init_thread(6, 6), 1);
    check_room_for(6);
    CHECK_INT(stacks_in_use(), 6);
    return NULL;
}

CASE(a_threads_end_cleans_up, OURS,
     "What ASYNC_cleanup_thread frees is freed by itself when a thread ends")
{
    struct rsasync_stats stats;
    pthread_t thread;
    int i;

    for (i = 0; i < 10; i++) {
        CHECK_INT(pthread_create(&thread, NULL, has_six_idle_jobs, NULL), 0);
        CHECK_INT(pthread_join(thread, NULL), 0);
        CHECK_INT(stacks_in_use(), 0);
    }
    RSASYNC_get_stats(&stats, sizeof(stats));
    CHECK_INT(stats.jobs_abandoned, 0);
}
#endif

static int touches_its_stack(void *arg)
{
    unsigned char stack[96 << 10];
    size_t i, sum = 0;

    (void)arg;
    memset(stack, 1, sizeof(stack));
    ASYNC_pause_job();
    for (i = 0; i < sizeof(stack); i++)
        sum += stack[i];
    return (int)sum;
}

/*
 * libcrypto's stacks are too small for this one. On valgrind the memory of the process is
 * valgrind's; the sanitizers keep what they noted of the stacks.
 */
CASE(cleanup_gives_the_stacks_memory_back, OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "The memory that jobs used for their stacks is the system's again after ASYNC_cleanup_thread")
{
    enum { JOBS = 400, STACK = 96 << 10 };
    ASYNC_JOB *job[JOBS] = { NULL };
    size_t before = memory(1);
    int i, ret;

    for (i = 0; i < JOBS; i++)
        CHECK_INT(ASYNC_start_job(&job[i], NULL, &ret, touches_its_stack, NULL, 0), ASYNC_PAUSE);
    CHECK(memory(1) >= before + (size_t)JOBS * STACK);
    for (i = 0; i < JOBS; i++) {
        CHECK_INT(ASYNC_start_job(&job[i], NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
        CHECK_INT(ret, STACK);
    }
    ASYNC_cleanup_thread();
    CHECK(memory(1) < before + 4 * MEGABYTE);
}

/* When memory ends */

static int next_number;

/* As pauses_and_returns_who_it_was, but without args, which could not be copied either. */
static int pauses_and_returns_its_number(void *arg)
{
    int me = next_number++;

    CHECK(arg == NULL);
    ASYNC_pause_job();
    return me;
}

/* Not even a few stacks' worth of memory can be had. */
static int memory_is_out(void)
{
    return mmap(NULL, 4 * MEGABYTE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED;
}

/*
 * Not on valgrind and ThreadSanitizer, here and below: their own memory would come under the
 * limit.
 */
CASE(init_makes_do_with_fewer, UNTIL_3_2 | NOT_ON_VALGRIND | NOT_ON_TSAN,
     "If memory ends while ASYNC_init_thread makes jobs, it succeeds with fewer; the limit stays")
{
    enum { JOBS = 2000 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB **job = calloc(JOBS + 1, sizeof(*job));
    int i;

    limit_memory(24 * MEGABYTE);
    CHECK_INT(ASYNC_init_thread(JOBS, JOBS), 1);
    CHECK(memory_is_out());
#ifndef ON_LIBCRYPTO
    CHECK(stacks_in_use() > 0);
    CHECK(stacks_in_use() < JOBS);
#endif
    CHECK_INT(start(&job[0], ctx, 0), ASYNC_PAUSE);
    finish(&job[0], 0);
    lift_memory_limit();
    for (i = 0; i < JOBS; i++)
        CHECK_INT(start(&job[i], ctx, i), ASYNC_PAUSE);
    CHECK_INT(start(&job[JOBS], ctx, i), ASYNC_NO_JOBS);
    for (i = 0; i < JOBS; i++)
        finish(&job[i], i);
    free(job);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

#ifdef WITH_LIBCRYPTO
/* libcrypto queues an error when it is the job, and not its stack, that memory is short of. */
CASE(running_out_of_memory_for_jobs_queues_nothing,
     OURS | NEEDS_LIBCRYPTO | NOT_ON_VALGRIND | NOT_ON_TSAN,
     "Neither an ASYNC_init_thread that makes fewer jobs nor ASYNC_NO_JOBS queues an error")
{
    enum { JOBS = 10000 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB **job = calloc(JOBS, sizeof(*job));
    int i, made, code, ret;

    /* What a thread needs besides its jobs is there before memory ends. */
    CHECK_INT(start(&job[0], ctx, 0), ASYNC_PAUSE);
    finish(&job[0], 0);
    limit_memory(24 * MEGABYTE);
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
        finish(&job[i], i);
    free(job);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}
#endif

CASE(no_jobs_when_no_stack_can_be_had, UNTIL_3_2 | NOT_ON_VALGRIND | NOT_ON_TSAN,
     "When memory is out a start gives ASYNC_NO_JOBS, and all jobs made before still work")
{
    enum { JOBS = 20000 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB **job = calloc(JOBS, sizeof(*job)), *more = NULL;
    int made, i, code, ret = -77;

    limit_memory(100 * MEGABYTE);
    for (made = 0; made < JOBS; made++) {
        code = ASYNC_start_job(&job[made], ctx, &ret, pauses_and_returns_its_number, NULL, 0);
        if (code != ASYNC_PAUSE)
            break;
    }
    CHECK_INT(code, ASYNC_NO_JOBS);
    CHECK(job[made] == NULL);
    CHECK_INT(next_number, made);
    CHECK(memory_is_out());

    /* Half of them end; the idle jobs they leave can be started, and then no more. */
    for (i = 0; i < made; i += 2) {
        CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, NULL, NULL, 0), ASYNC_FINISH);
        CHECK_INT(ret, i);
    }
    for (i = 0; i < made; i += 2) {
        next_number = i;
        CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, pauses_and_returns_its_number, NULL, 0),
                  ASYNC_PAUSE);
    }
    for (i = 0; i < 10; i++)
        CHECK_INT(ASYNC_start_job(&more, ctx, &ret, pauses_and_returns_its_number, NULL, 0),
                  ASYNC_NO_JOBS);

    /* Memory comes back, and with it new jobs. */
    lift_memory_limit();
    CHECK_INT(ASYNC_start_job(&more, ctx, &ret, pauses_and_returns_its_number, NULL, 0),
              ASYNC_PAUSE);
    CHECK_INT(ASYNC_start_job(&more, ctx, &ret, NULL, NULL, 0), ASYNC_FINISH);
    for (i = made - 1; i >= 0; i--) {
        CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, NULL, NULL, 0), ASYNC_FINISH);
        CHECK_INT(ret, i);
    }
    free(job);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}
