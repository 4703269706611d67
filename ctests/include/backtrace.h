/*
 * backtrace.h: backtrace(), which musl lacks.
 */
#ifndef BACKTRACE_H
#define BACKTRACE_H

#include "check.h"

#ifdef __GLIBC__
# include <execinfo.h>
#else
# include <unwind.h>

struct backtrace {
    void **addresses;
    int count, most;
};

static _Unwind_Reason_Code backtrace_frame(struct _Unwind_Context *frame, void *backtrace_)
{
    struct backtrace *backtrace = backtrace_;
    void *address = (void *)_Unwind_GetIP(frame);

    if (backtrace->count < 0) { /* backtrace()'s own frame */
        backtrace->count = 0;
        return _URC_NO_REASON;
    }
    if (address == NULL || backtrace->count == backtrace->most)
        return _URC_END_OF_STACK;
    backtrace->addresses[backtrace->count++] = address;
    return _URC_NO_REASON;
}

/* As glibc's in <execinfo.h>. */
__attribute__((noinline, unused)) static int backtrace(void **addresses, int most)
{
    struct backtrace backtrace = { addresses, -1, most };

    _Unwind_Backtrace(backtrace_frame, &backtrace);
    return backtrace.count;
}
#endif
#endif
