/* every_call.h: each function of openssl/async.h called once, with its result checked. */
#ifndef EVERY_CALL_H
#define EVERY_CALL_H

#include "jobs.h"

/* A callback. */
static int succeeds(void *arg)
{
    (void)arg;
    return 1;
}

/* Pauses once, as one of its two pauses is blocked, and returns 4. */
static int blocks_and_pauses(void *arg)
{
    CHECK(arg == NULL);
    CHECK(ASYNC_get_current_job() != NULL);
    ASYNC_block_pause();
    CHECK_INT(ASYNC_pause_job(), 1);
    ASYNC_unblock_pause();
    CHECK_INT(ASYNC_pause_job(), 1);
    return 4;
}

/*
 * Makes the calls outside a job. None is refused, so that none queues an error; the last one is
 * ASYNC_cleanup_thread(). ASYNC_set_mem_functions() is left out: it succeeds only at first.
 */
__attribute__((unused)) static void make_every_call(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *second = NULL;
    ASYNC_callback_fn callback = NULL;
    OSSL_ASYNC_FD fd = -1, list[2];
    size_t count = 99, deleted = 99;
    int key, round, ret = 0;
    void *data = NULL;

    CHECK(ctx != NULL);
    CHECK_INT(ASYNC_is_capable(), 1);
    CHECK(ASYNC_get_current_job() == NULL);
    CHECK_INT(ASYNC_pause_job(), 1);
    ASYNC_block_pause();
    ASYNC_unblock_pause();
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key, 7, &ret, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, &key, &fd, &data), 1);
    CHECK(fd == 7 && data == &ret);
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(ctx, list, &count), 1);
    CHECK(count == 1 && list[0] == 7);
    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, NULL, &count, NULL, &deleted), 1);
    CHECK(count == 1 && deleted == 0);
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, succeeds, &key), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_callback(ctx, &callback, &data), 1);
    CHECK(callback == succeeds && data == &key);
    CHECK_INT(ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_EAGAIN), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(ctx), ASYNC_STATUS_EAGAIN);
    /* The first job is made without a limit; the second reaches the limit of one. */
    for (round = 0; round < 2; round++) {
        if (round == 1)
            CHECK_INT(ASYNC_init_thread(1, 1), 1);
        CHECK_INT(ASYNC_start_job(&job, ctx, &ret, blocks_and_pauses, NULL, 0), ASYNC_PAUSE);
        CHECK(ASYNC_get_wait_ctx(job) == ctx);
        if (round == 0)
            CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key), 1);
        else
            CHECK_INT(start_pausing_job(&second, ctx, &ret, 0, 5), ASYNC_NO_JOBS);
        CHECK_INT(resume(&job, &ret), ASYNC_FINISH);
        CHECK_INT(ret, 4);
        CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, NULL, &count, NULL, &deleted), 1);
        CHECK_INT(count + deleted, 0);
    }
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(ctx, NULL, &count), 1);
    CHECK_INT(count, 0);
    ASYNC_WAIT_CTX_free(ctx);
#ifndef ON_LIBCRYPTO
    {
        ASYNC_stack_alloc_fn stack_alloc = NULL;
        ASYNC_stack_free_fn stack_free = NULL;
        struct rsasync_stats stats;

        ASYNC_get_mem_functions(&stack_alloc, &stack_free);
        CHECK(stack_alloc != NULL && stack_free != NULL);
        RSASYNC_get_stats(&stats, sizeof(stats));
        CHECK(stats.stacks_in_use >= stats.stacks_unguarded);
        CHECK(RSASYNC_last_error() != NULL);
    }
#endif
    ASYNC_cleanup_thread();
}
#endif
