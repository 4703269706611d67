/* Wait contexts: which fds they hold, in which order, with which marks, and who cleans up. */
#include "check.h"
#include <limits.h>
#include <malloc.h>
#include <pthread.h>

#define UNTOUCHED (-77)

static int key_a, key_b, key_c, data_a, data_b, data_c;

/* An array of fds and its length, as two arguments. */
#define FDS(...) (const int[]){__VA_ARGS__}, sizeof((const int[]){__VA_ARGS__}) / sizeof(int)
#define NONE NULL, (size_t)0

/* The list that a call has filled holds what it should, and nothing was written behind its end. */
static void expect_list(const int *got, size_t room, const int *want, size_t n)
{
    for (size_t i = 0; i < room; i++)
        CHECK_INT(got[i], i < n ? want[i] : UNTOUCHED);
}

static void fill(int *list, size_t room)
{
    for (size_t i = 0; i < room; i++)
        list[i] = UNTOUCHED;
}

static void expect_all(ASYNC_WAIT_CTX *ctx, const int *want, size_t n)
{
    size_t room = n + 4, got = 999;
    int *list = malloc(room * sizeof(int));

    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(ctx, NULL, &got), 1);
    CHECK_INT(got, n);
    got = 999;
    fill(list, room);
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(ctx, list, &got), 1);
    CHECK_INT(got, n);
    expect_list(list, room, want, n);
    free(list);
}

/* Asks with both lists, with one of them, and with none: the answers are the same. */
static void expect_changed(ASYNC_WAIT_CTX *ctx, const int *want_add, size_t nadd,
                           const int *want_del, size_t ndel)
{
    size_t room = nadd + ndel + 4, got_add, got_del;
    int *add = malloc(room * sizeof(int)), *del = malloc(room * sizeof(int));

    for (int with = 0; with < 4; with++) {
        fill(add, room);
        fill(del, room);
        got_add = got_del = 999;
        CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, with & 1 ? add : NULL, &got_add,
                                                 with & 2 ? del : NULL, &got_del), 1);
        CHECK_INT(got_add, nadd);
        CHECK_INT(got_del, ndel);
        expect_list(add, room, want_add, with & 1 ? nadd : 0);
        expect_list(del, room, want_del, with & 2 ? ndel : 0);
    }
    free(add);
    free(del);
}

static void expect_fd(ASYNC_WAIT_CTX *ctx, const void *key, int want_fd, const void *want_data)
{
    int fd = UNTOUCHED;
    void *data = &fd;

    CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, key, &fd, &data), 1);
    CHECK_INT(fd, want_fd);
    CHECK(data == want_data);
}

static void expect_no_fd(ASYNC_WAIT_CTX *ctx, const void *key)
{
    int fd = UNTOUCHED;
    void *data = &fd;

    CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, key, &fd, &data), 0);
    CHECK_INT(fd, UNTOUCHED);
    CHECK(data == &fd);
}

static void set(ASYNC_WAIT_CTX *ctx, const void *key, int fd)
{
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, key, fd, NULL, NULL), 1);
}

static ASYNC_WAIT_CTX *current_ctx(void)
{
    return ASYNC_get_wait_ctx(ASYNC_get_current_job());
}

/* Pauses as often as it is told, then returns 5. */
static int pausing_job(void *times)
{
    for (int i = *(int *)times; i > 0; i--)
        CHECK_INT(ASYNC_pause_job(), 1);
    return 5;
}

static ASYNC_JOB *start_paused(ASYNC_WAIT_CTX *ctx, int pauses)
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, pausing_job, &pauses, sizeof(pauses)), ASYNC_PAUSE);
    return job;
}

static void resume(ASYNC_JOB **job, int want)
{
    int ret = 0;

    CHECK_INT(ASYNC_start_job(job, NULL, &ret, NULL, NULL, 0), want);
    CHECK_INT(ret, want == ASYNC_FINISH ? 5 : 0);
}

/* Runs a job to its end that must not pause. */
static void run(ASYNC_WAIT_CTX *ctx, int (*func)(void *))
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, func, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 5);
}

/* Entries stop being "added" once a job of the context has paused and was resumed. */
static void settle(ASYNC_WAIT_CTX *ctx)
{
    ASYNC_JOB *job = start_paused(ctx, 1);

    resume(&job, ASYNC_FINISH);
}

/* What cleanup routines were called with. */
static struct {
    ASYNC_WAIT_CTX *ctx;
    const void *key;
    int fd;
    void *data;
} cleaned[16];
static size_t n_cleaned;

