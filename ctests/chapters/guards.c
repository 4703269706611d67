/*
 * guards.c: below each stack lie 64 KiB of inaccessible memory. An overflow faults there and never
 * reaches another job's stack, with and without guard markers (MADV_GUARD_INSTALL) in the kernel.
 */
#include "stacks.h"
#include "seccomp.h"
#include <alloca.h>
#include <signal.h>

/* All cases are OURS: libcrypto's stacks have no guards. */

/* On valgrind there is none: its own management of memory replaces the kernel's. */
CASE(each_stack_has_64_kib_of_guard, OURS | NOT_ON_VALGRIND,
     "no page of the 64 KiB below each of 300 stacks can be read")
{
    ASYNC_JOB **jobs = start_crowd(300, note_frame);
    int i;

    for (i = 0; i < 300; i++)
        check_stack(frames[i], DEFAULT_BYTES);
    finish_crowd(jobs, 300);
}

CASE(a_reused_stack_is_guarded, OURS | NOT_ON_VALGRIND,
     "stacks from the pool, and those made in place of freed ones, have their guards")
{
    ASYNC_JOB **jobs;
    int i, round;

    for (round = 0; round < 3; round++) {
        jobs = start_crowd(100, note_frame);
        for (i = 0; i < 100; i++)
            finish(jobs[i], i);
        for (i = 0; i < 100; i++)
            jobs[i] = start_paused(note_frame, &i, sizeof i);
        for (i = 0; i < 100; i++)
            check_stack(frames[i], DEFAULT_BYTES);
        finish_crowd(jobs, 100);
    }
}

/* ---- overflows ---- */

/*
 * Twenty jobs fill nearly their whole stacks with a pattern; the victim, a job whose stack is among
 * theirs, overflows. The handler of the fault checks its address and all patterns.
 */
enum { NEIGHBOURS = 20, FILLED_BYTES = 100 * KIB, PATTERN = 0xa5 };
/* The exit status of the handler. */
enum { PATTERN_CHANGED = 3, WRONG_ADDRESS = 4, GOOD = 5 };
static const unsigned char *filled[NEIGHBOURS];
static const char *victim_frame;

static int fill_stack(void *arg)
{
    unsigned char *block = alloca(FILLED_BYTES);

    memset(block, PATTERN, FILLED_BYTES);
    filled[*(int *)arg] = block;
    ASYNC_pause_job();
    return 0;
}

static void on_fault(int signal_number, siginfo_t *info, void *context)
{
    const char *at = info->si_addr;
    size_t i, j;

    (void)signal_number;
    (void)context;
    if (at > victim_frame || at < victim_frame - most_stack_bytes(DEFAULT_BYTES) - GUARD_BYTES)
        _exit(WRONG_ADDRESS);
    for (i = 0; i < NEIGHBOURS; i++)
        for (j = 0; filled[i] != NULL && j < FILLED_BYTES; j++)
            if (filled[i][j] != PATTERN)
                _exit(PATTERN_CHANGED);
    _exit(GOOD);
}

/* Recurses in frames of about size bytes, of which it touches only the lowest. */
__attribute__((noinline)) static int overflow(size_t size, int depth)
{
    volatile char *frame = alloca(size);

    frame[0] = 1;
    return depth == 0 ? 0 : overflow(size, depth - 1) + frame[0];
}

static int be_victim(void *arg)
{
    size_t size = *(size_t *)arg;

    victim_frame = __builtin_frame_address(0);
    /* 2 MiB lead past several neighbours if nothing stops it. */
    overflow(size, (int)(2 * MIB / size));
    return 0;
}

static int only_pause(void *arg)
{
    CHECK_INT(ASYNC_pause_job(), 1);
    return *(int *)arg;
}

/* Which overflow; whether the process locks its memory before. */
static size_t frame_bytes;
static int victim_at, locked;

