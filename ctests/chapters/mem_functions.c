/*
 * mem_functions.c: ASYNC_set_mem_functions sets a program's own alloc and free for the stacks of
 * jobs, until the first stack is allocated; ASYNC_get_mem_functions gives those in place.
 */
#include "environment.h"
#include "jobs.h"
#include "process.h"
#include <alloca.h>
#include <signal.h>

enum { KIB = 1024 };
/* What a program's alloc is asked for, as by libcrypto. */
enum { ASKED_BYTES = 32768 };

static void check_queue_is_empty(void)
{
#ifdef WITH_LIBCRYPTO
    CHECK_INT(ERR_peek_error(), 0);
#endif
}

/*
 * The record of the allocators below: the size that was asked for last, the stacks allocated and
 * not yet freed, the number of calls. One thread at a time uses it.
 */
static size_t asked;
static void *allocated[64];
static int allocs, frees;
/* The number of the first allocation that fails, counted from 0. */
static int failing_from = 1 << 30;

/* Records the stack as allocated, and returns it. */
static void *record_alloc(void *stack)
{
    int i;

    for (i = 0; allocated[i] != NULL; i++)
        CHECK(i < 63);
    allocs++;
    return allocated[i] = stack;
}

/* Records the stack as freed. It has to be in the record: no other stack, and none freed twice. */
static void record_free(void *stack)
{
    int i;

    CHECK(stack != NULL);
    for (i = 0; allocated[i] != stack; i++)
        CHECK(i < 63);
    allocated[i] = NULL;
    frees++;
}

static void check_all_freed(int count)
{
    int i;

    CHECK_INT(allocs, count);
    CHECK_INT(frees, count);
    for (i = 0; i < 64; i++)
        CHECK(allocated[i] == NULL);
}

/* An allocator of 64 KiB stacks on the heap. */
static void *heap_alloc(size_t *num)
{
    void *stack;

    asked = *num;
    if (allocs >= failing_from)
        return NULL;
    *num = 64 * KIB;
    stack = malloc(*num);
    CHECK(stack != NULL);
    return record_alloc(stack);
}

static void heap_free(void *stack)
{
    record_free(stack);
    free(stack);
}

static void check_functions(ASYNC_stack_alloc_fn alloc, ASYNC_stack_free_fn dealloc)
{
    ASYNC_stack_alloc_fn alloc_now = NULL;
    ASYNC_stack_free_fn dealloc_now = NULL;

    ASYNC_get_mem_functions(&alloc_now, &dealloc_now);
    CHECK(alloc_now == alloc);
    CHECK(dealloc_now == dealloc);
}

static int give_5(void *arg)
{
    (void)arg;
    return 5;
}

/* libcrypto cannot resume a job without a wait context: this is the context of all jobs. */
static ASYNC_WAIT_CTX *shared_ctx(void)
{
    static ASYNC_WAIT_CTX *ctx;

    if (ctx == NULL)
        ctx = ASYNC_WAIT_CTX_new();
    CHECK(ctx != NULL);
    return ctx;
}

static ASYNC_JOB *start_paused(void)
{
    return paused_job(shared_ctx(), 1, 6);
}

/* ---- when the functions can be set ---- */

CASE(set_before_the_first_stack_is_1, SINCE_3_2,
     "the functions can be set any number of times before the first stack is allocated")
{
    ASYNC_stack_alloc_fn alloc;
    ASYNC_stack_free_fn dealloc;

    ASYNC_get_mem_functions(&alloc, &dealloc);
    CHECK(alloc != NULL && dealloc != NULL && alloc != heap_alloc && dealloc != heap_free);
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    check_functions(heap_alloc, heap_free);
    CHECK_INT(ASYNC_set_mem_functions(alloc, dealloc), 1);
    check_functions(alloc, dealloc);
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    check_functions(heap_alloc, heap_free);
    CHECK_INT(allocs, 0);
}

CASE(calls_without_a_stack_do_not_count, OURS,
     "a pool without idle jobs, wait contexts and refused starts allocate no stack: after them the "
     "functions can be set")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_init_thread(5, 0), 1);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, NULL, NULL, 0), ASYNC_ERR);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(ASYNC_pause_job(), 1);
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(ctx);
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
}

