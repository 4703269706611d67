/*
 * thread_exit.c: the end of a thread frees its idle jobs and abandons its paused ones; every call
 * works in destructors and exit functions; pthread_exit and cancellation may end a job's thread.
 */
#include "process.h"
#include "threads.h"
#include <limits.h>

static char token_a, token_b;
static sem_t done;

/* The job and the context of a thread that has ended. */
static ASYNC_JOB *left_behind;
static ASYNC_WAIT_CTX *left_ctx;

/* Makes each call that concerns a thread. None of them depends on an earlier call. */
static void make_thread_calls(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job;

    CHECK_INT(ASYNC_pause_job(), 1);
    ASYNC_block_pause();
    ASYNC_unblock_pause();
    CHECK_INT(ASYNC_is_capable(), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &token_a, 3, NULL, NULL), 1);
    job = start_paused(ctx, 1);
    CHECK(ASYNC_get_wait_ctx(job) == ctx);
    finish(job, 1);
    check_marks(ctx, 0, 0);
    CHECK_INT(ASYNC_init_thread(2, 1), 1);
    run_a_job(ctx, 2);
    ASYNC_cleanup_thread();
    run_a_job(ctx, 3);
    ASYNC_WAIT_CTX_free(ctx);
}

#ifndef ON_LIBCRYPTO
static uint64_t jobs_abandoned(void)
{
    struct rsasync_stats stats;

    RSASYNC_get_stats(&stats, sizeof(stats));
    return stats.jobs_abandoned;
}
#endif

/* ---- idle and paused jobs ---- */

static void *leaves_idle_jobs(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[3];

    CHECK_INT(ASYNC_init_thread(4, 2), 1);
    for (int i = 0; i < 3; i++)
        job[i] = start_paused(ctx, i);
    for (int i = 0; i < 3; i++)
        finish(job[i], i);
    ASYNC_WAIT_CTX_free(ctx);
    return arg;
}

/* valgrind keeps freed memory for a while, and its own memory is part of the process's. */
CASE(threads_that_come_and_go_leave_no_memory, EVERYWHERE | NOT_ON_VALGRIND | NOT_EMULATED,
     "after hundreds of threads with idle jobs the process has not grown")
{
    enum { MIB = 1 << 20 };
    struct statm before;

    for (int i = 0; i < 100; i++)
        on_new_thread(leaves_idle_jobs, NULL);
    before = statm();
    /*
     * Lost, the stacks of 1500 jobs would be 12 MiB resident and 47 MiB of address space: 8 KiB
     * touched of 32 KiB or more each.
     */
    for (int i = 0; i < 500; i++)
        on_new_thread(leaves_idle_jobs, NULL);
    CHECK(statm().resident - before.resident < 3 * MIB);
    CHECK(statm().mapped - before.mapped < 16 * MIB);
}

#ifndef ON_LIBCRYPTO
CASE(a_thread_that_ends_frees_its_idle_jobs, OURS,
     "the end of a thread frees its idle jobs, and counts none of them as abandoned")
{
    run_a_job(NULL, 1);
    for (int i = 0; i < 200; i++) {
        on_new_thread(leaves_idle_jobs, NULL);
        CHECK_INT(stacks_in_use(), 1);
    }
    CHECK_INT(jobs_abandoned(), 0);
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

CASE(threads_that_end_together_free_all_idle_jobs, OURS,
     "twenty threads that end at the same time free all their idle jobs")
{
    pthread_t crowd[CROWD];

    CHECK_INT(sem_init(&go, 0, 0), 0);
    CHECK_INT(sem_init(&done, 0, 0), 0);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < CROWD; i++)
            CHECK_INT(pthread_create(&crowd[i], NULL, waits_with_jobs, NULL), 0);
        for (int i = 0; i < CROWD; i++)
            wait_for(&done);
        CHECK_INT(stacks_in_use(), CROWD * 3);
        for (int i = 0; i < CROWD; i++)
            CHECK_INT(sem_post(&go), 0);
        for (int i = 0; i < CROWD; i++)
            CHECK_INT(pthread_join(crowd[i], NULL), 0);
        CHECK_INT(stacks_in_use(), 0);
    }
    CHECK_INT(jobs_abandoned(), 0);
}

