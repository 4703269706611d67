/* seccomp.h: filters that answer system calls with an error, or kill. They stay for good. */
#ifndef SECCOMP_H
#define SECCOMP_H

#include "check.h"
#include <stddef.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

__attribute__((unused)) static void install_filter(struct sock_filter *filter, size_t length)
{
    struct sock_fprog program = { (unsigned short)length, filter };

    CHECK_INT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    CHECK_INT(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

/* From here on the kernel does `listed` for these system calls, and `others` for all others. */
__attribute__((unused)) static void filter_calls(const int *calls, size_t count, unsigned listed,
                                                 unsigned others)
{
    struct sock_filter filter[2 * 256];
    size_t length = 0, i;

    CHECK(2 * count + 2 <= sizeof filter / sizeof *filter);
    filter[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                                    offsetof(struct seccomp_data, nr));
    for (i = 0; i < count; i++) {
        filter[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
                                                        (unsigned)calls[i], 0, 1);
        filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, listed);
    }
    filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, others);
    install_filter(filter, length);
}

/*
 * From here on the kernel answers madvise with this advice with this errno; 0: it says that it has
 * done it, and does nothing.
 */
__attribute__((unused)) static void answer_advice(int advice, int error)
{
    struct sock_filter filter[] = {
        /* A jump that does not match goes to the last statement. */
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)advice, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };

    install_filter(filter, sizeof filter / sizeof *filter);
}
#endif
