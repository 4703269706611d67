/*
 * fork.c: fork (src/fork.rs). Both processes keep the forking thread's jobs, and in the child every
 * call works, whatever other threads were doing.
 */
#include "every_call.h"
#include <link.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

static char token; /* its address is a key in wait contexts */

/* The alarm signal ends a child that hangs, and tells its parent. */
#define CHILD_SECONDS 20

static pid_t fork_with_alarm(void)
{
    pid_t pid = fork();

    CHECK(pid >= 0);
    if (pid == 0)
        alarm(CHILD_SECONDS);
    return pid;
}

/* Waits for the child, which ends with status 0. */
static void expect_success(pid_t pid)
{
    int status;

    CHECK_INT(waitpid(pid, &status, 0), pid);
    CHECK_INT(WIFSIGNALED(status) ? WTERMSIG(status) : 0, 0);
    CHECK_INT(WEXITSTATUS(status), 0);
}

static void *runs_a_job(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    finish(paused_job(ctx, 1, 2), 2);
    ASYNC_WAIT_CTX_free(ctx);
    return arg;
}

/* Makes every call, and starts jobs after ASYNC_cleanup_thread and on another thread. */
static void use_everything(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    make_every_call();
    CHECK_INT(ASYNC_init_thread(3, 2), 1);
    finish(paused_job(ctx, 1, 2), 2);
    ASYNC_cleanup_thread();
    finish(paused_job(ctx, 1, 2), 2);
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(ctx);
    on_new_thread(runs_a_job, NULL);
}

enum { JOBS = 8 };

/* Both processes finish the jobs; the parent returns. */
static void forks_with_paused_jobs(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS];
    pid_t pid;

    for (int i = 0; i < JOBS; i++)
        job[i] = paused_job(ctx, 3, 100 * i + 3);
    /* Half of the jobs have been resumed before the fork, and there is an idle job. */
    for (int i = 0; i < JOBS; i += 2)
        resume_to_pause(job[i]);
    finish(paused_job(ctx, 1, 2), 2);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &token, 3, NULL, NULL), 1);
    pid = fork_with_alarm();
    /* The parent's jobs go on after those of the child, which must not affect them. */
    if (pid != 0)
        expect_success(pid);
    for (int i = JOBS - 1; i >= 0; i--) {
        CHECK(ASYNC_get_wait_ctx(job[i]) == ctx);
        /* The first resume, of the last job, clears the mark. */
        check_marks(ctx, i == JOBS - 1, 0);
        if (i % 2 != 0)
            resume_to_pause(job[i]);
        resume_to_pause(job[i]);
        finish(job[i], 100 * i + 3);
    }
    ASYNC_WAIT_CTX_free(ctx);
    use_everything();
    if (pid == 0)
        _exit(0);
}

CASE(both_sides_finish_the_paused_jobs, SINCE_3_0,
     "Jobs that are paused at a fork can be finished in the child, and in the parent as well")
{
    forks_with_paused_jobs();
}

static void *forks_on_a_thread(void *arg)
{
    forks_with_paused_jobs();
    return arg;
}

CASE(a_thread_that_forks_keeps_its_jobs, SINCE_3_0,
     "A thread that is not the main one finishes its jobs in the child, where it is the only one")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = paused_job(ctx, 2, 12);

    on_new_thread(forks_on_a_thread, NULL);
    resume_to_pause(job);
    finish(job, 12);
    ASYNC_WAIT_CTX_free(ctx);
}

static pid_t job_fork; /* what fork() returned in the job: 0 in the child */

/* Returns 111 in the child, 221 in the parent: 1, and what it adds before and after its pause. */
static int forking_job(void *arg)
{
    ASYNC_JOB *self = ASYNC_get_current_job();
    volatile int sum = 1;

    (void)arg;
    job_fork = fork_with_alarm();
    if (job_fork != 0)
        expect_success(job_fork);
    CHECK(ASYNC_get_current_job() == self);
    sum += job_fork == 0 ? 10 : 20;
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(ASYNC_get_current_job() == self);
    sum += job_fork == 0 ? 100 : 200;
    return sum;
}

