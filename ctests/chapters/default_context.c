/* default_context.c: the default library context of OpenSSL 3, which each job carries for itself. */
#include "check.h"

/* The runner gives LIBCRYPTO, the name of the one to load. OpenSSL 1.1's has no such context. */
#if LIBCRYPTO_MAJOR >= 3
#include <pthread.h>
#ifdef WITH_LIBCRYPTO
# include <openssl/crypto.h>

static void bring_libcrypto(void)
{
}
#else
/*
 * Without a libcrypto linked in, the cases run on one that dlopen brought in, unseen by
 * the program's other objects. These stand for the functions of OpenSSL's headers.
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

static void bring_libcrypto(void)
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

/* The thread's default; NULL changes nothing. */
static OSSL_LIB_CTX *current(void)
{
    return OSSL_LIB_CTX_set0_default(NULL);
}

static OSSL_LIB_CTX *global(void)
{
    return OSSL_LIB_CTX_get0_global_default();
}

/* What one step of a job finds as its default, and then sets, if anything. */
struct step {
    OSSL_LIB_CTX *finds, *sets;
};

struct steps {
    const struct step *step;
    int count;
};

/* A job that takes its steps, with a pause between each two. */
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

/* Starts or resumes the job; whatever it did, the caller's default is what it was. */
static int go(ASYNC_JOB **job, ASYNC_WAIT_CTX *wait, const struct step *step, int count)
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
     "what a job sets is its default after every pause, and never its caller's")
{
    bring_libcrypto();
    OSSL_LIB_CTX *a = new_ctx();
    const struct step steps[] = { { global(), a }, { a, NULL }, { a, NULL }, { a, NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int i;

    for (i = 0; i < 3; i++)
        CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    CHECK(current() == global());
    CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_FINISH);
    CHECK(current() == global());
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
}

CASE(a_job_may_change_its_default_at_any_time, EVERYWHERE,
     "a default set after a pause replaces the one set before it")
{
    bring_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step steps[] = { { global(), NULL }, { global(), a }, { a, b }, { b, NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int i;

    for (i = 0; i < 3; i++)
        CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_FINISH);
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

CASE(a_job_starts_with_its_callers_default, EVERYWHERE,
     "a new job has the default of the thread that starts it")
{
    bring_libcrypto();
    OSSL_LIB_CTX *a = new_ctx();
    const struct step steps[] = { { a, NULL }, { a, NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;

    OSSL_LIB_CTX_set0_default(a);
    CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_FINISH);
    CHECK(current() == a);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
}

CASE(the_caller_may_change_its_own_between_pauses, EVERYWHERE,
     "what the caller sets while the job is paused stays the caller's and never gets to the job")
{
    bring_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx(), *c = new_ctx();
    const struct step steps[] = { { b, a }, { a, NULL }, { a, NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;

    OSSL_LIB_CTX_set0_default(b);
    CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    OSSL_LIB_CTX_set0_default(c);
    CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    CHECK(current() == c);
    OSSL_LIB_CTX_set0_default(global());
    CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_FINISH);
    CHECK(current() == global());
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
    OSSL_LIB_CTX_free(c);
}

CASE(a_job_that_sets_nothing_keeps_what_it_started_with, EVERYWHERE,
     "a job that never touches the default has, to its end, the one its starter had")
{
    bring_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step steps[] = { { a, NULL }, { a, NULL }, { a, NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;

    OSSL_LIB_CTX_set0_default(a);
    CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    OSSL_LIB_CTX_set0_default(b);
    CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    OSSL_LIB_CTX_set0_default(global());
    CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_FINISH);
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

CASE(a_job_may_set_it_back, EVERYWHERE,
     "a job that sets the caller's or the global default again has that from then on")
{
    bring_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step steps[] = { { b, a }, { a, b }, { b, global() }, { global(), NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int i;

    OSSL_LIB_CTX_set0_default(b);
    for (i = 0; i < 3; i++)
        CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_FINISH);
    CHECK(current() == b);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

CASE(finishing_restores_the_callers_default, EVERYWHERE,
     "a job that changes the default and ends, with or without a pause, leaves the caller's")
{
    bring_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step at_once[] = { { b, a } }, later[] = { { b, NULL }, { b, a } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;

    OSSL_LIB_CTX_set0_default(b);
    CHECK_INT(go(&job, wait, STEPS(at_once)), ASYNC_FINISH);
    CHECK(current() == b);
    CHECK_INT(go(&job, wait, STEPS(later)), ASYNC_PAUSE);
    CHECK_INT(go(&job, wait, STEPS(later)), ASYNC_FINISH);
    CHECK(current() == b);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

CASE(a_job_from_the_pool_starts_afresh, EVERYWHERE,
     "a job that was used before starts with its new caller's default, not with its old one")
{
    bring_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step first[] = { { global(), a }, { a, NULL } };
    const struct step second[] = { { global(), NULL }, { global(), NULL } };
    const struct step third[] = { { b, NULL }, { b, NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;

    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    CHECK_INT(go(&job, wait, STEPS(first)), ASYNC_PAUSE);
    CHECK_INT(go(&job, wait, STEPS(first)), ASYNC_FINISH);
    CHECK_INT(go(&job, wait, STEPS(second)), ASYNC_PAUSE);
    CHECK_INT(go(&job, wait, STEPS(second)), ASYNC_FINISH);
    OSSL_LIB_CTX_set0_default(b);
    CHECK_INT(go(&job, wait, STEPS(third)), ASYNC_PAUSE);
    CHECK_INT(go(&job, wait, STEPS(third)), ASYNC_FINISH);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

CASE(many_jobs_have_each_its_own, EVERYWHERE,
     "of many jobs paused at once, resumed in changing order, each finds its own default")
{
    enum { JOBS = 60, CONTEXTS = 7, STEPS_EACH = 5 };
    static struct step steps[JOBS][STEPS_EACH];
    OSSL_LIB_CTX *ctx[CONTEXTS], *finds;
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS] = { NULL };
    int i, j, round;

    bring_libcrypto();
    for (i = 0; i < CONTEXTS; i++)
        ctx[i] = new_ctx();
    for (i = 0; i < JOBS; i++) {
        finds = ctx[i % CONTEXTS];
        for (j = 0; j < STEPS_EACH; j++) {
            steps[i][j].finds = finds;
            /* Every third job keeps what it started with; the others change it at some steps. */
            if (i % 3 != 0 && (i + j) % 2 == 0)
                finds = steps[i][j].sets = ctx[(i + 3 * j) % CONTEXTS];
        }
    }
    for (round = 0; round < STEPS_EACH; round++)
        for (i = 0; i < JOBS; i++) {
            /* 7 and 60 have no common factor: each round takes each job once. */
            j = round % 2 == 0 ? 7 * i % JOBS : JOBS - 1 - i;
            OSSL_LIB_CTX_set0_default(ctx[round == 0 ? j % CONTEXTS : (j + round) % CONTEXTS]);
            CHECK_INT(go(&job[j], wait, steps[j], STEPS_EACH),
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

CASE(other_threads_are_not_touched, EVERYWHERE,
     "a thread that starts while a job with its own default is paused has the global default")
{
    bring_libcrypto();
    OSSL_LIB_CTX *a = new_ctx();
    const struct step steps[] = { { global(), a }, { a, NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    pthread_t thread;

    CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(pthread_create(&thread, NULL, see_global, NULL), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_FINISH);
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
}

static int pause_blocked(void *arg)
{
    OSSL_LIB_CTX *own = *(OSSL_LIB_CTX **)arg;

    OSSL_LIB_CTX_set0_default(own);
    ASYNC_block_pause();
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current() == own);
    ASYNC_unblock_pause();
    return 6;
}

CASE(a_blocked_pause_keeps_the_jobs_default, EVERYWHERE,
     "a pause that does not switch changes no default")
{
    bring_libcrypto();
    OSSL_LIB_CTX *a = new_ctx();
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, wait, &ret, pause_blocked, &a, sizeof a), ASYNC_FINISH);
    CHECK_INT(ret, 6);
    CHECK(current() == global());
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
}

CASE(no_jobs_leaves_the_default, EVERYWHERE,
     "a start that finds no job changes no default, neither the caller's nor the paused job's")
{
    bring_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step steps[] = { { b, a }, { a, NULL } };
    ASYNC_WAIT_CTX *wait = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *second = NULL;

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    OSSL_LIB_CTX_set0_default(b);
    CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(go(&second, wait, STEPS(steps)), ASYNC_NO_JOBS);
    CHECK(current() == b);
    CHECK_INT(go(&job, wait, STEPS(steps)), ASYNC_FINISH);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(wait);
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

static void *resume_elsewhere(void *arg)
{
    ASYNC_JOB *job = arg;

    CHECK_INT(go(&job, NULL, NULL, 0), ASYNC_ERR);
    CHECK(current() == global());
    return NULL;
}

/* libcrypto runs the job on the wrong thread. */
CASE(a_refused_resume_leaves_the_default, OURS,
     "a resume refused on the wrong thread brings no default there, and loses none")
{
    bring_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step steps[] = { { b, a }, { a, NULL } };
    ASYNC_JOB *job = NULL;
    pthread_t thread;

    OSSL_LIB_CTX_set0_default(b);
    CHECK_INT(go(&job, NULL, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(pthread_create(&thread, NULL, resume_elsewhere, job), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK(current() == b);
    CHECK_INT(go(&job, NULL, STEPS(steps)), ASYNC_FINISH);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

/* The contexts of a job, of the one that it runs, and the one that both take last. */
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
    CHECK_INT(go(&inner, NULL, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current() == nest->outer);
    CHECK_INT(go(&inner, NULL, STEPS(steps)), ASYNC_PAUSE);
    OSSL_LIB_CTX_set0_default(nest->later);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current() == nest->later);
    CHECK_INT(go(&inner, NULL, STEPS(steps)), ASYNC_FINISH);
    CHECK(current() == nest->later);
    return 6;
}

/* In libcrypto a job that starts another corrupts the thread's state. */
CASE(nested_jobs_have_each_its_own, OURS,
     "a job inside a job starts with that job's default; each keeps its own across all pauses")
{
    bring_libcrypto();
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

/* ---- a libcrypto that comes late, and two of them; OURS: libcrypto is not there at all ---- */

#ifndef WITH_LIBCRYPTO
static int pause_give_6(void *arg)
{
    (void)arg;
    CHECK_INT(ASYNC_pause_job(), 1);
    return 6;
}

/* Something that may be unloaded again, so that the loader's list has no end to hold on to. */
static void *plug_in;
static int plug_in_goes;

static void bring_plug_in(void)
{
    plug_in = dlopen("libanl.so.1", RTLD_NOW | RTLD_LOCAL);
    CHECK(plug_in != NULL);
}

static void bring_plug_in_that_goes(void)
{
    bring_plug_in();
    plug_in_goes = 1;
}

static void libcrypto_after_a_job(void)
{
    ASYNC_JOB *early = NULL, *job = NULL;
    int ret = 77;

    CHECK_INT(ASYNC_start_job(&early, NULL, &ret, pause_give_6, NULL, 0), ASYNC_PAUSE);
    bring_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step steps[] = { { b, a }, { a, NULL }, { a, NULL } };

    OSSL_LIB_CTX_set0_default(b);
    CHECK_INT(go(&job, NULL, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(go(&job, NULL, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(ASYNC_start_job(&early, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 6);
    CHECK(current() == b);
    CHECK_INT(go(&job, NULL, STEPS(steps)), ASYNC_FINISH);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

CASE(a_libcrypto_may_come_after_the_first_job, OURS,
     "a libcrypto that dlopen brings in when jobs have already run is found by the next")
{
    libcrypto_after_a_job();
}

CASE(a_libcrypto_may_come_after_a_plug_in, OURS,
     "so it is if something else was brought in between that may be unloaded")
{
    bring_plug_in();
    libcrypto_after_a_job();
}

static OSSL_LIB_CTX *brought;

static int bring_and_set(void *arg)
{
    (void)arg;
    CHECK_INT(ASYNC_pause_job(), 1);
    bring_libcrypto();
    brought = new_ctx();
    OSSL_LIB_CTX_set0_default(brought);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current() == brought);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current() == brought);
    return 6;
}

CASE(a_libcrypto_may_come_inside_a_job, OURS,
     "a job that brings libcrypto in between two pauses, and sets its default, keeps that")
{
    ASYNC_JOB *job = NULL;
    OSSL_LIB_CTX *mine;
    int ret = 77;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, bring_and_set, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_PAUSE);
    CHECK(current() == global());
    mine = new_ctx();
    OSSL_LIB_CTX_set0_default(mine);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_PAUSE);
    CHECK(current() == mine);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK(current() == mine);
    CHECK_INT(ret, 6);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    OSSL_LIB_CTX_free(mine);
    OSSL_LIB_CTX_free(brought);
}

/* ERR_GET_LIB and ERR_GET_REASON of OpenSSL 3. */
static void check_invalid_pool_size(unsigned long code)
{
    CHECK_INT(code >> 23 & 0xff, 51);
    CHECK_INT(code & 0x7fffff, 103);
}

CASE(errors_reach_a_libcrypto_brought_before_the_first_call, OURS,
     "a refused call queues its error in a libcrypto that dlopen brought in")
{
    bring_libcrypto();
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_invalid_pool_size(ERR_get_error());
    CHECK_INT(ERR_get_error(), 0);
}

CASE(errors_reach_a_libcrypto_brought_later, OURS,
     "errors go to libcrypto's queue from when it is there; those before are not made up for")
{
    ASYNC_JOB *job = NULL;
    int ret = 77;

    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK(RSASYNC_last_error()[0] != '\0');
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, pause_give_6, NULL, 0), ASYNC_PAUSE);
    bring_libcrypto();
    CHECK_INT(ERR_get_error(), 0);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_invalid_pool_size(ERR_get_error());
    CHECK_INT(ERR_get_error(), 0);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ERR_get_error(), 0);
    ASYNC_cleanup_thread();
}

CASE(a_libcrypto_that_was_found_stays, OURS,
     "after the program's dlclose jobs and their errors go on as before")
{
    bring_libcrypto();
    OSSL_LIB_CTX *a = new_ctx();
    const struct step steps[] = { { global(), a }, { a, NULL } };
    ASYNC_JOB *job = NULL;

    CHECK_INT(go(&job, NULL, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(dlclose(libcrypto), 0);
    CHECK_INT(go(&job, NULL, STEPS(steps)), ASYNC_FINISH);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_invalid_pool_size(ERR_get_error());
    ASYNC_cleanup_thread();
    OSSL_LIB_CTX_free(a);
}

/* A second libcrypto: a copy of the first one's file. The dynamic loader takes it for another. */
static void *bring_second_libcrypto(void)
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

/* The functions of the second. */
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

/* Jobs run between the one and the other, and so many after. */
static void two_libcryptos(void (*between)(void), int jobs_after)
{
    void *copy;
    OSSL_LIB_CTX *callers;
    struct pair own;
    ASYNC_JOB *job = NULL;
    int i, ret = 77;

    bring_libcrypto();
    between();
    run_jobs(1);
    if (plug_in_goes)
        CHECK_INT(dlclose(plug_in), 0);
    copy = bring_second_libcrypto();
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

static void bring_nothing(void)
{
}

CASE(each_of_two_libcryptos_has_its_default_carried, OURS,
     "with two in the process a job keeps its default in both; errors go to the first alone")
{
    two_libcryptos(bring_nothing, 0);
}

CASE(a_second_libcrypto_may_come_after_a_plug_in, OURS,
     "so it is, after some 256 jobs, if something was brought in between that may be unloaded")
{
    two_libcryptos(bring_plug_in, 256);
}

CASE(a_second_libcrypto_may_take_a_plug_ins_place, OURS,
     "so it is if as many objects are loaded then as before it came")
{
    two_libcryptos(bring_plug_in_that_goes, 256);
}

CASE(rsasync_brings_no_libcrypto, OURS,
     "a process without libcrypto has none after jobs and errors either")
{
    ASYNC_JOB *job = NULL;
    int ret = 77;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, pause_give_6, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK(dlopen(LIBCRYPTO, RTLD_NOW | RTLD_NOLOAD) == NULL);
    ASYNC_cleanup_thread();
}
#endif
#endif

#if defined(WITH_LIBCRYPTO) && LIBCRYPTO_MAJOR >= 3

static pthread_barrier_t both_start;

static int takes_its_time(void *args)
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
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, takes_its_time, NULL, 0), ASYNC_FINISH);
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
     "threads that start the first jobs of a process together have their defaults afterwards")
{
    int i;

    /* A race that shows in some of the runs; valgrind lets one thread run at a time. */
    for (i = 0; i < 100; i++)
        CHECK_INT(check_child(two_first_jobs, 0), 0);
}
#endif