/* Arrays on the stacks of three paused jobs. */
static int *on_the_jobs_stack[3];

static int publishes_an_array(void *arg)
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
        CHECK_INT(ASYNC_start_job(&job, left_ctx, &ret, publishes_an_array, &n, sizeof(n)),
                  ASYNC_PAUSE);
    }
    finish(ended, 50);
    left_behind = job;
    return arg;
}

CASE(a_thread_that_ends_abandons_its_paused_jobs, OURS,
     "jobs paused when their thread ends are counted, stay in memory, and cannot be resumed")
{
    ASYNC_JOB *many[8];

    left_ctx = ASYNC_WAIT_CTX_new();
    on_new_thread(leaves_paused_and_idle_jobs, NULL);
    CHECK_INT(jobs_abandoned(), 3);
    CHECK_INT(stacks_in_use(), 3);
    CHECK(ASYNC_get_wait_ctx(left_behind) == left_ctx);
    check_resume_is_refused(left_behind);
    /* Jobs that follow do not get their stacks. */
    on_new_thread(leaves_idle_jobs, NULL);
    for (int i = 0; i < 8; i++)
        many[i] = start_paused(NULL, i);
    for (int n = 0; n < 3; n++)
        for (int i = 0; i < 64; i++)
            CHECK_INT(on_the_jobs_stack[n][i], 1000 * n + i);
    for (int i = 0; i < 8; i++)
        finish(many[i], i);
    ASYNC_WAIT_CTX_free(left_ctx);
    CHECK(ASYNC_get_wait_ctx(left_behind) == NULL);
    CHECK_INT(jobs_abandoned(), 3);
}

static void *cleans_up_with_a_job_paused(void *arg)
{
    left_behind = start_paused(NULL, 60);
    ASYNC_cleanup_thread();
    return arg;
}

CASE(a_job_paused_across_cleanup_is_abandoned_with_its_thread, OURS,
     "a job that stays paused across ASYNC_cleanup_thread counts as abandoned when its thread ends")
{
    on_new_thread(cleans_up_with_a_job_paused, NULL);
    CHECK_INT(jobs_abandoned(), 1);
    check_resume_is_refused(left_behind);
}
#endif

/* ---- destructors and exit functions ---- */

/*
 * Destructors of thread-specific data that register themselves again, so that they run in every
 * round of destructors, before and after the library's own.
 */
static pthread_key_t keys[3];
static int rounds[3];

static void make_thread_calls_again(int which)
{
    CHECK(ASYNC_get_current_job() == NULL);
    make_thread_calls();
    CHECK_INT(ASYNC_init_thread(3, 2), 1); /* idle jobs to free */
    if (++rounds[which] < PTHREAD_DESTRUCTOR_ITERATIONS)
        CHECK_INT(pthread_setspecific(keys[which], &keys), 0);
}

static void early_destructor(void *arg)
{
    (void)arg;
    make_thread_calls_again(0);
}

static void late_destructor(void *arg)
{
    (void)arg;
    make_thread_calls_again(1);
}

static void idle_destructor(void *arg)
{
    (void)arg;
    make_thread_calls_again(2);
}

static void *with_destructors(void *calls_before)
{
    CHECK_INT(pthread_setspecific(keys[0], &keys), 0);
    if (calls_before != NULL)
        make_thread_calls();
    CHECK_INT(pthread_key_create(&keys[1], late_destructor), 0);
    CHECK_INT(pthread_setspecific(keys[1], &keys), 0);
    CHECK_INT(pthread_setspecific(keys[2], &keys), 0);
    return NULL;
}

static void run_destructors(void *arg)
{
    CHECK_INT(pthread_key_create(&keys[0], early_destructor), 0);
    CHECK_INT(pthread_key_create(&keys[2], idle_destructor), 0);
    on_new_thread(with_destructors, arg);
    for (int i = 0; i < 3; i++)
        CHECK_INT(rounds[i], PTHREAD_DESTRUCTOR_ITERATIONS);
}

/*
 * libcrypto leaks jobs that are made after its own clean-up in the last round. ThreadSanitizer has
 * freed its data of the thread by then, and crashes in any instrumented function.
 */