static void note_cleanup(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    CHECK(n_cleaned < 16);
    cleaned[n_cleaned].ctx = ctx;
    cleaned[n_cleaned].key = key;
    cleaned[n_cleaned].fd = fd;
    cleaned[n_cleaned++].data = data;
}

static void expect_cleaned(const int *want, size_t n)
{
    CHECK_INT(n_cleaned, n);
    for (size_t i = 0; i < n; i++)
        CHECK_INT(cleaned[i].fd, want[i]);
}

CASE(a_new_context_is_empty, EVERYWHERE, "a new context has no fds, no changes, nothing to clear")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    CHECK(ctx != NULL);
    expect_all(ctx, NONE);
    expect_changed(ctx, NONE, NONE);
    expect_no_fd(ctx, &key_a);
    expect_no_fd(ctx, NULL);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 0);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(set_puts_a_new_entry_in_front, EVERYWHERE,
     "fds come back newest first, from get_all_fds and from get_changed_fds, marked as added")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    set(ctx, &key_a, 1);
    expect_all(ctx, FDS(1));
    set(ctx, &key_b, 9);
    expect_all(ctx, FDS(9, 1));
    set(ctx, &key_c, 4);
    expect_all(ctx, FDS(4, 9, 1));
    expect_changed(ctx, FDS(4, 9, 1), NONE);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(get_fd_finds_fd_and_data_by_key, EVERYWHERE, "get_fd gives the fd and the data of its key")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, &data_a, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_b, 2, &data_b, NULL), 1);
    expect_fd(ctx, &key_a, 1, &data_a);
    expect_fd(ctx, &key_b, 2, &data_b);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(keys_fds_and_data_are_not_looked_into, EVERYWHERE,
     "any key, fd and data will do: NULL, numbers that are no pointers, negative fds, equal fds")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    const void *odd = (const void *)(uintptr_t)1;

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, odd, INT_MIN, (void *)(uintptr_t)3, NULL), 1);
    set(ctx, &key_a, OSSL_BAD_ASYNC_FD);
    set(ctx, &key_b, INT_MAX);
    set(ctx, &key_c, INT_MAX);
    expect_no_fd(ctx, NULL);
    set(ctx, NULL, 0);
    expect_fd(ctx, NULL, 0, NULL);
    expect_fd(ctx, odd, INT_MIN, (void *)(uintptr_t)3);
    expect_fd(ctx, &key_a, -1, NULL);
    expect_all(ctx, FDS(0, INT_MAX, INT_MAX, -1, INT_MIN));
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, NULL), 1);
    expect_all(ctx, FDS(INT_MAX, INT_MAX, -1, INT_MIN));
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(unknown_key_leaves_the_outputs_alone, EVERYWHERE,
     "get_fd gives 0 for a key that has no entry, and does not touch its outputs")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    set(ctx, &key_a, 1);
    expect_no_fd(ctx, &key_b);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(same_key_twice_makes_two_entries, EVERYWHERE,
     "an entry does not replace an older one of its key: get_fd sees the newest, clear_fd bares "
     "the older")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, &data_a, NULL), 1);
    set(ctx, &key_b, 2);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 3, &data_c, NULL), 1);
    expect_all(ctx, FDS(3, 2, 1));
    expect_fd(ctx, &key_a, 3, &data_c);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 1);
    expect_all(ctx, FDS(2, 1));
    expect_fd(ctx, &key_a, 1, &data_a);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 1);
    expect_all(ctx, FDS(2));
    expect_no_fd(ctx, &key_a);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 0);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(contexts_do_not_share_keys, EVERYWHERE, "the same key in two contexts is two things")
{
    ASYNC_WAIT_CTX *one = ASYNC_WAIT_CTX_new(), *two = ASYNC_WAIT_CTX_new();

    set(one, &key_a, 1);
    expect_no_fd(two, &key_a);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(two, &key_a), 0);
    set(two, &key_a, 2);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(one, &key_a), 1);
    expect_fd(two, &key_a, 2, NULL);
    expect_all(one, NONE);
    ASYNC_WAIT_CTX_free(one);
    expect_all(two, FDS(2));
    ASYNC_WAIT_CTX_free(two);
}

