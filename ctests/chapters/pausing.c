/* Pausing and blocking: ASYNC_pause_job, ASYNC_block_pause and ASYNC_unblock_pause. */
#include "check.h"
#include <pthread.h>

/* Starts f, or resumes *job. The job's argument is a copy of the pointer p: see ARG. */
static int start(ASYNC_JOB **job, ASYNC_WAIT_CTX *ctx, int *ret, int (*f)(void *), void *p)
{
    return ASYNC_start_job(job, ctx, ret, f, &p, sizeof(p));
}

#define ARG(type, arg) (*(type **)(arg))

/*
 * Whoever starts or resumes a job writes `resumed` here, and the job `pausing` before it
 * pauses: what it finds after the pause tells one that took place from one that did not.
 */
static enum { resumed, pausing } mark;

static void check_pauses(void)
{
    mark = pausing;
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(mark, resumed);
}

static void check_does_not_pause(void)
{
    mark = pausing;
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(mark, pausing);
}

/* Starts the job f without args, or resumes it, to its next pause. */
static void run_to_pause(ASYNC_JOB **job, ASYNC_WAIT_CTX *ctx, int (*f)(void *))
{
    int ret = -77;

    mark = resumed;
    CHECK_INT(ASYNC_start_job(job, ctx, &ret, f, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(mark, pausing);
    CHECK_INT(ret, -77);
}

/* The same to its end. */
static void run_to_end(ASYNC_JOB **job, ASYNC_WAIT_CTX *ctx, int (*f)(void *))
{
    int ret = -77;

    mark = resumed;
    CHECK_INT(ASYNC_start_job(job, ctx, &ret, f, NULL, 0), ASYNC_FINISH);
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

/* Pausing */

static void *pauses_outside(void *arg)
{
    int i;

    (void)arg;
    for (i = 0; i < 3; i++)
        check_does_not_pause();
    return NULL;
}

CASE(a_pause_outside_a_job_does_nothing, EVERYWHERE,
     "Outside a job ASYNC_pause_job returns 1 at once, whatever the thread did before")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    pthread_t thread;

    pauses_outside(NULL);
    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    pauses_outside(NULL);
    run_to_pause(&job, ctx, pauses_twice);
    pauses_outside(NULL);
    CHECK_INT(pthread_create(&thread, NULL, pauses_outside, NULL), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    run_to_pause(&job, ctx, NULL);
    pauses_outside(NULL);
    run_to_end(&job, ctx, NULL);
    pauses_outside(NULL);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
    pauses_outside(NULL);
}

CASE(a_pause_in_a_job_returns_when_it_is_resumed, EVERYWHERE,
     "In a job ASYNC_pause_job goes back to the starter, and returns 1 when the job is resumed")
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
     "Each of a thousand pauses of a job is one return to its starter")
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

/* Marks */

static void check_changes(ASYNC_WAIT_CTX *ctx, size_t added, size_t deleted)
{
    size_t nadd = 99, ndel = 99;

    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, NULL, &nadd, NULL, &ndel), 1);
    CHECK_INT(nadd, added);
    CHECK_INT(ndel, deleted);
}

static int adds_and_clears_fds(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(ASYNC_get_current_job());
    int key[2];

    CHECK(arg == NULL);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key[0], 10, NULL, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key[1], 11, NULL, NULL), 1);
    check_pauses();
    check_changes(ctx, 0, 0);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key[0]), 1);
    check_pauses();
    check_changes(ctx, 0, 0);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key[1]), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key[0], 12, NULL, NULL), 1);
    return 1;
}

