/*
 * wait_ctx.c: a wait context lists its fds newest first and marks each as added or deleted, until a
 * paused job of the context is resumed.
 */
#include "fds.h"
#include <limits.h>
#include <malloc.h>

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
     "any key, fd and data are accepted: NULL, numbers that are no pointers, negative or equal fds")
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
     "an entry does not replace an older one of its key: get_fd finds the newest, and the older "
     "one once the newest is cleared")
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

CASE(contexts_do_not_share_keys, EVERYWHERE, "the same key in two contexts has an entry in each")
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
    /* The entry cleared is the last, the middle and the first one of the list. */
    int *keys[3] = {&key_a, &key_b, &key_c};

    for (int gone = 0; gone < 3; gone++) {
        ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
        int rest[2], n = 0;

        for (int i = 0; i < 3; i++)
            CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, keys[i], i, NULL, record_cleanup), 1);
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

CASE(clearing_an_entry_after_a_resume_marks_it_deleted, EVERYWHERE,
     "clear_fd marks an entry deleted that is no longer marked added; it disappears at the next "
     "resume")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_a, 1, NULL, record_cleanup), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key_b, 2, NULL, record_cleanup), 1);
    clear_marks(ctx);
    expect_changed(ctx, NONE, NONE);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 1);
    expect_all(ctx, FDS(2));
    expect_no_fd(ctx, &key_a);
    expect_changed(ctx, NONE, FDS(1));
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 0);
    expect_changed(ctx, NONE, FDS(1));
    clear_marks(ctx);
    expect_changed(ctx, NONE, NONE);
    expect_all(ctx, FDS(2));
    CHECK_INT(n_cleaned, 0);
    ASYNC_WAIT_CTX_free(ctx);
    expect_cleaned(FDS(2));
}

CASE(deleted_entries_in_any_place_disappear, EVERYWHERE,
     "a resume removes deleted entries anywhere in the list, several in a row too")
{
    static char keys[6];

    for (int mask = 0; mask < 64; mask++) {
        ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
        int kept[6], gone[6];
        size_t n_kept = 0, n_gone = 0;

        for (int i = 0; i < 6; i++)
            set(ctx, &keys[i], i);
        clear_marks(ctx);
        for (int i = 5; i >= 0; i--) {
            if (mask >> i & 1) {
                CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &keys[i]), 1);
                gone[n_gone++] = i;
            } else {
                kept[n_kept++] = i;
            }
        }
        expect_changed(ctx, NONE, gone, n_gone);
        clear_marks(ctx);
        expect_all(ctx, kept, n_kept);
        expect_changed(ctx, NONE, NONE);
        ASYNC_WAIT_CTX_free(ctx);
    }
}

CASE(clear_takes_the_newest_not_yet_deleted, EVERYWHERE,
     "clear_fd takes the newest entry of a key that is not yet marked deleted")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    set(ctx, &key_a, 1);
    set(ctx, &key_a, 2);
    clear_marks(ctx);
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
    clear_marks(ctx);
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
     "at each pause get_changed_fds lists what the job added and deleted since its last resume")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, adds_and_deletes, NULL, 0), ASYNC_PAUSE);
    /* Twice: reading does not clear the marks. */
    expect_changed(ctx, FDS(1), NONE);
    expect_changed(ctx, FDS(1), NONE);
    expect_all(ctx, FDS(1));
    resume_to_pause(job);
    expect_changed(ctx, FDS(2), FDS(1));
    expect_all(ctx, FDS(2));
    finish(job, 5);
    /* Only a resume clears marks, and the job has ended. */
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
    job = paused_job(ctx, 1, 5);
    expect_changed(ctx, FDS(2, 2, 1), NONE);
    finish(job, 5);
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

CASE(a_pause_that_returns_at_once_leaves_the_marks, EVERYWHERE,
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

CASE(both_counts_may_go_to_one_variable, EVERYWHERE,
     "get_changed_fds, given one variable for both counts, leaves the number of deleted fds in it")
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
    ASYNC_JOB *job = paused_job(ctx, 1, 5), *other_job = paused_job(other, 1, 5);

    set(ctx, &key_a, 1);
    set(other, &key_a, 2);
    finish(other_job, 5);
    expect_changed(ctx, FDS(1), NONE);
    expect_changed(other, NONE, NONE);
    finish(job, 5);
    expect_changed(ctx, NONE, NONE);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_WAIT_CTX_free(other);
}

CASE(a_resume_ignores_the_context_it_is_given, EVERYWHERE,
     "a job keeps the context it was started with, whatever is passed when it is resumed")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new(), *other = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = paused_job(ctx, 2, 5);
    int ret = 0;

    set(ctx, &key_a, 1);
    set(other, &key_a, 2);
    CHECK_INT(ASYNC_start_job(&job, other, &ret, NULL, NULL, 0), ASYNC_PAUSE);
    CHECK(ASYNC_get_wait_ctx(job) == ctx);
    expect_changed(ctx, NONE, NONE);
    expect_changed(other, FDS(2), NONE);
    finish(job, 5);
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_WAIT_CTX_free(other);
}

