/*
 * args.c: the arguments of a job (src/job/job.rs): the copy that ASYNC_start_job makes, how long it
 * lives, and arguments that cannot be copied.
 */
#include "jobs.h"
#include "process.h"
#include <sys/resource.h>

static int returns_its_argument(void *arg)
{
    return *(int *)arg;
}

static unsigned char *callers_args;     /* the original, where the starter has it */
static size_t args_size;
static unsigned char args_seed;

/* Byte i of args with this seed; each seed gives other args. */
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
     "Args of any size are copied, aligned to 16 bytes; the job owns the copy until its end")
{
    static const size_t sizes[] = { 1, 2, 8, 15, 17, 64, 1023, 1024, 1025, 4096, 65537, 9 << 20 };
    enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[SIZES] = { NULL };
    int i, step, ret = 0;
    size_t n;

    for (i = 0; i < SIZES; i++) {
        /* The original lies at an odd address, so that the alignment can only be the copy's. */
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
    /* All copies exist at once, so that two copies in the same memory would show. */
    for (step = 0; step < 2; step++) {
        for (i = SIZES - 1; i >= 0; i--)
            CHECK_INT(resume(&job[i], &ret), step == 0 ? ASYNC_PAUSE : ASYNC_FINISH);
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

static int uses_its_stack(void *arg)
{
    volatile unsigned char frame[8 << 10];
    size_t i;

    for (i = 0; i < sizeof(frame); i++)
        frame[i] = 1;
    return arg != NULL;
}

enum { LARGER_ARGS = 900 };

static int sums_its_args(void *args)
{
    int i, sum = 0;

    for (i = 0; i < LARGER_ARGS; i++)
        sum += ((unsigned char *)args)[i];
    return sum;
}

CASE(args_may_be_larger_than_those_of_the_job_before, EVERYWHERE,
     "A job that ran with small args takes larger ones, which overwrite memory of its old frames")
{
    unsigned char args[LARGER_ARGS];
    ASYNC_JOB *job = NULL;
    int ret = 0;

    memset(args, 2, sizeof(args));
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, uses_its_stack, args, 1), ASYNC_FINISH);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, sums_its_args, args, sizeof(args)), ASYNC_FINISH);
    CHECK_INT(ret, 2 * LARGER_ARGS);
    ASYNC_cleanup_thread();
}

static int overwrites_its_args(void *arg)
{
    memset(arg, 0x5a, 64);
    return 1;
}

CASE(the_callers_args_are_never_written, EVERYWHERE,
     "A job that writes to its args changes its copy, not the caller's original")
{
    unsigned char args[64];
    ASYNC_JOB *job = NULL;
    int ret, i;

    memset(args, 0xc3, sizeof(args));
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, overwrites_its_args, args, sizeof(args)),
              ASYNC_FINISH);
    for (i = 0; i < 64; i++)
        CHECK_INT(args[i], 0xc3);
    ASYNC_cleanup_thread();
}

/* 1 if it gets NULL, 2 if it gets args. */
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

static int pauses_once(void *arg)
{
    CHECK(arg != NULL);
    ASYNC_pause_job();
    return 1;
}

/*
 * The case measures the process's memory. NOT_ON_VALGRIND: it has its own allocator.
 * NOT_ON_ASAN: it keeps freed memory for a while.
 */
CASE(args_are_freed_when_the_job_ends, EVERYWHERE | NOT_ON_VALGRIND | NOT_ON_ASAN,
     "The copy of args is freed when its job ends, not when the job is started anew or freed")
{
    enum { JOBS = 32, MIB = 1 << 20 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS] = { NULL };
    char *args = malloc(MIB);
    long before, during;
    int i, ret;

    memset(args, 1, MIB);
    before = resident();
    for (i = 0; i < JOBS; i++)
        CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, pauses_once, args, MIB), ASYNC_PAUSE);
    during = resident();
    CHECK(during - before >= JOBS * MIB);
    for (i = 0; i < JOBS; i++)
        finish(job[i], 1);
    CHECK(during - resident() >= (JOBS - 2) * MIB);
    free(args);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* Not on the tools: the limit would apply to their own memory too. */
CASE(args_too_large_to_copy_are_refused, UNTIL_3_2 | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "Args that cannot be copied: ASYNC_ERR, nothing changed, an error queued, and no job lost")
{
    struct rlimit limit;
    ASYNC_JOB *job = NULL;
    int i, arg = 6, ret = -77;

    CHECK_INT(getrlimit(RLIMIT_AS, &limit), 0);
    limit.rlim_cur = (rlim_t)4 << 30;
    CHECK_INT(setrlimit(RLIMIT_AS, &limit), 0);

    /* With a limit of one job, a refusal that loses the job makes the last start fail. */
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

/* NOT_ON_VALGRIND: it reports an allocation of such a size as an error of the program. */
CASE(args_of_an_absurd_size_are_refused, EVERYWHERE | NOT_ON_VALGRIND,
     "A size that no address space can hold is refused, even where rounding it up overflows")
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
