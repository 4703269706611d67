/*
 * loading.c: a thread starts jobs while another loads and unloads a library that looks like a
 * libcrypto (LOOKALIKE), fails to load a library that is never unloaded (FAILING), and loads a
 * libcrypto. The two names are environment variables.
 */
#include "check.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>

static atomic_int jobs, stop;

static int job(void *unused)
{
    (void)unused;
    return 1;
}

static void *start_jobs(void *unused)
{
    while (!stop) {
        ASYNC_JOB *handle = NULL;
        int ret;

        CHECK_INT(ASYNC_start_job(&handle, NULL, &ret, job, NULL, 0), ASYNC_FINISH);
        jobs++;
        usleep(1); /* valgrind runs one thread at a time, until that thread waits */
    }
    return unused;
}

static void wait_for_jobs(int count)
{
    for (int end = jobs + count; jobs < end;)
        usleep(100);
}

CASE(loading, OURS, "jobs run while other threads load and unload libraries")
{
    const char *lookalike = getenv("LOOKALIKE"), *failing = getenv("FAILING");
    pthread_t thread;

    CHECK_INT(pthread_create(&thread, NULL, start_jobs, NULL), 0);
    wait_for_jobs(1);
    for (int i = 0; i < 20; i++) {
        void *handle = dlopen(lookalike, RTLD_NOW | RTLD_LOCAL);

        CHECK(handle != NULL);
        wait_for_jobs(2);
        CHECK_INT(dlclose(handle), 0);
        wait_for_jobs(2);
    }
    /* While it is half loaded, jobs may see the library at the end of the loader's list. */
    for (int i = 0; i < 100; i++) {
        CHECK(dlopen(failing, RTLD_NOW | RTLD_LOCAL) == NULL);
        usleep(1000);
    }
    CHECK(dlopen("libcrypto.so.3", RTLD_NOW | RTLD_LOCAL) != NULL);
    wait_for_jobs(300);
    stop = 1;
    CHECK_INT(pthread_join(thread, NULL), 0);
}
