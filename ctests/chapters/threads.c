/* Threads: whose job it is, what happens when threads end, and what several may do at once. */
#include "check.h"
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>

static char token_a, token_b;
static sem_t done;

static void on_thread(void *(*func)(void *), void *arg)
{
    pthread_t thread;

    CHECK_INT(pthread_create(&thread, NULL, func, arg), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
}

static void wait_for(sem_t *sem)
{
    while (sem_wait(sem) != 0)
        CHECK_INT(errno, EINTR);
}

/* Pauses, and sees that nobody has touched what it keeps on its stack. */
static int pausing_job(void *arg)
{
    volatile unsigned char mine[4096];
    int n = *(int *)arg;

    memset((void *)mine, n, sizeof(mine));
    CHECK_INT(ASYNC_pause_job(), 1);
    for (size_t i = 0; i < sizeof(mine); i++)
        CHECK_INT(mine[i], (unsigned char)n);
    return n;
}

static ASYNC_JOB *start_paused(ASYNC_WAIT_CTX *ctx, int n)
{
    ASYNC_JOB *job = NULL;
    int ret = -1;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, pausing_job, &n, sizeof(n)), ASYNC_PAUSE);
    CHECK(job != NULL);
    return job;
}

static void resume_to_the_end(ASYNC_JOB *job, int n)
{
    int ret = -1;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, n);
    CHECK(job == NULL);
}

static void run_a_job(ASYNC_WAIT_CTX *ctx, int n)
{
    resume_to_the_end(start_paused(ctx, n), n);
}

/* The calls that a thread has, in a row. None of them may need anything done before. */
static void use_everything(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job;
    size_t n_add, n_del;

    CHECK_INT(ASYNC_pause_job(), 1);
    ASYNC_block_pause();
    ASYNC_unblock_pause();
    CHECK_INT(ASYNC_is_capable(), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &token_a, 3, NULL, NULL), 1);
    job = start_paused(ctx, 1);
    CHECK(ASYNC_get_wait_ctx(job) == ctx);
    resume_to_the_end(job, 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, NULL, &n_add, NULL, &n_del), 1);
    CHECK_INT(n_add, 0);
    CHECK_INT(ASYNC_init_thread(2, 1), 1);
    run_a_job(ctx, 2);
    ASYNC_cleanup_thread();
    run_a_job(ctx, 3);
    ASYNC_WAIT_CTX_free(ctx);
}

#ifndef ON_LIBCRYPTO
static struct rsasync_stats stats(void)
{
    struct rsasync_stats stats;

    RSASYNC_get_stats(&stats, sizeof(stats));
    return stats;
}
#endif

/* 1. Whose job it is. */

static void *is_refused(void *arg)
{
    ASYNC_JOB *job = arg;
    int ret = -1;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
    CHECK(job == arg);
    CHECK_INT(ret, -1);
    CHECK(ASYNC_get_current_job() == NULL);
    return NULL;
}

static void *is_refused_on_a_thread_with_jobs(void *arg)
{
    ASYNC_JOB *mine = start_paused(NULL, 20);

    is_refused(arg);
    resume_to_the_end(mine, 20);
    is_refused(arg);
    ASYNC_cleanup_thread();
    return is_refused(arg);
}

static int is_refused_job(void *arg)
{
    ASYNC_JOB *job = *(ASYNC_JOB **)arg, *self = ASYNC_get_current_job();
    int ret = -1;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
    CHECK(job == *(ASYNC_JOB **)arg);
    CHECK_INT(ret, -1);
    CHECK(ASYNC_get_current_job() == self);
    return 0;
}

static void *is_refused_in_a_job(void *arg)
{
    ASYNC_JOB *job = NULL;
    int ret = -1;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, is_refused_job, &arg, sizeof(arg)), ASYNC_FINISH);
    CHECK_INT(ret, 0);
    return NULL;
}

/* libcrypto would run the job on the wrong thread, and corrupt itself. */
CASE(resume_on_another_thread_is_refused, OURS,
     "a paused job cannot be resumed on another thread, and can then be on its own")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = start_paused(ctx, 10);

    on_thread(is_refused, job);
    CHECK(ASYNC_get_wait_ctx(job) == ctx);
    on_thread(is_refused_on_a_thread_with_jobs, job);
    on_thread(is_refused_in_a_job, job);
    CHECK(ASYNC_get_wait_ctx(job) == ctx);
    resume_to_the_end(job, 10);
    ASYNC_WAIT_CTX_free(ctx);
}

