/*
 * frames.c: what depends on the frames of a job's stack (src/fibre/fibre.rs): longjmp, backtraces,
 * leak checkers, the end of a process or thread in a job.
 */
#include "backtrace.h"
#include "jobs.h"
#include <dlfcn.h>
#include <setjmp.h>

#define NOINLINE __attribute__((noinline))

/*
 * Calls itself `depth` times; each frame fills about 2 KiB of arrays, and checks them when the
 * inner calls are done. The frame of depth `pause_at` pauses. Returns 7.
 */
NOINLINE static int fill(int depth, int pause_at)
{
    unsigned char small[50], large[2000];

    memset(small, depth, sizeof small);
    memset(large, depth + 1, sizeof large);
    if (depth == pause_at)
        CHECK_INT(ASYNC_pause_job(), 1);
    if (depth > 0)
        CHECK_INT(fill(depth - 1, pause_at), 7);
    for (size_t i = 0; i < sizeof small; i++)
        CHECK_INT(small[i], depth);
    for (size_t i = 0; i < sizeof large; i++)
        CHECK_INT(large[i], depth + 1);
    return 7;
}

/*
 * Stands for code that is built without a sanitizer, which does not mark its frame's memory in
 * AddressSanitizer's shadow. The instrumented memset() that it calls fails if marks of frames that
 * no longer exist are left there.
 */
NOINLINE __attribute__((no_sanitize_address)) static void fill_uninstrumented(int size)
{
    unsigned char array[8000];

    memset(array, size, (size_t)size);
    CHECK_INT(array[size - 1], (unsigned char)size);
}

/* ---- longjmp over frames of the same job ---- */

static void *volatile kept; /* an array whose address is stored here is not optimized away */

/* Calls itself `depth` times; the innermost call pauses, if `pause` is set, and jumps to *to. */
NOINLINE static void dig_and_jump(jmp_buf *to, int depth, int pause)
{
    char array[1500];

    kept = memset(array, depth, sizeof array);
    if (depth > 0)
        dig_and_jump(to, depth - 1, pause);
    else if (pause)
        CHECK_INT(ASYNC_pause_job(), 1);
    if (depth == 0)
        longjmp(*to, 5);
    CHECK_INT(array[0], depth);
}

static int jumps(void *arg)
{
    jmp_buf back;
    volatile int round = 0;
    int pause = *(int *)arg, jumped;

    /* The memory of the frames that longjmp has left must be usable for other frames. */
    while (round < 3) {
        jumped = setjmp(back);
        if (jumped == 0)
            dig_and_jump(&back, 6, pause);
        CHECK_INT(jumped, 5);
        fill_uninstrumented(8000);
        CHECK_INT(fill(4, pause ? 0 : -1), 7);
        round++;
    }
    return 7;
}

CASE(longjmp_inside_a_job, EVERYWHERE,
     "A job may longjmp out of many of its frames, and use their memory for others afterwards")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = -1, pause = 0;

    for (int i = 0; i < 2; i++) {
        CHECK_INT(ASYNC_start_job(&job, ctx, &ret, jumps, &pause, sizeof pause), ASYNC_FINISH);
        CHECK_INT(ret, 7);
        CHECK_INT(fill(4, -1), 7);
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

CASE(longjmp_over_a_pause, EVERYWHERE,
     "Each of several jobs may longjmp out of frames that have paused")
{
    enum { JOBS = 5 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS] = { NULL };
    int ret = -1, pause = 1;

    for (int i = 0; i < JOBS; i++)
        CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, jumps, &pause, sizeof pause), ASYNC_PAUSE);
    for (int round = 1; round < 6; round++)
        for (int i = 0; i < JOBS; i++) {
            resume_to_pause(job[i]);
            CHECK_INT(fill(4, -1), 7);
        }
    for (int i = 0; i < JOBS; i++)
        finish(job[i], 7);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

static int fill_job(void *arg)
{
    (void)arg;
    return fill(6, 3);
}

