/*
 * faults.c: whichever call for memory fails, the library's call does what it can without, or is
 * refused, and nothing is lost. A scenario runs many times, each time in a process of its own. In
 * the nth run the nth of the library's calls for memory fails, alone or with all later ones, until
 * a run has fewer than n.
 */
#include "stacks.h"
#include "fail_nth.h"
#include <limits.h>
#include <malloc.h>
#include <stdbool.h>

/* ---- calls with checks of what they do if memory fails --------------------------------- */

static void queue_is_empty(void)
{
#ifdef WITH_LIBCRYPTO
    CHECK_INT(ERR_peek_error(), 0);
#endif
}

/* The last call was refused for want of memory: a call for memory failed, and the error says so. */
static void check_refused(long failed_before)
{
    CHECK(faults->kind == MALLOC || faults->kind == MMAP);
    CHECK(faults->failed > failed_before);
    CHECK(strstr(RSASYNC_last_error(), "no memory") != NULL);
#ifdef WITH_LIBCRYPTO
    unsigned long error = ERR_get_error();

    CHECK_INT(ERR_GET_LIB(error), ERR_LIB_ASYNC);
    CHECK_INT(ERR_GET_REASON(error), ERR_R_MALLOC_FAILURE);
    queue_is_empty();
#endif
}

/* The library copies arguments of this size or more to the heap, and smaller ones to the stack. */
enum { ON_HEAP_BYTES = 1025 };
/* A value of errno that no call sets. */
enum { OTHER_ERRNO = 4711 };

static int try_start(ASYNC_JOB **job, ASYNC_WAIT_CTX *ctx, int *ret, int (*func)(void *),
                     void *args, size_t size)
{
    long failed = faults->failed;
    int code, errno_after;

    errno = OTHER_ERRNO;
    code = ASYNC_start_job(job, ctx, ret, func, args, size);
    errno_after = errno;
    if (code == ASYNC_ERR) {
        CHECK(*job == NULL && size >= ON_HEAP_BYTES);
        check_refused(failed);
        return code;
    }
    queue_is_empty();
    if (code == ASYNC_NO_JOBS) {
        CHECK(*job == NULL && faults->failed > failed);
        CHECK(faults->kind == MMAP || faults->kind == MALLOC
              || (faults->kind == MPROTECT && faults->limited));
        CHECK(strstr(RSASYNC_last_error(), "no memory") != NULL);
        return code;
    }
    CHECK(code == ASYNC_PAUSE || code == ASYNC_FINISH);
    CHECK((*job != NULL) == (code == ASYNC_PAUSE));
    CHECK_INT(errno_after, OTHER_ERRNO);
    return code;
}

/* A resume needs no memory. */
static int must_resume(ASYNC_JOB **job, int *ret)
{
    int code = resume(job, ret);

    queue_is_empty();
    CHECK(code == ASYNC_PAUSE || code == ASYNC_FINISH);
    return code;
}

static void init_thread(size_t max, size_t init)
{
    CHECK_INT(ASYNC_init_thread(max, init), 1);
    queue_is_empty();
}

static ASYNC_WAIT_CTX *new_ctx(void)
{
    long failed = faults->failed;
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    if (ctx == NULL)
        check_refused(failed);
    else
        queue_is_empty();
    return ctx;
}

enum { MAX_FDS = 200 };
/* How often the cleanup of each fd was called. */
static int cleaned[MAX_FDS];

static void cleanup(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    CHECK(ctx != NULL && data == &cleaned[fd] && key == &cleaned[fd]);
    cleaned[fd]++;
}

