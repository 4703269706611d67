/* process.h: the memory of this process, and the stacks that the library has in it. */
#ifndef PROCESS_H
#define PROCESS_H

#include "check.h"

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
 * The process's resident anonymous memory in bytes. The kernel drops and reloads the pages of
 * files as it likes, so they are not counted.
 */
__attribute__((unused)) static long resident(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    long all, here, of_files;

    CHECK(f != NULL);
    CHECK_INT(fscanf(f, "%ld %ld %ld", &all, &here, &of_files), 3);
    fclose(f);
    return (here - of_files) * sysconf(_SC_PAGESIZE);
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
