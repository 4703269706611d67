/*
 * signals.c: a signal handler may ask for the current job, a handle's context, and a context's
 * callback and status, and may set the status, whatever it has interrupted: it never waits, and
 * never gets one callback with another's argument.
 */
#include "every_call.h"
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

/* ---- what a handler asks ---- */

static int one(void *arg)
{
    (void)arg;
    return 1;
}

static int other(void *arg)
{
    (void)arg;
    return 2;
}

static char ones_data, others_data, keys[20];

/* The context that the calls under test are about, and one that they leave alone. */
static ASYNC_WAIT_CTX *volatile subject, *volatile bystander;
/* Jobs of the two contexts, paused, and the handle of one that has finished. */
static ASYNC_JOB *volatile subjects_job, *volatile bystanders_job, *volatile stale;

/* How often the handler ran; how often it found each pair in `subject`, no pair, and a job. */
static atomic_long asked, found_one, found_other, found_none, found_in_job;

/* CHECK for handlers, which may have interrupted fprintf(). */
#define CHECK_IN_HANDLER(cond) \
    do { \
        if (!(cond)) \
            fail_in_handler("signals.c: in the handler CHECK failed: " #cond "\n"); \
    } while (0)

static void fail_in_handler(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        _exit(2);
    _exit(1);
}

/* The context has the pair (one, ones_data), (other, others_data), or none. */
static void ask_for_callback(ASYNC_WAIT_CTX *ctx, atomic_long *ones, atomic_long *others,
                             atomic_long *none)
{
    ASYNC_callback_fn callback = NULL;
    void *arg = NULL;

    if (ASYNC_WAIT_CTX_get_callback(ctx, &callback, &arg) == 0) {
        atomic_fetch_add(none, 1);
    } else if (callback == one) {
        CHECK_IN_HANDLER(arg == &ones_data);
        atomic_fetch_add(ones, 1);
    } else {
        CHECK_IN_HANDLER(callback == other);
        CHECK_IN_HANDLER(arg == &others_data);
        atomic_fetch_add(others, 1);
    }
}

static void ask_for_status(ASYNC_WAIT_CTX *ctx, int status)
{
    CHECK_IN_HANDLER(ASYNC_WAIT_CTX_set_status(ctx, status) == 1);
    status = ASYNC_WAIT_CTX_get_status(ctx);
    CHECK_IN_HANDLER(status >= 1 && status <= 1000); /* several threads may be here */
}

static void ask(void)
{
    ASYNC_JOB *job = ASYNC_get_current_job();
    ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(job);
    atomic_long ignored = 0;
    int status = 1 + (int)(atomic_fetch_add(&asked, 1) % 1000);

    if (job != NULL)
        atomic_fetch_add(&found_in_job, 1);
    if (ctx != NULL)
        CHECK_IN_HANDLER(ASYNC_WAIT_CTX_get_status(ctx) >= 0);
    if (subjects_job != NULL)
        CHECK_IN_HANDLER(ASYNC_get_wait_ctx(subjects_job) == subject);
    if (bystanders_job != NULL)
        CHECK_IN_HANDLER(ASYNC_get_wait_ctx(bystanders_job) == bystander);
    CHECK_IN_HANDLER(ASYNC_get_wait_ctx(stale) == NULL);
    if (subject != NULL) {
        ask_for_callback(subject, &found_one, &found_other, &found_none);
        ask_for_status(subject, status);
    }
    if (bystander != NULL) {
        ask_for_callback(bystander, &ignored, &ignored, &ignored);
        ask_for_status(bystander, status);
    }
}

static void handle(int signal)
{
    int saved = errno;

    (void)signal;
    ask();
    errno = saved;
}

static void is_late(int signal)
{
    (void)signal;
    fail_in_handler("signals.c: a handler, or what it has interrupted, hangs\n");
}

/* A handler that hangs ends the process with a message. */
static void prepare(void)
{
    ASYNC_JOB *job;

    CHECK(signal(SIGALRM, is_late) != SIG_ERR);
    alarm(60);
    subject = ASYNC_WAIT_CTX_new();
    bystander = ASYNC_WAIT_CTX_new();
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(bystander, other, &others_data), 1);
    subjects_job = paused_job(subject, 1, 3);
    bystanders_job = paused_job(bystander, 1, 3);
    job = paused_job(bystander, 1, 3);
    finish(job, 3);
    stale = job;
}

