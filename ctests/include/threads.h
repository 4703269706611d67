/* threads.h: jobs that show whether their stacks are preserved, and semaphores. */
#ifndef THREADS_H
#define THREADS_H

#include "jobs.h"
#include <semaphore.h>

/* sem_wait without the interruptions by signals. */
__attribute__((unused)) static void wait_for(sem_t *semaphore)
{
    while (sem_wait(semaphore) != 0)
        CHECK_INT(errno, EINTR);
}

/* Fills 4 KiB of its stack, pauses, and finds them unchanged. */
__attribute__((unused)) static int stack_filling_job(void *arg)
{
    volatile unsigned char filled[4096];
    int n = *(int *)arg;

    memset((void *)filled, n, sizeof(filled));
    CHECK_INT(ASYNC_pause_job(), 1);
    for (size_t i = 0; i < sizeof(filled); i++)
        CHECK_INT(filled[i], (unsigned char)n);
    return n;
}

/* Such a job at its pause. It returns n. */
__attribute__((unused)) static ASYNC_JOB *start_paused(ASYNC_WAIT_CTX *ctx, int n)
{
    ASYNC_JOB *job = NULL;
    int ret = -1;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, stack_filling_job, &n, sizeof(n)), ASYNC_PAUSE);
    CHECK(job != NULL);
    return job;
}

__attribute__((unused)) static void run_a_job(ASYNC_WAIT_CTX *ctx, int n)
{
    finish(start_paused(ctx, n), n);
}
#endif
