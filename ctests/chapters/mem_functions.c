/* mem_functions.c: ASYNC_set_mem_functions, a program's own allocator for its jobs' stacks. */
#include "check.h"

#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#ifdef WITH_LIBCRYPTO
# include <openssl/err.h>
#endif

enum { ASKED = 32768, KIB = 1024 };

static void check_queue_is_empty(void)
{
#ifdef WITH_LIBCRYPTO
    CHECK_INT(ERR_peek_error(), 0);
#endif
}

/*
 * The log of the allocators below: what was asked for last, what was given and not yet
 * taken back, how often each was called. One thread at a time uses it.
 */
static size_t asked;
static void *given[64];
static int allocs, frees, failing_from = 1 << 30;

/* Puts what is given in the log. */
static void *log_alloc(void *stack)
{
    int i;

    for (i = 0; given[i] != NULL; i++)
        CHECK(i < 63);
    allocs++;
    return given[i] = stack;
}

/* Takes it out; what was never given, or is taken back twice, is not there. */
static void log_free(void *stack)
{
    int i;

    CHECK(stack != NULL);
    for (i = 0; given[i] != stack; i++)
        CHECK(i < 63);
    given[i] = NULL;
    frees++;
}

static void check_all_freed(int count)
{
    int i;

    CHECK_INT(allocs, count);
    CHECK_INT(frees, count);
    for (i = 0; i < 64; i++)
        CHECK(given[i] == NULL);
}

/* An allocator on malloc, which fails from its failing_from'th call on. */
static void *heap_alloc(size_t *num)
{
    void *stack;

    asked = *num;
    if (allocs >= failing_from)
        return NULL;
    *num = 64 * KIB;
    stack = malloc(*num);
    CHECK(stack != NULL);
    return log_alloc(stack);
}

static void heap_free(void *stack)
{
    log_free(stack);
    free(stack);
}

static void check_in_place(ASYNC_stack_alloc_fn alloc, ASYNC_stack_free_fn dealloc)
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

static int pause_give_6(void *arg)
{
    (void)arg;
    CHECK_INT(ASYNC_pause_job(), 1);
    return 6;
}

/* libcrypto cannot resume a job without a wait context; this one serves all. */
static ASYNC_WAIT_CTX *shared_ctx(void)
{
    static ASYNC_WAIT_CTX *ctx;

    if (ctx == NULL)
        ctx = ASYNC_WAIT_CTX_new();
    CHECK(ctx != NULL);
    return ctx;
}

static ASYNC_JOB *paused_job(void)
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, shared_ctx(), &ret, pause_give_6, NULL, 0), ASYNC_PAUSE);
    return job;
}

static void finish(ASYNC_JOB *job)
{
    int ret = 77;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 6);
}

/* ---- when they can be set ---- */

CASE(set_before_the_first_stack_is_1, SINCE_3_2,
     "until the first stack is allocated they can be set, as often as one likes")
{
    ASYNC_stack_alloc_fn alloc;
    ASYNC_stack_free_fn dealloc;

    ASYNC_get_mem_functions(&alloc, &dealloc);
    CHECK(alloc != NULL && dealloc != NULL && alloc != heap_alloc && dealloc != heap_free);
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    check_in_place(heap_alloc, heap_free);
    CHECK_INT(ASYNC_set_mem_functions(alloc, dealloc), 1);
    check_in_place(alloc, dealloc);
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    check_in_place(heap_alloc, heap_free);
    CHECK_INT(allocs, 0);
}

CASE(calls_without_a_stack_do_not_count, OURS,
     "a pool without idle jobs, wait contexts and refused starts leave them settable")
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
     "after the first stack it is 0 in every thread, changes nothing and queues nothing")
{
    ASYNC_stack_alloc_fn alloc;
    ASYNC_stack_free_fn dealloc;
    pthread_t thread;

    ASYNC_get_mem_functions(&alloc, &dealloc);
    finish(paused_job());
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 0);
    check_in_place(alloc, dealloc);
    CHECK_INT(pthread_create(&thread, NULL, set_in_a_thread, NULL), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    /* Also when no stack is left. */
    ASYNC_cleanup_thread();
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 0);
    CHECK_INT(ASYNC_set_mem_functions(NULL, NULL), 0);
    check_in_place(alloc, dealloc);
    check_queue_is_empty();
    finish(paused_job());
    CHECK_INT(allocs, 0);
    ASYNC_cleanup_thread();
}

