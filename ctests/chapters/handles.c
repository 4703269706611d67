/*
 * handles.c: the handle of a job that has finished is stale for ever (src/job/job.rs): nobody gets
 * a context for it, and nobody can resume it, whatever is in the job's memory by then. An
 * accelerator's polling thread keeps such handles and asks for their contexts when a response
 * comes late.
 *
 * libcrypto reads freed memory for a stale handle, or takes it for the next job in that memory.
 */
#include "jobs.h"
#include "refusals.h"
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>

static char token; /* its address is a key in wait contexts */

/* ---- handles and who asks for their contexts ---- */

static void *gets_no_context(void *job)
{
    CHECK(ASYNC_get_wait_ctx(job) == NULL);
    return NULL;
}

static void *is_refused(void *job)
{
    check_resume_is_refused(job);
    return NULL;
}

static int is_stale_in_a_job(void *arg)
{
    gets_no_context(ARG(ASYNC_JOB, arg));
    is_refused(ARG(ASYNC_JOB, arg));
    return 5;
}

/* No thread and no job gets a context for the handle, or can resume it. */
static void check_is_stale(ASYNC_JOB *stale)
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    gets_no_context(stale);
    is_refused(stale);
    on_new_thread(gets_no_context, stale);
    on_new_thread(is_refused, stale);
    CHECK_INT(start(&job, NULL, &ret, is_stale_in_a_job, stale), ASYNC_FINISH);
    CHECK_INT(ret, 5);
}

static void *gets_its_context(void *arg)
{
    ASYNC_JOB **job = arg;

    return ASYNC_get_wait_ctx(*job);
}

/* This thread and another one get this context for the handle. */
static void check_context(ASYNC_JOB *job, ASYNC_WAIT_CTX *ctx)
{
    pthread_t thread;
    void *got = &token;

    CHECK(ASYNC_get_wait_ctx(job) == ctx);
    CHECK_INT(pthread_create(&thread, NULL, gets_its_context, &job), 0);
    CHECK_INT(pthread_join(thread, &got), 0);
    CHECK(got == ctx);
}

/* The handle of a job that has finished. */
static ASYNC_JOB *stale_handle(ASYNC_WAIT_CTX *ctx)
{
    ASYNC_JOB *job = paused_job(ctx, 1, 3);

    finish(job, 3);
    return job;
}

/* ---- one job after the other ---- */

static ASYNC_JOB *own_handle;

static int knows_its_handle(void *arg)
{
    own_handle = ASYNC_get_current_job();
    CHECK(own_handle != NULL);
    for (int i = 0; i < *(int *)arg; i++) {
        CHECK_INT(ASYNC_pause_job(), 1);
        CHECK(ASYNC_get_current_job() == own_handle);
    }
    return 3;
}

CASE(a_handle_stays_the_same, EVERYWHERE,
     "what ASYNC_start_job leaves in *job and what ASYNC_get_current_job returns is one value, from "
     "the job's start to its end")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job;
    int ret, pauses = 4;

    for (int run = 0; run < 200; run++) {
        job = NULL;
        CHECK_INT(ASYNC_start_job(&job, ctx, &ret, knows_its_handle, &pauses, sizeof pauses),
                  ASYNC_PAUSE);
        CHECK(job == own_handle);
        for (int i = 1; i < pauses; i++)
            resume_to_pause(job);
        check_context(job, ctx);
        finish(job, 3);
    }
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(a_finished_jobs_handle_is_stale, OURS,
     "once a job has finished, nobody gets its context by its handle, and nobody can resume it")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = paused_job(ctx, 2, 3);

    check_context(job, ctx);
    resume_to_pause(job);
    check_context(job, ctx);
    finish(job, 3);
    check_is_stale(job);
    ASYNC_WAIT_CTX_free(ctx);
    check_is_stale(job);
}

