/* Jobs: starting, resuming and finishing them, and what a job keeps across its pauses. */
#include "check.h"
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#ifdef WITH_LIBCRYPTO
# include <openssl/err.h>
#endif

/* Starts f, or resumes *job. The job's argument is a copy of the pointer p: see ARG. */
static int start(ASYNC_JOB **job, ASYNC_WAIT_CTX *ctx, int *ret, int (*f)(void *), void *p)
{
    return ASYNC_start_job(job, ctx, ret, f, &p, sizeof(p));
}

#define ARG(type, arg) (*(type **)(arg))

/* Whether an error of this library was queued; empties the queue where there is one. */
static int error_was_queued(void)
{
    int found = 0;
#ifdef WITH_LIBCRYPTO
    unsigned long error;

    while ((error = ERR_get_error()) != 0)
        found |= ERR_GET_LIB(error) == ERR_LIB_ASYNC;
#else
    found = RSASYNC_last_error()[0] != '\0';
#endif
    return found;
}

static int returns_its_argument(void *arg)
{
    return *(int *)arg;
}

static int must_not_run(void *arg)
{
    (void)arg;
    CHECK(!"this job was not to run");
    return 0;
}

/* Resuming job gives ASYNC_ERR and queues an error; the caller's variables are as before. */
static void check_resume_is_refused(ASYNC_JOB *job)
{
    ASYNC_JOB *handle = job, *current = ASYNC_get_current_job();
    int ret = -77;

    CHECK_INT(ASYNC_start_job(&handle, NULL, &ret, must_not_run, NULL, 0), ASYNC_ERR);
    CHECK(handle == job);
    CHECK_INT(ret, -77);
    CHECK(error_was_queued());
    CHECK(ASYNC_get_current_job() == current);
}

CASE(start_runs_the_job_and_gives_its_result, EVERYWHERE,
     "A job that does not pause is run to its end by ASYNC_start_job: ASYNC_FINISH, and its result")
{
    static const int results[] = { 0, 1, -1, 2, 3, INT_MAX, INT_MIN };
    size_t i;

    for (i = 0; i < sizeof(results) / sizeof(results[0]); i++) {
        ASYNC_JOB *job = NULL;
        int arg = results[i], ret = ~arg;

        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, returns_its_argument, &arg, sizeof(arg)),
                  ASYNC_FINISH);
        CHECK_INT(ret, results[i]);
        CHECK(job == NULL);
    }
    ASYNC_cleanup_thread();
}

static int counts_its_steps(void *arg)
{
    int *steps = ARG(int, arg);

    CHECK_INT(*steps, 0);
    *steps = 1;
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(*steps, 10);
    *steps = 11;
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(*steps, 20);
    *steps = 21;
    return 42;
}

CASE(a_job_goes_on_where_it_paused, EVERYWHERE,
     "A resumed job goes on behind its ASYNC_pause_job, and runs no step twice")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int steps = 0, ret = 0;

    CHECK_INT(start(&job, ctx, &ret, counts_its_steps, &steps), ASYNC_PAUSE);
    CHECK_INT(steps, 1);
    steps = 10;
    CHECK_INT(start(&job, ctx, &ret, counts_its_steps, &steps), ASYNC_PAUSE);
    CHECK_INT(steps, 11);
    steps = 20;
    CHECK_INT(start(&job, ctx, &ret, counts_its_steps, &steps), ASYNC_FINISH);
    CHECK_INT(steps, 21);
    CHECK_INT(ret, 42);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

CASE(a_pause_leaves_the_handle_and_no_result, EVERYWHERE,
     "ASYNC_PAUSE leaves the job's handle in `job` and `ret` alone; ASYNC_FINISH sets both")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *handle;
    int steps = 0, ret = -77;

    CHECK_INT(start(&job, ctx, &ret, counts_its_steps, &steps), ASYNC_PAUSE);
    CHECK(job != NULL);
    CHECK_INT(ret, -77);
    handle = job;
    steps = 10;
    CHECK_INT(start(&job, ctx, &ret, counts_its_steps, &steps), ASYNC_PAUSE);
    CHECK(job == handle);
    CHECK_INT(ret, -77);
    steps = 20;
    CHECK_INT(start(&job, ctx, &ret, counts_its_steps, &steps), ASYNC_FINISH);
    CHECK(job == NULL);
    CHECK_INT(ret, 42);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

CASE(resume_ignores_all_but_the_handle, EVERYWHERE,
     "When a job is resumed, the context, function, arguments and size of that call are ignored")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int steps = 0, ret = 0;

    CHECK_INT(start(&job, ctx, &ret, counts_its_steps, &steps), ASYNC_PAUSE);
    steps = 10;
    CHECK_INT(ASYNC_start_job(&job, other, &ret, must_not_run, "other", 6), ASYNC_PAUSE);
    CHECK(ASYNC_get_wait_ctx(job) == ctx);
    CHECK_INT(steps, 11);
    steps = 20;
    /* The size would be refused, and the function be called, if either were looked at. */
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, "other", SIZE_MAX), ASYNC_FINISH);
    CHECK_INT(steps, 21);
    CHECK_INT(ret, 42);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_WAIT_CTX_free(other);
    ASYNC_cleanup_thread();
}

/* Its result says how often it was resumed, and who it is. */
static int pauses_as_often_as_it_is_told(void *arg)
{
    int times = *(int *)arg, i;

    for (i = 0; i < times; i++)
        CHECK_INT(ASYNC_pause_job(), 1);
    return 1000 + times;
}

