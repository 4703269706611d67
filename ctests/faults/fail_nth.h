/* fail_nth.h: which of the library's calls for memory are to fail; see fail_nth.c. */
#ifndef FAIL_NTH_H
#define FAIL_NTH_H

enum kind { MALLOC, MMAP, MADVISE, MPROTECT };

struct faults {
    /* The plan: the calls of this kind from the first to the last fail, counted from 1. */
    enum kind kind;
    long first, last;
    /* The kernel is to seem older than 6.13: it has no guard markers. */
    int no_markers;
    /* What came of it. */
    long calls, failed;
    /* What the library has now: blocks of malloc's, bytes of mmap's. */
    long blocks, mapped;
};

/* NULL: nothing fails and nothing is counted. */
extern struct faults *faults;
#endif