CASE(pauses_amid_large_frames, EVERYWHERE,
     "Jobs that pause amid frames with arrays, and are resumed in any order, keep the arrays")
{
    enum { JOBS = 7 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    int ret = -1;

    for (int round = 0; round < 2; round++) {
        ASYNC_JOB *job[JOBS] = { NULL };

        for (int i = 0; i < JOBS; i++)
            CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, fill_job, NULL, 0), ASYNC_PAUSE);
        for (int i = 0; i < JOBS; i++) {
            CHECK_INT(fill(4, -1), 7);
            finish(job[3 * i % JOBS], 7);
        }
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* ---- backtraces ---- */

#define MAX_FRAMES 64

static void *addresses[MAX_FRAMES], *return_address[3]; /* of inner(), middle(), outer() */
static int n_addresses;

NOINLINE static int inner(int pause)
{
    return_address[0] = __builtin_return_address(0);
    if (pause)
        CHECK_INT(ASYNC_pause_job(), 1);
    n_addresses = backtrace(addresses, MAX_FRAMES);
    return 3;
}

NOINLINE static int middle(int pause)
{
    return_address[1] = __builtin_return_address(0);
    return inner(pause) + 3;
}

NOINLINE static int outer(void *arg)
{
    return_address[2] = __builtin_return_address(0);
    return middle(*(int *)arg) + 1;
}

/*
 * The return addresses of inner(), middle() and outer() follow each other in the backtrace. On
 * rsasync it ends there: the trampoline, to which outer() returns, is a job's outermost frame.
 */
static void check_backtrace(void)
{
    Dl_info info;
    int i = 0;

    while (i < n_addresses && addresses[i] != return_address[0])
        i++;
    /* An address in inner() comes before; with some tools also one in their own backtrace(). */
    CHECK(i == 1 || i == 2);
    CHECK(i + 3 <= n_addresses && n_addresses <= i + 6);
    CHECK(addresses[i + 1] == return_address[1]);
    CHECK(addresses[i + 2] == return_address[2]);
#ifndef ON_LIBCRYPTO
    CHECK_INT(n_addresses, i + 3);
#endif
    /* Every address is in a loaded object; garbage would not be. */
    for (i = 0; i < n_addresses; i++)
        CHECK(dladdr(addresses[i], &info) != 0);
    n_addresses = 0;
}

CASE(a_backtrace_ends, EVERYWHERE,
     "backtrace() in a new, a resumed or a reused job gives the job's frames, and then ends")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = -1;

    for (int pause = 0; pause < 2; pause++) {
        CHECK_INT(ASYNC_start_job(&job, ctx, &ret, outer, &pause, sizeof pause),
                  pause ? ASYNC_PAUSE : ASYNC_FINISH);
        if (pause)
            finish(job, 7);
        check_backtrace();
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

static int outer_in_a_job(void *arg)
{
    ASYNC_JOB *job = NULL;
    int ret = -1;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, outer, arg, sizeof(int)), ASYNC_PAUSE);
    finish(job, 7);
    return 7;
}

/* In libcrypto a job that starts another corrupts the thread's state. */
CASE(a_backtrace_in_a_nested_job_ends, OURS,
     "backtrace() in a job that a job resumed gives the inner job's frames, and then ends")
{
    ASYNC_JOB *job = NULL;
    int ret = -1, pause = 1;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, outer_in_a_job, &pause, sizeof pause),
              ASYNC_FINISH);
    CHECK_INT(ret, 7);
    check_backtrace();
    ASYNC_cleanup_thread();
}

/*
 * ---- memory that only a job points to ----
 *
 * These cases leave jobs and memory behind; what they promise is checked by the leak checkers of
 * valgrind and AddressSanitizer at the end of the process.
 */

struct message {
    char *text, filler[1200];
};

/* Pauses with `text` known only to its args, and `mine` only to its frame. */
static int holds_memory(void *arg)
{
    struct message *message = arg;
    char *text = message->text, *mine = malloc(50);

    message = NULL;
    strcpy(mine, text);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_STR(mine, text);
    free(mine);
    free(text);
    return 7;
}

/* Such a job. Its args are the first `size` bytes of a message: long args are copied to the heap. */
NOINLINE static ASYNC_JOB *job_holding_memory(size_t size)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    struct message message = { malloc(20), "" };
    int ret;

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, ctx, 3, NULL, NULL), 1);
    strcpy(message.text, "text");
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, holds_memory, &message, size), ASYNC_PAUSE);
    return job;
}

static ASYNC_JOB *paused[2];

/* Has the inner job's handle in its args only. */
static int starts_another_in_its_args(void *arg)
{
    *(ASYNC_JOB **)arg = job_holding_memory(sizeof(struct message));
    CHECK_INT(ASYNC_pause_job(), 1);
    return 7;
}