CASE(an_idle_job_counts, SINCE_3_2, "a stack made for ASYNC_init_thread is a first stack as well")
{
    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 0);
    ASYNC_cleanup_thread();
}

CASE(a_stack_that_failed_counts, OURS, "a first allocation that failed closes the door as well")
{
    ASYNC_JOB *job = NULL;
    int ret;

    failing_from = 0;
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, give_5, NULL, 0), ASYNC_NO_JOBS);
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 0);
    ASYNC_cleanup_thread();
}

CASE(null_keeps_the_one_in_place, SINCE_3_2, "NULL for either leaves that one as it is, and is 1")
{
    ASYNC_stack_alloc_fn alloc;
    ASYNC_stack_free_fn dealloc;

    ASYNC_get_mem_functions(&alloc, &dealloc);
    CHECK_INT(ASYNC_set_mem_functions(NULL, NULL), 1);
    check_in_place(alloc, dealloc);
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, NULL), 1);
    check_in_place(heap_alloc, dealloc);
    CHECK_INT(ASYNC_set_mem_functions(NULL, heap_free), 1);
    check_in_place(heap_alloc, heap_free);
    CHECK_INT(ASYNC_set_mem_functions(NULL, NULL), 1);
    check_in_place(heap_alloc, heap_free);
}

static void *malloc_of(size_t *num)
{
    return malloc(*num);
}

static int pauses(void *args)
{
    return ASYNC_pause_job() == 1 && args == NULL;
}

static void run_a_job_and_clean_up(void)
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, pauses, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, pauses, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 1);
    ASYNC_cleanup_thread();
}

/* libcrypto's default functions are those of malloc, and programs may count on it. */
CASE(an_alloc_of_malloc_does_alone, OURS,
     "what a program's own alloc has from malloc is taken back by the default free")
{
    CHECK_INT(ASYNC_set_mem_functions(malloc_of, NULL), 1);
    run_a_job_and_clean_up();
}

CASE(a_free_of_malloc_does_alone, OURS,
     "a program's own free that calls free gets memory of malloc from the default alloc")
{
    CHECK_INT(ASYNC_set_mem_functions(NULL, free), 1);
    run_a_job_and_clean_up();
}

CASE(get_takes_null, SINCE_3_2,
     "ASYNC_get_mem_functions gives what it is asked for, as libcrypto's")
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

/* ---- the defaults ---- */

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
     "the default gives page-aligned memory, at least as much as asked for, all of it writable")
{
    check_default_alloc(10);
    check_default_alloc(ASKED);
    check_default_alloc(128 * KIB);
    check_default_alloc(1024 * KIB);
}

static size_t fault_size, fault_below;

static void write_below_a_default_stack(void)
{
    ASYNC_stack_alloc_fn alloc;
    ASYNC_stack_free_fn dealloc;
    volatile unsigned char *stack;
    size_t num = fault_size, i;

    ASYNC_get_mem_functions(&alloc, &dealloc);
    /* The lowest may have nothing below it: there are others on all sides of the one meant. */
    for (i = 0; i < 8; i++) {
        num = fault_size;
        CHECK(alloc(&num) != NULL);
    }
    num = fault_size;
    stack = alloc(&num);
    for (i = 0; i < 8; i++) {
        num = fault_size;
        CHECK(alloc(&num) != NULL);
    }
    stack[0] = stack[num - 1] = 1;
    *(stack - fault_below) = 1;
}

