/*
 * jobs.c: starting, resuming and finishing jobs (src/job/switching.rs), their handles, and refused
 * starts and resumes.
 */
#include "jobs.h"
#include <limits.h>

static int returns_its_argument(void *arg)
{
    return *(int *)arg;
}

CASE(start_runs_the_job_and_gives_its_result, EVERYWHERE,
     "ASYNC_start_job runs a job that does not pause to its end: ASYNC_FINISH, and its result")
{
    static const int results[] = { 0, 1, -1, 2, 3, INT_MAX, INT_MIN };
    size_t i;

    for (i = 0; i < sizeof(results) / sizeof(results[0]); i++) {
        ASYNC_JOB *job = NULL;
        int arg = results[i], ret = ~arg;

        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, returns_its_argument, &arg, sizeof(arg)),
                  ASYNC_FINISH);
        CHECK_INT(ret, results[i]);
        CHECK(job == NULL);
    }
    ASYNC_cleanup_thread();
}

/* Expects its starter to set *steps to 10 and then 20 before it resumes the job. */
static int counts_its_steps(void *arg)
{
    int *steps = ARG(int, arg);

    CHECK_INT(*steps, 0);
    *steps = 1;
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(*steps, 10);
    *steps = 11;
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(*steps, 20);
    *steps = 21;
    return 42;
}

CASE(a_job_goes_on_where_it_paused, EVERYWHERE,
     "A resumed job goes on after its ASYNC_pause_job, and runs no step twice")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int steps = 0, ret = 0;

    CHECK_INT(start(&job, ctx, &ret, counts_its_steps, &steps), ASYNC_PAUSE);
    CHECK_INT(steps, 1);
    steps = 10;
    CHECK_INT(start(&job, ctx, &ret, counts_its_steps, &steps), ASYNC_PAUSE);
    CHECK_INT(steps, 11);
    steps = 20;
    CHECK_INT(start(&job, ctx, &ret, counts_its_steps, &steps), ASYNC_FINISH);
    CHECK_INT(steps, 21);
    CHECK_INT(ret, 42);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

CASE(a_pause_leaves_the_handle_and_no_result, EVERYWHERE,
     "ASYNC_PAUSE stores the job's handle in `job` and leaves `ret` alone; ASYNC_FINISH sets both")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *handle;
    int steps = 0, ret = -77;

    CHECK_INT(start(&job, ctx, &ret, counts_its_steps, &steps), ASYNC_PAUSE);
    CHECK(job != NULL);
    CHECK_INT(ret, -77);
    handle = job;
    steps = 10;
    CHECK_INT(start(&job, ctx, &ret, counts_its_steps, &steps), ASYNC_PAUSE);
    CHECK(job == handle);
    CHECK_INT(ret, -77);
    steps = 20;
    CHECK_INT(start(&job, ctx, &ret, counts_its_steps, &steps), ASYNC_FINISH);
    CHECK(job == NULL);
    CHECK_INT(ret, 42);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

CASE(resume_ignores_all_but_the_handle, EVERYWHERE,
     "A resume ignores the wait context, function, arguments and size of its call")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int steps = 0, ret = 0;

    CHECK_INT(start(&job, ctx, &ret, counts_its_steps, &steps), ASYNC_PAUSE);
    steps = 10;
    CHECK_INT(ASYNC_start_job(&job, other, &ret, must_not_run, "other", 6), ASYNC_PAUSE);
    CHECK(ASYNC_get_wait_ctx(job) == ctx);
    CHECK_INT(steps, 11);
    steps = 20;
    /* If these were used, the size would be refused, and calling NULL would crash. */
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, "other", SIZE_MAX), ASYNC_FINISH);
    CHECK_INT(steps, 21);
    CHECK_INT(ret, 42);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_WAIT_CTX_free(other);
    ASYNC_cleanup_thread();
}