static void end(void)
{
    ASYNC_JOB *jobs[] = { subjects_job, bystanders_job };
    ASYNC_WAIT_CTX *contexts[] = { subject, bystander };

    subjects_job = bystanders_job = NULL;
    for (int i = 0; i < 2; i++)
        finish(jobs[i], 3);
    subject = bystander = NULL;
    for (int i = 0; i < 2; i++)
        ASYNC_WAIT_CTX_free(contexts[i]);
}

/* ---- the calls that it interrupts ---- */

/* Uses `subject` in all ways. */
static void use_the_context(void)
{
    int list[20];
    size_t count, deleted;
    OSSL_ASYNC_FD fd;

    for (int i = 0; i < 20; i++)
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(subject, &keys[i], i, NULL, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_fd(subject, &keys[7], &fd, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(subject, list, &count), 1);
    CHECK_INT(count, 20);
    finish(paused_job(subject, 1, 3), 3); /* clears the marks */
    for (int i = 0; i < 20; i++)
        CHECK_INT(ASYNC_WAIT_CTX_clear_fd(subject, &keys[i]), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(subject, NULL, &count, list, &deleted), 1);
    CHECK_INT(count, 0);
    CHECK_INT(deleted, 20);
    finish(paused_job(subject, 1, 3), 3); /* removes them */
}

static void set_callbacks(void)
{
    for (int i = 0; i < 10; i++) {
        ASYNC_callback_fn callback = NULL;
        void *arg = NULL;

        CHECK_INT(ASYNC_WAIT_CTX_set_callback(subject, one, &ones_data), 1);
        CHECK_INT(ASYNC_WAIT_CTX_set_callback(subject, other, &others_data), 1);
        CHECK_INT(ASYNC_WAIT_CTX_get_callback(subject, &callback, &arg), 1);
        CHECK(callback == other && arg == &others_data);
        CHECK_INT(ASYNC_WAIT_CTX_set_callback(subject, NULL, NULL), 1);
    }
}

static void make_and_free_contexts(void)
{
    ASYNC_WAIT_CTX *fresh[70];

    for (int i = 0; i < 70; i++) {
        fresh[i] = ASYNC_WAIT_CTX_new();
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(fresh[i], keys, i, NULL, NULL), 1);
        CHECK_INT(ASYNC_WAIT_CTX_set_callback(fresh[i], one, &ones_data), 1);
    }
    for (int i = 0; i < 70; i++)
        ASYNC_WAIT_CTX_free(fresh[i]);
}

static int runs_another(void *arg)
{
    ASYNC_JOB *self = ASYNC_get_current_job();

    (void)arg;
    ASYNC_block_pause();
    CHECK_INT(ASYNC_pause_job(), 1);
    ASYNC_unblock_pause();
    finish(paused_job(bystander, 1, 3), 3);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(ASYNC_get_current_job() == self);
    return 5;
}

static void use_jobs(void)
{
    ASYNC_JOB *job[8];
    char args[2000] = "";
    int ret = 0;

    for (int i = 0; i < 8; i++) {
        job[i] = NULL;
        CHECK_INT(ASYNC_start_job(&job[i], subject, &ret, runs_another, args,
                                  i % 2 == 0 ? sizeof args : 10), ASYNC_PAUSE);
    }
    check_resume_is_refused(stale);
    for (int i = 0; i < 8; i++)
        finish(job[i], 5);
    ASYNC_cleanup_thread();
    CHECK_INT(ASYNC_init_thread(5, 3), 1);
    CHECK_INT(ASYNC_init_thread(2, 3), 0);
    CHECK(error_was_queued());
    ASYNC_cleanup_thread();
}

static void (*const uses[])(void) = {
    use_the_context, set_callbacks, make_and_free_contexts, use_jobs, make_every_call,
};
enum { USES = sizeof uses / sizeof *uses };

#ifdef __x86_64__
/* ---- a handler after every instruction ---- */

