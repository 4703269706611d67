/*
 * unwinding.c: unwinders at any instruction of the library: right frames, or an end in
 * jump_fcontext and make_fcontext, which have no unwind information (src/fibre/fibre.rs).
 */
#include "every_call.h"
/* It steps by the trap flag of x86-64; and musl has no unwind information for its own code. */
#if defined(__x86_64__) && defined(__GLIBC__)
#include "stepping.h"
#include <sched.h>
#include <sys/time.h>
#include <time.h>

/* ---- what a caller may keep in rbx, rbp and r12 to r15 ---- */

static void never_called(void)
{
    CHECK(!"reached");
}

/* A chain of frames that nobody has made, for an unwinder that takes rbp for a frame pointer. */
static void *fake_frames[] = {
    &fake_frames[2], (void *)never_called, &fake_frames[4], (void *)never_called, NULL, NULL
};
#define FAKE ((uintptr_t)&fake_frames[0])

static const uintptr_t values[][6] = {
    { 0xdeadbeefcafebabe, 0x8badf00d8badf00d, 0xaaaaaaaaaaaaaaaa, ~(uintptr_t)0,
      0x8000000000000000, 0xdeadbeefcafebab1 },
    { 1, 2, 3, 4, 5, 6 },
    { FAKE, FAKE, FAKE, FAKE, FAKE, FAKE },
};
enum { KINDS = sizeof values / sizeof values[0] };

static int call_1(void *function, uintptr_t a)
{
    struct free_call call = { function, { a }, { 0 } };

    memcpy(call.registers, free_registers, sizeof call.registers);
    return (int)call_free(&call);
}

static int start_freely(ASYNC_JOB **job, ASYNC_WAIT_CTX *ctx, int *ret, int (*func)(void *),
                        const void *args, size_t size)
{
    struct free_call call = {
        ASYNC_start_job,
        { (uintptr_t)job, (uintptr_t)ctx, (uintptr_t)ret, (uintptr_t)func, (uintptr_t)args, size },
        { 0 },
    };

    memcpy(call.registers, free_registers, sizeof call.registers);
    return (int)call_free(&call);
}

/* ---- each instruction ---- */

static unsigned char text[4096];

static int pauses_twice(void *arg)
{
    CHECK_INT(call_1(ASYNC_pause_job, 0), 1);
    CHECK(ASYNC_get_current_job() != NULL);
    CHECK_INT(call_1(ASYNC_pause_job, 0), 1);
    return arg == NULL ? 5 : *(unsigned char *)arg;
}

/* Steps through func(ctx) for each kind of values in the caller's registers. */
static void step_through(void (*func)(ASYNC_WAIT_CTX *ctx))
{
    memset(text, 'x', sizeof text);
    for (int kind = 0; kind < KINDS; kind++)
        for (int where = 0; where < 2; where++) {
            ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

            free_registers = values[kind];
            prepare_stepping(where == 0 ? ON_OTHER_STACK : ON_SAME_STACK);
            step_on();
            func(ctx);
            step_off();
            ASYNC_WAIT_CTX_free(ctx);
        }
    check_steps();
}

