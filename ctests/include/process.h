/* process.h: what memory this process has. */
#ifndef PROCESS_H
#define PROCESS_H

#include "check.h"

/* A line of /proc/self/status, in KiB. */
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

/* The process's resident memory in bytes, less the pages of files, which come and go. */
__attribute__((unused)) static long resident(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    long all, here, of_files;

    CHECK(f != NULL);
    CHECK_INT(fscanf(f, "%ld %ld %ld", &all, &here, &of_files), 3);
    fclose(f);
    return (here - of_files) * sysconf(_SC_PAGESIZE);
}
#endif