CASE(every_call_works_in_key_destructors, OURS | NOT_ON_TSAN,
     "destructors of thread-specific data may make every call, before the library's own "
     "destructor and after it, in all rounds")
{
    run_destructors(&token_a);
}

/* As above. */
CASE(a_thread_may_use_the_api_in_its_destructors_only, OURS | NOT_ON_TSAN,
     "a thread may make its first call in a destructor of thread-specific data")
{
    run_destructors(NULL);
}

#ifndef ON_LIBCRYPTO
/* ThreadSanitizer: as above. */
CASE(destructors_leave_nothing_behind, OURS | NOT_ON_TSAN,
     "jobs that destructors make after the library's own clean-up are freed as well")
{
    run_destructors(&token_a);
    CHECK_INT(stacks_in_use(), 0);
    CHECK_INT(jobs_abandoned(), 0);
}
#endif

#ifdef __GLIBC__ /* with musl the C++ library calls them as destructors of a pthread key */
/* Registers destructors of C++ thread_local objects; they run before those of pthread keys. */
extern int __cxa_thread_atexit_impl(void (*func)(void *), void *arg, void *dso);
extern void *__dso_handle;

static void thread_local_destructor(void *times)
{
    CHECK(ASYNC_get_current_job() == NULL);
    make_thread_calls();
    ++*(int *)times;
}

static void *with_thread_locals(void *times)
{
    CHECK_INT(__cxa_thread_atexit_impl(thread_local_destructor, times, &__dso_handle), 0);
    make_thread_calls();
    CHECK_INT(__cxa_thread_atexit_impl(thread_local_destructor, times, &__dso_handle), 0);
    return NULL;
}

CASE(every_call_works_in_thread_local_destructors, EVERYWHERE,
     "destructors of thread_local objects may make every call, whether the object was made before "
     "the thread's first call or after it")
{
    int times = 0;

    on_new_thread(with_thread_locals, &times);
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

/*
 * libcrypto's current job is still the one that was left by pthread_exit. ThreadSanitizer allows
 * pthread_exit on a thread's own stack only.
 */
CASE(thread_local_destructors_may_follow_pthread_exit_in_a_job, OURS | NOT_ON_TSAN,
     "destructors that run after a pthread_exit in a job run outside of that job")
{
    int times = 0;

    on_new_thread(with_thread_locals_that_exits, &times);
    CHECK_INT(times, 1);
}
#endif

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
     "atexit functions registered after the first call may make every call")
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

/* libcrypto's own atexit function has run by then, and after it its calls fail. */
CASE(every_call_works_at_exit_registered_early, OURS,
     "atexit functions registered before the first call may make every call")
{
    CHECK_INT(check_child(registers_early, 0), -42);
}

#ifdef __GLIBC__ /* musl 1.2.3 never ends a join of a forked child's main thread */
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

/* ThreadSanitizer cannot join the main thread. */
CASE(the_main_thread_may_end_first, EVERYWHERE | NOT_ON_TSAN,
     "when the main thread ends by pthread_exit, other threads can still make every call")
{
    CHECK_INT(check_child(ends_the_main_thread, 0), -42);
}
#endif

/* ---- pthread_exit and cancellation in a job ---- */

/* A letter for each cleanup handler that has run: j in the job, t in the thread outside of it. */
static char trail[8];
/* A pipe; reading it blocks until the thread is cancelled. */
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

/* Its thread ends in a job: nothing after ASYNC_start_job runs. */
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

/* ThreadSanitizer allows pthread_exit on a thread's own stack only, here and below. */
CASE(pthread_exit_in_a_job_ends_the_thread, EVERYWHERE | NOT_ON_TSAN,
     "pthread_exit in a job runs the job's cleanup handlers, then the thread's, and ends the "
     "thread")
{
    expect_exit(ends_in_a_job);
    run_a_job(left_ctx, 1);
    ASYNC_WAIT_CTX_free(left_ctx);
}

CASE(cancellation_in_a_job_ends_the_thread, EVERYWHERE,
     "pthread_cancel in a job runs the job's cleanup handlers, then the thread's, and ends the "
     "thread")
{
    expect_cancellation(ends_in_a_job);
    run_a_job(left_ctx, 1);
    ASYNC_WAIT_CTX_free(left_ctx);
}

