/*
 * pausing.c: ASYNC_pause_job, and ASYNC_block_pause and ASYNC_unblock_pause, which count a job's
 * blocks (src/job/switching.rs).
 */
#include "jobs.h"

/*
 * Whether ASYNC_pause_job really switched: a job writes PAUSING before the call, and the code that
 * starts or resumes a job writes RESUMED. After a blocked pause the job still finds PAUSING.
 */
static enum { RESUMED, PAUSING } last_step;

static void check_pauses(void)
{
    last_step = PAUSING;
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(last_step, RESUMED);
}

/* Outside a job, or while it is blocked, the call returns 1 at once. */
static void check_does_not_pause(void)
{
    last_step = PAUSING;
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(last_step, PAUSING);
}

/* Starts a job of func without args, or resumes *job; expects that it pauses. */
static void run_to_pause(ASYNC_JOB **job, ASYNC_WAIT_CTX *ctx, int (*func)(void *))
{
    int ret = -77;

    last_step = RESUMED;
    CHECK_INT(ASYNC_start_job(job, ctx, &ret, func, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(last_step, PAUSING);
    CHECK_INT(ret, -77);
}

/* The same, but expects that the job ends. */
static void run_to_end(ASYNC_JOB **job, ASYNC_WAIT_CTX *ctx, int (*func)(void *))
{
    int ret = -77;

    last_step = RESUMED;
    CHECK_INT(ASYNC_start_job(job, ctx, &ret, func, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 1);
}

static int pauses_once(void *arg)
{
    CHECK(arg == NULL);
    check_pauses();
    return 1;
}

static int pauses_twice(void *arg)
{
    CHECK(arg == NULL);
    check_pauses();
    check_pauses();
    return 1;
}

/* ---- pausing ---- */

static void *pauses_outside(void *arg)
{
    int i;

    (void)arg;
    for (i = 0; i < 3; i++)
        check_does_not_pause();
    return NULL;
}

CASE(a_pause_outside_a_job_does_nothing, EVERYWHERE,
     "Outside a job ASYNC_pause_job returns 1 at once, whatever jobs the thread has")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;

    pauses_outside(NULL);
    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    pauses_outside(NULL);
    run_to_pause(&job, ctx, pauses_twice);
    pauses_outside(NULL);
    on_new_thread(pauses_outside, NULL);
    run_to_pause(&job, ctx, NULL);
    pauses_outside(NULL);
    run_to_end(&job, ctx, NULL);
    pauses_outside(NULL);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
    pauses_outside(NULL);
}

CASE(a_pause_in_a_job_returns_when_it_is_resumed, EVERYWHERE,
     "In a job ASYNC_pause_job switches to the starter, and returns 1 when the job is resumed")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;

    run_to_pause(&job, ctx, pauses_twice);
    run_to_pause(&job, ctx, NULL);
    run_to_end(&job, ctx, NULL);
    CHECK(job == NULL);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

static int pauses_a_thousand_times(void *arg)
{
    int i;

    CHECK(arg == NULL);
    for (i = 0; i < 1000; i++)
        check_pauses();
    return 1;
}

CASE(a_job_may_pause_any_number_of_times, EVERYWHERE,
     "A job pauses a thousand times, and each pause returns to its starter once")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int i;

    for (i = 0; i < 1000; i++)
        run_to_pause(&job, ctx, pauses_a_thousand_times);
    run_to_end(&job, ctx, NULL);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* ---- the marks of wait contexts ---- */

static int adds_and_clears_fds(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(ASYNC_get_current_job());
    int key[2];

    CHECK(arg == NULL);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key[0], 10, NULL, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key[1], 11, NULL, NULL), 1);
    check_pauses();
    check_marks(ctx, 0, 0);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key[0]), 1);
    check_pauses();
    check_marks(ctx, 0, 0);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key[1]), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key[0], 12, NULL, NULL), 1);
    return 1;
}

CASE(a_resumed_pause_clears_the_marks, EVERYWHERE,
     "A context's added and deleted marks stand while its job is paused, and a resume clears them")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *another = NULL;
    size_t left = 99;
    int key;

    run_to_pause(&job, ctx, adds_and_clears_fds);
    check_marks(ctx, 2, 0);
    /* Meanwhile a job of another context starts, changes that context, and ends. */
    run_to_pause(&another, other, pauses_once);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(other, &key, 13, NULL, NULL), 1);
    run_to_end(&another, other, NULL);
    check_marks(other, 0, 0);
    check_marks(ctx, 2, 0);
    run_to_pause(&job, ctx, NULL);
    check_marks(ctx, 0, 1);
    run_to_end(&job, ctx, NULL);
    /* Changes after the job's last pause are still marked when the job has ended. */
    check_marks(ctx, 1, 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(ctx, NULL, &left), 1);
    CHECK_INT(left, 1);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_WAIT_CTX_free(other);
    ASYNC_cleanup_thread();
}

