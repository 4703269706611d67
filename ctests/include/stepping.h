/*
 * stepping.h: unwinds the stack after every single instruction, and compares the frames with the
 * calls that were really made.
 *
 * Between step_on() and step_off() the processor's trap flag is set: each instruction ends in
 * SIGTRAP, in any code and on any stack. The handler does two things:
 *  - It notes each `call`: where on the stack the return address lies, and which it is. An entry
 *    lives until the stack pointer has passed it. These are the true frames, found without any
 *    unwind information. A switch between stacks is seen by its instruction: jump_fcontext's
 *    `mov rsp, rdi`, and those of trampoline (src/fibre/fibre.rs).
 *  - It unwinds, by _Unwind_Backtrace and by backtrace(), and compares.
 * A walk may end before the outermost frame only in code that has no unwind information, which
 * are the two functions of Boost.Context in the library. On libcrypto it is only looked whether
 * each frame lies in code: its switches are setcontext and longjmp, whose unwind information
 * describes the side that they go to.
 *
 * One thread steps at a time. x86-64 only.
 */
#ifndef STEPPING_H
#define STEPPING_H

#include "backtrace.h"
#include "jobs.h"
#include <dlfcn.h>
#include <link.h>
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>
#include <unwind.h>

/* ---- the executable segments of the loaded objects ---- */

struct segment {
    uintptr_t start, end;
    int of_library; /* of the object that has ASYNC_pause_job */
};
static struct segment segments[128];
static int n_segments;

static int note_segments(struct dl_phdr_info *object, size_t size, void *arg)
{
    int first = n_segments, of_library = 0;

    (void)size, (void)arg;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        uintptr_t start = object->dlpi_addr + segment->p_vaddr;

        if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_X))
            continue;
        CHECK(n_segments < 128);
        segments[n_segments++] = (struct segment){ start, start + segment->p_memsz, 0 };
        of_library |= (uintptr_t)ASYNC_pause_job - start < segment->p_memsz;
    }
    for (int i = first; i < n_segments; i++)
        segments[i].of_library = of_library;
    return 0;
}

static void find_segments(void)
{
    n_segments = 0;
    dl_iterate_phdr(note_segments, NULL);
}

static const struct segment *segment_of(uintptr_t pc)
{
    for (int i = 0; i < n_segments; i++)
        if (pc - segments[i].start < segments[i].end - segments[i].start)
            return &segments[i];
    return NULL;
}

static int is_of_library(uintptr_t pc)
{
    const struct segment *segment = segment_of(pc);

    return segment != NULL && segment->of_library;
}

/* libgcc's: the unwind information of the function that has this instruction, or NULL. */
struct dwarf_eh_bases {
    void *text, *data, *function;
};
extern const void *_Unwind_Find_FDE(void *pc, struct dwarf_eh_bases *bases);

/* ---- a walk from a signal handler ---- */

enum { MAX_FRAMES = 100 };

struct walk {
    uintptr_t interrupted; /* the walk's first frame; those of the handler come before */
    int begun, n;
    uintptr_t pc[MAX_FRAMES], cfa[MAX_FRAMES];
    /* rbx, rbp, r12 to r15 as the unwinder sees them in the frame of the innermost call_free(). */
    int has_registers;
    uintptr_t registers[6];
};

extern const char free_call_returns[]; /* where calls of call_free() return to */

static _Unwind_Reason_Code note_frame_of_walk(struct _Unwind_Context *context, void *arg)
{
    static const int numbers[6] = { 3, 6, 12, 13, 14, 15 };
    struct walk *walk = arg;
    int before = 0;
    uintptr_t pc = _Unwind_GetIPInfo(context, &before);

    if (!walk->begun && !(before && pc == walk->interrupted))
        return _URC_NO_REASON;
    walk->begun = 1;
    if (pc == 0 || walk->n == MAX_FRAMES)
        return _URC_NO_REASON;
    if (pc == (uintptr_t)free_call_returns && !walk->has_registers) {
        walk->has_registers = 1;
        for (int i = 0; i < 6; i++)
            walk->registers[i] = _Unwind_GetGR(context, numbers[i]);
    }
    walk->pc[walk->n] = pc;
    walk->cfa[walk->n++] = _Unwind_GetCFA(context);
    return _URC_NO_REASON;
}

static __thread sigjmp_buf crash_of_walk;
static __thread volatile sig_atomic_t walking;

