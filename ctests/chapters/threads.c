/*
 * threads.c: a job belongs to the thread that started it, and a thread's jobs and limits are its
 * own; a wait context may be used by several threads at once.
 */
#include "threads.h"
#include <malloc.h>
#include <sched.h>
#include <stdatomic.h>

static char token_a, token_b;

/* ---- a job and its thread ---- */

static void *is_refused(void *job)
{
    check_resume_is_refused(job);
    return NULL;
}

static void *is_refused_on_a_thread_with_jobs(void *arg)
{
    ASYNC_JOB *mine = start_paused(NULL, 20);

    is_refused(arg);
    finish(mine, 20);
    is_refused(arg);
    ASYNC_cleanup_thread();
    return is_refused(arg);
}

static int job_that_is_refused(void *arg)
{
    check_resume_is_refused(ARG(ASYNC_JOB, arg));
    return 0;
}

static void *is_refused_in_a_job(void *arg)
{
    ASYNC_JOB *job = NULL;
    int ret = -1;

    CHECK_INT(start(&job, NULL, &ret, job_that_is_refused, arg), ASYNC_FINISH);
    CHECK_INT(ret, 0);
    return NULL;
}

/* libcrypto runs the job on the wrong thread, and corrupts itself. */
CASE(resume_on_another_thread_is_refused, OURS,
     "a resume on another thread is refused, and the job can still be resumed on its own thread")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = start_paused(ctx, 10);

    on_new_thread(is_refused, job);
    CHECK(ASYNC_get_wait_ctx(job) == ctx);
    on_new_thread(is_refused_on_a_thread_with_jobs, job);
    on_new_thread(is_refused_in_a_job, job);
    CHECK(ASYNC_get_wait_ctx(job) == ctx);
    finish(job, 10);
    ASYNC_WAIT_CTX_free(ctx);
}

/* libcrypto runs the job on the wrong thread. */
CASE(a_refused_resume_clears_no_marks, OURS,
     "a resume refused on another thread clears no marks of the job's context")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = start_paused(ctx, 10);

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &token_a, 3, NULL, NULL), 1);
    on_new_thread(is_refused, job);
    check_marks(ctx, 1, 0);
    finish(job, 10);
    ASYNC_WAIT_CTX_free(ctx);
}

static __thread char thread_local_variable;
static void *thread_local_addresses[2];
static ASYNC_JOB *left_behind;
static ASYNC_WAIT_CTX *left_ctx;

static void *leaves_a_job(void *arg)
{
    (void)arg;
    thread_local_addresses[0] = &thread_local_variable;
    left_behind = start_paused(left_ctx, 30);
    return NULL;
}

static void *tries_the_job_left_behind(void *arg)
{
    thread_local_addresses[1] = &thread_local_variable;
    is_refused(left_behind);
    run_a_job(NULL, 31);
    is_refused(left_behind);
    CHECK(ASYNC_get_wait_ctx(left_behind) == left_ctx);
    return arg;
}

