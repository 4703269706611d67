/*
 * discover.c: the library finds a libcrypto whenever and however it was loaded, also a second one;
 * jobs keep their default contexts in it, and errors reach its queue.
 */
#include "lib_ctx.h"
#include <semaphore.h>
#include <stdatomic.h>

/* All cases are OURS: they load libcrypto by dlopen, and none is linked. */
#if LIBCRYPTO_MAJOR >= 3 && !defined(WITH_LIBCRYPTO)
/*
 * A shared object that may be unloaded. As long as it is the last one in the loader's list, the
 * library cannot keep the end of the list as the place where newer objects follow.
 */
static void *plug_in;
static int plug_in_is_unloaded;

#ifdef __GLIBC__ /* musl has no such object, and unloads nothing */
static void load_plug_in(void)
{
    plug_in = dlopen("libanl.so.1", RTLD_NOW | RTLD_LOCAL);
    CHECK(plug_in != NULL);
}

static void load_plug_in_to_unload(void)
{
    load_plug_in();
    plug_in_is_unloaded = 1;
}
#endif

static void libcrypto_after_a_job(void)
{
    ASYNC_JOB *early = paused_job(NULL, 1, 6), *job = NULL;

    load_libcrypto();
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step steps[] = { { b, a }, { a, NULL }, { a, NULL } };

    OSSL_LIB_CTX_set0_default(b);
    CHECK_INT(start_or_resume(&job, NULL, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(start_or_resume(&job, NULL, STEPS(steps)), ASYNC_PAUSE);
    finish(early, 6);
    CHECK(current() == b);
    CHECK_INT(start_or_resume(&job, NULL, STEPS(steps)), ASYNC_FINISH);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

CASE(a_libcrypto_may_be_loaded_after_the_first_job, OURS,
     "a job finds a libcrypto that was loaded by dlopen after other jobs have run")
{
    libcrypto_after_a_job();
}

#ifdef __GLIBC__ /* musl has no such object, and unloads nothing */
CASE(a_libcrypto_may_be_loaded_after_a_plug_in, OURS,
     "a job finds a libcrypto that was loaded after an object that may be unloaded")
{
    load_plug_in();
    libcrypto_after_a_job();
}
#endif

static OSSL_LIB_CTX *set_in_the_job;

static int load_and_set(void *arg)
{
    (void)arg;
    CHECK_INT(ASYNC_pause_job(), 1);
    load_libcrypto();
    set_in_the_job = new_ctx();
    OSSL_LIB_CTX_set0_default(set_in_the_job);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current() == set_in_the_job);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current() == set_in_the_job);
    return 6;
}

CASE(a_libcrypto_may_be_loaded_by_a_job, OURS,
     "a job that loads a libcrypto between two pauses, and sets its default, keeps that default")
{
    ASYNC_JOB *job = NULL;
    OSSL_LIB_CTX *mine;
    int ret = 77;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, load_and_set, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(resume(&job, &ret), ASYNC_PAUSE);
    CHECK(current() == global());
    mine = new_ctx();
    OSSL_LIB_CTX_set0_default(mine);
    CHECK_INT(resume(&job, &ret), ASYNC_PAUSE);
    CHECK(current() == mine);
    finish(job, 6);
    CHECK(current() == mine);
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    OSSL_LIB_CTX_free(mine);
    OSSL_LIB_CTX_free(set_in_the_job);
}

/* The library and the reason of an error code, at their places in OpenSSL 3. */
static void check_invalid_pool_size(unsigned long code)
{
    enum { ASYNC_LIBRARY = 51, INVALID_POOL_SIZE = 103 };

    CHECK_INT(code >> 23 & 0xff, ASYNC_LIBRARY);
    CHECK_INT(code & 0x7fffff, INVALID_POOL_SIZE);
}

CASE(errors_reach_a_libcrypto_loaded_before_the_first_call, OURS,
     "a refused call queues its error in a libcrypto that was loaded by dlopen")
{
    load_libcrypto();
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_invalid_pool_size(ERR_get_error());
    CHECK_INT(ERR_get_error(), 0);
}

CASE(errors_reach_a_libcrypto_loaded_later, OURS,
     "errors go to the queue of a libcrypto that was loaded late; earlier errors do not")
{
    ASYNC_JOB *job;

    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK(RSASYNC_last_error()[0] != '\0');
    job = paused_job(NULL, 1, 6);
    load_libcrypto();
    CHECK_INT(ERR_get_error(), 0);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_invalid_pool_size(ERR_get_error());
    CHECK_INT(ERR_get_error(), 0);
    finish(job, 6);
    CHECK_INT(ERR_get_error(), 0);
    ASYNC_cleanup_thread();
}

CASE(a_libcrypto_that_was_found_stays, OURS,
     "after the program's dlclose of libcrypto jobs keep their defaults and errors reach its queue")
{
    load_libcrypto();
    OSSL_LIB_CTX *a = new_ctx();
    const struct step steps[] = { { global(), a }, { a, NULL } };
    ASYNC_JOB *job = NULL;

    CHECK_INT(start_or_resume(&job, NULL, STEPS(steps)), ASYNC_PAUSE);
    CHECK_INT(dlclose(libcrypto), 0);
    CHECK_INT(start_or_resume(&job, NULL, STEPS(steps)), ASYNC_FINISH);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_invalid_pool_size(ERR_get_error());
    ASYNC_cleanup_thread();
    OSSL_LIB_CTX_free(a);
}

/* A second libcrypto: a copy of the first one's file, which the loader treats as another object. */
static void *load_second_libcrypto(void)
{
    char name[] = "/tmp/libcrypto-copy-XXXXXX", block[1 << 16];
    struct link_map *map;
    int to = mkstemp(name);
    FILE *from;
    void *second;
    size_t n;

    CHECK(to >= 0);
    CHECK_INT(dlinfo(libcrypto, RTLD_DI_LINKMAP, &map), 0);
    from = fopen(map->l_name, "rb");
    CHECK(from != NULL);
    while ((n = fread(block, 1, sizeof block, from)) > 0)
        CHECK(write(to, block, n) == (ssize_t)n);
    CHECK_INT(fclose(from), 0);
    CHECK_INT(close(to), 0);
    second = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    CHECK_INT(unlink(name), 0);
    CHECK(second != NULL && second != libcrypto);
    return second;
}

/* The functions of the second libcrypto. */
static OSSL_LIB_CTX *(*second_new)(void);
static void (*second_free)(OSSL_LIB_CTX *ctx);
static OSSL_LIB_CTX *(*second_set0_default)(OSSL_LIB_CTX *ctx);
static unsigned long (*second_get_error)(void);

static int nothing(void *arg)
{
    (void)arg;
    return 1;
}

static void run_jobs(int count)
{
    for (int i = 0; i < count; i++) {
        ASYNC_JOB *job = NULL;
        int ret;

        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, nothing, NULL, 0), ASYNC_FINISH);
    }
}

