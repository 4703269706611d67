/*
 * fork_beside_dlopen.c: `fork_beside_dlopen LIBRARY OBJECT` loads OBJECT while it forks, after the
 * library's own fork handler: the child finds the libcrypto that it loads itself all the same. Built
 * with -DOBJECT it is that object.
 */
#ifdef OBJECT
int object;
#else
# include "require.h"
# include <dlfcn.h>
# include <pthread.h>
# include <sys/wait.h>
# include <unistd.h>
# include <openssl/async.h>

static const char *object;
static int (*start_job)(ASYNC_JOB **, ASYNC_WAIT_CTX *, int *, int (*)(void *), void *, size_t);
static int (*pause_job)(void);
static void *(*set_default)(void *);
static void *context;

static void load_object(void)
{
    REQUIRE(dlopen(object, RTLD_NOW) != NULL);
}

static int ends(void *args)
{
    (void)args;
    return 1;
}

static int sets_its_default(void *args)
{
    (void)args;
    set_default(context);
    pause_job();
    return set_default(NULL) == context;
}

static void run(void)
{
    ASYNC_JOB *job = NULL;
    int ret;

    REQUIRE(start_job(&job, NULL, &ret, ends, NULL, 0) == ASYNC_FINISH);
}

/* Two jobs have looked for a libcrypto before there is one. */
static void loads_libcrypto(void)
{
    ASYNC_JOB *job = NULL;
    void *libcrypto, *callers, *(*new_context)(void);
    int ret;

    run();
    run();
    libcrypto = dlopen(LIBCRYPTO, RTLD_NOW);
    REQUIRE(libcrypto != NULL);
    *(void **)&set_default = dlsym(libcrypto, "OSSL_LIB_CTX_set0_default");
    *(void **)&new_context = dlsym(libcrypto, "OSSL_LIB_CTX_new");
    REQUIRE(set_default != NULL && new_context != NULL);
    callers = set_default(NULL);
    context = new_context();
    REQUIRE(start_job(&job, NULL, &ret, sets_its_default, NULL, 0) == ASYNC_PAUSE);
    REQUIRE(set_default(NULL) == callers);
    REQUIRE(start_job(&job, NULL, &ret, sets_its_default, NULL, 0) == ASYNC_FINISH && ret == 1);
    REQUIRE(set_default(NULL) == callers);
}

int main(int argc, char **argv)
{
    void *library;
    int status;
    pid_t pid;

    REQUIRE(argc == 3);
    object = argv[2];
    /* What is registered first is called last before a fork. */
    REQUIRE(pthread_atfork(load_object, NULL, NULL) == 0);
    library = dlopen(argv[1], RTLD_NOW);
    REQUIRE(library != NULL);
    *(void **)&start_job = dlsym(library, "ASYNC_start_job");
    *(void **)&pause_job = dlsym(library, "ASYNC_pause_job");
    run();
    pid = fork();
    if (pid == 0) {
        loads_libcrypto();
        _exit(0);
    }
    REQUIRE(waitpid(pid, &status, 0) == pid && status == 0);
    return 0;
}
#endif
