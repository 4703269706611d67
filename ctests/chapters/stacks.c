/* stacks.c: what a job's stack holds and costs, and that leaving it faults. */
#include "process.h"
#include <alloca.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

/*
 * All of it is OURS: libcrypto's stacks are 32 KiB out of the heap, and a job that
 * needs more writes over its neighbours.
 */
enum { KIB = 1024, MIB = 1024 * KIB, DEFAULT_SIZE = 128 * KIB, GUARD = 64 * KIB };

/* What entering a job may take of its stack before func's first frame, and a call from it. */
enum { ENTRY = 2 * KIB, CALL = 8 * KIB };
/* What the library may have there for itself, beside the job's size. */
enum { OWN = 8 * KIB };

static size_t page(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* ---- jobs in numbers ---- */

static ASYNC_JOB *start(int (*func)(void *), void *args, size_t size)
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, func, args, size), ASYNC_PAUSE);
    return job;
}

static void finish(ASYNC_JOB *job, int want)
{
    int ret = -1;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, want);
}

/* Where the n'th of the jobs below has its frame. */
static char **frames;

static int note_frame(void *arg)
{
    int n = *(int *)arg;

    frames[n] = __builtin_frame_address(0);
    CHECK_INT(ASYNC_pause_job(), 1);
    return n;
}

static ASYNC_JOB **start_crowd(int count, int (*func)(void *))
{
    ASYNC_JOB **jobs = malloc((size_t)count * sizeof *jobs);
    int i;

    frames = calloc((size_t)count, sizeof *frames);
    CHECK(jobs != NULL && frames != NULL);
    memset(jobs, 0, (size_t)count * sizeof *jobs);
    for (i = 0; i < count; i++)
        jobs[i] = start(func, &i, sizeof i);
    return jobs;
}

static void finish_crowd(ASYNC_JOB **jobs, int count)
{
    int i;

    for (i = 0; i < count; i++)
        finish(jobs[i], i);
    ASYNC_cleanup_thread();
    free(jobs);
    free(frames);
}

/* ---- reading where a read may fault ---- */

static int probe[2] = { -1, -1 };

/* Whether there is memory at the address: the kernel reads it for us and does not fault. */
static int readable(const char *at)
{
    char byte;

    if (probe[0] == -1)
        CHECK_INT(pipe(probe), 0);
    if (write(probe[1], at, 1) != 1) {
        CHECK_INT(errno, EFAULT);
        return 0;
    }
    CHECK_INT(read(probe[0], &byte, 1), 1);
    return 1;
}

/* How many bytes from the frame's page down there is memory; limit is enough. */
static size_t depth_of(const char *frame, size_t limit)
{
    const char *at = (const char *)((uintptr_t)frame & ~(uintptr_t)(page() - 1));
    size_t depth = (size_t)(frame - at);

    while (depth <= limit && readable(at - 1)) {
        at -= page();
        depth += page();
    }
    return depth;
}

/* The stack of the frame has this size, and then there is nothing for 64 KiB. */
static void check_stack(const char *frame, size_t size)
{
    size_t depth = depth_of(frame, size + OWN), at;

    CHECK(depth >= size);
    CHECK(depth <= size + OWN);
    for (at = 1; at <= GUARD; at += page())
        CHECK(!readable(frame - depth - at));
    CHECK(!readable(frame - depth - GUARD));
}

/* ---- what a stack holds ---- */

__attribute__((noinline)) static void touch(size_t size)
{
    volatile char *block = alloca(size);
    size_t i;

    for (i = size; i-- > 0;)
        block[i] = 1;
}

static int use_stack_of(void *arg)
{
    size_t size = *(size_t *)arg, use = size - ENTRY - CALL, i;
    volatile unsigned char *block;

    touch(size - ENTRY);
    block = alloca(use);
    for (i = 0; i < use; i++)
        block[i] = (unsigned char)(i % 251);
    CHECK_INT(ASYNC_pause_job(), 1);
    for (i = 0; i < use; i++)
        CHECK(block[i] == i % 251);
    return 6;
}

