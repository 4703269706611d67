/* fake_libcrypto_1_1.c: what the program has of a libcrypto is 1.1's, and sees which errors it gets. */
#include "check.h"

#ifndef WITH_LIBCRYPTO
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

static void expect(int wanted_function, int wanted_reason)
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
    return ASYNC_start_job(&self, NULL, &ret, NULL, NULL, 0);
}

CASE(errors_of_1_1_have_its_codes, OURS,
     "under 1.1 an error has the codes of 1.1, for the reason and for the function")
{
    enum {
        MALLOC_FAILURE = 65,
        SHOULD_NOT_HAVE_BEEN_CALLED = 66,
        NULL_PARAMETER = 67,
        INVALID_POOL_SIZE = 103
    };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    expect(101, INVALID_POOL_SIZE);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, NULL, NULL, 0), ASYNC_ERR);
    expect(105, NULL_PARAMETER);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, resumes_itself, &ret, SIZE_MAX), ASYNC_ERR);
    expect(105, MALLOC_FAILURE);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, resumes_itself, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, ASYNC_ERR);
    expect(105, SHOULD_NOT_HAVE_BEEN_CALLED);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(NULL, ctx, 1, NULL, NULL), 0);
    expect(106, NULL_PARAMETER);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(NULL, ctx), 0);
    expect(0, NULL_PARAMETER);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}
#endif
