/*
 * wrapper.c: a library for LD_PRELOAD that wraps functions of the library behind it, as tracers do.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <openssl/async.h>

int wrapped_calls;

int ASYNC_init_thread(size_t max_size, size_t init_size)
{
    int (*next)(size_t, size_t);

    wrapped_calls++;
    *(void **)&next = dlsym(RTLD_NEXT, "ASYNC_init_thread");
    return wrapped_calls < 100 ? next(max_size, init_size) : -1;
}

int ASYNC_start_job(ASYNC_JOB **job, ASYNC_WAIT_CTX *ctx, int *ret, int (*func)(void *), void *args,
                    size_t size)
{
    int (*next)(ASYNC_JOB **, ASYNC_WAIT_CTX *, int *, int (*)(void *), void *, size_t);

    *(void **)&next = dlsym(RTLD_NEXT, "ASYNC_start_job");
    return next(job, ctx, ret, func, args, size);
}