CASE(paused_jobs_are_resumed_in_any_order, EVERYWHERE,
     "Any of several paused jobs can be resumed at any time, and each ends with its own result")
{
    enum { JOBS = 20 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS] = { NULL };
    int left = JOBS, round, i, ret;

    for (i = 0; i < JOBS; i++) {
        int pauses = 1 + i % 7;

        CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, pauses_as_often_as_it_is_told, &pauses,
                                  sizeof(pauses)), ASYNC_PAUSE);
    }
    for (round = 1; left > 0; round++) {
        int k;

        for (k = 0; k < JOBS; k++) {
            i = (7 * k + round) % JOBS;
            if (job[i] == NULL)
                continue;
            ret = -77;
            if (round < 1 + i % 7) {
                CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, NULL, NULL, 0), ASYNC_PAUSE);
                CHECK_INT(ret, -77);
            } else {
                CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, NULL, NULL, 0), ASYNC_FINISH);
                CHECK_INT(ret, 1000 + 1 + i % 7);
                left--;
            }
        }
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

static int pauses_and_returns_who_it_was(void *arg)
{
    int me = *(int *)arg;

    ASYNC_pause_job();
    return me;
}

/* libcrypto reads through the null context when the job is resumed, and crashes. */
CASE(a_context_can_be_null, OURS,
     "A job without a wait context runs, pauses and is resumed like any other")
{
    ASYNC_JOB *job = NULL;
    int me = 9, ret = 0;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, pauses_and_returns_who_it_was, &me, sizeof(me)),
              ASYNC_PAUSE);
    CHECK(ASYNC_get_wait_ctx(job) == NULL);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 9);
    ASYNC_cleanup_thread();
}

/* Arguments */

static unsigned char *callers_args;     /* what the job's starter gave */
static size_t args_size;
static unsigned char args_seed;

static unsigned char args_byte(size_t i, unsigned char seed)
{
    return (unsigned char)(i * 31 + (i >> 8) * 7 + seed);
}

static void check_args(const unsigned char *args, size_t size, unsigned char seed)
{
    size_t i;

    for (i = 0; i < size; i++) {
        if (args[i] != args_byte(i, seed))
            CHECK_INT(args[i], args_byte(i, seed));
    }
}

static int checks_its_args(void *arg)
{
    unsigned char seed = args_seed;
    size_t size = args_size;
    unsigned char *args = arg;

    CHECK(args != NULL);
    CHECK(args + size <= callers_args || callers_args + size <= args);
    CHECK_INT((uintptr_t)args % 16, 0);
    check_args(args, size, seed);
    ASYNC_pause_job();
    check_args(args, size, seed);
    memset(args, 0x5a, size);
    ASYNC_pause_job();
    for (; size > 0; size--)
        CHECK_INT(args[size - 1], 0x5a);
    return 1;
}

CASE(args_are_copied_and_outlive_the_callers, EVERYWHERE,
     "args of any size is copied, aligned to 16; the copy is the job's own and lives until its end")
{
    static const size_t sizes[] = { 1, 2, 8, 15, 17, 64, 1023, 1024, 1025, 4096, 65537, 9 << 20 };
    enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[SIZES] = { NULL };
    int i, step, ret = 0;
    size_t n;

    for (i = 0; i < SIZES; i++) {
        /* The alignment must be the copy's, so that of the original is as bad as can be. */
        unsigned char *memory = malloc(sizes[i] + 1);

        callers_args = memory + 1;
        args_size = sizes[i];
        args_seed = (unsigned char)(11 * i);
        for (n = 0; n < sizes[i]; n++)
            callers_args[n] = args_byte(n, args_seed);
        CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, checks_its_args, callers_args, sizes[i]),
                  ASYNC_PAUSE);
        check_args(callers_args, sizes[i], args_seed);
        memset(memory, 0xff, sizes[i] + 1);
        free(memory);
    }
    /* All copies are alive at once: none may have taken another's memory. */
    for (step = 0; step < 2; step++) {
        for (i = SIZES - 1; i >= 0; i--)
            CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, NULL, NULL, 0),
                      step == 0 ? ASYNC_PAUSE : ASYNC_FINISH);
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

static int uses_its_stack(void *arg)
{
    volatile unsigned char room[8 << 10];
    size_t i;

    for (i = 0; i < sizeof(room); i++)
        room[i] = 1;
    return arg != NULL;
}

static int sums_its_args(void *args)
{
    int i, sum = 0;

    for (i = 0; i < 900; i++)
        sum += ((unsigned char *)args)[i];
    return sum;
}

CASE(args_may_be_larger_than_those_of_the_job_before, EVERYWHERE,
     "a job that was used with small args takes larger ones, which lie where frames were")
{
    unsigned char args[900];
    ASYNC_JOB *job = NULL;
    int ret = 0;

    memset(args, 2, sizeof(args));
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, uses_its_stack, args, 1), ASYNC_FINISH);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, sums_its_args, args, sizeof(args)), ASYNC_FINISH);
    CHECK_INT(ret, 2 * 900);
    ASYNC_cleanup_thread();
}

static int writes_to_its_args(void *arg)
{
    memset(arg, 0x5a, 64);
    return 1;
}

CASE(the_callers_args_are_never_written, EVERYWHERE,
     "What a job writes to its args does not reach its starter's")
{
    unsigned char args[64];
    ASYNC_JOB *job = NULL;
    int ret, i;

    memset(args, 0xc3, sizeof(args));
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, writes_to_its_args, args, sizeof(args)),
              ASYNC_FINISH);
    for (i = 0; i < 64; i++)
        CHECK_INT(args[i], 0xc3);
    ASYNC_cleanup_thread();
}

static int is_given_null(void *arg)
{
    return arg == NULL ? 1 : 2;
}

