/*
 * loops.c: what is measured, as a C program does it. Both libraries run the very same code: each
 * loop is given the library's functions. It returns nanoseconds for each turn, of this thread's
 * processor time: what else the machine does meanwhile is not counted.
 */
#include <openssl/async.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* The table of ctests/runner/functions.rs, in the same order. */
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

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

/* A call that fails is not measured. */
static inline void must(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "bench: %s failed\n", what);
        exit(1);
    }
}

/*
 * Ten functions, each of which calls the next and has something left to do when that returns. They
 * are ten and not one that calls itself: then each return would go to the same place, and a
 * processor whose stack of predicted returns is one off would be right by chance.
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

/* A job that is started, resumed and paused; the job is given the address of it. */
struct turn {
    const struct async *lib;
    ASYNC_WAIT_CTX *ctx;
    ASYNC_JOB *job;
    int (*func)(void *);
    int expected, last;
};

static inline void start(struct turn *turn)
{
    int ret;

    must(turn->lib->start_job(&turn->job, turn->ctx, &ret, turn->func, &turn, sizeof(turn))
             == turn->expected, "ASYNC_start_job");
}

static long start_called(void *turn)
{
    start(turn);
    return 1;
}

static struct turn begin(const struct async *lib, int (*func)(void *), int expected)
{
    struct turn turn = { lib, lib->new(), NULL, func, expected, 0 };

    must(turn.ctx != NULL, "ASYNC_WAIT_CTX_new");
    return turn;
}

static int nothing(void *args)
{
    (void)args;
    return 1;
}

static double start_finish(const struct async *lib, size_t count, void *args, size_t size)
{
    struct turn turn = begin(lib, nothing, ASYNC_FINISH);
    double began = now(), took;

    for (size_t i = 0; i < count; i++) {
        ASYNC_JOB *job = NULL;
        int ret;

        must(lib->start_job(&job, turn.ctx, &ret, nothing, args, size) == ASYNC_FINISH,
             "ASYNC_start_job");
    }
    took = now() - began;
    lib->free(turn.ctx);
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

static long start_no_args(void *arg)
{
    struct turn *turn = arg;
    ASYNC_JOB *job = NULL;
    int ret;

    must(turn->lib->start_job(&job, turn->ctx, &ret, nothing, NULL, 0) == ASYNC_FINISH,
         "ASYNC_start_job");
    return 1;
}

double start_finish_ten_deep(const struct async *lib, size_t count)
{
    struct turn turn = begin(lib, nothing, ASYNC_FINISH);
    double began = now(), took;

    for (size_t i = 0; i < count; i++)
        ten_deep(start_no_args, &turn);
    took = now() - began;
    lib->free(turn.ctx);
    return took / (double)count;
}

static int pausing(void *args)
{
    struct turn *turn = *(struct turn **)args;

    while (!turn->last)
        turn->lib->pause_job();
    return 1;
}

static long pause_called(void *lib)
{
    return ((const struct async *)lib)->pause_job() + 1;
}

static int pausing_ten_deep(void *args)
{
    struct turn *turn = *(struct turn **)args;

    while (!turn->last)
        ten_deep(pause_called, (void *)turn->lib);
    return 1;
}

/* The last resume is the end of the job. */
static void end(struct turn *turn)
{
    turn->last = 1;
    turn->expected = ASYNC_FINISH;
    start(turn);
    turn->lib->free(turn->ctx);
}

double resume_pause(const struct async *lib, size_t count)
{
    struct turn turn = begin(lib, pausing, ASYNC_PAUSE);
    double began, took;

    start(&turn);
    began = now();
    for (size_t i = 0; i < count; i++)
        start(&turn);
    took = now() - began;
    end(&turn);
    return took / (double)count;
}

double resume_pause_ten_deep(const struct async *lib, size_t count)
{
    struct turn turn = begin(lib, pausing_ten_deep, ASYNC_PAUSE);
    double began, took;

    start(&turn);
    began = now();
    for (size_t i = 0; i < count; i++)
        ten_deep(start_called, &turn);
    took = now() - began;
    end(&turn);
    return took / (double)count;
}

double current_job(const struct async *lib, size_t count)
{
    double began = now();

    for (size_t i = 0; i < count; i++)
        must(lib->current_job() == NULL, "ASYNC_get_current_job");
    return (now() - began) / (double)count;
}

/* The same in a job, which says how long it took. */
struct in_job {
    const struct async *lib;
    size_t count;
    double *took;
};

static int asking(void *args)
{
    struct in_job in_job = *(struct in_job *)args;
    double began = now();

    for (size_t i = 0; i < in_job.count; i++)
        must(in_job.lib->current_job() != NULL, "ASYNC_get_current_job");
    *in_job.took = now() - began;
    return 1;
}

double current_job_in_job(const struct async *lib, size_t count)
{
    double took = 0;
    struct in_job in_job = { lib, count, &took };
    ASYNC_JOB *job = NULL;
    int ret;

    must(lib->start_job(&job, NULL, &ret, asking, &in_job, sizeof(in_job)) == ASYNC_FINISH,
         "ASYNC_start_job");
    return took / (double)count;
}

double pause_outside(const struct async *lib, size_t count)
{
    double began = now();

    for (size_t i = 0; i < count; i++)
        must(lib->pause_job() == 1, "ASYNC_pause_job");
    return (now() - began) / (double)count;
}

double wait_ctx_life(const struct async *lib, size_t count)
{
    static const char key;
    double began = now();

    for (size_t i = 0; i < count; i++) {
        ASYNC_WAIT_CTX *ctx = lib->new();
        int fd = -1;
        void *data;

        must(ctx != NULL && lib->set_wait_fd(ctx, &key, 3, NULL, NULL), "ASYNC_WAIT_CTX_set_wait_fd");
        must(lib->fd(ctx, &key, &fd, &data) && fd == 3, "ASYNC_WAIT_CTX_get_fd");
        must(lib->clear_fd(ctx, &key), "ASYNC_WAIT_CTX_clear_fd");
        lib->free(ctx);
    }
    return (now() - began) / (double)count;
}

static int pausing_once(void *args)
{
    (*(const struct async **)args)->pause_job();
    return 1;
}

/* A crowd: starts that many jobs, each of which pauses. */
void crowd_start(const struct async *lib, ASYNC_WAIT_CTX *ctx, ASYNC_JOB **jobs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int ret;

        jobs[i] = NULL;
        must(lib->start_job(&jobs[i], ctx, &ret, pausing_once, &lib, sizeof(lib)) == ASYNC_PAUSE,
             "ASYNC_start_job");
    }
}

/* Resumes them to their end, in the same order. */
void crowd_finish(const struct async *lib, ASYNC_WAIT_CTX *ctx, ASYNC_JOB **jobs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int ret;

        must(lib->start_job(&jobs[i], ctx, &ret, NULL, NULL, 0) == ASYNC_FINISH, "ASYNC_start_job");
    }
}

/* Two C functions that do nothing but call on: the least that a library in C can be. */
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