/* libcrypto would run the job on the wrong thread. */
CASE(a_refused_resume_clears_no_marks, OURS,
     "a resume refused on another thread leaves the marks of the job's context")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = start_paused(ctx, 10);
    size_t n_add = 0, n_del = 0;

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &token_a, 3, NULL, NULL), 1);
    on_thread(is_refused, job);
    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, NULL, &n_add, NULL, &n_del), 1);
    CHECK_INT(n_add, 1);
    resume_to_the_end(job, 10);
    ASYNC_WAIT_CTX_free(ctx);
}

static __thread char thread_mark;
static void *marks[2];
static ASYNC_JOB *left_behind;
static ASYNC_WAIT_CTX *left_ctx;

static void *leaves_a_job(void *arg)
{
    (void)arg;
    marks[0] = &thread_mark;
    left_behind = start_paused(left_ctx, 30);
    return NULL;
}

static void *tries_the_job_left_behind(void *arg)
{
    marks[1] = &thread_mark;
    is_refused(left_behind);
    run_a_job(NULL, 31);
    is_refused(left_behind);
    CHECK(ASYNC_get_wait_ctx(left_behind) == left_ctx);
    return arg;
}

/* libcrypto would run the job in the wrong thread. */
CASE(a_new_thread_does_not_inherit_jobs, OURS,
     "a new thread that has a dead one's very stack and thread-local addresses is not its jobs' "
     "owner")
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
    CHECK(marks[0] == marks[1]);
    /* The main thread neither. */
    is_refused(left_behind);
    pthread_attr_destroy(&attr);
    ASYNC_WAIT_CTX_free(left_ctx);
}

static void *has_a_life_of_its_own(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job;

    (void)arg;
    CHECK(ASYNC_get_current_job() == NULL);
    CHECK_INT(ASYNC_pause_job(), 1);
    /* Neither the limit of 1 nor the block of the other thread holds here. */
    job = start_paused(ctx, 41);
    run_a_job(ctx, 42);
    resume_to_the_end(job, 41);
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(ctx);
    return NULL;
}

static int starts_a_thread(void *arg)
{
    ASYNC_JOB *self = ASYNC_get_current_job();

    ASYNC_block_pause();
    on_thread(has_a_life_of_its_own, arg);
    CHECK(ASYNC_get_current_job() == self);
    ASYNC_unblock_pause();
    CHECK_INT(ASYNC_pause_job(), 1);
    on_thread(has_a_life_of_its_own, arg);
    CHECK(ASYNC_get_current_job() == self);
    return 5;
}

CASE(threads_are_independent, EVERYWHERE,
     "current job, blocks, limit and clean-up of a thread are nothing to another")
{
    ASYNC_JOB *job = NULL, *none = NULL;
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    int ret = -1, n = 0;

    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, starts_a_thread, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(ASYNC_start_job(&none, NULL, &ret, pausing_job, &n, sizeof(n)), ASYNC_NO_JOBS);
    on_thread(has_a_life_of_its_own, NULL);
    CHECK_INT(ASYNC_start_job(&none, NULL, &ret, pausing_job, &n, sizeof(n)), ASYNC_NO_JOBS);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 5);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(cleanup_on_a_thread_that_did_nothing, EVERYWHERE,
     "ASYNC_cleanup_thread may be called on a thread that never used the API, and twice")
{
    ASYNC_cleanup_thread();
    ASYNC_cleanup_thread();
    run_a_job(left_ctx = ASYNC_WAIT_CTX_new(), 1);
    ASYNC_cleanup_thread();
    ASYNC_cleanup_thread();
    run_a_job(left_ctx, 2);
    ASYNC_WAIT_CTX_free(left_ctx);
}

/* 2. The end of a thread. */

static void *leaves_idle_jobs(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[3];

    CHECK_INT(ASYNC_init_thread(4, 2), 1);
    for (int i = 0; i < 3; i++)
        job[i] = start_paused(ctx, i);
    for (int i = 0; i < 3; i++)
        resume_to_the_end(job[i], i);
    ASYNC_WAIT_CTX_free(ctx);
    return arg;
}