CASE(a_job_has_128_kib, OURS,
     "a job can use 128 KiB of stack, and finds it as it was after a pause")
{
    size_t size = DEFAULT_SIZE;
    int i;

    /* The second job is on the first one's stack. */
    for (i = 0; i < 2; i++)
        finish(start(use_stack_of, &size, sizeof size), 6);
    ASYNC_cleanup_thread();
}

__attribute__((noinline)) static int recurse(int depth)
{
    volatile unsigned char block[512];
    size_t i;
    int below;

    memset((void *)block, depth & 0xff, sizeof block);
    below = depth == 0 ? ASYNC_pause_job() - 1 : recurse(depth - 1);
    for (i = 0; i < sizeof block; i++)
        CHECK(block[i] == (depth & 0xff));
    return below + 1;
}

static int use_recursion(void *arg)
{
    return recurse(*(int *)arg);
}

/* AddressSanitizer puts more around an array than 128 KiB hold of such frames. */
CASE(a_job_can_recurse, OURS | NOT_ON_ASAN,
     "200 frames of more than 512 bytes, with a pause in the last, come back whole")
{
    int depth = 199;

    finish(start(use_recursion, &depth, sizeof depth), 200);
    ASYNC_cleanup_thread();
}

/* valgrind's own way of handling memory stands between the program and the guards. */
CASE(each_stack_has_64_kib_of_guard, OURS | NOT_ON_VALGRIND,
     "below the 128 KiB of each of 300 stacks no byte of 64 KiB can be touched")
{
    ASYNC_JOB **jobs = start_crowd(300, note_frame);
    int i;

    for (i = 0; i < 300; i++)
        check_stack(frames[i], DEFAULT_SIZE);
    finish_crowd(jobs, 300);
}

CASE(a_used_stack_is_guarded_as_well, OURS | NOT_ON_VALGRIND,
     "stacks out of the pool, and those made after others were freed, have their guards")
{
    ASYNC_JOB **jobs;
    int i, round;

    for (round = 0; round < 3; round++) {
        jobs = start_crowd(100, note_frame);
        for (i = 0; i < 100; i++)
            finish(jobs[i], i);
        for (i = 0; i < 100; i++)
            jobs[i] = start(note_frame, &i, sizeof i);
        for (i = 0; i < 100; i++)
            check_stack(frames[i], DEFAULT_SIZE);
        finish_crowd(jobs, 100);
    }
}

/* ---- overflows ---- */

/*
 * Twenty jobs with nearly their whole stacks full of a pattern, and one in their middle
 * that recurses for ever. Whoever handles its fault looks at all the patterns.
 */
enum { NEIGHBOURS = 20, FILLED = 100 * KIB, PATTERN = 0xa5, HARMED = 3, FAR_AWAY = 4, GOOD = 5 };
static const unsigned char *filled[NEIGHBOURS];
static const char *victim_frame;

static int fill_stack(void *arg)
{
    unsigned char *block = alloca(FILLED);

    memset(block, PATTERN, FILLED);
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
    if (at > victim_frame || at < victim_frame - DEFAULT_SIZE - OWN - GUARD)
        _exit(FAR_AWAY);
    for (i = 0; i < NEIGHBOURS; i++)
        for (j = 0; filled[i] != NULL && j < FILLED; j++)
            if (filled[i][j] != PATTERN)
                _exit(HARMED);
    _exit(GOOD);
}

/* Frames of about size bytes, of which only the first written byte is touched. */
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
    /* Two MiB: past several neighbours, if nothing stops it. */
    overflow(size, (int)(2 * MIB / size));
    return 0;
}

static int only_pause(void *arg)
{
    CHECK_INT(ASYNC_pause_job(), 1);
    return *(int *)arg;
}