CASE(clearing_an_added_entry_makes_it_disappear, EVERYWHERE,
     "an entry cleared while still marked added is gone: not listed, not deleted, its cleanup "
     "never called")
{
    /* In front, in the middle and at the end of the list. */
    int *keys[3] = {&key_a, &key_b, &key_c};

    for (int gone = 0; gone < 3; gone++) {
        ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
        int rest[2], n = 0;

        for (int i = 0; i < 3; i++)
            CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, keys[i], i, NULL, note_cleanup), 1);
        for (int i = 2; i >= 0; i--)
            if (i != gone)
                rest[n++] = i;
        CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, keys[gone]), 1);
        expect_all(ctx, rest, 2);
        expect_changed(ctx, rest, 2, NONE);
        expect_no_fd(ctx, keys[gone]);
        CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, keys[gone]), 0);
        CHECK_INT(n_cleaned, 0);
        ASYNC_WAIT_CTX_free(ctx);
        expect_cleaned(rest, 2);
        n_cleaned = 0;
    }
}

CASE(clearing_a_settled_entry_marks_it_deleted, EVERYWHERE,
     "an entry no longer marked added is marked deleted by clear_fd, and disappears at the next "
     "resume")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, note_cleanup), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_b, 2, NULL, note_cleanup), 1);
    settle(ctx);
    expect_changed(ctx, NONE, NONE);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 1);
    expect_all(ctx, FDS(2));
    expect_no_fd(ctx, &key_a);
    expect_changed(ctx, NONE, FDS(1));
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 0);
    expect_changed(ctx, NONE, FDS(1));
    settle(ctx);
    expect_changed(ctx, NONE, NONE);
    expect_all(ctx, FDS(2));
    CHECK_INT(n_cleaned, 0);
    ASYNC_WAIT_CTX_free(ctx);
    expect_cleaned(FDS(2));
}

CASE(deleted_entries_in_any_place_disappear, EVERYWHERE,
     "deleted entries disappear at a resume wherever they stand in the list, several in a row too")
{
    static char keys[6];

    for (int mask = 0; mask < 64; mask++) {
        ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
        int kept[6], gone[6];
        size_t n_kept = 0, n_gone = 0;

        for (int i = 0; i < 6; i++)
            set(ctx, &keys[i], i);
        settle(ctx);
        for (int i = 5; i >= 0; i--) {
            if (mask >> i & 1) {
                CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &keys[i]), 1);
                gone[n_gone++] = i;
            } else {
                kept[n_kept++] = i;
            }
        }
        expect_changed(ctx, NONE, gone, n_gone);
        settle(ctx);
        expect_all(ctx, kept, n_kept);
        expect_changed(ctx, NONE, NONE);
        ASYNC_WAIT_CTX_free(ctx);
    }
}

CASE(clear_takes_the_newest_not_yet_deleted, EVERYWHERE,
     "clear_fd goes through the entries of a key from the newest, past those already deleted")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    set(ctx, &key_a, 1);
    set(ctx, &key_a, 2);
    settle(ctx);
    set(ctx, &key_a, 3);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 1);
    expect_changed(ctx, NONE, NONE);
    expect_fd(ctx, &key_a, 2, NULL);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 1);
    expect_changed(ctx, NONE, FDS(2));
    expect_fd(ctx, &key_a, 1, NULL);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 1);
    expect_changed(ctx, NONE, FDS(2, 1));
    expect_no_fd(ctx, &key_a);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 0);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(a_deleted_key_can_be_set_again, EVERYWHERE,
     "a key set again after its entry was deleted shows as one fd added and one deleted")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    set(ctx, &key_a, 1);
    settle(ctx);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 1);
    set(ctx, &key_a, 2);
    expect_changed(ctx, FDS(2), FDS(1));
    expect_all(ctx, FDS(2));
    expect_fd(ctx, &key_a, 2, NULL);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 1);
    expect_changed(ctx, NONE, FDS(1));
    ASYNC_WAIT_CTX_free(ctx);
}

static int adds_and_deletes(void *arg)
{
    ASYNC_WAIT_CTX *ctx = current_ctx();

    (void)arg;
    set(ctx, &key_a, 1);
    expect_changed(ctx, FDS(1), NONE);
    CHECK_INT(ASYNC_pause_job(), 1);
    expect_changed(ctx, NONE, NONE);
    expect_all(ctx, FDS(1));
    set(ctx, &key_b, 2);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 1);
    expect_changed(ctx, FDS(2), FDS(1));
    CHECK_INT(ASYNC_pause_job(), 1);
    expect_changed(ctx, NONE, NONE);
    expect_all(ctx, FDS(2));
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_b), 1);
    return 5;
}