/* What /proc/self/statm says at this place: 0 is all the address space, 1 what is resident. */
static long pages(int place)
{
    long value[2];
    FILE *f = fopen("/proc/self/statm", "r");

    CHECK(f != NULL);
    CHECK_INT(fscanf(f, "%ld %ld", &value[0], &value[1]), 2);
    fclose(f);
    return value[place];
}

/* Not on valgrind: it keeps freed memory, and has its own in the same process. */
CASE(threads_that_come_and_go_leave_no_memory, EVERYWHERE | NOT_ON_VALGRIND,
     "after hundreds of threads with idle jobs the process has not grown")
{
    const long mb = (1 << 20) / sysconf(_SC_PAGESIZE);
    long size, resident;

    for (int i = 0; i < 100; i++)
        on_thread(leaves_idle_jobs, NULL);
    size = pages(0);
    resident = pages(1);
    /* 1500 jobs: with 8 KiB touched of each stack of 32 KiB or more, 12 MB and 48 MB. */
    for (int i = 0; i < 500; i++)
        on_thread(leaves_idle_jobs, NULL);
    CHECK(pages(1) - resident < 3 * mb);
    CHECK(pages(0) - size < 16 * mb);
}

/* Bytes that malloc has given out. On valgrind always 0: there the leak check does the work. */
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
     "threads that make and free contexts, and never a job, leave no memory in use")
{
    size_t before;

    for (int i = 0; i < 4; i++)
        on_thread(makes_and_frees_contexts, NULL);
    before = bytes_in_use();
    for (int i = 0; i < 100; i++)
        on_thread(makes_and_frees_contexts, NULL);
    CHECK(bytes_in_use() < before + 4096);
}

CASE(contexts_may_be_freed_on_another_thread, EVERYWHERE,
     "contexts made on one thread and freed on another leave no memory in use")
{
    size_t before = 0;

    for (int i = 0; i < 104; i++) {
        if (i == 4)
            before = bytes_in_use();
        makes_contexts(NULL);
        on_thread(frees_contexts, NULL);
        on_thread(makes_contexts, NULL);
        frees_contexts(NULL);
    }
    /* 8000 contexts: with an entry each, more than half a megabyte. */
    CHECK(bytes_in_use() < before + (64 << 10));
}

static sem_t more;

static void *frees_contexts_time_and_again(void *arg)
{
    for (int i = 0; i < 100; i++) {
        wait_for(&more);
        frees_contexts(NULL);
        CHECK_INT(sem_post(&done), 0);
    }
    return arg;
}

CASE(a_thread_that_only_frees_contexts_hoards_none, EVERYWHERE,
     "contexts made on one thread and freed on another, which lives on, leave no memory in use")
{
    size_t before = 0;
    pthread_t thread;

    CHECK_INT(sem_init(&more, 0, 0), 0);
    CHECK_INT(sem_init(&done, 0, 0), 0);
    CHECK_INT(pthread_create(&thread, NULL, frees_contexts_time_and_again, NULL), 0);
    for (int i = 0; i < 100; i++) {
        if (i == 4)
            before = bytes_in_use();
        makes_contexts(NULL);
        CHECK_INT(sem_post(&more), 0);
        wait_for(&done);
    }
    CHECK_INT(pthread_join(thread, NULL), 0);
    /* 4000 contexts: with an entry each, more than a quarter of a megabyte. */
    CHECK(bytes_in_use() < before + (64 << 10));
}

#ifndef ON_LIBCRYPTO
CASE(a_thread_that_ends_gives_its_idle_jobs_back, OURS,
     "the end of a thread frees its idle jobs, and counts none of them as abandoned")
{
    run_a_job(NULL, 1);
    for (int i = 0; i < 200; i++) {
        on_thread(leaves_idle_jobs, NULL);
        CHECK_INT(stats().stacks_in_use, 1);
    }
    CHECK_INT(stats().jobs_abandoned, 0);
}

static sem_t go;

static void *waits_with_jobs(void *arg)
{
    leaves_idle_jobs(arg);
    CHECK_INT(sem_post(&done), 0);
    wait_for(&go);
    return NULL;
}