CASE(a_resumed_pause_clears_the_marks, EVERYWHERE,
     "The context's added and deleted marks stand while the job is paused, not after its pause")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *another = NULL;
    size_t left = 99;
    int key;

    run_to_pause(&job, ctx, adds_and_clears_fds);
    check_changes(ctx, 2, 0);
    /* A job of another context comes and goes, with a change of its own. */
    run_to_pause(&another, other, pauses_once);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(other, &key, 13, NULL, NULL), 1);
    run_to_end(&another, other, NULL);
    check_changes(other, 0, 0);
    check_changes(ctx, 2, 0);
    run_to_pause(&job, ctx, NULL);
    check_changes(ctx, 0, 1);
    run_to_end(&job, ctx, NULL);
    /* What a job changes after its last pause is still marked when it has ended. */
    check_changes(ctx, 1, 1);
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
    check_changes(ctx, 1, 0);
    ASYNC_unblock_pause();
    check_changes(ctx, 1, 0);
    check_pauses();
    check_changes(ctx, 0, 0);
    return 1;
}

CASE(a_blocked_pause_leaves_the_marks, EVERYWHERE,
     "An ASYNC_pause_job that returns at once leaves the added and deleted marks alone")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;

    run_to_pause(&job, ctx, adds_an_fd_and_is_blocked);
    check_changes(ctx, 1, 0);
    CHECK_INT(ASYNC_pause_job(), 1);
    check_changes(ctx, 1, 0);
    run_to_end(&job, ctx, NULL);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* Blocking */

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
     "Blocked, ASYNC_pause_job returns 1 at once; n blocks take n unblocks before it pauses again")
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
     "ASYNC_block_pause outside a job blocks neither the next job nor one that is paused")
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
     "ASYNC_unblock_pause outside a job is nothing to a job, and no credit against its next block")
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

/* Several jobs */

/* Blocks n times, and pauses n times after it has unblocked again; twice over. */
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
     "Of several jobs that take turns, each is held up by its own blocks only")
{
    enum { JOBS = 8 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS] = { NULL };
    int times[JOBS] = { 0 }, left = JOBS, i;

    for (i = 0; left > 0; i = (i + 3) % JOBS) {
        int n = i + 1, code, ret = -77;

        if (times[i] == 2 * n + 1)
            continue;
        mark = resumed;
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

/* In libcrypto the count is the thread's, and goes on to the next job. */
CASE(a_block_count_dies_with_its_job, OURS,
     "What a job left blocked does not block the next, be it on the same stack or another")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *second = NULL;

    /* One job in all: the next one is on the same stack. */
    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    run_to_end(&job, ctx, ends_blocked);
    run_to_pause(&job, ctx, pauses_twice);
    run_to_pause(&job, ctx, NULL);
    run_to_end(&job, ctx, NULL);
    /* The count begins at zero again: one unblock undoes one block, not the old ones too. */
    run_to_end(&job, ctx, ends_blocked);
    run_to_pause(&job, ctx, blocks_after_a_pause);
    run_to_pause(&job, ctx, NULL);
    run_to_end(&job, ctx, NULL);
    ASYNC_cleanup_thread();

    /* Of two jobs after it, one is on another stack. */
    run_to_end(&job, ctx, ends_blocked);
    run_to_pause(&job, ctx, pauses_once);
    run_to_pause(&second, ctx, pauses_once);
    run_to_end(&second, ctx, NULL);
    run_to_end(&job, ctx, NULL);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* In libcrypto the paused jobs are blocked from then on. */
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

/* libcrypto gives the running job to its pool when it starts another. */
CASE(a_blocked_job_does_not_block_those_it_drives, OURS,
     "While a job is blocked, those that it starts or resumes can pause; it is blocked as before")
{
    ASYNC_JOB *job[2] = { NULL }, *inner[2] = { NULL };
    int i, k, ret;

    for (k = 0; k < 3; k++) {
        for (i = 0; i < 2; i++) {
            mark = resumed;
            CHECK_INT(start(&job[i], NULL, &ret, is_blocked_around_another, &inner[i]),
                      k < 2 ? ASYNC_PAUSE : ASYNC_FINISH);
        }
    }
    ASYNC_cleanup_thread();
}
