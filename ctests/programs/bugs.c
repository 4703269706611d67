/* bugs.c: cases with a bug each, in a function that a job calls, for a sanitizer to find. */
#include "check.h"
#include <pthread.h>
#include <sched.h>

#define NOINLINE __attribute__((noinline))

static int zero;

/* The bugs. What is volatile keeps the compiler from seeing them. */

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
    if (zero != 0) /* it is 0 */
        return 0;
    return recurse_without_end(frame) + frame[zero];
}

NOINLINE static void overflow_an_int(void)
{
    volatile int largest = 0x7fffffff;

    largest = largest + 1;
}

static int shared, next_turn, turn;

/* Two threads do it, one after the other, while both are here. Relaxed operations order nothing. */
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

/* How a job comes to them: at once, after a pause, or in a job of its own. */

typedef void bug(void);

static int at_once(void *arg)
{
    (*(bug **)arg)();
    return 0;
}

static int after_a_pause(void *arg)
{
    char array[500];

    memset(array, 1, sizeof array);
    CHECK_INT(ASYNC_pause_job(), 1);
    (*(bug **)arg)();
    return array[zero] - 1;
}

static void run(int (*func)(void *), bug *bug)
{
    ASYNC_JOB *job = NULL;
    int ret, code = ASYNC_start_job(&job, NULL, &ret, func, &bug, sizeof bug);

    while (code == ASYNC_PAUSE)
        code = ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0);
    CHECK_INT(code, ASYNC_FINISH);
    CHECK_INT(ret, 0);
}

static int in_a_nested_job(void *arg)
{
    run(after_a_pause, *(bug **)arg);
    return 0;
}

CASE(array, OURS, "an array of a job is written past its end")
{
    run(at_once, write_past_the_end);
}

CASE(array_after_a_pause, OURS, "the same after a pause")
{
    run(after_a_pause, write_past_the_end);
}

CASE(array_in_a_nested_job, OURS, "the same in a job that a job resumed")
{
    run(in_a_nested_job, write_past_the_end);
}

CASE(returned, OURS, "a local variable is read when its function has returned")
{
    run(after_a_pause, use_after_return);
}

CASE(freed, OURS, "memory is written that was freed")
{
    run(after_a_pause, use_after_free);
}

CASE(leak, OURS, "a job that has finished has lost memory")
{
    run(after_a_pause, lose_memory);
}

static void recurse(void)
{
    volatile char above = 0;

    zero = recurse_without_end(&above);
}

CASE(recursion, OURS, "a recursion without end")
{
    run(after_a_pause, recurse);
}

CASE(overflow, OURS, "an int overflows")
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
