/*
 * soak.c: eight threads do random work of everything, and others take their places when they
 * end. Whatever happened, at the end every job started has finished with the right result,
 * every descriptor was cleared or cleaned up once, and no memory is kept or has grown.
 *
 * Each thread has some places for jobs. A place with a job has a wait context too, and the
 * other threads look at both.
 */
#include "check.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>
#ifdef WITH_LIBCRYPTO
# include <openssl/crypto.h>
# include <openssl/err.h>
#endif

enum { THREADS = 8, PLACES = 48, MOST_FDS = 24, DEEPEST = 3, LARGEST_ARGS = 20000 };

/* ---- what is counted ------------------------------------------------------------------- */

static atomic_ulong started, finished, nested, pauses, paused, refused, threads_ended, looks;
/* Descriptors are counted and, so that two mistakes can't cancel out, summed up. */
static atomic_ulong fds_set, fds_gone, sum_set, sum_gone;
static atomic_bool stop;

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* ---- threads and places ---------------------------------------------------------------- */

struct place {
    /* Others read under it; the owner writes under it, and need not to read. */
    pthread_rwlock_t lock;
    ASYNC_JOB *job;
    ASYNC_WAIT_CTX *ctx;
    /* The rest is the owner's alone. */
    int expected;
    int fds;
    bool inside; /* the job runs, or waits for one that it started */
};

struct thread {
    struct place places[PLACES];
    uint64_t random;
    bool limited, ending;
    int depth;
};

static struct thread all[THREADS];
static _Thread_local struct thread *self;

static uint32_t below(uint32_t limit)
{
    self->random ^= self->random << 13;
    self->random ^= self->random >> 7;
    self->random ^= self->random << 17;
    return (uint32_t)(self->random >> 33) % limit;
}

static void publish(struct place *place, ASYNC_JOB *job, ASYNC_WAIT_CTX *ctx)
{
    if (place->job == job && place->ctx == ctx)
        return;
    pthread_rwlock_wrlock(&place->lock);
    place->job = job;
    place->ctx = ctx;
    pthread_rwlock_unlock(&place->lock);
}

static void queue_is_empty(void)
{
#ifdef WITH_LIBCRYPTO
    CHECK_INT(ERR_peek_error(), 0);
#endif
}

static void one_error(void)
{
#ifdef WITH_LIBCRYPTO
    CHECK_INT(ERR_GET_LIB(ERR_get_error()), 51);
#endif
    queue_is_empty();
}

/* ---- wait contexts --------------------------------------------------------------------- */

/* What a descriptor is stored with, so that whoever finds it can tell that it is whole. */
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

static void count_gone(const void *data)
{
    atomic_fetch_add(&fds_gone, 1);
    atomic_fetch_add(&sum_gone, (uintptr_t)data);
}

static void clean(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
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

/* What the owner does with a context, from inside its job or from outside. */
static void work_on(struct place *place)
{
    ASYNC_WAIT_CTX *ctx = place->ctx;
    const void *key = some_key();
    int fd = (int)below(1 << 30);
    ASYNC_callback_fn callback;
    void *data;

    switch (below(5)) {
    case 0:
    case 1:
        if (place->fds == MOST_FDS)
            break;
        data = data_of(key, fd);
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, key, fd, data, clean), 1);
        place->fds++;
        atomic_fetch_add(&fds_set, 1);
        atomic_fetch_add(&sum_set, (uintptr_t)data);
        break;
    case 2:
        if (ASYNC_WAIT_CTX_get_fd(ctx, key, &fd, &data)) {
            CHECK(data == data_of(key, fd));
            CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, key), 1);
            place->fds--;
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