static void *set_in_a_thread(void *arg)
{
    (void)arg;
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 0);
    return NULL;
}

CASE(set_after_the_first_stack_is_0, SINCE_3_2,
     "after the first stack is allocated setting them is 0 in every thread, changes nothing and "
     "queues no error")
{
    ASYNC_stack_alloc_fn alloc;
    ASYNC_stack_free_fn dealloc;

    ASYNC_get_mem_functions(&alloc, &dealloc);
    finish(start_paused(), 6);
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 0);
    check_functions(alloc, dealloc);
    on_new_thread(set_in_a_thread, NULL);
    /* The same when that stack is freed. */
    ASYNC_cleanup_thread();
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 0);
    CHECK_INT(ASYNC_set_mem_functions(NULL, NULL), 0);
    check_functions(alloc, dealloc);
    check_queue_is_empty();
    finish(start_paused(), 6);
    CHECK_INT(allocs, 0);
    ASYNC_cleanup_thread();
}

CASE(the_stack_of_an_idle_job_is_a_first_stack, SINCE_3_2,
     "after ASYNC_init_thread has made an idle job the functions cannot be set")
{
    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 0);
    ASYNC_cleanup_thread();
}

CASE(a_failed_allocation_is_a_first_stack, OURS,
     "after a first allocation that failed the functions cannot be set")
{
    ASYNC_JOB *job = NULL;
    int ret;

    failing_from = 0;
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, give_5, NULL, 0), ASYNC_NO_JOBS);
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 0);
    ASYNC_cleanup_thread();
}

CASE(null_keeps_the_one_in_place, SINCE_3_2,
     "NULL for alloc or free leaves that function as it is; the call is 1")
{
    ASYNC_stack_alloc_fn alloc;
    ASYNC_stack_free_fn dealloc;

    ASYNC_get_mem_functions(&alloc, &dealloc);
    CHECK_INT(ASYNC_set_mem_functions(NULL, NULL), 1);
    check_functions(alloc, dealloc);
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, NULL), 1);
    check_functions(heap_alloc, dealloc);
    CHECK_INT(ASYNC_set_mem_functions(NULL, heap_free), 1);
    check_functions(heap_alloc, heap_free);
    CHECK_INT(ASYNC_set_mem_functions(NULL, NULL), 1);
    check_functions(heap_alloc, heap_free);
}

static void *malloc_of(size_t *num)
{
    return malloc(*num);
}

static void run_a_job_and_clean_up(void)
{
    finish(paused_job(NULL, 1, 6), 6);
    ASYNC_cleanup_thread();
}

/* libcrypto's default functions are malloc and free; a program may replace only one of them. */
CASE(an_alloc_on_malloc_works_with_the_default_free, OURS,
     "the default free frees a stack that a program's own alloc has from malloc")
{
    CHECK_INT(ASYNC_set_mem_functions(malloc_of, NULL), 1);
    run_a_job_and_clean_up();
}

CASE(free_works_with_the_default_alloc, OURS,
     "if only free is the program's own, the default alloc gives memory of malloc, which the C "
     "library's free can free")
{
    CHECK_INT(ASYNC_set_mem_functions(NULL, free), 1);
    run_a_job_and_clean_up();
}

CASE(the_default_free_given_back_changes_nothing, SINCE_3_2,
     "the default alloc stays if a program sets the default free, which it has asked for")
{
    ASYNC_stack_alloc_fn alloc, alloc_after;
    ASYNC_stack_free_fn dealloc, dealloc_after;

    ASYNC_get_mem_functions(&alloc, &dealloc);
    CHECK_INT(ASYNC_set_mem_functions(NULL, dealloc), 1);
    ASYNC_get_mem_functions(&alloc_after, &dealloc_after);
    CHECK(alloc_after == alloc && dealloc_after == dealloc);
}