/* Adds an fd. If that is refused the context is as it was. */
static bool set_fd(ASYNC_WAIT_CTX *ctx, int fd)
{
    int before[MAX_FDS], after[MAX_FDS];
    size_t count_before, count_after, added;
    long failed = faults->failed;
    int found;

    CHECK(ASYNC_WAIT_CTX_get_all_fds(ctx, before, &count_before));
    added = (size_t)ASYNC_WAIT_CTX_set_wait_fd(ctx, &cleaned[fd], fd, &cleaned[fd], cleanup);
    if (added)
        queue_is_empty();
    else
        check_refused(failed);
    CHECK(ASYNC_WAIT_CTX_get_all_fds(ctx, after, &count_after));
    CHECK_INT(count_after, count_before + added);
    CHECK(memcmp(after + added, before, count_before * sizeof(int)) == 0);
    CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, &cleaned[fd], &found, NULL), added);
    CHECK(!added || (after[0] == fd && found == fd));
    queue_is_empty();
    return added;
}

/* ---- guards ---------------------------------------------------------------------------- */

/* A frame at the top of the stack of each job, by the job's seed. */
enum { MOST_JOBS = 70 };
static const char *frame_of[MOST_JOBS];

/* Whether the memory below a job's stack is inaccessible. */
static bool has_guard(int seed)
{
    /* A stack has little more than DEFAULT_BYTES: this address is in the guard below. */
    return !readable(frame_of[seed] - DEFAULT_BYTES - GUARD_BYTES / 2);
}

static struct rsasync_stats stats(void)
{
    struct rsasync_stats now;

    RSASYNC_get_stats(&now, sizeof(now));
    return now;
}

/*
 * The library counts the stacks of these jobs, which are all, and those without a guard. The number
 * of each is its seed.
 */
static void check_stats(ASYNC_JOB **jobs, int count)
{
    struct rsasync_stats now = stats();
    uint64_t in_use = 0, unguarded = 0;

    for (int i = 0; i < count; i++) {
        in_use += jobs[i] != NULL;
        unguarded += jobs[i] != NULL && !has_guard(i);
    }
    CHECK_INT(now.stacks_in_use, in_use);
    CHECK_INT(now.stacks_unguarded, unguarded);
    CHECK_INT(now.jobs_abandoned, 0);
    /* If madvise fails to make a guard, mprotect makes it. */
    CHECK(unguarded == 0 || (faults->kind == MPROTECT && (long)unguarded <= faults->failed));
}

static void cleanup_thread(void)
{
    ASYNC_cleanup_thread();
    queue_is_empty();
    check_stats(NULL, 0);
}

/* ---- the scenario ---------------------------------------------------------------------- */

struct args {
    size_t size;
    int seed, pauses;
    unsigned char filling[];
};

/* Its arguments are unchanged before and after each pause. */
static int pausing_job(void *copy)
{
    const struct args *args = copy;
    int pauses = args->pauses, i = 0;

    CHECK(args->seed < MOST_JOBS);
    frame_of[args->seed] = __builtin_frame_address(0);
    do {
        for (size_t at = 0; at < args->size - sizeof(*args); at++)
            CHECK_INT(args->filling[at], (unsigned char)(args->seed + at));
    } while (i++ < pauses && ASYNC_pause_job());
    return args->seed;
}

static int start_pausing(ASYNC_JOB **job, ASYNC_WAIT_CTX *ctx, int seed, size_t size, int pauses)
{
    static _Thread_local union {
        struct args args;
        unsigned char bytes[100000];
    } given;
    int ret = -1, code;

    given.args.size = size;
    given.args.seed = seed;
    given.args.pauses = pauses;
    for (size_t at = sizeof(struct args); at < size; at++)
        given.bytes[at] = (unsigned char)(seed + at - sizeof(struct args));
    *job = NULL;
    code = try_start(job, ctx, &ret, pausing_job, &given, size);
    memset(&given, 0, size);
    CHECK(code != ASYNC_FINISH || ret == seed);
    return code;
}

/* Resumes the job, if it was started, until it has finished. */
static void run_to_end(ASYNC_JOB **job, int seed)
{
    int ret = -1;

    while (*job != NULL)
        CHECK(must_resume(job, &ret) == ASYNC_PAUSE || ret == seed);
}

