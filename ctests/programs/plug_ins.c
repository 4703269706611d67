/*
 * plug_ins.c: jobs while the constructor or destructor of a plug-in runs, in the middle of dlopen()
 * and dlclose(). The plug-ins (plug_in.c) are named by PLUG_IN, an environment variable with names
 * separated by colons: a plain one, one that needs libcrypto, a fake libcrypto. RESOLVER names one
 * that calls the program while it is relocated.
 */
#include "jobs.h"
#include <dlfcn.h>
#include <link.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <time.h>

static void (*when_loaded)(void), (*when_unloaded)(void);
static sem_t relocating, job_is_done;

void plug_in_is_loaded(void)
{
    if (when_loaded != NULL)
        when_loaded();
}

void plug_in_is_unloaded(void)
{
    if (when_unloaded != NULL)
        when_unloaded();
}

/* A thread can't be made meanwhile: one that there is starts a job. */
void plug_in_is_relocated(void)
{
    CHECK_INT(sem_post(&relocating), 0);
    CHECK_INT(sem_wait(&job_is_done), 0);
}

static void *load(const char *name)
{
    void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);

    if (handle == NULL)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(handle != NULL);
    return handle;
}

/* Calls f with the name of each plug-in. The alarm ends a case that hangs. */
static void for_each_plug_in(void (*f)(const char *name))
{
    char *names = strdup(getenv("PLUG_IN"));

    for (char *name = strtok(names, ":"); name != NULL; name = strtok(NULL, ":")) {
        alarm(20);
        f(name);
    }
    free(names);
}

static void run_a_job(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    finish(paused_job(ctx, 1, 5), 5);
    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(ctx);
}

static void *runs_a_job(void *unused)
{
    CHECK_INT(ASYNC_init_thread(1, 2), 0); /* queues an error */
    run_a_job();
    return unused;
}

static void wait_for_a_job(void)
{
    on_new_thread(runs_a_job, NULL);
}

static void load_and_wait(const char *name)
{
    when_loaded = wait_for_a_job;
    CHECK_INT(dlclose(load(name)), 0);
    runs_a_job(NULL);
}

CASE(a_constructor_may_wait_for_a_job, EVERYWHERE,
     "The constructor of a plug-in may wait for a thread that starts a job")
{
    for_each_plug_in(load_and_wait);
}

static void unload_and_wait(const char *name)
{
    void *handle = load(name);

    when_unloaded = wait_for_a_job;
    CHECK_INT(dlclose(handle), 0);
    when_unloaded = NULL;
    runs_a_job(NULL);
}

CASE(a_destructor_may_wait_for_a_job, EVERYWHERE,
     "The destructor of a plug-in may wait for a thread that starts its first job")
{
    for_each_plug_in(unload_and_wait);
}

static void fork_and_wait(void)
{
    if (fork() == 0) {
        alarm(10);
        runs_a_job(NULL);
        _exit(0);
    }
}

static void load_and_fork(const char *name)
{
    int status;

    when_loaded = fork_and_wait;
    CHECK_INT(dlclose(load(name)), 0);
    CHECK(wait(&status) > 0);
    CHECK_INT(status, 0);
    when_loaded = NULL;
}

CASE(a_constructor_may_fork, EVERYWHERE,
     "In a child that the constructor of a plug-in has forked jobs run")
{
    for_each_plug_in(load_and_fork);
}

/* ---- the resolver of an indirect function, which dlopen() calls while it relocates ---- */

static void *runs_a_job_meanwhile(void *unused)
{
    CHECK_INT(sem_wait(&relocating), 0);
    runs_a_job(NULL);
    CHECK_INT(sem_post(&job_is_done), 0);
    return unused;
}

