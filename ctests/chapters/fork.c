/* fork: both sides keep the forking thread's jobs, and every call works in the child. */
#include "check.h"
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#ifdef WITH_LIBCRYPTO
# include <openssl/err.h>
#endif

static char token;

/* A child that hangs must end by itself, with a signal that the parent sees. */
#define CHILD_SECONDS 20

static pid_t fork_one(void)
{
    pid_t pid = fork();

    CHECK(pid >= 0);
    if (pid == 0)
        alarm(CHILD_SECONDS);
    return pid;
}

static void expect_child_well(pid_t pid)
{
    int status;

    CHECK_INT(waitpid(pid, &status, 0), pid);
    CHECK_INT(WIFSIGNALED(status) ? WTERMSIG(status) : 0, 0);
    CHECK_INT(WEXITSTATUS(status), 0);
}

/* Pauses n times, counting on its stack; the result is what it was started with, and the count. */
struct counting {
    int start, pauses;
};

static int counting_job(void *arg)
{
    struct counting *args = arg;
    volatile int count = args->start;

    for (int i = 0; i < args->pauses; i++) {
        CHECK_INT(ASYNC_pause_job(), 1);
        count++;
    }
    CHECK_INT(count, args->start + args->pauses);
    return count;
}

static ASYNC_JOB *start_counting(ASYNC_WAIT_CTX *ctx, int start, int pauses)
{
    struct counting args = {start, pauses};
    ASYNC_JOB *job = NULL;
    int ret = -1;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, counting_job, &args, sizeof(args)), ASYNC_PAUSE);
    return job;
}

static void resume(ASYNC_JOB **job)
{
    int ret = -1;

    CHECK_INT(ASYNC_start_job(job, NULL, &ret, NULL, NULL, 0), ASYNC_PAUSE);
}

static void finish(ASYNC_JOB *job, int want)
{
    int ret = -1;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, want);
    CHECK(job == NULL);
}

static void *runs_a_job(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    finish(start_counting(ctx, 1, 1), 2);
    ASYNC_WAIT_CTX_free(ctx);
    return arg;
}

static void on_thread(void *(*func)(void *), void *arg)
{
    pthread_t thread;

    CHECK_INT(pthread_create(&thread, NULL, func, arg), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
}

static void use_everything(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_callback_fn callback;
    ASYNC_JOB *job;
    size_t n = 9, m = 9;
    int fd = -1;
    void *data;

    CHECK(ctx != NULL);
    CHECK(ASYNC_get_current_job() == NULL);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(ASYNC_is_capable(), 1);
    ASYNC_block_pause();
    ASYNC_unblock_pause();
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &token, 3, &token, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, &token, &fd, &data), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_OK), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(ctx), ASYNC_STATUS_OK);
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, NULL, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_callback(ctx, &callback, &data), 0);
    job = start_counting(ctx, 5, 2);
    CHECK(ASYNC_get_wait_ctx(job) == ctx);
    resume(&job);
    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, NULL, &n, NULL, &m), 1);
    CHECK_INT(n + m, 0);
    finish(job, 7);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &token), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(ctx, NULL, &n), 1);
    CHECK_INT(n, 0);
    CHECK_INT(ASYNC_init_thread(3, 2), 1);
    finish(start_counting(ctx, 1, 1), 2);
    ASYNC_cleanup_thread();
    finish(start_counting(ctx, 1, 1), 2);
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(ctx);
    on_thread(runs_a_job, NULL);
#ifndef ON_LIBCRYPTO
    struct rsasync_stats stats;

    RSASYNC_get_stats(&stats, sizeof(stats));
    CHECK(stats.stacks_in_use >= stats.stacks_unguarded);
    CHECK(RSASYNC_last_error() != NULL);
#endif
}

#define JOBS 8

static void forks_with_paused_jobs(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS];
    pid_t pid;

    for (int i = 0; i < JOBS; i++)
        job[i] = start_counting(ctx, 100 * i, 3);
    /* Some have been resumed before the fork, and one idle job is there. */
    for (int i = 0; i < JOBS; i += 2)
        resume(&job[i]);
    finish(start_counting(ctx, 1, 1), 2);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &token, 3, NULL, NULL), 1);
    pid = fork_one();
    /* The parent waits, so that what the child does to its copies would show here. */
    if (pid != 0)
        expect_child_well(pid);
    for (int i = JOBS - 1; i >= 0; i--) {
        size_t n_add, n_del;

        CHECK(ASYNC_get_wait_ctx(job[i]) == ctx);
        CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, NULL, &n_add, NULL, &n_del), 1);
        CHECK_INT(n_add, i == JOBS - 1);
        if (i % 2 != 0)
            resume(&job[i]);
        resume(&job[i]);
        finish(job[i], 100 * i + 3);
    }
    ASYNC_WAIT_CTX_free(ctx);
    use_everything();
    if (pid == 0)
        _exit(0);
}