/* A pool with a limit; jobs with a context each, and with arguments of all sizes. */
static void pool(void)
{
    static const size_t sizes[] = { sizeof(struct args), 100, 1024, ON_HEAP_BYTES, 5000, 100000 };
    enum { JOBS = 6 };
    ASYNC_WAIT_CTX *ctxs[JOBS];
    ASYNC_JOB *jobs[JOBS] = { NULL }, *more = NULL;
    int paused = 0, was_set[JOBS], ret;

    memset(cleaned, 0, sizeof(cleaned));
    init_thread(JOBS, 3);
    for (int i = 0; i < JOBS; i++) {
        ctxs[i] = new_ctx();
        was_set[i] = ctxs[i] != NULL && set_fd(ctxs[i], i);
        paused += start_pausing(&jobs[i], ctxs[i], i, sizes[i], i % 3 + 1) == ASYNC_PAUSE;
    }
    if (paused == JOBS) {
        CHECK_INT(ASYNC_start_job(&more, NULL, &ret, pausing_job, &more, sizeof(more)),
                  ASYNC_NO_JOBS);
        CHECK(more == NULL);
        queue_is_empty();
        check_stats(jobs, JOBS);
    }
    for (int i = 0; i < JOBS; i++) {
        CHECK(jobs[i] == NULL || ASYNC_get_wait_ctx(jobs[i]) == ctxs[i]);
        if (i % 2 == 0)
            run_to_end(&jobs[i], i);
        ASYNC_WAIT_CTX_free(ctxs[i]);
        run_to_end(&jobs[i], i);
        CHECK_INT(cleaned[i], was_set[i]);
    }
    cleanup_thread();
}

/* More jobs than one region has stacks for, which finish in another order than they start. */
static void crowd(void)
{
    enum { JOBS = MOST_JOBS };
    ASYNC_JOB *jobs[JOBS];

    for (int i = 0; i < JOBS; i++)
        start_pausing(&jobs[i], NULL, i, 64, 2);
    check_stats(jobs, JOBS);
    for (int i = 0; i < JOBS; i += 3)
        run_to_end(&jobs[i], i);
    init_thread(0, 0);
    check_stats(jobs, JOBS);
    for (int i = 0; i < JOBS; i += 3)
        start_pausing(&jobs[i], NULL, i, 64, 1);
    check_stats(jobs, JOBS);
    for (int i = 0; i < JOBS; i++)
        run_to_end(&jobs[i], i);
    cleanup_thread();
}

/* A context with many fds, some of them cleared. */
static void fds(void)
{
    bool was_set[MAX_FDS];
    ASYNC_WAIT_CTX *ctx = new_ctx();

    if (ctx == NULL)
        return;
    memset(cleaned, 0, sizeof(cleaned));
    for (int i = 0; i < MAX_FDS; i++) {
        was_set[i] = set_fd(ctx, i);
        if (i % 5 == 0) {
            CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &cleaned[i]), was_set[i]);
            was_set[i] = false;
        }
    }
    ASYNC_WAIT_CTX_free(ctx);
    for (int i = 0; i < MAX_FDS; i++)
        CHECK_INT(cleaned[i], was_set[i]);
}

/* A job function: nests jobs as deep as its argument says; all have a large copy, and pause. */
static int nested_job(void *copy)
{
    char given[3000];
    const char *depth = copy;
    ASYNC_JOB *inner = NULL;
    int ret = 0, code;

    memset(given, *depth - 1, sizeof(given));
    ASYNC_pause_job();
    if (*depth > 0) {
        do {
            code = inner == NULL ? try_start(&inner, NULL, &ret, nested_job, given, sizeof(given))
                                 : must_resume(&inner, &ret);
            ASYNC_pause_job();
        } while (code == ASYNC_PAUSE);
        CHECK(code == ASYNC_FINISH || ret == 0);
    }
    CHECK(depth[0] == depth[2999]);
    return ret + 1;
}

