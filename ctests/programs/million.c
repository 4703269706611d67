/*
 * million.c: a million paused jobs, or as many as the environment variable JOBS says, in one
 * thread. At the end the process has no more memory than at the start.
 */
#include "stacks.h"
#include <time.h>

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Resident memory and the page tables for it, in KiB. */
static long memory(void)
{
    return kib("VmRSS:") + kib("VmPTE:");
}

/* Every APART'th job stays paused until the last phase, with a page or two of stack. */
enum { APART = 10000, KIB_OF_ONE_JOB = 8 };

/* In seconds, as now() gives it. */
static double phase_began;

/* Ends a phase: prints what it took and what the process has. */
static struct rsasync_stats phase(const char *what, int count)
{
    struct rsasync_stats stats;
    double seconds = now() - phase_began;

    RSASYNC_get_stats(&stats, sizeof(stats));
    printf("%-8s %6.2f s %5.0f ns each %8ld KiB resident %8ld KiB page tables %5ld mappings\n",
           what, seconds, seconds * 1e9 / count, kib("VmRSS:"), kib("VmPTE:"), mappings());
    fflush(stdout);
    phase_began = now();
    return stats;
}

CASE(million, OURS,
     "a million jobs have guarded stacks and few mappings, and all their memory is given back")
{
    int count = atoi(getenv("JOBS") != NULL ? getenv("JOBS") : "1000000");
    ASYNC_JOB **jobs = malloc((size_t)count * sizeof(*jobs));
    struct rsasync_stats stats;
    int guarded = kernel_has_guard_markers();
    long before, mappings_before;

    CHECK(count > 0 && jobs != NULL);
    memset(jobs, 0, (size_t)count * sizeof(*jobs));
    /* A first job makes what the library sets up only once. */
    finish(paused_job(NULL, 1, 0), 0);
    ASYNC_cleanup_thread();
    phase_began = now();
    phase("before", count);
    before = memory();
    mappings_before = mappings();

    for (int i = 0; i < count; i++)
        jobs[i] = paused_job(NULL, 1, i);
    stats = phase("started", count);
    CHECK_INT(stats.stacks_in_use, count);
    if (guarded) {
        CHECK_INT(stats.stacks_unguarded, 0);
        CHECK(mappings() < mappings_before + 100);
    } else {
        /* A guard costs two mappings; the library leaves some to the rest of the program. */
        CHECK(stats.stacks_unguarded < (uint64_t)count);
        CHECK(mappings() < max_mappings() / 10 * 9);
    }

    /* A few jobs stay paused: the memory of the others is given back all the same. */
    for (int i = 0; i < count; i++) {
        if (i % APART != 0)
            finish(jobs[i], i);
    }
    phase("resumed", count);
    ASYNC_cleanup_thread();
    stats = phase("released", count);
    CHECK_INT(stats.stacks_in_use, (count + APART - 1) / APART);
    CHECK(kib("VmRSS:") <= before + before / 20 + 256 + (count / APART + 1) * KIB_OF_ONE_JOB);
    for (int i = 0; i < count; i += APART)
        finish(jobs[i], i);
    ASYNC_cleanup_thread();
    stats = phase("the rest", count / APART + 1);
    CHECK_INT(stats.stacks_in_use, 0);
    CHECK_INT(stats.stacks_unguarded, 0);
    CHECK(memory() <= before + before / 20 + 256);
    CHECK(mappings() <= mappings_before + 2);
    free(jobs);
}
