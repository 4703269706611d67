/*
 * observed.c: processes for the rsasync command to look at. Each says "ready" on standard output
 * once it is as its promise says, and stays so until standard input ends.
 */
#include "jobs.h"
#include <pthread.h>
#include <sys/prctl.h>
#ifdef WITH_SSL
# include <openssl/ssl.h>
#endif

#define NOINLINE __attribute__((noinline))

/* No trial takes so long, in seconds: a runner that waits in vain finds the end of the output. */
__attribute__((constructor)) static void end_some_time(void)
{
    alarm(120);
}

/* Until the runner closes the pipe, or has ended. */
static void stay(void)
{
    char byte;

    puts("ready");
    fflush(stdout);
    while (read(0, &byte, 1) > 0)
        ;
}

enum { DEEP_BYTES = 20000 };

/* Where jobs pause. */
NOINLINE int pauses_here(void)
{
    volatile char frame[DEEP_BYTES];

    memset((char *)frame, 1, sizeof frame);
    CHECK_INT(ASYNC_pause_job(), 1);
    return frame[0];
}

NOINLINE int calls_what_pauses(void *arg)
{
    (void)arg;
    return pauses_here() - 1;
}

static int does_nothing(void *arg)
{
    (void)arg;
    return 0;
}

#ifndef ON_LIBCRYPTO
/* The numbers of RSASYNC_get_stats(), a line each. */
static void tell_stats(void)
{
    struct rsasync_stats s;

    RSASYNC_get_stats(&s, sizeof(s));
# define TELL(name) printf("%s %llu\n", #name, (unsigned long long)s.name)
    TELL(stacks_in_use), TELL(stacks_unguarded), TELL(jobs_abandoned), TELL(jobs_running);
    TELL(jobs_paused), TELL(jobs_orphaned), TELL(jobs_idle), TELL(starts), TELL(pauses);
    TELL(resumes), TELL(finishes), TELL(refused_pool_size), TELL(refused_null);
    TELL(refused_memory), TELL(refused_state), TELL(no_jobs_limit), TELL(no_jobs_memory);
    TELL(orphans_reclaimed), TELL(stacks_made), TELL(stacks_peak), TELL(stack_bytes);
    TELL(stack_deepest_bytes);
}
#endif

static int stays(void *arg)
{
    (void)arg;
#ifndef ON_LIBCRYPTO
    tell_stats();
#endif
    stay();
    return 0;
}

static ASYNC_JOB *paused(ASYNC_WAIT_CTX *ctx)
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, calls_what_pauses, NULL, 0), ASYNC_PAUSE);
    return job;
}

static void *pauses_and_ends(void *arg)
{
    paused(NULL);
    return arg;
}

CASE(nothing, OURS, "it has the library, and starts no job")
{
    stay();
}

CASE(never_pauses, OURS, "three jobs finish without a pause; their one stack is idle")
{
    ASYNC_JOB *job = NULL;
    int ret;

    for (int i = 0; i < 3; i++)
        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, does_nothing, NULL, 0), ASYNC_FINISH);
    stay();
}

static int callback(void *arg)
{
    (void)arg;
    return 1;
}

CASE(all_states, OURS,
     "a job waits for the descriptors 71 and 72, one for a callback, one is orphaned, one "
     "abandoned, one idle, one runs; two were resumed; a start and an init were refused, two starts "
     "got no job")
{
    ASYNC_WAIT_CTX *of_fds = ASYNC_WAIT_CTX_new(), *of_callback = ASYNC_WAIT_CTX_new(),
                   *freed = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *resumed[2];
    int ret;

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(of_fds, "a key", 71, NULL, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(of_fds, "a key", 72, NULL, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(of_callback, callback, NULL), 1);
    on_new_thread(pauses_and_ends, NULL);

    CHECK_INT(ASYNC_init_thread(2, 3), 0);
    CHECK_INT(ASYNC_init_thread(6, 6), 1);
    CHECK_INT(ASYNC_start_job(NULL, NULL, &ret, does_nothing, NULL, 0), ASYNC_ERR);
    for (int i = 0; i < 2; i++)
        resumed[i] = paused(NULL);
    paused(of_fds);
    paused(of_callback);
    paused(freed);
    ASYNC_WAIT_CTX_free(freed);
    for (int i = 0; i < 2; i++) {
        job = NULL;
        if (i == 0)
            CHECK_INT(ASYNC_start_job(&job, NULL, &ret, does_nothing, NULL, 0), ASYNC_FINISH);
        else
            paused(NULL);
    }
    for (int i = 0; i < 2; i++) {
        job = NULL;
        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, does_nothing, NULL, 0), ASYNC_NO_JOBS);
    }
    for (int i = 0; i < 2; i++)
        finish(resumed[i], 0);
    job = NULL;
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, stays, NULL, 0), ASYNC_FINISH);
}

