/*
 * fp_modes.h: a thread's floating-point modes, which a job keeps: set_fp(), CHECK_FP(), rounding(),
 * odd_modes.
 */
#ifndef FP_MODES_H
#define FP_MODES_H

#include "check.h"

#if defined(__x86_64__)
/* The control registers of x87 and SSE: rounding, precision, traps, flush to zero, flags. */
struct fp {
    uint16_t cw;
    uint32_t mxcsr;
};

static void set_fp(struct fp fp)
{
    __asm__ volatile("fldcw %0; ldmxcsr %1" : : "m"(fp.cw), "m"(fp.mxcsr));
}

/* The modes of the thread are `want`. A macro, so that a failure prints its caller's line. */
# define CHECK_FP(want) \
    do { \
        struct fp expected_ = (want), found_ = { 0, 0 }; \
        __asm__ volatile("fnstcw %0; stmxcsr %1" : "=m"(found_.cw), "=m"(found_.mxcsr)); \
        CHECK_INT(found_.cw, expected_.cw); \
        CHECK_INT(found_.mxcsr, expected_.mxcsr); \
    } while (0)

/* The default modes, with this rounding: 0 to nearest, 1 down, 2 up, 3 to zero. */
static struct fp rounding(int mode)
{
    struct fp fp = { (uint16_t)(0x37f | mode << 10), 0x1f80u | (uint32_t)mode << 13 };

    return fp;
}

/* Modes that differ from the default in every other field, x87's and SSE's. */
__attribute__((unused)) static const struct fp odd_modes[] = {
    /* x87: double precision, invalid operation traps. SSE: flush to zero. */
    { 0x027e, 0x9f00 },
    /* x87: single precision, to zero. SSE: to zero, denormals are zero, flags inexact, invalid. */
    { 0x0c7f, 0x7fe1 },
    /* x87: extended precision, underflow traps. SSE: down, flag denormal. */
    { 0x036f, 0x3782 },
};

#elif defined(__aarch64__)
/* The control register: rounding, flush to zero, NaNs. */
struct fp {
    uint64_t fpcr;
};

static void set_fp(struct fp fp)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(fp.fpcr));
}

# define CHECK_FP(want) \
    do { \
        struct fp expected_ = (want), found_; \
        __asm__ volatile("mrs %0, fpcr" : "=r"(found_.fpcr)); \
        CHECK_INT(found_.fpcr, expected_.fpcr); \
    } while (0)

static struct fp rounding(int mode)
{
    struct fp fp = { (uint64_t)(mode >> 1 | (mode & 1) << 1) << 22 }; /* here 1 is up, and 2 down */

    return fp;
}

__attribute__((unused)) static const struct fp odd_modes[] = {
    { 1ul << 24 },              /* flush to zero */
    { 1ul << 25 | 3ul << 22 },  /* default NaN; to zero */
    { 1ul << 26 | 2ul << 22 },  /* the other half precision; down */
};
#endif
#endif