/* A crash of the unwinder ends the walk. */
static void on_crash(int signal_number)
{
    if (walking)
        siglongjmp(crash_of_walk, 1);
    signal(signal_number, SIG_DFL);
}

/* Unwinds from the interrupted instruction. 0 if the unwinder has failed or crashed. */
static int walk_from(uintptr_t pc, struct walk *walk)
{
    void *addresses[MAX_FRAMES];
    int n, at = 0, right;

    memset(walk, 0, sizeof *walk);
    walk->interrupted = pc;
    if (sigsetjmp(crash_of_walk, 1) != 0) {
        walking = 0;
        return 0;
    }
    walking = 1;
    right = _Unwind_Backtrace(note_frame_of_walk, walk) == _URC_END_OF_STACK && walk->n > 0;
    n = backtrace(addresses, MAX_FRAMES);
    walking = 0;
    /* backtrace() must see the same. */
    while (at < n && (uintptr_t)addresses[at] != pc)
        at++;
    right &= n - at >= walk->n;
    for (int i = 0; right && i < walk->n; i++)
        right = (uintptr_t)addresses[at + i] == walk->pc[i];
    return right;
}

/* ---- the true frames ---- */

struct call {
    uintptr_t slot, returns_to; /* the return address and where it lies */
};
/* The calls on a stack, the innermost last, and where its stack pointer was when it was left. */
struct shadow {
    uintptr_t left_at;
    int n;
    struct call calls[MAX_FRAMES];
};
static struct shadow shadows[64], *shadow;
static int n_shadows;
static uintptr_t last_pc, last_sp;

/* Whether the jobs are libcrypto's: the true frames across its switches are not known. */
static int on_libcrypto;

struct step_counts {
    long steps;     /* instructions */
    long in_library;
    long ends;      /* walks that ended in code without unwind information */
    long switches;  /* of the stack */
    long wrong, crashes, elsewhere; /* `elsewhere`: wrong at instructions outside the library */
};
static struct step_counts counts;
static const uintptr_t *free_registers; /* what call_free() keeps in them */

/* The first walk begins in a function of the test, so that its frames are right. */
static void begin_shadow(const struct walk *walk)
{
    shadow = &shadows[0];
    n_shadows = 1;
    shadow->n = 0;
    for (int i = walk->n - 1; i > 0; i--) {
        uintptr_t slot = walk->cfa[i] - 8;

        CHECK(*(uintptr_t *)slot == walk->pc[i]);
        shadow->calls[shadow->n++] = (struct call){ slot, walk->pc[i] };
    }
}

/* The instruction before `back` is a jump to pc, which is about to push `back` to return there. */
static int is_entered_by_jump(uintptr_t pc, uintptr_t back)
{
    int32_t distance;

    if ((shadow->n > 0 && shadow->calls[shadow->n - 1].returns_to == back) || !is_of_library(pc)
        || !is_of_library(back - 5) || *(unsigned char *)(back - 5) != 0xe9 /* jmp */)
        return 0;
    memcpy(&distance, (char *)back - 4, sizeof distance);
    return back + (uintptr_t)(intptr_t)distance == pc;
}

/* Whether the innermost call's return address is where it was: else the stack serves a new job. */
static int is_in_place(const struct shadow *it)
{
    const struct call *innermost = &it->calls[it->n - 1];

    return it->n > 0 && *(uintptr_t *)innermost->slot == innermost->returns_to;
}

static void switch_shadow(uintptr_t sp)
{
    enum { NEAR = 16 * 1024 };
    struct shadow *to = NULL;

    counts.switches++;
    shadow->left_at = last_sp;
    for (int i = 0; to == NULL && i < n_shadows; i++)
        if (shadows[i].left_at == sp && is_in_place(&shadows[i]))
            to = &shadows[i];
    if (to == NULL) {
        /* A job begins; what is known of the last one on the same stack is history. */
        for (int i = 0; to == NULL && i < n_shadows; i++)
            if (shadows[i].left_at - sp + NEAR < 2 * NEAR)
                to = &shadows[i];
        if (to == NULL) {
            CHECK(n_shadows < 64);
            to = &shadows[n_shadows++];
        }
        to->n = 0;
    }
    shadow = to;
}

