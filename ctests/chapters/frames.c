/* frames.c: what goes along a job's frames: longjmp, backtraces, leak checkers, a thread's end. */
#include "check.h"
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <setjmp.h>

#define NOINLINE __attribute__((noinline))

static char trail[8];

static void resume(ASYNC_JOB **job, int want)
{
    int ret = -1;

    CHECK_INT(ASYNC_start_job(job, NULL, &ret, NULL, NULL, 0), want);
    if (want == ASYNC_FINISH)
        CHECK_INT(ret, 7);
}

/* Frames with arrays of about 2 KiB, each written and read to its end. */
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
 * As code that is built without a sanitizer: it does not say where its frame is. What it
 * calls looks at that memory, and must not find there what frames that are gone have left.
 */
NOINLINE __attribute__((no_sanitize_address)) static void fill_plainly(int size)
{
    unsigned char array[8000];

    memset(array, size, (size_t)size);
    CHECK_INT(array[size - 1], (unsigned char)size);
}

/* 1. longjmp over frames of the job's own. */

static void *volatile newest; /* what is put there must exist as it is written */

NOINLINE static void dig_and_jump(jmp_buf *to, int depth, int pause)
{
    char array[1500];

    newest = memset(array, depth, sizeof array);
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
    int pause = *(int *)arg, came;

    /* What was above the frames that are gone must be usable for others. */
    while (round < 3) {
        came = setjmp(back);
        if (came == 0)
            dig_and_jump(&back, 6, pause);
        CHECK_INT(came, 5);
        fill_plainly(8000);
        CHECK_INT(fill(4, pause ? 0 : -1), 7);
        round++;
    }
    return 7;
}

CASE(longjmp_inside_a_job, EVERYWHERE,
     "a job may longjmp over many of its frames; what runs on that memory afterwards is whole")
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
     "of several jobs each may longjmp to before its pauses, over frames that paused")
{
    enum { JOBS = 5 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS] = { NULL };
    int ret = -1, pause = 1;

    for (int i = 0; i < JOBS; i++)
        CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, jumps, &pause, sizeof pause), ASYNC_PAUSE);
    for (int round = 1; round < 6; round++)
        for (int i = 0; i < JOBS; i++) {
            resume(&job[i], ASYNC_PAUSE);
            CHECK_INT(fill(4, -1), 7);
        }
    for (int i = 0; i < JOBS; i++)
        resume(&job[i], ASYNC_FINISH);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

static int fill_job(void *arg)
{
    (void)arg;
    return fill(6, 3);
}

CASE(pauses_amid_large_frames, EVERYWHERE,
     "jobs paused in the midst of frames with arrays, resumed in any order, keep them all")
{
    enum { JOBS = 7 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS] = { NULL };
    int ret = -1;

    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < JOBS; i++)
            CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, fill_job, NULL, 0), ASYNC_PAUSE);
        for (int i = 0; i < JOBS; i++) {
            CHECK_INT(fill(4, -1), 7);
            resume(&job[3 * i % JOBS], ASYNC_FINISH);
        }
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* 2. Backtraces. */

#define MOST 64

static void *addresses[MOST], *returns_to[3];
static int n_addresses;

NOINLINE static int inner(int pause)
{
    returns_to[0] = __builtin_return_address(0);
    if (pause)
        CHECK_INT(ASYNC_pause_job(), 1);
    n_addresses = backtrace(addresses, MOST);
    return 3;
}

NOINLINE static int middle(int pause)
{
    returns_to[1] = __builtin_return_address(0);
    return inner(pause) + 3;
}

NOINLINE static int outer(void *arg)
{
    returns_to[2] = __builtin_return_address(0);
    return middle(*(int *)arg) + 1;
}

/* The frames of the job, from the one that asked to what called func, and no garbage after. */
static void check_backtrace(void)
{
    Dl_info info;
    int i = 0;

    while (i < n_addresses && addresses[i] != returns_to[0])
        i++;
    /* What comes before are frames of backtrace itself, if a tool has put its own in place. */
    CHECK(i == 1 || i == 2);
    CHECK(i + 3 <= n_addresses && n_addresses <= i + 6);
    CHECK(addresses[i + 1] == returns_to[1]);
    CHECK(addresses[i + 2] == returns_to[2]);
#ifndef ON_LIBCRYPTO
    CHECK_INT(n_addresses, i + 3);
#endif
    for (i = 0; i < n_addresses; i++)
        CHECK(dladdr(addresses[i], &info) != 0);
    n_addresses = 0;
}

CASE(a_backtrace_ends, EVERYWHERE,
     "backtrace() in a job gives its frames, fresh, resumed, and out of the pool, and then ends")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = -1;

    for (int pause = 0; pause < 2; pause++) {
        CHECK_INT(ASYNC_start_job(&job, ctx, &ret, outer, &pause, sizeof pause),
                  pause ? ASYNC_PAUSE : ASYNC_FINISH);
        if (pause)
            resume(&job, ASYNC_FINISH);
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
    resume(&job, ASYNC_FINISH);
    return 7;
}

