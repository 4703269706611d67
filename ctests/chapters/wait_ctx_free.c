/*
 * wait_ctx_free.c: ASYNC_WAIT_CTX_free calls the cleanup of each entry, newest first, and leaves
 * the context's paused jobs as orphans: they have no context any more, and are safe to resume.
 */
#include "fds.h"
#include "process.h"
#include <stdatomic.h>
#include <time.h>

CASE(free_calls_cleanups_newest_first, EVERYWHERE,
     "free calls the cleanup of each entry, newest first, with the context, key, fd and data of "
     "its entry")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, &data_a, record_cleanup), 1);
    clear_marks(ctx);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_b, 2, &data_b, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_c, 3, NULL, record_cleanup), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_c, 4, &data_c, record_cleanup), 1);
    CHECK_INT(n_cleaned, 0);
    ASYNC_WAIT_CTX_free(ctx);
    expect_cleaned(FDS(4, 3, 1));
    for (size_t i = 0; i < 3; i++)
        CHECK(cleaned[i].ctx == ctx);
    CHECK(cleaned[0].key == &key_c && cleaned[0].data == &data_c);
    CHECK(cleaned[1].key == &key_c && cleaned[1].data == NULL);
    CHECK(cleaned[2].key == &key_a && cleaned[2].data == &data_a);
}

CASE(free_does_not_clean_up_deleted_entries, EVERYWHERE,
     "an entry that is marked deleted when its context is freed is not cleaned up")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, record_cleanup), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_b, 2, NULL, record_cleanup), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_c, 3, NULL, record_cleanup), 1);
    clear_marks(ctx);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_b), 1);
    expect_changed(ctx, NONE, FDS(2));
    ASYNC_WAIT_CTX_free(ctx);
    expect_cleaned(FDS(3, 1));
}

static int user_callback(void *arg)
{
    (void)arg;
    return 0;
}

/* The cleanup called first: the context is as it was before the free. */
static void reads_whole_context(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    ASYNC_callback_fn callback = NULL;
    void *arg = NULL;

    expect_fd(ctx, key, fd, data);
    expect_fd(ctx, &key_a, 1, NULL);
    expect_all(ctx, FDS(3, 1));
    expect_changed(ctx, FDS(3), FDS(2));
    CHECK_INT(ASYNC_WAIT_CTX_get_status(ctx), ASYNC_STATUS_EAGAIN);
    CHECK_INT(ASYNC_WAIT_CTX_get_callback(ctx, &callback, &arg), 1);
    CHECK(callback == user_callback && arg == &data_b);
    record_cleanup(ctx, key, fd, data);
}

CASE(a_cleanup_finds_the_context_as_it_was, SINCE_3_0,
     "the first cleanup that a free calls can still read everything in the context")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    set(ctx, &key_a, 1);
    set(ctx, &key_b, 2);
    clear_marks(ctx);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_b), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_c, 3, &data_c, reads_whole_context), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_EAGAIN), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, user_callback, &data_b), 1);
    ASYNC_WAIT_CTX_free(ctx);
    expect_cleaned(FDS(3));
}

static void reads_what_is_left(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    int list[8];
    size_t n = 0, n_add = 0, n_del = 9;

    record_cleanup(ctx, key, fd, data);
    expect_fd(ctx, key, fd, data);
    expect_fd(ctx, &key_a, 1, &data_a);
    /* This entry and the older ones are listed; entries already cleaned up may be, or may not. */
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(ctx, list, &n), 1);
    CHECK(n >= (size_t)fd && n <= 3);
    for (int i = 0; i < fd; i++)
        CHECK_INT(list[n - 1 - (size_t)i], i + 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, NULL, &n_add, NULL, &n_del), 1);
    CHECK_INT(n_add, n);
    CHECK_INT(n_del, 0);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(ctx), 7);
}