/* From now on every new mapping is locked; a fork undoes it in the child. */
static void lock_all_to_come(void)
{
    if (mlockall(MCL_FUTURE) != 0) {
        struct rlimit limit;

        CHECK_INT(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
        limit.rlim_cur = limit.rlim_max;
        CHECK_INT(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
        CHECK_INT(mlockall(MCL_FUTURE), 0);
    }
}

static size_t frame_size;
static int victim_at, locked;

static void overflow_among_neighbours(void)
{
    stack_t other = { 0 };
    struct sigaction action = { 0 };
    ASYNC_JOB *place, *job = NULL;
    int i, ret;

    other.ss_size = 64 * KIB;
    other.ss_sp = malloc(other.ss_size);
    CHECK_INT(sigaltstack(&other, NULL), 0);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_ONSTACK | SA_SIGINFO;
    CHECK_INT(sigaction(SIGSEGV, &action, NULL), 0);
    if (locked)
        lock_all_to_come();
    /* The victim gets the stack of a job that was started between the others. */
    for (i = 0; i < victim_at; i++)
        start(fill_stack, &i, sizeof i);
    place = start(only_pause, &i, sizeof i);
    for (; i < NEIGHBOURS; i++)
        start(fill_stack, &i, sizeof i);
    finish(place, victim_at);
    ASYNC_start_job(&job, NULL, &ret, be_victim, &frame_size, sizeof frame_size);
}

/*
 * Frames of 200 bytes to 60 KiB: each faults within the guard, and harms nobody. Whichever
 * way the stacks are laid out, some of the victims have a neighbour directly below.
 */
static void check_overflows(void)
{
    static const size_t sizes[] = { 200, 4 * KIB, 20 * KIB, 60 * KIB };
    size_t i;

    for (victim_at = 1; victim_at < NEIGHBOURS; victim_at += 3)
        for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            frame_size = sizes[i];
            CHECK_INT(check_child(overflow_among_neighbours, 0), -GOOD);
        }
}

/* A fault on purpose. */
CASE(an_overflow_faults, OURS | NOT_ON_VALGRIND,
     "recursion with small frames and with frames of 60 KiB faults below its own stack, "
     "and no other job's stack has changed")
{
    check_overflows();
}

static void overflow_unhandled(void)
{
    ASYNC_JOB *job = NULL;
    int ret;

    ASYNC_start_job(&job, NULL, &ret, be_victim, &frame_size, sizeof frame_size);
}

CASE(an_overflow_ends_the_process, OURS | NOT_ON_VALGRIND,
     "an overflow that nobody handles is SIGSEGV")
{
    frame_size = 200;
    CHECK_INT(check_child(overflow_unhandled, 1), SIGSEGV);
    frame_size = 60 * KIB;
    CHECK_INT(check_child(overflow_unhandled, 1), SIGSEGV);
}

/* ---- what a stack costs ---- */

/* What valgrind and the sanitizers note is the process's memory too. */
CASE(a_paused_job_costs_what_it_touched, OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "a thousand paused jobs that use little stack cost less than 16 KiB each")
{
    ASYNC_JOB **jobs;
    long before;

    finish_crowd(start_crowd(1, note_frame), 1);
    before = resident();
    jobs = start_crowd(1000, note_frame);
    CHECK(resident() - before < 1000L * 16 * KIB);
    finish_crowd(jobs, 1000);
}

CASE(an_idle_job_costs_as_little, OURS | NOT_ON_VALGRIND,
     "a thousand jobs that ASYNC_init_thread makes cost less than 16 KiB each")
{
    long before;

    finish_crowd(start_crowd(1, note_frame), 1);
    before = resident();
    CHECK_INT(ASYNC_init_thread(1000, 1000), 1);
    CHECK(resident() - before < 1000L * 16 * KIB);
    ASYNC_cleanup_thread();
}

static int touch_64_kib(void *arg)
{
    int n = *(int *)arg;
    volatile char *block = alloca(64 * KIB);
    size_t i;

    for (i = 0; i < 64 * KIB; i += 512)
        block[i] = (char)n;
    CHECK_INT(ASYNC_pause_job(), 1);
    return n;
}

/* As above. */
CASE(freed_stacks_go_back, OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "after ASYNC_cleanup_thread the memory of 5,000 stacks is the system's again")
{
    ASYNC_JOB **jobs;
    long before;

    finish_crowd(start_crowd(1, note_frame), 1);
    before = resident();
    jobs = start_crowd(5000, touch_64_kib);
    CHECK(resident() - before > 5000L * 64 * KIB);
    finish_crowd(jobs, 5000);
    CHECK(resident() - before <= MIB);
}

/* All that the process has mapped, in bytes: that of sanitizers is in it. */
static long mapped(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    long all;

    CHECK(f != NULL);
    CHECK_INT(fscanf(f, "%ld", &all), 1);
    fclose(f);
    return all * (long)page();
}

CASE(address_space_is_used_again, OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "jobs take address space for no more than twice their number; what was freed serves again, "
     "while a job is left beside it, and goes back with the last job")
{
    enum { COUNT = 5000, AGAIN = 4000 };
    ASYNC_JOB **jobs, **more;
    char **first_frames;
    long before, touched, with_one_left;

    finish_crowd(start_crowd(1, note_frame), 1);
    before = mapped();
    touched = resident();
    jobs = start_crowd(COUNT, touch_64_kib);
    CHECK(mapped() - before <= 2L * COUNT * (DEFAULT_SIZE + OWN + GUARD));
    for (int i = 0; i < COUNT - 1; i++)
        finish(jobs[i], i);
    ASYNC_cleanup_thread();
    CHECK(resident() - touched <= MIB);

    /* The last one's region has room for as many as there were before it, and some. */
    with_one_left = mapped();
    first_frames = frames;
    more = start_crowd(AGAIN, note_frame);
    CHECK(mapped() - with_one_left <= MIB);
    finish_crowd(more, AGAIN);
    finish(jobs[COUNT - 1], COUNT - 1);
    ASYNC_cleanup_thread();
    CHECK(mapped() - before <= MIB);
    free(jobs);
    free(first_frames);
}

/* ThreadSanitizer itself has no room there. */
CASE(scarce_address_space_is_taken_with_care, OURS | NOT_ON_VALGRIND | NOT_ON_TSAN,
     "where the process may have only so much address space, jobs take no more than they need")
{
    enum { COUNT = 300 };
    struct rlimit limit;
    ASYNC_JOB **jobs;
    long before = mapped();

    CHECK_INT(getrlimit(RLIMIT_AS, &limit), 0);
    limit.rlim_cur = (rlim_t)before + 256 * MIB;
    CHECK_INT(setrlimit(RLIMIT_AS, &limit), 0);
    jobs = start_crowd(COUNT, note_frame);
    CHECK(mapped() - before <= (COUNT + 4L) * (DEFAULT_SIZE + OWN + GUARD) + MIB);
    finish_crowd(jobs, COUNT);
}

/* Whether the kernel lists this flag for the mapping that the address is in. */
static int mapping_has(const char *address, const char *flag)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    uintptr_t start, end;
    int inside = 0;

    CHECK(f != NULL);
    while (fgets(line, sizeof line, f) != NULL) {
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2)
            inside = start <= (uintptr_t)address && (uintptr_t)address < end;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0)
            break;
    }
    fclose(f);
    CHECK(inside);
    return strstr(line, flag) != NULL;
}

