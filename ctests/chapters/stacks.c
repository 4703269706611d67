/*
 * stacks.c: a job has 128 KiB of stack, or RSASYNC_STACK_SIZE. A stack costs the memory that was
 * touched, which goes back to the system with it.
 */
#include "environment.h"
#include "stacks.h"
#include <alloca.h>
#include <inttypes.h>

/*
 * All cases are OURS: libcrypto's stacks are 32 KiB of the heap, and a job that needs more
 * overwrites what lies below.
 */

/* What a job's entry may take of its stack above func's frame, and a call out of func below it. */
enum { ENTRY_BYTES = 2 * KIB, CALL_BYTES = 8 * KIB };

/* ---- what a stack holds ---- */

/* Writes size bytes of the stack, from the caller's frame down. */
__attribute__((noinline)) static void touch(size_t size)
{
    volatile char *block = alloca(size);
    size_t i;

    for (i = size; i-- > 0;)
        block[i] = 1;
}

static int use_stack_of(void *arg)
{
    size_t size = *(size_t *)arg, use = size - ENTRY_BYTES - CALL_BYTES, i;
    volatile unsigned char *block;

    touch(size - ENTRY_BYTES);
    block = alloca(use);
    for (i = 0; i < use; i++)
        block[i] = (unsigned char)(i % 251);
    CHECK_INT(ASYNC_pause_job(), 1);
    for (i = 0; i < use; i++)
        CHECK(block[i] == i % 251);
    return 6;
}