static pthread_key_t after_keys[2];
static int after_calls;

/* A destructor that runs after the thread has left a job that has not finished. */
static void after_the_job(void *arg)
{
    ASYNC_JOB *current = ASYNC_get_current_job();

    (void)arg;
    CHECK(current == NULL || current == left_behind);
    /* A switch would lead into the frame of ASYNC_start_job, which is gone. */
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(ASYNC_pause_job(), 1);
    make_thread_calls();
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

/* libcrypto pauses into frames of the thread that are gone. */
CASE(destructors_may_follow_pthread_exit_in_a_job, OURS | NOT_ON_TSAN,
     "after pthread_exit in a job the thread's destructors may make every call; a pause returns "
     "at once")
{
    expect_exit(ends_in_a_job_with_destructors);
    CHECK_INT(after_calls, 2);
    ASYNC_WAIT_CTX_free(left_ctx);
}

/* As above. */
CASE(destructors_may_follow_cancellation_in_a_job, OURS,
     "after a cancellation in a job the thread's destructors may make every call; a pause returns "
     "at once")
{
    expect_cancellation(ends_in_a_job_with_destructors);
    CHECK_INT(after_calls, 2);
    ASYNC_WAIT_CTX_free(left_ctx);
}

/* A job function without unwind information: no unwinder gets past its frame. */
int exits_without_unwind_info(void *args);
__asm__(".type exits_without_unwind_info, %function\n"
        "exits_without_unwind_info:\n\t"
#if defined(__x86_64__)
        "sub $8, %rsp\n\t" /* a call needs the stack aligned to 16 bytes */
        "xor %edi, %edi\n\t" /* the argument NULL */
        "call pthread_exit@PLT");
#elif defined(__aarch64__)
        "hint #34\n\t" /* bti c: it is called by its address */
        "mov x0, xzr\n\t" /* the argument NULL */
        "bl pthread_exit");
#endif

static void after_the_job_without_unwind_info(void *arg)
{
    (void)arg;
    CHECK(ASYNC_get_current_job() == NULL);
    CHECK_INT(ASYNC_pause_job(), 1);
    make_thread_calls();
    after_calls++;
}

static void *ends_without_unwind_info(void *arg)
{
    ASYNC_JOB *job = NULL;
    int ret;

    run_a_job(NULL, 1);
    CHECK_INT(pthread_key_create(&after_keys[0], after_the_job_without_unwind_info), 0);
    CHECK_INT(pthread_setspecific(after_keys[0], arg), 0);
    ASYNC_start_job(&job, NULL, &ret, exits_without_unwind_info, NULL, 0);
    check_fail(__FILE__, __LINE__, "the thread has ended");
}

/*
 * libcrypto pauses into frames that are gone. AddressSanitizer takes the frames that were not
 * unwound for frames in use, and reports later frames in the same place.
 */
CASE(a_thread_may_end_in_a_job_that_cannot_be_unwound, OURS | NOT_ON_ASAN | NOT_ON_TSAN,
     "a thread may end in a job whose frames cannot be unwound, and its destructors run outside of "
     "that job")
{
    on_new_thread(ends_without_unwind_info, &token_a);
    CHECK_INT(after_calls, 1);
}

#ifndef ON_LIBCRYPTO
static void *ends_in_a_job_with_another_paused(void *arg)
{
    start_paused(NULL, 70);
    return ends_in_a_job(arg);
}

CASE(a_job_that_ends_its_thread_is_abandoned, OURS | NOT_ON_TSAN,
     "a job that is running when its thread ends counts as abandoned, like a paused one")
{
    expect_exit(ends_in_a_job);
    CHECK_INT(jobs_abandoned(), 1);
    check_resume_is_refused(left_behind);
    ASYNC_WAIT_CTX_free(left_ctx);
    trail[0] = '\0';
    expect_exit(ends_in_a_job_with_another_paused);
    CHECK_INT(jobs_abandoned(), 3);
    ASYNC_WAIT_CTX_free(left_ctx);
    CHECK(ASYNC_get_wait_ctx(left_behind) == NULL);
}
#endif

