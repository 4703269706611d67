/*
 * default_context.c: each job, and its caller, keeps its own default library context across
 * switches, in every libcrypto of the process, whenever that was loaded.
 */
#include "jobs.h"

/*
 * LIBCRYPTO and LIBCRYPTO_MAJOR are macros of the runner: the file name and the version of the
 * libcrypto to load. OpenSSL 1.1 has no library contexts.
 */
#if LIBCRYPTO_MAJOR >= 3
#ifdef WITH_LIBCRYPTO
# include <openssl/crypto.h>

static void load_libcrypto(void)
{
}
#else
/*
 * Without a linked libcrypto the cases load one by dlopen with local scope: no other object of the
 * process sees its symbols. These pointers have the names of OpenSSL's functions.
 */
# include <dlfcn.h>
# include <link.h>

typedef struct ossl_lib_ctx_st OSSL_LIB_CTX;
static OSSL_LIB_CTX *(*OSSL_LIB_CTX_new)(void);
static void (*OSSL_LIB_CTX_free)(OSSL_LIB_CTX *ctx);
static OSSL_LIB_CTX *(*OSSL_LIB_CTX_set0_default)(OSSL_LIB_CTX *ctx);
static OSSL_LIB_CTX *(*OSSL_LIB_CTX_get0_global_default)(void);
static unsigned long (*ERR_get_error)(void);
static void *libcrypto;

static void *symbol(const char *name)
{
    void *address = dlsym(libcrypto, name);

    CHECK(address != NULL);
    return address;
}

static void load_libcrypto(void)
{
    libcrypto = dlopen(LIBCRYPTO, RTLD_NOW | RTLD_LOCAL);
    CHECK(libcrypto != NULL);
    CHECK(dlsym(RTLD_DEFAULT, "OSSL_LIB_CTX_new") == NULL);
    OSSL_LIB_CTX_new = (OSSL_LIB_CTX *(*)(void))symbol("OSSL_LIB_CTX_new");
    OSSL_LIB_CTX_free = (void (*)(OSSL_LIB_CTX *))symbol("OSSL_LIB_CTX_free");
    OSSL_LIB_CTX_set0_default =
        (OSSL_LIB_CTX *(*)(OSSL_LIB_CTX *))symbol("OSSL_LIB_CTX_set0_default");
    OSSL_LIB_CTX_get0_global_default =
        (OSSL_LIB_CTX *(*)(void))symbol("OSSL_LIB_CTX_get0_global_default");
    ERR_get_error = (unsigned long (*)(void))symbol("ERR_get_error");
}
#endif

static OSSL_LIB_CTX *new_ctx(void)
{
    OSSL_LIB_CTX *ctx = OSSL_LIB_CTX_new();

    CHECK(ctx != NULL);
    return ctx;
}

/* The thread's default context: setting NULL changes nothing, and returns it. */
static OSSL_LIB_CTX *current(void)
{
    return OSSL_LIB_CTX_set0_default(NULL);
}

static OSSL_LIB_CTX *global(void)
{
    return OSSL_LIB_CTX_get0_global_default();
}

/* A step of a job: the default that it finds, and the one that it then sets, or NULL. */
struct step {
    OSSL_LIB_CTX *finds, *sets;
};

struct steps {
    const struct step *step;
    int count;
};

/* A job function: takes the steps, with a pause between each two. */
static int take_steps(void *arg)
{
    struct steps *steps = arg;
    int i;

    for (i = 0; i < steps->count; i++) {
        if (i > 0)
            CHECK_INT(ASYNC_pause_job(), 1);
        CHECK(current() == steps->step[i].finds);
        if (steps->step[i].sets != NULL)
            CHECK(OSSL_LIB_CTX_set0_default(steps->step[i].sets) == steps->step[i].finds);
    }
    return steps->count;
}

/* Starts or resumes a job with these steps; the caller's default stays the same. */
static int start_or_resume(ASYNC_JOB **job, ASYNC_WAIT_CTX *wait, const struct step *step,
                           int count)
{
    struct steps steps = { step, count };
    OSSL_LIB_CTX *mine = current();
    int ret = 77;
    int answer = ASYNC_start_job(job, wait, &ret, take_steps, &steps, sizeof steps);

    CHECK(current() == mine);
    if (answer == ASYNC_FINISH)
        CHECK_INT(ret, count);
    return answer;
}

#define STEPS(steps) (steps), (int)(sizeof (steps) / sizeof *(steps))