/* In libcrypto the second cleanup would walk a list whose first entry is freed. */
CASE(every_cleanup_may_read_the_context, OURS,
     "in each cleanup of a free the context is readable, and holds its entry and the older ones")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, &data_a, reads_what_is_left), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_b, 2, &data_b, reads_what_is_left), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_c, 3, &data_c, reads_what_is_left), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_status(ctx, 7), 1);
    ASYNC_WAIT_CTX_free(ctx);
    expect_cleaned(FDS(3, 2, 1));
}

static void clears_key_a(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    record_cleanup(ctx, key, fd, data);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 1);
    expect_no_fd(ctx, &key_a);
}

CASE(a_cleanup_may_clear_an_older_entry, EVERYWHERE,
     "the cleanup of an entry is not called once another entry's cleanup has cleared it")
{
    for (int marks_cleared = 0; marks_cleared < 2; marks_cleared++) {
        ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_b, 1, NULL, record_cleanup), 1);
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 2, NULL, record_cleanup), 1);
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_c, 3, NULL, clears_key_a), 1);
        if (marks_cleared)
            clear_marks(ctx);
        n_cleaned = 0;
        ASYNC_WAIT_CTX_free(ctx);
        expect_cleaned(FDS(3, 1));
    }
}

static void clears_itself(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    record_cleanup(ctx, key, fd, data);
    (void)ASYNC_WAIT_CTX_clear_fd(ctx, key);
}

/* libcrypto would read the next entry out of the one that the cleanup has freed. */
CASE(a_cleanup_may_clear_its_own_entry, OURS,
     "a cleanup that clears its own entry is called once, and those of the older entries follow")
{
    for (int marks_cleared = 0; marks_cleared < 2; marks_cleared++) {
        ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, record_cleanup), 1);
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_b, 2, NULL, clears_itself), 1);
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_c, 3, NULL, clears_itself), 1);
        if (marks_cleared)
            clear_marks(ctx);
        n_cleaned = 0;
        ASYNC_WAIT_CTX_free(ctx);
        expect_cleaned(FDS(3, 2, 1));
    }
}

static int accepted;

static void sets_another(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    record_cleanup(ctx, key, fd, data);
    accepted += ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_c, 100 + fd, NULL, record_cleanup);
}

static void sets_itself_again(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    record_cleanup(ctx, key, fd, data);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, key, fd, data, sets_itself_again), 0);
}

/* libcrypto would lose the new entry. */
CASE(a_cleanup_that_sets_itself_again_is_called_once, OURS,
     "A cleanup can't add an fd to the context that is being freed, which could go on for ever")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, sets_itself_again), 1);
    n_cleaned = 0;
    ASYNC_WAIT_CTX_free(ctx);
    expect_cleaned(FDS(1));
}

/* libcrypto would lose the new entry. */
CASE(a_cleanup_may_set_an_fd, OURS,
     "an fd that a cleanup sets in the context being freed is refused, or cleaned up too")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    size_t added = 0;

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, sets_another), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_b, 2, NULL, sets_another), 1);
    ASYNC_WAIT_CTX_free(ctx);
    for (size_t i = 0; i < n_cleaned; i++)
        added += cleaned[i].fd > 100;
    CHECK_INT(added, accepted);
    CHECK_INT(n_cleaned - added, 2);
}

static void frees_another_context(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    record_cleanup(ctx, key, fd, data);
    ASYNC_WAIT_CTX_free(data);
    record_cleanup(ctx, key, fd + 1, data);
}

CASE(a_cleanup_may_free_another_context, EVERYWHERE, "cleanups may free other contexts")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *inner = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(inner, &key_a, 2, NULL, record_cleanup), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, record_cleanup), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 10, inner, frees_another_context), 1);
    ASYNC_WAIT_CTX_free(ctx);
    expect_cleaned(FDS(10, 2, 11, 1));
}

static void runs_a_job(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    record_cleanup(ctx, key, fd, data);
    clear_marks(data);
}

CASE(a_cleanup_may_run_jobs, EVERYWHERE, "a cleanup may start and resume jobs of other contexts")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();

    set(other, &key_a, 3);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, other, runs_a_job), 1);
    ASYNC_WAIT_CTX_free(ctx);
    expect_cleaned(FDS(1));
    expect_changed(other, NONE, NONE);
    ASYNC_WAIT_CTX_free(other);
}