CASE(both_sides_finish_the_paused_jobs, SINCE_3_0,
     "jobs paused at a fork can be finished in the child, and in the parent as if nothing had been")
{
    forks_with_paused_jobs();
}

static void *forks_on_a_thread(void *arg)
{
    forks_with_paused_jobs();
    return arg;
}

CASE(a_thread_that_forks_keeps_its_jobs, SINCE_3_0,
     "the same where not the main thread forks, though in the child it is the only one")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = start_counting(ctx, 10, 2);

    on_thread(forks_on_a_thread, NULL);
    resume(&job);
    finish(job, 12);
    ASYNC_WAIT_CTX_free(ctx);
}

static pid_t job_fork;

static int forking_job(void *arg)
{
    ASYNC_JOB *self = ASYNC_get_current_job();
    volatile int mine = 1;

    (void)arg;
    job_fork = fork_one();
    if (job_fork != 0)
        expect_child_well(job_fork);
    CHECK(ASYNC_get_current_job() == self);
    mine += job_fork == 0 ? 10 : 20;
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(ASYNC_get_current_job() == self);
    mine += job_fork == 0 ? 100 : 200;
    return mine;
}

CASE(both_sides_go_on_in_a_job_that_forks, SINCE_3_0,
     "a job that forks goes on in both processes: it pauses, is resumed and ends in each")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *before = start_counting(ctx, 50, 1);
    int ret = -1;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, forking_job, NULL, 0), ASYNC_PAUSE);
    CHECK(ASYNC_get_current_job() == NULL);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, job_fork == 0 ? 111 : 221);
    finish(before, 51);
    ASYNC_WAIT_CTX_free(ctx);
    use_everything();
    if (job_fork == 0)
        _exit(0);
}

static int nesting_job(void *arg)
{
    ASYNC_JOB *self = ASYNC_get_current_job(), *inner = NULL;
    int ret = -1;

    (void)arg;
    CHECK_INT(ASYNC_start_job(&inner, NULL, &ret, forking_job, NULL, 0), ASYNC_PAUSE);
    CHECK(ASYNC_get_current_job() == self);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(ASYNC_start_job(&inner, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    return ret;
}

/* libcrypto corrupts itself when jobs are nested. */
CASE(both_sides_go_on_in_a_nested_job_that_forks, OURS,
     "a fork in a nested job leaves the whole nest intact in both processes")
{
    ASYNC_JOB *job = NULL;
    int ret = -1;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, nesting_job, NULL, 0), ASYNC_PAUSE);
    CHECK(ASYNC_get_current_job() == NULL);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, job_fork == 0 ? 111 : 221);
    if (job_fork == 0)
        _exit(0);
}

#define GENERATIONS 4

CASE(a_child_may_fork, SINCE_3_0,
     "a job paused before the first of several nested forks is resumed in each generation, and "
     "ends in all")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = start_counting(ctx, 10, GENERATIONS + 1), *fresh;
    pid_t pid = 0;
    int depth = 0;

    while (depth < GENERATIONS) {
        pid = fork_one();
        if (pid != 0)
            break;
        depth++;
        resume(&job);
        fresh = start_counting(ctx, depth, 1);
        finish(fresh, depth + 1);
    }
    if (pid != 0)
        expect_child_well(pid);
    for (int i = depth; i < GENERATIONS; i++)
        resume(&job);
    finish(job, 10 + GENERATIONS + 1);
    ASYNC_WAIT_CTX_free(ctx);
    use_everything();
    if (depth > 0)
        _exit(0);
}

static ASYNC_WAIT_CTX *ctx_before;
static ASYNC_JOB *job_before;