CASE(a_job_keeps_its_default_across_pauses, EVERYWHERE,
     "the default that a job sets is its own after every pause, and never its caller's")
{
    load_libcrypto();
    OSSL_LIB_CTX *a = new_ctx();
    const struct step steps[] = { { global(), a }, { a, NULL }, { a, NULL }, { a, NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int i;

    for (i = 0; i < 3; i++)
        CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    CHECK(current() == global());
    CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_FINISH);
    CHECK(current() == global());
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
}

CASE(a_job_may_change_its_default_at_any_time, EVERYWHERE,
     "a default set after a pause replaces the one set before it")
{
    load_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step steps[] = { { global(), NULL }, { global(), a }, { a, b }, { b, NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int i;

    for (i = 0; i < 3; i++)
        CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_FINISH);
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

CASE(a_job_starts_with_its_callers_default, EVERYWHERE,
     "a new job has the default of the thread that starts it")
{
    load_libcrypto();
    OSSL_LIB_CTX *a = new_ctx();
    const struct step steps[] = { { a, NULL }, { a, NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;

    OSSL_LIB_CTX_set0_default(a);
    CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_FINISH);
    CHECK(current() == a);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
}

CASE(the_caller_may_change_its_own_between_pauses, EVERYWHERE,
     "a default that the caller sets while the job is paused stays the caller's, and never becomes "
     "the job's")
{
    load_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx(), *c = new_ctx();
    const struct step steps[] = { { b, a }, { a, NULL }, { a, NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;

    OSSL_LIB_CTX_set0_default(b);
    CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    OSSL_LIB_CTX_set0_default(c);
    CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    CHECK(current() == c);
    OSSL_LIB_CTX_set0_default(global());
    CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_FINISH);
    CHECK(current() == global());
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
    OSSL_LIB_CTX_free(c);
}

CASE(a_job_that_sets_nothing_keeps_what_it_started_with, EVERYWHERE,
     "a job that sets no default has, to its end, that of the thread when it started the job")
{
    load_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step steps[] = { { a, NULL }, { a, NULL }, { a, NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;

    OSSL_LIB_CTX_set0_default(a);
    CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    OSSL_LIB_CTX_set0_default(b);
    CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    OSSL_LIB_CTX_set0_default(global());
    CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_FINISH);
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

CASE(a_job_may_reset_its_default, EVERYWHERE,
     "a job may set its starter's default again, or the global one, and keeps that")
{
    load_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step steps[] = { { b, a }, { a, b }, { b, global() }, { global(), NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int i;

    OSSL_LIB_CTX_set0_default(b);
    for (i = 0; i < 3; i++)
        CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_FINISH);
    CHECK(current() == b);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

CASE(finishing_restores_the_callers_default, EVERYWHERE,
     "a job that sets a default and finishes, with or without a pause, leaves the caller's default")
{
    load_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step at_once[] = { { b, a } }, later[] = { { b, NULL }, { b, a } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;

    OSSL_LIB_CTX_set0_default(b);
    CHECK_INT(start_or_resume(&job, wait, STEPS(at_once)), ASYNC_FINISH);
    CHECK(current() == b);
    CHECK_INT(start_or_resume(&job, wait, STEPS(later)), ASYNC_PAUSE);
    CHECK_INT(start_or_resume(&job, wait, STEPS(later)), ASYNC_FINISH);
    CHECK(current() == b);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

CASE(a_job_from_the_pool_starts_afresh, EVERYWHERE,
     "a reused job starts with its new caller's default, not with the one of its last run")
{
    load_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step first[] = { { global(), a }, { a, NULL } };
    const struct step second[] = { { global(), NULL }, { global(), NULL } };
    const struct step third[] = { { b, NULL }, { b, NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;

    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    CHECK_INT(start_or_resume(&job, wait, STEPS(first)), ASYNC_PAUSE);
    CHECK_INT(start_or_resume(&job, wait, STEPS(first)), ASYNC_FINISH);
    CHECK_INT(start_or_resume(&job, wait, STEPS(second)), ASYNC_PAUSE);
    CHECK_INT(start_or_resume(&job, wait, STEPS(second)), ASYNC_FINISH);
    OSSL_LIB_CTX_set0_default(b);
    CHECK_INT(start_or_resume(&job, wait, STEPS(third)), ASYNC_PAUSE);
    CHECK_INT(start_or_resume(&job, wait, STEPS(third)), ASYNC_FINISH);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

CASE(each_of_many_jobs_has_its_own, EVERYWHERE,
     "many jobs paused at the same time, resumed in changing order, each find their own default")
{
    enum { JOBS = 60, CONTEXTS = 7, STEPS_EACH = 5 };
    static struct step steps[JOBS][STEPS_EACH];
    OSSL_LIB_CTX *ctx[CONTEXTS], *finds;
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS] = { NULL };
    int i, j, round;

    load_libcrypto();
    for (i = 0; i < CONTEXTS; i++)
        ctx[i] = new_ctx();
    for (i = 0; i < JOBS; i++) {
        finds = ctx[i % CONTEXTS];
        for (j = 0; j < STEPS_EACH; j++) {
            steps[i][j].finds = finds;
            /* Every third job keeps its first default; the others change it at some steps. */
            if (i % 3 != 0 && (i + j) % 2 == 0)
                finds = steps[i][j].sets = ctx[(i + 3 * j) % CONTEXTS];
        }
    }
    for (round = 0; round < STEPS_EACH; round++)
        for (i = 0; i < JOBS; i++) {
            /* 7 and 60 have no common factor, so each round resumes each job once. */
            j = round % 2 == 0 ? 7 * i % JOBS : JOBS - 1 - i;
            OSSL_LIB_CTX_set0_default(ctx[round == 0 ? j % CONTEXTS : (j + round) % CONTEXTS]);
            CHECK_INT(start_or_resume(&job[j], wait, steps[j], STEPS_EACH),
                      round < STEPS_EACH - 1 ? ASYNC_PAUSE : ASYNC_FINISH);
        }
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    for (i = 0; i < CONTEXTS; i++)
        OSSL_LIB_CTX_free(ctx[i]);
}

static void *see_global(void *arg)
{
    (void)arg;
    CHECK(current() == global());
    return NULL;
}

CASE(other_threads_keep_their_default, EVERYWHERE,
     "a thread that starts while a job with its own default is paused has the global default")
{
    load_libcrypto();
    OSSL_LIB_CTX *a = new_ctx();
    const struct step steps[] = { { global(), a }, { a, NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;

    CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    on_new_thread(see_global, NULL);
    CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_FINISH);
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
}

static int pause_blocked(void *arg)
{
    OSSL_LIB_CTX *own = ARG(OSSL_LIB_CTX, arg);

    OSSL_LIB_CTX_set0_default(own);
    ASYNC_block_pause();
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current() == own);
    ASYNC_unblock_pause();
    return 6;
}

CASE(a_blocked_pause_keeps_the_jobs_default, EVERYWHERE,
     "a pause that is blocked, and returns at once, changes no default")
{
    load_libcrypto();
    OSSL_LIB_CTX *a = new_ctx();
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(start(&job, wait, &ret, pause_blocked, a), ASYNC_FINISH);
    CHECK_INT(ret, 6);
    CHECK(current() == global());
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
}

CASE(a_start_without_a_job_leaves_the_default, EVERYWHERE,
     "ASYNC_NO_JOBS changes neither the caller's default nor that of the paused job")
{
    load_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step steps[] = { { b, a }, { a, NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *second = NULL;

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    OSSL_LIB_CTX_set0_default(b);
    CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(start_or_resume(&second, wait, STEPS(steps)), ASYNC_NO_JOBS);
    CHECK(current() == b);
    CHECK_INT(start_or_resume(&job, wait, STEPS(steps)), ASYNC_FINISH);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

static void *resume_elsewhere(void *arg)
{
    ASYNC_JOB *job = arg;

    CHECK_INT(start_or_resume(&job, NULL, NULL, 0), ASYNC_ERR);
    CHECK(current() == global());
    return NULL;
}

/* libcrypto runs the job on the wrong thread. */
CASE(a_refused_resume_leaves_the_default, OURS,
     "a resume refused on the wrong thread changes no default of either thread or of the job")
{
    load_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step steps[] = { { b, a }, { a, NULL } };
    ASYNC_JOB *job = NULL;

    OSSL_LIB_CTX_set0_default(b);
    CHECK_INT(start_or_resume(&job, NULL, STEPS(steps)), ASYNC_PAUSE);
    on_new_thread(resume_elsewhere, job);
    CHECK(current() == b);
    CHECK_INT(start_or_resume(&job, NULL, STEPS(steps)), ASYNC_FINISH);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

/* The contexts of an outer job, of the job that it starts, and the one that both set last. */
struct nest {
    OSSL_LIB_CTX *outer, *inner, *later;
};

static int drive_inner(void *arg)
{
    struct nest *nest = arg;
    const struct step steps[] = { { nest->outer, nest->inner },
                                  { nest->inner, NULL },
                                  { nest->inner, nest->later } };
    ASYNC_JOB *inner = NULL;

    OSSL_LIB_CTX_set0_default(nest->outer);
    CHECK_INT(start_or_resume(&inner, NULL, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current() == nest->outer);
    CHECK_INT(start_or_resume(&inner, NULL, STEPS(steps)), ASYNC_PAUSE);
    OSSL_LIB_CTX_set0_default(nest->later);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current() == nest->later);
    CHECK_INT(start_or_resume(&inner, NULL, STEPS(steps)), ASYNC_FINISH);
    CHECK(current() == nest->later);
    return 6;
}

/* libcrypto corrupts itself when jobs are nested. */
CASE(each_nested_job_has_its_own, OURS,
     "a job started by a job starts with that job's default; each keeps its own across all pauses")
{
    load_libcrypto();
    OSSL_LIB_CTX *mine = new_ctx();
    struct nest nest = { new_ctx(), new_ctx(), new_ctx() };
    ASYNC_JOB *job = NULL;
    int i, ret;

    for (i = 0; i < 3; i++) {
        OSSL_LIB_CTX_set0_default(i == 1 ? mine : global());
        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, drive_inner, &nest, sizeof nest),
                  i < 2 ? ASYNC_PAUSE : ASYNC_FINISH);
        CHECK(current() == (i == 1 ? mine : global()));
    }
    CHECK_INT(ret, 6);
    ASYNC_cleanup_thread();
    OSSL_LIB_CTX_free(mine);
    OSSL_LIB_CTX_free(nest.outer);
    OSSL_LIB_CTX_free(nest.inner);
    OSSL_LIB_CTX_free(nest.later);
}

/* ---- a libcrypto loaded late, and two of them; OURS: no libcrypto is linked ---- */

#ifndef WITH_LIBCRYPTO
/*
 * A shared object that may be unloaded. As long as it is the last one in the loader's list, the
 * library cannot keep the end of the list as the place where newer objects follow.
 */
static void *plug_in;
static int plug_in_is_unloaded;

static void load_plug_in(void)
{
    plug_in = dlopen("libanl.so.1", RTLD_NOW | RTLD_LOCAL);
    CHECK(plug_in != NULL);
}

static void load_plug_in_to_unload(void)
{
    load_plug_in();
    plug_in_is_unloaded = 1;
}

static void libcrypto_after_a_job(void)
{
    ASYNC_JOB *early = paused_job(NULL, 1, 6), *job = NULL;

    load_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step steps[] = { { b, a }, { a, NULL }, { a, NULL } };

    OSSL_LIB_CTX_set0_default(b);
    CHECK_INT(start_or_resume(&job, NULL, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(start_or_resume(&job, NULL, STEPS(steps)), ASYNC_PAUSE);
    finish(early, 6);
    CHECK(current() == b);
    CHECK_INT(start_or_resume(&job, NULL, STEPS(steps)), ASYNC_FINISH);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

CASE(a_libcrypto_may_be_loaded_after_the_first_job, OURS,
     "a job finds a libcrypto that was loaded by dlopen after other jobs have run")
{
    libcrypto_after_a_job();
}

CASE(a_libcrypto_may_be_loaded_after_a_plug_in, OURS,
     "a job finds it also if an object that may be unloaded was loaded before it")
{
    load_plug_in();
    libcrypto_after_a_job();
}

static OSSL_LIB_CTX *set_in_the_job;

static int load_and_set(void *arg)
{
    (void)arg;
    CHECK_INT(ASYNC_pause_job(), 1);
    load_libcrypto();
    set_in_the_job = new_ctx();
    OSSL_LIB_CTX_set0_default(set_in_the_job);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current() == set_in_the_job);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current() == set_in_the_job);
    return 6;
}

CASE(a_libcrypto_may_be_loaded_by_a_job, OURS,
     "a job that loads a libcrypto between two pauses, and sets its default, keeps that default")
{
    ASYNC_JOB *job = NULL;
    OSSL_LIB_CTX *mine;
    int ret = 77;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, load_and_set, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(resume(&job, &ret), ASYNC_PAUSE);
    CHECK(current() == global());
    mine = new_ctx();
    OSSL_LIB_CTX_set0_default(mine);
    CHECK_INT(resume(&job, &ret), ASYNC_PAUSE);
    CHECK(current() == mine);
    finish(job, 6);
    CHECK(current() == mine);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    OSSL_LIB_CTX_free(mine);
    OSSL_LIB_CTX_free(set_in_the_job);
}

/* The library and the reason of an error code, at their places in OpenSSL 3. */
static void check_invalid_pool_size(unsigned long code)
{
    enum { ASYNC_LIBRARY = 51, INVALID_POOL_SIZE = 103 };

    CHECK_INT(code >> 23 & 0xff, ASYNC_LIBRARY);
    CHECK_INT(code & 0x7fffff, INVALID_POOL_SIZE);
}

CASE(errors_reach_a_libcrypto_loaded_before_the_first_call, OURS,
     "a refused call queues its error in a libcrypto that was loaded by dlopen")
{
    load_libcrypto();
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_invalid_pool_size(ERR_get_error());
    CHECK_INT(ERR_get_error(), 0);
}

CASE(errors_reach_a_libcrypto_loaded_later, OURS,
     "errors go to the queue of a libcrypto that was loaded late; earlier errors do not")
{
    ASYNC_JOB *job;

    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK(RSASYNC_last_error()[0] != '\0');
    job = paused_job(NULL, 1, 6);
    load_libcrypto();
    CHECK_INT(ERR_get_error(), 0);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_invalid_pool_size(ERR_get_error());
    CHECK_INT(ERR_get_error(), 0);
    finish(job, 6);
    CHECK_INT(ERR_get_error(), 0);
    ASYNC_cleanup_thread();
}

CASE(a_libcrypto_that_was_found_stays, OURS,
     "after the program's dlclose of libcrypto jobs keep their defaults, and errors reach its queue")
{
    load_libcrypto();
    OSSL_LIB_CTX *a = new_ctx();
    const struct step steps[] = { { global(), a }, { a, NULL } };
    ASYNC_JOB *job = NULL;

    CHECK_INT(start_or_resume(&job, NULL, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(dlclose(libcrypto), 0);
    CHECK_INT(start_or_resume(&job, NULL, STEPS(steps)), ASYNC_FINISH);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_invalid_pool_size(ERR_get_error());
    ASYNC_cleanup_thread();
    OSSL_LIB_CTX_free(a);
}

/* A second libcrypto: a copy of the first one's file, which the loader treats as another object. */
static void *load_second_libcrypto(void)
{
    char name[] = "/tmp/libcrypto-copy-XXXXXX", block[1 << 16];
    struct link_map *map;
    int to = mkstemp(name);
    FILE *from;
    void *second;
    size_t n;

    CHECK(to >= 0);
    CHECK_INT(dlinfo(libcrypto, RTLD_DI_LINKMAP, &map), 0);
    from = fopen(map->l_name, "rb");
    CHECK(from != NULL);
    while ((n = fread(block, 1, sizeof block, from)) > 0)
        CHECK(write(to, block, n) == (ssize_t)n);
    CHECK_INT(fclose(from), 0);
    CHECK_INT(close(to), 0);
    second = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    CHECK_INT(unlink(name), 0);
    CHECK(second != NULL && second != libcrypto);
    return second;
}

/* The functions of the second libcrypto. */
static OSSL_LIB_CTX *(*second_new)(void);
static void (*second_free)(OSSL_LIB_CTX *ctx);
static OSSL_LIB_CTX *(*second_set0_default)(OSSL_LIB_CTX *ctx);
static unsigned long (*second_get_error)(void);

static int nothing(void *arg)
{
    (void)arg;
    return 1;
}

static void run_jobs(int count)
{
    for (int i = 0; i < count; i++) {
        ASYNC_JOB *job = NULL;
        int ret;

        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, nothing, NULL, 0), ASYNC_FINISH);
    }
}

struct pair {
    OSSL_LIB_CTX *first, *second;
};

static int set_both(void *arg)
{
    struct pair *own = arg;
    int i;

    OSSL_LIB_CTX_set0_default(own->first);
    second_set0_default(own->second);
    for (i = 0; i < 2; i++) {
        CHECK_INT(ASYNC_pause_job(), 1);
        CHECK(current() == own->first);
        CHECK(second_set0_default(NULL) == own->second);
    }
    return 6;
}

/*
 * Loads a libcrypto, calls `between`, runs a job, loads a second libcrypto and runs `jobs_after`
 * jobs. Then a job keeps its default in both.
 */
static void two_libcryptos(void (*between)(void), int jobs_after)
{
    void *copy;
    OSSL_LIB_CTX *callers;
    struct pair own;
    ASYNC_JOB *job = NULL;
    int i, ret = 77;

    load_libcrypto();
    between();
    run_jobs(1);
    if (plug_in_is_unloaded)
        CHECK_INT(dlclose(plug_in), 0);
    copy = load_second_libcrypto();
    run_jobs(jobs_after);
    second_new = (OSSL_LIB_CTX *(*)(void))dlsym(copy, "OSSL_LIB_CTX_new");
    second_free = (void (*)(OSSL_LIB_CTX *))dlsym(copy, "OSSL_LIB_CTX_free");
    second_set0_default =
        (OSSL_LIB_CTX *(*)(OSSL_LIB_CTX *))dlsym(copy, "OSSL_LIB_CTX_set0_default");
    second_get_error = (unsigned long (*)(void))dlsym(copy, "ERR_get_error");
    CHECK(second_new != OSSL_LIB_CTX_new);
    callers = second_set0_default(NULL);
    CHECK(callers != NULL && callers != global());
    own.first = new_ctx();
    own.second = second_new();
    CHECK(own.second != NULL);
    for (i = 0; i < 3; i++) {
        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, set_both, &own, sizeof own),
                  i < 2 ? ASYNC_PAUSE : ASYNC_FINISH);
        CHECK(current() == global());
        CHECK(second_set0_default(NULL) == callers);
    }
    CHECK_INT(ret, 6);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_invalid_pool_size(ERR_get_error());
    CHECK_INT(second_get_error(), 0);
    ASYNC_cleanup_thread();
    OSSL_LIB_CTX_free(own.first);
    second_free(own.second);
}

static void load_nothing(void)
{
}

CASE(a_job_keeps_its_default_in_two_libcryptos, OURS,
     "with two libcryptos in the process a job keeps its default in both; errors go to the first")
{
    two_libcryptos(load_nothing, 0);
}

CASE(a_second_libcrypto_may_be_loaded_after_a_plug_in, OURS,
     "the same, after 256 jobs, if an object that may be unloaded was loaded before the second")
{
    two_libcryptos(load_plug_in, 256);
}

CASE(a_second_libcrypto_may_replace_a_plug_in, OURS,
     "the same if that object is unloaded before, so that the number of loaded objects is as it was")
{
    two_libcryptos(load_plug_in_to_unload, 256);
}

CASE(rsasync_loads_no_libcrypto, OURS,
     "a process without libcrypto still has none after jobs and errors")
{
    ASYNC_JOB *job = paused_job(NULL, 1, 6);

    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    finish(job, 6);
    CHECK(dlopen(LIBCRYPTO, RTLD_NOW | RTLD_NOLOAD) == NULL);
    ASYNC_cleanup_thread();
}
#else
/* ---- the first jobs of a process ---- */

static pthread_barrier_t both_start;

static int busy_job(void *args)
{
    volatile int i;

    for (i = 0; i < 100000; i++)
        ;
    return args == NULL;
}

static void *starts_a_first_job(void *unused)
{
    OSSL_LIB_CTX *own = OSSL_LIB_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = 0;

    OSSL_LIB_CTX_set0_default(own);
    pthread_barrier_wait(&both_start);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, busy_job, NULL, 0), ASYNC_FINISH);
    CHECK(OSSL_LIB_CTX_set0_default(NULL) == own);
    OSSL_LIB_CTX_set0_default(OSSL_LIB_CTX_get0_global_default());
    OSSL_LIB_CTX_free(own);
    return unused;
}

static void two_first_jobs(void)
{
    pthread_t thread[2];

    CHECK_INT(pthread_barrier_init(&both_start, NULL, 2), 0);
    CHECK_INT(pthread_create(&thread[0], NULL, starts_a_first_job, NULL), 0);
    CHECK_INT(pthread_create(&thread[1], NULL, starts_a_first_job, NULL), 0);
    CHECK_INT(pthread_join(thread[0], NULL), 0);
    CHECK_INT(pthread_join(thread[1], NULL), 0);
}

CASE(first_jobs_of_two_threads_keep_their_defaults, NEEDS_LIBCRYPTO | NOT_ON_VALGRIND,
     "two threads that start the first jobs of a process at the same time keep their defaults")
{
    int i;

    /* The race shows in some runs only, and never on valgrind, which runs one thread at a time. */
    for (i = 0; i < 100; i++)
        CHECK_INT(check_child(two_first_jobs, 0), 0);
}
#endif
#endif
