/* jobs.h: how most cases start, resume and finish jobs, and run code on a new thread. */
#ifndef JOBS_H
#define JOBS_H

#include "check.h"
#include <pthread.h>
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

/* Resumes a paused job, and expects that it pauses again. */
__attribute__((unused)) static void resume_to_pause(ASYNC_JOB *job)
{
    ASYNC_JOB *handle = job;
    int ret = -77;

    CHECK_INT(resume(&handle, &ret), ASYNC_PAUSE);
    CHECK(handle == job);
    CHECK_INT(ret, -77);
}

/* Resumes a job that ends without another pause, and expects `want` as its result. */
__attribute__((unused)) static void finish(ASYNC_JOB *job, int want)
{
    int ret = want + 1;

    CHECK_INT(resume(&job, &ret), ASYNC_FINISH);
    CHECK_INT(ret, want);
    CHECK(job == NULL);
}

/* Finishes such a job, and frees its wait context. */
__attribute__((unused)) static void finish_and_free(ASYNC_JOB *job, int want)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(job);

    finish(job, want);
    ASYNC_WAIT_CTX_free(ctx);
}

struct pausing_job {
    int pauses, result;
};

__attribute__((unused)) static int run_pausing_job(void *arg)
{
    const struct pausing_job *args = (const struct pausing_job *)arg;
    ASYNC_JOB *me = ASYNC_get_current_job();
    /* Volatile keeps the count on the job's stack: a stack that is not preserved miscounts. */
    volatile int left;

    for (left = args->pauses; left > 0; left--) {
        CHECK_INT(ASYNC_pause_job(), 1);
        CHECK(ASYNC_get_current_job() == me);
    }
    return args->result;
}

/* Starts a job that pauses this often, and then returns `result`. */
__attribute__((unused)) static int start_pausing_job(ASYNC_JOB **job, ASYNC_WAIT_CTX *ctx, int *ret,
                                                     int pauses, int result)
{
    struct pausing_job args = { pauses, result };

    return ASYNC_start_job(job, ctx, ret, run_pausing_job, &args, sizeof(args));
}

/* Such a job at its first pause. */
__attribute__((unused))
static ASYNC_JOB *paused_job(ASYNC_WAIT_CTX *ctx, int pauses, int result)
{
    ASYNC_JOB *job = NULL;
    int ret = -77;

    CHECK_INT(start_pausing_job(&job, ctx, &ret, pauses, result), ASYNC_PAUSE);
    CHECK(job != NULL);
    CHECK_INT(ret, -77);
    return job;
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

/* The function of a job that the library has to refuse to start. */
__attribute__((unused)) static int must_not_run(void *arg)
{
    (void)arg;
    CHECK(!"this job was not to run");
    return 0;
}

/* Resuming the job is ASYNC_ERR with an error queued; the caller's variables are untouched. */
__attribute__((unused)) static void check_resume_is_refused(ASYNC_JOB *job)
{
    ASYNC_JOB *handle = job, *current = ASYNC_get_current_job();
    int ret = -77;

    CHECK_INT(ASYNC_start_job(&handle, NULL, &ret, must_not_run, NULL, 0), ASYNC_ERR);
    CHECK(handle == job);
    CHECK_INT(ret, -77);
    CHECK(error_was_queued());
    CHECK(ASYNC_get_current_job() == current);
}

/* This many entries of the context are marked added, and deleted. */
__attribute__((unused))
static void check_marks(ASYNC_WAIT_CTX *ctx, size_t added, size_t deleted)
{
    size_t nadd = 99, ndel = 99;

    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, NULL, &nadd, NULL, &ndel), 1);
    CHECK_INT(nadd, added);
    CHECK_INT(ndel, deleted);
}

/* Calls func(arg) on a new thread, and waits until that thread has ended. */
__attribute__((unused)) static void on_new_thread(void *(*func)(void *), void *arg)
{
    pthread_t thread;

    CHECK_INT(pthread_create(&thread, NULL, func, arg), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
}
#endif