CASE(without_args_the_job_gets_null, SINCE_3_0,
     "The function gets NULL when args is NULL or size is 0, also in a job that had args before")
{
    ASYNC_JOB *job = NULL;
    int value = 5, ret;

    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, is_given_null, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 1);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, is_given_null, &value, sizeof(value)),
              ASYNC_FINISH);
    CHECK_INT(ret, 2);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, is_given_null, &value, 0), ASYNC_FINISH);
    CHECK_INT(ret, 1);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, is_given_null, &value, sizeof(value)),
              ASYNC_FINISH);
    CHECK_INT(ret, 2);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, is_given_null, NULL, 1 << 20), ASYNC_FINISH);
    CHECK_INT(ret, 1);
    ASYNC_cleanup_thread();
}

/* The memory that the process has in use, in bytes. */
static long long resident_memory(void)
{
    long long pages = -1;
    FILE *f = fopen("/proc/self/statm", "r");

    CHECK(f != NULL);
    CHECK_INT(fscanf(f, "%*d %lld", &pages), 1);
    fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

static int pauses_once(void *arg)
{
    CHECK(arg != NULL);
    ASYNC_pause_job();
    return 1;
}

/*
 * It measures the memory of the process: not on valgrind, whose memory that is there, nor on
 * AddressSanitizer, which keeps freed memory for a while.
 */
CASE(args_are_freed_when_the_job_ends, EVERYWHERE | NOT_ON_VALGRIND | NOT_ON_ASAN,
     "The copy of args is freed when its job ends, not when the job is used again or freed")
{
    enum { JOBS = 32, MEGABYTE = 1 << 20 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS] = { NULL };
    char *args = malloc(MEGABYTE);
    long long before, during;
    int i, ret;

    memset(args, 1, MEGABYTE);
    before = resident_memory();
    for (i = 0; i < JOBS; i++)
        CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, pauses_once, args, MEGABYTE), ASYNC_PAUSE);
    during = resident_memory();
    CHECK(during - before >= JOBS * MEGABYTE);
    for (i = 0; i < JOBS; i++)
        CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK(during - resident_memory() >= (JOBS - 2) * MEGABYTE);
    free(args);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* Not on valgrind and the sanitizers: their own memory would come under the limit. */
CASE(args_too_large_to_copy_are_refused, UNTIL_3_2 | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "When args cannot be copied: ASYNC_ERR, nothing changed, an error queued, and no job lost")
{
    struct rlimit limit;
    ASYNC_JOB *job = NULL;
    int i, arg = 6, ret = -77;

    CHECK_INT(getrlimit(RLIMIT_AS, &limit), 0);
    limit.rlim_cur = (rlim_t)4 << 30;
    CHECK_INT(setrlimit(RLIMIT_AS, &limit), 0);

    /* With a limit of one, a job that the refusal lost would be missed at once. */
    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    for (i = 0; i < 3; i++) {
        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, must_not_run, &arg, (size_t)1 << 40),
                  ASYNC_ERR);
        CHECK(job == NULL);
        CHECK_INT(ret, -77);
        CHECK(error_was_queued());
        CHECK(ASYNC_get_current_job() == NULL);
    }
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, returns_its_argument, &arg, sizeof(arg)),
              ASYNC_FINISH);
    CHECK_INT(ret, 6);
    ASYNC_cleanup_thread();
}

/* NOT_ON_VALGRIND: it reports an allocation of such a size as the program's error. */
CASE(args_of_an_absurd_size_are_refused, EVERYWHERE | NOT_ON_VALGRIND,
     "A size that no address space can hold is refused, also where adding to it would overflow")
{
    ASYNC_JOB *job = NULL;
    int arg = 6, ret = -77;
    size_t less;

    for (less = 0; less < 256; less++) {
        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, must_not_run, &arg, SIZE_MAX - less),
                  ASYNC_ERR);
        CHECK(job == NULL);
        CHECK_INT(ret, -77);
    }
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, must_not_run, &arg, SIZE_MAX / 2 + 1), ASYNC_ERR);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, returns_its_argument, &arg, sizeof(arg)),
              ASYNC_FINISH);
    CHECK_INT(ret, 6);
    ASYNC_cleanup_thread();
}

/* Handles */

static int notes_its_handle(void *arg)
{
    ASYNC_JOB **handle = ARG(ASYNC_JOB *, arg);

    *handle = ASYNC_get_current_job();
    CHECK(*handle != NULL);
    ASYNC_pause_job();
    CHECK(ASYNC_get_current_job() == *handle);
    ASYNC_pause_job();
    CHECK(ASYNC_get_current_job() == *handle);
    return 1;
}

CASE(the_current_job_is_the_running_one, EVERYWHERE,
     "ASYNC_get_current_job gives the running job's handle inside it, and NULL outside every job")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *a = NULL, *b = NULL, *inside_a = NULL, *inside_b = NULL;
    int i, ret;

    CHECK(ASYNC_get_current_job() == NULL);
    CHECK_INT(start(&a, ctx, &ret, notes_its_handle, &inside_a), ASYNC_PAUSE);
    CHECK(ASYNC_get_current_job() == NULL);
    CHECK_INT(start(&b, ctx, &ret, notes_its_handle, &inside_b), ASYNC_PAUSE);
    CHECK(ASYNC_get_current_job() == NULL);
    CHECK(inside_a == a);
    CHECK(inside_b == b);
    CHECK(a != b);
    for (i = 0; i < 2; i++) {
        CHECK_INT(start(&a, ctx, &ret, NULL, NULL), i == 0 ? ASYNC_PAUSE : ASYNC_FINISH);
        CHECK(ASYNC_get_current_job() == NULL);
        CHECK_INT(start(&b, ctx, &ret, NULL, NULL), i == 0 ? ASYNC_PAUSE : ASYNC_FINISH);
        CHECK(ASYNC_get_current_job() == NULL);
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

static int finds_its_context(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ARG(ASYNC_WAIT_CTX, arg);

    CHECK(ASYNC_get_wait_ctx(ASYNC_get_current_job()) == ctx);
    ASYNC_pause_job();
    CHECK(ASYNC_get_wait_ctx(ASYNC_get_current_job()) == ctx);
    return 1;
}

CASE(a_job_has_the_context_it_was_started_with, EVERYWHERE,
     "ASYNC_get_wait_ctx gives a job's own context, inside the job and for a paused one")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *a = NULL, *b = NULL;
    int ret;

    CHECK_INT(start(&a, ctx, &ret, finds_its_context, ctx), ASYNC_PAUSE);
    CHECK_INT(start(&b, other, &ret, finds_its_context, other), ASYNC_PAUSE);
    CHECK(ASYNC_get_wait_ctx(a) == ctx);
    CHECK(ASYNC_get_wait_ctx(b) == other);
    CHECK_INT(start(&a, NULL, &ret, NULL, NULL), ASYNC_FINISH);
    CHECK(ASYNC_get_wait_ctx(b) == other);
    CHECK_INT(start(&b, NULL, &ret, NULL, NULL), ASYNC_FINISH);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_WAIT_CTX_free(other);
    ASYNC_cleanup_thread();
}