CASE(a_handle_of_a_job_that_never_paused_goes_stale, OURS,
     "the handle that a job got from ASYNC_get_current_job is stale when the job has ended")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret, pauses = 0;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, knows_its_handle, &pauses, sizeof pauses),
              ASYNC_FINISH);
    check_is_stale(own_handle);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(a_stale_handle_is_not_the_next_job, OURS,
     "a stale handle is not taken for that of a job in the same memory, for another context or for "
     "the same one")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *stale[100];

    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    for (int run = 0; run < 100; run++) {
        ASYNC_WAIT_CTX *mine = run % 2 == 0 ? ctx : other;
        ASYNC_JOB *job = paused_job(mine, 1, 3), *same;

        for (int old = 0; old < run; old++) {
            CHECK(stale[old] != job);
            gets_no_context(stale[old]);
            is_refused(stale[old]);
        }
        check_context(job, mine);
        finish(job, 3);
        same = paused_job(mine, 1, 3);
        CHECK(same != job);
        gets_no_context(job);
        is_refused(job);
        CHECK(ASYNC_get_wait_ctx(same) == mine);
        finish(same, 3);
        stale[run] = same;
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_WAIT_CTX_free(other);
}

CASE(a_refused_stale_handle_changes_nothing, OURS,
     "ASYNC_start_job refuses a stale handle with an error that says why; the job in the same "
     "memory, its context and the caller's variables stay as they were")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *stale, *job, *handle;
    int ret = 77;

    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    stale = stale_handle(other);
    job = handle = paused_job(ctx, 2, 3);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &token, 4, NULL, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(other, &token, 5, NULL, NULL), 1);
    handle = stale;
    CHECK_INT(ASYNC_start_job(&handle, other, &ret, must_not_run, &ret, sizeof ret), ASYNC_ERR);
    check_refused(NOT_NOW, "ASYNC_start_job", "finished");
    CHECK(handle == stale);
    CHECK_INT(ret, 77);
    CHECK(ASYNC_get_current_job() == NULL);
    check_marks(ctx, 1, 0);
    check_marks(other, 1, 0);
    check_context(job, ctx);
    resume_to_pause(job);
    check_marks(ctx, 0, 0);
    finish(job, 3);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_WAIT_CTX_free(other);
}

CASE(a_handle_knows_its_context_until_that_is_freed, OURS,
     "the handle of a paused job gives NULL once its context is freed, also when another context "
     "has the memory")
{
    ASYNC_JOB *job[20];
    ASYNC_WAIT_CTX *ctx[20];

    for (int i = 0; i < 20; i++) {
        ctx[i] = ASYNC_WAIT_CTX_new();
        job[i] = paused_job(ctx[i], 1, 3);
    }
    for (int i = 0; i < 20; i++) {
        ASYNC_WAIT_CTX_free(ctx[i]);
        ctx[i] = ASYNC_WAIT_CTX_new();
        check_context(job[i], NULL);
        for (int j = i + 1; j < 20; j++)
            CHECK(ASYNC_get_wait_ctx(job[j]) == ctx[j]);
    }
    for (int i = 0; i < 20; i++) {
        finish(job[i], 3);
        check_is_stale(job[i]);
        ASYNC_WAIT_CTX_free(ctx[i]);
    }
}

/* ---- pools that are freed, threads that end ---- */

static void *cleans_up(void *arg)
{
    ASYNC_cleanup_thread();
    return arg;
}

static void *inits(void *arg)
{
    CHECK_INT(ASYNC_init_thread(0, 0), 1);
    return arg;
}

static void *inits_with_jobs(void *arg)
{
    CHECK_INT(ASYNC_init_thread(3, 3), 1);
    return arg;
}

static void *trims(void *arg)
{
#ifndef ON_LIBCRYPTO
    (void)RSASYNC_trim_thread();
#endif
    return arg;
}

CASE(a_handle_into_a_freed_pool_is_stale, OURS,
     "a handle stays stale when its thread's idle jobs are freed, by ASYNC_cleanup_thread, "
     "ASYNC_init_thread or RSASYNC_trim_thread, and new ones are made")
{
    static void *(*const frees_the_pool[])(void *) = { cleans_up, inits, inits_with_jobs, trims };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *stale[100], *job;

    for (int i = 0; i < 100; i++) {
        stale[i] = stale_handle(ctx);
        frees_the_pool[i % 4](NULL);
        for (int old = 0; old <= i; old++)
            gets_no_context(stale[old]);
        if (i % 10 == 0)
            check_is_stale(stale[i]);
        job = paused_job(ctx, 1, 3);
        for (int old = 0; old <= i; old++) {
            CHECK(job != stale[old]);
            gets_no_context(stale[old]);
            is_refused(stale[old]);
        }
        check_context(job, ctx);
        frees_the_pool[i % 4](NULL); /* the paused job stays */
        check_context(job, ctx);
        finish(job, 3);
    }
    ASYNC_WAIT_CTX_free(ctx);
}