static void follow(uintptr_t pc, uintptr_t sp, uintptr_t rax)
{
    const unsigned char *last = (const unsigned char *)last_pc;
    uintptr_t pushed;

    if (sp != last_sp && pc == last_pc + 3 && is_of_library(pc)
        && (memcmp(last, "\x48\x89\xfc", 3) == 0       /* mov rsp, rdi */
            || memcmp(last, "\x48\x89\xf4", 3) == 0    /* mov rsp, rsi */
            || memcmp(last, "\x48\x8b\x23", 3) == 0))  /* mov rsp, [rbx] */
        switch_shadow(sp);
    while (shadow->n > 0 && shadow->calls[shadow->n - 1].slot < sp)
        shadow->n--;
    if (sp != last_sp - 8)
        return;
    pushed = *(uintptr_t *)sp;
    /* No instruction is longer than 15 bytes. make_fcontext pushes rbp, an address close by. */
    if ((pushed - last_pc - 1 < 15 && *last != 0x55 /* push rbp */)
        || (*last == 0x50 /* push rax */ && pushed == rax && is_entered_by_jump(last_pc, rax))) {
        CHECK(shadow->n < MAX_FRAMES);
        shadow->calls[shadow->n++] = (struct call){ sp, pushed };
    }
}

/* ---- the comparison ---- */

/* Writes the walk and the true frames. */
static void show_walk(const struct walk *walk, const char *what)
{
    Dl_info info;

    fprintf(stderr, "%s at %#lx; the unwinder's frames, and where their return addresses lie:\n",
            what, walk->interrupted);
    for (int i = 0; i < walk->n; i++) {
        int found = dladdr((void *)walk->pc[i], &info);

        fprintf(stderr, "  %#lx %s+%#lx, %#lx\n", walk->pc[i], found ? info.dli_fname : "no code",
                found ? walk->pc[i] - (uintptr_t)info.dli_fbase : 0, walk->cfa[i] - 8);
    }
    fprintf(stderr, "the true ones:\n");
    for (int i = shadow->n - 1; i >= 0; i--)
        fprintf(stderr, "  %#lx, %#lx\n", shadow->calls[i].returns_to, shadow->calls[i].slot);
}

/*
 * The return address of the interrupted function if a register has it: rax at the first instruction
 * of a function that is about to push it, r8 at the last ones of jump_fcontext and rcx at the last
 * one of trampoline, which have popped it. Else 0.
 */
static uintptr_t returns_by_register(uintptr_t pc, const greg_t *registers)
{
    /* mov rdx, rsi; mov rdi, rax; jmp r8 */
    static const char last_of_jump[] = "\x48\x89\xf2\x48\x89\xc7\x41\xff\xe0";

    if (is_entered_by_jump(pc, (uintptr_t)registers[REG_RAX]))
        return (uintptr_t)registers[REG_RAX];
    /* add rsp, 0x40; jmp rcx */
    if (is_of_library(pc) && memcmp((char *)pc - 4, "\x48\x83\xc4\x40\xff\xe1", 6) == 0)
        return (uintptr_t)registers[REG_RCX];
    for (int at = 0; at <= 6; at += 3)
        if (is_of_library(pc) && memcmp((char *)pc, last_of_jump + at, 9 - (size_t)at) == 0)
            return (uintptr_t)registers[REG_R8];
    return 0;
}

/*
 * Whether the unwinder may find no more frames here: in a function without unwind information, or
 * in jump_fcontext or make_fcontext, whose information says that they have no caller. (They are
 * known by their first instructions, as nobody exports them.)
 */
static int may_end_in(uintptr_t pc, int is_return_address)
{
    struct dwarf_eh_bases bases;

    return _Unwind_Find_FDE((void *)(pc - (uintptr_t)is_return_address), &bases) == NULL
        || memcmp(bases.function, "\x48\x8d\x64\x24\xc8\x0f\xae\x1c\x24", 9) == 0
        || memcmp(bases.function, "\x48\x89\xf8\x48\x83\xe0\xf0", 7) == 0;
}