static void *reads_on_a_thread(void *arg)
{
    ASYNC_WAIT_CTX *ctx = arg, *another = ASYNC_WAIT_CTX_new();

    expect_fd(ctx, &key_a, 1, NULL);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(ctx), 7);
    CHECK_INT(ASYNC_WAIT_CTX_set_status(ctx, 8), 1);
    set(another, &key_a, 1);
    clear_marks(another);
    ASYNC_WAIT_CTX_free(another);
    return NULL;
}

static void waits_for_a_thread(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    record_cleanup(ctx, key, fd, data);
    on_new_thread(reads_on_a_thread, ctx);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(ctx), 8);
}

CASE(no_lock_is_held_during_a_cleanup, SINCE_3_0,
     "a cleanup may wait for another thread that uses this context and others")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, waits_for_a_thread), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_status(ctx, 7), 1);
    ASYNC_WAIT_CTX_free(ctx);
    expect_cleaned(FDS(1));
}

static int asks_for_its_context(void *arg)
{
    (void)arg;
    CHECK(current_ctx() != NULL);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current_ctx() == NULL);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current_ctx() == NULL);
    return 5;
}

/* In libcrypto the resumed job writes into the freed context. */
CASE(a_paused_job_survives_its_context, OURS,
     "a paused job whose context is freed has no context, and can be resumed, pause and finish")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, asks_for_its_context, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, record_cleanup), 1);
    ASYNC_WAIT_CTX_free(ctx);
    expect_cleaned(FDS(1));
    CHECK(ASYNC_get_wait_ctx(job) == NULL);
    resume_to_pause(job);
    CHECK(ASYNC_get_wait_ctx(job) == NULL);
    finish(job, 5);
}

/* In libcrypto the job clears marks of whatever context got the freed one's memory. */
CASE(an_orphan_leaves_new_contexts_alone, OURS,
     "the resumed job of a freed context clears no marks of a context made since, even in the "
     "freed one's memory")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *fresh[16];
    ASYNC_JOB *job = paused_job(ctx, 2, 5), *next;

    ASYNC_WAIT_CTX_free(ctx);
    for (int i = 0; i < 16; i++) {
        fresh[i] = ASYNC_WAIT_CTX_new();
        set(fresh[i], &key_a, i);
    }
    CHECK(ASYNC_get_wait_ctx(job) == NULL);
    resume_to_pause(job);
    for (int i = 0; i < 16; i++)
        expect_changed(fresh[i], FDS(i), NONE);
    finish(job, 5);
    /* The pool's job that was an orphan runs again, with a context. */
    next = paused_job(fresh[0], 1, 5);
    CHECK(ASYNC_get_wait_ctx(next) == fresh[0]);
    finish(next, 5);
    expect_changed(fresh[0], NONE, NONE);
    for (int i = 0; i < 16; i++)
        ASYNC_WAIT_CTX_free(fresh[i]);
}

static void *frees_on_a_thread(void *ctx)
{
    ASYNC_WAIT_CTX_free(ctx);
    return NULL;
}

static void *frees_and_makes_on_a_thread(void *ctx)
{
    static ASYNC_WAIT_CTX *fresh[16];

    ASYNC_WAIT_CTX_free(ctx);
    for (int i = 0; i < 16; i++) {
        fresh[i] = ASYNC_WAIT_CTX_new();
        set(fresh[i], &key_a, i);
    }
    return fresh;
}

/* As above. A context made on another thread must not be taken for the freed one either. */
CASE(an_orphan_leaves_other_threads_contexts_alone, OURS,
     "the resumed job of a context that another thread freed clears no marks of that thread's "
     "contexts")
{
    for (int n = 0; n < 4; n++) {
        ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), **fresh;
        ASYNC_JOB *job = paused_job(ctx, 1, 5);
        pthread_t thread;
        void *made;

        CHECK_INT(pthread_create(&thread, NULL, frees_and_makes_on_a_thread, ctx), 0);
        CHECK_INT(pthread_join(thread, &made), 0);
        fresh = made;
        CHECK(ASYNC_get_wait_ctx(job) == NULL);
        finish(job, 5);
        for (int i = 0; i < 16; i++) {
            expect_changed(fresh[i], FDS(i), NONE);
            ASYNC_WAIT_CTX_free(fresh[i]);
        }
    }
}