static int adds_an_fd_and_is_blocked(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(ASYNC_get_current_job());
    int key;

    CHECK(arg == NULL);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key, 10, NULL, NULL), 1);
    ASYNC_block_pause();
    check_does_not_pause();
    check_marks(ctx, 1, 0);
    ASYNC_unblock_pause();
    check_marks(ctx, 1, 0);
    check_pauses();
    check_marks(ctx, 0, 0);
    return 1;
}

CASE(a_blocked_pause_leaves_the_marks, EVERYWHERE,
     "An ASYNC_pause_job that does not switch leaves the added and deleted marks alone")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;

    run_to_pause(&job, ctx, adds_an_fd_and_is_blocked);
    check_marks(ctx, 1, 0);
    CHECK_INT(ASYNC_pause_job(), 1);
    check_marks(ctx, 1, 0);
    run_to_end(&job, ctx, NULL);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* ---- blocking ---- */

static int blocks_and_unblocks(void *arg)
{
    int n, i;

    CHECK(arg == NULL);
    for (n = 1; n <= 5; n++) {
        for (i = 0; i < n; i++) {
            ASYNC_block_pause();
            check_does_not_pause();
        }
        for (i = 0; i < n; i++) {
            check_does_not_pause();
            ASYNC_unblock_pause();
        }
        check_pauses();
        check_pauses();
    }
    return 1;
}

CASE(blocks_are_counted, EVERYWHERE,
     "While blocked, ASYNC_pause_job returns 1 at once; n blocks need n unblocks to end")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int i;

    for (i = 0; i < 10; i++)
        run_to_pause(&job, ctx, blocks_and_unblocks);
    run_to_end(&job, ctx, NULL);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

static int unblocks_below_zero(void *arg)
{
    int i;

    CHECK(arg == NULL);
    for (i = 0; i < 3; i++)
        ASYNC_unblock_pause();
    check_pauses();
    ASYNC_block_pause();
    check_does_not_pause();
    for (i = 0; i < 3; i++)
        ASYNC_unblock_pause();
    check_pauses();
    ASYNC_block_pause();
    check_does_not_pause();
    ASYNC_unblock_pause();
    check_pauses();
    return 1;
}

CASE(an_unblock_below_zero_is_ignored, EVERYWHERE,
     "ASYNC_unblock_pause without a block does nothing: the next ASYNC_block_pause still blocks")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int i;

    for (i = 0; i < 3; i++)
        run_to_pause(&job, ctx, unblocks_below_zero);
    run_to_end(&job, ctx, NULL);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

CASE(a_block_outside_a_job_does_nothing, EVERYWHERE,
     "ASYNC_block_pause outside a job blocks neither the next job nor a paused one")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *next = NULL;

    ASYNC_block_pause();
    ASYNC_block_pause();
    run_to_pause(&job, ctx, pauses_twice);
    ASYNC_block_pause();
    run_to_pause(&job, ctx, NULL);
    run_to_pause(&next, ctx, pauses_once);
    run_to_end(&job, ctx, NULL);
    run_to_end(&next, ctx, NULL);
    check_does_not_pause();
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

static int blocks_after_a_pause(void *arg)
{
    CHECK(arg == NULL);
    check_pauses();
    ASYNC_block_pause();
    check_does_not_pause();
    ASYNC_unblock_pause();
    check_pauses();
    return 1;
}

CASE(an_unblock_outside_a_job_does_nothing, EVERYWHERE,
     "ASYNC_unblock_pause outside a job does not undo a job's block, neither past nor future")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int i;

    for (i = 0; i < 3; i++)
        ASYNC_unblock_pause();
    run_to_pause(&job, ctx, blocks_after_a_pause);
    for (i = 0; i < 3; i++)
        ASYNC_unblock_pause();
    run_to_pause(&job, ctx, NULL);
    run_to_end(&job, ctx, NULL);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* ---- several jobs ---- */

/* Blocks n times, unblocks n times, pauses n times; all this twice. */
static int blocks_n_times(void *arg)
{
    int n = *(int *)arg, twice, i;

    for (twice = 0; twice < 2; twice++) {
        for (i = 0; i < n; i++)
            ASYNC_block_pause();
        for (i = 0; i < n; i++) {
            check_does_not_pause();
            ASYNC_unblock_pause();
        }
        for (i = 0; i < n; i++)
            check_pauses();
    }
    return n;
}