/* A kernel without huge pages refuses the advice, and needs none. */
CASE(stacks_are_not_committed_by_the_kernel_either, OURS | NOT_ON_VALGRIND,
     "no memory is set aside for stacks that nobody has touched, nor are they huge pages")
{
    ASYNC_JOB **jobs = start_crowd(1, note_frame);

    CHECK(mapping_has(frames[0], " nr"));
    if (access("/sys/kernel/mm/transparent_hugepage", F_OK) == 0)
        CHECK(mapping_has(frames[0], " nh"));
    finish_crowd(jobs, 1);
}

CASE(locked_memory_is_committed_with_care, OURS | NOT_ON_VALGRIND,
     "under mlockall(MCL_FUTURE), which populates every mapping, a first job costs below 2 MiB")
{
    ASYNC_JOB **jobs;
    long before;

    resident();
    lock_all_to_come();
    before = resident();
    jobs = start_crowd(1, note_frame);
    CHECK(resident() - before < 2 * MIB);
    finish_crowd(jobs, 1);
}

CASE(locked_stacks_are_guarded, OURS | NOT_ON_VALGRIND,
     "under mlockall(MCL_FUTURE), where guard markers are refused, the guards are there")
{
    ASYNC_JOB **jobs;
    int i;

    locked = 1;
    check_overflows();
    lock_all_to_come();
    jobs = start_crowd(20, note_frame);
    for (i = 0; i < 20; i++)
        check_stack(frames[i], DEFAULT_SIZE);
    finish_crowd(jobs, 20);
}

