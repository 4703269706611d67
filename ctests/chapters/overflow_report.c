/*
 * overflow_report.c: with RSASYNC_REPORT_OVERFLOW=1 a job that overflows its stack is named before
 * the process ends, as it would have without.
 */
#include "environment.h"
#include "jobs.h"
#include "process.h"
#include <alloca.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

/*
 * All cases are OURS: libcrypto's stacks have no guards. On valgrind, and with the sanitizers, which
 * handle faults themselves, there is no report.
 */
enum { REPORTS = OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN };

#ifndef ON_LIBCRYPTO
__attribute__((noinline)) static int recurse(int depth)
{
    volatile char *frame = alloca(1000);

    frame[0] = (char)depth;
    return depth == 0 ? 0 : recurse(depth - 1) + frame[0];
}

static int overflows(void *unused)
{
    (void)unused;
    return recurse(1000);
}

static int overflows_in_an_inner_job(void *unused)
{
    ASYNC_JOB *job = NULL;
    int ret;

    (void)unused;
    return ASYNC_start_job(&job, NULL, &ret, overflows, NULL, 0);
}

static void run_job(int (*func)(void *))
{
    ASYNC_JOB *job = NULL;
    int ret;

    ASYNC_start_job(&job, NULL, &ret, func, NULL, 0);
    CHECK(!"it has overflowed");
}

static void *overflows_on_a_thread(void *unused)
{
    run_job(overflows);
    return unused;
}

/* A job has run on another thread, which has ended, before. */
static void *finishes_a_job(void *unused)
{
    finish(paused_job(NULL, 1, 1), 1);
    return unused;
}

static void on_fault(int signal)
{
    (void)signal;
    _exit(42);
}

static void handle_faults(void)
{
    static char memory[64 << 10];
    const stack_t stack = { .ss_sp = memory, .ss_size = sizeof memory };
    struct sigaction action = { .sa_handler = on_fault, .sa_flags = SA_ONSTACK };

    CHECK_INT(sigaltstack(&stack, NULL), 0);
    CHECK_INT(sigaction(SIGSEGV, &action, NULL), 0);
}

/* What the process does that the case starts. */
static void act(const char *what)
{
    if (strcmp(what, "job") == 0)
        run_job(overflows);
    if (strcmp(what, "inner job") == 0)
        run_job(overflows_in_an_inner_job);
    if (strcmp(what, "thread") == 0) {
        on_new_thread(finishes_a_job, NULL);
        on_new_thread(overflows_on_a_thread, NULL);
    }
    if (strcmp(what, "handler") == 0) {
        handle_faults();
        run_job(overflows);
    }
    if (strcmp(what, "no job") == 0) {
        finishes_a_job(NULL);
        *(volatile char *)mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) = 1;
    }
    if (strcmp(what, "sent") == 0) {
        finishes_a_job(NULL);
        kill(getpid(), SIGSEGV);
    }
    CHECK(!"it goes on");
}

static char message[4096];

/* The status of a process that acts so, with RSASYNC_REPORT_OVERFLOW=value. */
static int status_of(const char *name, const char *value, const char *what)
{
    int status = status_with(name, "RSASYNC_REPORT_OVERFLOW", value, what, message,
                             sizeof message);

    fprintf(stderr, "%s: status %x, %s\n", what, (unsigned)status, message);
    return status;
}

static void check_report(const char *name, const char *what)
{
    int kib, larger, thread, end = 0;
    void *job, *function;

    CHECK_INT(WTERMSIG(status_of(name, "1", what)), SIGSEGV);
    sscanf(message, "rsasync: job %p overflowed its stack of %d KiB in thread %d; its function is "
           "%p; RSASYNC_STACK_SIZE=%dK gives jobs more\n%n", &job, &kib, &thread, &function, &larger,
           &end);
    CHECK_INT(end, strlen(message));
    CHECK(job != NULL && function != NULL);
    CHECK_INT(kib, 128);
    CHECK_INT(larger, 256);
}

CASE(an_overflow_names_its_job, REPORTS | NOT_EMULATED,
     "a line names the job that overflows, its size, and what to set; the process ends by SIGSEGV")
{
    if (runs_again_with() != NULL)
        act(runs_again_with());
    check_report(__func__, "job");
    check_report(__func__, "inner job");
    check_report(__func__, "thread");
}

CASE(no_overflow_is_reported_unless_asked_for, REPORTS | NOT_EMULATED,
     "without the variable, and with 0, an overflow ends the process without a line")
{
    if (runs_again_with() != NULL)
        act(runs_again_with());
    CHECK_INT(WTERMSIG(status_of(__func__, NULL, "job")), SIGSEGV);
    CHECK_STR(message, "");
    CHECK_INT(WTERMSIG(status_of(__func__, "0", "job")), SIGSEGV);
    CHECK_STR(message, "");
}

CASE(other_faults_end_the_process_silently, REPORTS | NOT_EMULATED,
     "a fault that is no overflow, and a SIGSEGV that somebody sends, end the process as ever")
{
    if (runs_again_with() != NULL)
        act(runs_again_with());
    CHECK_INT(WTERMSIG(status_of(__func__, "1", "no job")), SIGSEGV);
    CHECK_STR(message, "");
    CHECK_INT(WTERMSIG(status_of(__func__, "1", "sent")), SIGSEGV);
    CHECK_STR(message, "");
}

CASE(a_programs_own_handler_keeps_its_turn, REPORTS,
     "a handler that the program installs gets the fault")
{
    if (runs_again_with() != NULL)
        act(runs_again_with());
    CHECK_INT(WEXITSTATUS(status_of(__func__, "1", "handler")), 42);
}

static void *has_a_signal_stack_of_its_own(void *memory)
{
    const stack_t own = { .ss_sp = memory, .ss_size = 32 << 10 };
    stack_t now;

    CHECK_INT(sigaltstack(&own, NULL), 0);
    finishes_a_job(NULL);
    CHECK_INT(sigaltstack(NULL, &now), 0);
    CHECK(now.ss_sp == memory);
    return NULL;
}

static void *has_no_signal_stack(void *unused)
{
    stack_t now;

    CHECK_INT(sigaltstack(NULL, &now), 0);
    CHECK(now.ss_flags & SS_DISABLE);
    finishes_a_job(NULL);
    CHECK_INT(sigaltstack(NULL, &now), 0);
    CHECK(!(now.ss_flags & SS_DISABLE));
    return unused;
}

/* How many kilobytes of address space the process has. */
static long address_space(void)
{
    return statm().mapped / 1024;
}

CASE(threads_keep_their_signal_stacks, REPORTS | NOT_EMULATED,
     "a thread that has a stack for signal handlers keeps it; one that gets one leaves nothing behind")
{
    long before;

    if (runs_again_with() == NULL) {
        run_again_with(__func__, "RSASYNC_REPORT_OVERFLOW", "1");
        return;
    }
    on_new_thread(has_a_signal_stack_of_its_own, malloc(32 << 10));
    on_new_thread(has_no_signal_stack, NULL);
    before = address_space();
    for (int i = 0; i < 1000; i++)
        on_new_thread(has_no_signal_stack, NULL);
    CHECK(address_space() - before < 1000 * 64 / 4);
}
#endif
