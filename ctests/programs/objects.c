/*
 * objects.c: jobs find a fake libcrypto (plug_in.c) exactly where dlsym() does, however odd the
 * object is that it is in. OBJECT, an environment variable, names it, SEEN is set where dlsym() is
 * to find it; OBJECTS names several, separated by colons.
 */
#include "jobs.h"
#include <dlfcn.h>
#include <link.h>
#include <stdatomic.h>

static int job(void *unused)
{
    (void)unused;
    return 1;
}

static void run_jobs(int count)
{
    for (int i = 0; i < count; i++) {
        ASYNC_JOB *handle = NULL;
        int ret;

        CHECK_INT(ASYNC_start_job(&handle, NULL, &ret, job, NULL, 0), ASYNC_FINISH);
    }
}

static void *(*set_default)(void *);

static int keeps_its_default(void *arg)
{
    set_default(arg);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(set_default(NULL) == arg);
    return 5;
}

CASE(an_object_is_seen_as_dlsym_sees_it, OURS,
     "a job keeps its default, and errors are queued, in a libcrypto of any form")
{
    const char *above = getenv("LOADED_BELOW_ITS_ADDRESS");
    void *handle, *before;
    struct link_map *map;
    ASYNC_JOB *paused = NULL;
    int *errors, ret = -1;

    run_jobs(1);
    handle = dlopen(getenv("OBJECT"), RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(handle != NULL);
    CHECK_INT(dlinfo(handle, RTLD_DI_LINKMAP, &map), 0);
    if (above != NULL)
        CHECK((intptr_t)map->l_addr < 0);
    errors = dlsym(handle, "fake_errors");
    *(void **)&set_default = dlsym(handle, "OSSL_LIB_CTX_set0_default");
    CHECK((errors != NULL) == (getenv("SEEN") != NULL));
    run_jobs(300);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    if (errors == NULL)
        return;
    CHECK_INT(*errors, 1);
    before = set_default(NULL);
    CHECK_INT(ASYNC_start_job(&paused, NULL, &ret, keeps_its_default, &ret, 8), ASYNC_PAUSE);
    CHECK(set_default(NULL) == before);
    finish(paused, 5);
    CHECK(set_default(NULL) == before);
}

/* ---- libcryptos that come and go ---- */

static atomic_int stop, jobs;

static void *starts_jobs(void *unused)
{
    while (!stop) {
        run_jobs(1);
        CHECK_INT(ASYNC_init_thread(1, 2), 0);
        jobs++;
        sched_yield(); /* valgrind runs one thread at a time, until that thread waits */
    }
    return unused;
}

/* Each one is there for a moment, until it is found and pinned. */
CASE(objects_come_and_go, OURS,
     "jobs run while another thread loads and unloads libcryptos that may be unloaded")
{
    int rounds = atoi(getenv("ROUNDS"));
    pthread_t thread[2];

    for (int i = 0; i < 2; i++)
        CHECK_INT(pthread_create(&thread[i], NULL, starts_jobs, NULL), 0);
    while (jobs < 10)
        usleep(100);
    for (int round = 0; round < rounds; round++) {
        char *names = strdup(getenv("OBJECTS"));

        for (char *name = strtok(names, ":"); name != NULL; name = strtok(NULL, ":")) {
            void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);

            CHECK(handle != NULL);
            usleep(round * 7 % 100);
            CHECK_INT(dlclose(handle), 0);
        }
        free(names);
    }
    stop = 1;
    for (int i = 0; i < 2; i++)
        CHECK_INT(pthread_join(thread[i], NULL), 0);
}

/* ---- the cost of other objects ---- */

/*
 * Runs TIMES jobs, loads the objects of OBJECTS, runs as many again, and the same on another
 * thread. The runner counts the instructions.
 */
static void *run_times(void *unused)
{
    run_jobs(atoi(getenv("TIMES")));
    return unused;
}

CASE(unrelated_objects, OURS, "objects that have nothing to do with libcrypto cost jobs nothing")
{
    run_times(NULL);
    for (char *name = strtok(getenv("OBJECTS"), ":"); name != NULL; name = strtok(NULL, ":"))
        CHECK(dlopen(name, RTLD_NOW | RTLD_LOCAL) != NULL);
    run_times(NULL);
    on_new_thread(run_times, NULL);
}

/* ---- a library between the program and rsasync (wrapper.c) ---- */

CASE(wrapped_functions, OURS, "A library that wraps ASYNC_init_thread reaches the one behind it")
{
    int *calls = dlsym(RTLD_DEFAULT, "wrapped_calls");

    CHECK(calls != NULL);
    CHECK_INT(ASYNC_init_thread(2, 1), 1);
    CHECK_INT(*calls, 1);
    finish(paused_job(NULL, 1, 5), 5);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(*calls, 2);
    ASYNC_cleanup_thread();
}