/* libcrypto runs the job on the wrong thread. */
CASE(a_new_thread_does_not_inherit_jobs, OURS,
     "a new thread does not own the jobs of an ended one, even if its stack and its thread-local "
     "variables have the same addresses")
{
    static _Alignas(4096) char stack[1 << 20];
    pthread_attr_t attr;
    pthread_t thread;

    left_ctx = ASYNC_WAIT_CTX_new();
    CHECK_INT(pthread_attr_init(&attr), 0);
    CHECK_INT(pthread_attr_setstack(&attr, stack, sizeof(stack)), 0);
    CHECK_INT(pthread_create(&thread, &attr, leaves_a_job, NULL), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_INT(pthread_create(&thread, &attr, tries_the_job_left_behind, NULL), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK(thread_local_addresses[0] == thread_local_addresses[1]);
    /* Nor does the main thread own it. */
    is_refused(left_behind);
    pthread_attr_destroy(&attr);
    ASYNC_WAIT_CTX_free(left_ctx);
}

static void *is_unaffected(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job;

    (void)arg;
    CHECK(ASYNC_get_current_job() == NULL);
    CHECK_INT(ASYNC_pause_job(), 1);
    /* Neither the other thread's limit of 1 job nor its block of pauses holds here. */
    job = start_paused(ctx, 41);
    run_a_job(ctx, 42);
    finish(job, 41);
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(ctx);
    return NULL;
}

static int starts_a_thread(void *arg)
{
    ASYNC_JOB *self = ASYNC_get_current_job();

    ASYNC_block_pause();
    on_new_thread(is_unaffected, arg);
    CHECK(ASYNC_get_current_job() == self);
    ASYNC_unblock_pause();
    CHECK_INT(ASYNC_pause_job(), 1);
    on_new_thread(is_unaffected, arg);
    CHECK(ASYNC_get_current_job() == self);
    return 5;
}

CASE(threads_are_independent, EVERYWHERE,
     "a thread's current job, blocked pauses, job limit and clean-up concern no other thread")
{
    ASYNC_JOB *job = NULL, *none = NULL;
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    int ret = -1;

    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, starts_a_thread, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(start_pausing_job(&none, NULL, &ret, 1, 0), ASYNC_NO_JOBS);
    on_new_thread(is_unaffected, NULL);
    CHECK_INT(start_pausing_job(&none, NULL, &ret, 1, 0), ASYNC_NO_JOBS);
    finish(job, 5);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(cleanup_on_a_thread_that_did_nothing, EVERYWHERE,
     "ASYNC_cleanup_thread may be called on a thread that never used the API, and twice")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    ASYNC_cleanup_thread();
    ASYNC_cleanup_thread();
    run_a_job(ctx, 1);
    ASYNC_cleanup_thread();
    ASYNC_cleanup_thread();
    run_a_job(ctx, 2);
    ASYNC_WAIT_CTX_free(ctx);
}

/* ---- memory of contexts ---- */

#ifdef __GLIBC__ /* musl does not tell what its heap has in use */
/* Bytes in use of the heap. On valgrind always 0; there the leak check finds what is lost. */
static size_t bytes_in_use(void)
{
    return mallinfo2().uordblks;
}

#define CONTEXTS 40

static ASYNC_WAIT_CTX *many_ctx[CONTEXTS];

static void *makes_contexts(void *arg)
{
    for (int i = 0; i < CONTEXTS; i++) {
        many_ctx[i] = ASYNC_WAIT_CTX_new();
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(many_ctx[i], &token_a, i, NULL, NULL), 1);
    }
    return arg;
}

static void *frees_contexts(void *arg)
{
    for (int i = 0; i < CONTEXTS; i++)
        ASYNC_WAIT_CTX_free(many_ctx[i]);
    return arg;
}

static void *makes_and_frees_contexts(void *arg)
{
    makes_contexts(arg);
    return frees_contexts(arg);
}

CASE(threads_that_only_use_contexts_leave_no_memory, EVERYWHERE,
     "threads that make and free contexts but start no job leave no memory in use")
{
    size_t before;

    for (int i = 0; i < 4; i++)
        on_new_thread(makes_and_frees_contexts, NULL);
    before = bytes_in_use();
    for (int i = 0; i < 100; i++)
        on_new_thread(makes_and_frees_contexts, NULL);
    CHECK(bytes_in_use() < before + 4096);
}

CASE(contexts_may_be_freed_on_another_thread, EVERYWHERE,
     "contexts made on one thread and freed on another, which ends, leave no memory in use")
{
    size_t before = 0;

    for (int i = 0; i < 104; i++) {
        if (i == 4)
            before = bytes_in_use();
        makes_contexts(NULL);
        on_new_thread(frees_contexts, NULL);
        on_new_thread(makes_contexts, NULL);
        frees_contexts(NULL);
    }
    /* Lost, 8000 contexts with an entry each would be more than 512 KiB. */
    CHECK(bytes_in_use() < before + (64 << 10));
}

static sem_t made, freed;

static void *frees_contexts_repeatedly(void *arg)
{
    for (int i = 0; i < 100; i++) {
        wait_for(&made);
        frees_contexts(NULL);
        CHECK_INT(sem_post(&freed), 0);
    }
    return arg;
}

CASE(a_thread_that_only_frees_contexts_hoards_none, EVERYWHERE,
     "contexts made on one thread and freed on another, which lives on, leave no memory in use")
{
    size_t before = 0;
    pthread_t thread;

    CHECK_INT(sem_init(&made, 0, 0), 0);
    CHECK_INT(sem_init(&freed, 0, 0), 0);
    CHECK_INT(pthread_create(&thread, NULL, frees_contexts_repeatedly, NULL), 0);
    for (int i = 0; i < 100; i++) {
        if (i == 4)
            before = bytes_in_use();
        makes_contexts(NULL);
        CHECK_INT(sem_post(&made), 0);
        wait_for(&freed);
    }
    CHECK_INT(pthread_join(thread, NULL), 0);
    /* Lost, 4000 contexts with an entry each would be more than 256 KiB. */
    CHECK(bytes_in_use() < before + (64 << 10));
}
#endif

/* ---- several threads use a context at once ---- */

static void *reads_a_paused_job(void *job)
{
    CHECK(ASYNC_get_wait_ctx(job) == left_ctx);
    CHECK_INT(ASYNC_WAIT_CTX_set_status(ASYNC_get_wait_ctx(job), ASYNC_STATUS_OK), 1);
    return NULL;
}

CASE(another_thread_may_ask_for_a_jobs_context, SINCE_3_0,
     "ASYNC_get_wait_ctx works on a paused job of another thread")
{
    ASYNC_JOB *job;

    left_ctx = ASYNC_WAIT_CTX_new();
    job = start_paused(left_ctx, 80);
    on_new_thread(reads_a_paused_job, job);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(left_ctx), ASYNC_STATUS_OK);
    finish(job, 80);
    ASYNC_WAIT_CTX_free(left_ctx);
}