/* Has the inner job's handle in its frame only. */
static int starts_another_in_its_frame(void *arg)
{
    ASYNC_JOB *inner = job_holding_memory(sizeof(char *));

    (void)arg;
    CHECK_INT(ASYNC_pause_job(), 1);
    finish(inner, 7);
    return 7;
}

CASE(what_a_paused_job_knows_is_no_leak, EVERYWHERE,
     "What only the frames, args or context of a job that is still paused point to is no leak")
{
    paused[0] = job_holding_memory(sizeof(char *));
    paused[1] = job_holding_memory(sizeof(struct message));
    CHECK_INT(fill(4, -1), 7);
}

/* In libcrypto a job that starts another corrupts the thread's state. */
CASE(what_nested_jobs_know_is_no_leak, OURS,
     "What only a job points to that a paused job has started is no leak")
{
    int ret;

    CHECK_INT(start(&paused[0], NULL, &ret, starts_another_in_its_args, NULL), ASYNC_PAUSE);
    CHECK_INT(start(&paused[1], NULL, &ret, starts_another_in_its_frame, NULL), ASYNC_PAUSE);
    CHECK_INT(fill(4, -1), 7);
}

static int exits(void *arg)
{
    (void)arg;
    exit(0);
}

static int exits_in_a_job(void *arg)
{
    char *mine = strdup(arg);
    ASYNC_JOB *job = NULL;
    int ret;

    ASYNC_start_job(&job, NULL, &ret, exits, NULL, 0);
    free(mine);
    return 7;
}

/* Has memory that only its frame points to when a job of func ends the process. */
NOINLINE static void start_job_that_exits(int (*func)(void *))
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    char *mine = strdup("mine");
    ASYNC_JOB *job = NULL;
    int ret;

    ASYNC_start_job(&job, ctx, &ret, func, mine, strlen(mine) + 1);
    free(mine);
    CHECK(!"the process ended in the job");
}

CASE(exit_in_a_job, EVERYWHERE,
     "A job may call exit; what only its starter's frames point to is no leak")
{
    start_job_that_exits(exits);
}

/* In libcrypto a job that starts another corrupts the thread's state. */
CASE(exit_in_a_nested_job, OURS,
     "A nested job may call exit; what only the outer job's frames point to is no leak")
{
    start_job_that_exits(exits_in_a_job);
}

/* ---- the end of a thread in a nested job ---- */

/* A letter for each handler that has run: inner job, outer job, thread, destructor of the key. */
static char trail[8];

static void note(void *letter)
{
    strcat(trail, letter);
}

static int ends_the_thread(void *arg)
{
    unsigned char array[2000];

    (void)arg;
    kept = memset(array, 5, sizeof array);
    pthread_cleanup_push(note, "i");
    pthread_exit(NULL);
    pthread_cleanup_pop(0);
    return array[0];
}

static int ends_the_thread_in_a_job(void *arg)
{
    unsigned char array[2000];
    ASYNC_JOB *job = NULL;
    int ret;

    kept = memset(array, 5, sizeof array);
    pthread_cleanup_push(note, "o");
    ASYNC_start_job(&job, NULL, &ret, ends_the_thread, arg, 1);
    pthread_cleanup_pop(0);
    return array[0];
}

static void destroy_value(void *arg)
{
    (void)arg;
    fill_uninstrumented(8000);
    note("k");
}

static void *thread_that_ends(void *key)
{
    unsigned char array[2000];
    ASYNC_JOB *job = NULL;
    int ret;

    kept = memset(array, 5, sizeof array);
    CHECK_INT(pthread_setspecific(*(pthread_key_t *)key, key), 0);
    pthread_cleanup_push(note, "t");
    ASYNC_start_job(&job, NULL, &ret, ends_the_thread_in_a_job, key, 1);
    pthread_cleanup_pop(0);
    return array[0] == 5 ? key : NULL;
}

/*
 * In libcrypto a job that starts another corrupts the thread's state. NOT_ON_TSAN: it supports
 * pthread_exit on a thread's own stack only.
 */
CASE(pthread_exit_in_a_nested_job, OURS | NOT_ON_TSAN,
     "pthread_exit runs the cleanup handlers of the inner job, the outer job and the thread")
{
    pthread_key_t key;

    CHECK_INT(pthread_key_create(&key, destroy_value), 0);
    for (int i = 0; i < 3; i++) {
        trail[0] = '\0';
        on_new_thread(thread_that_ends, &key);
        CHECK_STR(trail, "iotk");
    }
}