/* valgrind reports the write that is to fault. */
CASE(the_default_alloc_guards_what_it_gives, OURS | NOT_ON_VALGRIND,
     "a write to any of the 64 KiB below a default stack faults")
{
    static const size_t sizes[] = { 10, ASKED, 1024 * KIB };
    static const size_t belows[] = { 1, 4096, 4097, 32 * KIB, 64 * KIB };
    size_t i, j;

    for (i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (j = 0; j < sizeof belows / sizeof *belows; j++) {
            fault_size = sizes[i];
            fault_below = belows[j];
            CHECK_INT(check_child(write_below_a_default_stack, 1), SIGSEGV);
        }
}

static ASYNC_stack_alloc_fn default_alloc;
static ASYNC_stack_free_fn default_free;

static void *forward_alloc(size_t *num)
{
    void *stack = default_alloc(num);

    CHECK(stack != NULL);
    return log_alloc(stack);
}

static void forward_free(void *stack)
{
    log_free(stack);
    default_free(stack);
}

CASE(the_defaults_can_be_wrapped, SINCE_3_2,
     "functions that count and call the defaults serve jobs as the defaults do")
{
    ASYNC_JOB *first, *second;

    ASYNC_get_mem_functions(&default_alloc, &default_free);
    CHECK_INT(ASYNC_set_mem_functions(forward_alloc, forward_free), 1);
    first = paused_job();
    second = paused_job();
    CHECK_INT(allocs, 2);
    finish(first);
    finish(second);
    CHECK_INT(frees, 0);
    ASYNC_cleanup_thread();
    check_all_freed(2);
}

/* ---- what a program's own functions are asked for, and what they give ---- */

CASE(alloc_is_asked_for_32768_bytes, SINCE_3_2, "a program's alloc finds 32,768 in *num each time")
{
    ASYNC_JOB *first, *second;

    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    first = paused_job();
    CHECK_INT(asked, ASKED);
    asked = 0;
    second = paused_job();
    CHECK_INT(asked, ASKED);
    finish(first);
    finish(second);
    asked = 0;
    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    CHECK_INT(asked, ASKED);
    ASYNC_cleanup_thread();
}

CASE(alloc_is_asked_for_rsasync_stack_size, OURS,
     "with RSASYNC_STACK_SIZE in the environment a program's alloc is asked for that")
{
    CHECK_INT(setenv("RSASYNC_STACK_SIZE", "48K", 1), 0);
    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    finish(paused_job());
    CHECK_INT(asked, 48 * KIB);
    ASYNC_cleanup_thread();
}

/*
 * The stack of the cases below, all used but for what a call into the library, and the
 * dynamic linker that binds it, may take: a piece out of the middle of an arena whose rest, filled
 * with a pattern, shows any byte that a job writes outside.
 */
enum { ARENA = 512 * KIB, PATTERN = 0xa5 };
static unsigned char arena[ARENA];
static size_t piece_at, piece_size, use;

static void *piece_alloc(size_t *num)
{
    *num = piece_size;
    return log_alloc(arena + piece_at);
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
    CHECK_INT(ASYNC_set_mem_functions(piece_alloc, log_free), 1);
    /* The second round is on the same stack, out of the pool. */
    for (round = 0; round < 2; round++) {
        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, use_stack, NULL, 0), ASYNC_PAUSE);
        finish(job);
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
     "alloc may leave more in *num than was asked, and a job can use it, and not a byte outside")
{
    check_piece(128 * KIB, 64 * KIB, 56 * KIB);
}

CASE(a_smaller_stack_is_not_left, OURS,
     "alloc may leave less in *num than was asked, and not a byte outside is written")
{
    check_piece(128 * KIB, 16 * KIB, 8 * KIB);
}

CASE(a_stack_below_2_kib_is_none, OURS,
     "what alloc leaves in *num may be 2 KiB; if it is less there is no job, and free gets it back")
{
    static const size_t too_small[] = { 0, 1, 64, 2 * KIB - 1 };
    ASYNC_JOB *job = NULL;
    int i, ret = 77;

    CHECK_INT(ASYNC_set_mem_functions(piece_alloc, log_free), 1);
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
    for (i = 0; i < ARENA; i++)
        CHECK(arena[i] == PATTERN || (size_t)i - piece_at < piece_size);
}

CASE(a_stack_may_lie_anywhere, OURS,
     "a stack need not be aligned, and its size may be odd")
{
    check_piece(128 * KIB + 9, 41 * KIB + 5, 33 * KIB);
}

CASE(without_a_stack_there_are_no_jobs, OURS,
     "NULL from alloc is ASYNC_NO_JOBS, with a message, without an error, and takes no place")
{
    ASYNC_JOB *first, *second = NULL;
    int ret = 77;

    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    CHECK_INT(ASYNC_init_thread(2, 0), 1);
    failing_from = 1;
    first = paused_job();
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
    /* There is one place left; when there is memory again, it can be taken. */
    failing_from = 1 << 30;
    second = paused_job();
    finish(first);
    finish(second);
    ASYNC_cleanup_thread();
    check_all_freed(2);
}