CASE(memory_may_be_locked_later, OURS | NOT_ON_VALGRIND,
     "a process that locks its memory when it has jobs gets guarded stacks after that too")
{
    enum { CROWD = 60 };
    ASYNC_JOB **jobs = malloc(CROWD * sizeof *jobs);
    int i;

    frames = malloc(CROWD * sizeof *frames);
    CHECK(jobs != NULL && frames != NULL);
    for (i = 0; i < CROWD; i++) {
        if (i == 5)
            lock_all_to_come();
        jobs[i] = start(note_frame, &i, sizeof i);
    }
    for (i = 0; i < CROWD; i++)
        check_stack(frames[i], DEFAULT_SIZE);
    finish_crowd(jobs, CROWD);
}

/* ---- kernels with and without guard markers ---- */

enum { GUARD_INSTALL = 102 };

/* Whether this kernel has MADV_GUARD_INSTALL: Linux 6.13 and later. */
static int kernel_has_guard_markers(void)
{
    void *at = mmap(NULL, page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int has;

    CHECK(at != MAP_FAILED);
    has = madvise(at, page(), GUARD_INSTALL) == 0;
    CHECK_INT(munmap(at, page()), 0);
    return has;
}

/* From now on this process is on a kernel that has none. */
static void take_guard_markers_away(void)
{
#if defined(__x86_64__)
    enum { ARCH = AUDIT_ARCH_X86_64, MADVISE = 28 };
#elif defined(__aarch64__)
    enum { ARCH = AUDIT_ARCH_AARCH64, MADVISE = 233 };
#else
# error "the number of madvise is not known here"
#endif
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)ARCH, 0, 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MADVISE, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, GUARD_INSTALL, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };

    CHECK_INT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    CHECK_INT(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
    CHECK(!kernel_has_guard_markers());
}

CASE(without_guard_markers_stacks_are_guarded, OURS | NOT_ON_VALGRIND,
     "where the kernel has no MADV_GUARD_INSTALL overflows fault as well")
{
    ASYNC_JOB **jobs;
    int i;

    take_guard_markers_away();
    check_overflows();
    jobs = start_crowd(100, note_frame);
    for (i = 0; i < 100; i++)
        check_stack(frames[i], DEFAULT_SIZE);
    finish_crowd(jobs, 100);
}

#ifndef ON_LIBCRYPTO
static struct rsasync_stats stats(void)
{
    struct rsasync_stats now;

    RSASYNC_get_stats(&now, sizeof now);
    return now;
}

CASE(stacks_are_counted, OURS,
     "stacks_in_use counts those of paused, running and idle jobs, until they are freed")
{
    ASYNC_JOB **jobs;

    CHECK_INT(stats().stacks_in_use, 0);
    jobs = start_crowd(10, note_frame);
    CHECK_INT(stats().stacks_in_use, 10);
    finish(jobs[9], 9);
    CHECK_INT(stats().stacks_in_use, 10);
    CHECK_INT(stats().stacks_unguarded, 0);
    finish_crowd(jobs, 9);
    CHECK_INT(stats().stacks_in_use, 0);
}

CASE(stats_fit_programs_of_other_versions, OURS,
     "RSASYNC_get_stats writes as much as the program has room for: what both know, and then zeros")
{
    enum { ROOM = 2 * sizeof(struct rsasync_stats), UNTOUCHED = 0xaa };
    ASYNC_JOB **jobs = start_crowd(7, note_frame);
    struct rsasync_stats now = stats();
    unsigned char got[ROOM];

    CHECK_INT(now.stacks_in_use, 7);
    for (size_t size = 0; size <= ROOM; size++) {
        memset(got, UNTOUCHED, ROOM);
        RSASYNC_get_stats((struct rsasync_stats *)(void *)got, size);
        for (size_t i = 0; i < ROOM; i++) {
            unsigned char known = i < sizeof now ? ((unsigned char *)&now)[i] : 0;

            CHECK_INT(got[i], i < size ? known : UNTOUCHED);
        }
    }
    RSASYNC_get_stats(NULL, ROOM);
    finish_crowd(jobs, 7);
}

