/*
 * beside_libcrypto.c: `beside_libcrypto LIBCRYPTO [PLUG_IN]` runs jobs by libcrypto's own functions,
 * which it finds by its handle, beside those of the functions that the program is bound to. With
 * PLUG_IN the functions are those that this object sees, loaded with RTLD_DEEPBIND: it is this file
 * compiled with -DPLUG_IN.
 */
#include "require.h"
#include <dlfcn.h>
#include <pthread.h>
#include <openssl/async.h>

/* The functions of one library. */
struct library {
    int (*start)(ASYNC_JOB **, ASYNC_WAIT_CTX *, int *, int (*)(void *), void *, size_t);
    int (*pause)(void);
    int (*init_thread)(size_t, size_t);
    void (*cleanup_thread)(void);
    ASYNC_JOB *(*current)(void);
    ASYNC_WAIT_CTX *(*new_ctx)(void);
    void (*free_ctx)(ASYNC_WAIT_CTX *);
};

#ifdef PLUG_IN
/* The functions that this object is bound to. */
const struct library bound = {
    ASYNC_start_job, ASYNC_pause_job, ASYNC_init_thread, ASYNC_cleanup_thread,
    ASYNC_get_current_job, ASYNC_WAIT_CTX_new, ASYNC_WAIT_CTX_free,
};
#else

struct run {
    const struct library *library;
    int number;
};

static int pauses_twice(void *arg)
{
    struct run *run = arg;
    ASYNC_JOB *me = run->library->current();

    REQUIRE(me != NULL);
    REQUIRE(run->library->pause() == 1);
    REQUIRE(run->library->pause() == 1);
    REQUIRE(run->library->current() == me);
    return run->number;
}

static const struct library *both[2];

enum { JOBS = 8, ROUNDS = 50 };

/* Jobs of both libraries take turns. */
static void *take_turns(void *unused)
{
    ASYNC_WAIT_CTX *ctx[2] = { both[0]->new_ctx(), both[1]->new_ctx() };

    for (int round = 0; round < ROUNDS; round++) {
        ASYNC_JOB *jobs[JOBS] = { NULL };

        if (round == ROUNDS / 2) {
            REQUIRE(both[0]->init_thread(0, 2) == 0);
            REQUIRE(both[0]->init_thread(JOBS, 2) == 1);
        }
        for (int step = 0; step < 3; step++)
            for (int i = 0; i < JOBS; i++) {
                struct run run = { both[i % 2], i };
                int ret = -1;
                int status = run.library->start(&jobs[i], ctx[i % 2], &ret, pauses_twice, &run,
                                                sizeof run);

                REQUIRE(status == (step < 2 ? ASYNC_PAUSE : ASYNC_FINISH));
                REQUIRE(step < 2 || ret == i);
                REQUIRE(both[0]->current() == NULL && both[1]->current() == NULL);
            }
    }
    for (int i = 0; i < 2; i++) {
        both[i]->free_ctx(ctx[i]);
        both[i]->cleanup_thread();
    }
    return unused;
}

static struct library library_of(void *handle)
{
    struct library it;

    *(void **)&it.start = dlsym(handle, "ASYNC_start_job");
    *(void **)&it.pause = dlsym(handle, "ASYNC_pause_job");
    *(void **)&it.init_thread = dlsym(handle, "ASYNC_init_thread");
    *(void **)&it.cleanup_thread = dlsym(handle, "ASYNC_cleanup_thread");
    *(void **)&it.current = dlsym(handle, "ASYNC_get_current_job");
    *(void **)&it.new_ctx = dlsym(handle, "ASYNC_WAIT_CTX_new");
    *(void **)&it.free_ctx = dlsym(handle, "ASYNC_WAIT_CTX_free");
    REQUIRE(it.start != NULL && it.free_ctx != NULL);
    return it;
}

int main(int argc, char **argv)
{
    static const struct library ours = {
        ASYNC_start_job, ASYNC_pause_job, ASYNC_init_thread, ASYNC_cleanup_thread,
        ASYNC_get_current_job, ASYNC_WAIT_CTX_new, ASYNC_WAIT_CTX_free,
    };
    static struct library theirs;
    pthread_t thread;
    void *handle;

    REQUIRE(argc == 2 || argc == 3);
    handle = dlopen(argv[argc - 1], RTLD_NOW | RTLD_LOCAL | (argc == 3 ? RTLD_DEEPBIND : 0));
    if (handle == NULL)
        fprintf(stderr, "%s\n", dlerror());
    REQUIRE(handle != NULL);
    theirs = argc == 3 ? *(struct library *)dlsym(handle, "bound") : library_of(handle);
    both[0] = &ours;
    both[1] = &theirs;
    /* The jobs are not both libcrypto's own. */
    REQUIRE(ours.start != theirs.start || getenv("SAME") != NULL);
    take_turns(NULL);
    REQUIRE(pthread_create(&thread, NULL, take_turns, NULL) == 0);
    REQUIRE(pthread_join(thread, NULL) == 0);
    return 0;
}
#endif