static void *forks_with_its_jobs(void *arg)
{
    ASYNC_JOB *mine = start_counting(ctx_before, 20, 1);
    pid_t pid = fork_one();

    if (pid == 0) {
        int ret = -1;
        ASYNC_JOB *job = job_before;

        /* Its thread is not in this process, and its thread-local memory may be had by another. */
        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
        CHECK(job == job_before);
        for (int i = 0; i < 4; i++)
            on_thread(arg, NULL);
        CHECK(ASYNC_get_wait_ctx(job_before) == ctx_before);
        finish(mine, 21);
        ASYNC_cleanup_thread();
        ASYNC_WAIT_CTX_free(ctx_before);
        CHECK(ASYNC_get_wait_ctx(job_before) == NULL);
        use_everything();
        _exit(0);
    }
    expect_child_well(pid);
    finish(mine, 21);
    return NULL;
}

static void *is_not_the_owner(void *arg)
{
    ASYNC_JOB *job = job_before;
    int ret = -1;

    runs_a_job(NULL);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
    CHECK(job == job_before);
    CHECK_INT(ret, -1);
    return arg;
}

/* libcrypto would run the job on the wrong thread. */
CASE(jobs_of_other_threads_are_nobodys_in_the_child, OURS,
     "no thread of the child can resume a job of a thread that did not fork; in the parent its "
     "own can")
{
    ctx_before = ASYNC_WAIT_CTX_new();
    job_before = start_counting(ctx_before, 30, 1);
    on_thread(forks_with_its_jobs, is_not_the_owner);
    finish(job_before, 31);
    ASYNC_WAIT_CTX_free(ctx_before);
}

static pthread_barrier_t forked;

static void *waits_for_the_fork(void *arg)
{
    ctx_before = ASYNC_WAIT_CTX_new();
    job_before = start_counting(ctx_before, 30, 1);
    pthread_barrier_wait(&forked);
    pthread_barrier_wait(&forked);
    finish(job_before, 31);
    ASYNC_WAIT_CTX_free(ctx_before);
    return arg;
}

/* libcrypto would run the job on the wrong thread. */
CASE(new_threads_of_the_child_do_not_inherit_jobs, OURS,
     "a thread made in the child is not the owner of a job whose thread the fork left behind")
{
    pthread_t thread;
    pid_t pid;

    CHECK_INT(pthread_barrier_init(&forked, NULL, 2), 0);
    CHECK_INT(pthread_create(&thread, NULL, waits_for_the_fork, NULL), 0);
    pthread_barrier_wait(&forked);
    pid = fork_one();
    if (pid == 0) {
        /* libc hands the stack and thread-local memory of the lost thread to a new one. */
        for (int i = 0; i < 4; i++)
            on_thread(is_not_the_owner, NULL);
        is_not_the_owner(NULL);
        _exit(0);
    }
    expect_child_well(pid);
    pthread_barrier_wait(&forked);
    CHECK_INT(pthread_join(thread, NULL), 0);
    pthread_barrier_destroy(&forked);
}

/* Forks while other threads are in the middle of any call. */
#define FORKS 300

static atomic_int stop, turns[3];

static void *makes_jobs(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    while (!atomic_load(&stop)) {
        ASYNC_JOB *job[4];

        for (int i = 0; i < 4; i++)
            job[i] = start_counting(ctx, i, 2);
        for (int i = 0; i < 4; i++) {
            resume(&job[i]);
            finish(job[i], i + 2);
        }
        ASYNC_cleanup_thread();
        CHECK_INT(ASYNC_init_thread(8, 2), 1);
        atomic_fetch_add(&turns[0], 1);
    }
    ASYNC_WAIT_CTX_free(ctx);
    return arg;
}

static void *makes_contexts(void *arg)
{
    static char keys[8];

    while (!atomic_load(&stop)) {
        ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

        for (int i = 0; i < 8; i++)
            CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &keys[i], i, NULL, NULL), 1);
        for (int i = 0; i < 8; i += 2)
            CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &keys[i]), 1);
        ASYNC_WAIT_CTX_free(ctx);
        atomic_fetch_add(&turns[1], 1);
    }
    return arg;
}

static void *makes_threads(void *arg)
{
    while (!atomic_load(&stop)) {
        on_thread(runs_a_job, NULL);
        atomic_fetch_add(&turns[2], 1);
    }
    return arg;
}

/*
 * libcrypto may hang: a lock that another thread held at the fork is never released.
 * Not on valgrind: in the child it would report what other threads had only in registers.
 * Not on the sanitizers, here and below: the locks of their own malloc are such locks.
 */
