/* crowd.c: many jobs, each with a nested job, switched to and from in all directions. */
#include "jobs.h"

enum { JOBS = 100, ROUNDS = 3 };

static int inner_job(void *arg)
{
    for (int i = 0; i < ROUNDS; i++)
        CHECK_INT(ASYNC_pause_job(), 1);
    return *(int *)arg;
}

/* Starts a job, and pauses whenever that one has paused. */
static int outer_job(void *arg)
{
    ASYNC_JOB *job = NULL;
    int ret = -1;

    for (;;) {
        int code = ASYNC_start_job(&job, NULL, &ret, inner_job, arg, sizeof(int));

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

    for (int crowds = 0; crowds < 2; crowds++) {
        for (int i = 0; i < JOBS; i++)
            job[i] = NULL;
        for (int round = 0; round <= ROUNDS; round++)
            for (int i = 0; i < JOBS; i++)
                CHECK_INT(ASYNC_start_job(&job[i], NULL, &ret, outer_job, &i, sizeof i),
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

CASE(guarded_stacks, OURS,
     "two threads each have a crowd of jobs, free their stacks, and have another crowd")
{
    two_crowds();
}

/* Stacks of 4 MiB: malloc maps each by itself, so they are far from each other. */
static void *alloc_far_away(size_t *size)
{
    *size = 4 << 20;
    return malloc(*size);
}

CASE(stacks_of_the_programs_own, OURS, "the same on stacks from the program's own alloc")
{
    CHECK_INT(ASYNC_set_mem_functions(alloc_far_away, free), 1);
    two_crowds();
}
