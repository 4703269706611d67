/*
 * soak.c: eight threads make random calls for SECONDS (an environment variable); a thread that ends
 * is replaced. At the end every job that was started has finished with its result, every fd was
 * cleared or cleaned up once, and memory has not grown.
 *
 * Each thread has slots for jobs. A slot may have a job and a wait context, which the other threads
 * read.
 */
#include "jobs.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

enum { THREADS = 8, SLOTS = 48, MAX_FDS = 24, MAX_DEPTH = 3, MAX_ARGS_BYTES = 20000 };

/* ---- counters -------------------------------------------------------------------------- */

/* `pauses` counts the calls of ASYNC_pause_job, `paused` the results ASYNC_PAUSE. */
static atomic_ulong started, finished, nested, pauses, paused, refused, threads_ended, reads;
/* Fds set, and cleared or cleaned up: their number, and a sum in which no two errors cancel out. */
static atomic_ulong fds_set, fds_gone, sum_set, sum_gone;
static atomic_bool stop;

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* ---- threads and slots ----------------------------------------------------------------- */

struct slot {
    /* For job and ctx: held by other threads to read them, and by the owner to change them. */
    pthread_rwlock_t lock;
    ASYNC_JOB *job;
    ASYNC_WAIT_CTX *ctx;
    /* Used by the owner only. */
    int expected;
    int fds;
    bool inside; /* the job is running, or has started or resumed the one that is */
};

struct thread {
    struct slot slots[SLOTS];
    uint64_t random; /* the state of the generator */
    bool limited;    /* by ASYNC_init_thread */
    bool ending;     /* starts no more jobs */
    int depth;       /* of nested jobs */
};

static struct thread all[THREADS];
static _Thread_local struct thread *self;

/* A random number below the limit (xorshift). */
static uint32_t below(uint32_t limit)
{
    self->random ^= self->random << 13;
    self->random ^= self->random >> 7;
    self->random ^= self->random << 17;
    return (uint32_t)(self->random >> 33) % limit;
}

/* Changes what other threads read of a slot. */
static void publish(struct slot *slot, ASYNC_JOB *job, ASYNC_WAIT_CTX *ctx)
{
    if (slot->job == job && slot->ctx == ctx)
        return;
    pthread_rwlock_wrlock(&slot->lock);
    slot->job = job;
    slot->ctx = ctx;
    pthread_rwlock_unlock(&slot->lock);
}

static void queue_is_empty(void)
{
#ifdef WITH_LIBCRYPTO
    CHECK_INT(ERR_peek_error(), 0);
#endif
}

/* One error of the library is on the queue. */
static void one_error(void)
{
#ifdef WITH_LIBCRYPTO
    CHECK_INT(ERR_GET_LIB(ERR_get_error()), ERR_LIB_ASYNC);
#endif
    queue_is_empty();
}

/* ---- wait contexts --------------------------------------------------------------------- */

/* The custom data of an fd: shows whether the key, fd and data that are read belong together. */
static void *data_of(const void *key, int fd)
{
    uintptr_t both = (uintptr_t)key ^ (uintptr_t)fd << 24;

    return (void *)(both * 0x9e3779b97f4a7c15u);
}

static const void *some_key(void)
{
    static const char keys[6];

    return &keys[below(sizeof(keys))];
}

/* Counts an fd that was cleared or cleaned up. */
static void count_gone(const void *data)
{
    atomic_fetch_add(&fds_gone, 1);
    atomic_fetch_add(&sum_gone, (uintptr_t)data);
}

static void cleanup(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    size_t count;

    CHECK(data == data_of(key, fd));
    CHECK(ASYNC_WAIT_CTX_get_all_fds(ctx, NULL, &count) == 1 && count >= 1);
    count_gone(data);
}

static int first_callback(void *arg)
{
    return arg == (void *)first_callback;
}

static int second_callback(void *arg)
{
    return arg == (void *)second_callback;
}

/* Changes the slot's context; called by the owner, inside of the slot's job or outside. */
static void change_ctx(struct slot *slot)
{
    ASYNC_WAIT_CTX *ctx = slot->ctx;
    const void *key = some_key();
    int fd = (int)below(1 << 30);
    ASYNC_callback_fn callback;
    void *data;

    switch (below(5)) {
    case 0:
    case 1:
        if (slot->fds == MAX_FDS)
            break;
        data = data_of(key, fd);
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, key, fd, data, cleanup), 1);
        slot->fds++;
        atomic_fetch_add(&fds_set, 1);
        atomic_fetch_add(&sum_set, (uintptr_t)data);
        break;
    case 2:
        if (ASYNC_WAIT_CTX_get_fd(ctx, key, &fd, &data)) {
            CHECK(data == data_of(key, fd));
            CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, key), 1);
            slot->fds--;
            count_gone(data);
        } else {
            CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, key), 0);
        }
        break;
    case 3:
        callback = below(2) ? first_callback : second_callback;
        CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, callback, (void *)callback), 1);
        break;
    default:
        CHECK_INT(ASYNC_WAIT_CTX_set_status(ctx, (int)below(4)), 1);
    }
    queue_is_empty();
}