CASE(get_takes_null, SINCE_3_2,
     "ASYNC_get_mem_functions fills the outputs that are not NULL")
{
    ASYNC_stack_alloc_fn alloc = NULL, both_alloc;
    ASYNC_stack_free_fn dealloc = NULL, both_dealloc;

    ASYNC_get_mem_functions(&both_alloc, &both_dealloc);
    ASYNC_get_mem_functions(&alloc, NULL);
    ASYNC_get_mem_functions(NULL, &dealloc);
    ASYNC_get_mem_functions(NULL, NULL);
    CHECK(alloc == both_alloc);
    CHECK(dealloc == both_dealloc);
}

/* ---- the default functions ---- */

static void check_default_alloc(size_t size)
{
    ASYNC_stack_alloc_fn alloc;
    ASYNC_stack_free_fn dealloc;
    unsigned char *stack, *other;
    size_t num = size, num_other = size, i;

    ASYNC_get_mem_functions(&alloc, &dealloc);
    stack = alloc(&num);
    other = alloc(&num_other);
    CHECK(stack != NULL && other != NULL);
    CHECK(num >= size && num_other >= size);
    CHECK_INT((uintptr_t)stack % (uintptr_t)sysconf(_SC_PAGESIZE), 0);
    CHECK(stack + num <= other || other + num_other <= stack);
    memset(stack, 0x11, num);
    memset(other, 0x22, num_other);
    for (i = 0; i < num; i++)
        CHECK(stack[i] == 0x11);
    dealloc(stack);
    for (i = 0; i < num_other; i++)
        CHECK(other[i] == 0x22);
    dealloc(other);
}

CASE(the_default_alloc_gives_memory, OURS,
     "the default alloc gives page-aligned, writable memory, at least as much as asked for")
{
    check_default_alloc(10);
    check_default_alloc(ASKED_BYTES);
    check_default_alloc(128 * KIB);
    check_default_alloc(1024 * KIB);
}

static size_t stack_bytes, offset_below;

static void write_below_a_default_stack(void)
{
    ASYNC_stack_alloc_fn alloc;
    ASYNC_stack_free_fn dealloc;
    volatile unsigned char *stack;
    size_t num = stack_bytes, i;

    ASYNC_get_mem_functions(&alloc, &dealloc);
    /* Other stacks lie below this one in memory, whatever the order: only a guard can fault. */
    for (i = 0; i < 8; i++) {
        num = stack_bytes;
        CHECK(alloc(&num) != NULL);
    }
    num = stack_bytes;
    stack = alloc(&num);
    for (i = 0; i < 8; i++) {
        num = stack_bytes;
        CHECK(alloc(&num) != NULL);
    }
    stack[0] = stack[num - 1] = 1;
    *(stack - offset_below) = 1;
}

