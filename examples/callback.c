/*
 * Jobs without file descriptors: the device calls the application back (OpenSSL 3.0).
 *
 * Two jobs use a device that has room for one request. The first submits its request and
 * pauses. The second finds the ring full: it says so by ASYNC_STATUS_EAGAIN, and submits again
 * when it is resumed. When a request is done the device calls what the application has put
 * into the wait context, and that puts the job onto the application's ready list.
 *
 *     cc -std=gnu11 callback.c -o callback -lrsasync -pthread     (or -lcrypto for -lrsasync)
 */
#include <openssl/async.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { TASKS = 2 };

struct task {
    int number, square;
    ASYNC_JOB *job;
    ASYNC_WAIT_CTX *ctx;
    struct task *next; /* in the list it is in */
};

struct list {
    struct task *first, *last;
};

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    enum { FREE, SUBMITTED, DONE, OFF } state; /* of the ring's only slot */
    int value;
    ASYNC_callback_fn callback;
    void *callback_arg;
} device = { .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t filled;
    struct list tasks;
} ready = { .mutex = PTHREAD_MUTEX_INITIALIZER, .filled = PTHREAD_COND_INITIALIZER };

static void die(const char *what)
{
    fprintf(stderr, "callback: %s failed\n", what);
    exit(EXIT_FAILURE);
}
