/*
 * fake_libcrypto.c: which calls the library makes into a libcrypto, and when it makes none. The
 * program defines a fake libcrypto, which records the calls. Its version is one that the library
 * does not know, or it keeps the default library context in two pthread keys. (fake_libcrypto_1_1.c
 * is a fake 1.1.)
 */
#include "jobs.h"
#include <time.h>

#ifndef WITH_LIBCRYPTO
/* As OpenSSL_version_num() gives it: the major version is in the highest 4 bits. */
#define VERSION(major) ((unsigned long)(major) << 28)
static unsigned long version = VERSION(5);
/* How many calls were made, except those that only add the text of an error. */
static int calls;
/* The addresses of three library contexts. */
static int global, mine, theirs;
/* The last error, the marks set and not removed, and the texts added. */
static int lib, reason, marks, texts;
static const char *function;
/* What the library has registered by OPENSSL_atexit. */
static void (*exit_handler)(void);
/* Called once by the initialisation, as a real libcrypto calls a program's allocator; or NULL. */
static void (*hook)(void);

/*
 * The fake's default context is stored under both keys and read from the second: a stored value
 * does not show which key holds the default.
 */
static pthread_key_t keys[2];
static int has_keys;

void ERR_new(void)
{
    calls++;
}

void ERR_set_debug(const char *file, int line, const char *func)
{
    (void)file;
    (void)line;
    function = func;
    calls++;
}

void ERR_set_error(int l, int r, const char *format, ...)
{
    (void)format;
    lib = l;
    reason = r;
    calls++;
}

int ERR_set_mark(void)
{
    marks++;
    return 1;
}

/*
 * Without memory for the text a real libcrypto queues an error of its own here. The library sets a
 * mark before, so that it can remove that error.
 */
void ERR_add_error_data(int count, ...)
{
    CHECK_INT(count, 1);
    CHECK_INT(marks, 1);
    texts++;
}

int ERR_pop_to_mark(void)
{
    marks--;
    return 1;
}

void *OSSL_LIB_CTX_get0_global_default(void)
{
    calls++;
    return &global;
}

static void *current(void)
{
    void *set;

    if (!has_keys) {
        has_keys = 1;
        CHECK_INT(pthread_key_create(&keys[0], NULL), 0);
        CHECK_INT(pthread_key_create(&keys[1], NULL), 0);
    }
    set = pthread_getspecific(keys[1]);
    return set != NULL ? set : &global;
}

void *OSSL_LIB_CTX_set0_default(void *ctx)
{
    void *before = current(), *stored = ctx == &global ? NULL : ctx;

    calls++;
    /* A version that the library does not know may dereference the context that it gets. */
    if (version >= VERSION(5))
        CHECK(ctx == NULL || ctx == &global || ctx == &mine || ctx == &theirs);
    if (ctx != NULL) {
        CHECK_INT(pthread_setspecific(keys[0], stored), 0);
        CHECK_INT(pthread_setspecific(keys[1], stored), 0);
    }
    return before;
}

unsigned long OpenSSL_version_num(void)
{
    calls++;
    return version;
}

int OPENSSL_init_crypto(uint64_t what, const void *settings)
{
    (void)settings;
    CHECK_INT(what, 0x100); /* OPENSSL_INIT_ASYNC */
    calls++;
    if (hook != NULL) {
        void (*once)(void) = hook;

        hook = NULL;
        once();
    }
    return 1;
}

int OPENSSL_atexit(void (*handler)(void))
{
    exit_handler = handler;
    calls++;
    return 1;
}

static int sets_its_default(void *arg)
{
    (void)arg;
    OSSL_LIB_CTX_set0_default(&theirs);
    /* Changes the default without a call of OSSL_LIB_CTX_set0_default. */
    CHECK_INT(pthread_setspecific(keys[1], &mine), 0);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current() == &mine);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current() == &mine);
    return 6;
}

