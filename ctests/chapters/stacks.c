/*
 * stacks.c: a job has 128 KiB of stack, or RSASYNC_STACK_SIZE. A stack costs the memory that was
 * touched, which goes back to the system with it.
 */
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
CASE(freed_stacks_go_back_to_the_system, OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
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
    FILE *f = fopen("/proc/self/statm", "r");
    long all;

    CHECK(f != NULL);
    CHECK_INT(fscanf(f, "%ld", &all), 1);
    fclose(f);
    return all * (long)page_bytes();
}

CASE(address_space_is_reused, OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "jobs take address space for no more than twice their number; that of freed stacks is reused "
     "as long as another stack of its region is in use, and unmapped when none is")
{
    enum { COUNT = 5000, AGAIN = 4000 };
    ASYNC_JOB **jobs, **more;
    char **first_frames;
    long before, touched, with_one_left;

    finish_crowd(start_crowd(1, note_frame), 1);
    before = mapped();
    touched = resident();
    jobs = start_crowd(COUNT, touch_64_kib);
    CHECK(mapped() - before <= 2L * COUNT * (DEFAULT_BYTES + LIBRARY_BYTES + GUARD_BYTES));
    for (int i = 0; i < COUNT - 1; i++)
        finish(jobs[i], i);
    ASYNC_cleanup_thread();
    CHECK(resident() - touched <= MIB);

    /* The region of the one job left has room for AGAIN stacks. */
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

/* ThreadSanitizer needs more address space than this limit allows. */
CASE(limited_address_space_is_not_wasted, OURS | NOT_ON_VALGRIND | NOT_ON_TSAN,
     "under RLIMIT_AS jobs reserve no more address space than their stacks need")
{
    enum { COUNT = 300 };
    struct rlimit limit;
    ASYNC_JOB **jobs;
    long before = mapped();

    CHECK_INT(getrlimit(RLIMIT_AS, &limit), 0);
    limit.rlim_cur = (rlim_t)before + 256 * MIB;
    CHECK_INT(setrlimit(RLIMIT_AS, &limit), 0);
    jobs = start_crowd(COUNT, note_frame);
    CHECK(mapped() - before <= (COUNT + 4L) * (DEFAULT_BYTES + LIBRARY_BYTES + GUARD_BYTES) + MIB);
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

CASE(untouched_stacks_are_not_committed, OURS | NOT_ON_VALGRIND,
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

static size_t want_bytes;

static void check_stack_size(void)
{
    ASYNC_JOB **jobs;

    finish(start_paused(use_stack_of, &want_bytes, sizeof want_bytes), 6);
    jobs = start_crowd(3, note_frame);
    check_stack(frames[0], want_bytes);
    check_stack(frames[2], want_bytes);
    finish_crowd(jobs, 3);
}

/* Runs check_stack_size in a child with this value; message gets what the child has on stderr. */
static void with_stack_size(const char *value, size_t size, char *message, size_t capacity)
{
    int err = dup(2), out[2], ended;
    ssize_t length;

    want_bytes = size;
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
    length = read(out[0], message, capacity - 1);
    CHECK(length >= 0);
    message[length] = '\0';
    CHECK_INT(close(out[0]), 0);
    if (ended != 0)
        fprintf(stderr, "%s", message);
    CHECK_INT(ended, 0);
}

CASE(rsasync_stack_size_sets_it, OURS | NOT_ON_VALGRIND,
     "the variable sets the size of stacks, in bytes or with K or M; nothing is reported")
{
    static const struct {
        const char *value;
        size_t size;
    } good[] = {
        { "16K", 16 * KIB }, { "64k", 64 * KIB }, { "256K", 256 * KIB }, { "262144", 256 * KIB },
        { "1M", MIB }, { "1m", MIB }, { "1024K", MIB }, { NULL, DEFAULT_BYTES },
    };
    char message[1024];
    size_t i;

    for (i = 0; i < sizeof good / sizeof *good; i++) {
        with_stack_size(good[i].value, good[i].size, message, sizeof message);
        CHECK_STR(message, "");
    }
}

CASE(rsasync_stack_size_may_be_1024m, OURS | NOT_ON_VALGRIND,
     "the largest size is 1024M")
{
    ASYNC_JOB **jobs;

    CHECK_INT(setenv("RSASYNC_STACK_SIZE", "1024M", 1), 0);
    jobs = start_crowd(1, note_frame);
    CHECK(readable(frames[0] - 1024 * MIB + LIBRARY_BYTES));
    finish_crowd(jobs, 1);
}

CASE(rsasync_stack_size_is_read_once, OURS | NOT_ON_VALGRIND,
     "a value that the program sets after its first job changes nothing")
{
    ASYNC_JOB **jobs;

    CHECK_INT(unsetenv("RSASYNC_STACK_SIZE"), 0);
    finish_crowd(start_crowd(1, note_frame), 1);
    CHECK_INT(setenv("RSASYNC_STACK_SIZE", "32K", 1), 0);
    jobs = start_crowd(3, note_frame);
    check_stack(frames[2], DEFAULT_BYTES);
    finish_crowd(jobs, 3);
}

CASE(a_stack_size_that_is_nonsense_is_reported_once, OURS | NOT_ON_VALGRIND,
     "an invalid value is reported in one line on stderr that names the variable; the default "
     "stands")
{
    static const char *const bad[] = {
        "abc", "-1", "0", "12Q", "99999999999999999999", "99999999999999999M", "", "K", "64KK",
        "128K and more", "+64K", "16383", "1025M", "1073741825",
        "18014398509482048K" /* 64 KiB modulo 2^64 */
    };
    static const char name[] = "RSASYNC_STACK_SIZE";
    char message[1024], *at;
    size_t i;

    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        with_stack_size(bad[i], DEFAULT_BYTES, message, sizeof message);
        at = strstr(message, name);
        CHECK(at != NULL);
        CHECK(strstr(at + 1, name) == NULL);
        CHECK(strchr(message, '\n') == message + strlen(message) - 1);
    }
}