static void nested(void)
{
    char given[3000];
    ASYNC_JOB *job = NULL;
    int ret = 0, code;

    memset(given, 3, sizeof(given));
    code = try_start(&job, NULL, &ret, nested_job, given, sizeof(given));
    while (code == ASYNC_PAUSE)
        code = must_resume(&job, &ret);
    CHECK(code != ASYNC_FINISH || (ret >= 1 && ret <= 4));
    CHECK(code != ASYNC_FINISH || ret == 4 || faults->failed > 0);
}

/* The default alloc and free, called by the program. */
static void stack_functions(void)
{
    ASYNC_stack_alloc_fn alloc;
    ASYNC_stack_free_fn release;
    size_t size = 1 << 20;
    long failed = faults->failed;
    char *stack;

    ASYNC_get_mem_functions(&alloc, &release);
    stack = alloc(&size);
    CHECK(stack != NULL || faults->failed > failed);
    CHECK(stack != NULL || faults->kind == MMAP || faults->limited);
    if (stack != NULL) {
        CHECK(size >= 1 << 20);
        memset(stack, 1, size);
        release(stack);
    }
    queue_is_empty();
}

/* A thread that ends with idle jobs, and without ASYNC_cleanup_thread. */
static void *in_thread(void *arg)
{
    ASYNC_JOB *jobs[4];

    pool();
    nested();
    init_thread(4, 2);
    for (int i = 0; i < 4; i++)
        start_pausing(&jobs[i], NULL, i, 2000, 1);
    for (int i = 0; i < 4; i++)
        run_to_end(&jobs[i], i);
    return arg;
}