static ASYNC_WAIT_CTX *threads_ctx;
static ASYNC_JOB *finished_there, *paused_there;

static void *leaves_handles(void *arg)
{
    finished_there = stale_handle(threads_ctx);
    if (arg != NULL)
        paused_there = paused_job(threads_ctx, 1, 3);
    return NULL;
}

CASE(a_handle_outlives_its_thread, OURS,
     "when a thread has ended, the handles of its finished jobs are stale, and a job that it left "
     "paused has its context until that is freed")
{
    ASYNC_JOB *stale[10], *paused[10], *mine;

    threads_ctx = ASYNC_WAIT_CTX_new();
    for (int i = 0; i < 10; i++) {
        on_new_thread(leaves_handles, &token);
        stale[i] = finished_there;
        paused[i] = paused_there;
        on_new_thread(leaves_handles, NULL); /* probably in the same memory */
        mine = stale_handle(threads_ctx);
        for (int old = 0; old <= i; old++) {
            check_is_stale(stale[old]);
            check_context(paused[old], threads_ctx);
            is_refused(paused[old]);
        }
        check_is_stale(finished_there);
        check_is_stale(mine);
    }
    ASYNC_WAIT_CTX_free(threads_ctx);
    threads_ctx = ASYNC_WAIT_CTX_new();
    for (int i = 0; i < 10; i++) {
        check_context(paused[i], NULL);
        check_is_stale(stale[i]);
    }
    ASYNC_WAIT_CTX_free(threads_ctx);
}

/* ---- crowds, whose memory goes back to the system ---- */

enum { CROWD = 300, CROWDS = 6 };

static ASYNC_JOB *crowd[CROWDS * CROWD];
static atomic_int stale_handles; /* those before this one are stale */
static atomic_int is_over;

static void *keeps_asking(void *arg)
{
    while (!atomic_load(&is_over)) {
        int count = atomic_load(&stale_handles);

        for (int i = 0; i < count; i++)
            gets_no_context(crowd[i]);
    }
    return arg;
}

static int compare_handles(const void *a, const void *b)
{
    uintptr_t one = *(const uintptr_t *)a, other = *(const uintptr_t *)b;

    return one < other ? -1 : one > other;
}

/* No value is in the list twice. Sorts it. */
static void check_all_differ(ASYNC_JOB **handles, size_t count)
{
    qsort(handles, count, sizeof *handles, compare_handles);
    for (size_t i = 1; i < count; i++)
        CHECK(handles[i] != handles[i - 1]);
}

/* Freeing a crowd gives whole regions of stacks back to the system, with their page tables. */
static void run_crowds(ASYNC_WAIT_CTX *ctx)
{
    pthread_t thread;

    CHECK_INT(pthread_create(&thread, NULL, keeps_asking, NULL), 0);
    for (int n = 0; n < CROWDS; n++) {
        ASYNC_JOB **job = crowd + n * CROWD;

        for (int i = 0; i < CROWD; i++)
            job[i] = paused_job(ctx, 1, i);
        for (int i = 0; i < CROWD; i++)
            CHECK(ASYNC_get_wait_ctx(job[i]) == ctx);
        for (int i = 0; i < CROWD; i++)
            finish(job[i], i);
        atomic_store(&stale_handles, (n + 1) * CROWD);
        ASYNC_cleanup_thread();
        for (int i = 0; i < (n + 1) * CROWD; i++)
            gets_no_context(crowd[i]);
        is_refused(crowd[n * CROWD]);
    }
    atomic_store(&is_over, 1);
    CHECK_INT(pthread_join(thread, NULL), 0);
    check_all_differ(crowd, CROWDS * CROWD);
}

CASE(handles_of_a_freed_crowd_are_stale, OURS,
     "the handles of a crowd stay stale when its stacks have gone back to the system, and when "
     "other crowds have them; another thread may ask meanwhile")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    run_crowds(ctx);
    ASYNC_WAIT_CTX_free(ctx);
}

enum { RUNS = (1 << 16) + 5000 };

/* Runs jobs on one stack, which is freed and made again `every` so many runs. */
static void run_on_one_stack(int every)
{
    static ASYNC_JOB *handles[RUNS];
    ASYNC_JOB *job;
    int ret, pauses = 0;

    for (int run = 0; run < RUNS; run++) {
        job = NULL;
        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, knows_its_handle, &pauses, sizeof pauses),
                  ASYNC_FINISH);
        handles[run] = own_handle;
        if (run % every == every - 1)
            ASYNC_cleanup_thread();
    }
    check_all_differ(handles, RUNS);
}