#define ROUNDS 20000

static ASYNC_WAIT_CTX *polled_ctx[2];
static _Atomic(ASYNC_JOB *) polled_job;
static atomic_int polls, polled_fds, owner_is_done;

static void *data_of(int fd)
{
    return (void *)((uintptr_t)fd * 7 + 1);
}

static int callback_a(void *arg)
{
    return arg == &token_a;
}

static int callback_b(void *arg)
{
    return arg == &token_b;
}

/*
 * Does what QAT's polling thread does. Values that are read together must have been set together:
 * an fd and its data, a callback and its argument.
 */
static void *polls_jobs(void *arg)
{
    for (int i = 0; !atomic_load(&owner_is_done); i++) {
        ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(atomic_load(&polled_job));
        ASYNC_callback_fn callback;
        int fd = -1, list[4] = {-1, -1, -1, -1};
        void *data, *callback_arg;
        size_t n = 9;

        CHECK(ctx == NULL || ctx == polled_ctx[0] || ctx == polled_ctx[1]);
        if (ctx == NULL)
            ctx = polled_ctx[i & 1];
        if (ASYNC_WAIT_CTX_get_fd(ctx, &token_a, &fd, &data) == 1) {
            CHECK(data == data_of(fd));
            atomic_fetch_add(&polled_fds, 1);
        }
        if (ASYNC_WAIT_CTX_get_callback(ctx, &callback, &callback_arg) == 1)
            CHECK_INT(callback(callback_arg), 1);
        CHECK_INT(ASYNC_WAIT_CTX_set_status(ctx, i), 1);
        CHECK_INT(ASYNC_WAIT_CTX_get_status(ctx), i);
        CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(ctx, list, &n), 1);
        CHECK(n <= 1);
        CHECK((n == 1) == (list[0] > 0));
        CHECK_INT(list[1], -1);
        /* valgrind runs one thread at a time, until that thread waits or yields. */
        if (atomic_fetch_add(&polls, 1) % 64 == 0)
            sched_yield();
    }
    return arg;
}

/* Has one entry at a time: at each pause one fd is added, and the previous one deleted. */
static int polled_job_func(void *arg)
{
    int first = *(int *)arg;
    ASYNC_JOB *self = ASYNC_get_current_job();
    ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(self);

    atomic_store(&polled_job, self);
    for (int fd = first; fd < first + 3; fd++) {
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &token_a, fd, data_of(fd), NULL), 1);
        if (fd % 2)
            CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, callback_a, &token_a), 1);
        else
            CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, callback_b, &token_b), 1);
        CHECK_INT(ASYNC_pause_job(), 1);
        CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &token_a), 1);
    }
    return 0;
}

/* libcrypto has no locks: the polling thread reads lists that the owner is changing. */
CASE(a_polling_thread_may_read_contexts, OURS,
     "a polling thread may read contexts and set statuses while their owner pauses jobs, reads, "
     "and resumes before an answer")
{
    pthread_t poller;
    int last[2] = {0, 0};

    for (int i = 0; i < 2; i++)
        polled_ctx[i] = ASYNC_WAIT_CTX_new();
    CHECK_INT(pthread_create(&poller, NULL, polls_jobs, NULL), 0);
    /* Longer if the poller had to wait for a processor: it has to have read some fds. */
    for (int round = 0; round < ROUNDS || atomic_load(&polls) < 1000
         || atomic_load(&polled_fds) < 10; round++) {
        ASYNC_WAIT_CTX *ctx = polled_ctx[round & 1];
        ASYNC_JOB *job = NULL;
        int ret, fd = 1 + round % 100000 * 3, first = fd;

        while (ASYNC_start_job(&job, ctx, &ret, polled_job_func, &first,
                               sizeof(first)) == ASYNC_PAUSE) {
            int add[2] = {-1, -1}, del[2] = {-1, -1}, seen = -1;
            size_t n_add = 0, n_del = 0;
            void *data = NULL;

            CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, add, &n_add, del, &n_del), 1);
            CHECK_INT(n_add, 1);
            CHECK_INT(add[0], fd);
            CHECK_INT(n_del, last[round & 1] != 0);
            if (n_del == 1)
                CHECK_INT(del[0], last[round & 1]);
            CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, &token_a, &seen, &data), 1);
            CHECK_INT(seen, fd);
            CHECK(ASYNC_get_wait_ctx(job) == ctx);
            last[round & 1] = fd++;
            /* Lets the poller run while it can find an fd. */
            if (round >= ROUNDS)
                sched_yield();
        }
        CHECK(job == NULL);
        CHECK_INT(fd, first + 3);
    }
    atomic_store(&owner_is_done, 1);
    CHECK_INT(pthread_join(poller, NULL), 0);
    for (int i = 0; i < 2; i++)
        ASYNC_WAIT_CTX_free(polled_ctx[i]);
}