CASE(changes_are_those_since_the_last_resume, EVERYWHERE,
     "at each pause get_changed_fds tells what the job added and deleted since it was last resumed")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, adds_and_deletes, NULL, 0), ASYNC_PAUSE);
    /* Reading does not clear the marks. */
    expect_changed(ctx, FDS(1), NONE);
    expect_changed(ctx, FDS(1), NONE);
    expect_all(ctx, FDS(1));
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, NULL, NULL, 0), ASYNC_PAUSE);
    expect_changed(ctx, FDS(2), FDS(1));
    expect_all(ctx, FDS(2));
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, NULL, NULL, 0), ASYNC_FINISH);
    /* The job has ended, so nothing is there to clear the last mark. */
    expect_changed(ctx, NONE, FDS(2));
    expect_all(ctx, NONE);
    ASYNC_WAIT_CTX_free(ctx);
}

static int sets_an_fd(void *arg)
{
    (void)arg;
    set(current_ctx(), &key_b, 2);
    return 5;
}

CASE(a_finished_job_leaves_the_marks, EVERYWHERE,
     "neither the end of a job nor the start of the next clears marks: only a resume does")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job;

    set(ctx, &key_a, 1);
    run(ctx, sets_an_fd);
    expect_changed(ctx, FDS(2, 1), NONE);
    run(ctx, sets_an_fd);
    expect_changed(ctx, FDS(2, 2, 1), NONE);
    job = start_paused(ctx, 1);
    expect_changed(ctx, FDS(2, 2, 1), NONE);
    resume(&job, ASYNC_FINISH);
    expect_changed(ctx, NONE, NONE);
    expect_all(ctx, FDS(2, 2, 1));
    ASYNC_WAIT_CTX_free(ctx);
}

static int pauses_blocked(void *arg)
{
    (void)arg;
    ASYNC_block_pause();
    CHECK_INT(ASYNC_pause_job(), 1);
    ASYNC_unblock_pause();
    expect_changed(current_ctx(), FDS(1), NONE);
    return 5;
}

CASE(a_pause_that_does_not_happen_leaves_the_marks, EVERYWHERE,
     "ASYNC_pause_job outside a job, or while blocked, does not clear marks")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    set(ctx, &key_a, 1);
    CHECK_INT(ASYNC_pause_job(), 1);
    expect_changed(ctx, FDS(1), NONE);
    run(ctx, pauses_blocked);
    expect_changed(ctx, FDS(1), NONE);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(both_counts_may_have_one_place, EVERYWHERE,
     "where get_changed_fds is given one place for both counts it leaves that of the deleted ones")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    size_t n = 77;

    set(ctx, &key_a, 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, NULL, &n, NULL, &n), 1);
    CHECK_INT(n, 0);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(other_contexts_jobs_leave_the_marks, EVERYWHERE,
     "resuming a job clears the marks of its own context and of no other")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = start_paused(ctx, 1), *other_job = start_paused(other, 1);

    set(ctx, &key_a, 1);
    set(other, &key_a, 2);
    resume(&other_job, ASYNC_FINISH);
    expect_changed(ctx, FDS(1), NONE);
    expect_changed(other, NONE, NONE);
    resume(&job, ASYNC_FINISH);
    expect_changed(ctx, NONE, NONE);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_WAIT_CTX_free(other);
}

CASE(a_resume_ignores_the_context_it_is_given, EVERYWHERE,
     "a job keeps the context it was started with, whatever is passed when it is resumed")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = start_paused(ctx, 2);
    int ret = 0;

    set(ctx, &key_a, 1);
    set(other, &key_a, 2);
    CHECK_INT(ASYNC_start_job(&job, other, &ret, NULL, NULL, 0), ASYNC_PAUSE);
    CHECK(ASYNC_get_wait_ctx(job) == ctx);
    expect_changed(ctx, NONE, NONE);
    expect_changed(other, FDS(2), NONE);
    resume(&job, ASYNC_FINISH);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_WAIT_CTX_free(other);
}