/* libcrypto reads through the null pointer. */
CASE(no_job_has_no_context, OURS, "ASYNC_get_wait_ctx of NULL is NULL")
{
    CHECK(ASYNC_get_wait_ctx(NULL) == NULL);
    CHECK(ASYNC_get_wait_ctx(ASYNC_get_current_job()) == NULL);
}

CASE(a_finished_job_has_no_context, EVERYWHERE,
     "ASYNC_get_wait_ctx of a finished job's handle is NULL while the thread's pool holds the job")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *handle = NULL;
    int ret;

    CHECK_INT(start(&job, ctx, &ret, notes_its_handle, &handle), ASYNC_PAUSE);
    CHECK_INT(start(&job, ctx, &ret, NULL, NULL), ASYNC_PAUSE);
    CHECK(ASYNC_get_wait_ctx(handle) == ctx);
    CHECK_INT(start(&job, ctx, &ret, NULL, NULL), ASYNC_FINISH);
    CHECK(ASYNC_get_wait_ctx(handle) == NULL);
    ASYNC_WAIT_CTX_free(ctx);
    CHECK(ASYNC_get_wait_ctx(handle) == NULL);
    ASYNC_cleanup_thread();
}

CASE(a_handle_denotes_the_job_started_anew, EVERYWHERE,
     "When an idle job is started anew, a handle kept from its former life denotes the new job")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *first, *again;
    int me = 3, ret = 0;

    /* One job only, so that the second start has to take the first's. */
    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, pauses_and_returns_who_it_was, &me, sizeof(me)),
              ASYNC_PAUSE);
    first = job;
    CHECK_INT(start(&job, ctx, &ret, NULL, NULL), ASYNC_FINISH);
    me = 4;
    CHECK_INT(ASYNC_start_job(&job, other, &ret, pauses_and_returns_who_it_was, &me, sizeof(me)),
              ASYNC_PAUSE);
    CHECK(ASYNC_get_wait_ctx(first) == other);
    again = first;
    CHECK_INT(start(&again, NULL, &ret, NULL, NULL), ASYNC_FINISH);
    CHECK(again == NULL);
    CHECK_INT(ret, 4);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_WAIT_CTX_free(other);
    ASYNC_cleanup_thread();
}

static int finds_no_context(void *arg)
{
    CHECK(arg == NULL);
    ASYNC_pause_job();
    CHECK(ASYNC_get_wait_ctx(ASYNC_get_current_job()) == NULL);
    ASYNC_pause_job();
    CHECK(ASYNC_get_wait_ctx(ASYNC_get_current_job()) == NULL);
    return 8;
}

/* libcrypto gives the freed context out, and writes to it when the job is resumed. */
CASE(a_job_of_a_freed_context_has_none, OURS,
     "Once its context is freed, a paused job has none, and can still be resumed to its end")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();
    ASYNC_WAIT_CTX *next[16];
    ASYNC_JOB *a = NULL, *b = NULL, *c = NULL;
    int i, ret = 0;

    CHECK_INT(ASYNC_start_job(&a, ctx, &ret, finds_no_context, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(ASYNC_start_job(&b, ctx, &ret, finds_no_context, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(start(&c, other, &ret, finds_its_context, other), ASYNC_PAUSE);
    ASYNC_WAIT_CTX_free(ctx);
    CHECK(ASYNC_get_wait_ctx(a) == NULL);
    CHECK(ASYNC_get_wait_ctx(b) == NULL);
    CHECK(ASYNC_get_wait_ctx(c) == other);
    /* New contexts, of which one may have the freed one's address, are not the jobs'. */
    for (i = 0; i < 16; i++)
        next[i] = ASYNC_WAIT_CTX_new();
    CHECK(ASYNC_get_wait_ctx(a) == NULL);
    for (i = 0; i < 2; i++) {
        CHECK_INT(start(&a, NULL, &ret, NULL, NULL), i == 0 ? ASYNC_PAUSE : ASYNC_FINISH);
        CHECK_INT(start(&b, NULL, &ret, NULL, NULL), i == 0 ? ASYNC_PAUSE : ASYNC_FINISH);
    }
    CHECK_INT(ret, 8);
    CHECK_INT(start(&c, NULL, &ret, NULL, NULL), ASYNC_FINISH);
    for (i = 0; i < 16; i++)
        ASYNC_WAIT_CTX_free(next[i]);
    ASYNC_WAIT_CTX_free(other);
    ASYNC_cleanup_thread();
}

CASE(async_is_capable, EVERYWHERE, "ASYNC_is_capable is 1, before and after anything else")
{
    ASYNC_JOB *job = NULL;
    int arg = 1, ret;

    CHECK_INT(ASYNC_is_capable(), 1);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, returns_its_argument, &arg, sizeof(arg)),
              ASYNC_FINISH);
    CHECK_INT(ASYNC_is_capable(), 1);
    ASYNC_cleanup_thread();
    CHECK_INT(ASYNC_is_capable(), 1);
}

/* Refusals */

/* libcrypto crashes on each of these. */
CASE(a_start_without_its_pointers_is_refused, OURS,
     "Starting with NULL for the handle's place, the result's place or the function is refused")
{
    ASYNC_JOB *job = NULL;
    int i, arg = 6, ret = -77;

    /* With a limit of one, a job that a refusal lost would be missed. */
    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    for (i = 0; i < 3; i++) {
        CHECK_INT(ASYNC_start_job(i == 0 ? NULL : &job, NULL, i == 1 ? NULL : &ret,
                                  i == 2 ? NULL : must_not_run, &arg, sizeof(arg)), ASYNC_ERR);
        CHECK(error_was_queued());
        CHECK(job == NULL);
        CHECK_INT(ret, -77);
        CHECK(ASYNC_get_current_job() == NULL);
    }
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, returns_its_argument, &arg, sizeof(arg)),
              ASYNC_FINISH);
    CHECK_INT(ret, 6);
    ASYNC_cleanup_thread();
}