struct pair {
    OSSL_LIB_CTX *first, *second;
};

static int set_both(void *arg)
{
    struct pair *own = arg;
    int i;

    OSSL_LIB_CTX_set0_default(own->first);
    second_set0_default(own->second);
    for (i = 0; i < 2; i++) {
        CHECK_INT(ASYNC_pause_job(), 1);
        CHECK(current() == own->first);
        CHECK(second_set0_default(NULL) == own->second);
    }
    return 6;
}

/*
 * Loads a libcrypto, calls `between`, runs a job, loads a second libcrypto and runs `jobs_after`
 * jobs. Then a job keeps its default in both.
 */
static void two_libcryptos(void (*between)(void), int jobs_after)
{
    void *copy;
    OSSL_LIB_CTX *callers;
    struct pair own;
    ASYNC_JOB *job = NULL;
    int i, ret = 77;

    load_libcrypto();
    between();
    run_jobs(1);
    if (plug_in_is_unloaded)
        CHECK_INT(dlclose(plug_in), 0);
    copy = load_second_libcrypto();
    run_jobs(jobs_after);
    second_new = (OSSL_LIB_CTX *(*)(void))dlsym(copy, "OSSL_LIB_CTX_new");
    second_free = (void (*)(OSSL_LIB_CTX *))dlsym(copy, "OSSL_LIB_CTX_free");
    second_set0_default =
        (OSSL_LIB_CTX *(*)(OSSL_LIB_CTX *))dlsym(copy, "OSSL_LIB_CTX_set0_default");
    second_get_error = (unsigned long (*)(void))dlsym(copy, "ERR_get_error");
    CHECK(second_new != OSSL_LIB_CTX_new);
    callers = second_set0_default(NULL);
    CHECK(callers != NULL && callers != global());
    own.first = new_ctx();
    own.second = second_new();
    CHECK(own.second != NULL);
    for (i = 0; i < 3; i++) {
        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, set_both, &own, sizeof own),
                  i < 2 ? ASYNC_PAUSE : ASYNC_FINISH);
        CHECK(current() == global());
        CHECK(second_set0_default(NULL) == callers);
    }
    CHECK_INT(ret, 6);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_invalid_pool_size(ERR_get_error());
    CHECK_INT(second_get_error(), 0);
    ASYNC_cleanup_thread();
    OSSL_LIB_CTX_free(own.first);
    second_free(own.second);
}

static void load_nothing(void)
{
}

CASE(a_job_keeps_its_default_in_two_libcryptos, OURS,
     "with two libcryptos in the process a job keeps its default in both; errors go to the first")
{
    two_libcryptos(load_nothing, 0);
}

#ifdef __GLIBC__ /* musl has no such object, and unloads nothing */
CASE(a_second_libcrypto_may_be_loaded_after_a_plug_in, OURS,
     "jobs find a second libcrypto that was loaded after an object that may be unloaded, 256 jobs "
     "later")
{
    two_libcryptos(load_plug_in, 256);
}
#endif

