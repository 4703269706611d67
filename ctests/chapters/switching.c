/*
 * switching.c: what a switch between job and starter (src/fibre/fibre.rs) preserves for each side,
 * stack, registers, floating-point modes, and what it leaves alone, errno and the signal mask.
 */
#include "fp_modes.h"
#include "jobs.h"
#include <signal.h>

/* ---- stack ---- */

enum { LOCALS = 512, ROUNDS = 5 };

/* Pauses ROUNDS times. The upper half of each local is the job's number, which it returns. */
static int keeps_its_locals(void *arg)
{
    uint64_t local[LOCALS], sum = 0, me = *(int *)arg;
    int i, round;

    for (i = 0; i < LOCALS; i++)
        local[i] = me << 32 | (uint64_t)i;
    for (round = 0; round < ROUNDS; round++) {
        ASYNC_pause_job();
        for (i = 0; i < LOCALS; i++) {
            CHECK(local[i] == ((me << 32 | (uint64_t)i) + (uint64_t)round));
            local[i]++;
            sum++;
        }
    }
    CHECK_INT(sum, ROUNDS * LOCALS);
    return (int)me;
}

CASE(locals_survive_pauses, EVERYWHERE,
     "Each of many jobs that take turns finds its local variables as it left them")
{
    enum { JOBS = 100 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[JOBS] = { NULL };
    int i, round, ret;

    for (i = 0; i < JOBS; i++)
        CHECK_INT(ASYNC_start_job(&job[i], ctx, &ret, keeps_its_locals, &i, sizeof(i)),
                  ASYNC_PAUSE);
    for (round = 1; round < ROUNDS; round++)
        for (i = 0; i < JOBS; i++)
            resume_to_pause(job[i]);
    for (i = 0; i < JOBS; i++)
        finish(job[i], i);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* Pauses in the innermost call, and again before each call returns. */
__attribute__((noinline)) static int descend(int calls_left, int *pauses)
{
    volatile int mark[8];
    int i, inner_calls = 0;

    for (i = 0; i < 8; i++)
        mark[i] = calls_left * 100 + i;
    if (calls_left > 0)
        inner_calls = descend(calls_left - 1, pauses);
    CHECK_INT(ASYNC_pause_job(), 1);
    ++*pauses;
    for (i = 0; i < 8; i++)
        CHECK_INT(mark[i], calls_left * 100 + i);
    return inner_calls + 1;
}

enum { CALLS = 10 };

static int pauses_ten_calls_deep(void *arg)
{
    return descend(CALLS, ARG(int, arg));
}

CASE(a_pause_works_ten_calls_deep, EVERYWHERE,
     "A job can pause in any call below its function, and all these calls return afterwards")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int pauses = 0, i, ret;

    for (i = 0; i <= CALLS; i++) {
        CHECK_INT(start(&job, ctx, &ret, pauses_ten_calls_deep, &pauses), ASYNC_PAUSE);
        CHECK_INT(pauses, i);
    }
    finish(job, CALLS + 1);
    CHECK_INT(pauses, CALLS + 1);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* ---- errno and the signal mask ---- */

/* Finds 1001, 1002, 1003 in errno, as its starter sets it, and leaves 2001, 2002, 2003. */
static int meets_errno(void *arg)
{
    CHECK(arg == NULL);
    CHECK_INT(errno, 1001);
    errno = 2001;
    ASYNC_pause_job();
    CHECK_INT(errno, 1002);
    errno = 2002;
    ASYNC_pause_job();
    CHECK_INT(errno, 1003);
    errno = 2003;
    return 1;
}

CASE(errno_is_left_alone, EVERYWHERE,
     "A switch does not touch errno, which belongs to the thread and not to the job")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int run, i, code, ret;

    /* The first job has a new stack, the second a used one. */
    for (run = 0; run < 2; run++) {
        for (i = 1; i <= 3; i++) {
            errno = 1000 + i;
            code = ASYNC_start_job(&job, ctx, &ret, meets_errno, NULL, 0);
            CHECK_INT(errno, 2000 + i);
            CHECK_INT(code, i < 3 ? ASYNC_PAUSE : ASYNC_FINISH);
        }
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

static void change_mask(int how, int signal)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, signal);
    CHECK_INT(pthread_sigmask(how, &set, NULL), 0);
}

/* The signals that the thread has blocked: 1 for SIGUSR1 plus 2 for SIGUSR2. */
static int blocked_signals(void)
{
    sigset_t set;

    CHECK_INT(pthread_sigmask(SIG_SETMASK, NULL, &set), 0);
    return sigismember(&set, SIGUSR1) + 2 * sigismember(&set, SIGUSR2);
}

/* Expects SIGUSR1 blocked at the start and nothing after the pause; blocks SIGUSR2 both times. */
static int changes_the_mask(void *arg)
{
    CHECK(arg == NULL);
    CHECK_INT(blocked_signals(), 1);
    change_mask(SIG_BLOCK, SIGUSR2);
    ASYNC_pause_job();
    CHECK_INT(blocked_signals(), 0);
    change_mask(SIG_BLOCK, SIGUSR2);
    return 1;
}

CASE(the_signal_mask_is_left_alone, EVERYWHERE,
     "A switch does not touch the signal mask, which belongs to the thread and not to the job")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int run, ret;

    /* The first job has a new stack, the second a used one. */
    for (run = 0; run < 2; run++) {
        change_mask(SIG_BLOCK, SIGUSR1);
        CHECK_INT(ASYNC_start_job(&job, ctx, &ret, changes_the_mask, NULL, 0), ASYNC_PAUSE);
        CHECK_INT(blocked_signals(), 3);
        change_mask(SIG_UNBLOCK, SIGUSR1);
        change_mask(SIG_UNBLOCK, SIGUSR2);
        CHECK_INT(resume(&job, &ret), ASYNC_FINISH);
        CHECK_INT(blocked_signals(), 2);
        change_mask(SIG_UNBLOCK, SIGUSR2);
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread();
}

/* libcrypto's first switch into a job restores the mask from the time when the job was made. */
CASE(a_job_made_earlier_has_the_mask_of_now, OURS,
     "A job made by ASYNC_init_thread under another signal mask starts under the current one")
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    change_mask(SIG_BLOCK, SIGUSR1);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, changes_the_mask, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(blocked_signals(), 3);
    change_mask(SIG_UNBLOCK, SIGUSR1);
    change_mask(SIG_UNBLOCK, SIGUSR2);
    CHECK_INT(resume(&job, &ret), ASYNC_FINISH);
    CHECK_INT(blocked_signals(), 2);
    ASYNC_cleanup_thread();
}