static void keep_a_default(void)
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, sets_its_default, NULL, 0), ASYNC_PAUSE);
    CHECK(current() == &global);
    OSSL_LIB_CTX_set0_default(&theirs);
    CHECK_INT(resume(&job, &ret), ASYNC_PAUSE);
    CHECK(current() == &theirs);
    finish(job, 6);
    CHECK(current() == &theirs);
    ASYNC_cleanup_thread();
}

CASE(a_libcrypto_of_the_program_gets_errors, OURS,
     "a libcrypto in the program itself is found, initialised, and gets errors with their text")
{
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(lib, 51);
    CHECK_INT(reason, 103);
    CHECK_STR(function, "ASYNC_init_thread");
    CHECK_INT(texts, 1);
    CHECK_INT(marks, 0);
}

CASE(an_unknown_version_gets_real_contexts_only, OURS,
     "the default of an unknown version is read and set by the public function, which gets no "
     "pointers but the program's own contexts")
{
    keep_a_default();
}

CASE(an_ambiguous_default_is_asked_for, OURS,
     "where it is unclear which pthread key holds the default, the public function is called")
{
    version = VERSION(3);
    keep_a_default();
}

CASE(no_call_is_made_after_cleanup, OURS,
     "once OPENSSL_cleanup has called the library's exit handler, no call is made, not even for an "
     "error")
{
    ASYNC_JOB *job = NULL, *stale;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, sets_its_default, NULL, 0), ASYNC_PAUSE);
    CHECK(exit_handler != NULL);
    exit_handler();
    calls = 0;
    pthread_setspecific(keys[1], &mine);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(resume(&job, &ret), ASYNC_PAUSE);
    stale = job;
    finish(job, 6);
    CHECK_INT(resume(&stale, &ret), ASYNC_ERR);
    CHECK_INT(ASYNC_start_job(NULL, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
    ASYNC_cleanup_thread();
    CHECK_INT(calls, 0);
}

/* ---- a first job whose discovery runs jobs ---- */

static double seconds(void)
{
    struct timespec now;

    CHECK_INT(clock_gettime(CLOCK_MONOTONIC, &now), 0);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

enum { NESTED_JOBS = 5 };

static void start_jobs(void)
{
    for (int i = 0; i < NESTED_JOBS; i++) {
        finish(paused_job(NULL, 1, i), i);
        CHECK_INT(ASYNC_init_thread(1, 2), 0);
    }
}

/* A job, or an error, that waited a second for itself would make it five. */
CASE(a_discovery_may_start_jobs, OURS,
     "jobs and errors of a hook of libcrypto, in the middle of its initialisation, wait for nothing")
{
    double begin = seconds();

    hook = start_jobs;
    finish(paused_job(NULL, 1, 6), 6);
    CHECK(seconds() - begin < 1);
    CHECK_INT(lib, 0);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(lib, 51);
    ASYNC_cleanup_thread();
}

static pid_t child;

static void fork_and_start_jobs(void)
{
    child = fork();
    CHECK(child >= 0);
    if (child == 0)
        alarm(20);
    start_jobs();
}

CASE(a_discovery_may_fork, OURS,
     "both processes go on with a job whose discovery forks, and both reach the error queue")
{
    double begin = seconds();
    int status;

    hook = fork_and_start_jobs;
    finish(paused_job(NULL, 1, 6), 6);
    CHECK(seconds() - begin < 1);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(lib, 51);
    keep_a_default();
    if (child == 0)
        _exit(0);
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK_INT(status, 0);
}

static void *starts_jobs(void *unused)
{
    start_jobs();
    return unused;
}

static void wait_for_another_thread(void)
{
    on_new_thread(starts_jobs, NULL);
}

CASE(a_discovery_may_wait_for_another_thread, OURS,
     "a hook of libcrypto may wait for a thread that starts jobs: its calls wait a second together, not each")
{
    double begin = seconds();

    hook = wait_for_another_thread;
    alarm(60);
    finish(paused_job(NULL, 1, 6), 6);
    CHECK(seconds() - begin < 10);
    ASYNC_cleanup_thread();
}
#endif
