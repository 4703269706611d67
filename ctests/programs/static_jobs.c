/* A program with a static libcrypto: our jobs, its error queue and its default context. */
#include <stdio.h>
#include <string.h>
#include <openssl/async.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <rsasync.h>

#define REQUIRE(cond) \
    do { \
        if (!(cond)) { \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #cond); \
            return 1; \
        } \
    } while (0)

static OSSL_LIB_CTX *of_the_job;

static int func(void *args)
{
    OSSL_LIB_CTX *before = OSSL_LIB_CTX_set0_default(of_the_job);

    (void)args;
    ASYNC_pause_job();
    return OSSL_LIB_CTX_set0_default(before) == of_the_job;
}

int main(void)
{
    OSSL_LIB_CTX *of_the_thread = OSSL_LIB_CTX_get0_global_default();
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = 0;

    REQUIRE(ASYNC_init_thread(1, 2) == 0);
    REQUIRE(ERR_GET_LIB(ERR_peek_error()) == ERR_LIB_ASYNC);
    REQUIRE(ERR_GET_REASON(ERR_get_error()) == ASYNC_R_INVALID_POOL_SIZE);
    REQUIRE(*RSASYNC_last_error() != '\0');

    of_the_job = OSSL_LIB_CTX_new();
    REQUIRE(ASYNC_start_job(&job, ctx, &ret, func, NULL, 0) == ASYNC_PAUSE);
    REQUIRE(OSSL_LIB_CTX_set0_default(NULL) == of_the_thread);
    REQUIRE(ASYNC_start_job(&job, ctx, &ret, func, NULL, 0) == ASYNC_FINISH);
    REQUIRE(ret == 1);
    REQUIRE(OSSL_LIB_CTX_set0_default(NULL) == of_the_thread);
    REQUIRE(ERR_peek_error() == 0);

    OSSL_LIB_CTX_free(of_the_job);
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