/* libcrypto crashes when the job ends. */
CASE(a_resume_without_a_place_for_the_result_is_refused, OURS,
     "Resuming with NULL for the result's place is refused, and the job does not move")
{
    ASYNC_JOB *job = NULL, *handle;
    int steps = 0, ret = 0;

    CHECK_INT(start(&job, NULL, &ret, counts_its_steps, &steps), ASYNC_PAUSE);
    handle = job;
    CHECK_INT(ASYNC_start_job(&job, NULL, NULL, NULL, NULL, 0), ASYNC_ERR);
    CHECK(error_was_queued());
    CHECK(job == handle);
    CHECK_INT(steps, 1);
    steps = 10;
    CHECK_INT(start(&job, NULL, &ret, NULL, NULL), ASYNC_PAUSE);
    steps = 20;
    CHECK_INT(start(&job, NULL, &ret, NULL, NULL), ASYNC_FINISH);
    CHECK_INT(ret, 42);
    ASYNC_cleanup_thread();
}

static int tries_to_resume(void *arg)
{
    check_resume_is_refused(ARG(ASYNC_JOB, arg));
    return 1;
}

static void *tries_to_resume_in_a_thread(void *job)
{
    ASYNC_JOB *own = NULL;
    int ret;

    check_resume_is_refused(job);
    CHECK_INT(start(&own, NULL, &ret, tries_to_resume, job), ASYNC_FINISH);
    check_resume_is_refused(job);
    ASYNC_cleanup_thread();
    return NULL;
}

/* libcrypto runs the job on both threads' state, and loses its place in the pool. */
CASE(resume_on_another_thread_is_refused, OURS,
     "A job can be resumed only on the thread that started it; a refused try does it no harm")
{
    ASYNC_JOB *job = NULL;
    pthread_t thread;
    int steps = 0, ret = 0, i;

    CHECK_INT(start(&job, NULL, &ret, counts_its_steps, &steps), ASYNC_PAUSE);
    for (i = 0; i < 2; i++) {
        CHECK_INT(pthread_create(&thread, NULL, tries_to_resume_in_a_thread, job), 0);
        CHECK_INT(pthread_join(thread, NULL), 0);
        CHECK_INT(steps, 10 * i + 1);
        steps = 10 * i + 10;
        CHECK_INT(start(&job, NULL, &ret, NULL, NULL), i == 0 ? ASYNC_PAUSE : ASYNC_FINISH);
    }
    CHECK_INT(ret, 42);
    ASYNC_cleanup_thread();
}

/* libcrypto reports the old result again and puts the job into the pool a second time. */
CASE(resuming_a_finished_job_is_refused, OURS,
     "Resuming a job that has finished and lies idle is refused, and the pool holds it once")
{
    ASYNC_JOB *job = NULL, *handle = NULL, *a = NULL, *b = NULL;
    int i, me, ret = 0;

    CHECK_INT(ASYNC_init_thread(2, 0), 1);
    CHECK_INT(start(&job, NULL, &ret, notes_its_handle, &handle), ASYNC_PAUSE);
    CHECK_INT(start(&job, NULL, &ret, NULL, NULL), ASYNC_PAUSE);
    CHECK_INT(start(&job, NULL, &ret, NULL, NULL), ASYNC_FINISH);
    for (i = 0; i < 3; i++)
        check_resume_is_refused(handle);
    me = 1;
    CHECK_INT(ASYNC_start_job(&a, NULL, &ret, pauses_and_returns_who_it_was, &me, sizeof(me)),
              ASYNC_PAUSE);
    me = 2;
    CHECK_INT(ASYNC_start_job(&b, NULL, &ret, pauses_and_returns_who_it_was, &me, sizeof(me)),
              ASYNC_PAUSE);
    CHECK(a != b);
    CHECK_INT(start(&a, NULL, &ret, NULL, NULL), ASYNC_FINISH);
    CHECK_INT(ret, 1);
    CHECK_INT(start(&b, NULL, &ret, NULL, NULL), ASYNC_FINISH);
    CHECK_INT(ret, 2);
    ASYNC_cleanup_thread();
}