/* What any thread may do with the job and the context of another. */
static void look_at(struct place *place)
{
    int list[4 * MOST_FDS], more[4 * MOST_FDS], ret = 0, fd;
    size_t count, added, deleted;
    ASYNC_callback_fn callback;
    const void *key = some_key();
    void *data;

    pthread_rwlock_rdlock(&place->lock);
    if (place->ctx != NULL) {
        if (ASYNC_WAIT_CTX_get_fd(place->ctx, key, &fd, &data))
            CHECK(data == data_of(key, fd));
        CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(place->ctx, list, &count), 1);
        CHECK(count <= MOST_FDS);
        CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(place->ctx, list, &added, more, &deleted), 1);
        CHECK(added <= MOST_FDS && deleted <= MOST_FDS);
        if (ASYNC_WAIT_CTX_get_callback(place->ctx, &callback, &data))
            CHECK_INT(callback(data), 1);
        CHECK((unsigned)ASYNC_WAIT_CTX_get_status(place->ctx) < 4);
        CHECK_INT(ASYNC_WAIT_CTX_set_status(place->ctx, ASYNC_STATUS_OK), 1);
        atomic_fetch_add(&looks, 1);
    }
    queue_is_empty();
    if (place->job != NULL) {
        ASYNC_JOB *job = place->job;
        ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(job);

        CHECK(ctx == NULL || place->ctx == NULL || ctx == place->ctx);
        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
        one_error();
    }
    pthread_rwlock_unlock(&place->lock);
}

static void free_ctx(struct place *place)
{
    ASYNC_WAIT_CTX *ctx = place->ctx;

    publish(place, place->job, NULL);
    place->fds = 0;
    ASYNC_WAIT_CTX_free(ctx);
    queue_is_empty();
}

/* ---- jobs ------------------------------------------------------------------------------ */

struct args {
    struct place *place; /* NULL for a job that another one started */
    size_t size;
    int expected;
    unsigned char filling[];
};

static void work(void);
static int job(void *copy);

static bool is_whole(const struct args *args)
{
    for (size_t at = 0; at < args->size - sizeof(*args); at++)
        if (args->filling[at] != (unsigned char)((size_t)args->expected + at))
            return false;
    return true;
}