static void overflow_among_neighbours(void)
{
    stack_t other = { 0 };
    struct sigaction action = { 0 };
    ASYNC_JOB *placeholder, *job = NULL;
    int i, ret;

    other.ss_size = 64 * KIB;
    other.ss_sp = malloc(other.ss_size);
    CHECK_INT(sigaltstack(&other, NULL), 0);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_ONSTACK | SA_SIGINFO;
    CHECK_INT(sigaction(SIGSEGV, &action, NULL), 0);
    if (locked)
        lock_future_mappings();
    /* The victim gets the stack of a job that was started between the others and has finished. */
    for (i = 0; i < victim_at; i++)
        start_paused(fill_stack, &i, sizeof i);
    placeholder = start_paused(only_pause, &i, sizeof i);
    for (; i < NEIGHBOURS; i++)
        start_paused(fill_stack, &i, sizeof i);
    finish(placeholder, victim_at);
    ASYNC_start_job(&job, NULL, &ret, be_victim, &frame_bytes, sizeof frame_bytes);
}

/*
 * Overflows with frames of 200 bytes to 60 KiB fault within the guard and change no other stack.
 * In whatever order stacks lie in memory, some of the victims have a neighbour directly below.
 */
static void check_overflows(void)
{
    static const size_t sizes[] = { 200, 4 * KIB, 20 * KIB, 60 * KIB };
    size_t i;

    for (victim_at = 1; victim_at < NEIGHBOURS; victim_at += 3)
        for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            frame_bytes = sizes[i];
            CHECK_INT(check_child(overflow_among_neighbours, 0), -GOOD);
        }
}

CASE(an_overflow_faults, OURS | NOT_ON_VALGRIND,
     "endless recursion with frames of up to 60 KiB faults in its stack's guard and changes no "
     "other job's stack")
{
    check_overflows();
}

static void overflow_unhandled(void)
{
    ASYNC_JOB *job = NULL;
    int ret;

    ASYNC_start_job(&job, NULL, &ret, be_victim, &frame_bytes, sizeof frame_bytes);
}

CASE(an_overflow_ends_the_process, OURS | NOT_ON_VALGRIND,
     "an overflow ends a process without a handler by SIGSEGV")
{
    frame_bytes = 200;
    CHECK_INT(check_child(overflow_unhandled, 1), SIGSEGV);
    frame_bytes = 60 * KIB;
    CHECK_INT(check_child(overflow_unhandled, 1), SIGSEGV);
}

CASE(locked_stacks_are_guarded, OURS | NOT_ON_VALGRIND,
     "under mlockall(MCL_FUTURE), where the kernel refuses guard markers, stacks are guarded")
{
    ASYNC_JOB **jobs;
    int i;

    locked = 1;
    check_overflows();
    lock_future_mappings();
    jobs = start_crowd(20, note_frame);
    for (i = 0; i < 20; i++)
        check_stack(frames[i], DEFAULT_BYTES);
    finish_crowd(jobs, 20);
}

CASE(stacks_made_after_mlockall_are_guarded, OURS | NOT_ON_VALGRIND,
     "a process that has jobs, and then locks its memory, still gets guarded stacks")
{
    enum { CROWD = 60 };
    ASYNC_JOB **jobs = malloc(CROWD * sizeof *jobs);
    int i;

    frames = malloc(CROWD * sizeof *frames);
    CHECK(jobs != NULL && frames != NULL);
    for (i = 0; i < CROWD; i++) {
        if (i == 5)
            lock_future_mappings();
        jobs[i] = start_paused(note_frame, &i, sizeof i);
    }
    for (i = 0; i < CROWD; i++)
        check_stack(frames[i], DEFAULT_BYTES);
    finish_crowd(jobs, CROWD);
}

/* ---- kernels with and without guard markers ---- */

/* As lock_future_mappings does it. */
static void lock_mappings(int which)
{
    struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };

    setrlimit(RLIMIT_MEMLOCK, &all);
    CHECK_INT(mlockall(which), 0);
}

/*
 * From here on the kernel refuses guard markers, like one before 6.13: a seccomp filter answers
 * madvise(..., MADV_GUARD_INSTALL) with EINVAL.
 */
static void disable_guard_markers(void)
{
    answer_advice(GUARD_INSTALL, EINVAL);
    CHECK(!kernel_has_guard_markers());
}

CASE(without_guard_markers_stacks_are_guarded, OURS | NOT_ON_VALGRIND | NOT_EMULATED,
     "on a kernel without MADV_GUARD_INSTALL every stack is guarded, and overflows fault")
{
    ASYNC_JOB **jobs;
    int i;

    disable_guard_markers();
    check_overflows();
    jobs = start_crowd(100, note_frame);
    for (i = 0; i < 100; i++)
        check_stack(frames[i], DEFAULT_BYTES);
    finish_crowd(jobs, 100);
}