/* How many of the stacks have a guard: no fewer than rsasync says. */
static long check_guards(int count)
{
    long guarded = 0;
    int i;

    for (i = 0; i < count; i++)
        guarded += !readable((char *)((uintptr_t)frames[i] & ~(uintptr_t)(page() - 1))
                             - DEFAULT_SIZE - GUARD / 2);
    CHECK_INT(stats().stacks_in_use, count);
    CHECK(guarded >= count - (long)stats().stacks_unguarded);
    return guarded;
}

static void *give_back(void *arg)
{
    return arg;
}

/* 40,000 jobs where each guard costs a mapping or two of those that the kernel allows. */
static void check_crowd_past_the_map_limit(void)
{
    enum { CROWD = 40000 };
    ASYNC_JOB **jobs = start_crowd(CROWD, note_frame);
    FILE *f = fopen("/proc/sys/vm/max_map_count", "r");
    pthread_t thread;
    void *block, *result;
    long limit;

    CHECK(f != NULL);
    CHECK_INT(fscanf(f, "%ld", &limit), 1);
    fclose(f);
    CHECK(check_guards(CROWD) >= 15000);
    /* A guard is a mapping, and so is each stack between two. */
    if (limit < 2L * CROWD)
        CHECK(stats().stacks_unguarded > 0);
    else
        fprintf(stderr, "vm.max_map_count is %ld: it was not reached\n", limit);
    block = malloc(MIB);
    CHECK(block != NULL);
    memset(block, 1, MIB);
    free(block);
    CHECK_INT(pthread_create(&thread, NULL, give_back, &limit), 0);
    CHECK_INT(pthread_join(thread, &result), 0);
    CHECK(result == &limit);
    finish_crowd(jobs, CROWD);
    CHECK_INT(stats().stacks_in_use, 0);
    CHECK_INT(stats().stacks_unguarded, 0);

    /* What guards took is there for the next ones. */
    jobs = start_crowd(CROWD / 4, note_frame);
    CHECK_INT(stats().stacks_unguarded, 0);
    CHECK_INT(check_guards(CROWD / 4), CROWD / 4);
    finish_crowd(jobs, CROWD / 4);
}

CASE(past_the_map_limit_jobs_go_on, OURS | NOT_ON_VALGRIND | NOT_ON_TSAN,
     "without guard markers 40,000 paused jobs work, some unguarded and counted, and the "
     "process can still map memory and start threads")
{
    take_guard_markers_away();
    check_crowd_past_the_map_limit();
}

CASE(a_hundred_thousand_guarded_stacks, OURS | NOT_ON_VALGRIND | NOT_ON_TSAN,
     "where the kernel has guard markers 100,000 paused jobs are all guarded")
{
    enum { CROWD = 100000 };
    ASYNC_JOB **jobs;
    int i;

    if (!kernel_has_guard_markers()) {
        fprintf(stderr, "no MADV_GUARD_INSTALL here: what must hold is the other promise\n");
        check_crowd_past_the_map_limit();
        return;
    }
    jobs = start_crowd(CROWD, note_frame);
    CHECK_INT(stats().stacks_unguarded, 0);
    CHECK_INT(check_guards(CROWD), CROWD);
    for (i = 0; i < CROWD; i += 997)
        check_stack(frames[i], DEFAULT_SIZE);
    finish_crowd(jobs, CROWD);
    CHECK_INT(stats().stacks_in_use, 0);
}

/* The number of the process's mappings. */
static long mappings(void)
{
    FILE *f = fopen("/proc/self/maps", "r");
    long lines = 0;
    int c;

    CHECK(f != NULL);
    while ((c = getc(f)) != EOF)
        lines += c == '\n';
    fclose(f);
    return lines;
}

/* ThreadSanitizer takes mappings itself, here and below: for each job's fibre. */
CASE(guard_markers_take_no_mappings, OURS | NOT_ON_VALGRIND | NOT_ON_TSAN,
     "where the kernel has guard markers 20,000 jobs add no more than a few hundred mappings")
{
    enum { CROWD = 20000 };
    long before = mappings();
    ASYNC_JOB **jobs;

    if (!kernel_has_guard_markers()) {
        fprintf(stderr, "no MADV_GUARD_INSTALL here: what must hold is the other promise\n");
        check_crowd_past_the_map_limit();
        return;
    }
    jobs = start_crowd(CROWD, note_frame);
    CHECK(mappings() - before <= 300);
    CHECK_INT(stats().stacks_unguarded, 0);
    finish_crowd(jobs, CROWD);
}
#endif

