/* process.h: the memory of this process, and the stacks that the library has in it. */
#ifndef PROCESS_H
#define PROCESS_H

#include "check.h"
#include <sys/auxv.h>

/*
 * The inaccessible memory below each stack, in bytes. behaviour.md promises at least this much;
 * GUARD in src/stack/region.rs is what the library reserves.
 */
#define GUARD_BYTES (64 * 1024)

/* The value of a line of /proc/self/status, in KiB; `name` is the line's start: "VmSize:". */
__attribute__((unused)) static long kib(const char *name)
{
    char line[256];
    long value = -1;
    FILE *status = fopen("/proc/self/status", "r");

    CHECK(status != NULL);
    while (fgets(line, sizeof(line), status) != NULL)
        if (strncmp(line, name, strlen(name)) == 0)
            value = atol(line + strlen(name));
    fclose(status);
    CHECK(value >= 0);
    return value;
}

/*
 * The first numbers of /proc/self/statm, in bytes: the mapped address space, the resident memory, and
 * how much of that is of files. The kernel counts its own pages there; larger ones may be simulated.
 */
struct statm {
    long mapped, resident, of_files;
};

__attribute__((unused)) static struct statm statm(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    long page = (long)getauxval(AT_PAGESZ);
    struct statm now;

    CHECK(f != NULL);
    CHECK_INT(fscanf(f, "%ld %ld %ld", &now.mapped, &now.resident, &now.of_files), 3);
    fclose(f);
    return (struct statm){ now.mapped * page, now.resident * page, now.of_files * page };
}

/*
 * The process's resident anonymous memory in bytes. The kernel drops and reloads the pages of
 * files as it likes, so they are not counted.
 */
__attribute__((unused)) static long resident(void)
{
    struct statm now = statm();

    return now.resident - now.of_files;
}

#ifndef ON_LIBCRYPTO
/* What RSASYNC_get_stats() tells now. */
__attribute__((unused)) static struct rsasync_stats current_stats(void)
{
    struct rsasync_stats now;

    RSASYNC_get_stats(&now, sizeof now);
    return now;
}

/* How many stacks the jobs of all threads hold, idle jobs included. */
__attribute__((unused)) static int stacks_in_use(void)
{
    return (int)current_stats().stacks_in_use;
}
#endif
#endif