#ifdef WITH_LIBCRYPTO
CASE(what_succeeds_leaves_the_error_queue_alone, EVERYWHERE | NEEDS_LIBCRYPTO,
     "Calls that succeed neither add to OpenSSL's error queue nor take from it, nor does NO_JOBS")
{
    ASYNC_WAIT_CTX *ctx;
    ASYNC_JOB *job = NULL, *second = NULL, *handle = NULL;
    unsigned long error;
    int queued, arg = 6, ret;

    for (queued = 0; queued < 2; queued++) {
        if (queued)
            ERR_put_error(ERR_LIB_USER, 0, 7, "here", 1);
        error = ERR_peek_error();
        ctx = ASYNC_WAIT_CTX_new();
        CHECK_INT(ASYNC_init_thread(1, 1), 1);
        CHECK_INT(ASYNC_pause_job(), 1);
        CHECK_INT(start(&job, ctx, &ret, notes_its_handle, &handle), ASYNC_PAUSE);
        CHECK_INT(ASYNC_start_job(&second, ctx, &ret, returns_its_argument, &arg, sizeof(arg)),
                  ASYNC_NO_JOBS);
        CHECK_INT(start(&job, ctx, &ret, NULL, NULL), ASYNC_PAUSE);
        CHECK_INT(start(&job, ctx, &ret, NULL, NULL), ASYNC_FINISH);
        ASYNC_block_pause();
        ASYNC_unblock_pause();
        CHECK(ASYNC_get_current_job() == NULL);
        CHECK_INT(ASYNC_is_capable(), 1);
        ASYNC_WAIT_CTX_free(ctx);
        ASYNC_cleanup_thread();
        CHECK(ERR_get_error() == error);
        CHECK(ERR_get_error() == 0);
    }
}
#endif

/* What a job keeps across its pauses */

static int keeps_its_locals(void *arg)
{
    uint64_t local[512], sum = 0, me = *(int *)arg;
    int i, round;

    for (i = 0; i < 512; i++)
        local[i] = me << 32 | (uint64_t)i;
    for (round = 0; round < 5; round++) {
        ASYNC_pause_job();
        for (i = 0; i < 512; i++) {
            CHECK(local[i] == ((me << 32 | (uint64_t)i) + (uint64_t)round));
            local[i]++;
            sum++;
        }
    }
    CHECK_INT(sum, 5 * 512);
    return (int)me;
}

CASE(locals_survive_pauses, EVERYWHERE,
     "Each of many jobs that take turns finds its local variables as it left them")
{
    enum { JOBS = 100 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS] = { NULL };
    int i, round, ret;

    for (i = 0; i < JOBS; i++)
        CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, keeps_its_locals, &i, sizeof(i)),
                  ASYNC_PAUSE);
    for (round = 1; round <= 5; round++) {
        for (i = 0; i < JOBS; i++) {
            CHECK_INT(start(&job[i], ctx, &ret, NULL, NULL),
                      round < 5 ? ASYNC_PAUSE : ASYNC_FINISH);
            if (round == 5)
                CHECK_INT(ret, i);
        }
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* Pauses at the bottom, and again on the way up from each call. */
__attribute__((noinline)) static int descend(int calls_left, int *pauses)
{
    volatile int mark[8];
    int i, below = 0;

    for (i = 0; i < 8; i++)
        mark[i] = calls_left * 100 + i;
    if (calls_left > 0)
        below = descend(calls_left - 1, pauses);
    CHECK_INT(ASYNC_pause_job(), 1);
    ++*pauses;
    for (i = 0; i < 8; i++)
        CHECK_INT(mark[i], calls_left * 100 + i);
    return below + 1;
}

static int pauses_ten_calls_deep(void *arg)
{
    return descend(10, ARG(int, arg));
}

CASE(a_pause_works_ten_calls_deep, EVERYWHERE,
     "A job can pause anywhere below its function, and returns through its calls afterwards")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int pauses = 0, i, ret;

    for (i = 0; i <= 10; i++) {
        CHECK_INT(start(&job, ctx, &ret, pauses_ten_calls_deep, &pauses), ASYNC_PAUSE);
        CHECK_INT(pauses, i);
    }
    CHECK_INT(start(&job, ctx, &ret, NULL, NULL), ASYNC_FINISH);
    CHECK_INT(ret, 11);
    CHECK_INT(pauses, 11);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

static int meets_errno(void *arg)
{
    CHECK(arg == NULL);
    CHECK_INT(errno, 1001);
    errno = 2001;
    ASYNC_pause_job();
    CHECK_INT(errno, 1002);
    errno = 2002;
    ASYNC_pause_job();
    CHECK_INT(errno, 1003);
    errno = 2003;
    return 1;
}

CASE(errno_is_left_alone, EVERYWHERE,
     "A switch does not touch errno: it passes from starter to job and back as the thread's own")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int life, i, code, ret;

    /* The first life is in a new stack, the second in a used one. */
    for (life = 0; life < 2; life++) {
        for (i = 1; i <= 3; i++) {
            errno = 1000 + i;
            code = ASYNC_start_job(&job, ctx, &ret, meets_errno, NULL, 0);
            CHECK_INT(errno, 2000 + i);
            CHECK_INT(code, i < 3 ? ASYNC_PAUSE : ASYNC_FINISH);
        }
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

static void change_mask(int how, int signal)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, signal);
    CHECK_INT(pthread_sigmask(how, &set, NULL), 0);
}

/* Which of SIGUSR1 (1) and SIGUSR2 (2) the thread has blocked. */
static int blocked_signals(void)
{
    sigset_t set;

    CHECK_INT(pthread_sigmask(SIG_SETMASK, NULL, &set), 0);
    return sigismember(&set, SIGUSR1) + 2 * sigismember(&set, SIGUSR2);
}