/* Fresh jobs and jobs from the pool, with few, many and no args, to their ends. */
static void run_jobs(ASYNC_WAIT_CTX *ctx)
{
    static const size_t sizes[] = { 0, 40, sizeof text, 24, 0 };

    CHECK_INT(call_1(ASYNC_init_thread, 0), 1);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const void *args = sizes[i] == 0 ? NULL : text;
        ASYNC_JOB *job = NULL;
        int ret = 0;

        CHECK_INT(start_freely(&job, ctx, &ret, pauses_twice, args, sizes[i]), ASYNC_PAUSE);
        CHECK(ASYNC_get_wait_ctx(job) == ctx);
        CHECK_INT(start_freely(&job, NULL, &ret, NULL, NULL, 0), ASYNC_PAUSE);
        CHECK_INT(start_freely(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
        CHECK_INT(ret, args == NULL ? 5 : 'x');
    }
    call_1(ASYNC_cleanup_thread, 0);
}

/* NOT_ON_...: the tools' own code would be stepped through; valgrind has no trap flag. */
enum { STEPS = NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN };

CASE(at_each_instruction_of_a_switch, EVERYWHERE | STEPS,
     "An unwinder finds the right frames, or an end, at each instruction of start, pause, resume "
     "and finish, whatever the caller keeps in its registers")
{
    step_through(run_jobs);
}

/* Starts a job, pauses while that is paused, and finishes it. */
static int starts_another(void *arg)
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(start_freely(&job, NULL, &ret, pauses_twice, arg, 40), ASYNC_PAUSE);
    CHECK_INT(call_1(ASYNC_pause_job, 0), 1);
    CHECK_INT(start_freely(&job, NULL, &ret, NULL, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(start_freely(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    return ret;
}

static void run_nested_jobs(ASYNC_WAIT_CTX *ctx)
{
    for (int round = 0; round < 3; round++) {
        ASYNC_JOB *job = NULL;
        int ret = 0;

        CHECK_INT(start_freely(&job, ctx, &ret, starts_another, text, 40), ASYNC_PAUSE);
        CHECK_INT(start_freely(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
        CHECK_INT(ret, 'x');
    }
}

/* In libcrypto a job that starts another corrupts the thread's state. */
CASE(at_each_instruction_in_nested_jobs, OURS | STEPS,
     "An unwinder finds the right frames, or an end, at each instruction of jobs that run others")
{
    step_through(run_nested_jobs);
}

static void make_calls(ASYNC_WAIT_CTX *ctx)
{
    (void)ctx;
    make_every_call();
}

CASE(at_each_instruction_of_every_call, SINCE_3_0 | STEPS,
     "An unwinder finds the right frames, or an end, at each instruction of every function")
{
    step_through(make_calls);
}

static void make_refused_calls(ASYNC_WAIT_CTX *ctx)
{
    ASYNC_JOB *job = NULL, *finished;
    int ret = 0;

    CHECK_INT(start_freely(NULL, ctx, &ret, pauses_twice, NULL, 0), ASYNC_ERR);
    CHECK_INT(start_freely(&job, ctx, &ret, pauses_twice, NULL, 0), ASYNC_PAUSE);
    finished = job;
    CHECK_INT(start_freely(&job, NULL, &ret, NULL, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(start_freely(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(start_freely(&finished, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(NULL, &ret, 1, NULL, NULL), 0);
}

/* libcrypto crashes where these are refused. */
CASE(at_each_instruction_of_a_refusal, OURS | STEPS,
     "An unwinder finds the right frames, or an end, at each instruction of calls that are refused")
{
    CHECK_INT(ASYNC_init_thread(1, 2), 0); /* libcrypto loads all its texts for its first error */
    CHECK(error_was_queued());
    step_through(make_refused_calls);
}

static pthread_key_t last_key;

/* The last destructor of a thread. From here to its end glibc blocks all signals. */
static void stop_stepping(void *arg)
{
    (void)arg;
    step_off();
}

static void *ends_step_by_step(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret;

    (void)arg;
    free_registers = values[0];
    CHECK_INT(pthread_setspecific(last_key, &last_key), 0);
    CHECK_INT(ASYNC_init_thread(3, 3), 1);
    CHECK_INT(start_pausing_job(&job, ctx, &ret, 0, 5), ASYNC_FINISH);
    ASYNC_WAIT_CTX_free(ctx);
    prepare_stepping(ON_OTHER_STACK);
    step_on();
    return NULL;
}

CASE(at_each_instruction_of_a_threads_end, EVERYWHERE | STEPS,
     "An unwinder finds the right frames at each instruction of what happens when a thread ends")
{
    CHECK_INT(ASYNC_init_thread(0, 0), 1); /* before the key, if its destructor is made then */
    CHECK_INT(pthread_key_create(&last_key, stop_stepping), 0);
    on_new_thread(ends_step_by_step, NULL);
    check_steps();
}

/* ---- samples ---- */

/* A worker's frame and a job's are known by the sections that their functions lie in. */
#define IN_SECTION(name) __attribute__((section(name), noinline))
extern char __start_code_of_workers[], __stop_code_of_workers[];
extern char __start_code_of_jobs[], __stop_code_of_jobs[];

enum { WORKERS = 3, SAMPLING_S = 2 };
static volatile int stop;
static long samples, samples_in_library, samples_in_jobs, ends, wrong;
static __thread volatile uintptr_t stack_start, stack_end; /* of the thread */

static int has_frame_in(const struct walk *walk, const char *start, const char *end)
{
    int found = 0;

    for (int i = 0; i < walk->n; i++)
        found |= walk->pc[i] >= (uintptr_t)start && walk->pc[i] < (uintptr_t)end;
    return found;
}

/* Whether the frames are those of the side that is interrupted, and all of them. */
static int is_right_sample(const struct walk *walk, int in_job)
{
    int of_worker = has_frame_in(walk, __start_code_of_workers, __stop_code_of_workers);
    int of_job = has_frame_in(walk, __start_code_of_jobs, __stop_code_of_jobs);
    uintptr_t last = walk->pc[walk->n - 1];

    for (int i = 0; i < walk->n; i++)
        if (segment_of(walk->pc[i]) == NULL)
            return 0;
    if (on_libcrypto)
        return 1;
    if (is_of_library(last) && may_end_in(last, walk->n > 1)) {
        __atomic_fetch_add(&ends, 1, __ATOMIC_RELAXED);
        return walk->n <= 4 && !of_worker && !of_job;
    }
    /* A job begins and ends in the library, without a frame of its function. */
    return in_job ? !of_worker && is_of_library(last) : of_worker && !of_job;
}

static void take_sample(int signal_number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    uintptr_t pc = (uintptr_t)registers[REG_RIP], sp = (uintptr_t)registers[REG_RSP];
    int in_job = sp - stack_start >= stack_end - stack_start, saved_errno = errno;
    struct walk walk;

    (void)signal_number, (void)info;
    if (stack_end == 0)
        return; /* no worker, or not yet */
    __atomic_fetch_add(&samples, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&samples_in_library, is_of_library(pc), __ATOMIC_RELAXED);
    __atomic_fetch_add(&samples_in_jobs, in_job, __ATOMIC_RELAXED);
    if ((!walk_from(pc, &walk) || !is_right_sample(&walk, in_job))
        && __atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED) == 0)
        for (int i = 0; i < walk.n; i++)
            fprintf(stderr, "a wrong sample's frame: %#lx\n", walk.pc[i]);
    errno = saved_errno;
}

IN_SECTION("code_of_jobs") static int keeps_pausing(void *arg)
{
    for (int i = 0; i < 5; i++)
        CHECK_INT(ASYNC_pause_job(), 1);
    return *(unsigned char *)arg;
}

IN_SECTION("code_of_workers") static void keep_switching(ASYNC_WAIT_CTX *ctx, uintptr_t end)
{
    static const size_t sizes[] = { 1, 64, sizeof text };

    stack_end = end; /* samples may be taken */
    for (size_t round = 0; !stop; round++) {
        ASYNC_JOB *job = NULL;
        int ret, code;

        do
            code = ASYNC_start_job(&job, ctx, &ret, keeps_pausing, text, sizes[round % 3]);
        while (code == ASYNC_PAUSE);
        CHECK_INT(code, ASYNC_FINISH);
        if (round % 100 == 0)
            ASYNC_cleanup_thread();
    }
    stack_end = 0;
}

static void *work(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    pthread_attr_t attributes;
    void *start;
    size_t size;

    CHECK_INT(pthread_getattr_np(pthread_self(), &attributes), 0);
    CHECK_INT(pthread_attr_getstack(&attributes, &start, &size), 0);
    pthread_attr_destroy(&attributes);
    set_handlers_stack();
    stack_start = (uintptr_t)start;
    keep_switching(ctx, stack_start + size);
    ASYNC_WAIT_CTX_free(ctx);
    return arg;
}

/* NOT_ON_...: these tools deliver signals late, at places of their own. */
CASE(samples_of_busy_threads, EVERYWHERE | STEPS,
     "A profiler that unwinds from SIGPROF while threads switch finds right frames, or an end")
{
    struct sigaction action = { .sa_sigaction = take_sample, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    struct itimerval every_ms = { { 0, 1000 }, { 0, 1000 } }, never = { { 0, 0 }, { 0, 0 } };
    const struct timespec pause = { 0, 20 * 1000 };
    time_t end = time(NULL) + SAMPLING_S + 1;
    pthread_t workers[WORKERS];

    prepare_walks();
    CHECK_INT(sigaction(SIGPROF, &action, NULL), 0);
    for (int i = 0; i < WORKERS; i++)
        CHECK_INT(pthread_create(&workers[i], NULL, work, NULL), 0);
    CHECK_INT(setitimer(ITIMER_PROF, &every_ms, NULL), 0);
    /* The timer samples a few hundred times a second; this adds thousands. */
    while (time(NULL) < end)
        for (int i = 0; i < WORKERS; i++) {
            pthread_kill(workers[i], SIGPROF);
            nanosleep(&pause, NULL);
        }
    CHECK_INT(setitimer(ITIMER_PROF, &never, NULL), 0);
    stop = 1;
    for (int i = 0; i < WORKERS; i++)
        CHECK_INT(pthread_join(workers[i], NULL), 0);
    fprintf(stderr, "%ld samples, %ld in the library, %ld in jobs; %ld walks end in code without "
            "unwind information, %ld are wrong\n",
            samples, samples_in_library, samples_in_jobs, ends, wrong);
    CHECK(samples > 100);
    CHECK_INT(wrong, 0);
}

/* ---- cancellation ---- */

static volatile int computing, cleaned;

static void note_cleanup(void *arg)
{
    (void)arg;
    cleaned++;
}

/* Calls nothing, so that it may be cancelled at any instruction. */
static int computes_for_ever(void *arg)
{
    (void)arg;
    pthread_cleanup_push(note_cleanup, NULL);
    CHECK_INT(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL), 0);
    while (computing < 1000 * 1000 * 1000)
        computing = 1;
    pthread_cleanup_pop(0);
    return 5;
}

static void *starts_it(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret;

    pthread_cleanup_push(note_cleanup, NULL);
    start_pausing_job(&job, ctx, &ret, 0, 5); /* the next one comes from the pool */
    ASYNC_start_job(&job, ctx, &ret, computes_for_ever, NULL, 0);
    pthread_cleanup_pop(0);
    return arg;
}

/* NOT_ON_...: AddressSanitizer and ThreadSanitizer do not follow a thread that ends in a job. */
CASE(asynchronous_cancellation_of_a_job, EVERYWHERE | NOT_ON_ASAN | NOT_ON_TSAN,
     "A job that only computes may be cancelled at any instruction: its cleanup handlers run, and "
     "those of its thread")
{
    for (int round = 0; round < 20; round++) {
        pthread_t thread;
        void *result;

        computing = cleaned = 0;
        CHECK_INT(pthread_create(&thread, NULL, starts_it, NULL), 0);
        while (!computing)
            sched_yield();
        CHECK_INT(pthread_cancel(thread), 0);
        CHECK_INT(pthread_join(thread, &result), 0);
        CHECK(result == PTHREAD_CANCELED);
        CHECK_INT(cleaned, 2);
    }
}
#endif