CASE(both_sides_go_on_in_a_job_that_forks, SINCE_3_0,
     "A job that forks goes on in both processes: it pauses, is resumed and ends in each")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *before = paused_job(ctx, 1, 51);
    int ret = -1;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, forking_job, NULL, 0), ASYNC_PAUSE);
    CHECK(ASYNC_get_current_job() == NULL);
    finish(job, job_fork == 0 ? 111 : 221);
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
    CHECK_INT(resume(&inner, &ret), ASYNC_FINISH);
    return ret;
}

/* In libcrypto a job that starts another corrupts the thread's state. */
CASE(both_sides_go_on_in_a_nested_job_that_forks, OURS,
     "After a fork in a nested job the inner and the outer job go on in both processes")
{
    ASYNC_JOB *job = NULL;
    int ret = -1;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, nesting_job, NULL, 0), ASYNC_PAUSE);
    CHECK(ASYNC_get_current_job() == NULL);
    finish(job, job_fork == 0 ? 111 : 221);
    if (job_fork == 0)
        _exit(0);
}

enum { GENERATIONS = 4 };

CASE(a_child_may_fork, SINCE_3_0,
     "A job that is paused before a process forks, and its child, and so on, ends in each of them")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = paused_job(ctx, GENERATIONS + 1, 15);
    pid_t pid = 0;
    int depth = 0;

    while (depth < GENERATIONS) {
        pid = fork_with_alarm();
        if (pid != 0)
            break;
        depth++;
        resume_to_pause(job);
        finish(paused_job(ctx, 1, depth), depth);
    }
    if (pid != 0)
        expect_success(pid);
    for (int i = depth; i < GENERATIONS; i++)
        resume_to_pause(job);
    finish(job, 15);
    ASYNC_WAIT_CTX_free(ctx);
    use_everything();
    if (depth > 0)
        _exit(0);
}

/* A job, and its wait context, of a thread that does not fork. */
static ASYNC_WAIT_CTX *ctx_before;
static ASYNC_JOB *job_before;

/* On a thread with jobs of its own. */
static void *is_not_the_owner(void *arg)
{
    runs_a_job(NULL);
    check_resume_is_refused(job_before);
    return arg;
}

static void *forks_with_its_jobs(void *arg)
{
    ASYNC_JOB *mine = paused_job(ctx_before, 1, 21);
    pid_t pid = fork_with_alarm();

    if (pid == 0) {
        check_resume_is_refused(job_before);
        /* One of several new threads gets the thread-local memory of the job's lost thread. */
        for (int i = 0; i < 4; i++)
            on_new_thread(is_not_the_owner, NULL);
        CHECK(ASYNC_get_wait_ctx(job_before) == ctx_before);
        finish(mine, 21);
        ASYNC_cleanup_thread();
        ASYNC_WAIT_CTX_free(ctx_before);
        CHECK(ASYNC_get_wait_ctx(job_before) == NULL);
        use_everything();
        _exit(0);
    }
    expect_success(pid);
    finish(mine, 21);
    return arg;
}

/* libcrypto runs the job with the wrong thread's state. */
CASE(jobs_of_other_threads_are_nobodys_in_the_child, OURS,
     "In the child no thread can resume a job of a thread that did not fork; in the parent it can")
{
    ctx_before = ASYNC_WAIT_CTX_new();
    job_before = paused_job(ctx_before, 1, 31);
    on_new_thread(forks_with_its_jobs, NULL);
    finish(job_before, 31);
    ASYNC_WAIT_CTX_free(ctx_before);
}

static pthread_barrier_t forked;

static void *has_a_job_across_the_fork(void *arg)
{
    ctx_before = ASYNC_WAIT_CTX_new();
    job_before = paused_job(ctx_before, 1, 31);
    pthread_barrier_wait(&forked);
    pthread_barrier_wait(&forked);
    finish(job_before, 31);
    ASYNC_WAIT_CTX_free(ctx_before);
    return arg;
}

