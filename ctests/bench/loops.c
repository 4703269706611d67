/*
 * loops.c: the loops whose time the benchmark measures, in C as in a program that uses jobs. Each
 * loop is passed a library's functions, so that both libraries are called by the same code. It
 * returns nanoseconds for each iteration, of this thread's processor time: the time of other
 * threads and processes does not count.
 */
#include <math.h>
#include <openssl/async.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* `Async` of ctests/harness/functions.rs, with the same members in the same order. */
struct async {
    int (*init_thread)(size_t max_size, size_t init_size);
    void (*cleanup_thread)(void);
    int (*start_job)(ASYNC_JOB **job, ASYNC_WAIT_CTX *ctx, int *ret, int (*func)(void *), void *args,
                     size_t size);
    int (*pause_job)(void);
    ASYNC_JOB *(*current_job)(void);
    ASYNC_WAIT_CTX *(*wait_ctx)(ASYNC_JOB *job);
    void (*block_pause)(void);
    void (*unblock_pause)(void);
    int (*is_capable)(void);
    ASYNC_WAIT_CTX *(*new)(void);
    void (*free)(ASYNC_WAIT_CTX *ctx);
    int (*set_wait_fd)(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *custom_data,
                       void (*cleanup)(ASYNC_WAIT_CTX *, const void *, int, void *));
    int (*fd)(ASYNC_WAIT_CTX *ctx, const void *key, int *fd, void **custom_data);
    int (*all_fds)(ASYNC_WAIT_CTX *ctx, int *fds, size_t *count);
    int (*changed_fds)(ASYNC_WAIT_CTX *ctx, int *added, size_t *added_count, int *deleted,
                       size_t *deleted_count);
    int (*clear_fd)(ASYNC_WAIT_CTX *ctx, const void *key);
};

static double nanoseconds(clockid_t clock)
{
    struct timespec time;

    clock_gettime(clock, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static double thread_nanoseconds(void)
{
    return nanoseconds(CLOCK_THREAD_CPUTIME_ID);
}

/* Ends the process if a call has failed: its time means nothing. */
static inline void must(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "bench: %s failed\n", what);
        exit(1);
    }
}

/*
 * Ten functions, each of which calls the next and has work left when that returns, so that the
 * compiler makes no tail call. One function that calls itself would not do: each return would go to
 * the same address, and a processor whose stack of predicted return addresses is off by one, after
 * a switch of stacks, would still predict right.
 */
typedef long call_fn(void *arg);

#define LEVEL(level, below) \
    __attribute__((noinline)) static long level(call_fn *call, void *arg) \
    { \
        long sum = below; \
        __asm__ volatile("" : "+r"(sum)); \
        return sum + __LINE__; \
    }
LEVEL(level_1, call(arg))
LEVEL(level_2, level_1(call, arg))
LEVEL(level_3, level_2(call, arg))
LEVEL(level_4, level_3(call, arg))
LEVEL(level_5, level_4(call, arg))
LEVEL(level_6, level_5(call, arg))
LEVEL(level_7, level_6(call, arg))
LEVEL(level_8, level_7(call, arg))
LEVEL(level_9, level_8(call, arg))
LEVEL(level_10, level_9(call, arg))

long ten_deep(call_fn *call, void *arg)
{
    return level_10(call, arg);
}

/* A job that a loop starts and resumes; the job's argument is the address of this. */
struct looped_job {
    const struct async *lib;
    ASYNC_WAIT_CTX *ctx;
    ASYNC_JOB *handle;
    int (*func)(void *);
    int expected; /* what ASYNC_start_job must return */
    int stop;     /* the job is to finish when it is resumed next */
};

static inline void start_or_resume(struct looped_job *job)
{
    int ret;

    must(job->lib->start_job(&job->handle, job->ctx, &ret, job->func, &job, sizeof(job))
             == job->expected, "ASYNC_start_job");
}

static long start_or_resume_call(void *job)
{
    start_or_resume(job);
    return 1;
}

static struct looped_job new_job(const struct async *lib, int (*func)(void *), int expected)
{
    struct looped_job job = { lib, lib->new(), NULL, func, expected, 0 };

    must(job.ctx != NULL, "ASYNC_WAIT_CTX_new");
    return job;
}

