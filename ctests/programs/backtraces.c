/* backtraces.c: for a debugger with breakpoints at stop_here and ASYNC_block_pause. */
#include "check.h"

#define NOINLINE __attribute__((noinline))

static volatile int times;

NOINLINE static void stop_here(void)
{
    times++;
}

NOINLINE static int middle(int value)
{
    stop_here();
    CHECK_INT(ASYNC_pause_job(), 1);
    stop_here();
    ASYNC_block_pause();
    return value + 1;
}

NOINLINE static int job_func(void *arg)
{
    return middle(*(int *)arg) + 1;
}

NOINLINE static int outer_func(void *arg)
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, job_func, arg, sizeof(int)), ASYNC_PAUSE);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    return ret;
}

CASE(backtraces, OURS, "a job that is fresh, and resumed, outside and inside of another one, comes there")
{
    ASYNC_JOB *job = NULL;
    int ret = 0, value = 5;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, job_func, &value, sizeof value), ASYNC_PAUSE);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 7);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, outer_func, &value, sizeof value), ASYNC_FINISH);
    CHECK_INT(ret, 7);
    CHECK_INT(times, 4);
}