CASE(fork_while_other_threads_are_busy, OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "a child can make every call, whatever calls other threads were in the middle of at the fork")
{
    void *(*const busy[3])(void *) = {makes_jobs, makes_contexts, makes_threads};
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = start_counting(ctx, 40, 1);
    pthread_t thread[3];

    for (int i = 0; i < 3; i++)
        CHECK_INT(pthread_create(&thread[i], NULL, busy[i], NULL), 0);
    for (int i = 0; i < FORKS; i++) {
        pid_t pid = fork_one();

        if (pid == 0) {
            use_everything();
            finish(job, 41);
            ASYNC_WAIT_CTX_free(ctx);
            _exit(0);
        }
        expect_child_well(pid);
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(pthread_join(thread[i], NULL), 0);
        CHECK(atomic_load(&turns[i]) > 10);
    }
    finish(job, 41);
    ASYNC_WAIT_CTX_free(ctx);
}

static ASYNC_WAIT_CTX *shared_ctx;
static int cleaned;

static void count_cleanup(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    CHECK(ctx == shared_ctx);
    CHECK(key == &turns[fd % 2] && data == (void *)(uintptr_t)fd);
    cleaned++;
}

static void *changes_the_shared_context(void *key)
{
    while (!atomic_load(&stop)) {
        for (int i = 0; i < 4; i++) {
            int fd = 10 + 2 * i + (key == &turns[1]);

            CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(shared_ctx, key, fd, (void *)(uintptr_t)fd,
                                                 count_cleanup), 1);
        }
        for (int i = 0; i < 4; i++)
            CHECK_INT(ASYNC_WAIT_CTX_clear_fd(shared_ctx, key), 1);
        atomic_fetch_add((atomic_int *)key, 1);
    }
    return NULL;
}

/*
 * libcrypto has no locks here: threads may not share a context.
 * Not on valgrind: in the child it would report what other threads had only in registers.
 */
CASE(fork_while_other_threads_use_the_same_context,
     OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "a context that other threads were changing at the fork is whole and usable in the child")
{
    pthread_t thread[2];

    shared_ctx = ASYNC_WAIT_CTX_new();
    for (int i = 0; i < 2; i++)
        CHECK_INT(pthread_create(&thread[i], NULL, changes_the_shared_context, &turns[i]), 0);
    for (int i = 0; i < FORKS; i++) {
        pid_t pid = fork_one();

        if (pid == 0) {
            int list[16] = {0}, fd = -1;
            size_t n = 99, n_add = 99, n_del = 99;
            void *data;

            CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(shared_ctx, list, &n), 1);
            CHECK(n <= 8);
            for (size_t k = 0; k < 16; k++)
                CHECK((list[k] >= 10) == (k < n));
            CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(shared_ctx, NULL, &n_add, NULL, &n_del), 1);
            CHECK_INT(n_add, n);
            CHECK_INT(n_del, 0);
            CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(shared_ctx, &token, 5, NULL, NULL), 1);
            CHECK_INT(ASYNC_WAIT_CTX_get_fd(shared_ctx, &token, &fd, &data), 1);
            finish(start_counting(shared_ctx, 1, 1), 2);
            CHECK_INT(ASYNC_WAIT_CTX_clear_fd(shared_ctx, &token), 1);
            ASYNC_WAIT_CTX_free(shared_ctx);
            CHECK_INT(cleaned, n);
            _exit(0);
        }
        expect_child_well(pid);
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < 2; i++) {
        CHECK_INT(pthread_join(thread[i], NULL), 0);
        CHECK(atomic_load(&turns[i]) > 10);
    }
    ASYNC_WAIT_CTX_free(shared_ctx);
    CHECK_INT(cleaned, 0);
}

/* What a case has done between the library's own last work before a fork and the fork. */
static void (*just_before_the_fork)(void);

static void before_the_fork(void)
{
    if (just_before_the_fork != NULL)
        just_before_the_fork();
}

/* What is registered first is called last, and the library registers its own when it is loaded. */
static void register_first(void)
{
    pthread_atfork(before_the_fork, NULL, NULL);
}
__attribute__((section(".preinit_array"), used)) static void (*at_first)(void) = register_first;