/* ---- registers ---- */

/*
 * Calls f with mark + 1, mark + 2 and so on in the registers that a function must preserve. Returns 1
 * if they are unchanged when f returns. The mark itself is on the stack meanwhile: loading it
 * again shows that the stack pointer is unchanged too.
 */
int call_keeps_registers(void (*f)(void), uint64_t mark);
#if defined(__x86_64__)
__asm__(".pushsection .text\n"
        "call_keeps_registers:\n"
        /* Save the caller's values; the mark comes seventh, which also aligns the stack to 16. */
        "    push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; push %rsi\n"
        "    lea 1(%rsi), %rbx\n"
        "    lea 2(%rsi), %rbp\n"
        "    lea 3(%rsi), %r12\n"
        "    lea 4(%rsi), %r13\n"
        "    lea 5(%rsi), %r14\n"
        "    lea 6(%rsi), %r15\n"
        "    call *%rdi\n"
        "    pop %rsi\n" /* the mark, as f may change rsi */
        "    xor %eax, %eax\n"
        /* Each register minus the mark must be its number; on the first difference return 0. */
        "    sub %rsi, %rbx; cmp $1, %rbx; jne 1f\n"
        "    sub %rsi, %rbp; cmp $2, %rbp; jne 1f\n"
        "    sub %rsi, %r12; cmp $3, %r12; jne 1f\n"
        "    sub %rsi, %r13; cmp $4, %r13; jne 1f\n"
        "    sub %rsi, %r14; cmp $5, %r14; jne 1f\n"
        "    sub %rsi, %r15; cmp $6, %r15; jne 1f\n"
        "    inc %eax\n"
        "1:  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "    ret\n"
        ".popsection\n");
