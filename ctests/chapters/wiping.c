/*
 * wiping.c: with RSASYNC_WIPE_STACKS=1 nobody finds on a stack, or in a copy of arguments, what a
 * finished job has left there.
 */
#include "environment.h"
#include "jobs.h"
#include <sys/mman.h>

/* All cases are OURS: libcrypto wipes nothing. On valgrind such memory can't be read. */
enum { WIPED = OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN };

#ifndef ON_LIBCRYPTO
enum { KIB = 1024, DEEP_BYTES = 48 * KIB };
static const char secret[] = "a secret that a job has left on its stack";

/* Fills much of the stack with copies of the secret. */
__attribute__((noinline)) static int leave_secrets(void)
{
    volatile char copies[DEEP_BYTES];

    for (size_t i = 0; i < DEEP_BYTES; i++)
        copies[i] = secret[i % sizeof secret];
    return copies[7];
}

static int keeps_secrets(void *unused)
{
    (void)unused;
    leave_secrets();
    ASYNC_pause_job();
    return 0;
}

/* How often the secret is in the memory from `start` to `end`. */
__attribute__((noinline)) static int count_secrets(const char *start, const char *end)
{
    int found = 0;

    for (; start < end - sizeof secret; start++)
        found += memcmp(start, secret, sizeof secret) == 0;
    return found;
}

/* Returns how many secrets lie below it on its stack. */
static int looks_for_secrets(void *unused)
{
    const char *here = __builtin_frame_address(0);

    (void)unused;
    return count_secrets(here - DEEP_BYTES - KIB, here - KIB);
}

static int run(int (*func)(void *), void *args, size_t size)
{
    ASYNC_JOB *job = NULL;
    int ret, code;

    while ((code = ASYNC_start_job(&job, NULL, &ret, func, args, size)) == ASYNC_PAUSE)
        ;
    CHECK_INT(code, ASYNC_FINISH);
    return ret;
}

static int secrets_on_the_next_stack(void)
{
    run(keeps_secrets, NULL, 0);
    return run(looks_for_secrets, NULL, 0);
}

CASE(the_next_job_finds_nothing, WIPED,
     "a job finds on its stack what the job before has left; with RSASYNC_WIPE_STACKS=1 nothing")
{
    if (runs_again_with() == NULL) {
        CHECK(secrets_on_the_next_stack() > 100);
        run_again_with(__func__, "RSASYNC_WIPE_STACKS", "1");
        return;
    }
    CHECK_INT(secrets_on_the_next_stack(), 0);
    ASYNC_cleanup_thread();
    CHECK_INT(run(looks_for_secrets, NULL, 0), 0);
}

static int touches_little(void *unused)
{
    (void)unused;
    return 3;
}

CASE(a_paused_job_is_left_alone, WIPED,
     "with RSASYNC_WIPE_STACKS=1 jobs keep what they have on their stacks until they finish")
{
    ASYNC_JOB *paused;

    if (runs_again_with() == NULL) {
        run_again_with(__func__, "RSASYNC_WIPE_STACKS", "1");
        return;
    }
    paused = paused_job(NULL, 100, 7);
    for (int i = 0; i < 99; i++) {
        CHECK_INT(run(touches_little, NULL, 0), 3);
        resume_to_pause(paused);
    }
    finish(paused, 7);
}

/* ---- a program's own stacks ---- */

static char *own_stack;
static int secrets_when_freed = -1;

static void *give_stack(size_t *num)
{
    *num = 100 * KIB + 4; /* not a multiple of 8 */
    own_stack = malloc(*num);
    return own_stack;
}

static void take_stack(void *stack)
{
    CHECK(stack == own_stack);
    secrets_when_freed = count_secrets(own_stack, own_stack + 100 * KIB);
    free(stack);
}

static void free_own_stack(void)
{
    CHECK_INT(ASYNC_set_mem_functions(give_stack, take_stack), 1);
    run(keeps_secrets, NULL, 0);
    ASYNC_cleanup_thread();
}

CASE(a_programs_own_stacks_are_wiped, WIPED,
     "the program's own function gets back a stack without what the job has left")
{
    free_own_stack();
    if (runs_again_with() == NULL) {
        CHECK(secrets_when_freed > 100);
        run_again_with(__func__, "RSASYNC_WIPE_STACKS", "1");
        return;
    }
    CHECK_INT(secrets_when_freed, 0);
}

static void *give_guarded_stack(size_t *num)
{
    *num = 64 * KIB + (size_t)sysconf(_SC_PAGESIZE);
    own_stack = mmap(NULL, *num, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(own_stack != MAP_FAILED);
    CHECK_INT(mprotect(own_stack, (size_t)sysconf(_SC_PAGESIZE), PROT_NONE), 0);
    return own_stack;
}

static void take_guarded_stack(void *stack)
{
    char *usable = (char *)stack + (size_t)sysconf(_SC_PAGESIZE);

    secrets_when_freed = count_secrets(usable, usable + 64 * KIB);
    CHECK_INT(munmap(stack, 64 * KIB + (size_t)sysconf(_SC_PAGESIZE)), 0);
}

CASE(a_programs_own_guard_is_left_alone, WIPED,
     "of a stack that begins with a guard of the program's own, the rest is wiped")
{
    if (runs_again_with() == NULL) {
        run_again_with(__func__, "RSASYNC_WIPE_STACKS", "1");
        return;
    }
    CHECK_INT(ASYNC_set_mem_functions(give_guarded_stack, take_guarded_stack), 1);
    run(keeps_secrets, NULL, 0);
    ASYNC_cleanup_thread();
    CHECK_INT(secrets_when_freed, 0);
}

/* ---- copies of arguments ---- */

#ifdef __GLIBC__ /* musl has no other name for free() */
/* free() of this program: counts the secrets in what the library frees. */
static int secrets_in_freed_args = -1;
extern void __libc_free(void *memory);
static void *watched;

void free(void *memory)
{
    if (memory != NULL && memory == watched)
        secrets_in_freed_args = count_secrets(memory, (char *)memory + 8 * KIB);
    __libc_free(memory);
}

static int watches_its_args(void *args)
{
    watched = args;
    return 0;
}

CASE(a_copy_of_arguments_is_wiped, WIPED,
     "a copy of arguments on the heap is wiped before it is freed")
{
    static char args[8 * KIB];

    for (size_t i = 0; i < sizeof args; i++)
        args[i] = secret[i % sizeof secret];
    run(watches_its_args, args, sizeof args);
    if (runs_again_with() == NULL) {
        CHECK(secrets_in_freed_args > 100);
        run_again_with(__func__, "RSASYNC_WIPE_STACKS", "1");
        return;
    }
    CHECK_INT(secrets_in_freed_args, 0);
}
#endif
#endif