CASE(markers_that_do_nothing_are_no_guards, OURS | NOT_ON_VALGRIND | NOT_EMULATED,
     "where the system accepts guard markers and does nothing, as some emulators do, every stack "
     "is guarded, and overflows fault")
{
    ASYNC_JOB **jobs;
    int i;

    answer_advice(GUARD_INSTALL, 0);
    check_overflows();
    jobs = start_crowd(100, note_frame);
    for (i = 0; i < 100; i++)
        check_stack(frames[i], DEFAULT_BYTES);
    finish_crowd(jobs, 100);
}

/* In a crowd the library installs many guards in one call, where it can. */
static void check_guards_of_a_crowd(void)
{
    enum { CROWD = 700 };
    ASYNC_JOB **jobs = start_crowd(CROWD, note_frame);

    for (int i = 0; i < CROWD; i++)
        check_stack(frames[i], DEFAULT_BYTES);
    finish_crowd(jobs, CROWD);
}

CASE(the_stacks_of_a_crowd_are_guarded, OURS | NOT_ON_VALGRIND,
     "each of 700 stacks is guarded, of a first crowd and of a second one")
{
    check_guards_of_a_crowd();
    check_guards_of_a_crowd();
}

static void answer_process_madvise(unsigned action)
{
    static const int call = SYS_process_madvise;

    filter_calls(&call, 1, action, SECCOMP_RET_ALLOW);
}

CASE(a_crowd_is_guarded_without_process_madvise, OURS | NOT_ON_VALGRIND | NOT_EMULATED,
     "so it is where the kernel, or a filter, refuses process_madvise")
{
    answer_process_madvise(SECCOMP_RET_ERRNO | EPERM);
    check_guards_of_a_crowd();
}

CASE(a_crowd_is_guarded_where_process_madvise_does_nothing, OURS | NOT_ON_VALGRIND | NOT_EMULATED,
     "so it is where the system accepts process_madvise and does nothing")
{
    answer_process_madvise(SECCOMP_RET_ERRNO | 0);
    check_guards_of_a_crowd();
}

CASE(stacks_made_after_mlockall_of_what_is_there_are_guarded, OURS | NOT_ON_VALGRIND,
     "mlockall(MCL_CURRENT) leaves the guards that there are, and later stacks have guards")
{
    enum { CROWD = 60 };
    ASYNC_JOB **jobs = malloc(CROWD * sizeof *jobs);
    int i;

    frames = malloc(CROWD * sizeof *frames);
    CHECK(jobs != NULL && frames != NULL);
    for (i = 0; i < CROWD; i++) {
        if (i == 5)
            lock_mappings(MCL_CURRENT);
        jobs[i] = start_paused(note_frame, &i, sizeof i);
    }
    for (i = 0; i < CROWD; i++)
        check_stack(frames[i], DEFAULT_BYTES);
    finish_crowd(jobs, CROWD);
}

/* The kernel stops at the first marker of a mapping. */
CASE(locking_memory_commits_no_stack,
     OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN | NOT_EMULATED,
     "on a kernel with guard markers mlockall(MCL_CURRENT) commits nothing of 1,000 jobs' stacks; "
     "what is touched later is locked then")
{
    enum { CROWD = 1000 };
    ASYNC_JOB **jobs;
    long before, locked_pages;

    if (!kernel_has_guard_markers()) {
        fprintf(stderr, "no MADV_GUARD_INSTALL: nothing to check\n");
        return;
    }
    finish_crowd(start_crowd(1, note_frame), 1);
    jobs = start_crowd(CROWD, note_frame);
    before = resident();
    lock_mappings(MCL_CURRENT);
    locked_pages = resident();
    fprintf(stderr, "mlockall commits %ld KiB\n", (locked_pages - before) / KIB);
    CHECK(locked_pages - before <= 16 * MIB);
    finish_crowd(jobs, CROWD);
}

#ifndef ON_LIBCRYPTO
/* The number of a crowd's stacks with a guard: no fewer than the library counts. */
static long count_guards(int count)
{
    long guarded = 0;
    int i;

    for (i = 0; i < count; i++)
        guarded += !readable((char *)((uintptr_t)frames[i] & ~(uintptr_t)(page_bytes() - 1))
                             - DEFAULT_BYTES - GUARD_BYTES / 2);
    CHECK_INT(stacks_in_use(), count);
    CHECK(guarded >= count - (long)stacks_unguarded());
    return guarded;
}