/* valgrind reports the write as an error. */
CASE(the_default_alloc_guards_what_it_gives, OURS | NOT_ON_VALGRIND,
     "a write to the 64 KiB below memory of the default alloc faults")
{
    static const size_t sizes[] = { 10, ASKED_BYTES, 1024 * KIB };
    static const size_t offsets[] = { 1, 4096, 4097, 32 * KIB, GUARD_BYTES };
    size_t i, j;

    for (i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (j = 0; j < sizeof offsets / sizeof *offsets; j++) {
            stack_bytes = sizes[i];
            offset_below = offsets[j];
            CHECK_INT(check_child(write_below_a_default_stack, 1), SIGSEGV);
        }
}

static ASYNC_stack_alloc_fn default_alloc;
static ASYNC_stack_free_fn default_free;

static void *forward_alloc(size_t *num)
{
    void *stack = default_alloc(num);

    CHECK(stack != NULL);
    return record_alloc(stack);
}

static void forward_free(void *stack)
{
    record_free(stack);
    default_free(stack);
}

CASE(the_defaults_can_be_wrapped, SINCE_3_2,
     "a program's functions may call the default ones")
{
    ASYNC_JOB *first, *second;

    ASYNC_get_mem_functions(&default_alloc, &default_free);
    CHECK_INT(ASYNC_set_mem_functions(forward_alloc, forward_free), 1);
    first = start_paused();
    second = start_paused();
    CHECK_INT(allocs, 2);
    finish(first, 6);
    finish(second, 6);
    CHECK_INT(frees, 0);
    ASYNC_cleanup_thread();
    check_all_freed(2);
}

/* ---- sizes of a program's own stacks ---- */

CASE(alloc_is_asked_for_32768_bytes, SINCE_3_2,
     "each call of a program's alloc asks for 32,768 bytes")
{
    ASYNC_JOB *first, *second;

    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    first = start_paused();
    CHECK_INT(asked, ASKED_BYTES);
    asked = 0;
    second = start_paused();
    CHECK_INT(asked, ASKED_BYTES);
    finish(first, 6);
    finish(second, 6);
    asked = 0;
    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    CHECK_INT(asked, ASKED_BYTES);
    ASYNC_cleanup_thread();
}

CASE(alloc_is_asked_for_rsasync_stack_size, OURS | NOT_ON_VALGRIND,
     "with RSASYNC_STACK_SIZE in the environment a program's alloc is asked for that")
{
    if (runs_again_with() == NULL) {
        run_again_silently(__func__, "48K", "");
        return;
    }
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    finish(start_paused(), 6);
    CHECK_INT(asked, 48 * KIB);
    ASYNC_cleanup_thread();
}

/*
 * The stack of the cases below is a piece out of the middle of an arena. The rest of the arena is
 * filled with a pattern, which shows each byte that is written outside of the piece. The job uses
 * `use` bytes; the rest of the piece is for its call of ASYNC_pause_job, which the dynamic linker
 * may have to bind.
 */
enum { ARENA_BYTES = 512 * KIB, PATTERN = 0xa5 };
static unsigned char arena[ARENA_BYTES];
static size_t piece_at, piece_size, use;

static void *piece_alloc(size_t *num)
{
    *num = piece_size;
    return record_alloc(arena + piece_at);
}

static int use_stack(void *arg)
{
    volatile unsigned char *block = alloca(use);
    size_t i;

    (void)arg;
    CHECK(block >= arena + piece_at && block + use <= arena + piece_at + piece_size);
    for (i = 0; i < use; i++)
        block[i] = (unsigned char)i;
    CHECK_INT(ASYNC_pause_job(), 1);
    for (i = 0; i < use; i++)
        CHECK(block[i] == (unsigned char)i);
    return 6;
}

static void check_piece(size_t at, size_t size, size_t used)
{
    ASYNC_JOB *job = NULL;
    size_t i;
    int ret, round;

    piece_at = at;
    piece_size = size;
    use = used;
    memset(arena, PATTERN, sizeof arena);
    CHECK_INT(ASYNC_set_mem_functions(piece_alloc, record_free), 1);
    /* The second round has the same stack, from the pool. */
    for (round = 0; round < 2; round++) {
        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, use_stack, NULL, 0), ASYNC_PAUSE);
        finish(job, 6);
        job = NULL;
    }
    ASYNC_cleanup_thread();
    check_all_freed(1);
    for (i = 0; i < at; i++)
        CHECK(arena[i] == PATTERN);
    for (i = at + size; i < sizeof arena; i++)
        CHECK(arena[i] == PATTERN);
}

CASE(a_larger_stack_is_used_whole, OURS,
     "a job can use all of a stack that alloc made larger than asked, and no byte outside is "
     "written")
{
    check_piece(128 * KIB, 64 * KIB, 56 * KIB);
}

CASE(a_smaller_stack_is_not_overrun, OURS,
     "alloc may make a stack smaller than asked, and no byte outside is written")
{
    check_piece(128 * KIB, 16 * KIB, 8 * KIB);
}

CASE(a_stack_below_2_kib_is_refused, OURS,
     "a stack of 2 KiB serves a job; a smaller one goes to free at once, and there is no job")
{
    static const size_t too_small[] = { 0, 1, 64, 2 * KIB - 1 };
    ASYNC_JOB *job = NULL;
    int i, ret = 77;

    CHECK_INT(ASYNC_set_mem_functions(piece_alloc, record_free), 1);
    memset(arena, PATTERN, sizeof arena);
    piece_at = 128 * KIB;
    for (i = 0; i < 4; i++) {
        piece_size = too_small[i];
        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, give_5, NULL, 0), ASYNC_NO_JOBS);
        CHECK_INT(ret, 77);
        check_all_freed(i + 1);
    }
    check_queue_is_empty();
    piece_size = 2 * KIB;
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, give_5, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 5);
    ASYNC_cleanup_thread();
    check_all_freed(5);
    for (i = 0; i < ARENA_BYTES; i++)
        CHECK((size_t)i - piece_at < piece_size || arena[i] == PATTERN);
}

