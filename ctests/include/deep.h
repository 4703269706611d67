/* deep.h: a call that touches much of the stack. */
#ifndef DEEP_H
#define DEEP_H

enum { KIB = 1024, DEEP_BYTES = 64 * KIB };

/* Writes to each KiB of DEEP_BYTES; returns a sum that depends on the seed. */
__attribute__((noinline)) static int touch_deep(int seed)
{
    volatile unsigned char depth[DEEP_BYTES];
    int sum = 0;

    for (int i = 0; i < DEEP_BYTES; i += KIB)
        depth[i] = (unsigned char)(seed + i / KIB);
    for (int i = 0; i < DEEP_BYTES; i += KIB)
        sum += depth[i];
    return sum;
}
#endif