/* In libcrypto the resumed jobs write into the freed context. */
CASE(all_paused_jobs_of_a_context_become_orphans, OURS,
     "freeing a context on another thread makes orphans of all its paused jobs, and of no others")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[5], *other_job = paused_job(other, 1, 5);

    for (int i = 0; i < 5; i++)
        job[i] = paused_job(ctx, 1, 5);
    finish(job[2], 5);
    on_new_thread(frees_on_a_thread, ctx);
    CHECK(ASYNC_get_wait_ctx(other_job) == other);
    for (int i = 0; i < 5; i++) {
        if (i != 2) {
            CHECK(ASYNC_get_wait_ctx(job[i]) == NULL);
            finish(job[i], 5);
        }
    }
    finish(other_job, 5);
    ASYNC_WAIT_CTX_free(other);
}

static int frees_its_context(void *arg)
{
    (void)arg;
    ASYNC_WAIT_CTX_free(current_ctx());
    return 5;
}

CASE(a_running_job_may_free_its_context, EVERYWHERE,
     "a job may free its own context and finish; the free calls the cleanups")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, record_cleanup), 1);
    run(ctx, frees_its_context);
    expect_cleaned(FDS(1));
}

static int frees_its_context_and_pauses(void *arg)
{
    (void)arg;
    ASYNC_WAIT_CTX_free(current_ctx());
    CHECK(current_ctx() == NULL);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current_ctx() == NULL);
    return 5;
}

/* In libcrypto the resumed job writes into the freed context. */
CASE(a_job_may_free_its_context_and_pause, OURS,
     "a job that freed its own context has none, and can pause and be resumed")
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_start_job(&job, ASYNC_WAIT_CTX_new(), &ret, frees_its_context_and_pauses, NULL,
                              0), ASYNC_PAUSE);
    CHECK(ASYNC_get_wait_ctx(job) == NULL);
    finish(job, 5);
}

static int starts_a_job_and_frees_the_context(void *arg)
{
    ASYNC_WAIT_CTX *ctx = current_ctx();
    ASYNC_JOB *inner = paused_job(ctx, 1, 5);

    (void)arg;
    CHECK(ASYNC_get_wait_ctx(inner) == ctx);
    ASYNC_WAIT_CTX_free(ctx);
    CHECK(current_ctx() == NULL);
    CHECK(ASYNC_get_wait_ctx(inner) == NULL);
    finish(inner, 5);
    CHECK_INT(ASYNC_pause_job(), 1);
    return 5;
}

/* libcrypto corrupts itself when jobs are nested. */
CASE(a_context_freed_under_a_nested_job, OURS,
     "a job may free its context while a paused job that it started has the same context")
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_start_job(&job, ASYNC_WAIT_CTX_new(), &ret, starts_a_job_and_frees_the_context,
                              NULL, 0), ASYNC_PAUSE);
    finish(job, 5);
}

static int starts_a_job_that_frees_the_context(void *arg)
{
    ASYNC_WAIT_CTX *ctx = current_ctx();
    ASYNC_JOB *inner = NULL;
    int ret = 0;

    (void)arg;
    CHECK_INT(ASYNC_start_job(&inner, ctx, &ret, frees_its_context_and_pauses, NULL, 0),
              ASYNC_PAUSE);
    CHECK(current_ctx() == NULL);
    CHECK_INT(ASYNC_pause_job(), 1);
    finish(inner, 5);
    return 5;
}

/* libcrypto corrupts itself when jobs are nested. */
CASE(a_context_freed_by_a_nested_job, OURS,
     "a nested job may free the context that it shares with the job that started it")
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_start_job(&job, ASYNC_WAIT_CTX_new(), &ret, starts_a_job_that_frees_the_context,
                              NULL, 0), ASYNC_PAUSE);
    CHECK(ASYNC_get_wait_ctx(job) == NULL);
    finish(job, 5);
}

