/*
 * static_jobs.c: in a program with a static libcrypto the jobs are the library's; errors reach the
 * queue of that libcrypto, and a job keeps its default context.
 */
#include "require.h"
#include <openssl/async.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <rsasync.h>

#if OPENSSL_VERSION_NUMBER < 0x30000000L
static int func(void *args)
{
    (void)args;
    return ASYNC_pause_job();
}
#else
static OSSL_LIB_CTX *of_the_job;

static int func(void *args)
{
    OSSL_LIB_CTX *before = OSSL_LIB_CTX_set0_default(of_the_job);

    (void)args;
    ASYNC_pause_job();
    return OSSL_LIB_CTX_set0_default(before) == of_the_job;
}
#endif

int main(void)
{
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
    OSSL_LIB_CTX *of_the_thread = OSSL_LIB_CTX_get0_global_default();
#endif
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = 0;

    REQUIRE(ASYNC_init_thread(1, 2) == 0);
    REQUIRE(ERR_GET_LIB(ERR_peek_error()) == ERR_LIB_ASYNC);
    REQUIRE(ERR_GET_REASON(ERR_get_error()) == ASYNC_R_INVALID_POOL_SIZE);
    REQUIRE(*RSASYNC_last_error() != '\0');

#if OPENSSL_VERSION_NUMBER >= 0x30000000L
    of_the_job = OSSL_LIB_CTX_new();
#endif
    REQUIRE(ASYNC_start_job(&job, ctx, &ret, func, NULL, 0) == ASYNC_PAUSE);
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
    REQUIRE(OSSL_LIB_CTX_set0_default(NULL) == of_the_thread);
#endif
    REQUIRE(ASYNC_start_job(&job, ctx, &ret, func, NULL, 0) == ASYNC_FINISH);
    REQUIRE(ret == 1);
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
    REQUIRE(OSSL_LIB_CTX_set0_default(NULL) == of_the_thread);
    OSSL_LIB_CTX_free(of_the_job);
#endif
    REQUIRE(ERR_peek_error() == 0);
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
