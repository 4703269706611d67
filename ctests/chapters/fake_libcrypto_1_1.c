/*
 * fake_libcrypto_1_1.c: errors reach a libcrypto 1.1 with the codes of 1.1. The program defines a
 * fake one, which records them.
 */
#include "jobs.h"

#ifndef WITH_LIBCRYPTO
/* The number of errors, and the codes of the last one. */
static int errors, lib, function, reason;

void ERR_put_error(int l, int f, int r, const char *file, int line)
{
    (void)file;
    (void)line;
    lib = l;
    function = f;
    reason = r;
    errors++;
}

int OPENSSL_init_crypto(uint64_t what, const void *settings)
{
    (void)what;
    (void)settings;
    return 1;
}

int OPENSSL_atexit(void (*handler)(void))
{
    (void)handler;
    return 1;
}

static void expect_error(int wanted_function, int wanted_reason)
{
    CHECK_INT(errors, 1);
    CHECK_INT(lib, 51);
    CHECK_INT(function, wanted_function);
    CHECK_INT(reason, wanted_reason);
    errors = 0;
}

static int resumes_itself(void *arg)
{
    ASYNC_JOB *self = ASYNC_get_current_job();
    int ret;

    (void)arg;
    return resume(&self, &ret);
}

CASE(errors_of_1_1_have_its_codes, OURS,
     "under 1.1 an error has the reason and function codes of 1.1")
{
    enum {
        MALLOC_FAILURE = 65,
        SHOULD_NOT_HAVE_BEEN_CALLED = 66,
        NULL_PARAMETER = 67,
        INVALID_POOL_SIZE = 103
    };
    enum { INIT_THREAD = 101, START_JOB = 105, SET_WAIT_FD = 106, NO_FUNCTION = 0 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    expect_error(INIT_THREAD, INVALID_POOL_SIZE);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, NULL, NULL, 0), ASYNC_ERR);
    expect_error(START_JOB, NULL_PARAMETER);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, resumes_itself, &ret, SIZE_MAX), ASYNC_ERR);
    expect_error(START_JOB, MALLOC_FAILURE);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, resumes_itself, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, ASYNC_ERR);
    expect_error(START_JOB, SHOULD_NOT_HAVE_BEEN_CALLED);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(NULL, ctx, 1, NULL, NULL), 0);
    expect_error(SET_WAIT_FD, NULL_PARAMETER);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(NULL, ctx), 0);
    expect_error(NO_FUNCTION, NULL_PARAMETER);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}
#endif