static int changes_the_mask(void *arg)
{
    CHECK(arg == NULL);
    CHECK_INT(blocked_signals(), 1);
    change_mask(SIG_BLOCK, SIGUSR2);
    ASYNC_pause_job();
    CHECK_INT(blocked_signals(), 0);
    change_mask(SIG_BLOCK, SIGUSR2);
    return 1;
}

CASE(the_signal_mask_is_left_alone, EVERYWHERE,
     "A switch does not touch the signal mask: it is the thread's, in and out of jobs")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int life, ret;

    /* The first life is in a new stack, the second in a used one. */
    for (life = 0; life < 2; life++) {
        change_mask(SIG_BLOCK, SIGUSR1);
        CHECK_INT(ASYNC_start_job(&job, ctx, &ret, changes_the_mask, NULL, 0), ASYNC_PAUSE);
        CHECK_INT(blocked_signals(), 3);
        change_mask(SIG_UNBLOCK, SIGUSR1);
        change_mask(SIG_UNBLOCK, SIGUSR2);
        CHECK_INT(ASYNC_start_job(&job, ctx, &ret, NULL, NULL, 0), ASYNC_FINISH);
        CHECK_INT(blocked_signals(), 2);
        change_mask(SIG_UNBLOCK, SIGUSR2);
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* libcrypto's first entry into a job restores the mask of the moment when the job was made. */
CASE(a_job_made_earlier_has_the_mask_of_now, OURS,
     "A job that was made by ASYNC_init_thread under another signal mask leaves the mask alone")
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    change_mask(SIG_BLOCK, SIGUSR1);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, changes_the_mask, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(blocked_signals(), 3);
    change_mask(SIG_UNBLOCK, SIGUSR1);
    change_mask(SIG_UNBLOCK, SIGUSR2);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(blocked_signals(), 2);
    ASYNC_cleanup_thread();
}

#ifdef __x86_64__
/*
 * Calls f with `mark` and its successors in all the registers that a function has to
 * keep. 1 if they are there afterwards; the popped mark proves the stack pointer as well.
 */
int call_keeps_registers(void (*f)(void), uint64_t mark);
__asm__(".pushsection .text\n"
        "call_keeps_registers:\n"
        "    push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; push %rsi\n"
        "    lea 1(%rsi), %rbx\n"
        "    lea 2(%rsi), %rbp\n"
        "    lea 3(%rsi), %r12\n"
        "    lea 4(%rsi), %r13\n"
        "    lea 5(%rsi), %r14\n"
        "    lea 6(%rsi), %r15\n"
        "    call *%rdi\n"
        "    pop %rsi\n"
        "    xor %eax, %eax\n"
        "    sub %rsi, %rbx; cmp $1, %rbx; jne 1f\n"
        "    sub %rsi, %rbp; cmp $2, %rbp; jne 1f\n"
        "    sub %rsi, %r12; cmp $3, %r12; jne 1f\n"
        "    sub %rsi, %r13; cmp $4, %r13; jne 1f\n"
        "    sub %rsi, %r14; cmp $5, %r14; jne 1f\n"
        "    sub %rsi, %r15; cmp $6, %r15; jne 1f\n"
        "    inc %eax\n"
        "1:  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "    ret\n"
        ".popsection\n");

static void pause_it(void)
{
    CHECK_INT(ASYNC_pause_job(), 1);
}

static int keeps_its_registers(void *arg)
{
    uint64_t me = (uint64_t)*(int *)arg;
    int i;

    for (i = 0; i < 3; i++)
        CHECK(call_keeps_registers(pause_it, (0x1111111111111111 * (me + 1)) << i));
    return 1;
}

static struct {
    ASYNC_WAIT_CTX *ctx;
    ASYNC_JOB *job[2];
    int which, code, ret;
} turn;

static void take_a_turn(void)
{
    turn.code = ASYNC_start_job(&turn.job[turn.which], turn.ctx, &turn.ret, keeps_its_registers,
                                &turn.which, sizeof(turn.which));
}

CASE(registers_survive_pauses, EVERYWHERE,
     "Job and starter each find in the callee-saved registers what they had there at the switch")
{
    uint64_t mark = 0xfedcba9876543210;
    int i;

    turn.ctx = ASYNC_WAIT_CTX_new();
    for (i = 0; i < 4; i++) {
        for (turn.which = 0; turn.which < 2; turn.which++, mark = mark << 3 | mark >> 61) {
            CHECK(call_keeps_registers(take_a_turn, mark));
            CHECK_INT(turn.code, i < 3 ? ASYNC_PAUSE : ASYNC_FINISH);
        }
    }
    ASYNC_WAIT_CTX_free(turn.ctx);
    ASYNC_cleanup_thread();
}

/* The floating-point state of a job: how x87 and SSE round, trap, flush. */
struct fp {
    uint16_t cw;
    uint32_t mxcsr;
};

static void set_fp(struct fp fp)
{
    __asm__ volatile("fldcw %0; ldmxcsr %1" : : "m"(fp.cw), "m"(fp.mxcsr));
}

#define CHECK_FP(want) \
    do { \
        struct fp expected_ = (want), found_ = { 0, 0 }; \
        __asm__ volatile("fnstcw %0; stmxcsr %1" : "=m"(found_.cw), "=m"(found_.mxcsr)); \
        CHECK_INT(found_.cw, expected_.cw); \
        CHECK_INT(found_.mxcsr, expected_.mxcsr); \
    } while (0)

/* The default state, but rounding: 0 to nearest, 1 down, 2 up, 3 to zero. */
static struct fp rounding(int mode)
{
    struct fp fp = { (uint16_t)(0x37f | mode << 10), 0x1f80u | (uint32_t)mode << 13 };

    return fp;
}

