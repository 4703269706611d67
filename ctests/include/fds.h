/* fds.h: checks of the fds in a wait context, their marks and their cleanup calls. */
#ifndef FDS_H
#define FDS_H

#include "jobs.h"

/* The value of outputs that a call must not write. */
#define UNTOUCHED (-77)

/* Addresses to use as keys and as custom data. */
__attribute__((unused)) static int key_a, key_b, key_c, data_a, data_b, data_c;

/* An array of fds and its length, as two arguments. */
#define FDS(...) (const int[]){__VA_ARGS__}, sizeof((const int[]){__VA_ARGS__}) / sizeof(int)
#define NONE NULL, (size_t)0

__attribute__((unused)) static void fill(int *list, size_t capacity)
{
    for (size_t i = 0; i < capacity; i++)
        list[i] = UNTOUCHED;
}

/* A call has written the n wanted fds to a list from fill(), and nothing behind them. */
__attribute__((unused))
static void expect_list(const int *got, size_t capacity, const int *want, size_t n)
{
    for (size_t i = 0; i < capacity; i++)
        CHECK_INT(got[i], i < n ? want[i] : UNTOUCHED);
}

__attribute__((unused)) static void expect_all(ASYNC_WAIT_CTX *ctx, const int *want, size_t n)
{
    size_t capacity = n + 4, got = 999;
    int *list = malloc(capacity * sizeof(int));

    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(ctx, NULL, &got), 1);
    CHECK_INT(got, n);
    got = 999;
    fill(list, capacity);
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(ctx, list, &got), 1);
    CHECK_INT(got, n);
    expect_list(list, capacity, want, n);
    free(list);
}

/* Asks with both lists, with each alone and with neither: the answers are the same. */
__attribute__((unused))
static void expect_changed(ASYNC_WAIT_CTX *ctx, const int *want_add, size_t nadd,
                           const int *want_del, size_t ndel)
{
    size_t capacity = nadd + ndel + 4, got_add, got_del;
    int *add = malloc(capacity * sizeof(int)), *del = malloc(capacity * sizeof(int));

    for (int with = 0; with < 4; with++) {
        fill(add, capacity);
        fill(del, capacity);
        got_add = got_del = 999;
        CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, with & 1 ? add : NULL, &got_add,
                                                 with & 2 ? del : NULL, &got_del), 1);
        CHECK_INT(got_add, nadd);
        CHECK_INT(got_del, ndel);
        expect_list(add, capacity, want_add, with & 1 ? nadd : 0);
        expect_list(del, capacity, want_del, with & 2 ? ndel : 0);
    }
    free(add);
    free(del);
}

__attribute__((unused))
static void expect_fd(ASYNC_WAIT_CTX *ctx, const void *key, int want_fd, const void *want_data)
{
    int fd = UNTOUCHED;
    void *data = &fd;

    CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, key, &fd, &data), 1);
    CHECK_INT(fd, want_fd);
    CHECK(data == want_data);
}

__attribute__((unused)) static void expect_no_fd(ASYNC_WAIT_CTX *ctx, const void *key)
{
    int fd = UNTOUCHED;
    void *data = &fd;

    CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, key, &fd, &data), 0);
    CHECK_INT(fd, UNTOUCHED);
    CHECK(data == &fd);
}

__attribute__((unused)) static void set(ASYNC_WAIT_CTX *ctx, const void *key, int fd)
{
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, key, fd, NULL, NULL), 1);
}

__attribute__((unused)) static ASYNC_WAIT_CTX *current_ctx(void)
{
    return ASYNC_get_wait_ctx(ASYNC_get_current_job());
}

/* Resumes a paused job of the context, which clears the added and deleted marks of its entries. */
__attribute__((unused)) static void clear_marks(ASYNC_WAIT_CTX *ctx)
{
    finish(paused_job(ctx, 1, 5), 5);
}

/* Runs a job that returns 5 without a pause. */
__attribute__((unused)) static void run(ASYNC_WAIT_CTX *ctx, int (*func)(void *))
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, func, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 5);
}

/* The arguments of each call of record_cleanup(), in the order of the calls. */
__attribute__((unused)) static struct {
    ASYNC_WAIT_CTX *ctx;
    const void *key;
    int fd;
    void *data;
} cleaned[16];
__attribute__((unused)) static size_t n_cleaned;

__attribute__((unused))
static void record_cleanup(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *data)
{
    CHECK(n_cleaned < 16);
    cleaned[n_cleaned].ctx = ctx;
    cleaned[n_cleaned].key = key;
    cleaned[n_cleaned].fd = fd;
    cleaned[n_cleaned++].data = data;
}

__attribute__((unused)) static void expect_cleaned(const int *want, size_t n)
{
    CHECK_INT(n_cleaned, n);
    for (size_t i = 0; i < n; i++)
        CHECK_INT(cleaned[i].fd, want[i]);
}
#endif