CASE(two_jobs_may_share_a_context, EVERYWHERE,
     "of two jobs paused in one context, resuming either clears its marks")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *one = start_paused(ctx, 2), *two = start_paused(ctx, 2);

    CHECK(one != two);
    CHECK(ASYNC_get_wait_ctx(one) == ctx && ASYNC_get_wait_ctx(two) == ctx);
    set(ctx, &key_a, 1);
    resume(&one, ASYNC_PAUSE);
    expect_changed(ctx, NONE, NONE);
    set(ctx, &key_b, 2);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 1);
    expect_changed(ctx, FDS(2), FDS(1));
    resume(&two, ASYNC_PAUSE);
    expect_changed(ctx, NONE, NONE);
    expect_all(ctx, FDS(2));
    resume(&one, ASYNC_FINISH);
    CHECK(ASYNC_get_wait_ctx(two) == ctx);
    resume(&two, ASYNC_FINISH);
    expect_all(ctx, FDS(2));
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(a_context_serves_job_after_job, EVERYWHERE,
     "entries stay from one job of a context to the next, and can be deleted by it")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    for (int i = 0; i < 50; i++) {
        if (i > 0) {
            expect_fd(ctx, &key_a, i - 1, NULL);
            CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 1);
        }
        set(ctx, &key_a, i);
        settle(ctx);
        expect_all(ctx, FDS(i));
        expect_changed(ctx, NONE, NONE);
    }
    ASYNC_WAIT_CTX_free(ctx);
}

/* In libcrypto a job without a context crashes when it is resumed. */
CASE(a_job_without_a_context_may_pause, OURS, "a job whose context is NULL has none, and can pause")
{
    ASYNC_JOB *job = start_paused(NULL, 1);

    CHECK(ASYNC_get_wait_ctx(job) == NULL);
    resume(&job, ASYNC_FINISH);
}

/* Hundreds of entries, in step with a list that is kept in the plainest way: newest last. */
#define STEPS 1000
#define KEYS 24

static struct {
    int key, fd, add, del;
} model[STEPS];
static size_t n_model;

static void model_drop(size_t at)
{
    memmove(&model[at], &model[at + 1], (--n_model - at) * sizeof(model[0]));
}

static size_t model_find(int key)
{
    size_t i = n_model;

    while (i > 0 && (model[i - 1].del || model[i - 1].key != key))
        i--;
    return i;
}

static void model_reset(void)
{
    for (size_t i = n_model; i-- > 0;) {
        model[i].add = 0;
        if (model[i].del)
            model_drop(i);
    }
}

static void model_compare(ASYNC_WAIT_CTX *ctx)
{
    static int all[STEPS], add[STEPS], del[STEPS];
    size_t n_all = 0, n_add = 0, n_del = 0;

    for (size_t i = n_model; i-- > 0;) {
        if (model[i].del)
            del[n_del++] = model[i].fd;
        else
            all[n_all++] = model[i].fd;
        if (model[i].add)
            add[n_add++] = model[i].fd;
    }
    expect_all(ctx, all, n_all);
    expect_changed(ctx, add, n_add, del, n_del);
}

CASE(hundreds_of_fds_keep_order_and_marks, EVERYWHERE,
     "with hundreds of fds, set, cleared and settled in any order, every list and count is right")
{
    static char keys[KEYS];
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = start_paused(ctx, STEPS);
    uint32_t dice = 12345;
    size_t most = 0;

    for (int step = 0; step < STEPS; step++) {
        int key;
        size_t at;

        dice = dice * 1664525 + 1013904223;
        key = (int)((dice >> 16) % KEYS);
        at = model_find(key);
        if (dice >> 28 < 10) {
            set(ctx, &keys[key], step);
            model[n_model].key = key;
            model[n_model].fd = step;
            model[n_model].add = 1;
            model[n_model++].del = 0;
        } else if (dice >> 28 < 15) {
            CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &keys[key]), at > 0);
            if (at > 0 && model[at - 1].add)
                model_drop(at - 1);
            else if (at > 0)
                model[at - 1].del = 1;
        } else {
            resume(&job, ASYNC_PAUSE);
            model_reset();
        }
        at = model_find(key);
        if (at > 0)
            expect_fd(ctx, &keys[key], model[at - 1].fd, NULL);
        else
            expect_no_fd(ctx, &keys[key]);
        model_compare(ctx);
        most = n_model > most ? n_model : most;
    }
    CHECK(most > 200);
    for (int ret, code = ASYNC_PAUSE; code == ASYNC_PAUSE;)
        code = ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0);
    CHECK(job == NULL);
    ASYNC_WAIT_CTX_free(ctx);
}