CASE(jobs_that_take_turns_block_and_pause, EVERYWHERE,
     "Of several jobs that take turns, each is blocked by its own blocks only")
{
    enum { JOBS = 8 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS] = { NULL };
    int times[JOBS] = { 0 }, left = JOBS, i;

    for (i = 0; left > 0; i = (i + 3) % JOBS) {
        int n = i + 1, code, ret = -77;

        if (times[i] == 2 * n + 1)
            continue;
        last_step = RESUMED;
        code = ASYNC_start_job(&job[i], ctx, &ret, blocks_n_times, &n, sizeof(n));
        if (++times[i] <= 2 * n) {
            CHECK_INT(code, ASYNC_PAUSE);
        } else {
            CHECK_INT(code, ASYNC_FINISH);
            CHECK_INT(ret, n);
            left--;
        }
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

static int ends_blocked(void *arg)
{
    int i;

    CHECK(arg == NULL);
    for (i = 0; i < 3; i++)
        ASYNC_block_pause();
    check_does_not_pause();
    return 1;
}

/* In libcrypto the count belongs to the thread, so the next job is blocked. */
CASE(a_block_count_dies_with_its_job, OURS,
     "A job that ends blocked does not block the next job, on the same stack or on another")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *second = NULL;

    /* With a limit of one job, the next job has the same stack. */
    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    run_to_end(&job, ctx, ends_blocked);
    run_to_pause(&job, ctx, pauses_twice);
    run_to_pause(&job, ctx, NULL);
    run_to_end(&job, ctx, NULL);
    /* The next job's count begins at zero: one unblock undoes its only block. */
    run_to_end(&job, ctx, ends_blocked);
    run_to_pause(&job, ctx, blocks_after_a_pause);
    run_to_pause(&job, ctx, NULL);
    run_to_end(&job, ctx, NULL);
    ASYNC_cleanup_thread();

    /* Of two more jobs, one has another stack. */
    run_to_end(&job, ctx, ends_blocked);
    run_to_pause(&job, ctx, pauses_once);
    run_to_pause(&second, ctx, pauses_once);
    run_to_end(&second, ctx, NULL);
    run_to_end(&job, ctx, NULL);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* In libcrypto the job that ends blocked blocks the paused jobs too. */
CASE(a_job_that_ends_blocked_blocks_no_other, OURS,
     "Jobs that are paused while another ends blocked can pause again when they are resumed")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[4] = { NULL }, *blocked = NULL;
    int i;

    for (i = 0; i < 4; i++)
        run_to_pause(&job[i], ctx, i < 2 ? pauses_twice : blocks_after_a_pause);
    run_to_end(&blocked, ctx, ends_blocked);
    for (i = 0; i < 4; i++) {
        run_to_pause(&job[i], ctx, NULL);
        run_to_end(&blocked, ctx, ends_blocked);
    }
    for (i = 3; i >= 0; i--)
        run_to_end(&job[i], ctx, NULL);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* Blocks and unblocks itself while it runs the job *arg, which pauses twice. */
static int is_blocked_around_another(void *arg)
{
    ASYNC_JOB **inner = ARG(ASYNC_JOB *, arg);

    ASYNC_block_pause();
    run_to_pause(inner, NULL, pauses_twice);
    check_does_not_pause();
    run_to_pause(inner, NULL, NULL);
    check_does_not_pause();
    ASYNC_unblock_pause();
    check_pauses();
    ASYNC_block_pause();
    run_to_end(inner, NULL, NULL);
    check_does_not_pause();
    ASYNC_unblock_pause();
    check_pauses();
    return 1;
}

/* In libcrypto a start inside a job puts the running job into the pool. */
CASE(a_blocked_job_does_not_block_those_it_drives, OURS,
     "A blocked job stays blocked while the jobs that it starts or resumes can pause")
{
    ASYNC_JOB *job[2] = { NULL }, *inner[2] = { NULL };
    int i, k, ret;

    for (k = 0; k < 3; k++) {
        for (i = 0; i < 2; i++) {
            last_step = RESUMED;
            CHECK_INT(start(&job[i], NULL, &ret, is_blocked_around_another, &inner[i]),
                      k < 2 ? ASYNC_PAUSE : ASYNC_FINISH);
        }
    }
    ASYNC_cleanup_thread();
}