#define CROWD 20

CASE(threads_that_end_together_give_all_back, OURS,
     "a crowd of threads that live and end at the same time gives all its idle jobs back")
{
    pthread_t crowd[CROWD];

    CHECK_INT(sem_init(&go, 0, 0), 0);
    CHECK_INT(sem_init(&done, 0, 0), 0);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < CROWD; i++)
            CHECK_INT(pthread_create(&crowd[i], NULL, waits_with_jobs, NULL), 0);
        for (int i = 0; i < CROWD; i++)
            wait_for(&done);
        CHECK_INT(stats().stacks_in_use, CROWD * 3);
        for (int i = 0; i < CROWD; i++)
            CHECK_INT(sem_post(&go), 0);
        for (int i = 0; i < CROWD; i++)
            CHECK_INT(pthread_join(crowd[i], NULL), 0);
        CHECK_INT(stats().stacks_in_use, 0);
    }
    CHECK_INT(stats().jobs_abandoned, 0);
}

static int *on_the_jobs_stack[3];

static int publishes_and_pauses(void *arg)
{
    volatile int array[64];
    int n = *(int *)arg;

    for (int i = 0; i < 64; i++)
        array[i] = 1000 * n + i;
    on_the_jobs_stack[n] = (int *)array;
    CHECK_INT(ASYNC_pause_job(), 1);
    return 0;
}

static void *leaves_paused_and_idle_jobs(void *arg)
{
    ASYNC_JOB *job, *ended = start_paused(left_ctx, 50);
    int ret;

    for (int n = 0; n < 3; n++) {
        job = NULL;
        CHECK_INT(ASYNC_start_job(&job, left_ctx, &ret, publishes_and_pauses, &n, sizeof(n)),
                  ASYNC_PAUSE);
    }
    resume_to_the_end(ended, 50);
    left_behind = job;
    return arg;
}

CASE(a_thread_that_ends_abandons_its_paused_jobs, OURS,
     "jobs paused when their thread ends are counted, stay in memory, and are never resumed")
{
    ASYNC_JOB *many[8];

    left_ctx = ASYNC_WAIT_CTX_new();
    on_thread(leaves_paused_and_idle_jobs, NULL);
    CHECK_INT(stats().jobs_abandoned, 3);
    CHECK_INT(stats().stacks_in_use, 3);
    CHECK(ASYNC_get_wait_ctx(left_behind) == left_ctx);
    is_refused(left_behind);
    /* Nobody gets their stacks. */
    on_thread(leaves_idle_jobs, NULL);
    for (int i = 0; i < 8; i++)
        many[i] = start_paused(NULL, i);
    for (int n = 0; n < 3; n++)
        for (int i = 0; i < 64; i++)
            CHECK_INT(on_the_jobs_stack[n][i], 1000 * n + i);
    for (int i = 0; i < 8; i++)
        resume_to_the_end(many[i], i);
    ASYNC_WAIT_CTX_free(left_ctx);
    CHECK(ASYNC_get_wait_ctx(left_behind) == NULL);
    CHECK_INT(stats().jobs_abandoned, 3);
}

static void *cleans_up_with_a_job_paused(void *arg)
{
    left_behind = start_paused(NULL, 60);
    ASYNC_cleanup_thread();
    return arg;
}

CASE(a_job_paused_across_cleanup_is_abandoned_with_its_thread, OURS,
     "a job that was paused when its thread cleaned up counts as abandoned once the thread ends")
{
    on_thread(cleans_up_with_a_job_paused, NULL);
    CHECK_INT(stats().jobs_abandoned, 1);
    is_refused(left_behind);
}
#endif

/* Destructors that run again in every round there is, before and after the library's own. */
static pthread_key_t keys[3];
static int rounds[3];

static void use_everything_again(int which)
{
    CHECK(ASYNC_get_current_job() == NULL);
    use_everything();
    CHECK_INT(ASYNC_init_thread(3, 2), 1); /* idle jobs, which nobody may use any more */
    if (++rounds[which] < PTHREAD_DESTRUCTOR_ITERATIONS)
        CHECK_INT(pthread_setspecific(keys[which], &keys), 0);
}