CASE(a_stack_may_lie_anywhere, OURS,
     "a stack need not be aligned, and its size may be odd")
{
    check_piece(128 * KIB + 9, 41 * KIB + 5, 33 * KIB);
}

CASE(without_a_stack_there_are_no_jobs, OURS,
     "NULL from alloc is ASYNC_NO_JOBS, with a message and no error queued, and does not count "
     "against the limit")
{
    ASYNC_JOB *first, *second = NULL;
    int ret = 77;

    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    CHECK_INT(ASYNC_init_thread(2, 0), 1);
    failing_from = 1;
    first = start_paused();
#ifndef ON_LIBCRYPTO
    CHECK_STR(RSASYNC_last_error(), "");
#endif
    CHECK_INT(ASYNC_start_job(&second, NULL, &ret, give_5, NULL, 0), ASYNC_NO_JOBS);
    CHECK(second == NULL);
    CHECK_INT(ret, 77);
#ifndef ON_LIBCRYPTO
    CHECK(RSASYNC_last_error()[0] != '\0');
#endif
    check_queue_is_empty();
    /* The limit of 2 allows another job once alloc succeeds again. */
    failing_from = 1 << 30;
    second = start_paused();
    finish(first, 6);
    finish(second, 6);
    ASYNC_cleanup_thread();
    check_all_freed(2);
}

CASE(init_makes_what_it_can, OURS,
     "ASYNC_init_thread is 1 if alloc fails half-way: it makes fewer jobs, and queues no error")
{
    ASYNC_JOB *jobs[5] = { NULL };
    int i, ret;

    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    failing_from = 3;
    CHECK_INT(ASYNC_init_thread(5, 5), 1);
    CHECK_INT(allocs, 3);
    check_queue_is_empty();
    for (i = 0; i < 3; i++)
        jobs[i] = start_paused();
    CHECK_INT(ASYNC_start_job(&jobs[3], NULL, &ret, give_5, NULL, 0), ASYNC_NO_JOBS);
    /* Only the jobs that were made count against the limit. */
    failing_from = 1 << 30;
    for (i = 3; i < 5; i++)
        jobs[i] = start_paused();
    CHECK_INT(allocs, 5);
    for (i = 0; i < 5; i++)
        finish(jobs[i], 6);
    ASYNC_cleanup_thread();
    check_all_freed(5);
}

CASE(each_stack_is_freed_once, SINCE_3_2,
     "a stack stays with its idle job; freeing the pool calls free once for each stack of alloc")
{
    ASYNC_JOB *jobs[20];
    int i;

    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    CHECK_INT(ASYNC_init_thread(0, 0), 1);
    for (i = 0; i < 20; i++)
        jobs[i] = start_paused();
    for (i = 0; i < 20; i++)
        finish(jobs[(i * 7) % 20], 6);
    for (i = 0; i < 50; i++)
        finish(start_paused(), 6);
    CHECK_INT(allocs, 20);
    CHECK_INT(frees, 0);
    ASYNC_cleanup_thread();
    check_all_freed(20);
}

CASE(a_paused_job_keeps_its_stack, OURS,
     "ASYNC_cleanup_thread frees the stacks of idle jobs; a paused job keeps its own until it has "
     "finished")
{
    ASYNC_JOB *job;

    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    CHECK_INT(ASYNC_init_thread(3, 3), 1);
    job = start_paused();
    ASYNC_cleanup_thread();
    CHECK_INT(frees, 2);
    finish(job, 6);
    ASYNC_cleanup_thread();
    check_all_freed(3);
}

static void *have_jobs(void *arg)
{
    (void)arg;
    CHECK_INT(ASYNC_init_thread(3, 3), 1);
    finish(start_paused(), 6);
    CHECK_INT(frees, 0);
    return NULL;
}