/* libcrypto runs the job with the wrong thread's state. */
CASE(new_threads_of_the_child_do_not_inherit_jobs, OURS | NOT_EMULATED,
     "A thread made in the child cannot resume a job of a thread that only the parent has")
{
    pthread_t thread;
    pid_t pid;

    CHECK_INT(pthread_barrier_init(&forked, NULL, 2), 0);
    CHECK_INT(pthread_create(&thread, NULL, has_a_job_across_the_fork, NULL), 0);
    pthread_barrier_wait(&forked);
    pid = fork_with_alarm();
    if (pid == 0) {
        /* One of several new threads gets the thread-local memory of the job's lost thread. */
        for (int i = 0; i < 4; i++)
            on_new_thread(is_not_the_owner, NULL);
        is_not_the_owner(NULL);
        _exit(0);
    }
    expect_success(pid);
    pthread_barrier_wait(&forked);
    CHECK_INT(pthread_join(thread, NULL), 0);
    pthread_barrier_destroy(&forked);
}

/* ---- forks while other threads are in the middle of a call ---- */

enum { FORKS = 300 };

static atomic_int stop, turns[3]; /* how often each thread has gone round its loop */

static void *makes_jobs(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    while (!atomic_load(&stop)) {
        ASYNC_JOB *job[4];

        for (int i = 0; i < 4; i++)
            job[i] = paused_job(ctx, 2, i + 2);
        for (int i = 0; i < 4; i++) {
            resume_to_pause(job[i]);
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
        on_new_thread(runs_a_job, NULL);
        atomic_fetch_add(&turns[2], 1);
    }
    return arg;
}

/*
 * libcrypto may hang in the child, on a lock that another thread held at the fork.
 * Not on the tools, here and in the next case: in the child valgrind reports memory as lost to
 * which only registers of other threads pointed; the sanitizers may hang on a lock of their malloc.
 */
CASE(fork_while_other_threads_are_busy,
     OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN | NOT_EMULATED,
     "A child can make every call, whatever calls other threads were making at the fork")
{
    void *(*const busy[3])(void *) = { makes_jobs, makes_contexts, makes_threads };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = paused_job(ctx, 1, 41);
    pthread_t thread[3];

    for (int i = 0; i < 3; i++)
        CHECK_INT(pthread_create(&thread[i], NULL, busy[i], NULL), 0);
    for (int i = 0; i < FORKS; i++) {
        pid_t pid = fork_with_alarm();

        if (pid == 0) {
            use_everything();
            finish(job, 41);
            ASYNC_WAIT_CTX_free(ctx);
            _exit(0);
        }
        expect_success(pid);
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
static int cleaned; /* the number of count_cleanup() calls */

static void count_cleanup(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    CHECK(ctx == shared_ctx);
    CHECK(key == &turns[fd % 2] && data == (void *)(uintptr_t)fd);
    cleaned++;
}

/* The key of its entries is the address of its counter in turns[]. */
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

/* libcrypto has no locks here: threads may not share a context. */
CASE(fork_while_other_threads_use_the_same_context,
     OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "A context that other threads were changing at the fork is intact in the child")
{
    pthread_t thread[2];

    shared_ctx = ASYNC_WAIT_CTX_new();
    for (int i = 0; i < 2; i++)
        CHECK_INT(pthread_create(&thread[i], NULL, changes_the_shared_context, &turns[i]), 0);
    for (int i = 0; i < FORKS; i++) {
        pid_t pid = fork_with_alarm();

        if (pid == 0) {
            int list[16] = { 0 }, fd = -1;
            size_t n = 99;
            void *data;

            CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(shared_ctx, list, &n), 1);
            CHECK(n <= 8);
            for (size_t k = 0; k < 16; k++)
                CHECK((list[k] >= 10) == (k < n));
            check_marks(shared_ctx, n, 0);
            CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(shared_ctx, &token, 5, NULL, NULL), 1);
            CHECK_INT(ASYNC_WAIT_CTX_get_fd(shared_ctx, &token, &fd, &data), 1);
            finish(paused_job(shared_ctx, 1, 2), 2);
            CHECK_INT(ASYNC_WAIT_CTX_clear_fd(shared_ctx, &token), 1);
            ASYNC_WAIT_CTX_free(shared_ctx);
            CHECK_INT(cleaned, n);
            _exit(0);
        }
        expect_success(pid);
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < 2; i++) {
        CHECK_INT(pthread_join(thread[i], NULL), 0);
        CHECK(atomic_load(&turns[i]) > 10);
    }
    ASYNC_WAIT_CTX_free(shared_ctx);
    CHECK_INT(cleaned, 0);
}

static double seconds(void)
{
    struct timespec now;

    CHECK_INT(clock_gettime(CLOCK_MONOTONIC, &now), 0);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* ---- what happens between the library's own fork handler and the fork ---- */

#ifdef __GLIBC__ /* musl does not run .preinit_array */
/*
 * A case's functions that a fork calls after the library's handler, before it forks, and in the
 * child before the library's handler there; NULL for none.
 */
static void (*last_before_fork)(void), (*first_in_child)(void);

static void call_last_before_fork(void)
{
    if (last_before_fork != NULL)
        last_before_fork();
}

static void call_first_in_child(void)
{
    if (first_in_child != NULL)
        first_in_child();
}

/*
 * Of the handlers that pthread_atfork() calls before a fork, the one registered first is called
 * last; in the child it is called first. The library registers its handlers when it is loaded;
 * .preinit_array is run before that.
 */
static void register_handlers(void)
{
    pthread_atfork(call_last_before_fork, NULL, call_first_in_child);
}
__attribute__((section(".preinit_array"), used))
static void (*register_before_the_library)(void) = register_handlers;

static void *sets_and_clears(void *unused)
{
    while (!atomic_load(&stop)) {
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(shared_ctx, &token, 5, NULL, NULL), 1);
        CHECK_INT(ASYNC_WAIT_CTX_clear_fd(shared_ctx, &token), 1);
        atomic_fetch_add(&turns[0], 1);
    }
    return unused;
}

/*
 * Called by a fork, with the library's locks held: the other thread stands still, this thread's own
 * calls do not wait, and the other thread goes on in less than 5 seconds, before the fork is done.
 */
static void check_the_other_waits(void)
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

/* NOT_ON_VALGRIND: it runs one thread at a time, and the timing of this case fails. */
CASE(other_threads_wait_for_a_fork_and_not_for_ever, OURS | NOT_ON_VALGRIND,
     "While a thread forks, others wait to change anything, a second at most; its own calls do not")
{
    pthread_t thread;
    pid_t pid;

    shared_ctx = ASYNC_WAIT_CTX_new();
    CHECK_INT(pthread_create(&thread, NULL, sets_and_clears, NULL), 0);
    while (atomic_load(&turns[0]) == 0)
        usleep(1000);
    last_before_fork = check_the_other_waits;
    pid = fork_with_alarm();
    if (pid == 0)
        _exit(0);
    expect_success(pid);
    atomic_store(&stop, 1);
    CHECK_INT(pthread_join(thread, NULL), 0);
    ASYNC_WAIT_CTX_free(shared_ctx);
}
#endif

/* ---- several threads that fork at the same moment ---- */

/*
 * Changing a context of so many entries takes long enough that a fork which does not wait for it
 * meets it half-done. Each entry's key is the address of its number, its fd is that number.
 */
enum { ENTRIES = 3000, FORKS_AT_ONCE = 8000, FORKING_SECONDS = 8 };
static char numbers[ENTRIES];
static atomic_int forks_at_once;

/* Takes out the oldest entry, and adds it again as the newest. */
static void *moves_entries(void *unused)
{
    for (int i = 0; !atomic_load(&stop); i = (i + 1) % ENTRIES) {
        CHECK_INT(ASYNC_WAIT_CTX_clear_fd(shared_ctx, &numbers[i]), 1);
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(shared_ctx, &numbers[i], i, NULL, NULL), 1);
        atomic_fetch_add(&turns[0], 1);
    }
    return unused;
}