/* Their malloc does not tell. */
CASE(a_large_context_gives_its_memory_back,
     EVERYWHERE | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "what hundreds of fds took is free again after their context, were they cleared or not")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    size_t before;

    set(ctx, &key_a, 1);
    ASYNC_WAIT_CTX_free(ctx);
    before = mallinfo2().uordblks;
    for (int clear = 0; clear < 2; clear++) {
        ctx = ASYNC_WAIT_CTX_new();
        for (int i = 0; i < 1000; i++)
            set(ctx, &key_a, i);
        CHECK(mallinfo2().uordblks > before + 16000);
        for (int i = 0; clear && i < 1000; i++)
            CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 1);
        ASYNC_WAIT_CTX_free(ctx);
        CHECK(mallinfo2().uordblks < before + 2000);
    }
}

CASE(free_calls_cleanups_newest_first, EVERYWHERE,
     "free calls the cleanup of each entry, newest first, with the context, key, fd and data of "
     "its entry")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, &data_a, note_cleanup), 1);
    settle(ctx);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_b, 2, &data_b, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_c, 3, NULL, note_cleanup), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_c, 4, &data_c, note_cleanup), 1);
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

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, note_cleanup), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_b, 2, NULL, note_cleanup), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_c, 3, NULL, note_cleanup), 1);
    settle(ctx);
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

/* The newest entry's cleanup: all is as it was before the free. */
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
    note_cleanup(ctx, key, fd, data);
}

CASE(a_cleanup_finds_the_context_as_it_was, SINCE_3_0,
     "the first cleanup that a free calls can still read everything in the context")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    set(ctx, &key_a, 1);
    set(ctx, &key_b, 2);
    settle(ctx);
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

    note_cleanup(ctx, key, fd, data);
    expect_fd(ctx, key, fd, data);
    expect_fd(ctx, &key_a, 1, &data_a);
    /* Those whose turn is still to come are there; for those before, free may do as it likes. */
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
    note_cleanup(ctx, key, fd, data);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 1);
    expect_no_fd(ctx, &key_a);
}

CASE(a_cleanup_may_clear_an_older_entry, EVERYWHERE,
     "an entry that another entry's cleanup clears is not cleaned up any more")
{
    for (int settled = 0; settled < 2; settled++) {
        ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_b, 1, NULL, note_cleanup), 1);
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 2, NULL, note_cleanup), 1);
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_c, 3, NULL, clears_key_a), 1);
        if (settled)
            settle(ctx);
        n_cleaned = 0;
        ASYNC_WAIT_CTX_free(ctx);
        expect_cleaned(FDS(3, 1));
    }
}

static void clears_itself(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    note_cleanup(ctx, key, fd, data);
    (void)ASYNC_WAIT_CTX_clear_fd(ctx, key);
}

/* libcrypto would go on from the entry that the cleanup has freed. */
CASE(a_cleanup_may_clear_its_own_entry, OURS,
     "a cleanup that clears the entry it is called for is called once, and the older entries "
     "follow")
{
    for (int settled = 0; settled < 2; settled++) {
        ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, note_cleanup), 1);
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_b, 2, NULL, clears_itself), 1);
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_c, 3, NULL, clears_itself), 1);
        if (settled)
            settle(ctx);
        n_cleaned = 0;
        ASYNC_WAIT_CTX_free(ctx);
        expect_cleaned(FDS(3, 2, 1));
    }
}

static int accepted;

static void sets_another(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    note_cleanup(ctx, key, fd, data);
    accepted += ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_c, 100 + fd, NULL, note_cleanup);
}

/* libcrypto would lose the new entry. */
CASE(a_cleanup_may_set_an_fd, OURS,
     "an fd set by a cleanup of the context being freed is refused, or cleaned up too: never lost")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    size_t news = 0;

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, sets_another), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_b, 2, NULL, sets_another), 1);
    ASYNC_WAIT_CTX_free(ctx);
    for (size_t i = 0; i < n_cleaned; i++)
        news += cleaned[i].fd > 100;
    CHECK_INT(news, accepted);
    CHECK_INT(n_cleaned - news, 2);
}

static void frees_another_context(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    note_cleanup(ctx, key, fd, data);
    ASYNC_WAIT_CTX_free(data);
    note_cleanup(ctx, key, fd + 1, data);
}

CASE(a_cleanup_may_free_another_context, EVERYWHERE, "cleanups may free other contexts")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *inner = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(inner, &key_a, 2, NULL, note_cleanup), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, note_cleanup), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 10, inner, frees_another_context), 1);
    ASYNC_WAIT_CTX_free(ctx);
    expect_cleaned(FDS(10, 2, 11, 1));
}