/* Makes the calls that any thread may make with another's job and context. */
static void read_slot(struct slot *slot)
{
    int list[4 * MAX_FDS], more[4 * MAX_FDS], ret = 0, fd;
    size_t count, added, deleted;
    ASYNC_callback_fn callback;
    const void *key = some_key();
    void *data;

    pthread_rwlock_rdlock(&slot->lock);
    if (slot->ctx != NULL) {
        if (ASYNC_WAIT_CTX_get_fd(slot->ctx, key, &fd, &data))
            CHECK(data == data_of(key, fd));
        CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(slot->ctx, list, &count), 1);
        CHECK(count <= MAX_FDS);
        CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(slot->ctx, list, &added, more, &deleted), 1);
        CHECK(added <= MAX_FDS && deleted <= MAX_FDS);
        if (ASYNC_WAIT_CTX_get_callback(slot->ctx, &callback, &data))
            CHECK_INT(callback(data), 1);
        CHECK((unsigned)ASYNC_WAIT_CTX_get_status(slot->ctx) < 4);
        CHECK_INT(ASYNC_WAIT_CTX_set_status(slot->ctx, ASYNC_STATUS_OK), 1);
        atomic_fetch_add(&reads, 1);
    }
    queue_is_empty();
    if (slot->job != NULL) {
        ASYNC_JOB *job = slot->job;
        ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(job);

        CHECK(ctx == NULL || slot->ctx == NULL || ctx == slot->ctx);
        CHECK_INT(resume(&job, &ret), ASYNC_ERR);
        one_error();
    }
    pthread_rwlock_unlock(&slot->lock);
}

static void free_ctx(struct slot *slot)
{
    ASYNC_WAIT_CTX *ctx = slot->ctx;

    publish(slot, slot->job, NULL);
    slot->fds = 0;
    ASYNC_WAIT_CTX_free(ctx);
    queue_is_empty();
}

/* ---- jobs ------------------------------------------------------------------------------ */

struct args {
    struct slot *slot; /* NULL for a nested job */
    size_t size;
    int expected;
    unsigned char filling[];
};

static void work(void);
static int job_func(void *copy);

static bool is_whole(const struct args *args)
{
    for (size_t at = 0; at < args->size - sizeof(*args); at++)
        if (args->filling[at] != (unsigned char)((size_t)args->expected + at))
            return false;
    return true;
}

/* Starts a job with arguments of random size; false if the thread's limit does not allow it. */
static bool start_job(ASYNC_JOB **handle, struct slot *slot, int expected, int *code)
{
    static _Thread_local union {
        struct args args;
        unsigned char bytes[MAX_ARGS_BYTES];
    } given;
    size_t most = below(8) == 0 ? MAX_ARGS_BYTES : below(4) == 0 ? 2048 : 64;
    int ret = -1;

    given.args.slot = slot;
    given.args.expected = expected;
    given.args.size = sizeof(struct args) + below((uint32_t)(most - sizeof(struct args)));
    for (size_t at = 0; at < given.args.size - sizeof(struct args); at++)
        given.args.filling[at] = (unsigned char)((size_t)expected + at);
    *handle = NULL;
    *code = ASYNC_start_job(handle, slot == NULL ? NULL : slot->ctx, &ret, job_func, &given,
                            given.args.size);
    queue_is_empty();
    if (*code == ASYNC_NO_JOBS) {
        CHECK(self->limited && *handle == NULL);
        atomic_fetch_add(&refused, 1);
        return false;
    }
    CHECK(*code == ASYNC_PAUSE || *code == ASYNC_FINISH);
    CHECK(*code == ASYNC_PAUSE || ret == expected);
    atomic_fetch_add(&paused, *code == ASYNC_PAUSE);
    return true;
}

/* Resumes a job, and checks and counts what comes of it. */
static int resume_job(ASYNC_JOB **handle, int expected)
{
    int ret = -1, code = resume(handle, &ret);

    CHECK(code == ASYNC_PAUSE || (code == ASYNC_FINISH && ret == expected));
    queue_is_empty();
    atomic_fetch_add(&paused, code == ASYNC_PAUSE);
    return code;
}

static void pause_job(void)
{
    ASYNC_JOB *current = ASYNC_get_current_job();
    ASYNC_WAIT_CTX *ctx;
    size_t added, deleted;

    atomic_fetch_add(&pauses, 1);
    self->depth--;
    CHECK_INT(ASYNC_pause_job(), 1);
    self->depth++;
    CHECK(current == ASYNC_get_current_job());
    ctx = ASYNC_get_wait_ctx(current);
    if (ctx != NULL) {
        CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, NULL, &added, NULL, &deleted), 1);
        CHECK(added == 0 && deleted == 0);
    }
}