CASE(a_handle_does_not_come_back_soon, OURS,
     "no handle's value comes back within 2^16 jobs on the same stack")
{
    run_on_one_stack(RUNS);
}

CASE(a_handle_does_not_come_back_on_a_new_stack, OURS,
     "no handle's value comes back within 2^16 jobs when each has a new stack in the same place")
{
    run_on_one_stack(1);
}

/* ---- stacks from the program's functions ---- */

static _Atomic(void *) last_freed;

static void *maps_a_stack(size_t *bytes)
{
    void *start = mmap(NULL, *bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return start == MAP_FAILED ? NULL : start;
}

/* Nothing else gets the addresses: whoever reads there faults. */
static void unmaps_a_stack(void *start)
{
    CHECK(mmap(start, 32768, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == start);
    atomic_store(&last_freed, start);
}

CASE(a_stale_handle_is_safe_when_its_stack_is_unmapped, OURS,
     "a handle stays stale, and may be asked for its context, when the program's own function has "
     "unmapped the stack")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *stale[20];

    CHECK_INT(ASYNC_set_mem_functions(maps_a_stack, unmaps_a_stack), 1);
    for (int i = 0; i < 20; i++) {
        stale[i] = stale_handle(ctx);
        atomic_store(&last_freed, NULL);
        ASYNC_cleanup_thread();
        CHECK(atomic_load(&last_freed) != NULL);
        for (int old = 0; old <= i; old++)
            check_is_stale(stale[old]);
    }
    run_crowds(ctx);
    ASYNC_WAIT_CTX_free(ctx);
}

static ASYNC_stack_alloc_fn default_alloc;
static ASYNC_stack_free_fn default_free;
static _Atomic(ASYNC_JOB *) written_over; /* what is written over stacks; NULL: nothing */

/* Writes what a job's memory might hold, at every place where it might be. */
static void write_over(void *start, size_t bytes)
{
    ASYNC_JOB **word = start, *value = atomic_load(&written_over);

    for (size_t i = 0; value != NULL && i < bytes / sizeof *word; i++)
        word[i] = value;
}

static void *gives_a_filled_stack(size_t *bytes)
{
    void *start = default_alloc(bytes);

    if (start != NULL)
        write_over(start, *bytes);
    return start;
}

static void fills_a_stack(void *start)
{
    write_over(start, 32768); /* what it was asked for, at least */
    default_free(start);
}

/* valgrind takes the memory below a stack's pointer for inaccessible, also when it is freed. */
CASE(what_a_program_writes_in_stacks_is_no_job, OURS | NOT_ON_VALGRIND,
     "memory from the default alloc function may hold anything, before, while and after it is a "
     "stack: stale handles stay stale")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *stale[20];
    void *memory[40];

    ASYNC_get_mem_functions(&default_alloc, &default_free);
    CHECK_INT(ASYNC_set_mem_functions(gives_a_filled_stack, fills_a_stack), 1);
    for (int i = 0; i < 20; i++) {
        stale[i] = stale_handle(ctx);
        atomic_store(&written_over, stale[i / 2]);
        ASYNC_cleanup_thread();
        for (int old = 0; old <= i; old++)
            check_is_stale(stale[old]);
    }
    ASYNC_WAIT_CTX_free(ctx);
    for (int i = 0; i < 40; i++) {
        size_t bytes = 128 * 1024;

        memory[i] = default_alloc(&bytes);
        CHECK(memory[i] != NULL);
        atomic_store(&written_over, stale[i / 2]);
        write_over(memory[i], bytes);
    }
    for (int old = 0; old < 20; old++)
        check_is_stale(stale[old]);
    for (int i = 0; i < 40; i++)
        default_free(memory[i]);
    for (int old = 0; old < 20; old++)
        check_is_stale(stale[old]);
}

