/* fail_nth.h: the plan of which calls for memory fail, and what was counted; see fail_nth.c. */
#ifndef FAIL_NTH_H
#define FAIL_NTH_H

enum kind { MALLOC, MMAP, MADVISE, MPROTECT };

struct faults {
    /* The calls of this kind from number `first` to number `last` fail, counted from 1. */
    enum kind kind;
    long first, last;
    /* The kernel refuses guard markers, as before Linux 6.13. */
    int no_markers;
    /* RLIMIT_DATA is set: the process may have only so much memory that can be written. */
    int limited;
    /* mprotect makes no memory inaccessible, as where the process has all the mappings it may. */
    int no_guards;
    /* The calls of this kind, and those that failed. */
    long calls, failed;
    /* What the library has now: blocks of malloc, bytes of mmap. */
    long blocks, mapped;
};

/* If NULL, no call fails or is counted. */
extern struct faults *faults;
#endif