/* Whether the walk gives the true frames, or a beginning of them that ends as it may. */
static int is_right(const struct walk *walk, const greg_t *registers)
{
    uintptr_t in_register, last = walk->pc[walk->n - 1];
    int at = 1, left = shadow->n;

    for (int i = 0; i < walk->n; i++)
        if (segment_of(walk->pc[i]) == NULL)
            return 0;
    if (on_libcrypto)
        return 1;
    in_register = returns_by_register(walk->pc[0], registers);
    if (in_register != 0 && at < walk->n) {
        if (walk->pc[at] != in_register)
            return 0;
        at++;
    }
    for (; left > 0 && at < walk->n; left--, at++)
        if (walk->pc[at] != shadow->calls[left - 1].returns_to
            || walk->cfa[at] != shadow->calls[left - 1].slot + 8)
            return 0;
    if (walk->has_registers && free_registers != NULL
        && memcmp(walk->registers, free_registers, sizeof walk->registers) != 0)
        return 0;
    if (left == 0 && at == walk->n)
        return 1;
    /* On a job's stack there may be one frame more: where make_fcontext has a function return to. */
    if (left == 0)
        return at + 1 == walk->n && shadow != &shadows[0] && is_of_library(last);
    counts.ends++;
    return is_of_library(last) && may_end_in(last, walk->n > 1);
}

static void on_step(int signal_number, siginfo_t *info, void *context)
{
    struct walk walk;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    uintptr_t pc = (uintptr_t)registers[REG_RIP], sp = (uintptr_t)registers[REG_RSP];
    int saved_errno = errno, walked = walk_from(pc, &walk);

    (void)signal_number, (void)info;
    counts.steps++;
    counts.in_library += is_of_library(pc);
    if (shadow == NULL)
        begin_shadow(&walk);
    else
        follow(pc, sp, (uintptr_t)registers[REG_RAX]);
    last_pc = pc;
    last_sp = sp;
    if (!walked || !is_right(&walk, registers)) {
        counts.crashes += !walked && is_of_library(pc);
        *(is_of_library(pc) ? &counts.wrong : &counts.elsewhere) += 1;
        if (counts.wrong + counts.elsewhere <= 3)
            show_walk(&walk, walked ? "wrong" : "the unwinder fails");
    }
    errno = saved_errno;
}

/* ---- stepping on and off; calls with registers in free use ---- */

enum { ON_OTHER_STACK = SA_ONSTACK, ON_SAME_STACK = 0 };

/* Gives the calling thread a stack for signal handlers. */
static void set_handlers_stack(void)
{
    static __thread char bytes[64 * 1024];
    stack_t stack = { .ss_sp = bytes, .ss_size = sizeof bytes };

    CHECK_INT(sigaltstack(&stack, NULL), 0);
}

/* Has walks go on when the unwinder crashes, and finds all that they need. */
static void prepare_walks(void)
{
    struct sigaction action = { .sa_handler = on_crash, .sa_flags = SA_ONSTACK };
    void *address;

    find_segments();
    on_libcrypto = dlsym(RTLD_DEFAULT, "RSASYNC_version") == NULL;
    backtrace(&address, 1); /* loads libgcc */
    may_end_in((uintptr_t)free_call_returns, 0);
    CHECK_INT(sigaction(SIGSEGV, &action, NULL), 0);
    CHECK_INT(sigaction(SIGBUS, &action, NULL), 0);
    CHECK_INT(sigaction(SIGABRT, &action, NULL), 0);
}

/*
 * Prepares the calling thread for step_on(). SIGTRAP is handled on a stack of its own, or on the
 * one that it interrupts.
 */
__attribute__((unused)) static void prepare_stepping(int where)
{
    struct sigaction action = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO | where };

    prepare_walks();
    set_handlers_stack();
    CHECK_INT(sigaction(SIGTRAP, &action, NULL), 0);
    shadow = NULL;
    memset(shadows, 0, sizeof shadows);
}

/* All frames were right. */
__attribute__((unused)) static void check_steps(void)
{
    fprintf(stderr,
            "%ld instructions, %ld of the library; %ld switches; %ld walks end in the "
            "crate's functions; %ld are wrong, in %ld of these the unwinder fails; %ld are wrong "
            "outside the library\n",
            counts.steps, counts.in_library, counts.switches, counts.ends, counts.wrong,
            counts.crashes, counts.elsewhere);
    CHECK(counts.in_library > 100);
    CHECK_INT(counts.wrong, 0);
}

void step_on(void);
void step_off(void);

/* A function to call, its arguments, and what its caller keeps in rbx, rbp and r12 to r15. */
struct free_call {
    void *function;
    uintptr_t args[6], registers[6];
};

/*
 * Makes the call. Its caller, call_free() itself, uses all registers freely, as a function may
 * that is built without frame pointers; it ends in `ud2` if the call has changed one of those that
 * belong to a caller.
 */