CASE(memory_from_the_default_alloc_holds_no_job, OURS,
     "memory that the program takes from the default alloc function, and fills, is none that a "
     "stale handle leads to")
{
    enum { BYTES = 128 * 1024 };
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *stale[50];
    void *memory[50];

    for (int i = 0; i < 50; i++)
        stale[i] = paused_job(ctx, 1, i);
    for (int i = 0; i < 50; i++)
        finish(stale[i], i);
    ASYNC_cleanup_thread();
    ASYNC_get_mem_functions(&default_alloc, &default_free);
    for (int i = 0; i < 50; i++) {
        size_t bytes = BYTES;

        memory[i] = default_alloc(&bytes);
        CHECK(memory[i] != NULL);
        atomic_store(&written_over, stale[i]);
        write_over(memory[i], bytes);
    }
    for (int i = 0; i < 50; i++)
        check_is_stale(stale[i]);
    for (int i = 0; i < 50; i++)
        default_free(memory[i]);
    for (int i = 0; i < 50; i++)
        check_is_stale(stale[i]);
    ASYNC_WAIT_CTX_free(ctx);
}

/* ---- a forked child ---- */

CASE(handles_hold_in_a_forked_child, OURS,
     "in a forked child stale handles are stale, paused jobs have their contexts, and what the "
     "child does to them is not seen in the parent")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *stale, *job, *next;
    int status;
    pid_t pid;

    threads_ctx = ctx;
    on_new_thread(leaves_handles, &token);
    stale = stale_handle(ctx);
    job = paused_job(ctx, 1, 3);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        alarm(20);
    for (int round = 0; round < 3; round++) {
        check_is_stale(stale);
        check_is_stale(finished_there);
        check_context(paused_there, ctx);
        is_refused(paused_there);
        next = stale_handle(ctx);
        ASYNC_cleanup_thread();
        check_is_stale(next);
        if (pid != 0 && round == 0) {
            CHECK_INT(waitpid(pid, &status, 0), pid);
            CHECK_INT(status, 0);
        }
    }
    check_context(job, ctx);
    finish(job, 3);
    check_is_stale(job);
    ASYNC_WAIT_CTX_free(ctx);
    check_context(paused_there, NULL);
    if (pid == 0)
        _exit(0);
}

/* ---- everything at once ---- */

enum { STRESS_MS = 2000, WORKERS = 3, POLLERS = 2, KEPT = 4096, OPEN_JOBS = 24 };

/* LIVE: the handle has the context. GONE: it has none any more. CHANGING: one of the two. */
enum stage { UNBORN, LIVE, CHANGING, GONE, STAGES };

/* What a polling thread keeps of a job, and what the job's thread lets it know. */
struct kept {
    atomic_uint stage; /* a stage, plus STAGES times the number of times that this was used */
    _Atomic(ASYNC_JOB *) job;
    _Atomic(ASYNC_WAIT_CTX *) ctx;
};

/* Of each worker the last ones, in a ring. */
static struct kept kept[WORKERS][KEPT];
static atomic_int kept_count[WORKERS];
static atomic_long asked;

static long now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000L + now.tv_nsec / 1000000;
}

static unsigned next_random(unsigned *seed)
{
    *seed = *seed * 1103515245 + 12345;
    return *seed >> 16;
}

static void set_stage(struct kept *it, enum stage stage)
{
    atomic_store(&it->stage, atomic_load(&it->stage) / STAGES * STAGES + stage);
}

static void ask(struct kept *it)
{
    unsigned before = atomic_load(&it->stage), after;
    ASYNC_JOB *job = atomic_load(&it->job);
    ASYNC_WAIT_CTX *own = atomic_load(&it->ctx), *got = ASYNC_get_wait_ctx(job);

    after = atomic_load(&it->stage);
    if (before % STAGES == UNBORN || before / STAGES != after / STAGES)
        return; /* job and context may be of two times */
    if (before % STAGES == GONE)
        CHECK(got == NULL);
    else if (after % STAGES == LIVE)
        CHECK(got == own);
    else
        CHECK(got == NULL || got == own);
}

/* Asks for the youngest handles most often; a late response would be for one of them. */
static void *polls(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;

    while (!atomic_load(&is_over)) {
        int worker = (int)(next_random(&seed) % WORKERS), n = atomic_load(&kept_count[worker]);
        unsigned range = next_random(&seed) % 8 == 0 ? KEPT : 64;
        struct kept *it = &kept[worker][((unsigned)n - next_random(&seed) % range) % KEPT];
        ASYNC_JOB *handle = atomic_load(&it->job);

        ask(it);
        atomic_fetch_add_explicit(&asked, 1, memory_order_relaxed);
        if (next_random(&seed) % 64 == 0 && handle != NULL)
            is_refused(handle);
    }
    return NULL;
}

