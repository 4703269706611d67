/*
 * cost.c: does one thing so many times, so that a counter of instructions can tell what it costs
 * by the difference of two runs; or tells what paused jobs cost in memory.
 */
#include "process.h"
#include <dlfcn.h>

/* The libraries that the process has beside rsasync: their names, divided by colons. */
__attribute__((constructor)) static void load(void)
{
    char *names = getenv("LOADED");

    for (char *name = names != NULL ? strtok(names, ":") : NULL; name != NULL; name = strtok(NULL, ":"))
        CHECK(dlopen(name, RTLD_NOW | RTLD_LOCAL) != NULL);
}

static ASYNC_WAIT_CTX *ctx;
static char args[4096];
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

static void start(size_t size)
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, nothing, args, size), ASYNC_FINISH);
}

static void start_without_args(void)
{
    start(0);
}

static void start_64(void)
{
    start(64);
}

static void start_4096(void)
{
    start(4096);
}

static ASYNC_JOB *paused;

static void resume(void)
{
    int ret, last = ends;

    CHECK_INT(ASYNC_start_job(&paused, ctx, &ret, pausing, NULL, 0), last ? ASYNC_FINISH : ASYNC_PAUSE);
}

static void current(void)
{
    CHECK(ASYNC_get_current_job() == NULL);
}

static void pause_outside(void)
{
    CHECK_INT(ASYNC_pause_job(), 1);
}

static void wait_context(void)
{
    ASYNC_WAIT_CTX *life = ASYNC_WAIT_CTX_new();
    OSSL_ASYNC_FD fd;
    void *data;

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(life, args, 3, NULL, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_fd(life, args, &fd, &data), 1);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(life, args), 1);
    ASYNC_WAIT_CTX_free(life);
}

static void times(void (*once)(void))
{
    for (int i = atoi(getenv("TIMES")); i > 0; i--)
        once();
}

CASE(start_finish, OURS, "a job that does nothing") { times(start_without_args); }
CASE(start_finish_64, OURS, "a job with 64 bytes of arguments") { times(start_64); }
CASE(start_finish_4096, OURS, "a job with 4 KiB of arguments") { times(start_4096); }
CASE(get_current_job, OURS, "outside a job") { times(current); }
CASE(pause_job_outside, OURS, "outside a job") { times(pause_outside); }
CASE(wait_context_life, OURS, "new, set, get, clear, free") { times(wait_context); }
CASE(resume_pause, OURS, "a job that pauses again and again")
{
    times(resume);
    ends = 1;
    resume();
}

CASE(memory, OURS, "prints the bytes of memory and of page tables that each paused job has")
{
    enum { COUNT = 20000 };
    static ASYNC_JOB *jobs[COUNT];
    long memory, tables;
    int ret;

    memset(jobs, 0, sizeof(jobs));
    start(0);
    memory = kib("VmRSS:"), tables = kib("VmPTE:");
    for (int i = 0; i < COUNT; i++)
        CHECK_INT(ASYNC_start_job(&jobs[i], NULL, &ret, pausing, NULL, 0), ASYNC_PAUSE);
    printf("%ld\n", (kib("VmRSS:") - memory + kib("VmPTE:") - tables) * 1024 / COUNT);
    ends = 1;
    for (int i = 0; i < COUNT; i++)
        CHECK_INT(ASYNC_start_job(&jobs[i], NULL, &ret, pausing, NULL, 0), ASYNC_FINISH);
}
