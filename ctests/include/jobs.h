/* jobs.h: how most cases start, resume and finish a job. */
#ifndef JOBS_H
#define JOBS_H

#include "check.h"
#ifdef WITH_LIBCRYPTO
# include <openssl/err.h>
#endif

/* Starts a job (or resumes *job) whose function gets a copy of the pointer p; see ARG. */
__attribute__((unused))
static int start(ASYNC_JOB **job, ASYNC_WAIT_CTX *ctx, int *ret, int (*func)(void *), void *p)
{
    return ASYNC_start_job(job, ctx, ret, func, &p, sizeof(p));
}

/* In a function that start() started: the pointer given there. */
#define ARG(type, arg) (*(type **)(arg))

/* Resumes a paused job once; returns what ASYNC_start_job() does. */
__attribute__((unused)) static int resume(ASYNC_JOB **job, int *ret)
{
    return ASYNC_start_job(job, NULL, ret, NULL, NULL, 0);
}

/* Resumes a job that ends without another pause, and expects `want` as its result. */
__attribute__((unused)) static void finish(ASYNC_JOB *job, int want)
{
    int ret = want + 1;

    CHECK_INT(resume(&job, &ret), ASYNC_FINISH);
    CHECK_INT(ret, want);
    CHECK(job == NULL);
}

/*
 * Whether an error of library ASYNC is on the queue, which is emptied. Without libcrypto: whether
 * this thread has had a message.
 */
__attribute__((unused)) static int error_was_queued(void)
{
    int found = 0;
#ifdef WITH_LIBCRYPTO
    unsigned long error;

    while ((error = ERR_get_error()) != 0)
        found |= ERR_GET_LIB(error) == ERR_LIB_ASYNC;
#else
    found = RSASYNC_last_error()[0] != '\0';
#endif
    return found;
}
#endif