static void runs_a_job(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    note_cleanup(ctx, key, fd, data);
    settle(data);
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
    settle(another);
    ASYNC_WAIT_CTX_free(another);
    return NULL;
}

static void waits_for_a_thread(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    pthread_t thread;

    note_cleanup(ctx, key, fd, data);
    CHECK_INT(pthread_create(&thread, NULL, reads_on_a_thread, ctx), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
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

static int knows_its_context(void *arg)
{
    ASYNC_WAIT_CTX *ctx = *(ASYNC_WAIT_CTX **)arg;

    CHECK(current_ctx() == ctx);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current_ctx() == ctx);
    return 5;
}

CASE(a_job_knows_its_context, EVERYWHERE,
     "ASYNC_get_wait_ctx gives the context of a running and of a paused job, each its own")
{
    ASYNC_WAIT_CTX *ctx[2] = {ASYNC_WAIT_CTX_new(), ASYNC_WAIT_CTX_new()};
    ASYNC_JOB *job[2] = {NULL, NULL};
    int ret;

    for (int i = 0; i < 2; i++)
        CHECK_INT(ASYNC_start_job(&job[i], ctx[i], &ret, knows_its_context, &ctx[i],
                                  sizeof(ctx[i])), ASYNC_PAUSE);
    for (int i = 0; i < 2; i++) {
        CHECK(ASYNC_get_wait_ctx(job[i]) == ctx[i]);
        resume(&job[i], ASYNC_FINISH);
        ASYNC_WAIT_CTX_free(ctx[i]);
    }
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

/* In libcrypto the resumed job would write into the freed context. */
CASE(a_paused_job_survives_its_context, OURS,
     "a paused job whose context is freed has none any more, and can be resumed, pause again and "
     "end")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, asks_for_its_context, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, note_cleanup), 1);
    ASYNC_WAIT_CTX_free(ctx);
    expect_cleaned(FDS(1));
    CHECK(ASYNC_get_wait_ctx(job) == NULL);
    resume(&job, ASYNC_PAUSE);
    CHECK(ASYNC_get_wait_ctx(job) == NULL);
    resume(&job, ASYNC_FINISH);
}

/* As above; here the freed context's memory has a new owner. */
CASE(an_orphan_leaves_new_contexts_alone, OURS,
     "the resumed job of a freed context clears no marks of a context made since, at whatever "
     "address")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *fresh[16];
    ASYNC_JOB *job = start_paused(ctx, 2), *next;

    ASYNC_WAIT_CTX_free(ctx);
    for (int i = 0; i < 16; i++) {
        fresh[i] = ASYNC_WAIT_CTX_new();
        set(fresh[i], &key_a, i);
    }
    CHECK(ASYNC_get_wait_ctx(job) == NULL);
    resume(&job, ASYNC_PAUSE);
    for (int i = 0; i < 16; i++)
        expect_changed(fresh[i], FDS(i), NONE);
    resume(&job, ASYNC_FINISH);
    /* The job that was an orphan serves again, with a context. */
    next = start_paused(fresh[0], 1);
    CHECK(ASYNC_get_wait_ctx(next) == fresh[0]);
    resume(&next, ASYNC_FINISH);
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

/* As above; what a thread numbers by itself must not meet what another one does. */
CASE(an_orphan_leaves_other_threads_contexts_alone, OURS,
     "the resumed job of a context that another thread freed clears no marks of that thread's own")
{
    for (int n = 0; n < 4; n++) {
        ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), **fresh;
        ASYNC_JOB *job = start_paused(ctx, 1);
        pthread_t thread;
        void *made;

        CHECK_INT(pthread_create(&thread, NULL, frees_and_makes_on_a_thread, ctx), 0);
        CHECK_INT(pthread_join(thread, &made), 0);
        fresh = made;
        CHECK(ASYNC_get_wait_ctx(job) == NULL);
        resume(&job, ASYNC_FINISH);
        for (int i = 0; i < 16; i++) {
            expect_changed(fresh[i], FDS(i), NONE);
            ASYNC_WAIT_CTX_free(fresh[i]);
        }
    }
}