CASE(paused_jobs_are_resumed_in_any_order, EVERYWHERE,
     "Any of several paused jobs can be resumed at any time, and each ends with its own result")
{
    enum { JOBS = 20 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS] = { NULL };
    int left = JOBS, round, i, ret;

    for (i = 0; i < JOBS; i++)
        job[i] = paused_job(ctx, 1 + i % 7, 1000 + i);
    for (round = 1; left > 0; round++) {
        int k;

        for (k = 0; k < JOBS; k++) {
            i = (7 * k + round) % JOBS;
            if (job[i] == NULL)
                continue;
            ret = -77;
            if (round < 1 + i % 7) {
                CHECK_INT(resume(&job[i], &ret), ASYNC_PAUSE);
                CHECK_INT(ret, -77);
            } else {
                CHECK_INT(resume(&job[i], &ret), ASYNC_FINISH);
                CHECK_INT(ret, 1000 + i);
                left--;
            }
        }
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* libcrypto reads through the null context when the job is resumed, and crashes. */
CASE(a_context_can_be_null, OURS,
     "A job without a wait context runs, pauses and is resumed like any other")
{
    ASYNC_JOB *job = paused_job(NULL, 1, 9);

    CHECK(ASYNC_get_wait_ctx(job) == NULL);
    finish(job, 9);
    ASYNC_cleanup_thread();
}

/* ---- handles ---- */

/* Pauses twice. */
static int stores_its_handle(void *arg)
{
    ASYNC_JOB **handle = ARG(ASYNC_JOB *, arg);

    *handle = ASYNC_get_current_job();
    CHECK(*handle != NULL);
    ASYNC_pause_job();
    CHECK(ASYNC_get_current_job() == *handle);
    ASYNC_pause_job();
    CHECK(ASYNC_get_current_job() == *handle);
    return 1;
}

CASE(the_current_job_is_the_running_one, EVERYWHERE,
     "ASYNC_get_current_job gives the running job's handle inside it, and NULL outside any job")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *a = NULL, *b = NULL, *inside_a = NULL, *inside_b = NULL;
    int i, ret;

    CHECK(ASYNC_get_current_job() == NULL);
    CHECK_INT(start(&a, ctx, &ret, stores_its_handle, &inside_a), ASYNC_PAUSE);
    CHECK(ASYNC_get_current_job() == NULL);
    CHECK_INT(start(&b, ctx, &ret, stores_its_handle, &inside_b), ASYNC_PAUSE);
    CHECK(ASYNC_get_current_job() == NULL);
    CHECK(inside_a == a);
    CHECK(inside_b == b);
    CHECK(a != b);
    for (i = 0; i < 2; i++) {
        CHECK_INT(resume(&a, &ret), i == 0 ? ASYNC_PAUSE : ASYNC_FINISH);
        CHECK(ASYNC_get_current_job() == NULL);
        CHECK_INT(resume(&b, &ret), i == 0 ? ASYNC_PAUSE : ASYNC_FINISH);
        CHECK(ASYNC_get_current_job() == NULL);
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* Its argument is the context that it is started with. */
static int finds_its_context(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ARG(ASYNC_WAIT_CTX, arg);

    CHECK(ASYNC_get_wait_ctx(ASYNC_get_current_job()) == ctx);
    ASYNC_pause_job();
    CHECK(ASYNC_get_wait_ctx(ASYNC_get_current_job()) == ctx);
    return 1;
}

CASE(a_job_has_the_context_it_was_started_with, EVERYWHERE,
     "ASYNC_get_wait_ctx gives a job's own context, inside the job and for a paused one")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *a = NULL, *b = NULL;
    int ret;

    CHECK_INT(start(&a, ctx, &ret, finds_its_context, ctx), ASYNC_PAUSE);
    CHECK_INT(start(&b, other, &ret, finds_its_context, other), ASYNC_PAUSE);
    CHECK(ASYNC_get_wait_ctx(a) == ctx);
    CHECK(ASYNC_get_wait_ctx(b) == other);
    CHECK_INT(resume(&a, &ret), ASYNC_FINISH);
    CHECK(ASYNC_get_wait_ctx(b) == other);
    CHECK_INT(resume(&b, &ret), ASYNC_FINISH);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_WAIT_CTX_free(other);
    ASYNC_cleanup_thread();
}

/* libcrypto dereferences the null pointer. */
CASE(no_job_has_no_context, OURS, "ASYNC_get_wait_ctx of NULL is NULL")
{
    CHECK(ASYNC_get_wait_ctx(NULL) == NULL);
    CHECK(ASYNC_get_wait_ctx(ASYNC_get_current_job()) == NULL);
}

CASE(a_finished_job_has_no_context, EVERYWHERE,
     "ASYNC_get_wait_ctx of a finished job's handle is NULL while the thread's pool holds the job")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *handle = NULL;
    int ret;

    CHECK_INT(start(&job, ctx, &ret, stores_its_handle, &handle), ASYNC_PAUSE);
    CHECK_INT(resume(&job, &ret), ASYNC_PAUSE);
    CHECK(ASYNC_get_wait_ctx(handle) == ctx);
    CHECK_INT(resume(&job, &ret), ASYNC_FINISH);
    CHECK(ASYNC_get_wait_ctx(handle) == NULL);
    ASYNC_WAIT_CTX_free(ctx);
    CHECK(ASYNC_get_wait_ctx(handle) == NULL);
    ASYNC_cleanup_thread();
}

/* libcrypto takes the handle for the job started anew: gives its context, and resumes it. */
CASE(a_handle_is_stale_once_its_job_has_finished, OURS,
     "When an idle job is started anew, a handle kept from before has no context and is refused; "
     "the new handle is another one")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *first, *second;

    /* A limit of one job: the second start has to take the job of the first. */
    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    first = paused_job(ctx, 2, 3);
    resume_to_pause(first);
    CHECK(ASYNC_get_wait_ctx(first) == ctx);
    finish(first, 3);
    CHECK(ASYNC_get_wait_ctx(first) == NULL);
    second = paused_job(other, 2, 4);
    CHECK(second != first);
    CHECK(ASYNC_get_wait_ctx(first) == NULL);
    check_resume_is_refused(first);
    resume_to_pause(second);
    CHECK(ASYNC_get_wait_ctx(first) == NULL);
    check_resume_is_refused(first);
    CHECK(ASYNC_get_wait_ctx(second) == other);
    finish(second, 4);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_WAIT_CTX_free(other);
    ASYNC_cleanup_thread();
}