CASE(a_job_has_128_kib, OURS,
     "a job can use 128 KiB of stack, and finds it unchanged after a pause")
{
    size_t size = DEFAULT_BYTES;
    int i;

    /* The second job gets the first one's stack from the pool. */
    for (i = 0; i < 2; i++)
        finish(start_paused(use_stack_of, &size, sizeof size), 6);
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

/* AddressSanitizer makes each frame larger: 200 of them do not fit in 128 KiB. */
CASE(a_job_can_recurse, OURS | NOT_ON_ASAN,
     "200 nested frames of more than 512 bytes are unchanged after a pause in the innermost one")
{
    int depth = 199;

    finish(start_paused(use_recursion, &depth, sizeof depth), 200);
    ASYNC_cleanup_thread();
}

/* ---- what a stack costs ---- */

/* The bookkeeping of valgrind and the sanitizers is part of the process's memory. */
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

CASE(an_idle_job_costs_little, OURS | NOT_ON_VALGRIND,
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
CASE(freed_stacks_go_back_to_the_system,
     OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN | NOT_EMULATED,
     "ASYNC_cleanup_thread gives the memory of 5,000 idle jobs' stacks back to the system")
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

/* The mapped address space in bytes, that of valgrind and the sanitizers included. */
static long mapped(void)
{
    return statm().mapped;
}

/* The address space of a stack, with what the library has in it and the guard below it. */
#define SLOT_BYTES (long)(most_stack_bytes(DEFAULT_BYTES) + GUARD_BYTES)

CASE(address_space_is_reused, OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "address space is reserved for no more than twice the most jobs that there were at once; it "
     "stays reserved, and jobs made later use it again")
{
    enum { COUNT = 5000 };
    ASYNC_JOB **jobs;
    long before, reserved;
    int left;

    finish_crowd(start_crowd(1, note_frame), 1);
    before = mapped();
    finish_crowd(start_crowd(COUNT, note_frame), COUNT);
    reserved = mapped();
    CHECK(reserved - before <= 2 * COUNT * SLOT_BYTES);
    /* A second crowd comes when no job is left, and a third one when one is. */
    for (left = 0; left < 2; left++) {
        ASYNC_JOB *last = left ? paused_job(NULL, 1, 7) : NULL;

        jobs = start_crowd(COUNT - left, note_frame);
        CHECK(mapped() - reserved <= MIB);
        finish_crowd(jobs, COUNT - left);
        CHECK(mapped() - reserved <= MIB);
        if (left)
            finish(last, 7);
    }
    ASYNC_cleanup_thread();
}

CASE(page_tables_of_a_crowd_go_back, OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "when the last of a crowd's stacks is freed their page tables go back to the system, too")
{
    enum { COUNT = 5000, TABLE_BYTES = 4 * KIB, MAPPED_BY_TABLE = 2 * MIB };
    long before, in_use, crowds_kib = COUNT * SLOT_BYTES / MAPPED_BY_TABLE * TABLE_BYTES / KIB;
    ASYNC_JOB **jobs;
    int round;

    finish_crowd(start_crowd(1, note_frame), 1);
    before = kib("VmPTE:");
    for (round = 0; round < 3; round++) {
        jobs = start_crowd(COUNT, note_frame);
        in_use = kib("VmPTE:");
        CHECK(in_use - before >= crowds_kib * 9 / 10);
        finish_crowd(jobs, COUNT);
        /* The tables of the pointers to the jobs are among what is left. */
        CHECK(kib("VmPTE:") - before <= crowds_kib / 10);
    }
}

/* ThreadSanitizer needs more address space than this limit allows. */
CASE(limited_address_space_is_not_wasted, OURS | NOT_ON_VALGRIND | NOT_ON_TSAN | NOT_EMULATED,
     "under RLIMIT_AS jobs reserve address space for no more than an eighth more stacks, or four")
{
    enum { COUNT = 1000, SPARE = 4, SPARE_SHARE = 8 };
    struct rlimit limit;
    ASYNC_JOB **jobs = malloc(COUNT * sizeof *jobs);
    long before;
    int i;

    CHECK(jobs != NULL);
    frames = calloc(COUNT, sizeof *frames);
    CHECK(frames != NULL);
    before = mapped();
    CHECK_INT(getrlimit(RLIMIT_AS, &limit), 0);
    limit.rlim_cur = (rlim_t)(before + COUNT * SLOT_BYTES / 3 * 4);
    CHECK_INT(setrlimit(RLIMIT_AS, &limit), 0);
    for (i = 0; i < COUNT; i++) {
        jobs[i] = start_paused(note_frame, &i, sizeof i);
        CHECK(mapped() - before <= (i + 1L + i / SPARE_SHARE + SPARE) * SLOT_BYTES + MIB
              + 128 * (long)(page_bytes() - 4 * KIB));
    }
    finish_crowd(jobs, COUNT);
}

/* Whether /proc/self/smaps lists the flag for the mapping that the address is in. */
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

CASE(untouched_stacks_are_not_committed, OURS | NOT_ON_VALGRIND | NOT_EMULATED,
     "the mapping of stacks reserves no memory (MAP_NORESERVE), and has no huge pages")
{
    ASYNC_JOB **jobs = start_crowd(1, note_frame);

    CHECK(mapping_has(frames[0], " nr")); /* no reserve */
    /* A kernel without huge pages refuses the advice. */
    if (access("/sys/kernel/mm/transparent_hugepage", F_OK) == 0)
        CHECK(mapping_has(frames[0], " nh")); /* no huge pages */
    finish_crowd(jobs, 1);
}

CASE(a_first_job_costs_little_locked_memory, OURS | NOT_ON_VALGRIND,
     "under mlockall(MCL_FUTURE), which populates every mapping, a first job costs less than 2 MiB")
{
    ASYNC_JOB **jobs;
    long before;

    resident(); /* makes stdio's buffer and whatever else it needs */
    lock_future_mappings();
    before = resident();
    jobs = start_crowd(1, note_frame);
    CHECK(resident() - before < 2 * MIB);
    finish_crowd(jobs, 1);
}

CASE(a_crowd_freed_under_mlockall_costs_nothing,
     OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN | NOT_EMULATED,
     "a crowd made before mlockall(MCL_FUTURE), and freed after it, leaves no memory committed")
{
    enum { COUNT = 1000 };
    ASYNC_JOB **jobs;
    long before;

    finish_crowd(start_crowd(1, note_frame), 1);
    before = resident();
    jobs = start_crowd(COUNT, note_frame);
    lock_future_mappings();
    finish_crowd(jobs, COUNT);
    CHECK(resident() - before <= MIB);
}

/* Whether this kernel can give locked memory back: Linux 5.18 and later. */
static int locked_memory_can_go_back(void)
{
    enum { DONTNEED_LOCKED = 24 }; /* MADV_DONTNEED_LOCKED, which old headers do not have */
    void *at = mmap(NULL, page_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(at != MAP_FAILED);
    return madvise(at, page_bytes(), DONTNEED_LOCKED) == 0;
}

CASE(a_locked_crowd_goes_back_to_the_system, OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "a crowd made and freed under mlockall(MCL_FUTURE) leaves less than 8 MiB committed")
{
    enum { COUNT = 1000 };
    long before;

    if (!locked_memory_can_go_back()) {
        fprintf(stderr, "no MADV_DONTNEED_LOCKED: nothing to check\n");
        return;
    }
    resident(); /* makes stdio's buffer */
    lock_future_mappings();
    before = resident();
    finish_crowd(start_crowd(COUNT, note_frame), COUNT);
    CHECK(resident() - before < 8 * MIB);
}

#ifndef ON_LIBCRYPTO
CASE(stacks_are_counted, OURS,
     "stacks_in_use counts the stacks of paused and idle jobs until they are freed")
{
    ASYNC_JOB **jobs;

    CHECK_INT(stacks_in_use(), 0);
    jobs = start_crowd(10, note_frame);
    CHECK_INT(stacks_in_use(), 10);
    finish(jobs[9], 9);
    CHECK_INT(stacks_in_use(), 10);
    CHECK_INT(stacks_unguarded(), 0);
    finish_crowd(jobs, 9);
    CHECK_INT(stacks_in_use(), 0);
}

CASE(stats_fit_programs_of_other_versions, OURS,
     "RSASYNC_get_stats fills the size it is given: the fields that it knows, then zeros")
{
    enum { CAPACITY = 2 * sizeof(struct rsasync_stats), UNTOUCHED = 0xaa };
    ASYNC_JOB **jobs = start_crowd(7, note_frame);
    struct rsasync_stats now;
    unsigned char got[CAPACITY];

    RSASYNC_get_stats(&now, sizeof now);
    CHECK_INT(now.stacks_in_use, 7);
    for (size_t size = 0; size <= CAPACITY; size++) {
        memset(got, UNTOUCHED, CAPACITY);
        RSASYNC_get_stats((struct rsasync_stats *)(void *)got, size);
        for (size_t i = 0; i < CAPACITY; i++) {
            unsigned char known = i < sizeof now ? ((unsigned char *)&now)[i] : 0;

            CHECK_INT(got[i], i < size ? known : UNTOUCHED);
        }
    }
    RSASYNC_get_stats(NULL, CAPACITY);
    finish_crowd(jobs, 7);
}

#endif

/* ---- RSASYNC_STACK_SIZE ---- */

static void check_stack_size(size_t size)
{
    ASYNC_JOB **jobs;

    finish(start_paused(use_stack_of, &size, sizeof size), 6);
    jobs = start_crowd(3, note_frame);
    check_stack(frames[0], size);
    check_stack(frames[2], size);
    finish_crowd(jobs, 3);
}

/* In a case that runs again: stacks have the size that it passed, in bytes. */
static void check_stack_size_passed(void)
{
    check_stack_size((size_t)strtoull(runs_again_with(), NULL, 10));
}

/* Runs the case again with this value, to check that stacks have this size. */
static void run_again_to_check(const char *name, const char *value, size_t size, char *message,
                               size_t capacity)
{
    char with[24];

    snprintf(with, sizeof with, "%zu", size);
    run_again(name, value, with, message, capacity);
}

CASE(rsasync_stack_size_sets_it, OURS | NOT_ON_VALGRIND,
     "the variable sets the size of stacks, in bytes or with K or M; nothing is reported")
{
    static const struct {
        const char *value;
        size_t size;
    } good[] = {
        { "32K", 32 * KIB }, { "64k", 64 * KIB }, { "256K", 256 * KIB }, { "262144", 256 * KIB },
        { "1M", MIB }, { "1m", MIB }, { "1024K", MIB }, { NULL, DEFAULT_BYTES },
    };
    char message[1024];
    size_t i;

    if (runs_again_with() != NULL) {
        check_stack_size_passed();
        return;
    }
    for (i = 0; i < sizeof good / sizeof *good; i++) {
        run_again_to_check(__func__, good[i].value, good[i].size, message, sizeof message);
        CHECK_STR(message, "");
    }
}

CASE(rsasync_stack_size_may_be_1024m, OURS | NOT_ON_VALGRIND,
     "the largest size is 1024M")
{
    ASYNC_JOB **jobs;

    if (runs_again_with() == NULL) {
        run_again_silently(__func__, "1024M", "");
        return;
    }
    jobs = start_crowd(1, note_frame);
    CHECK(readable(frames[0] - 1024 * MIB + LIBRARY_BYTES));
    finish_crowd(jobs, 1);
}

CASE(rsasync_stack_size_is_read_once, OURS | NOT_ON_VALGRIND,
     "a value that the program sets itself changes nothing, before its first job or after it")
{
    CHECK_INT(setenv("RSASYNC_STACK_SIZE", "32K", 1), 0);
    check_stack_size(DEFAULT_BYTES);
    CHECK_INT(setenv("RSASYNC_STACK_SIZE", "64K", 1), 0);
    check_stack_size(DEFAULT_BYTES);
}

/* Overwrites each variable where the system has put it, as nginx does to set its title. */
static void overwrite_environment(void)
{
    char **variable;

    for (variable = environ; *variable != NULL; variable++)
        memset(*variable, 'x', strlen(*variable));
}

CASE(rsasync_stack_size_outlives_the_environment, OURS | NOT_ON_VALGRIND,
     "the variable counts where the program removes it, or empties or overwrites its environment, "
     "before its first job")
{
    static const char *const ways[] = { "removed", "none", "empty", "overwritten" };
    static char *empty[] = { NULL };
    const char *way = runs_again_with();
    size_t i;

    for (i = 0; way == NULL && i < sizeof ways / sizeof *ways; i++)
        run_again_silently(__func__, "48K", ways[i]);
    if (way == NULL)
        return;
    CHECK_STR(getenv("RSASYNC_STACK_SIZE"), "48K");
    if (strcmp(way, "removed") == 0)
        CHECK_INT(unsetenv("RSASYNC_STACK_SIZE"), 0);
    else if (strcmp(way, "none") == 0)
        environ = NULL;
    else if (strcmp(way, "empty") == 0)
        environ = empty;
    else
        overwrite_environment();
    CHECK(getenv("RSASYNC_STACK_SIZE") == NULL);
    check_stack_size(48 * KIB);
}

CASE(a_stack_size_that_is_nonsense_is_reported_once, OURS | NOT_ON_VALGRIND,
     "an invalid value is reported in one line on stderr that names the variable and quotes the "
     "value; the default stands")
{
    static const char *const bad[] = {
        "abc", "-1", "0", "12Q", "99999999999999999999", "99999999999999999M", "", "K", "64KK",
        "128K and more", "+64K", "16383", "1025M", "1073741825",
        "18014398509482048K" /* 64 KiB modulo 2^64 */
    };
    static const char name[] = "RSASYNC_STACK_SIZE";
    char message[1024], quoted[64], *at;
    size_t i;

    if (runs_again_with() != NULL) {
        overwrite_environment();
        check_stack_size(DEFAULT_BYTES);
        return;
    }
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        run_again_to_check(__func__, bad[i], DEFAULT_BYTES, message, sizeof message);
        snprintf(quoted, sizeof quoted, "%s=%s ", name, bad[i]);
        at = strstr(message, quoted);
        CHECK(at != NULL);
        CHECK(strstr(at + 1, name) == NULL);
        CHECK(strchr(message, '\n') == message + strlen(message) - 1);
    }
}
