/*
 * dlopen.c: `dlopen LIBRARY` loads and unloads the library without being linked to it. A thread
 * that used it ends after the dlclose; the process forks after the dlclose, and with fork handlers
 * that it registered before the library registered its own.
 */
#include "require.h"
#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
#include <openssl/async.h>

static const char *path;
static pthread_barrier_t used, closed;
static int (*start_job)(ASYNC_JOB **, ASYNC_WAIT_CTX *, int *, int (*)(void *), void *, size_t);
static int (*pause_job)(void);

static int func(void *args)
{
    pause_job();
    return *(int *)args;
}

static void use(void)
{
    ASYNC_JOB *job = NULL;
    int ret = 0, args = 42;

    REQUIRE(start_job(&job, NULL, &ret, func, &args, sizeof(args)) == ASYNC_PAUSE);
    REQUIRE(start_job(&job, NULL, &ret, func, NULL, 0) == ASYNC_FINISH);
    REQUIRE(ret == 42);
}

/* ---- fork while a lock of the program's is held ---- */

/*
 * The program holds its own lock when it calls the library, and across fork. Its fork handlers call
 * the library too: as they were registered first, they run while the library's locks are held for
 * the fork.
 */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static ASYNC_WAIT_CTX *ctx;
static int (*set_wait_fd)(ASYNC_WAIT_CTX *, const void *, int, void *,
                          void (*)(ASYNC_WAIT_CTX *, const void *, int, void *));
static int (*clear_fd)(ASYNC_WAIT_CTX *, const void *);
static volatile int stop;

static void use_the_context(void)
{
    REQUIRE(set_wait_fd(ctx, &lock, 1, NULL, NULL) == 1);
    REQUIRE(clear_fd(ctx, &lock) == 1);
}

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
    if (set_wait_fd != NULL)
        use_the_context();
}

static void after_fork(void)
{
    if (set_wait_fd != NULL)
        use_the_context();
    pthread_mutex_unlock(&lock);
}

static void *call_with_the_lock(void *unused)
{
    while (!stop) {
        pthread_mutex_lock(&lock);
        set_wait_fd(ctx, &path, 1, NULL, NULL);
        clear_fd(ctx, &path);
        pthread_mutex_unlock(&lock);
    }
    return unused;
}

static void fork_with_locks(void *library)
{
    ASYNC_WAIT_CTX *(*new)(void);
    pthread_t thread;
    int i, status;

    *(void **)&new = dlsym(library, "ASYNC_WAIT_CTX_new");
    *(void **)&set_wait_fd = dlsym(library, "ASYNC_WAIT_CTX_set_wait_fd");
    *(void **)&clear_fd = dlsym(library, "ASYNC_WAIT_CTX_clear_fd");
    ctx = new();
    REQUIRE(pthread_create(&thread, NULL, call_with_the_lock, NULL) == 0);
    for (i = 0; i < 3; i++) { /* each may take seconds, in which the locks wait for each other */
        if (fork() == 0) {
            alarm(20);
            use_the_context();
            _exit(0);
        }
        REQUIRE(wait(&status) > 0 && status == 0);
    }
    stop = 1;
    REQUIRE(pthread_join(thread, NULL) == 0);
}

/* ---- load, use, unload ---- */

static void *load_and_use(void *unused)
{
    int round;

    for (round = 0; round < 100; round++) {
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);

        REQUIRE(library != NULL);
        *(void **)&start_job = dlsym(library, "ASYNC_start_job");
        *(void **)&pause_job = dlsym(library, "ASYNC_pause_job");
        use();
        REQUIRE(dlclose(library) == 0);
    }
    pthread_barrier_wait(&used);
    pthread_barrier_wait(&closed);
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    int status;

    REQUIRE(argc == 2);
    path = argv[1];
    REQUIRE(pthread_atfork(before_fork, after_fork, after_fork) == 0);
    pthread_barrier_init(&used, NULL, 2);
    pthread_barrier_init(&closed, NULL, 2);
    REQUIRE(pthread_create(&thread, NULL, load_and_use, NULL) == 0);
    pthread_barrier_wait(&used);
    if (fork() == 0)
        _exit(0);
    REQUIRE(wait(&status) > 0 && status == 0);
    pthread_barrier_wait(&closed);
    REQUIRE(pthread_join(thread, NULL) == 0);
    use();
    fork_with_locks(dlopen(path, RTLD_NOW));
    return 0;
}
