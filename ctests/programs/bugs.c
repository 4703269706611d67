/* bugs.c: each case has a bug in a function that a job calls; a sanitizer has to report it. */
#include "jobs.h"
#include <sched.h>

#define NOINLINE __attribute__((noinline))

/* ---- the bugs ---- */

/* Volatile variables, and `zero`, keep the compiler from finding a bug by itself. */
static int zero;

NOINLINE static void write_past_the_end(void)
{
    char letters[100];
    volatile char *volatile end = letters + sizeof letters;

    *end = 'a';
}

NOINLINE static char *give_local(void)
{
    char local[100];
    char *volatile place = local;

    memset(place, 1, sizeof local);
    return place;
}

NOINLINE static void use_after_return(void)
{
    zero = *(volatile char *)give_local() - 1;
}

NOINLINE static void use_after_free(void)
{
    volatile char *memory = malloc(100);

    free((void *)memory);
    memory[zero] = 1;
}

NOINLINE static void lose_memory(void)
{
    char *volatile memory = malloc(100);

    memory[zero] = 1;
}

NOINLINE static int recurse_without_end(volatile char *above)
{
    volatile char frame[1000];

    frame[zero] = above[zero];
    if (zero != 0) /* never */
        return 0;
    return recurse_without_end(frame) + frame[zero];
}

NOINLINE static void overflow_an_int(void)
{
    volatile int largest = 0x7fffffff;

    largest = largest + 1;
}

/* The variable of the race, and whose turn it is to write it. */
static int shared, next_turn, turn;

/*
 * Two threads increment the variable in turns, while both are in this function. The turns are
 * relaxed operations, which do not order the increments: it is a data race.
 */
NOINLINE static void increment_unlocked(void)
{
    int mine = __atomic_fetch_add(&next_turn, 1, __ATOMIC_RELAXED);

    while (__atomic_load_n(&turn, __ATOMIC_RELAXED) != mine)
        sched_yield();
    shared++;
    __atomic_fetch_add(&turn, 1, __ATOMIC_RELAXED);
    while (__atomic_load_n(&turn, __ATOMIC_RELAXED) < 2)
        sched_yield();
}

/* ---- the jobs: with the bug at once, after a pause, or in a nested job ---- */

typedef void bug(void);

static int at_once(void *arg)
{
    ARG(bug, arg)();
    return 0;
}

static int after_a_pause(void *arg)
{
    char array[500];

    memset(array, 1, sizeof array);
    CHECK_INT(ASYNC_pause_job(), 1);
    ARG(bug, arg)();
    return array[zero] - 1;
}

static void run(int (*func)(void *), bug *bug)
{
    ASYNC_JOB *job = NULL;
    int ret, code = ASYNC_start_job(&job, NULL, &ret, func, &bug, sizeof bug);

    while (code == ASYNC_PAUSE)
        code = resume(&job, &ret);
    CHECK_INT(code, ASYNC_FINISH);
    CHECK_INT(ret, 0);
}

static int in_a_nested_job(void *arg)
{
    run(after_a_pause, ARG(bug, arg));
    return 0;
}

CASE(array, OURS, "a job writes past the end of an array on its stack")
{
    run(at_once, write_past_the_end);
}

CASE(array_after_a_pause, OURS, "a job that was resumed writes past the end of an array")
{
    run(after_a_pause, write_past_the_end);
}

CASE(array_in_a_nested_job, OURS, "a nested job writes past the end of an array")
{
    run(in_a_nested_job, write_past_the_end);
}

CASE(returned, OURS, "a job reads a local variable of a function that has returned")
{
    run(after_a_pause, use_after_return);
}

CASE(freed, OURS, "a job writes memory that it has freed")
{
    run(after_a_pause, use_after_free);
}

CASE(leak, OURS, "a job has lost memory when it finishes")
{
    run(after_a_pause, lose_memory);
}

static void recurse(void)
{
    volatile char above = 0;

    zero = recurse_without_end(&above);
}

CASE(recursion, OURS, "a job recurses without end")
{
    run(after_a_pause, recurse);
}

CASE(overflow, OURS, "an int of a job overflows")
{
    run(after_a_pause, overflow_an_int);
}

static void *increments(void *arg)
{
    increment_unlocked();
    return arg;
}

static void *increments_in_a_job(void *arg)
{
    run(after_a_pause, increment_unlocked);
    return arg;
}

static void race(void *(*func)(void *), void *(*other)(void *))
{
    pthread_t threads[2];

    CHECK_INT(pthread_create(&threads[0], NULL, func, NULL), 0);
    CHECK_INT(pthread_create(&threads[1], NULL, other, NULL), 0);
    for (int i = 0; i < 2; i++)
        CHECK_INT(pthread_join(threads[i], NULL), 0);
}

CASE(race_with_a_thread, OURS, "a job and another thread write the same variable")
{
    race(increments_in_a_job, increments);
}

CASE(race_of_two_jobs, OURS, "jobs of two threads write the same variable")
{
    race(increments_in_a_job, increments_in_a_job);
}