/* libcrypto corrupts the heap. */
CASE(a_context_freed_twice_does_no_harm, OURS,
     "freeing a context twice, with no new one made in between, calls its cleanups once and "
     "damages no other context")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *one, *two;

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, record_cleanup), 1);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_WAIT_CTX_free(ctx);
    expect_cleaned(FDS(1));
    one = ASYNC_WAIT_CTX_new();
    two = ASYNC_WAIT_CTX_new();
    CHECK(one != two);
    set(one, &key_a, 1);
    expect_changed(two, NONE, NONE);
    ASYNC_WAIT_CTX_free(one);
    expect_changed(two, NONE, NONE);
    ASYNC_WAIT_CTX_free(two);
}

CASE(freeing_null_does_nothing, EVERYWHERE, "ASYNC_WAIT_CTX_free(NULL) does nothing")
{
    ASYNC_WAIT_CTX_free(NULL);
}


/* ---- many contexts, wide contexts ---- */

enum { BURST = 300000, CROWD = 1000 };

static ASYNC_WAIT_CTX *many[BURST];

static void make_many(int count)
{
    for (int i = 0; i < count; i++) {
        many[i] = ASYNC_WAIT_CTX_new();
        CHECK(many[i] != NULL);
    }
}

static void swap_two(int i, int j)
{
    ASYNC_WAIT_CTX *one = many[i];

    many[i] = many[j];
    many[j] = one;
}

/* How many bytes more are resident after a burst of contexts has come and gone. */
static long left_by_a_burst(int is_shuffled)
{
    unsigned random = 1;
    long before;

    for (int i = 0; i < BURST; i++)
        many[i] = NULL; /* the list itself is resident from here on */
    before = resident();
    make_many(BURST);
    for (int i = BURST - 1; is_shuffled && i > 0; i--) {
        random = random * 1664525 + 1013904223;
        swap_two(i, (int)(random % (unsigned)(i + 1)));
    }
    for (int i = 0; i < BURST; i++)
        ASYNC_WAIT_CTX_free(many[i]);
    return resident() - before;
}

/* The C library keeps the memory of libcrypto's contexts. The tools have memory of their own. */
enum { MEASURED = OURS | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN };

/* A page in which a context is left stays; where pages are large, more do. */
#define MOST_KEPT (sysconf(_SC_PAGESIZE) == 4096 ? 2 << 20 : 640 * sysconf(_SC_PAGESIZE))

CASE(a_burst_of_contexts_gives_its_memory_back, MEASURED,
     "when 300,000 contexts have been made and freed, less than 2 MiB of their memory is kept")
{
    for (int n = 0; n < 3; n++)
        CHECK(left_by_a_burst(0) < MOST_KEPT);
}

CASE(contexts_give_memory_back_in_any_order, MEASURED,
     "the same holds when the contexts are freed in another order than they were made")
{
    for (int n = 0; n < 3; n++)
        CHECK(left_by_a_burst(1) < MOST_KEPT);
}

static long now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

/* The best of five times, in nanoseconds, of freeing a context of 2 * half entries. */
static long time_of_free(int half, int every_second)
{
    static char key[8000];
    long best = 1L << 60, begin;

    for (int n = 0; n < 5; n++) {
        ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

        for (int i = 0; i < 2 * half; i++)
            set(ctx, &key[i], i);
        clear_marks(ctx);
        for (int i = 0; i < half; i++)
            CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key[every_second ? 2 * i : half + i]), 1);
        begin = now_ns();
        ASYNC_WAIT_CTX_free(ctx);
        if (now_ns() - begin < best)
            best = now_ns() - begin;
    }
    return best;
}