#ifdef __GLIBC__ /* musl has no such object, and unloads nothing */
CASE(a_second_libcrypto_may_replace_a_plug_in, OURS,
     "jobs find a second libcrypto that was loaded after another object was unloaded: as many "
     "objects are loaded as before")
{
    two_libcryptos(load_plug_in_to_unload, 256);
}
#endif

/* ---- the child of a process with threads ---- */

static sem_t never;
static atomic_int in_the_loader;

static void *does_nothing(void *unused)
{
    sem_wait(&never);
    return unused;
}

/* Called with the lock of the loader's list of objects held. */
static int stays_long(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)info;
    (void)size;
    (void)unused;
    in_the_loader = 1;
    sleep(2);
    return 1;
}

static void *stays_in_the_loader(void *unused)
{
    dl_iterate_phdr(stays_long, unused);
    return NULL;
}

/* Runs f in a child of a process with another thread. The alarm ends a child that hangs. */
static void in_a_child(void *(*other)(void *), void (*f)(void))
{
    pthread_t thread;

    CHECK_INT(sem_init(&never, 0, 0), 0);
    CHECK_INT(pthread_create(&thread, NULL, other, NULL), 0);
    while (other == stays_in_the_loader && !in_the_loader)
        usleep(1000);
    CHECK_INT(check_child(f, 0), 0);
    CHECK_INT(sem_post(&never), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
}

/* In a child: a job keeps its default in the libcrypto, and an error reaches its queue. */
static void keep_a_default_and_queue_an_error(void)
{
    OSSL_LIB_CTX *a = new_ctx(), *b = new_ctx();
    const struct step steps[] = { { b, a }, { a, NULL }, { a, NULL } };
    ASYNC_JOB *job = NULL;

    alarm(20);
    OSSL_LIB_CTX_set0_default(b);
    for (int i = 0; i < 3; i++)
        CHECK_INT(start_or_resume(&job, NULL, STEPS(steps)), i < 2 ? ASYNC_PAUSE : ASYNC_FINISH);
    CHECK(current() == b);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_invalid_pool_size(ERR_get_error());
    OSSL_LIB_CTX_set0_default(global());
    ASYNC_cleanup_thread();
    OSSL_LIB_CTX_free(a);
    OSSL_LIB_CTX_free(b);
}

static void load_and_use(void)
{
    alarm(20);
    libcrypto_after_a_job();
    keep_a_default_and_queue_an_error();
}

CASE(a_child_may_load_a_libcrypto, OURS,
     "in a libcrypto that the child of a process with threads loads, jobs keep their defaults, and "
     "errors are queued")
{
    run_jobs(1);
    in_a_child(does_nothing, load_and_use);
}

CASE(a_child_may_load_a_libcrypto_where_no_job_has_run, OURS,
     "the same where the parent has not started a job")
{
    in_a_child(does_nothing, load_and_use);
}

/* A child that forks has one thread, as its parent had; both load a libcrypto. */
static void fork_and_load(void)
{
    CHECK_INT(check_child(load_and_use, 0), 0);
    load_and_use();
}

CASE(a_child_of_a_child_may_load_a_libcrypto, OURS,
     "a child and its own child each find the libcrypto that they load")
{
    run_jobs(1);
    in_a_child(does_nothing, fork_and_load);
}

CASE(a_child_finds_what_its_parent_has_loaded, OURS,
     "a child finds the libcrypto that its parent has loaded and not used")
{
    load_libcrypto();
    in_a_child(does_nothing, keep_a_default_and_queue_an_error);
}

static void uses_jobs(void)
{
    alarm(20);
    run_jobs(300);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK(RSASYNC_last_error()[0] != '\0');
    ASYNC_cleanup_thread();
}

/*
 * In the child the lock of the loader's list stays locked for ever, and glibc's own dlopen() would
 * wait for it.
 */
CASE(a_child_needs_no_lock_of_the_loader, OURS,
     "a child runs jobs although a thread of its parent was in the loader's list at the fork")
{
    run_jobs(1);
    in_a_child(stays_in_the_loader, uses_jobs);
}

CASE(a_child_needs_no_lock_for_a_libcrypto, OURS,
     "a child keeps defaults in the libcrypto that its parent has used, although a thread of its "
     "parent was in the loader's list at the fork")
{
    load_libcrypto();
    run_jobs(1);
    in_a_child(stays_in_the_loader, keep_a_default_and_queue_an_error);
}

CASE(rsasync_loads_no_libcrypto, OURS,
     "a process without libcrypto still has none after jobs and errors")
{
    ASYNC_JOB *job = paused_job(NULL, 1, 6);

    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    finish(job, 6);
    CHECK(dlopen(LIBCRYPTO, RTLD_NOW | RTLD_NOLOAD) == NULL);
    ASYNC_cleanup_thread();
}
#endif
