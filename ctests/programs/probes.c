/* probes.c: jobs that pass all probes, for tracers. */
#include "jobs.h"
#include <unistd.h>

/* What a debugger prints at a probe with a handle, a wait context and a function. */
static void expect_probe(const char *name, ASYNC_JOB *job, ASYNC_WAIT_CTX *ctx, int (*func)(void *))
{
    printf("wanted: %s %#lx %#lx %#lx\n", name, (unsigned long)job, (unsigned long)ctx,
           (unsigned long)func);
}

static int pause_once(void *arg)
{
    (void)arg;
    CHECK_INT(ASYNC_pause_job(), 1);
    return 0;
}

CASE(events, OURS, "each probe is passed, with what the program knows itself")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *second = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, pause_once, NULL, 0), ASYNC_PAUSE);
    expect_probe("start", job, ctx, pause_once);
    expect_probe("pause", job, ctx, pause_once);
    CHECK_INT(ASYNC_start_job(&second, NULL, &ret, pause_once, NULL, 0), ASYNC_NO_JOBS);
    printf("wanted: refuse ASYNC_start_job %s\n", RSASYNC_last_error());
    CHECK_INT(ASYNC_start_job(NULL, NULL, &ret, pause_once, NULL, 0), ASYNC_ERR);
    printf("wanted: refuse ASYNC_start_job %s\n", RSASYNC_last_error());
    expect_probe("resume", job, ctx, pause_once);
    expect_probe("finish", job, ctx, pause_once);
    finish(job, 0);
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(many_pauses, OURS, "a job pauses for 10 ms, again and again, until the process is ended")
{
    ASYNC_JOB *job = paused_job(NULL, 6000, 0);

    printf("job: %ld %lu\n", (long)getpid(), (unsigned long)job);
    fflush(stdout);
    for (;;) {
        usleep(10 * 1000);
        resume_to_pause(job);
    }
}