/* The handler has met the states that it was to meet. */
static void check_what_was_found(void)
{
    CHECK(found_one > 0 && found_other > 0 && found_none > 0);
    CHECK(found_in_job > 0);
}

/* The trap flag: the processor raises SIGTRAP after each instruction, but in the handler. */
static const unsigned long long TRAP_FLAG = 0x100;

static void step_through(void (*use)(void))
{
    CHECK(signal(SIGTRAP, handle) != SIG_ERR);
    __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() | TRAP_FLAG);
    use();
    __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() & ~TRAP_FLAG);
    CHECK(signal(SIGTRAP, SIG_DFL) != SIG_ERR);
}

/*
 * valgrind has no trap flag. ThreadSanitizer's functions can't be called in themselves, and with
 * AddressSanitizer most steps are its own.
 */
enum { STEPPED = OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN };

CASE(a_handler_may_ask_after_every_instruction, STEPPED,
     "a handler that runs after every instruction of every call gets right answers and never waits")
{
    prepare();
    use_jobs(); /* at the first refusal libcrypto loads its texts, in a million instructions */
    for (int i = 0; i < USES; i++)
        step_through(uses[i]);
    check_what_was_found();
    end();
}

CASE(a_handler_may_ask_during_the_first_calls, STEPPED,
     "the same holds in the first calls of a process, and in the last ones for its contexts")
{
    step_through(prepare);
    step_through(end);
    CHECK(asked > 1000);
}
#endif

/* ---- handlers and threads at any time ---- */

static atomic_int is_over;

static long now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000L + now.tv_nsec / 1000000;
}

/*
 * One signal after the other. ThreadSanitizer keeps a signal for the fibre that it has interrupted,
 * and where that fibre ends the signal is gone with it: the next one is sent after 10 ms at most.
 */
static void *sends_signals(void *thread)
{
    while (!atomic_load(&is_over)) {
        long before = atomic_load(&asked), late = now_ms() + 10;

        CHECK_INT(pthread_kill(*(pthread_t *)thread, SIGUSR1), 0);
        while (atomic_load(&asked) == before && now_ms() < late && !atomic_load(&is_over))
            sched_yield();
    }
    return NULL;
}

/* ThreadSanitizer runs handlers only where it finds it safe. */
CASE(a_handler_may_ask_at_any_time, OURS,
     "a handler of signals that another thread sends gets right answers and never waits")
{
    pthread_t self = pthread_self(), sender;
    long stop;

    prepare();
    CHECK(signal(SIGUSR1, handle) != SIG_ERR);
    CHECK_INT(pthread_create(&sender, NULL, sends_signals, &self), 0);
    stop = now_ms() + 1000;
    while (now_ms() < stop || atomic_load(&asked) == 0)
        for (int i = 0; i < USES; i++)
            uses[i]();
    atomic_store(&is_over, 1);
    CHECK_INT(pthread_join(sender, NULL), 0);
    CHECK(signal(SIGUSR1, SIG_IGN) != SIG_ERR);
    end();
}

static void *asks(void *arg)
{
    while (!atomic_load(&is_over))
        ask();
    return arg;
}

static void *sets_fds(void *arg)
{
    while (!atomic_load(&is_over)) {
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(bystander, keys, 1, NULL, NULL), 1);
        CHECK_INT(ASYNC_WAIT_CTX_clear_fd(bystander, keys), 1);
    }
    return arg;
}

CASE(a_callback_comes_with_its_argument, OURS,
     "while a thread sets one pair of callback and argument after the other, others read whole "
     "pairs")
{
    pthread_t thread[3];
    long stop;

    prepare();
    CHECK_INT(pthread_create(&thread[0], NULL, asks, NULL), 0);
    CHECK_INT(pthread_create(&thread[1], NULL, asks, NULL), 0);
    CHECK_INT(pthread_create(&thread[2], NULL, sets_fds, NULL), 0);
    stop = now_ms() + 1000;
    while (now_ms() < stop || atomic_load(&asked) == 0)
        set_callbacks();
    atomic_store(&is_over, 1);
    for (int i = 0; i < 3; i++)
        CHECK_INT(pthread_join(thread[i], NULL), 0);
    end();
}