static void early_destructor(void *arg)
{
    (void)arg;
    use_everything_again(0);
}

static void late_destructor(void *arg)
{
    (void)arg;
    use_everything_again(1);
}

static void idle_destructor(void *arg)
{
    (void)arg;
    use_everything_again(2);
}

static void *with_destructors(void *uses_the_api_itself)
{
    CHECK_INT(pthread_setspecific(keys[0], &keys), 0);
    if (uses_the_api_itself != NULL)
        use_everything();
    CHECK_INT(pthread_key_create(&keys[1], late_destructor), 0);
    CHECK_INT(pthread_setspecific(keys[1], &keys), 0);
    CHECK_INT(pthread_setspecific(keys[2], &keys), 0);
    return NULL;
}

static void run_destructors(void *arg)
{
    CHECK_INT(pthread_key_create(&keys[0], early_destructor), 0);
    CHECK_INT(pthread_key_create(&keys[2], idle_destructor), 0);
    on_thread(with_destructors, arg);
    for (int i = 0; i < 3; i++)
        CHECK_INT(rounds[i], PTHREAD_DESTRUCTOR_ITERATIONS);
}

/*
 * libcrypto leaks what is made after its own clean-up in the last round. ThreadSanitizer has
 * forgotten the thread by then, and crashes in any function.
 */
CASE(every_call_works_in_key_destructors, OURS | NOT_ON_TSAN,
     "thread-exit destructors may use the API, whether they run before or after its own, in all "
     "rounds")
{
    run_destructors(&token_a);
}

/* As above. */
CASE(a_thread_may_use_the_api_in_its_destructors_only, OURS | NOT_ON_TSAN,
     "a thread's first use of the API may be in a thread-exit destructor")
{
    run_destructors(NULL);
}

#ifndef ON_LIBCRYPTO
/* As above. */
CASE(destructors_leave_nothing_behind, OURS | NOT_ON_TSAN,
     "what destructors make after the library's own clean-up is given back as well")
{
    run_destructors(&token_a);
    CHECK_INT(stats().stacks_in_use, 0);
    CHECK_INT(stats().jobs_abandoned, 0);
}
#endif

/* What C++ registers destructors of thread_local objects with; they run before those of keys. */
extern int __cxa_thread_atexit_impl(void (*func)(void *), void *arg, void *dso);
extern void *__dso_handle;

static void thread_local_destructor(void *times)
{
    CHECK(ASYNC_get_current_job() == NULL);
    use_everything();
    ++*(int *)times;
}

static void *with_thread_locals(void *times)
{
    CHECK_INT(__cxa_thread_atexit_impl(thread_local_destructor, times, &__dso_handle), 0);
    use_everything();
    CHECK_INT(__cxa_thread_atexit_impl(thread_local_destructor, times, &__dso_handle), 0);
    return NULL;
}

CASE(every_call_works_in_thread_local_destructors, EVERYWHERE,
     "destructors of thread_local objects may use the API, made before its first use or after")
{
    int times = 0;

    on_thread(with_thread_locals, &times);
    CHECK_INT(times, 2);
}

static int exits_its_thread(void *args)
{
    (void)args;
    pthread_exit(NULL);
}

static void *with_thread_locals_that_exits(void *times)
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(__cxa_thread_atexit_impl(thread_local_destructor, times, &__dso_handle), 0);
    ASYNC_start_job(&job, NULL, &ret, exits_its_thread, NULL, 0);
    check_fail(__FILE__, __LINE__, "the thread has ended");
}

/* libcrypto's current job is still the one that is gone. ThreadSanitizer: see below. */
CASE(thread_local_destructors_may_follow_pthread_exit_in_a_job, OURS | NOT_ON_TSAN,
     "destructors that run right after a pthread_exit in a job are outside of it")
{
    int times = 0;

    on_thread(with_thread_locals_that_exits, &times);
    CHECK_INT(times, 1);
}

static void at_exit(void)
{
    CHECK(ASYNC_get_current_job() == NULL);
    left_ctx = ASYNC_WAIT_CTX_new();
    run_a_job(left_ctx, 1);
    ASYNC_cleanup_thread();
    run_a_job(left_ctx, 1);
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(left_ctx);
    _exit(42);
}