/* Starts one with arguments of any size; true unless the thread's limit forbids. */
static bool start(ASYNC_JOB **handle, struct place *place, int expected, int *code)
{
    static _Thread_local union {
        struct args args;
        unsigned char bytes[LARGEST_ARGS];
    } given;
    size_t most = below(8) == 0 ? LARGEST_ARGS : below(4) == 0 ? 2048 : 64;
    int ret = -1;

    given.args.place = place;
    given.args.expected = expected;
    given.args.size = sizeof(struct args) + below((uint32_t)(most - sizeof(struct args)));
    for (size_t at = 0; at < given.args.size - sizeof(struct args); at++)
        given.args.filling[at] = (unsigned char)((size_t)expected + at);
    *handle = NULL;
    *code = ASYNC_start_job(handle, place == NULL ? NULL : place->ctx, &ret, job, &given,
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

static int resume(ASYNC_JOB **handle, int expected)
{
    int ret = -1, code = ASYNC_start_job(handle, NULL, &ret, NULL, NULL, 0);

    CHECK(code == ASYNC_PAUSE || (code == ASYNC_FINISH && ret == expected));
    queue_is_empty();
    atomic_fetch_add(&paused, code == ASYNC_PAUSE);
    return code;
}

static void pause_(void)
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

/* Uses some of the stack, and finds it as it was after a pause deep in it. */
static void use_stack(void)
{
    volatile unsigned char room[16 << 10];
    size_t used = 1 + below(sizeof(room));

    for (size_t at = 0; at < used; at += 64)
        room[at] = (unsigned char)(at >> 6);
    pause_();
    for (size_t at = 0; at < used; at += 64)
        CHECK_INT(room[at], (unsigned char)(at >> 6));
}

/* A job inside a job, some of whose pauses are passed on. */
static void run_inner(void)
{
    ASYNC_JOB *inner, *outer = ASYNC_get_current_job();
    int code, expected = (int)below(1 << 30);

    if (!start(&inner, NULL, expected, &code))
        return;
    atomic_fetch_add(&nested, 1);
    for (;;) {
        CHECK(ASYNC_get_current_job() == outer);
        if (code == ASYNC_FINISH)
            return;
        if (below(2))
            pause_();
        code = resume(&inner, expected);
    }
}

static int job(void *copy)
{
    const struct args *args = copy;
    ASYNC_JOB *current = ASYNC_get_current_job();

    atomic_fetch_add(&started, 1);
    self->depth++;
    for (int steps = (int)below(6); steps > 0; steps--) {
        CHECK(is_whole(args));
        CHECK(ASYNC_get_wait_ctx(current) == (args->place == NULL ? NULL : args->place->ctx));
        switch (below(8)) {
        case 0:
        case 1:
            pause_();
            break;
        case 2:
            use_stack();
            break;
        case 3:
            ASYNC_block_pause();
            CHECK_INT(ASYNC_pause_job(), 1);
            if (below(4) != 0) /* or it is forgotten with the job */
                ASYNC_unblock_pause();
            else
                steps = 1;
            break;
        case 4:
        case 5:
            if (args->place != NULL && args->place->ctx != NULL)
                work_on(args->place);
            break;
        case 6:
            if (self->depth < DEEPEST)
                run_inner();
            break;
        default:
            if (self->depth < DEEPEST)
                work();
        }
    }
    CHECK(is_whole(args) && ASYNC_get_current_job() == current);
    self->depth--;
    atomic_fetch_add(&finished, 1);
    return args->expected;
}

/* Goes on with the job of a place, or starts one there. */
static void advance(struct place *place)
{
    ASYNC_JOB *handle = place->job;
    int code;

    if (place->inside || (handle == NULL && self->ending))
        return;
    place->inside = true;
    if (handle != NULL) {
        code = resume(&handle, place->expected);
    } else {
        if (place->ctx == NULL && below(8) != 0)
            publish(place, NULL, ASYNC_WAIT_CTX_new());
        place->expected = (int)below(1 << 30);
        if (!start(&handle, place, place->expected, &code))
            code = ASYNC_NO_JOBS;
    }
    place->inside = false;
    /* From here on nobody has the handle of a job that has finished. */
    publish(place, handle, place->ctx);
    CHECK(handle == NULL || ASYNC_get_wait_ctx(handle) == place->ctx);
}

/* Something random, inside a job or outside. */
static void work(void)
{
    struct place *place = &self->places[below(PLACES)];
    struct thread *other;
    size_t limit;

    switch (below(64)) {
    case 0:
        if (place->ctx != NULL && !place->inside)
            free_ctx(place);
        break;
    case 1:
        if (below(8) == 0) {
            limit = below(2) ? 0 : 1 + below(2 * PLACES);
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
        if (place->ctx != NULL)
            work_on(place);
        break;
    case 16 ... 31:
        other = &all[(size_t)(self - all + 1 + below(THREADS - 1)) % THREADS];
        look_at(&other->places[below(PLACES)]);
        break;
    default:
        advance(place);
    }
    queue_is_empty();
}

/* ---- threads that come and go ---------------------------------------------------------- */

static void *one_life(void *thread)
{
    self = thread;
    self->limited = self->ending = false;
    for (int left = 200 + (int)below(20000); left > 0 && !atomic_load(&stop); left--)
        work();
    self->ending = true; /* or jobs would start others where there are none any more */
    for (int i = 0; i < PLACES; i++) {
        while (self->places[i].job != NULL)
            advance(&self->places[i]);
        if (self->places[i].ctx != NULL)
            free_ctx(&self->places[i]);
    }
    if (below(2))
        ASYNC_cleanup_thread();
    return NULL;
}

static void *lives(void *thread)
{
    pthread_t life;

    while (!atomic_load(&stop)) {
        CHECK_INT(pthread_create(&life, NULL, one_life, thread), 0);
        CHECK_INT(pthread_join(life, NULL), 0);
        atomic_fetch_add(&threads_ended, 1);
    }
    return NULL;
}

/* ---- the whole ------------------------------------------------------------------------- */

static double resident_mib(void)
{
    long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");

    CHECK(statm != NULL && fscanf(statm, "%*d %ld", &pages) == 1);
    fclose(statm);
    return (double)(pages * sysconf(_SC_PAGESIZE)) / (1 << 20);
}

/* Samples of resident memory, taken in one third of the time. */
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

CASE(soak, OURS, "whatever threads do, nothing is lost, and nothing grows")
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
        for (int j = 0; j < PLACES; j++)
            CHECK_INT(pthread_rwlock_init(&all[i].places[j].lock, NULL), 0);
    }
    for (int i = 0; i < THREADS; i++)
        CHECK_INT(pthread_create(&threads[i], NULL, lives, &all[i]), 0);
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
           "%lu looks at others, %lu descriptors\n",
           atomic_load(&started), atomic_load(&nested), atomic_load(&pauses), atomic_load(&refused),
           atomic_load(&looks), atomic_load(&fds_set));
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
    CHECK(started > 0 && nested > 0 && looks > 0 && refused > 0 && threads_ended > THREADS);
    CHECK(mean(&thirds[2]) < mean(&thirds[1]) * 1.1 + 1);
}
