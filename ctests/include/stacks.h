/* stacks.h: crowds of paused jobs, the memory of their stacks, and the guards below it. */
#ifndef STACKS_H
#define STACKS_H

#include "jobs.h"
#include "process.h"
#include <sys/mman.h>
#include <sys/resource.h>

enum { KIB = 1024, MIB = 1024 * KIB };
/* What a job can use of its stack by default, and what the library may have there besides. */
enum { DEFAULT_BYTES = 128 * KIB, LIBRARY_BYTES = 8 * KIB };

__attribute__((unused)) static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* The most that a stack of this size may have, in whole pages. */
__attribute__((unused)) static size_t most_stack_bytes(size_t size)
{
    return (size + LIBRARY_BYTES + page_bytes() - 1) / page_bytes() * page_bytes();
}

/* A job at its first pause; func gets a copy of args. */
__attribute__((unused))
static ASYNC_JOB *start_paused(int (*func)(void *), void *args, size_t size)
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, func, args, size), ASYNC_PAUSE);
    return job;
}

/* ---- crowds ---- */

/* The address of the frame of each job in a crowd, by the job's number. */
__attribute__((unused)) static char **frames;

/* The function of a job in a crowd. It returns the job's number, which is its argument. */
__attribute__((unused)) static int note_frame(void *arg)
{
    int n = *(int *)arg;

    frames[n] = __builtin_frame_address(0);
    CHECK_INT(ASYNC_pause_job(), 1);
    return n;
}

__attribute__((unused)) static ASYNC_JOB **start_crowd(int count, int (*func)(void *))
{
    ASYNC_JOB **jobs = malloc((size_t)count * sizeof *jobs);
    int i;

    frames = calloc((size_t)count, sizeof *frames);
    CHECK(jobs != NULL && frames != NULL);
    for (i = 0; i < count; i++)
        jobs[i] = start_paused(func, &i, sizeof i);
    return jobs;
}

__attribute__((unused)) static void finish_crowd(ASYNC_JOB **jobs, int count)
{
    int i;

    for (i = 0; i < count; i++)
        finish(jobs[i], i);
    ASYNC_cleanup_thread();
    free(jobs);
    free(frames);
}

#ifndef ON_LIBCRYPTO
__attribute__((unused)) static int stacks_unguarded(void)
{
    return (int)current_stats().stacks_unguarded;
}
#endif

/* The number of the process's mappings. */
__attribute__((unused)) static long mappings(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    long lines = 0;
    int c;

    CHECK(maps != NULL);
    while ((c = getc(maps)) != EOF)
        lines += c == '\n';
    fclose(maps);
    return lines;
}

/* How many mappings the kernel allows a process. */
__attribute__((unused)) static long max_mappings(void)
{
    FILE *sysctl = fopen("/proc/sys/vm/max_map_count", "r");
    long limit;

    CHECK(sysctl != NULL);
    CHECK_INT(fscanf(sysctl, "%ld", &limit), 1);
    fclose(sysctl);
    return limit;
}

/* ---- guards, and other memory that is inaccessible ---- */

enum { GUARD_INSTALL = 102 }; /* MADV_GUARD_INSTALL, which old headers do not have */

/* Whether this kernel has guard markers: Linux 6.13 and later. */
__attribute__((unused)) static int kernel_has_guard_markers(void)
{
    void *at = mmap(NULL, page_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int has;

    CHECK(at != MAP_FAILED);
    has = madvise(at, page_bytes(), GUARD_INSTALL) == 0;
    CHECK_INT(munmap(at, page_bytes()), 0);
    return has;
}

/* Whether a byte can be read. The kernel reads it for write(), which fails where a load faults. */
__attribute__((unused)) static int readable(const char *at)
{
    static int ends[2] = { -1, -1 };
    char byte;

    if (ends[0] == -1)
        CHECK_INT(pipe(ends), 0);
    if (write(ends[1], at, 1) != 1) {
        CHECK_INT(errno, EFAULT);
        return 0;
    }
    CHECK_INT(read(ends[0], &byte, 1), 1);
    return 1;
}

/* How many bytes below the frame are readable, up to the first page that is not, or to limit. */
__attribute__((unused)) static size_t depth_of(const char *frame, size_t limit)
{
    const char *at = (const char *)((uintptr_t)frame & ~(uintptr_t)(page_bytes() - 1));
    size_t depth = (size_t)(frame - at);

    while (depth <= limit && readable(at - 1)) {
        at -= page_bytes();
        depth += page_bytes();
    }
    return depth;
}

/* The stack that the frame is in has this size, and a whole guard lies below it. */
__attribute__((unused)) static void check_stack(const char *frame, size_t size)
{
    size_t depth = depth_of(frame, most_stack_bytes(size)), at;

    CHECK(depth >= size);
    CHECK(depth <= most_stack_bytes(size));
    for (at = 1; at <= GUARD_BYTES; at += page_bytes())
        CHECK(!readable(frame - depth - at));
    CHECK(!readable(frame - depth - GUARD_BYTES));
}

/* From here on the kernel populates and locks every new mapping; a forked child is free of it. */
__attribute__((unused)) static void lock_future_mappings(void)
{
    if (mlockall(MCL_FUTURE) != 0) {
        struct rlimit limit;

        CHECK_INT(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
        limit.rlim_cur = limit.rlim_max;
        CHECK_INT(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
        CHECK_INT(mlockall(MCL_FUTURE), 0);
    }
}
#endif
