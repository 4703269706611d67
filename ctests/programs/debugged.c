/*
 * debugged.c: jobs in all states, for a debugger that stops in stop_here: paused, orphaned, of
 * another thread, of a thread that has exited, waiting for a job that it started, running.
 */
#include "jobs.h"
#include "seccomp.h"
#include <semaphore.h>

#define NOINLINE __attribute__((noinline, noclone))

static int traps;

NOINLINE void stop_here(void)
{
    if (traps)
        __builtin_trap();
    __asm__ volatile("");
}

/* Calls itself this often, then pauses. */
NOINLINE static int pause_below(int calls)
{
    volatile int left = calls;

    if (left > 0)
        return pause_below(left - 1) + left;
    CHECK_INT(ASYNC_pause_job(), 1);
    return left;
}

NOINLINE static int paused_func(void *arg)
{
    return pause_below(*(int *)arg) + 1;
}

static ASYNC_JOB *job_paused_below(int calls, ASYNC_WAIT_CTX *ctx)
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, paused_func, &calls, sizeof calls), ASYNC_PAUSE);
    return job;
}

NOINLINE static int inner_func(void *arg)
{
    (void)arg;
    stop_here();
    return 1;
}

NOINLINE static int outer_func(void *arg)
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    (void)arg;
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, inner_func, NULL, 0), ASYNC_FINISH);
    return ret + 1;
}

static sem_t has_paused, may_end;

static void *run_other_thread(void *arg)
{
    ASYNC_JOB *job = job_paused_below(0, NULL);

    (void)arg;
    sem_post(&has_paused);
    sem_wait(&may_end);
    finish(job, 1);
    return NULL;
}

static void *run_thread_that_exits(void *arg)
{
    (void)arg;
    job_paused_below(0, NULL);
    return NULL;
}

static void jobs_in_all_states(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *freed = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *paused, *orphan, *job = NULL;
    pthread_t thread;
    int ret = 0;

    paused = job_paused_below(2, ctx);
    orphan = job_paused_below(0, freed);
    ASYNC_WAIT_CTX_free(freed);
    sem_init(&has_paused, 0, 0);
    sem_init(&may_end, 0, 0);
    CHECK_INT(pthread_create(&thread, NULL, run_other_thread, NULL), 0);
    sem_wait(&has_paused);
    on_new_thread(run_thread_that_exits, NULL);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, outer_func, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 2);
    stop_here();
    sem_post(&may_end);
    CHECK_INT(pthread_join(thread, NULL), 0);
    finish(orphan, 1);
    finish_and_free(paused, 4);
}

CASE(jobs, OURS, "a debugger finds jobs in all states")
{
    jobs_in_all_states();
}

CASE(jobs_and_a_trap, OURS, "the process ends where the debugger would stop")
{
    traps = 1;
    jobs_in_all_states();
}

/* gcore of gdb 13 leaves out a mapping that has guard markers. */
CASE(jobs_above_protected_guards, OURS, "the same without guard markers")
{
    enum { GUARD_INSTALL = 102 };

    answer_advice(GUARD_INSTALL, 22 /* EINVAL */);
    jobs_in_all_states();
}

static void *give_stack(size_t *bytes)
{
    return malloc(*bytes);
}

CASE(jobs_on_stacks_of_the_programs, OURS, "the same on stacks from the program's own functions")
{
    CHECK_INT(ASYNC_set_mem_functions(give_stack, free), 1);
    jobs_in_all_states();
}