#elif defined(__aarch64__)
__asm__(".pushsection .text\n"
        ".type call_keeps_registers, %function\n"
        "call_keeps_registers:\n"
        "    stp x29, x30, [sp, #-176]!\n"
        "    stp x19, x20, [sp, #16]; stp x21, x22, [sp, #32]; stp x23, x24, [sp, #48]\n"
        "    stp x25, x26, [sp, #64]; stp x27, x28, [sp, #80]\n"
        "    stp d8, d9, [sp, #96]; stp d10, d11, [sp, #112]\n"
        "    stp d12, d13, [sp, #128]; stp d14, d15, [sp, #144]\n"
        "    str x1, [sp, #160]\n"
        "    add x19, x1, #1; add x20, x1, #2; add x21, x1, #3; add x22, x1, #4\n"
        "    add x23, x1, #5; add x24, x1, #6; add x25, x1, #7; add x26, x1, #8\n"
        "    add x27, x1, #9; add x28, x1, #10; add x29, x1, #11\n"
        "    fmov d8, x19; fmov d9, x20; fmov d10, x21; fmov d11, x22\n"
        "    fmov d12, x23; fmov d13, x24; fmov d14, x25; fmov d15, x26\n"
        "    blr x0\n"
        "    ldr x1, [sp, #160]\n"
        "    mov w0, #0\n"
        /* Each register minus the mark must be its number; on the first difference return 0. */
        "    sub x2, x19, x1; cmp x2, #1; b.ne 1f\n"
        "    sub x2, x20, x1; cmp x2, #2; b.ne 1f\n"
        "    sub x2, x21, x1; cmp x2, #3; b.ne 1f\n"
        "    sub x2, x22, x1; cmp x2, #4; b.ne 1f\n"
        "    sub x2, x23, x1; cmp x2, #5; b.ne 1f\n"
        "    sub x2, x24, x1; cmp x2, #6; b.ne 1f\n"
        "    sub x2, x25, x1; cmp x2, #7; b.ne 1f\n"
        "    sub x2, x26, x1; cmp x2, #8; b.ne 1f\n"
        "    sub x2, x27, x1; cmp x2, #9; b.ne 1f\n"
        "    sub x2, x28, x1; cmp x2, #10; b.ne 1f\n"
        "    sub x2, x29, x1; cmp x2, #11; b.ne 1f\n"
        "    fmov x2, d8; cmp x2, x19; b.ne 1f\n"
        "    fmov x2, d9; cmp x2, x20; b.ne 1f\n"
        "    fmov x2, d10; cmp x2, x21; b.ne 1f\n"
        "    fmov x2, d11; cmp x2, x22; b.ne 1f\n"
        "    fmov x2, d12; cmp x2, x23; b.ne 1f\n"
        "    fmov x2, d13; cmp x2, x24; b.ne 1f\n"
        "    fmov x2, d14; cmp x2, x25; b.ne 1f\n"
        "    fmov x2, d15; cmp x2, x26; b.ne 1f\n"
        "    mov w0, #1\n"
        "1:  ldp x19, x20, [sp, #16]; ldp x21, x22, [sp, #32]; ldp x23, x24, [sp, #48]\n"
        "    ldp x25, x26, [sp, #64]; ldp x27, x28, [sp, #80]\n"
        "    ldp d8, d9, [sp, #96]; ldp d10, d11, [sp, #112]\n"
        "    ldp d12, d13, [sp, #128]; ldp d14, d15, [sp, #144]\n"
        "    ldp x29, x30, [sp], #176\n"
        "    ret\n"
        ".popsection\n");
#endif

static void pause_current_job(void)
{
    CHECK_INT(ASYNC_pause_job(), 1);
}

static int keeps_its_registers(void *arg)
{
    uint64_t me = (uint64_t)*(int *)arg;
    int i;

    for (i = 0; i < 3; i++)
        CHECK(call_keeps_registers(pause_current_job, (0x1111111111111111 * (me + 1)) << i));
    return 1;
}

/* What take_a_turn() works on; call_keeps_registers() passes no argument. */
static struct {
    ASYNC_WAIT_CTX *ctx;
    ASYNC_JOB *job[2];
    int which, code, ret;
} turn;

/* Starts or resumes job number turn.which. */
static void take_a_turn(void)
{
    turn.code = ASYNC_start_job(&turn.job[turn.which], turn.ctx, &turn.ret, keeps_its_registers,
                                &turn.which, sizeof(turn.which));
}

CASE(registers_survive_pauses, EVERYWHERE,
     "A job and its starter each keep their callee-saved registers across a switch")
{
    uint64_t mark = 0xfedcba9876543210;
    int i;

    turn.ctx = ASYNC_WAIT_CTX_new();
    for (i = 0; i < 4; i++) {
        for (turn.which = 0; turn.which < 2; turn.which++, mark = mark << 3 | mark >> 61) {
            CHECK(call_keeps_registers(take_a_turn, mark));
            CHECK_INT(turn.code, i < 3 ? ASYNC_PAUSE : ASYNC_FINISH);
        }
    }
    ASYNC_WAIT_CTX_free(turn.ctx);
    ASYNC_cleanup_thread();
}

/* ---- floating-point modes ---- */

/* The modes that a job expects at its start, and those that it sets in turn. */
struct fp_job {
    struct fp at_start, own[2];
};

/* Pauses three times. */
static int has_its_own_fp(void *arg)
{
    struct fp_job *p = ARG(struct fp_job, arg);

    CHECK_FP(p->at_start);
    set_fp(p->own[0]);
    ASYNC_pause_job();
    CHECK_FP(p->own[0]);
    ASYNC_pause_job();
    CHECK_FP(p->own[0]);
    set_fp(p->own[1]);
    ASYNC_pause_job();
    CHECK_FP(p->own[1]);
    return 1;
}