/* Writes up to 16 KiB of the stack, pauses, and finds them unchanged. */
static void use_stack(void)
{
    volatile unsigned char bytes[16 << 10];
    size_t used = 1 + below(sizeof(bytes));

    for (size_t at = 0; at < used; at += 64)
        bytes[at] = (unsigned char)(at >> 6);
    pause_job();
    for (size_t at = 0; at < used; at += 64)
        CHECK_INT(bytes[at], (unsigned char)(at >> 6));
}

/* Runs a nested job to its end. After some of its pauses the outer job pauses too. */
static void run_inner(void)
{
    ASYNC_JOB *inner, *outer = ASYNC_get_current_job();
    int code, expected = (int)below(1 << 30);

    if (!start_job(&inner, NULL, expected, &code))
        return;
    atomic_fetch_add(&nested, 1);
    for (;;) {
        CHECK(ASYNC_get_current_job() == outer);
        if (code == ASYNC_FINISH)
            return;
        if (below(2))
            pause_job();
        code = resume_job(&inner, expected);
    }
}

static int job_func(void *copy)
{
    const struct args *args = copy;
    ASYNC_JOB *current = ASYNC_get_current_job();

    atomic_fetch_add(&started, 1);
    self->depth++;
    for (int steps = (int)below(6); steps > 0; steps--) {
        CHECK(is_whole(args));
        CHECK(ASYNC_get_wait_ctx(current) == (args->slot == NULL ? NULL : args->slot->ctx));
        switch (below(8)) {
        case 0:
        case 1:
            pause_job();
            break;
        case 2:
            use_stack();
            break;
        case 3:
            ASYNC_block_pause();
            CHECK_INT(ASYNC_pause_job(), 1);
            if (below(4) != 0)
                ASYNC_unblock_pause();
            else
                steps = 1; /* the job ends, and its block with it */
            break;
        case 4:
        case 5:
            if (args->slot != NULL && args->slot->ctx != NULL)
                change_ctx(args->slot);
            break;
        case 6:
            if (self->depth < MAX_DEPTH)
                run_inner();
            break;
        default:
            if (self->depth < MAX_DEPTH)
                work();
        }
    }
    CHECK(is_whole(args) && ASYNC_get_current_job() == current);
    self->depth--;
    atomic_fetch_add(&finished, 1);
    return args->expected;
}

/* Resumes the job of a slot, or starts one there. */
static void advance(struct slot *slot)
{
    ASYNC_JOB *handle = slot->job;
    int code;

    if (slot->inside || (handle == NULL && self->ending))
        return;
    slot->inside = true;
    if (handle != NULL) {
        code = resume_job(&handle, slot->expected);
    } else {
        if (slot->ctx == NULL && below(8) != 0)
            publish(slot, NULL, ASYNC_WAIT_CTX_new());
        slot->expected = (int)below(1 << 30);
        if (!start_job(&handle, slot, slot->expected, &code))
            code = ASYNC_NO_JOBS;
    }
    slot->inside = false;
    /* Other threads no longer get the handle of a job that has finished. */
    publish(slot, handle, slot->ctx);
    CHECK(handle == NULL || ASYNC_get_wait_ctx(handle) == slot->ctx);
}

/* A random call, inside a job or outside. */
static void work(void)
{
    struct slot *slot = &self->slots[below(SLOTS)];
    struct thread *other;
    size_t limit;

    switch (below(64)) {
    case 0:
        if (slot->ctx != NULL && !slot->inside)
            free_ctx(slot);
        break;
    case 1:
        if (below(8) == 0) {
            limit = below(2) ? 0 : 1 + below(2 * SLOTS);
            CHECK_INT(ASYNC_init_thread(limit, limit == 0 ? 0 : below((uint32_t)limit + 1) / 4), 1);
            self->limited = limit != 0;
        }
        break;
    case 2:
        if (below(8) == 0) {
            ASYNC_cleanup_thread();
            self->limited = false;
        } else if (below(4) == 0) {
            RSASYNC_trim_thread();
        }
        break;
    case 3:
        CHECK_INT(ASYNC_init_thread(1, 2), 0);
        one_error();
        break;
    case 4 ... 15:
        if (slot->ctx != NULL)
            change_ctx(slot);
        break;
    case 16 ... 31:
        other = &all[(size_t)(self - all + 1 + below(THREADS - 1)) % THREADS];
        read_slot(&other->slots[below(SLOTS)]);
        break;
    default:
        advance(slot);
    }
    queue_is_empty();
}

/* ---- threads that end and are replaced -------------------------------------------------- */