/* In libcrypto the resumed jobs would write into the freed context. */
CASE(all_paused_jobs_of_a_context_become_orphans, OURS,
     "freeing a context, on another thread too, makes orphans of all its paused jobs and of no "
     "others")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job[5], *other_job = start_paused(other, 1);
    pthread_t thread;

    for (int i = 0; i < 5; i++)
        job[i] = start_paused(ctx, 1);
    resume(&job[2], ASYNC_FINISH);
    CHECK_INT(pthread_create(&thread, NULL, frees_on_a_thread, ctx), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK(ASYNC_get_wait_ctx(other_job) == other);
    for (int i = 0; i < 5; i++) {
        if (job[i] != NULL) {
            CHECK(ASYNC_get_wait_ctx(job[i]) == NULL);
            resume(&job[i], ASYNC_FINISH);
        }
    }
    resume(&other_job, ASYNC_FINISH);
    ASYNC_WAIT_CTX_free(other);
}

static int frees_its_context(void *arg)
{
    (void)arg;
    ASYNC_WAIT_CTX_free(current_ctx());
    return 5;
}

CASE(a_running_job_may_free_its_context, EVERYWHERE,
     "a job may free its own context and end; the cleanups run at once")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, note_cleanup), 1);
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

/* In libcrypto the resumed job would write into the freed context. */
CASE(a_job_may_free_its_context_and_pause, OURS,
     "a job that freed its own context has none, pauses, and is resumed")
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_start_job(&job, ASYNC_WAIT_CTX_new(), &ret, frees_its_context_and_pauses, NULL,
                              0), ASYNC_PAUSE);
    CHECK(ASYNC_get_wait_ctx(job) == NULL);
    resume(&job, ASYNC_FINISH);
}

static int starts_a_job_and_frees_the_context(void *arg)
{
    ASYNC_WAIT_CTX *ctx = current_ctx();
    ASYNC_JOB *inner = start_paused(ctx, 1);

    (void)arg;
    CHECK(ASYNC_get_wait_ctx(inner) == ctx);
    ASYNC_WAIT_CTX_free(ctx);
    CHECK(current_ctx() == NULL);
    CHECK(ASYNC_get_wait_ctx(inner) == NULL);
    resume(&inner, ASYNC_FINISH);
    CHECK_INT(ASYNC_pause_job(), 1);
    return 5;
}

/* libcrypto corrupts itself when jobs are nested. */
CASE(a_context_freed_under_a_nested_job, OURS,
     "a job may free the context that a paused job it started shares with it")
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_start_job(&job, ASYNC_WAIT_CTX_new(), &ret, starts_a_job_and_frees_the_context,
                              NULL, 0), ASYNC_PAUSE);
    resume(&job, ASYNC_FINISH);
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
    resume(&inner, ASYNC_FINISH);
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
    resume(&job, ASYNC_FINISH);
}

/* libcrypto corrupts its heap. */
CASE(a_context_freed_twice_does_no_harm, OURS,
     "freeing a context twice, with no new one made meanwhile, cleans up once and spoils none")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *one, *two;

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, note_cleanup), 1);
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

/* libcrypto crashes. */
CASE(calls_on_a_null_context_give_0, OURS, "a call on a NULL context gives 0, and no outputs")
{
    int list[1] = {UNTOUCHED};
    size_t n = 9, m = 9;

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(NULL, &key_a, 1, NULL, NULL), 0);
    expect_no_fd(NULL, &key_a);
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(NULL, list, &n), 0);
    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(NULL, list, &n, list, &m), 0);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(NULL, &key_a), 0);
    CHECK_INT(list[0], UNTOUCHED);
    CHECK_INT(n, 9);
    CHECK_INT(m, 9);
}

/* libcrypto crashes. */
CASE(get_fd_can_do_without_the_data, OURS,
     "get_fd's custom_data may be NULL; its fd may not, which gives 0")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    int fd = UNTOUCHED;
    void *data = &fd;

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, &data_a, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, &key_a, &fd, NULL), 1);
    CHECK_INT(fd, 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, &key_a, NULL, &data), 0);
    CHECK(data == &fd);
    ASYNC_WAIT_CTX_free(ctx);
}

/* libcrypto crashes. */
CASE(counts_must_be_asked_for, OURS, "a NULL place for a count gives 0, and no outputs")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    int list[4];
    size_t n = 9;

    fill(list, 4);
    set(ctx, &key_a, 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(ctx, list, NULL), 0);
    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, list, NULL, list, &n), 0);
    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, list, &n, list, NULL), 0);
    CHECK_INT(n, 9);
    expect_list(list, 4, NONE);
    ASYNC_WAIT_CTX_free(ctx);
}