CASE(two_jobs_may_share_a_context, EVERYWHERE,
     "of two jobs paused in one context, resuming either clears its marks")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *one = paused_job(ctx, 2, 5), *two = paused_job(ctx, 2, 5);

    CHECK(one != two);
    CHECK(ASYNC_get_wait_ctx(one) == ctx && ASYNC_get_wait_ctx(two) == ctx);
    set(ctx, &key_a, 1);
    resume_to_pause(one);
    expect_changed(ctx, NONE, NONE);
    set(ctx, &key_b, 2);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 1);
    expect_changed(ctx, FDS(2), FDS(1));
    resume_to_pause(two);
    expect_changed(ctx, NONE, NONE);
    expect_all(ctx, FDS(2));
    finish(one, 5);
    CHECK(ASYNC_get_wait_ctx(two) == ctx);
    finish(two, 5);
    expect_all(ctx, FDS(2));
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(a_context_serves_job_after_job, EVERYWHERE,
     "entries outlast the job that set them; the context's next job finds them and may clear them")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    for (int i = 0; i < 50; i++) {
        if (i > 0) {
            expect_fd(ctx, &key_a, i - 1, NULL);
            CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key_a), 1);
        }
        set(ctx, &key_a, i);
        clear_marks(ctx);
        expect_all(ctx, FDS(i));
        expect_changed(ctx, NONE, NONE);
    }
    ASYNC_WAIT_CTX_free(ctx);
}

/* In libcrypto a job without a context crashes when it is resumed. */
CASE(a_job_without_a_context_may_pause, OURS,
     "a job started with a NULL context has none, and can pause")
{
    ASYNC_JOB *job = paused_job(NULL, 1, 5);

    CHECK(ASYNC_get_wait_ctx(job) == NULL);
    finish(job, 5);
}

/* The model of a context: a plain array of its entries, the newest last. */
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

/* The index after that of the newest entry of the key not marked deleted; 0 if there is none. */
static size_t model_find(int key)
{
    size_t i = n_model;

    while (i > 0 && (model[i - 1].del || model[i - 1].key != key))
        i--;
    return i;
}

/* What a resume does. */
static void model_resume(void)
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
     "with hundreds of fds, after any order of sets, clears and resumes, every list and count is "
     "right")
{
    static char keys[KEYS];
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = paused_job(ctx, STEPS, 5);
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
            resume_to_pause(job);
            model_resume();
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
    for (int ret; resume(&job, &ret) == ASYNC_PAUSE;)
        ;
    CHECK(job == NULL);
    ASYNC_WAIT_CTX_free(ctx);
}

#ifdef __GLIBC__ /* musl does not tell what its heap has in use */
/* valgrind and the sanitizers have a malloc of their own, which mallinfo2 does not count. */
CASE(a_large_context_gives_its_memory_back,
     EVERYWHERE | NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN,
     "freeing a context frees the memory of its thousand fds, whether they were cleared or not")
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
#endif

static int finds_its_context(void *arg)
{
    ASYNC_WAIT_CTX *ctx = *(ASYNC_WAIT_CTX **)arg;

    CHECK(current_ctx() == ctx);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current_ctx() == ctx);
    return 5;
}

CASE(get_wait_ctx_gives_the_context_of_a_job, EVERYWHERE,
     "ASYNC_get_wait_ctx gives a running or paused job's own context")
{
    ASYNC_WAIT_CTX *ctx[2] = {ASYNC_WAIT_CTX_new(), ASYNC_WAIT_CTX_new()};
    ASYNC_JOB *job[2] = {NULL, NULL};
    int ret;

    for (int i = 0; i < 2; i++)
        CHECK_INT(ASYNC_start_job(&job[i], ctx[i], &ret, finds_its_context, &ctx[i],
                                  sizeof(ctx[i])), ASYNC_PAUSE);
    for (int i = 0; i < 2; i++) {
        CHECK(ASYNC_get_wait_ctx(job[i]) == ctx[i]);
        finish(job[i], 5);
        ASYNC_WAIT_CTX_free(ctx[i]);
    }
}

/* libcrypto crashes. */
CASE(calls_on_a_null_context_give_0, OURS,
     "a call on a NULL context gives 0 and writes no outputs")
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
CASE(get_fd_needs_no_place_for_the_data, OURS,
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
CASE(counts_need_a_place, OURS,
     "get_all_fds and get_changed_fds give 0 when a place for a count is NULL, and write nothing")
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