static void *thread_life(void *thread)
{
    self = thread;
    self->limited = self->ending = false;
    for (int left = 200 + (int)below(20000); left > 0 && !atomic_load(&stop); left--)
        work();
    self->ending = true; /* else its jobs would start others in slots that are done */
    for (int i = 0; i < SLOTS; i++) {
        while (self->slots[i].job != NULL)
            advance(&self->slots[i]);
        if (self->slots[i].ctx != NULL)
            free_ctx(&self->slots[i]);
    }
    if (below(2))
        ASYNC_cleanup_thread();
    return NULL;
}

/* Runs one thread after another with the same slots. */
static void *thread_lives(void *thread)
{
    pthread_t life;

    while (!atomic_load(&stop)) {
        CHECK_INT(pthread_create(&life, NULL, thread_life, thread), 0);
        CHECK_INT(pthread_join(life, NULL), 0);
        atomic_fetch_add(&threads_ended, 1);
    }
    return NULL;
}

/* ---- the case -------------------------------------------------------------------------- */

static double resident_mib(void)
{
    long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");

    CHECK(statm != NULL && fscanf(statm, "%*d %ld", &pages) == 1);
    fclose(statm);
    return (double)(pages * sysconf(_SC_PAGESIZE)) / (1 << 20);
}

/* Samples of resident memory, in MiB, of one third of the time. */
struct third {
    double sum;
    int samples;
};

static double mean(const struct third *third)
{
    CHECK(third->samples > 0);
    return third->sum / third->samples;
}

static void progress(double elapsed, double seconds, const char *end)
{
    struct rsasync_stats stats;

    RSASYNC_get_stats(&stats, sizeof(stats));
    printf("%.0f of %.0f s: %lu jobs, %lu threads, %.1f MiB resident, %lu stacks%s", elapsed,
           seconds, atomic_load(&finished), atomic_load(&threads_ended), resident_mib(),
           (unsigned long)stats.stacks_in_use, end);
    fflush(stdout);
}

CASE(soak, OURS,
     "after random calls in eight threads no job and no fd is lost, and memory has not grown")
{
    double seconds = atof(getenv("SECONDS") != NULL ? getenv("SECONDS") : "10");
    const char *given = getenv("SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
    struct third thirds[3] = { { 0, 0 } };
    const struct timespec tick = { 0, 50000000 };
    struct rsasync_stats stats;
    pthread_t threads[THREADS];
    double began = now(), elapsed, shown = 0;
    bool terminal = isatty(STDOUT_FILENO);

    CHECK(seconds > 0);
    printf("SEED=%llu\n", (unsigned long long)seed);
    for (int i = 0; i < THREADS; i++) {
        all[i].random = (seed + (uint64_t)i + 1) * 0x9e3779b97f4a7c15u | 1;
        for (int j = 0; j < SLOTS; j++)
            CHECK_INT(pthread_rwlock_init(&all[i].slots[j].lock, NULL), 0);
    }
    for (int i = 0; i < THREADS; i++)
        CHECK_INT(pthread_create(&threads[i], NULL, thread_lives, &all[i]), 0);
    while ((elapsed = now() - began) < seconds) {
        struct third *third = &thirds[(int)(elapsed * 3 / seconds)];

        nanosleep(&tick, NULL);
        third->sum += resident_mib();
        third->samples++;
        if (terminal && elapsed >= shown) {
            progress(elapsed, seconds, "   \r");
            shown += 0.5;
        }
    }
    progress(seconds, seconds, "\n");
    atomic_store(&stop, true);
    for (int i = 0; i < THREADS; i++)
        CHECK_INT(pthread_join(threads[i], NULL), 0);

    printf("%lu jobs started, %lu of them by jobs; %lu pauses, %lu times no job, "
           "%lu reads of others, %lu fds\n",
           atomic_load(&started), atomic_load(&nested), atomic_load(&pauses), atomic_load(&refused),
           atomic_load(&reads), atomic_load(&fds_set));
    printf("MiB resident in each third of the time: %.2f, %.2f, %.2f\n", mean(&thirds[0]),
           mean(&thirds[1]), mean(&thirds[2]));
    RSASYNC_get_stats(&stats, sizeof(stats));
    CHECK_INT(stats.stacks_in_use, 0);
    CHECK_INT(stats.stacks_unguarded, 0);
    CHECK_INT(stats.jobs_abandoned, 0);
    CHECK_INT(finished, started);
    CHECK_INT(paused, pauses);
    CHECK_INT(fds_gone, fds_set);
    CHECK_INT(sum_gone, sum_set);
    CHECK(started > 0 && nested > 0 && reads > 0 && refused > 0 && threads_ended > THREADS);
    CHECK(mean(&thirds[2]) < mean(&thirds[1]) * 1.1 + 1);
}