static void *makes_and_destroys_stacks(void *unused)
{
    while (!atomic_load(&stop)) {
        CHECK_INT(ASYNC_init_thread(8, 8), 1);
        ASYNC_cleanup_thread();
        atomic_fetch_add(&turns[1], 1);
    }
    return unused;
}

/* In a child: no entry but one is missing, none is there twice; stacks can be had and written. */
static void check_all_is_whole(void)
{
    static int list[ENTRIES + 1];
    static char seen[ENTRIES];
    size_t n = 99;

    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(shared_ctx, NULL, &n), 1);
    CHECK(n == ENTRIES || n == ENTRIES - 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(shared_ctx, list, &n), 1);
    for (size_t i = 0; i < n; i++) {
        CHECK(list[i] >= 0 && list[i] < ENTRIES);
        CHECK(!seen[list[i]]);
        seen[list[i]] = 1;
    }
    CHECK_INT(ASYNC_init_thread(0, 0), 1);
    for (int i = 0; i < 12; i++)
        paused_job(NULL, 1, i);
}

static void *forks_again_and_again(void *torn)
{
    double end = seconds() + FORKING_SECONDS;

    while (atomic_fetch_add(&forks_at_once, 1) < FORKS_AT_ONCE && seconds() < end) {
        pid_t pid = fork_with_alarm();
        int status;

        if (pid == 0) {
            check_all_is_whole();
            _exit(0);
        }
        CHECK_INT(waitpid(pid, &status, 0), pid);
        if (status != 0)
            atomic_fetch_add((atomic_int *)torn, 1);
    }
    return NULL;
}

