/* crowd.c: many jobs, with jobs of their own, switched to and from in all directions. */
#include "check.h"
#include <pthread.h>

enum { JOBS = 100, ROUNDS = 3 };

static int pauses(void *arg)
{
    for (int i = 0; i < ROUNDS; i++)
        CHECK_INT(ASYNC_pause_job(), 1);
    return *(int *)arg;
}

/* Pauses between the pauses of a job that it has started. */
static int starts_one(void *arg)
{
    ASYNC_JOB *job = NULL;
    int ret = -1;

    for (;;) {
        int code = ASYNC_start_job(&job, NULL, &ret, pauses, arg, sizeof(int));

        if (code == ASYNC_FINISH)
            return ret;
        CHECK_INT(code, ASYNC_PAUSE);
        CHECK_INT(ASYNC_pause_job(), 1);
    }
}

static void *crowd(void *arg)
{
    ASYNC_JOB *job[JOBS];
    int ret;

    for (int again = 0; again < 2; again++) {
        for (int i = 0; i < JOBS; i++)
            job[i] = NULL;
        for (int round = 0; round <= ROUNDS; round++)
            for (int i = 0; i < JOBS; i++)
                CHECK_INT(ASYNC_start_job(&job[i], NULL, &ret, starts_one, &i, sizeof i),
                          round < ROUNDS ? ASYNC_PAUSE : ASYNC_FINISH);
        ASYNC_cleanup_thread();
    }
    return arg;
}

static void two_crowds(void)
{
    pthread_t thread;

    CHECK_INT(pthread_create(&thread, NULL, crowd, NULL), 0);
    crowd(NULL);
    CHECK_INT(pthread_join(thread, NULL), 0);
}

CASE(guarded_stacks, OURS, "two threads have a crowd of jobs, and another on new stacks")
{
    two_crowds();
}

/* As malloc gives so much from mappings, these are far from each other. */
static void *far_away(size_t *size)
{
    *size = 4 << 20;
    return malloc(*size);
}

CASE(stacks_of_the_programs_own, OURS, "the same on stacks that the program allocates")
{
    CHECK_INT(ASYNC_set_mem_functions(far_away, free), 1);
    two_crowds();
}