static int nothing(void *args)
{
    (void)args;
    return 1;
}

static double start_finish(const struct async *lib, size_t count, void *args, size_t size)
{
    ASYNC_WAIT_CTX *ctx = lib->new();
    double began, took;

    must(ctx != NULL, "ASYNC_WAIT_CTX_new");
    began = thread_nanoseconds();
    for (size_t i = 0; i < count; i++) {
        ASYNC_JOB *job = NULL;
        int ret;

        must(lib->start_job(&job, ctx, &ret, nothing, args, size) == ASYNC_FINISH,
             "ASYNC_start_job");
    }
    took = thread_nanoseconds() - began;
    lib->free(ctx);
    return took / (double)count;
}

double start_finish_no_args(const struct async *lib, size_t count)
{
    return start_finish(lib, count, NULL, 0);
}

double start_finish_64(const struct async *lib, size_t count)
{
    char args[64] = { 0 };

    return start_finish(lib, count, args, sizeof(args));
}

double start_finish_4096(const struct async *lib, size_t count)
{
    char args[4096] = { 0 };

    return start_finish(lib, count, args, sizeof(args));
}

static long start_finish_call(void *arg)
{
    struct looped_job *looped = arg;
    ASYNC_JOB *job = NULL;
    int ret;

    must(looped->lib->start_job(&job, looped->ctx, &ret, nothing, NULL, 0) == ASYNC_FINISH,
         "ASYNC_start_job");
    return 1;
}

double start_finish_ten_deep(const struct async *lib, size_t count)
{
    struct looped_job job = new_job(lib, nothing, ASYNC_FINISH);
    double began = thread_nanoseconds(), took;

    for (size_t i = 0; i < count; i++)
        ten_deep(start_finish_call, &job);
    took = thread_nanoseconds() - began;
    lib->free(job.ctx);
    return took / (double)count;
}

double job_and_cleanup(const struct async *lib, size_t count)
{
    struct looped_job job = new_job(lib, nothing, ASYNC_FINISH);
    double began = thread_nanoseconds(), took;

    for (size_t i = 0; i < count; i++) {
        start_finish_call(&job);
        lib->cleanup_thread();
    }
    took = thread_nanoseconds() - began;
    lib->free(job.ctx);
    return took / (double)count;
}

static void *only_job(void *job)
{
    start_finish_call(job);
    return NULL;
}

/* The processor time of the threads and of this one, which makes them: their ends count as well. */
double thread_with_a_job(const struct async *lib, size_t count)
{
    struct looped_job job = new_job(lib, nothing, ASYNC_FINISH);
    double began = nanoseconds(CLOCK_PROCESS_CPUTIME_ID), took;

    for (size_t i = 0; i < count; i++) {
        pthread_t thread;

        must(pthread_create(&thread, NULL, only_job, &job) == 0, "pthread_create");
        must(pthread_join(thread, NULL) == 0, "pthread_join");
    }
    took = nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - began;
    lib->free(job.ctx);
    return took / (double)count;
}

static int pausing(void *args)
{
    struct looped_job *job = *(struct looped_job **)args;

    while (!job->stop)
        job->lib->pause_job();
    return 1;
}

static long pause_call(void *lib)
{
    return ((const struct async *)lib)->pause_job() + 1;
}

static int pausing_ten_deep(void *args)
{
    struct looped_job *job = *(struct looped_job **)args;

    while (!job->stop)
        ten_deep(pause_call, (void *)job->lib);
    return 1;
}

/* Resumes the job so that it finishes. */
static void finish(struct looped_job *job)
{
    job->stop = 1;
    job->expected = ASYNC_FINISH;
    start_or_resume(job);
    job->lib->free(job->ctx);
}

double resume_pause(const struct async *lib, size_t count)
{
    struct looped_job job = new_job(lib, pausing, ASYNC_PAUSE);
    double began, took;

    start_or_resume(&job);
    began = thread_nanoseconds();
    for (size_t i = 0; i < count; i++)
        start_or_resume(&job);
    took = thread_nanoseconds() - began;
    finish(&job);
    return took / (double)count;
}