static void registers_late(void)
{
    left_ctx = ASYNC_WAIT_CTX_new();
    run_a_job(left_ctx, 1);
    ASYNC_WAIT_CTX_free(left_ctx);
    CHECK_INT(atexit(at_exit), 0);
    exit(0);
}

CASE(every_call_works_at_exit, EVERYWHERE,
     "atexit functions registered after the first use of the API may use it")
{
    CHECK_INT(check_child(registers_late, 0), -42);
}

static void registers_early(void)
{
    CHECK_INT(atexit(at_exit), 0);
    left_ctx = ASYNC_WAIT_CTX_new();
    run_a_job(left_ctx, 1);
    ASYNC_WAIT_CTX_free(left_ctx);
    exit(0);
}

/* libcrypto's own atexit function has run by then, and its calls fail. */
CASE(every_call_works_at_the_very_exit, OURS,
     "atexit functions registered before the first use of the API may use it too")
{
    CHECK_INT(check_child(registers_early, 0), -42);
}

static pthread_t main_thread;

static void *outlives_the_main_thread(void *arg)
{
    CHECK_INT(pthread_join(main_thread, NULL), 0);
    leaves_idle_jobs(arg);
    _exit(42);
}

static void ends_the_main_thread(void)
{
    pthread_t thread;

    leaves_idle_jobs(NULL);
    main_thread = pthread_self();
    CHECK_INT(pthread_create(&thread, NULL, outlives_the_main_thread, NULL), 0);
    pthread_exit(NULL);
}

/* ThreadSanitizer can't join the main thread. */
CASE(the_main_thread_may_end_first, EVERYWHERE | NOT_ON_TSAN,
     "the main thread may end with pthread_exit, and other threads go on using the API")
{
    CHECK_INT(check_child(ends_the_main_thread, 0), -42);
}

/* 3. pthread_exit and cancellation in a job. */

static char trail[8];
static int never_written[2];

static void note(void *letter)
{
    strcat(trail, letter);
}

static int ends_its_thread(void *arg)
{
    pthread_cleanup_push(note, "j");
    left_behind = ASYNC_get_current_job();
    pthread_exit(*(void **)arg);
    pthread_cleanup_pop(0);
    return 0;
}

static int waits_to_be_cancelled(void *arg)
{
    char c;

    (void)arg;
    pthread_cleanup_push(note, "j");
    left_behind = ASYNC_get_current_job();
    CHECK_INT(sem_post(&done), 0);
    while (read(never_written[0], &c, 1) < 0)
        CHECK_INT(errno, EINTR);
    pthread_cleanup_pop(0);
    return 0;
}

static int (*last_job)(void *);

/* Ends in a job: nothing after ASYNC_start_job happens. */
static void *ends_in_a_job(void *arg)
{
    ASYNC_JOB *job = NULL;
    int ret;

    pthread_cleanup_push(note, "t");
    (void)ASYNC_start_job(&job, left_ctx, &ret, last_job, &arg, sizeof(arg));
    strcat(trail, "!");
    pthread_cleanup_pop(0);
    return NULL;
}

static void expect_exit(void *(*thread_func)(void *))
{
    pthread_t thread;
    void *result = NULL;

    left_ctx = ASYNC_WAIT_CTX_new();
    last_job = ends_its_thread;
    CHECK_INT(pthread_create(&thread, NULL, thread_func, &token_b), 0);
    CHECK_INT(pthread_join(thread, &result), 0);
    CHECK(result == &token_b);
    CHECK_STR(trail, "jt");
}

static void expect_cancellation(void *(*thread_func)(void *))
{
    pthread_t thread;
    void *result = NULL;

    left_ctx = ASYNC_WAIT_CTX_new();
    last_job = waits_to_be_cancelled;
    CHECK_INT(pipe(never_written), 0);
    CHECK_INT(sem_init(&done, 0, 0), 0);
    CHECK_INT(pthread_create(&thread, NULL, thread_func, &token_b), 0);
    wait_for(&done);
    CHECK_INT(pthread_cancel(thread), 0);
    CHECK_INT(pthread_join(thread, &result), 0);
    CHECK(result == PTHREAD_CANCELED);
    CHECK_STR(trail, "jt");
    close(never_written[0]);
    close(never_written[1]);
}