/* libcrypto's jobs can't be nested. */
CASE(a_backtrace_in_a_nested_job_ends, OURS,
     "backtrace() in a job that a job resumed gives the inner one's frames, and then ends")
{
    ASYNC_JOB *job = NULL;
    int ret = -1, pause = 1;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, outer_in_a_job, &pause, sizeof pause),
              ASYNC_FINISH);
    CHECK_INT(ret, 7);
    check_backtrace();
    ASYNC_cleanup_thread();
}

/* 3. Memory that only a job knows of. These say something only under a leak checker. */

struct message {
    char *text, filler[1200];
};

static int knows_memory(void *arg)
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

/* The text is known to the copy of args, which is on the stack or, if long, on the heap. */
NOINLINE static ASYNC_JOB *knowing_job(size_t size)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    struct message message = { malloc(20), "" };
    int ret;

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, trail, 3, NULL, NULL), 1);
    strcpy(message.text, "text");
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, knows_memory, &message, size), ASYNC_PAUSE);
    return job;
}

static ASYNC_JOB *paused[4];

static int leaves_a_knowing_job(void *arg)
{
    *(ASYNC_JOB **)arg = knowing_job(sizeof(struct message));
    CHECK_INT(ASYNC_pause_job(), 1);
    return 7;
}

static int starts_a_knowing_job(void *arg)
{
    ASYNC_JOB *inner = knowing_job(sizeof(char *));

    (void)arg;
    CHECK_INT(ASYNC_pause_job(), 1);
    resume(&inner, ASYNC_FINISH);
    return 7;
}

CASE(what_a_paused_job_knows_is_no_leak, EVERYWHERE,
     "memory known to the frames, the args, or the context of a job paused at the end is no leak")
{
    paused[0] = knowing_job(sizeof(char *));
    paused[1] = knowing_job(sizeof(struct message));
    CHECK_INT(fill(4, -1), 7);
}

/* libcrypto's jobs can't be nested. */
CASE(what_nested_jobs_know_is_no_leak, OURS,
     "the same for a job that a paused job has started")
{
    ASYNC_JOB **place = &paused[0];
    int ret;

    CHECK_INT(ASYNC_start_job(&paused[1], NULL, &ret, leaves_a_knowing_job, &place,
                              sizeof place), ASYNC_PAUSE);
    CHECK_INT(ASYNC_start_job(&paused[2], NULL, &ret, starts_a_knowing_job, NULL, 0),
              ASYNC_PAUSE);
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

NOINLINE static void exits_below(int (*func)(void *))
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    char *mine = strdup("mine");
    ASYNC_JOB *job = NULL;
    int ret;

    ASYNC_start_job(&job, ctx, &ret, func, mine, 5);
    free(mine);
    check_fail(__FILE__, __LINE__, "the process has ended");
}

CASE(exit_in_a_job, EVERYWHERE,
     "a job may call exit; what the frames of its starter know is no leak")
{
    exits_below(exits);
}

/* libcrypto's jobs can't be nested. */
CASE(exit_in_a_nested_job, OURS,
     "the same for a job in a job")
{
    exits_below(exits_in_a_job);
}

/* 4. The end of a thread in a nested job. */

static void note(void *letter)
{
    strcat(trail, letter);
}

static int ends_the_thread(void *arg)
{
    unsigned char array[2000];

    (void)arg;
    newest = memset(array, 5, sizeof array);
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

    newest = memset(array, 5, sizeof array);
    pthread_cleanup_push(note, "o");
    ASYNC_start_job(&job, NULL, &ret, ends_the_thread, arg, 1);
    pthread_cleanup_pop(0);
    return array[0];
}

static void fills(void *arg)
{
    (void)arg;
    fill_plainly(8000);
    note("k");
}

static void *thread_that_ends(void *key)
{
    unsigned char array[2000];
    ASYNC_JOB *job = NULL;
    int ret;

    newest = memset(array, 5, sizeof array);
    CHECK_INT(pthread_setspecific(*(pthread_key_t *)key, key), 0);
    pthread_cleanup_push(note, "t");
    ASYNC_start_job(&job, NULL, &ret, ends_the_thread_in_a_job, key, 1);
    pthread_cleanup_pop(0);
    return array[0] == 5 ? key : NULL;
}

/* libcrypto's jobs can't be nested. ThreadSanitizer allows it on a thread's own stack only. */
CASE(pthread_exit_in_a_nested_job, OURS | NOT_ON_TSAN,
     "pthread_exit runs the cleanup handlers of the inner job, the outer one, and the thread")
{
    pthread_t thread;
    pthread_key_t key;

    CHECK_INT(pthread_key_create(&key, fills), 0);
    for (int i = 0; i < 3; i++) {
        trail[0] = '\0';
        CHECK_INT(pthread_create(&thread, NULL, thread_that_ends, &key), 0);
        CHECK_INT(pthread_join(thread, NULL), 0);
        CHECK_STR(trail, "iotk");
    }
}