static int finds_no_context(void *arg)
{
    CHECK(arg == NULL);
    ASYNC_pause_job();
    CHECK(ASYNC_get_wait_ctx(ASYNC_get_current_job()) == NULL);
    ASYNC_pause_job();
    CHECK(ASYNC_get_wait_ctx(ASYNC_get_current_job()) == NULL);
    return 8;
}

/* libcrypto returns the freed context, and writes to it when the job is resumed. */
CASE(a_job_of_a_freed_context_has_none, OURS,
     "Once its context is freed, a paused job has none, and can still be resumed to its end")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();
    ASYNC_WAIT_CTX *next[16];
    ASYNC_JOB *a = NULL, *b = NULL, *c = NULL;
    int i, ret = 0;

    CHECK_INT(ASYNC_start_job(&a, ctx, &ret, finds_no_context, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(ASYNC_start_job(&b, ctx, &ret, finds_no_context, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(start(&c, other, &ret, finds_its_context, other), ASYNC_PAUSE);
    ASYNC_WAIT_CTX_free(ctx);
    CHECK(ASYNC_get_wait_ctx(a) == NULL);
    CHECK(ASYNC_get_wait_ctx(b) == NULL);
    CHECK(ASYNC_get_wait_ctx(c) == other);
    /* A new context may get the freed one's address; it is not the context of the jobs. */
    for (i = 0; i < 16; i++)
        next[i] = ASYNC_WAIT_CTX_new();
    CHECK(ASYNC_get_wait_ctx(a) == NULL);
    for (i = 0; i < 2; i++) {
        CHECK_INT(resume(&a, &ret), i == 0 ? ASYNC_PAUSE : ASYNC_FINISH);
        CHECK_INT(resume(&b, &ret), i == 0 ? ASYNC_PAUSE : ASYNC_FINISH);
    }
    CHECK_INT(ret, 8);
    CHECK_INT(resume(&c, &ret), ASYNC_FINISH);
    for (i = 0; i < 16; i++)
        ASYNC_WAIT_CTX_free(next[i]);
    ASYNC_WAIT_CTX_free(other);
    ASYNC_cleanup_thread();
}

CASE(async_is_capable, EVERYWHERE, "ASYNC_is_capable is 1, before and after anything else")
{
    ASYNC_JOB *job = NULL;
    int arg = 1, ret;

    CHECK_INT(ASYNC_is_capable(), 1);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, returns_its_argument, &arg, sizeof(arg)),
              ASYNC_FINISH);
    CHECK_INT(ASYNC_is_capable(), 1);
    ASYNC_cleanup_thread();
    CHECK_INT(ASYNC_is_capable(), 1);
}

/* ---- refusals ---- */

/* libcrypto crashes on each of these. */
CASE(a_start_without_its_pointers_is_refused, OURS,
     "A start with NULL for &job, &ret or the function is refused")
{
    ASYNC_JOB *job = NULL;
    int i, arg = 6, ret = -77;

    /* With a limit of one job, a refusal that loses the job makes the last start fail. */
    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    for (i = 0; i < 3; i++) {
        CHECK_INT(ASYNC_start_job(i == 0 ? NULL : &job, NULL, i == 1 ? NULL : &ret,
                                  i == 2 ? NULL : must_not_run, &arg, sizeof(arg)), ASYNC_ERR);
        CHECK(error_was_queued());
        CHECK(job == NULL);
        CHECK_INT(ret, -77);
        CHECK(ASYNC_get_current_job() == NULL);
    }
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, returns_its_argument, &arg, sizeof(arg)),
              ASYNC_FINISH);
    CHECK_INT(ret, 6);
    ASYNC_cleanup_thread();
}