uintptr_t call_free(const struct free_call *call);

__asm__(
    ".pushsection .text\n"
    ".globl step_on, step_off, call_free, free_call_returns\n"
    ".hidden step_on, step_off, call_free, free_call_returns\n"
    ".type step_on, @function\n"
    ".type step_off, @function\n"
    ".type call_free, @function\n"
    "step_on:\n"
    ".cfi_startproc\n"
    "    pushfq\n"
    "    .cfi_adjust_cfa_offset 8\n"
    "    orq $0x100, (%rsp)\n" /* the trap flag */
    "    popfq\n"
    "    .cfi_adjust_cfa_offset -8\n"
    "    ret\n"
    ".cfi_endproc\n"
    ".size step_on, . - step_on\n"
    "step_off:\n"
    ".cfi_startproc\n"
    "    pushfq\n"
    "    .cfi_adjust_cfa_offset 8\n"
    "    andq $~0x100, (%rsp)\n"
    "    popfq\n"
    "    .cfi_adjust_cfa_offset -8\n"
    "    ret\n"
    ".cfi_endproc\n"
    ".size step_off, . - step_off\n"
    "call_free:\n"
    ".cfi_startproc\n"
    "    push %rbx\n    .cfi_adjust_cfa_offset 8\n    .cfi_rel_offset %rbx, 0\n"
    "    push %rbp\n    .cfi_adjust_cfa_offset 8\n    .cfi_rel_offset %rbp, 0\n"
    "    push %r12\n    .cfi_adjust_cfa_offset 8\n    .cfi_rel_offset %r12, 0\n"
    "    push %r13\n    .cfi_adjust_cfa_offset 8\n    .cfi_rel_offset %r13, 0\n"
    "    push %r14\n    .cfi_adjust_cfa_offset 8\n    .cfi_rel_offset %r14, 0\n"
    "    push %r15\n    .cfi_adjust_cfa_offset 8\n    .cfi_rel_offset %r15, 0\n"
    "    push %rdi\n    .cfi_adjust_cfa_offset 8\n"
    "    mov (%rdi), %rax\n"
    "    mov 16(%rdi), %rsi\n"
    "    mov 24(%rdi), %rdx\n"
    "    mov 32(%rdi), %rcx\n"
    "    mov 40(%rdi), %r8\n"
    "    mov 48(%rdi), %r9\n"
    "    mov 56(%rdi), %rbx\n"
    "    mov 64(%rdi), %rbp\n"
    "    mov 72(%rdi), %r12\n"
    "    mov 80(%rdi), %r13\n"
    "    mov 88(%rdi), %r14\n"
    "    mov 96(%rdi), %r15\n"
    "    mov 8(%rdi), %rdi\n"
    "    call *%rax\n"
    "free_call_returns:\n"
    "    mov (%rsp), %rdi\n"
    "    cmp 56(%rdi), %rbx\n    jne 1f\n"
    "    cmp 64(%rdi), %rbp\n    jne 1f\n"
    "    cmp 72(%rdi), %r12\n    jne 1f\n"
    "    cmp 80(%rdi), %r13\n    jne 1f\n"
    "    cmp 88(%rdi), %r14\n    jne 1f\n"
    "    cmp 96(%rdi), %r15\n    jne 1f\n"
    "    pop %rdi\n    .cfi_adjust_cfa_offset -8\n"
    "    .cfi_remember_state\n"
    "    pop %r15\n    .cfi_adjust_cfa_offset -8\n    .cfi_restore %r15\n"
    "    pop %r14\n    .cfi_adjust_cfa_offset -8\n    .cfi_restore %r14\n"
    "    pop %r13\n    .cfi_adjust_cfa_offset -8\n    .cfi_restore %r13\n"
    "    pop %r12\n    .cfi_adjust_cfa_offset -8\n    .cfi_restore %r12\n"
    "    pop %rbp\n    .cfi_adjust_cfa_offset -8\n    .cfi_restore %rbp\n"
    "    pop %rbx\n    .cfi_adjust_cfa_offset -8\n    .cfi_restore %rbx\n"
    "    ret\n"
    "    .cfi_restore_state\n"
    "    .cfi_adjust_cfa_offset 8\n"
    "1:  ud2\n"
    ".cfi_endproc\n"
    ".size call_free, . - call_free\n"
    ".popsection\n");
#endif