double resume_pause_ten_deep(const struct async *lib, size_t count)
{
    struct looped_job job = new_job(lib, pausing_ten_deep, ASYNC_PAUSE);
    double began, took;

    start_or_resume(&job);
    began = thread_nanoseconds();
    for (size_t i = 0; i < count; i++)
        ten_deep(start_or_resume_call, &job);
    took = thread_nanoseconds() - began;
    finish(&job);
    return took / (double)count;
}

double current_job(const struct async *lib, size_t count)
{
    double began = thread_nanoseconds();

    for (size_t i = 0; i < count; i++)
        must(lib->current_job() == NULL, "ASYNC_get_current_job");
    return (thread_nanoseconds() - began) / (double)count;
}

/* The same in a job; the loop is inside the job, which stores the time that it took. */
struct in_job {
    const struct async *lib;
    size_t count;
    double *took;
};

static int get_current_job_loop(void *args)
{
    struct in_job in_job = *(struct in_job *)args;
    double began = thread_nanoseconds();

    for (size_t i = 0; i < in_job.count; i++)
        must(in_job.lib->current_job() != NULL, "ASYNC_get_current_job");
    *in_job.took = thread_nanoseconds() - began;
    return 1;
}

double current_job_in_job(const struct async *lib, size_t count)
{
    double took = 0;
    struct in_job in_job = { lib, count, &took };
    ASYNC_JOB *job = NULL;
    int ret;

    must(lib->start_job(&job, NULL, &ret, get_current_job_loop, &in_job, sizeof(in_job))
             == ASYNC_FINISH, "ASYNC_start_job");
    return took / (double)count;
}

double pause_outside(const struct async *lib, size_t count)
{
    double began = thread_nanoseconds();

    for (size_t i = 0; i < count; i++)
        must(lib->pause_job() == 1, "ASYNC_pause_job");
    return (thread_nanoseconds() - began) / (double)count;
}

double wait_ctx_life(const struct async *lib, size_t count)
{
    static const char key;
    double began = thread_nanoseconds();

    for (size_t i = 0; i < count; i++) {
        ASYNC_WAIT_CTX *ctx = lib->new();
        int fd = -1;
        void *data;

        must(ctx != NULL && lib->set_wait_fd(ctx, &key, 3, NULL, NULL), "ASYNC_WAIT_CTX_set_wait_fd");
        must(lib->fd(ctx, &key, &fd, &data) && fd == 3, "ASYNC_WAIT_CTX_get_fd");
        must(lib->clear_fd(ctx, &key), "ASYNC_WAIT_CTX_clear_fd");
        lib->free(ctx);
    }
    return (thread_nanoseconds() - began) / (double)count;
}

static int pausing_once(void *args)
{
    (*(const struct async **)args)->pause_job();
    return 1;
}

/* Starts a crowd of `count` jobs, each of which pauses. */
void crowd_start(const struct async *lib, ASYNC_WAIT_CTX *ctx, ASYNC_JOB **jobs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int ret;

        jobs[i] = NULL;
        must(lib->start_job(&jobs[i], ctx, &ret, pausing_once, &lib, sizeof(lib)) == ASYNC_PAUSE,
             "ASYNC_start_job");
    }
}

/* Resumes each, in the same order; it finishes. */
void crowd_finish(const struct async *lib, ASYNC_WAIT_CTX *ctx, ASYNC_JOB **jobs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int ret;

        must(lib->start_job(&jobs[i], ctx, &ret, NULL, NULL, 0) == ASYNC_FINISH, "ASYNC_start_job");
    }
}

/* Nanoseconds of a fork; the child ends at once. Not a number where the kernel has no memory for it. */
double fork_once(void)
{
    double began = nanoseconds(CLOCK_MONOTONIC), took;
    pid_t child = fork();

    if (child == 0)
        _exit(0);
    took = nanoseconds(CLOCK_MONOTONIC) - began;
    if (child < 0)
        return NAN;
    must(waitpid(child, NULL, 0) == child, "waitpid");
    return took;
}

/* Two C functions between the caller and the switch: a library with a C interface has no fewer. */
typedef void *jump_fn(void *to);

__attribute__((noinline)) static void *inner(jump_fn *jump, void *to)
{
    void *back = jump(to);

    __asm__ volatile("" : "+r"(back));
    return back;
}

void *behind_two(jump_fn *jump, void *to)
{
    void *back = inner(jump, to);

    __asm__ volatile("" : "+r"(back));
    return back;
}