/* libcrypto crashes when the job ends. */
CASE(a_resume_without_a_place_for_the_result_is_refused, OURS,
     "A resume with NULL for &ret is refused, and the job does not run")
{
    ASYNC_JOB *job = NULL, *handle;
    int steps = 0, ret = 0;

    CHECK_INT(start(&job, NULL, &ret, counts_its_steps, &steps), ASYNC_PAUSE);
    handle = job;
    CHECK_INT(ASYNC_start_job(&job, NULL, NULL, NULL, NULL, 0), ASYNC_ERR);
    CHECK(error_was_queued());
    CHECK(job == handle);
    CHECK_INT(steps, 1);
    steps = 10;
    CHECK_INT(resume(&job, &ret), ASYNC_PAUSE);
    steps = 20;
    finish(job, 42);
    ASYNC_cleanup_thread();
}

static int tries_to_resume(void *arg)
{
    check_resume_is_refused(ARG(ASYNC_JOB, arg));
    return 1;
}

/* Outside a job, inside one, and on a thread that has had jobs. */
static void *tries_to_resume_on_a_thread(void *job)
{
    ASYNC_JOB *own = NULL;
    int ret;

    check_resume_is_refused(job);
    CHECK_INT(start(&own, NULL, &ret, tries_to_resume, job), ASYNC_FINISH);
    check_resume_is_refused(job);
    ASYNC_cleanup_thread();
    return NULL;
}

/* libcrypto mixes the state of both threads, and loses the job's place in the pool. */
CASE(resume_on_another_thread_is_refused, OURS,
     "A job can be resumed only on the thread that started it; a refused attempt does it no harm")
{
    ASYNC_JOB *job = NULL;
    int steps = 0, ret = 0, i;

    CHECK_INT(start(&job, NULL, &ret, counts_its_steps, &steps), ASYNC_PAUSE);
    for (i = 0; i < 2; i++) {
        on_new_thread(tries_to_resume_on_a_thread, job);
        CHECK_INT(steps, 10 * i + 1);
        steps = 10 * i + 10;
        CHECK_INT(resume(&job, &ret), i == 0 ? ASYNC_PAUSE : ASYNC_FINISH);
    }
    CHECK_INT(ret, 42);
    ASYNC_cleanup_thread();
}

/* libcrypto reports the old result again and puts the job into the pool a second time. */
CASE(resuming_a_finished_job_is_refused, OURS,
     "A resume of a finished, idle job is refused, and the pool holds the job once")
{
    ASYNC_JOB *job = NULL, *handle = NULL, *a, *b;
    int i, ret = 0;

    CHECK_INT(ASYNC_init_thread(2, 0), 1);
    CHECK_INT(start(&job, NULL, &ret, stores_its_handle, &handle), ASYNC_PAUSE);
    CHECK_INT(resume(&job, &ret), ASYNC_PAUSE);
    CHECK_INT(resume(&job, &ret), ASYNC_FINISH);
    for (i = 0; i < 3; i++)
        check_resume_is_refused(handle);
    a = paused_job(NULL, 1, 1);
    b = paused_job(NULL, 1, 2);
    CHECK(a != b);
    finish(a, 1);
    finish(b, 2);
    ASYNC_cleanup_thread();
}

#ifdef WITH_LIBCRYPTO
CASE(what_succeeds_leaves_the_error_queue_alone, EVERYWHERE | NEEDS_LIBCRYPTO,
     "Neither a call that succeeds nor ASYNC_NO_JOBS changes OpenSSL's error queue")
{
    ASYNC_WAIT_CTX *ctx;
    ASYNC_JOB *job = NULL, *second = NULL, *handle = NULL;
    unsigned long error;
    int queued, arg = 6, ret;

    for (queued = 0; queued < 2; queued++) {
        if (queued)
            ERR_put_error(ERR_LIB_USER, 0, 7, "here", 1);
        error = ERR_peek_error();
        ctx = ASYNC_WAIT_CTX_new();
        CHECK_INT(ASYNC_init_thread(1, 1), 1);
        CHECK_INT(ASYNC_pause_job(), 1);
        CHECK_INT(start(&job, ctx, &ret, stores_its_handle, &handle), ASYNC_PAUSE);
        CHECK_INT(ASYNC_start_job(&second, ctx, &ret, returns_its_argument, &arg, sizeof(arg)),
                  ASYNC_NO_JOBS);
        CHECK_INT(resume(&job, &ret), ASYNC_PAUSE);
        CHECK_INT(resume(&job, &ret), ASYNC_FINISH);
        ASYNC_block_pause();
        ASYNC_unblock_pause();
        CHECK(ASYNC_get_current_job() == NULL);
        CHECK_INT(ASYNC_is_capable(), 1);
        ASYNC_WAIT_CTX_free(ctx);
        ASYNC_cleanup_thread();
        CHECK(ERR_get_error() == error);
        CHECK(ERR_get_error() == 0);
    }
}
#endif
