/*
 * million.c: a million paused jobs, or as many as the environment variable JOBS says, in one
 * thread. At the end the process has hardly more memory than at the start.
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

/*
 * What the library keeps of a slot for a stack, so that old handles stay stale for ever: a
 * generation of four bytes, and two bits. It is in the header of the slot's region.
 */
enum { GENERATION_BYTES = 4, SLOT_BITS = 2 };

static long kib_kept_of(int slots)
{
    return ((long)slots * GENERATION_BYTES + (long)slots * SLOT_BITS / 8) / KIB;
}

/* How many regions the library maps for this many stacks at once; src/sys/slots.rs has the rule. */
static long regions_for(int stacks)
{
    enum { FIRST_REGION_SLOTS = 4, LARGEST_REGION_SLOTS = 1 << 16 };
    long regions = 0, slots = 0;

    for (; slots < stacks; regions++) {
        long more = slots < FIRST_REGION_SLOTS ? FIRST_REGION_SLOTS : slots;

        slots += more < LARGEST_REGION_SLOTS ? more : LARGEST_REGION_SLOTS;
    }
    return regions;
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
     "a million jobs have guarded stacks and few mappings; all their memory is given back, but for "
     "four and a quarter bytes each")
{
    int count = atoi(getenv("JOBS") != NULL ? getenv("JOBS") : "1000000");
    ASYNC_JOB **jobs = malloc((size_t)count * sizeof(*jobs));
    struct rsasync_stats stats;
    int guarded = kernel_has_guard_markers();
    long before, mappings_before, kept;

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
    kept = kib_kept_of(count);
    CHECK(kib("VmRSS:") <= before + before / 20 + 256 + kept + (count / APART + 1) * KIB_OF_ONE_JOB);
    for (int i = 0; i < count; i += APART)
        finish(jobs[i], i);
    ASYNC_cleanup_thread();
    stats = phase("the rest", count / APART + 1);
    CHECK_INT(stats.stacks_in_use, 0);
    CHECK_INT(stats.stacks_unguarded, 0);
    CHECK(memory() <= before + before / 20 + 256 + kept);
    /* A header and slots; the first region, which was there before, may have one mapping more. */
    CHECK(mappings() <= mappings_before + 2 * (regions_for(count) - 1) + 2);
    free(jobs);
}
