/*
 * handler_in_plug_in.c: the library is loaded by dlopen, as a part of a plug-in. A signal handler
 * makes the first call of a thread: the C library allocates the thread's memory of such a library
 * at its first use, and the handler may have interrupted an allocation.
 */
#include "require.h"
#include <dlfcn.h>
#include <openssl/async.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>

static ASYNC_JOB *(*get_current_job)(void);
static volatile sig_atomic_t in_handler, allocations;

void *__libc_malloc(size_t size);

/* All of the process's allocations, those of the loader too. */
void *malloc(size_t size)
{
    allocations += in_handler;
    return __libc_malloc(size);
}

static void handle(int signal_number)
{
    (void)signal_number;
    in_handler = 1;
    REQUIRE(get_current_job() == NULL);
    in_handler = 0;
}

static void *thread(void *arg)
{
    raise(SIGUSR1);
    return arg;
}

int main(int argc, char **argv)
{
    struct sigaction action = { .sa_handler = handle };
    pthread_t id;
    void *library;

    REQUIRE(argc == 2);
    library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    REQUIRE(library != NULL);
    *(void **)&get_current_job = dlsym(library, "ASYNC_get_current_job");
    REQUIRE(get_current_job != NULL);
    REQUIRE(get_current_job() == NULL); /* a library may initialise itself */
    REQUIRE(sigaction(SIGUSR1, &action, NULL) == 0);
    REQUIRE(pthread_create(&id, NULL, thread, NULL) == 0);
    REQUIRE(pthread_join(id, NULL) == 0);
    REQUIRE(allocations == 0);
    return 0;
}