static void *sets_and_clears(void *unused)
{
    while (!atomic_load(&stop)) {
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(shared_ctx, &token, 5, NULL, NULL), 1);
        CHECK_INT(ASYNC_WAIT_CTX_clear_fd(shared_ctx, &token), 1);
        atomic_fetch_add(&turns[0], 1);
    }
    return unused;
}

static double seconds(void)
{
    struct timespec now;

    CHECK_INT(clock_gettime(CLOCK_MONOTONIC, &now), 0);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void watch_the_others(void)
{
    double start = seconds();
    int before;

    usleep(100000);
    before = atomic_load(&turns[0]);
    ASYNC_WAIT_CTX_free(ASYNC_WAIT_CTX_new());
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(shared_ctx, &turns, 6, NULL, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(shared_ctx, &turns), 1);
    usleep(100000);
    CHECK(seconds() - start < 0.7);
    CHECK_INT(atomic_load(&turns[0]), before);
    while (atomic_load(&turns[0]) == before)
        CHECK(seconds() - start < 5);
}

/* NOT_ON_VALGRIND: one of its threads runs at a time, and not when it should. */
CASE(other_threads_wait_for_a_fork_and_not_for_ever, OURS | NOT_ON_VALGRIND,
     "while a thread forks others change nothing, for a second at the most, and it never waits "
     "for itself")
{
    pthread_t thread;
    pid_t pid;

    shared_ctx = ASYNC_WAIT_CTX_new();
    CHECK_INT(pthread_create(&thread, NULL, sets_and_clears, NULL), 0);
    while (atomic_load(&turns[0]) == 0)
        usleep(1000);
    just_before_the_fork = watch_the_others;
    pid = fork_one();
    if (pid == 0)
        _exit(0);
    expect_child_well(pid);
    atomic_store(&stop, 1);
    CHECK_INT(pthread_join(thread, NULL), 0);
    ASYNC_WAIT_CTX_free(shared_ctx);
}

/* The library's mmap is the program's. It maps stacks while it holds a lock. */
static _Thread_local int slow;
static atomic_int in_mmap;

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (slow) {
        in_mmap = 1;
        usleep(300000);
        in_mmap = 0;
    }
    return (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
}

static void *starts_slowly(void *unused)
{
    slow = 1;
    finish(start_counting(NULL, 1, 1), 2);
    slow = 0;
    ASYNC_cleanup_thread();
    return unused;
}

CASE(a_fork_waits_for_what_others_are_at, OURS | NOT_ON_VALGRIND,
     "a thread that forks waits until others have finished what they were changing")
{
    pthread_t thread;
    pid_t pid;

    CHECK_INT(pthread_create(&thread, NULL, starts_slowly, NULL), 0);
    while (!in_mmap)
        usleep(1000);
    pid = fork_one();
    if (pid == 0) {
        CHECK(!in_mmap);
        finish(start_counting(NULL, 1, 1), 2);
        _exit(0);
    }
    expect_child_well(pid);
    CHECK_INT(pthread_join(thread, NULL), 0);
}

#ifdef WITH_LIBCRYPTO
static atomic_int in_the_loader;

static int stays_a_while(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)info;
    (void)size;
    (void)unused;
    in_the_loader = 1;
    usleep(20000);
    return 1;
}

/* Holds the loader's lock nearly all the time. */
static void *looks_at_objects(void *unused)
{
    while (!atomic_load(&stop))
        dl_iterate_phdr(stays_a_while, unused);
    return NULL;
}

static void wait_for_the_loader(void)
{
    in_the_loader = 0;
    while (!in_the_loader)
        usleep(1000);
}

static void has_its_first_job(void)
{
    alarm(CHILD_SECONDS);
    finish(start_counting(NULL, 1, 1), 2);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(ERR_GET_LIB(ERR_get_error()), 51);
}

CASE(a_child_knows_the_libcrypto_that_nobody_has_looked_for, OURS | NEEDS_LIBCRYPTO,
     "the first job of a process may be in a child, while a thread of its parent was in the loader")
{
    pthread_t thread;

    CHECK_INT(pthread_create(&thread, NULL, looks_at_objects, NULL), 0);
    while (!in_the_loader)
        usleep(1000);
    just_before_the_fork = wait_for_the_loader;
    CHECK_INT(check_child(has_its_first_job, 0), 0);
    atomic_store(&stop, 1);
    CHECK_INT(pthread_join(thread, NULL), 0);
}
#endif