/* A job that its worker will finish. */
struct open_job {
    struct kept *kept; /* NULL: there is no such job */
    ASYNC_JOB *job;
    ASYNC_WAIT_CTX *ctx; /* NULL if it is freed, or not the job's alone */
};

static void start_one(struct open_job *open, int worker, ASYNC_WAIT_CTX *shared)
{
    struct kept *it = &kept[worker][atomic_load(&kept_count[worker]) % KEPT];
    ASYNC_WAIT_CTX *ctx = shared != NULL ? shared : ASYNC_WAIT_CTX_new();

    atomic_store(&it->stage, (atomic_load(&it->stage) / STAGES + 1) * STAGES + UNBORN);
    atomic_store(&it->job, paused_job(ctx, 1, 3));
    atomic_store(&it->ctx, ctx);
    set_stage(it, LIVE);
    atomic_fetch_add(&kept_count[worker], 1);
    open->kept = it;
    open->job = atomic_load(&it->job);
    open->ctx = shared != NULL ? NULL : ctx;
}

static void finish_one(struct open_job *open)
{
    set_stage(open->kept, CHANGING);
    finish(open->job, 3);
    set_stage(open->kept, GONE);
    is_refused(open->job);
    ASYNC_WAIT_CTX_free(open->ctx);
    open->kept = NULL;
}

static void free_context_of(struct open_job *open)
{
    if (open->ctx == NULL)
        return;
    set_stage(open->kept, CHANGING);
    ASYNC_WAIT_CTX_free(open->ctx);
    open->ctx = NULL;
    set_stage(open->kept, GONE);
}

/* One life of a worker's thread. Its last job stays paused; its context is freed. */
static void *works(void *arg)
{
    static atomic_uint lives;
    int worker = (int)(uintptr_t)arg;
    struct open_job open[OPEN_JOBS] = { { NULL, NULL, NULL } };
    ASYNC_WAIT_CTX *shared = ASYNC_WAIT_CTX_new();
    unsigned seed = 17 * atomic_fetch_add(&lives, 1) + (unsigned)worker;

    for (int step = 0; step < 400 && !atomic_load(&is_over); step++) {
        struct open_job *it = &open[next_random(&seed) % OPEN_JOBS];
        unsigned what = next_random(&seed) % 64;

        if (what == 0)
            ASYNC_cleanup_thread();
        else if (what == 1)
            CHECK_INT(ASYNC_init_thread(0, 0), 1);
        else if (what == 2)
            trims(NULL);
        else if (it->kept == NULL)
            start_one(it, worker, what % 2 == 0 ? shared : NULL);
        else if (it->kept != NULL && what % 4 == 0)
            free_context_of(it);
        else if (it->kept != NULL)
            finish_one(it);
    }
    for (int i = 1; i < OPEN_JOBS; i++)
        if (open[i].kept != NULL)
            finish_one(&open[i]);
    if (open[0].kept != NULL)
        set_stage(open[0].kept, CHANGING);
    ASYNC_WAIT_CTX_free(open[0].ctx);
    ASYNC_WAIT_CTX_free(shared);
    if (open[0].kept != NULL)
        set_stage(open[0].kept, GONE);
    return NULL;
}

static void *works_again_and_again(void *worker)
{
    while (!atomic_load(&is_over))
        on_new_thread(works, worker);
    return NULL;
}

CASE(polling_threads_may_keep_every_handle, OURS,
     "threads that keep the handles of all jobs of others get a live job's own context, NULL once that "
     "is freed, and NULL for a stale handle; and they can resume none")
{
    pthread_t thread[WORKERS + POLLERS];
    long end = now_ms() + STRESS_MS;

    for (uintptr_t i = 0; i < WORKERS + POLLERS; i++)
        CHECK_INT(pthread_create(&thread[i], NULL, i < POLLERS ? polls : works_again_and_again,
                                 (void *)(i < POLLERS ? i : i - POLLERS)), 0);
    while (now_ms() < end || atomic_load(&asked) == 0)
        usleep(20000);
    atomic_store(&is_over, 1);
    for (int i = 0; i < WORKERS + POLLERS; i++)
        CHECK_INT(pthread_join(thread[i], NULL), 0);
    for (int i = 0; i < WORKERS * KEPT; i++) {
        struct kept *it = &kept[i / KEPT][i % KEPT];

        if (atomic_load(&it->job) != NULL) {
            CHECK_INT(atomic_load(&it->stage) % STAGES, GONE);
            gets_no_context(atomic_load(&it->job));
        }
    }
}
