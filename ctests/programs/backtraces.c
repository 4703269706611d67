/*
 * backtraces.c: jobs that come to the breakpoints of a debugger, which are at stop_here and
 * ASYNC_block_pause. The debugger prints a backtrace at each.
 */
#include "jobs.h"

#define NOINLINE __attribute__((noinline))

static volatile int stops;

NOINLINE static void stop_here(void)
{
    stops++;
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
    CHECK_INT(resume(&job, &ret), ASYNC_FINISH);
    return ret;
}

CASE(backtraces, OURS,
     "a job comes to the breakpoints after its start and after a resume, outside and inside of "
     "another job")
{
    ASYNC_JOB *job = NULL;
    int ret = 0, value = 5;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, job_func, &value, sizeof value), ASYNC_PAUSE);
    finish(job, 7);
    job = NULL;
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, outer_func, &value, sizeof value), ASYNC_FINISH);
    CHECK_INT(ret, 7);
    CHECK_INT(stops, 4);
}
