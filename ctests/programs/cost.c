/*
 * cost.c: what calls cost in instructions, and what paused jobs cost in memory.
 *
 * A case makes the same call TIMES times (an environment variable). The instructions of two runs
 * are counted; their difference is the cost of the calls that the second run makes more.
 */
#include "jobs.h"
#include "process.h"
#include <dlfcn.h>

/* Loads the libraries that LOADED (an environment variable) names, separated by colons. */
__attribute__((constructor)) static void load(void)
{
    char *names = getenv("LOADED");

    for (char *name = names != NULL ? strtok(names, ":") : NULL; name != NULL;
         name = strtok(NULL, ":"))
        CHECK(dlopen(name, RTLD_NOW | RTLD_LOCAL) != NULL);
}

static ASYNC_WAIT_CTX *ctx;
static char args[4096];
/* Whether the paused jobs finish when they are resumed. */
static int ends;

static int nothing(void *unused)
{
    (void)unused;
    return 1;
}

static int pausing(void *unused)
{
    (void)unused;
    while (!ends)
        ASYNC_pause_job();
    return 1;
}

static void start_and_finish(size_t size)
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, nothing, args, size), ASYNC_FINISH);
}

static void start_without_args(void)
{
    start_and_finish(0);
}

static void start_64(void)
{
    start_and_finish(64);
}

static void start_4096(void)
{
    start_and_finish(4096);
}

static ASYNC_JOB *paused;

/* Resumes the job, which pauses again unless it ends; the first call starts it. */
static void switch_to_job(void)
{
    int ret, last = ends;

    CHECK_INT(ASYNC_start_job(&paused, ctx, &ret, pausing, NULL, 0),
              last ? ASYNC_FINISH : ASYNC_PAUSE);
}

static void get_current(void)
{
    CHECK(ASYNC_get_current_job() == NULL);
}

static void pause_outside(void)
{
    CHECK_INT(ASYNC_pause_job(), 1);
}

static void wait_ctx_life(void)
{
    ASYNC_WAIT_CTX *own = ASYNC_WAIT_CTX_new();
    OSSL_ASYNC_FD fd;
    void *data;

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(own, args, 3, NULL, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_fd(own, args, &fd, &data), 1);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(own, args), 1);
    ASYNC_WAIT_CTX_free(own);
}

static void times(void (*once)(void))
{
    for (int i = atoi(getenv("TIMES")); i > 0; i--)
        once();
}

CASE(start_finish, OURS, "a job that does nothing") { times(start_without_args); }
CASE(start_finish_64, OURS, "a job with 64 bytes of arguments") { times(start_64); }
CASE(start_finish_4096, OURS, "a job with 4 KiB of arguments") { times(start_4096); }
CASE(get_current_job, OURS, "ASYNC_get_current_job outside a job") { times(get_current); }
CASE(pause_job_outside, OURS, "ASYNC_pause_job outside a job") { times(pause_outside); }
CASE(wait_context_life, OURS, "a context: new, set, get, clear, free") { times(wait_ctx_life); }
CASE(resume_pause, OURS, "a job that pauses again and again")
{
    times(switch_to_job);
    ends = 1;
    switch_to_job();
}

CASE(memory, OURS, "prints the bytes of resident memory and of page tables for each paused job")
{
    enum { COUNT = 20000 };
    static ASYNC_JOB *jobs[COUNT];
    long memory, tables;
    int ret;

    memset(jobs, 0, sizeof(jobs));
    start_and_finish(0);
    memory = kib("VmRSS:"), tables = kib("VmPTE:");
    for (int i = 0; i < COUNT; i++)
        CHECK_INT(ASYNC_start_job(&jobs[i], NULL, &ret, pausing, NULL, 0), ASYNC_PAUSE);
    printf("%ld\n", (kib("VmRSS:") - memory + kib("VmPTE:") - tables) * 1024 / COUNT);
    ends = 1;
    for (int i = 0; i < COUNT; i++)
        finish(jobs[i], 1);
}