/* ---- RSASYNC_STACK_SIZE ---- */

static size_t want_size;

static void check_stack_size(void)
{
    ASYNC_JOB **jobs;

    finish(start(use_stack_of, &want_size, sizeof want_size), 6);
    jobs = start_crowd(3, note_frame);
    check_stack(frames[0], want_size);
    check_stack(frames[2], want_size);
    finish_crowd(jobs, 3);
}

/* Runs check_stack_size in a child with this value; *message is what that says on stderr. */
static void with_stack_size(const char *value, size_t size, char *message, size_t space)
{
    int err = dup(2), out[2], ended;
    ssize_t length;

    want_size = size;
    if (value != NULL)
        CHECK_INT(setenv("RSASYNC_STACK_SIZE", value, 1), 0);
    else
        CHECK_INT(unsetenv("RSASYNC_STACK_SIZE"), 0);
    CHECK_INT(pipe(out), 0);
    CHECK_INT(dup2(out[1], 2), 2);
    CHECK_INT(close(out[1]), 0);
    ended = check_child(check_stack_size, 0);
    CHECK_INT(dup2(err, 2), 2);
    CHECK_INT(close(err), 0);
    length = read(out[0], message, space - 1);
    CHECK(length >= 0);
    message[length] = '\0';
    CHECK_INT(close(out[0]), 0);
    if (ended != 0)
        fprintf(stderr, "%s", message);
    CHECK_INT(ended, 0);
}

CASE(rsasync_stack_size_sets_it, OURS | NOT_ON_VALGRIND,
     "the variable is the stacks' size, in bytes or with K or M, and is not talked about")
{
    static const struct {
        const char *value;
        size_t size;
    } good[] = {
        { "16K", 16 * KIB }, { "64k", 64 * KIB }, { "256K", 256 * KIB }, { "262144", 256 * KIB },
        { "1M", MIB }, { "1m", MIB }, { "1024K", MIB }, { NULL, DEFAULT_SIZE },
    };
    char message[1024];
    size_t i;

    for (i = 0; i < sizeof good / sizeof *good; i++) {
        with_stack_size(good[i].value, good[i].size, message, sizeof message);
        CHECK_STR(message, "");
    }
}

CASE(rsasync_stack_size_may_be_1024m, OURS | NOT_ON_VALGRIND,
     "1024M is a size, and no typing error yet")
{
    ASYNC_JOB **jobs;

    CHECK_INT(setenv("RSASYNC_STACK_SIZE", "1024M", 1), 0);
    jobs = start_crowd(1, note_frame);
    CHECK(readable(frames[0] - 1024 * MIB + OWN));
    finish_crowd(jobs, 1);
}

CASE(rsasync_stack_size_is_read_once, OURS | NOT_ON_VALGRIND,
     "what a program sets when it has had a job changes nothing")
{
    ASYNC_JOB **jobs;

    CHECK_INT(unsetenv("RSASYNC_STACK_SIZE"), 0);
    finish_crowd(start_crowd(1, note_frame), 1);
    CHECK_INT(setenv("RSASYNC_STACK_SIZE", "32K", 1), 0);
    jobs = start_crowd(3, note_frame);
    check_stack(frames[2], DEFAULT_SIZE);
    finish_crowd(jobs, 3);
}

CASE(a_stack_size_that_is_nonsense_is_reported_once, OURS | NOT_ON_VALGRIND,
     "nonsense is one line on stderr that names the variable, and the default stands")
{
    static const char *const bad[] = {
        "abc", "-1", "0", "12Q", "99999999999999999999", "99999999999999999M", "", "K", "64KK",
        "128K and more", "+64K", "16383", "1025M", "1073741825",
        "18014398509482048K" /* 64 KiB, if what does not fit is cut off */
    };
    static const char name[] = "RSASYNC_STACK_SIZE";
    char message[1024], *at;
    size_t i;

    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        with_stack_size(bad[i], DEFAULT_SIZE, message, sizeof message);
        at = strstr(message, name);
        CHECK(at != NULL);
        CHECK(strstr(at + 1, name) == NULL);
        CHECK(strchr(message, '\n') == message + strlen(message) - 1);
    }
}