CASE(init_makes_what_it_can, OURS,
     "ASYNC_init_thread whose stacks end half-way is 1, has fewer jobs, and queues nothing")
{
    ASYNC_JOB *jobs[5] = { NULL };
    int i, ret;

    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    failing_from = 3;
    CHECK_INT(ASYNC_init_thread(5, 5), 1);
    CHECK_INT(allocs, 3);
    check_queue_is_empty();
    for (i = 0; i < 3; i++)
        jobs[i] = paused_job();
    CHECK_INT(ASYNC_start_job(&jobs[3], NULL, &ret, give_5, NULL, 0), ASYNC_NO_JOBS);
    /* Only those that were made count against the limit. */
    failing_from = 1 << 30;
    for (i = 3; i < 5; i++)
        jobs[i] = paused_job();
    CHECK_INT(allocs, 5);
    for (i = 0; i < 5; i++)
        finish(jobs[i]);
    ASYNC_cleanup_thread();
    check_all_freed(5);
}

CASE(each_stack_is_freed_once, SINCE_3_2,
     "a stack stays with its job in the pool; when the pool goes, free gets what alloc gave")
{
    ASYNC_JOB *jobs[20];
    int i;

    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    CHECK_INT(ASYNC_init_thread(0, 0), 1);
    for (i = 0; i < 20; i++)
        jobs[i] = paused_job();
    for (i = 0; i < 20; i++)
        finish(jobs[(i * 7) % 20]);
    for (i = 0; i < 50; i++)
        finish(paused_job());
    CHECK_INT(allocs, 20);
    CHECK_INT(frees, 0);
    ASYNC_cleanup_thread();
    check_all_freed(20);
}

CASE(a_paused_job_keeps_its_stack, OURS,
     "ASYNC_cleanup_thread frees the idle jobs' stacks; a paused job's goes when it is over")
{
    ASYNC_JOB *job;

    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    CHECK_INT(ASYNC_init_thread(3, 3), 1);
    job = paused_job();
    ASYNC_cleanup_thread();
    CHECK_INT(frees, 2);
    finish(job);
    ASYNC_cleanup_thread();
    check_all_freed(3);
}

static void *have_jobs(void *arg)
{
    ASYNC_JOB *job;

    (void)arg;
    CHECK_INT(ASYNC_init_thread(3, 3), 1);
    job = paused_job();
    finish(job);
    CHECK_INT(frees, 0);
    return NULL;
}

CASE(a_threads_end_frees_its_stacks, SINCE_3_2,
     "a thread that ends without ASYNC_cleanup_thread gives each stack back")
{
    pthread_t thread;

    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    CHECK_INT(pthread_create(&thread, NULL, have_jobs, NULL), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    check_all_freed(3);
}

#ifndef ON_LIBCRYPTO
CASE(own_stacks_are_not_counted_as_unguarded, OURS,
     "stacks_unguarded is about rsasync's stacks, not about those of a program's allocator")
{
    struct rsasync_stats stats;
    ASYNC_JOB *job;

    CHECK_INT(ASYNC_set_mem_functions(heap_alloc, heap_free), 1);
    job = paused_job();
    RSASYNC_get_stats(&stats, sizeof stats);
    CHECK_INT(stats.stacks_unguarded, 0);
    finish(job);
    ASYNC_cleanup_thread();
}
#endif

/* ---- set while other threads run ---- */

/* Two pairs; a stack of one that gets into the other's free has the wrong mark before it. */
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

static pthread_barrier_t together;

static void *set_until_refused(void *arg)
{
    (void)arg;
    pthread_barrier_wait(&together);
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
    pthread_barrier_wait(&together);
    for (i = 0; i < 1000; i++) {
        ASYNC_get_mem_functions(&alloc, &dealloc);
        CHECK((alloc == red_alloc) == (dealloc == red_free));
        CHECK((alloc == blue_alloc) == (dealloc == blue_free));
    }
    finish(paused_job());
    ASYNC_cleanup_thread();
    return NULL;
}

static void race(void)
{
    pthread_t threads[3];
    ASYNC_stack_alloc_fn alloc;
    ASYNC_stack_free_fn dealloc;
    int i;

    shared_ctx(); /* made before there are threads */
    CHECK_INT(ASYNC_set_mem_functions(red_alloc, red_free), 1);
    CHECK_INT(pthread_barrier_init(&together, NULL, 3), 0);
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

/* OURS: in libcrypto a thread may see one of a pair before the other. */
CASE(set_while_another_thread_starts_jobs_is_safe, OURS,
     "whoever sets and whoever starts at once: every stack is of one pair, alloc and free")
{
    int i;

    for (i = 0; i < 20; i++)
        CHECK_INT(check_child(race, 0), 0);
}