static int starts_with_fp(void *arg)
{
    CHECK_FP(*ARG(struct fp, arg));
    return 1;
}

CASE(a_job_starts_with_its_starters_rounding, EVERYWHERE,
     "A job starts with the floating-point modes of its starter, on a new or a used stack")
{
    ASYNC_JOB *job = NULL;
    int mode, ret;

    for (mode = 3; mode >= 0; mode--) {
        struct fp fp = rounding(mode);

        set_fp(fp);
        CHECK_INT(start(&job, NULL, &ret, starts_with_fp, &fp), ASYNC_FINISH);
        CHECK_FP(fp);
    }
    ASYNC_cleanup_thread();
}

/* libcrypto's first switch into a job restores the modes from the time when the job was made. */
CASE(a_job_made_earlier_has_the_rounding_of_now, OURS,
     "A job from the pool starts with the modes of its starter, not of the code that made the job")
{
    ASYNC_JOB *job[3] = { NULL };
    int mode, ret;

    set_fp(rounding(0));
    CHECK_INT(ASYNC_init_thread(3, 3), 1);
    for (mode = 1; mode <= 3; mode++) {
        struct fp_job p = { rounding(mode), { rounding(mode - 1), rounding(0) } };

        set_fp(p.at_start);
        CHECK_INT(start(&job[mode - 1], NULL, &ret, has_its_own_fp, &p), ASYNC_PAUSE);
        CHECK_FP(p.at_start);
        CHECK_INT(resume(&job[mode - 1], &ret), ASYNC_PAUSE);
        CHECK_INT(resume(&job[mode - 1], &ret), ASYNC_PAUSE);
        CHECK_INT(resume(&job[mode - 1], &ret), ASYNC_FINISH);
        CHECK_FP(p.at_start);
    }
    ASYNC_cleanup_thread();
}

static int ends_rounding_up(void *arg)
{
    CHECK(arg == NULL);
    set_fp(rounding(2));
    return 1;
}

/* In libcrypto the starter gets the modes that the job had at its end. */
CASE(the_rounding_of_a_finished_job_is_gone, OURS,
     "The modes of a job at its end reach neither its starter nor the next job on its stack")
{
    ASYNC_JOB *job = NULL;
    struct fp down = rounding(1);
    int ret;

    set_fp(down);
    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, ends_rounding_up, NULL, 0), ASYNC_FINISH);
    CHECK_FP(down);
    CHECK_INT(start(&job, NULL, &ret, starts_with_fp, &down), ASYNC_FINISH);
    CHECK_FP(down);
    ASYNC_cleanup_thread();
}

/* Two jobs and their starter take turns; the starter changes its own modes between them. */
static void take_turns_with_fp(struct fp first, struct fp second, struct fp third)
{
    struct fp_job a = { first, { second, third } }, b = { third, { first, second } };
    ASYNC_JOB *job[2] = { NULL };
    int i, ret;

    set_fp(a.at_start);
    CHECK_INT(start(&job[0], NULL, &ret, has_its_own_fp, &a), ASYNC_PAUSE);
    CHECK_FP(a.at_start);
    set_fp(b.at_start);
    CHECK_INT(start(&job[1], NULL, &ret, has_its_own_fp, &b), ASYNC_PAUSE);
    CHECK_FP(b.at_start);
    for (i = 0; i < 6; i++) {
        struct fp starters = i % 3 == 0 ? first : i % 3 == 1 ? second : third;

        set_fp(starters);
        CHECK_INT(resume(&job[i % 2], &ret), i < 4 ? ASYNC_PAUSE : ASYNC_FINISH);
        CHECK_FP(starters);
    }
}

/* In libcrypto all share one set of modes: the last that anybody set. */
CASE(jobs_and_starter_each_keep_their_rounding, OURS,
     "A job keeps its rounding modes across pauses, and its starter gets its own at each switch")
{
    take_turns_with_fp(rounding(0), rounding(1), rounding(2));
    take_turns_with_fp(rounding(3), rounding(2), rounding(1));
    set_fp(rounding(0));
    ASYNC_cleanup_thread();
}

/*
 * As in the case before, libcrypto shares one set. NOT_ON_VALGRIND: the processor that it emulates
 * has rounding modes only.
 */
CASE(jobs_and_starter_each_keep_all_of_their_modes, OURS | NOT_ON_VALGRIND,
     "All bits of the control registers are each job's own, and its starter's own")
{
    take_turns_with_fp(odd_modes[0], odd_modes[1], odd_modes[2]);
    take_turns_with_fp(odd_modes[2], odd_modes[0], odd_modes[1]);
    set_fp(rounding(0));
    ASYNC_cleanup_thread();
}
