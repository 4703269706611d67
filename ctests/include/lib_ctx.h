/* lib_ctx.h: default library contexts, in a libcrypto that is linked or that the case loads. */
#ifndef LIB_CTX_H
#define LIB_CTX_H

#include "jobs.h"

/*
 * LIBCRYPTO and LIBCRYPTO_MAJOR are macros of the runner: the file name and the version of the
 * libcrypto to load. OpenSSL 1.1 has no library contexts.
 */
#if LIBCRYPTO_MAJOR >= 3
#ifdef WITH_LIBCRYPTO
# include <openssl/crypto.h>

__attribute__((unused)) static void load_libcrypto(void)
{
}
#else
/*
 * Without a linked libcrypto the cases load one by dlopen with local scope: no other object of the
 * process sees its symbols. These pointers have the names of OpenSSL's functions.
 */
# include <dlfcn.h>
# include <link.h>

typedef struct ossl_lib_ctx_st OSSL_LIB_CTX;
static OSSL_LIB_CTX *(*OSSL_LIB_CTX_new)(void);
static void (*OSSL_LIB_CTX_free)(OSSL_LIB_CTX *ctx);
static OSSL_LIB_CTX *(*OSSL_LIB_CTX_set0_default)(OSSL_LIB_CTX *ctx);
static OSSL_LIB_CTX *(*OSSL_LIB_CTX_get0_global_default)(void);
static unsigned long (*ERR_get_error)(void);
static void *libcrypto;

static void *symbol(const char *name)
{
    void *address = dlsym(libcrypto, name);

    CHECK(address != NULL);
    return address;
}

__attribute__((unused)) static void load_libcrypto(void)
{
    libcrypto = dlopen(LIBCRYPTO, RTLD_NOW | RTLD_LOCAL);
    CHECK(libcrypto != NULL);
    CHECK(dlsym(RTLD_DEFAULT, "OSSL_LIB_CTX_new") == NULL);
    OSSL_LIB_CTX_new = (OSSL_LIB_CTX *(*)(void))symbol("OSSL_LIB_CTX_new");
    OSSL_LIB_CTX_free = (void (*)(OSSL_LIB_CTX *))symbol("OSSL_LIB_CTX_free");
    OSSL_LIB_CTX_set0_default =
        (OSSL_LIB_CTX *(*)(OSSL_LIB_CTX *))symbol("OSSL_LIB_CTX_set0_default");
    OSSL_LIB_CTX_get0_global_default =
        (OSSL_LIB_CTX *(*)(void))symbol("OSSL_LIB_CTX_get0_global_default");
    ERR_get_error = (unsigned long (*)(void))symbol("ERR_get_error");
}
#endif

__attribute__((unused)) static OSSL_LIB_CTX *new_ctx(void)
{
    OSSL_LIB_CTX *ctx = OSSL_LIB_CTX_new();

    CHECK(ctx != NULL);
    return ctx;
}

/* The thread's default context: setting NULL changes nothing, and returns it. */
__attribute__((unused)) static OSSL_LIB_CTX *current(void)
{
    return OSSL_LIB_CTX_set0_default(NULL);
}

__attribute__((unused)) static OSSL_LIB_CTX *global(void)
{
    return OSSL_LIB_CTX_get0_global_default();
}

/* A step of a job: the default that it finds, and the one that it then sets, or NULL. */
struct step {
    OSSL_LIB_CTX *finds, *sets;
};

struct steps {
    const struct step *step;
    int count;
};

/* A job function: takes the steps, with a pause between each two. */
__attribute__((unused)) static int take_steps(void *arg)
{
    struct steps *steps = arg;
    int i;

    for (i = 0; i < steps->count; i++) {
        if (i > 0)
            CHECK_INT(ASYNC_pause_job(), 1);
        CHECK(current() == steps->step[i].finds);
        if (steps->step[i].sets != NULL)
            CHECK(OSSL_LIB_CTX_set0_default(steps->step[i].sets) == steps->step[i].finds);
    }
    return steps->count;
}

/* Starts or resumes a job with these steps; the caller's default stays the same. */
__attribute__((unused))
static int start_or_resume(ASYNC_JOB **job, ASYNC_WAIT_CTX *wait, const struct step *step,
                           int count)
{
    struct steps steps = { step, count };
    OSSL_LIB_CTX *mine = current();
    int ret = 77;
    int answer = ASYNC_start_job(job, wait, &ret, take_steps, &steps, sizeof steps);

    CHECK(current() == mine);
    if (answer == ASYNC_FINISH)
        CHECK_INT(ret, count);
    return answer;
}

#define STEPS(steps) (steps), (int)(sizeof (steps) / sizeof *(steps))
#endif
#endif