/* ThreadSanitizer allows pthread_exit on a thread's own stack only. */
CASE(pthread_exit_in_a_job_ends_the_thread, EVERYWHERE | NOT_ON_TSAN,
     "pthread_exit in a job runs the cleanup handlers, the job's first, and ends the thread")
{
    expect_exit(ends_in_a_job);
    run_a_job(left_ctx, 1);
    ASYNC_WAIT_CTX_free(left_ctx);
}

CASE(cancellation_in_a_job_ends_the_thread, EVERYWHERE,
     "pthread_cancel in a job runs the cleanup handlers, the job's first, and ends the thread")
{
    expect_cancellation(ends_in_a_job);
    run_a_job(left_ctx, 1);
    ASYNC_WAIT_CTX_free(left_ctx);
}

static pthread_key_t after_keys[2];
static int after_calls;

/* Runs when the thread has left the job without ending it. */
static void after_the_job(void *arg)
{
    ASYNC_JOB *current = ASYNC_get_current_job();

    (void)arg;
    CHECK(current == NULL || current == left_behind);
    /* It would lead into a frame that is gone. */
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(ASYNC_pause_job(), 1);
    use_everything();
    CHECK(ASYNC_get_current_job() == NULL || ASYNC_get_current_job() == left_behind);
    after_calls++;
}

static void *ends_in_a_job_with_destructors(void *arg)
{
    CHECK_INT(pthread_key_create(&after_keys[0], after_the_job), 0);
    CHECK_INT(pthread_setspecific(after_keys[0], arg), 0);
    run_a_job(NULL, 1);
    CHECK_INT(pthread_key_create(&after_keys[1], after_the_job), 0);
    CHECK_INT(pthread_setspecific(after_keys[1], arg), 0);
    return ends_in_a_job(arg);
}

/* libcrypto would pause into frames of the ended thread. ThreadSanitizer: see above. */
CASE(destructors_may_follow_pthread_exit_in_a_job, OURS | NOT_ON_TSAN,
     "after pthread_exit in a job the thread's destructors may use the API; a pause returns at "
     "once")
{
    expect_exit(ends_in_a_job_with_destructors);
    CHECK_INT(after_calls, 2);
    ASYNC_WAIT_CTX_free(left_ctx);
}

/* libcrypto: as above. */
CASE(destructors_may_follow_cancellation_in_a_job, OURS,
     "after a cancellation in a job the thread's destructors may use the API; a pause returns at "
     "once")
{
    expect_cancellation(ends_in_a_job_with_destructors);
    CHECK_INT(after_calls, 2);
    ASYNC_WAIT_CTX_free(left_ctx);
}

#ifdef __x86_64__
/* What no unwinder gets past: the compiler tells of the functions that it makes, not of this. */
int exits_unseen(void *args);
__asm__(".type exits_unseen, @function\n"
        "exits_unseen:\n\t"
        "sub $8, %rsp\n\t"
        "xor %edi, %edi\n\t"
        "call pthread_exit@PLT");

static void after_the_unseen_job(void *arg)
{
    (void)arg;
    CHECK(ASYNC_get_current_job() == NULL);
    CHECK_INT(ASYNC_pause_job(), 1);
    use_everything();
    after_calls++;
}

static void *ends_unseen(void *arg)
{
    ASYNC_JOB *job = NULL;
    int ret;

    run_a_job(NULL, 1);
    CHECK_INT(pthread_key_create(&after_keys[0], after_the_unseen_job), 0);
    CHECK_INT(pthread_setspecific(after_keys[0], arg), 0);
    ASYNC_start_job(&job, NULL, &ret, exits_unseen, NULL, 0);
    check_fail(__FILE__, __LINE__, "the thread has ended");
}

/*
 * As above. To AddressSanitizer the frames that nobody has unwound are in use still: it reports the
 * variables of those that follow.
 */
CASE(a_thread_may_end_in_a_job_that_cannot_be_unwound, OURS | NOT_ON_ASAN | NOT_ON_TSAN,
     "a job that no unwinder gets out of is left when its thread ends, too")
{
    on_thread(ends_unseen, &token_a);
    CHECK_INT(after_calls, 1);
}
#endif