static void *return_its_argument(void *arg)
{
    return arg;
}

/*
 * 40,000 jobs, each of whose guards costs one or two of the mappings that a process may have
 * (vm.max_map_count).
 */
static void check_crowd_past_the_map_limit(void)
{
    enum { CROWD = 40000 };
    ASYNC_JOB **jobs = start_crowd(CROWD, note_frame);
    pthread_t thread;
    void *block, *result;
    long limit = max_mappings();

    CHECK(count_guards(CROWD) >= 15000);
    /* A guard is a mapping, and so is each stack between two guards. */
    if (limit < 2L * CROWD)
        CHECK(stacks_unguarded() > 0);
    else
        fprintf(stderr, "vm.max_map_count is %ld, too many for this crowd to reach\n", limit);
    /* The library has left mappings to the program. */
    block = malloc(MIB);
    CHECK(block != NULL);
    memset(block, 1, MIB);
    free(block);
    CHECK_INT(pthread_create(&thread, NULL, return_its_argument, &limit), 0);
    CHECK_INT(pthread_join(thread, &result), 0);
    CHECK(result == &limit);
    finish_crowd(jobs, CROWD);
    CHECK_INT(stacks_in_use(), 0);
    CHECK_INT(stacks_unguarded(), 0);

    /* The mappings that the guards took are free again. */
    jobs = start_crowd(CROWD / 4, note_frame);
    CHECK_INT(stacks_unguarded(), 0);
    CHECK_INT(count_guards(CROWD / 4), CROWD / 4);
    finish_crowd(jobs, CROWD / 4);
}

CASE(past_the_map_limit_jobs_go_on, OURS | NOT_ON_VALGRIND | NOT_ON_TSAN | NOT_EMULATED,
     "without guard markers 40,000 paused jobs work, some on unguarded stacks, which are counted; "
     "the process can still map memory and start threads")
{
    disable_guard_markers();
    check_crowd_past_the_map_limit();
}

CASE(past_the_map_limit_with_markers_that_do_nothing,
     OURS | NOT_ON_VALGRIND | NOT_ON_TSAN | NOT_EMULATED,
     "where markers do nothing 40,000 paused jobs work, some on unguarded stacks, which are "
     "counted")
{
    answer_advice(GUARD_INSTALL, 0);
    check_crowd_past_the_map_limit();
}

CASE(a_hundred_thousand_guarded_stacks, OURS | NOT_ON_VALGRIND | NOT_ON_TSAN | NOT_EMULATED,
     "on a kernel with guard markers the stacks of 100,000 paused jobs are all guarded")
{
    enum { CROWD = 100000 };
    ASYNC_JOB **jobs;
    int i;

    if (!kernel_has_guard_markers()) {
        fprintf(stderr, "no MADV_GUARD_INSTALL: checked what holds without it\n");
        check_crowd_past_the_map_limit();
        return;
    }
    jobs = start_crowd(CROWD, note_frame);
    CHECK_INT(stacks_unguarded(), 0);
    CHECK_INT(count_guards(CROWD), CROWD);
    for (i = 0; i < CROWD; i += 997)
        check_stack(frames[i], DEFAULT_BYTES);
    finish_crowd(jobs, CROWD);
    CHECK_INT(stacks_in_use(), 0);
}

/* ThreadSanitizer has mappings of its own for each job's fibre. */
CASE(guard_markers_take_no_mappings, OURS | NOT_ON_VALGRIND | NOT_ON_TSAN | NOT_EMULATED,
     "on a kernel with guard markers 20,000 jobs add no more than 300 mappings")
{
    enum { CROWD = 20000 };
    long before = mappings();
    ASYNC_JOB **jobs;

    if (!kernel_has_guard_markers()) {
        fprintf(stderr, "no MADV_GUARD_INSTALL: checked what holds without it\n");
        check_crowd_past_the_map_limit();
        return;
    }
    jobs = start_crowd(CROWD, note_frame);
    CHECK(mappings() - before <= 300);
    CHECK_INT(stacks_unguarded(), 0);
    finish_crowd(jobs, CROWD);
}
#endif