CASE(a_wide_context_is_freed_in_proportional_time, EVERYWHERE,
     "the time to free a context of many entries, half of them deleted, is in proportion to their "
     "number")
{
    for (int every_second = 0; every_second < 2; every_second++) {
        long small = time_of_free(40, every_second), large = time_of_free(4000, every_second);

        /* 100 times as many. If each deleted one cost a look at each valid one: 10,000. */
        fprintf(stderr, "%ld ns, 100 times as many: %ld ns\n", small, large);
        CHECK(large < 1000 * small + 5000000);
    }
}

static void *frees_many(void *count)
{
    for (int i = 0; i < *(int *)count; i++)
        ASYNC_WAIT_CTX_free(many[i]);
    return NULL;
}

/* libcrypto corrupts the heap. */
CASE(a_crowd_of_contexts_freed_twice_does_no_harm, OURS,
     "freeing contexts again does no harm when their memory has gone back to the system")
{
    int count = CROWD;

    for (int n = 0; n < 3; n++) {
        make_many(CROWD);
        n_cleaned = 0;
        for (int i = 0; i < CROWD; i += 100)
            CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(many[i], &key_a, i, NULL, record_cleanup), 1);
        on_new_thread(frees_many, &count);
        frees_many(&count);
        on_new_thread(frees_many, &count);
        CHECK_INT(n_cleaned, CROWD / 100);
    }
    make_many(CROWD);
    for (int i = 0; i < CROWD; i++)
        set(many[i], &key_a, i);
    for (int i = 0; i < CROWD; i++)
        expect_changed(many[i], FDS(i), NONE);
    frees_many(&count);
}

static ASYNC_JOB *orphans[CROWD / 4];
static ASYNC_WAIT_CTX *contexts[CROWD / 4]; /* that they were started with */
static atomic_int is_over;

/* Each job has its own context or none. */
static void *asks_for_contexts(void *arg)
{
    while (!atomic_load(&is_over))
        for (int i = 0; i < CROWD / 4; i++) {
            ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(orphans[i]);

            CHECK(ctx == NULL || ctx == contexts[i]);
        }
    return arg;
}

static void *makes_and_frees_others(void *arg)
{
    static ASYNC_WAIT_CTX *others[CROWD];

    while (!atomic_load(&is_over)) {
        for (int i = 0; i < CROWD; i++)
            others[i] = ASYNC_WAIT_CTX_new();
        for (int i = 0; i < CROWD; i++)
            ASYNC_WAIT_CTX_free(others[i]);
    }
    return arg;
}

/* In libcrypto the resumed jobs write into freed contexts. */
CASE(orphans_of_a_crowd_have_no_context, OURS,
     "the paused jobs of a crowd of contexts that another thread has freed have none, also while "
     "their memory goes back to the system and other contexts come there")
{
    pthread_t asking, making;
    int count = CROWD;

    for (int n = 0; n < 20; n++) {
        make_many(CROWD);
        for (int i = 0; i < CROWD / 4; i++)
            orphans[i] = paused_job(contexts[i] = many[i], 1, 5);
        atomic_store(&is_over, 0);
        CHECK_INT(pthread_create(&asking, NULL, asks_for_contexts, NULL), 0);
        CHECK_INT(pthread_create(&making, NULL, makes_and_frees_others, NULL), 0);
        on_new_thread(frees_many, &count);
        for (int i = 0; i < CROWD / 4; i++)
            CHECK(ASYNC_get_wait_ctx(orphans[i]) == NULL);
        make_many(CROWD / 4 * 3);
        for (int i = 0; i < CROWD / 4 * 3; i++)
            set(many[i], &key_a, i);
        for (int i = 0; i < CROWD / 4; i++)
            CHECK(ASYNC_get_wait_ctx(orphans[i]) == NULL);
        atomic_store(&is_over, 1);
        CHECK_INT(pthread_join(asking, NULL), 0);
        CHECK_INT(pthread_join(making, NULL), 0);
        for (int i = 0; i < CROWD / 4; i++)
            finish(orphans[i], 5);
        for (int i = 0; i < CROWD / 4 * 3; i++) {
            check_marks(many[i], 1, 0);
            ASYNC_WAIT_CTX_free(many[i]);
        }
    }
}