static void scenario(void)
{
    pthread_t thread;

    pool();
    crowd();
    fds();
    nested();
    cleanup_thread();
    stack_functions();
    CHECK_INT(pthread_create(&thread, NULL, in_thread, NULL), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    cleanup_thread();
}

/*
 * The library keeps the memory of freed wait contexts, each with a list of entries. After this it
 * has as many of them as this makes, whatever it had before: the number of blocks is the same in
 * every run, or memory is lost.
 */
static void fill_free_list(void)
{
    enum { CONTEXTS = 40 };
    ASYNC_WAIT_CTX *ctxs[CONTEXTS];
    ASYNC_JOB *job;

    for (int i = 0; i < CONTEXTS; i++) {
        ctxs[i] = new_ctx();
        CHECK(set_fd(ctxs[i], i));
    }
    for (int i = 0; i < CONTEXTS; i++)
        ASYNC_WAIT_CTX_free(ctxs[i]);
    CHECK_INT(start_pausing(&job, NULL, 1, 5000, 1), ASYNC_PAUSE);
    CHECK(has_guard(1));
    run_to_end(&job, 1);
    cleanup_thread();
}

/* ---- runs ------------------------------------------------------------------------------ */

/* Address space stays mapped, to be used again: after a few jobs at once that of a small region. */
static void few_jobs(void)
{
    enum { SMALL_REGION_STACKS = 4, STACK_BYTES = DEFAULT_BYTES + LIBRARY_BYTES + GUARD_BYTES };

    nested();
    cleanup_thread();
    /* Where a region could not be mapped, two smaller ones may be there in its place. */
    CHECK(faults->mapped <= SMALL_REGION_STACKS * STACK_BYTES * (faults->failed > 0 ? 2 : 1));
}

static void limit_data(void)
{
    enum { LIMIT_BYTES = 1 << 30 };
    const struct rlimit limit = { LIMIT_BYTES, LIMIT_BYTES };

    CHECK_INT(setrlimit(RLIMIT_DATA, &limit), 0);
}

static void whole_run(void)
{
    long mapped;

    alarm(30);
    if (faults->limited)
        limit_data();
    mallopt(M_PERTURB, 0xa5); /* overwrites freed memory, so that its use shows */
    few_jobs();
    scenario();
    faults->last = 0;
    fill_free_list();
    scenario();
    mapped = faults->mapped;
    scenario();
    CHECK_INT(faults->mapped, mapped);
    fill_free_list();
}

/* Where a run takes place: its kernel has guard markers or not, and RLIMIT_DATA is set or not. */
struct place {
    const char *name;
    bool no_markers, limited;
};
static const struct place plain = { "with guard markers", false, false },
                          old_kernel = { "without guard markers", true, false },
                          under_a_limit = { "under RLIMIT_DATA", false, true };

/* Runs it in a process of its own with this plan, and tells whether every check held. */
static bool run(enum kind kind, const struct place *place, long first, long last)
{
    int status;

    *faults = (struct faults){
        .kind = kind, .first = first, .last = last, .no_markers = place->no_markers,
        .limited = place->limited
    };
    status = check_child(whole_run, 0);
    if (status != 0)
        fprintf(stderr, "  call %ld%s, %s: ended by %s %d\n", first,
                last > first ? " and all later" : "", place->name,
                status > 0 ? "signal" : "status", abs(status));
    return status == 0;
}

/* One run for each call of this kind. */
static void fail_every_call(enum kind kind, const struct place *place)
{
    int wrong = 0;
    long kept, mapped;

    CHECK(run(kind, place, LONG_MAX, 0));
    kept = faults->blocks;
    mapped = faults->mapped;
    CHECK(faults->calls > 0);
    for (int lasting = 0; lasting < 2; lasting++) {
        long n = 0;

        do {
            n++;
            if (!run(kind, place, n, lasting ? LONG_MAX : n)) {
                wrong++;
            } else if (faults->blocks != kept || faults->mapped > mapped) {
                fprintf(stderr, "  call %ld%s, %s: %ld blocks are lost, %ld bytes more are mapped\n",
                        n, lasting ? " and all later" : "", place->name, faults->blocks - kept,
                        faults->mapped - mapped);
                wrong++;
            }
        } while (faults->failed > 0);
        printf("%ld calls, %s, %s\n", n - 1, place->name,
               lasting ? "from there on" : "one by one");
    }
    CHECK_INT(wrong, 0);
}

static void fail_every_call_everywhere(enum kind kind)
{
    faults = mmap(NULL, sizeof(*faults), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(faults != MAP_FAILED);
    if (kind != MPROTECT) /* which is not called there */
        fail_every_call(kind, &plain);
    fail_every_call(kind, &old_kernel);
    fail_every_call(kind, &under_a_limit);
}

/* Guards that could not be made do not count as mappings of the library, of which it has a share. */
static void make_guards_late(void)
{
    ASYNC_JOB *job;

    CHECK(faults->limited);
    limit_data();
    faults->no_guards = 1;
    for (long i = 0; i < max_mappings(); i++) {
        CHECK_INT(start_pausing(&job, NULL, 1, 64, 1), ASYNC_PAUSE);
        CHECK(!has_guard(1) && stats().stacks_unguarded == 1);
        run_to_end(&job, 1);
        ASYNC_cleanup_thread();
    }
    faults->no_guards = 0;
    CHECK_INT(start_pausing(&job, NULL, 1, 64, 1), ASYNC_PAUSE);
    CHECK(has_guard(1) && stats().stacks_unguarded == 0);
    run_to_end(&job, 1);
    cleanup_thread();
}

CASE(malloc_fails, OURS,
     "if malloc fails a call is refused with an error, and no memory is lost")
{
    fail_every_call_everywhere(MALLOC);
}

CASE(mmap_fails, OURS,
     "if mmap fails there is no job, and no error is queued, or no wait context, and an error is")
{
    fail_every_call_everywhere(MMAP);
}

CASE(madvise_fails, OURS, "if madvise fails stacks work, and those without a guard are counted")
{
    fail_every_call_everywhere(MADVISE);
}

CASE(mprotect_fails, OURS,
     "if mprotect fails stacks work, and those without a guard are counted; where it is what gives "
     "memory there is no job, and no error is queued")
{
    fail_every_call_everywhere(MPROTECT);
    *faults = (struct faults){ .kind = MPROTECT, .no_markers = true, .limited = true };
    CHECK_INT(check_child(make_guards_late, 0), 0);
}