#ifndef ON_LIBCRYPTO
static void *ends_in_a_job_with_another_paused(void *arg)
{
    start_paused(NULL, 70);
    return ends_in_a_job(arg);
}

/* ThreadSanitizer: see above. */
CASE(a_job_that_ends_its_thread_is_abandoned, OURS | NOT_ON_TSAN,
     "a job still running when its thread ends is counted as abandoned, like a paused one")
{
    expect_exit(ends_in_a_job);
    CHECK_INT(stats().jobs_abandoned, 1);
    is_refused(left_behind);
    ASYNC_WAIT_CTX_free(left_ctx);
    trail[0] = '\0';
    expect_exit(ends_in_a_job_with_another_paused);
    CHECK_INT(stats().jobs_abandoned, 3);
    ASYNC_WAIT_CTX_free(left_ctx);
    CHECK(ASYNC_get_wait_ctx(left_behind) == NULL);
}
#endif

/* 4. Several threads at once. */

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
    on_thread(reads_a_paused_job, job);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(left_ctx), ASYNC_STATUS_OK);
    resume_to_the_end(job, 80);
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

/* What QAT's polling thread does. What it reads must have been there at one moment. */
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
        /* Valgrind runs one thread at a time, and lets it go on until it waits or yields. */
        if (atomic_fetch_add(&polls, 1) % 64 == 0)
            sched_yield();
    }
    return arg;
}

/* One entry at a time: each pause shows one fd added, and the one before deleted. */
static int polled(void *arg)
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

/* libcrypto has no locks: its lists would break under the polling thread. */
CASE(a_polling_thread_may_read_along, OURS,
     "a polling thread reads contexts and sets statuses while the owner pauses, reads and "
     "resumes early")
{
    pthread_t poller;
    int last[2] = {0, 0};

    for (int i = 0; i < 2; i++)
        polled_ctx[i] = ASYNC_WAIT_CTX_new();
    CHECK_INT(pthread_create(&poller, NULL, polls_jobs, NULL), 0);
    /* Until both have had their turns; a thread may have to wait for a processor. */
    for (int round = 0; round < ROUNDS || atomic_load(&polls) < 1000
         || atomic_load(&polled_fds) < 10; round++) {
        ASYNC_WAIT_CTX *ctx = polled_ctx[round & 1];
        ASYNC_JOB *job = NULL;
        int ret, fd = 1 + round % 100000 * 3, first = fd;

        while (ASYNC_start_job(&job, ctx, &ret, polled, &first, sizeof(first)) == ASYNC_PAUSE) {
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
            /* Here, where the poller finds an fd. */
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

/* Has at most three entries at a time, all under its own key, and leaves one. */
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

/* As many fds as the call says, all of them real, and at most three from each thread. */
static void expect_sane_list(const int *list, size_t room, size_t n)
{
    CHECK(n <= 3 * SETTERS);
    for (size_t i = 0; i < room; i++)
        CHECK((list[i] > 0) == (i < n));
}

/* libcrypto has no locks: its list would break. */
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
        expect_sane_list(all, 4 * SETTERS, n);
        CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(shared_ctx, add, &n, NULL, &m), 1);
        expect_sane_list(add, 4 * SETTERS, n);
        /* In some rounds only, so that entries are cleared while added, and while not. */
        if (resumes++ % 8 == 0)
            run_a_job(shared_ctx, 1);
    }
    for (int i = 0; i < SETTERS; i++)
        CHECK_INT(pthread_join(thread[i], NULL), 0);
    for (int i = 0; i < SETTERS; i++)
        expect_own(&setter_keys[i], SETTERS + i);
    job = start_paused(shared_ctx, 2);
    resume_to_the_end(job, 2);
    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(shared_ctx, NULL, &n, NULL, &m), 1);
    CHECK_INT(n, 0);
    CHECK_INT(m, 0);
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(shared_ctx, NULL, &n), 1);
    CHECK_INT(n, SETTERS);
    CHECK_INT(atomic_load(&n_cleaned), 0);
    ASYNC_WAIT_CTX_free(shared_ctx);
    CHECK_INT(atomic_load(&n_cleaned), SETTERS);
    pthread_barrier_destroy(&setters_start);
}