CASE(a_threads_end_frees_its_stacks, SINCE_3_2,
     "the end of a thread frees the stacks of its idle jobs without ASYNC_cleanup_thread")
{
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    on_new_thread(have_jobs, NULL);
    check_all_freed(3);
}

#ifndef ON_LIBCRYPTO
CASE(own_stacks_are_not_counted_as_unguarded, OURS,
     "stacks_unguarded does not count stacks of a program's own alloc, which have no guard")
{
    struct rsasync_stats stats;
    ASYNC_JOB *job;

    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    job = start_paused();
    RSASYNC_get_stats(&stats, sizeof stats);
    CHECK_INT(stats.stacks_unguarded, 0);
    finish(job, 6);
    ASYNC_cleanup_thread();
}
#endif

/* ---- setting the functions while other threads start jobs ---- */

/* Two pairs of functions: alloc writes its mark below the stack, and free expects its own there. */
enum { RED = 1, BLUE = 2 };

static void *marked_alloc(size_t *num, int mark)
{
    char *block = malloc(*num + 64);

    CHECK(block != NULL);
    block[0] = (char)mark;
    return block + 64;
}

static void marked_free(void *stack, int mark)
{
    char *block = (char *)stack - 64;

    CHECK_INT(block[0], mark);
    free(block);
}

static void *red_alloc(size_t *num)
{
    return marked_alloc(num, RED);
}

static void red_free(void *stack)
{
    marked_free(stack, RED);
}

static void *blue_alloc(size_t *num)
{
    return marked_alloc(num, BLUE);
}

static void blue_free(void *stack)
{
    marked_free(stack, BLUE);
}

static pthread_barrier_t all_ready;

static void *set_until_refused(void *arg)
{
    (void)arg;
    pthread_barrier_wait(&all_ready);
    while (ASYNC_set_mem_functions(red_alloc, red_free)
           && ASYNC_set_mem_functions(blue_alloc, blue_free))
        ;
    return NULL;
}

static void *get_and_start(void *arg)
{
    ASYNC_stack_alloc_fn alloc;
    ASYNC_stack_free_fn dealloc;
    int i;

    (void)arg;
    pthread_barrier_wait(&all_ready);
    for (i = 0; i < 1000; i++) {
        ASYNC_get_mem_functions(&alloc, &dealloc);
        CHECK((alloc == red_alloc) == (dealloc == red_free));
        CHECK((alloc == blue_alloc) == (dealloc == blue_free));
    }
    finish(start_paused(), 6);
    ASYNC_cleanup_thread();
    return NULL;
}

static void race(void)
{
    pthread_t threads[3];
    ASYNC_stack_alloc_fn alloc;
    ASYNC_stack_free_fn dealloc;
    int i;

    shared_ctx(); /* makes it before there are threads */
    CHECK_INT(ASYNC_set_mem_functions(red_alloc, red_free), 1);
    CHECK_INT(pthread_barrier_init(&all_ready, NULL, 3), 0);
    CHECK_INT(pthread_create(&threads[0], NULL, set_until_refused, NULL), 0);
    CHECK_INT(pthread_create(&threads[1], NULL, get_and_start, NULL), 0);
    CHECK_INT(pthread_create(&threads[2], NULL, get_and_start, NULL), 0);
    for (i = 0; i < 3; i++)
        CHECK_INT(pthread_join(threads[i], NULL), 0);
    ASYNC_get_mem_functions(&alloc, &dealloc);
    CHECK((alloc == red_alloc && dealloc == red_free)
          || (alloc == blue_alloc && dealloc == blue_free));
    CHECK_INT(ASYNC_set_mem_functions(red_alloc, red_free), 0);
}

/* In libcrypto a thread may see one function of a pair before the other. */
CASE(set_while_another_thread_starts_jobs_is_safe, OURS,
     "a thread that starts jobs while another sets the functions uses alloc and free of one pair")
{
    int i;

    for (i = 0; i < 20; i++)
        CHECK_INT(check_child(race, 0), 0);
}
