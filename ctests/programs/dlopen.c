/*
 * The library, loaded and unloaded by a program that is not linked to it: `dlopen LIBRARY`.
 * A thread that used it ends after the dlclose, and a fork comes after it.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <openssl/async.h>

#define REQUIRE(cond) \
    do { \
        if (!(cond)) { \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #cond); \
            exit(1); \
        } \
    } while (0)

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
    return 0;
}