#define SETTERS 4

static ASYNC_WAIT_CTX *shared_ctx;
static pthread_barrier_t setters_start;
static char setter_keys[SETTERS];
static atomic_int setters_left, n_cleaned;

static void count_cleanup(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    CHECK(ctx == shared_ctx);
    CHECK(key == &setter_keys[fd % SETTERS]);
    CHECK(data == data_of(fd));
    atomic_fetch_add(&n_cleaned, 1);
}

static void set_own(int fd)
{
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(shared_ctx, &setter_keys[fd % SETTERS], fd, data_of(fd),
                                         count_cleanup), 1);
}

static void expect_own(const char *key, int want)
{
    int fd = -1;
    void *data = NULL;

    CHECK_INT(ASYNC_WAIT_CTX_get_fd(shared_ctx, key, &fd, &data), want > 0);
    if (want > 0) {
        CHECK_INT(fd, want);
        CHECK(data == data_of(want));
    }
}

/* Has at most three entries at a time, all under its own key, and leaves one at the end. */
static void *sets_and_clears(void *key)
{
    int me = (int)((char *)key - setter_keys);

    pthread_barrier_wait(&setters_start);
    for (int round = 0; round < ROUNDS; round++) {
        int fd = (1 + round * 3) * SETTERS + me;

        for (int i = 0; i <= round % 3; i++) {
            set_own(fd + i * SETTERS);
            expect_own(key, fd + i * SETTERS);
        }
        for (int i = round % 3; i >= 0; i--) {
            expect_own(key, fd + i * SETTERS);
            CHECK_INT(ASYNC_WAIT_CTX_clear_fd(shared_ctx, key), 1);
        }
        expect_own(key, 0);
        CHECK_INT(ASYNC_WAIT_CTX_clear_fd(shared_ctx, key), 0);
    }
    set_own(SETTERS + me);
    atomic_fetch_sub(&setters_left, 1);
    return NULL;
}

/* The list has the n fds that the call counted, none of them 0, and no more than 3 a thread. */
static void expect_plausible_list(const int *list, size_t capacity, size_t n)
{
    CHECK(n <= 3 * SETTERS);
    for (size_t i = 0; i < capacity; i++)
        CHECK((list[i] > 0) == (i < n));
}

/* libcrypto has no locks: the threads corrupt its list. */
CASE(threads_may_set_and_clear_at_once, OURS,
     "four threads set, get and clear fds of one context while its owner reads it and resumes "
     "its job")
{
    pthread_t thread[SETTERS];
    ASYNC_JOB *job;
    size_t n, m;
    int resumes = 0;

    shared_ctx = ASYNC_WAIT_CTX_new();
    atomic_store(&setters_left, SETTERS);
    CHECK_INT(pthread_barrier_init(&setters_start, NULL, SETTERS + 1), 0);
    for (int i = 0; i < SETTERS; i++)
        CHECK_INT(pthread_create(&thread[i], NULL, sets_and_clears, &setter_keys[i]), 0);
    pthread_barrier_wait(&setters_start);
    while (atomic_load(&setters_left) > 0) {
        int add[4 * SETTERS] = {0}, all[4 * SETTERS] = {0};

        CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(shared_ctx, all, &n), 1);
        expect_plausible_list(all, 4 * SETTERS, n);
        CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(shared_ctx, add, &n, NULL, &m), 1);
        expect_plausible_list(add, 4 * SETTERS, n);
        /* Every eighth time only: some entries are still marked added when they are cleared. */
        if (resumes++ % 8 == 0)
            run_a_job(shared_ctx, 1);
    }
    for (int i = 0; i < SETTERS; i++)
        CHECK_INT(pthread_join(thread[i], NULL), 0);
    for (int i = 0; i < SETTERS; i++)
        expect_own(&setter_keys[i], SETTERS + i);
    job = start_paused(shared_ctx, 2);
    finish(job, 2);
    check_marks(shared_ctx, 0, 0);
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(shared_ctx, NULL, &n), 1);
    CHECK_INT(n, SETTERS);
    CHECK_INT(atomic_load(&n_cleaned), 0);
    ASYNC_WAIT_CTX_free(shared_ctx);
    CHECK_INT(atomic_load(&n_cleaned), SETTERS);
    pthread_barrier_destroy(&setters_start);
}