/* That job has to see to it that a fake libcrypto is not unloaded. */
static void load_and_resolve(const char *name)
{
    void *handle = load(name);
    pthread_t thread;

    CHECK_INT(pthread_create(&thread, NULL, runs_a_job_meanwhile, NULL), 0);
    CHECK_INT(dlclose(load(getenv("RESOLVER"))), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_INT(dlclose(handle), 0);
    runs_a_job(NULL);
}

CASE(a_resolver_may_wait_for_a_job, EVERYWHERE,
     "The resolver of an indirect function in a plug-in may wait for a thread's first job")
{
    CHECK_INT(sem_init(&relocating, 0, 0), 0);
    CHECK_INT(sem_init(&job_is_done, 0, 0), 0);
    for_each_plug_in(load_and_resolve);
}

/* ---- a callback of dl_iterate_phdr(), which holds the lock of the loader's list ---- */

static int wait_for_both(struct dl_phdr_info *info, size_t size, void *forks)
{
    (void)info;
    (void)size;
    wait_for_a_job();
    on_new_thread((void *(*)(void *))forks, NULL);
    return 1;
}

static void *forks(void *unused)
{
    int status;
    pid_t pid = fork();

    if (pid == 0)
        _exit(0);
    CHECK_INT(waitpid(pid, &status, 0), pid);
    CHECK_INT(status, 0);
    return unused;
}

CASE(a_callback_of_the_loader_may_wait_for_a_job, EVERYWHERE,
     "A callback of dl_iterate_phdr() may wait for threads that start their first job, and fork")
{
    alarm(20);
    dl_iterate_phdr(wait_for_both, forks);
    runs_a_job(NULL);
}

/* ---- a callback that takes long ---- */

enum { CALLBACK_SECONDS = 2 };

static atomic_int stop, is_constructing, jobs_meanwhile;

static void *counts_jobs(void *unused)
{
    while (!stop) {
        runs_a_job(NULL);
        jobs_meanwhile++;
    }
    return unused;
}

static int take_seconds(struct dl_phdr_info *info, size_t size, void *unused)
{
    pthread_t thread;

    (void)info;
    (void)size;
    (void)unused;
    CHECK_INT(pthread_create(&thread, NULL, counts_jobs, NULL), 0);
    sleep(CALLBACK_SECONDS);
    stop = 1;
    CHECK_INT(pthread_join(thread, NULL), 0);
    return 1;
}

/* Twenty, if each of a job's five calls waited for the 20 ms that one of them may. */
CASE(a_slow_callback_of_the_loader_delays_few, EVERYWHERE,
     "While a callback of dl_iterate_phdr() takes two seconds, another thread runs 200 jobs")
{
    alarm(20);
    dl_iterate_phdr(take_seconds, NULL);
    fprintf(stderr, "%d jobs\n", jobs_meanwhile);
    CHECK(jobs_meanwhile > 200);
}

/* ---- a constructor that takes long ---- */

enum { CONSTRUCTOR_SECONDS = 3 };

static atomic_llong longest_us; /* the longest call of any thread */

static long long now_us(void)
{
    struct timespec now;

    CHECK_INT(clock_gettime(CLOCK_MONOTONIC, &now), 0);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

static void note(long long begin)
{
    long long us = now_us() - begin, before = longest_us;

    while (us > before && !atomic_compare_exchange_weak(&longest_us, &before, us))
        ;
}

static void take_long(void)
{
    is_constructing = 1;
    sleep(CONSTRUCTOR_SECONDS);
    is_constructing = 0;
}

static void *times_jobs(void *unused)
{
    while (!stop) {
        long long begin = now_us();

        runs_a_job(NULL);
        note(begin);
        jobs_meanwhile += is_constructing;
        usleep(1000);
    }
    return unused;
}

/*
 * In libcrypto's own children a job may hang: other threads use jobs at the fork. On rsasync an
 * error may: 1.1.1 loads its texts at the first one, under a lock that a child finds held for ever.
 */
static void *times_forks(void *unused)
{
#ifdef ON_LIBCRYPTO
    return unused;
#endif
    while (!stop) {
        long long begin = now_us();
        pid_t pid = fork();
        int status;

        if (pid == 0) {
            alarm(10);
            run_a_job();
            _exit(0);
        }
        note(begin);
        CHECK_INT(waitpid(pid, &status, 0), pid);
        CHECK_INT(status, 0);
        usleep(10000);
    }
    return unused;
}

static void load_slowly(const char *name)
{
    void *(*const busy[4])(void *) = { times_jobs, times_jobs, times_jobs, times_forks };
    pthread_t thread[4];

    when_loaded = take_long;
    stop = jobs_meanwhile = longest_us = 0;
    for (int i = 0; i < 4; i++)
        CHECK_INT(pthread_create(&thread[i], NULL, busy[i], NULL), 0);
    load(name);
    stop = 1;
    for (int i = 0; i < 4; i++)
        CHECK_INT(pthread_join(thread[i], NULL), 0);
    fprintf(stderr, "%s: longest %lld us, %d jobs\n", name, (long long)longest_us, jobs_meanwhile);
    CHECK(longest_us < 1000000);
    CHECK(jobs_meanwhile > 100);
}

CASE(a_slow_constructor_delays_nobody, EVERYWHERE,
     "While a constructor takes three seconds, no call and no fork of another thread takes one")
{
    for_each_plug_in(load_slowly);
}

/* ---- the message of dlerror() ---- */

static void fail_to_load(const char *name)
{
    load(name);
    CHECK(dlopen("no-such-library.so", RTLD_NOW) == NULL);
    runs_a_job(NULL);
    CHECK(dlerror() != NULL);
}

CASE(a_message_of_dlerror_stays, EVERYWHERE,
     "A job that finds newly loaded objects leaves the pending message of dlerror() alone")
{
    CHECK(dlopen("no-such-library.so", RTLD_NOW) == NULL);
    runs_a_job(NULL);
    CHECK(strstr(dlerror(), "no-such-library") != NULL);
    CHECK(dlerror() == NULL);
    for_each_plug_in(fail_to_load);
}
