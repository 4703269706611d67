/* set_clock.h: a clock that the cases advance, for what the library does after some time. */
#ifndef SET_CLOCK_H
#define SET_CLOCK_H

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long clock_offset_seconds;

/* The library's calls come here. */
int clock_gettime(clockid_t clock, struct timespec *time)
{
    long result = syscall(SYS_clock_gettime, clock, time);

    if (result == 0 && clock == CLOCK_MONOTONIC)
        time->tv_sec += clock_offset_seconds;
    return (int)result;
}
#endif