static void fork_at_once(int forkers)
{
    pthread_t busy[2], forking[3];
    atomic_int torn = 0;

    shared_ctx = ASYNC_WAIT_CTX_new();
    for (int i = 0; i < ENTRIES; i++)
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(shared_ctx, &numbers[i], i, NULL, NULL), 1);
    CHECK_INT(pthread_create(&busy[0], NULL, moves_entries, NULL), 0);
    CHECK_INT(pthread_create(&busy[1], NULL, makes_and_destroys_stacks, NULL), 0);
    for (int i = 0; i < forkers; i++)
        CHECK_INT(pthread_create(&forking[i], NULL, forks_again_and_again, &torn), 0);
    for (int i = 0; i < forkers; i++)
        CHECK_INT(pthread_join(forking[i], NULL), 0);
    atomic_store(&stop, 1);
    for (int i = 0; i < 2; i++) {
        CHECK_INT(pthread_join(busy[i], NULL), 0);
        CHECK(atomic_load(&turns[i]) > 10);
    }
    fprintf(stderr, "%d of %d children found something torn\n", atomic_load(&torn),
            atomic_load(&forks_at_once));
    CHECK_INT(atomic_load(&torn), 0);
    CHECK(atomic_load(&forks_at_once) > 100);
    ASYNC_WAIT_CTX_free(shared_ctx);
}

/* Not on the tools, here and in the next case, as above. */
CASE(two_threads_may_fork_at_once, OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "The children of two threads that fork at once find contexts and stacks whole")
{
    fork_at_once(2);
}

CASE(three_threads_may_fork_at_once, OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "The children of three threads that fork at once find contexts and stacks whole")
{
    fork_at_once(3);
}

/*
 * The library calls this mmap instead of libc's. It maps stacks and contexts while it holds a lock,
 * so that a slow mmap makes it hold the lock for long.
 */
static _Thread_local void (*before_mmap)(void);
static atomic_int in_mmap;

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (before_mmap != NULL)
        before_mmap();
    return (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
}

static void stay_a_while(void)
{
    in_mmap = 1;
    usleep(300000);
    in_mmap = 0;
}

static void *starts_slowly(void *unused)
{
    before_mmap = stay_a_while;
    finish(paused_job(NULL, 1, 2), 2);
    before_mmap = NULL;
    ASYNC_cleanup_thread();
    return unused;
}