/* States that differ in all else: precision, what traps, flush to zero, sticky flags. */
static const struct fp odd_state[] = {
    { 0x027e, 0x9f00 },     /* double; invalid traps; flush to zero */
    { 0x0c7f, 0x7fe1 },     /* single, to zero; denormals are zero, inexact and invalid raised */
    { 0x036f, 0x3782 },     /* extended; underflow traps; MXCSR down, denormal raised */
};

/* What a job of the cases below is to find and to do. */
struct fp_job {
    struct fp at_start, own[2];
};

static int has_its_own_fp(void *arg)
{
    struct fp_job *p = ARG(struct fp_job, arg);

    CHECK_FP(p->at_start);
    set_fp(p->own[0]);
    ASYNC_pause_job();
    CHECK_FP(p->own[0]);
    ASYNC_pause_job();
    CHECK_FP(p->own[0]);
    set_fp(p->own[1]);
    ASYNC_pause_job();
    CHECK_FP(p->own[1]);
    return 1;
}

static int starts_with_fp(void *arg)
{
    CHECK_FP(*ARG(struct fp, arg));
    return 1;
}

CASE(a_job_starts_with_its_starters_rounding, EVERYWHERE,
     "A job starts with the x87 control word and MXCSR of its starter, on a new or a used stack")
{
    ASYNC_JOB *job = NULL;
    int mode, ret;

    for (mode = 3; mode >= 0; mode--) {
        struct fp fp = rounding(mode);

        set_fp(fp);
        CHECK_INT(start(&job, NULL, &ret, starts_with_fp, &fp), ASYNC_FINISH);
        CHECK_FP(fp);
    }
    ASYNC_cleanup_thread();
}

/* libcrypto's first entry into a job restores the modes of the moment when the job was made. */
CASE(a_job_made_earlier_has_the_rounding_of_now, OURS,
     "A job from the pool starts with the modes of its ASYNC_start_job's caller, not its maker's")
{
    ASYNC_JOB *job[3] = { NULL };
    int mode, ret;

    set_fp(rounding(0));
    CHECK_INT(ASYNC_init_thread(3, 3), 1);
    for (mode = 1; mode <= 3; mode++) {
        struct fp_job p = { rounding(mode), { rounding(mode - 1), rounding(0) } };

        set_fp(p.at_start);
        CHECK_INT(start(&job[mode - 1], NULL, &ret, has_its_own_fp, &p), ASYNC_PAUSE);
        CHECK_FP(p.at_start);
        CHECK_INT(start(&job[mode - 1], NULL, &ret, NULL, NULL), ASYNC_PAUSE);
        CHECK_INT(start(&job[mode - 1], NULL, &ret, NULL, NULL), ASYNC_PAUSE);
        CHECK_INT(start(&job[mode - 1], NULL, &ret, NULL, NULL), ASYNC_FINISH);
        CHECK_FP(p.at_start);
    }
    ASYNC_cleanup_thread();
}

static int ends_rounding_up(void *arg)
{
    CHECK(arg == NULL);
    set_fp(rounding(2));
    return 1;
}

/* In libcrypto the starter goes on with the modes that the job left. */
CASE(the_rounding_of_a_finished_job_is_gone, OURS,
     "The modes a job had at its end reach neither its starter nor the next job of its stack")
{
    ASYNC_JOB *job = NULL;
    struct fp down = rounding(1);
    int ret;

    set_fp(down);
    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, ends_rounding_up, NULL, 0), ASYNC_FINISH);
    CHECK_FP(down);
    CHECK_INT(start(&job, NULL, &ret, starts_with_fp, &down), ASYNC_FINISH);
    CHECK_FP(down);
    ASYNC_cleanup_thread();
}

/* Two jobs and their starter take turns; the starter changes its own state between them. */
static void take_turns_with_fp(struct fp first, struct fp second, struct fp third)
{
    struct fp_job a = { first, { second, third } }, b = { third, { first, second } };
    ASYNC_JOB *job[2] = { NULL };
    int i, ret;

    set_fp(a.at_start);
    CHECK_INT(start(&job[0], NULL, &ret, has_its_own_fp, &a), ASYNC_PAUSE);
    CHECK_FP(a.at_start);
    set_fp(b.at_start);
    CHECK_INT(start(&job[1], NULL, &ret, has_its_own_fp, &b), ASYNC_PAUSE);
    CHECK_FP(b.at_start);
    for (i = 0; i < 6; i++) {
        struct fp mine = i % 3 == 0 ? first : i % 3 == 1 ? second : third;

        set_fp(mine);
        CHECK_INT(start(&job[i % 2], NULL, &ret, NULL, NULL), i < 4 ? ASYNC_PAUSE : ASYNC_FINISH);
        CHECK_FP(mine);
    }
}

/* In libcrypto the modes are whoever's set them last. */
CASE(jobs_and_starter_each_keep_their_rounding, OURS,
     "A job keeps its rounding modes across pauses, and its starter gets its own at each switch")
{
    take_turns_with_fp(rounding(0), rounding(1), rounding(2));
    take_turns_with_fp(rounding(3), rounding(2), rounding(1));
    set_fp(rounding(0));
    ASYNC_cleanup_thread();
}

/*
 * As above for libcrypto. NOT_ON_VALGRIND: its processor has no floating-point modes but
 * those of rounding.
 */
CASE(jobs_and_starter_each_keep_all_of_the_two_registers, OURS | NOT_ON_VALGRIND,
     "All bits of the x87 control word and of MXCSR are each job's own, and its starter's own")
{
    take_turns_with_fp(odd_state[0], odd_state[1], odd_state[2]);
    take_turns_with_fp(odd_state[2], odd_state[0], odd_state[1]);
    set_fp(rounding(0));
    ASYNC_cleanup_thread();
}
#endif