/* Resumes a job again and again. */
static int pauses_for_ever(void *arg)
{
    (void)arg;
    while (ASYNC_pause_job() == 1)
        ;
    return 0;
}

static void *resumes_for_ever(void *arg)
{
    ASYNC_JOB *job = NULL;
    int ret;

    (void)arg;
    for (;;)
        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, pauses_for_ever, NULL, 0), ASYNC_PAUSE);
    return arg;
}

CASE(moves, OURS, "a thread resumes its job all the time, another one's job stands still")
{
    pthread_t thread;

    paused(NULL);
    CHECK_INT(pthread_create(&thread, NULL, resumes_for_ever, NULL), 0);
    stay();
}

static void *starts_and_ends(void *arg)
{
    ASYNC_JOB *job = NULL;
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    int ret;

    for (int i = 0; i < 20; i++) {
        job = NULL;
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, "a key", i, NULL, NULL), 1);
        CHECK_INT(ASYNC_start_job(&job, ctx, &ret, calls_what_pauses, NULL, 0), ASYNC_PAUSE);
        ASYNC_WAIT_CTX_free(ctx);
        ctx = ASYNC_WAIT_CTX_new();
        finish(job, 0);
    }
    ASYNC_WAIT_CTX_free(ctx);
    return arg;
}

static void *makes_threads(void *arg)
{
    pthread_t thread;

    for (;;) {
        CHECK_INT(pthread_create(&thread, NULL, starts_and_ends, NULL), 0);
        CHECK_INT(pthread_join(thread, NULL), 0);
    }
    return arg;
}

CASE(changes, OURS, "threads, jobs and wait contexts come and go all the time")
{
    pthread_t thread;

    for (int i = 0; i < 3; i++)
        CHECK_INT(pthread_create(&thread, NULL, makes_threads, NULL), 0);
    stay();
}

CASE(crowd, OURS, "five thousand jobs are paused")
{
    for (int i = 0; i < 5000; i++)
        paused(NULL);
    stay();
}

CASE(one_paused, OURS, "one job is paused")
{
    paused(NULL);
    stay();
}

static void *stack_of_the_programs_own(size_t *bytes)
{
    *bytes = 1 << 20;
    return malloc(*bytes);
}

CASE(own_stack, OURS, "one job is paused, on a stack of 1 MiB from the program's own function")
{
    CHECK_INT(ASYNC_set_mem_functions(stack_of_the_programs_own, free), 1);
    paused(NULL);
    stay();
}

CASE(workers, OURS, "it has two children with a paused job each, and one itself")
{
    fflush(stdout);
    for (int i = 0; i < 2; i++) {
        if (fork() == 0) {
            char byte;

            prctl(PR_SET_PDEATHSIG, SIGKILL);
            paused(NULL);
            CHECK_INT(write(1, "worker\n", 7), 7);
            while (read(0, &byte, 1) > 0)
                ;
            _exit(0);
        }
    }
    paused(NULL);
    stay();
}

NOINLINE int overflows(int depth)
{
    volatile char frame[1000];

    frame[0] = (char)depth;
    return overflows(depth + 1) + frame[0];
}

static int overflow_job(void *arg)
{
    (void)arg;
    return overflows(0);
}

CASE(overflow, OURS, "one job is paused, another one overflows its stack")
{
    ASYNC_JOB *job = NULL;
    int ret;

    paused(NULL);
    ASYNC_start_job(&job, NULL, &ret, overflow_job, NULL, 0);
}

CASE(closed, OURS, "root has become nobody, without its file system")
{
    paused(NULL);
    CHECK_INT(chroot("/sys"), 0);
    CHECK_INT(chdir("/"), 0);
    CHECK_INT(setgid(65534), 0);
    CHECK_INT(setuid(65534), 0);
    stay();
}

#ifdef WITH_SSL
CASE(ssl, OURS, "libssl starts a job, for a handshake whose peer never comes")
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL *ssl = SSL_new(ctx);

    SSL_set_mode(ssl, SSL_MODE_ASYNC);
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_connect_state(ssl);
    CHECK_INT(SSL_do_handshake(ssl), -1);
    stay();
}
#endif