/* NOT_ON_VALGRIND: it runs one thread at a time. */
CASE(a_fork_waits_for_what_others_are_at, OURS | NOT_ON_VALGRIND,
     "A thread that forks waits until other threads have finished their changes")
{
    pthread_t thread;
    pid_t pid;

    CHECK_INT(pthread_create(&thread, NULL, starts_slowly, NULL), 0);
    while (!in_mmap)
        usleep(1000);
    pid = fork_with_alarm();
    if (pid == 0) {
        CHECK(!in_mmap);
        finish(paused_job(NULL, 1, 2), 2);
        _exit(0);
    }
    expect_success(pid);
    CHECK_INT(pthread_join(thread, NULL), 0);
}

/* ---- handlers of other libraries in the child ---- */

#ifdef __GLIBC__ /* musl does not run .preinit_array */
static int handlers_called;

static void stay_until_forked(void)
{
    in_mmap++;
    while (!atomic_load(&stop))
        usleep(1000);
}

static void *makes_its_first_context(void *unused)
{
    before_mmap = stay_until_forked;
    ASYNC_WAIT_CTX_free(ASYNC_WAIT_CTX_new());
    return unused;
}

static void *starts_its_first_job(void *unused)
{
    before_mmap = stay_until_forked;
    finish(paused_job(NULL, 1, 2), 2);
    return unused;
}

static void use_contexts_and_jobs(void)
{
    ASYNC_WAIT_CTX *ctx;

    alarm(CHILD_SECONDS);
    ctx = ASYNC_WAIT_CTX_new();
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &token, 5, NULL, NULL), 1);
    CHECK_INT(ASYNC_init_thread(4, 4), 1);
    finish(paused_job(ctx, 1, 2), 2);
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(ctx);
    handlers_called++;
}

/* The two threads hold their locks longer than a fork waits. */
CASE(child_handlers_of_others_may_use_the_library, OURS | NOT_EMULATED,
     "In the child the handlers of other libraries, also those that are called before this "
     "library's own, can start jobs and use contexts, whatever other threads were doing")
{
    void *(*const stuck[2])(void *) = { makes_its_first_context, starts_its_first_job };
    pthread_t thread[2];
    pid_t pid;

    /* What later threads need first of the library is mapped. */
    CHECK_INT(ASYNC_init_thread(0, 0), 1);
    for (int i = 0; i < 2; i++)
        CHECK_INT(pthread_create(&thread[i], NULL, stuck[i], NULL), 0);
    while (in_mmap < 2)
        usleep(1000);
    first_in_child = use_contexts_and_jobs;
    CHECK_INT(pthread_atfork(NULL, NULL, use_contexts_and_jobs), 0);
    pid = fork();
    if (pid == 0) {
        CHECK_INT(handlers_called, 2);
        _exit(0);
    }
    expect_success(pid);
    atomic_store(&stop, 1);
    for (int i = 0; i < 2; i++)
        CHECK_INT(pthread_join(thread[i], NULL), 0);
}

#ifdef WITH_LIBCRYPTO
static atomic_int in_the_loader;

/* Called with the lock of the loader's list of objects held. */
static int stays_a_while(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)info;
    (void)size;
    (void)unused;
    in_the_loader = 1;
    usleep(20000);
    return 1;
}

/* Holds that lock nearly all the time. */
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

/* In a child: the library looks for libcrypto, and finds its error queue. */
static void has_its_first_job(void)
{
    alarm(CHILD_SECONDS);
    finish(paused_job(NULL, 1, 2), 2);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(ERR_GET_LIB(ERR_get_error()), ERR_LIB_ASYNC);
}

CASE(a_child_knows_the_libcrypto_that_nobody_has_looked_for, OURS | NEEDS_LIBCRYPTO,
     "A child finds libcrypto at its first job, even if at the fork a thread was in the loader")
{
    pthread_t thread;

    CHECK_INT(pthread_create(&thread, NULL, looks_at_objects, NULL), 0);
    while (!in_the_loader)
        usleep(1000);
    last_before_fork = wait_for_the_loader;
    CHECK_INT(check_child(has_its_first_job, 0), 0);
    atomic_store(&stop, 1);
    CHECK_INT(pthread_join(thread, NULL), 0);
}
#endif
#endif
