/*
 * million.c: as many paused jobs as asked for, in one thread; all are resumed, then released.
 * At the end the process has no more memory than at the start.
 */
#include "process.h"
#include <sys/mman.h>
#include <time.h>

#define MADV_GUARD_INSTALL_ 102

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int mappings(void)
{
    int c, lines = 0;
    FILE *maps = fopen("/proc/self/maps", "r");

    CHECK(maps != NULL);
    while ((c = getc(maps)) != EOF)
        lines += c == '\n';
    fclose(maps);
    return lines;
}

static int mappings_at_most(void)
{
    int most = 0;
    FILE *limit = fopen("/proc/sys/vm/max_map_count", "r");

    CHECK(limit != NULL && fscanf(limit, "%d", &most) == 1);
    fclose(limit);
    return most;
}

/* Memory that is committed, and the kernel's own tables for it. */
static long memory(void)
{
    return kib("VmRSS:") + kib("VmPTE:");
}

/* Each so many jobs one stays to the last; it has touched a page or two. */
enum { APART = 10000, KIB_OF_ONE = 8 };

static double phase_began;

static struct rsasync_stats phase(const char *what, int count)
{
    struct rsasync_stats stats;
    double seconds = now() - phase_began;

    RSASYNC_get_stats(&stats, sizeof(stats));
    printf("%-8s %6.2f s %5.0f ns each %8ld KiB resident %8ld KiB page tables %5d mappings\n", what,
           seconds, seconds * 1e9 / count, kib("VmRSS:"), kib("VmPTE:"), mappings());
    fflush(stdout);
    phase_began = now();
    return stats;
}

static int pausing_job(void *number)
{
    ASYNC_pause_job();
    return *(int *)number;
}

static void finish(ASYNC_JOB **job, int expected)
{
    int ret = -1;

    CHECK_INT(ASYNC_start_job(job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, expected);
}

static int has_guard_markers(void)
{
    long page = sysconf(_SC_PAGESIZE);
    void *memory = mmap(NULL, (size_t)page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int has;

    CHECK(memory != MAP_FAILED);
    has = madvise(memory, (size_t)page, MADV_GUARD_INSTALL_) == 0;
    munmap(memory, (size_t)page);
    return has;
}

CASE(million, OURS, "a crowd of jobs has guards and few mappings, and its memory comes back")
{
    int count = atoi(getenv("JOBS") != NULL ? getenv("JOBS") : "1000000");
    ASYNC_JOB **jobs = malloc((size_t)count * sizeof(*jobs)), *first = NULL;
    struct rsasync_stats stats;
    int ret, mappings_before, guarded = has_guard_markers();
    long before;

    CHECK(count > 0 && jobs != NULL);
    memset(jobs, 0, (size_t)count * sizeof(*jobs));
    /* What the library sets up once is not to be counted. */
    ret = 0;
    CHECK_INT(ASYNC_start_job(&first, NULL, &ret, pausing_job, &ret, sizeof(ret)), ASYNC_PAUSE);
    CHECK_INT(ASYNC_start_job(&first, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    ASYNC_cleanup_thread();
    phase_began = now();
    phase("before", count);
    before = memory();
    mappings_before = mappings();

    for (int i = 0; i < count; i++)
        CHECK_INT(ASYNC_start_job(&jobs[i], NULL, &ret, pausing_job, &i, sizeof(i)), ASYNC_PAUSE);
    stats = phase("started", count);
    CHECK_INT(stats.stacks_in_use, count);
    if (guarded) {
        CHECK_INT(stats.stacks_unguarded, 0);
        CHECK(mappings() < mappings_before + 100);
    } else {
        /* A guard costs two mappings; room is left for those of others. */
        CHECK(stats.stacks_unguarded < (uint64_t)count);
        CHECK(mappings() < mappings_at_most() / 10 * 9);
    }

    /* A few stay, here and there: the memory of the others must not wait for theirs. */
    for (int i = 0; i < count; i++) {
        if (i % APART != 0)
            finish(&jobs[i], i);
    }
    phase("resumed", count);
    ASYNC_cleanup_thread();
    stats = phase("released", count);
    CHECK_INT(stats.stacks_in_use, (count + APART - 1) / APART);
    CHECK(kib("VmRSS:") <= before + before / 20 + 256 + (count / APART + 1) * KIB_OF_ONE);
    for (int i = 0; i < count; i += APART)
        finish(&jobs[i], i);
    ASYNC_cleanup_thread();
    stats = phase("the rest", count / APART + 1);
    CHECK_INT(stats.stacks_in_use, 0);
    CHECK_INT(stats.stacks_unguarded, 0);
    CHECK(memory() <= before + before / 20 + 256);
    CHECK(mappings() <= mappings_before + 2);
    free(jobs);
}
