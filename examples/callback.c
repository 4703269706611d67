/*
 * Jobs without file descriptors: the device calls the application back (OpenSSL 3.0 and later).
 *
 * Two jobs use a device whose ring has room for one request. The first job submits its request
 * and pauses. The second job finds the ring full: it sets the status ASYNC_STATUS_EAGAIN, pauses,
 * and submits again when it is resumed. When a request is done, the device calls the callback that
 * the application has set in the wait context, which puts the job onto the ready list.
 *
 *     cc -std=gnu11 callback.c -o callback -lrsasync -pthread     (or -lcrypto for -lrsasync)
 */
#include <openssl/async.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { TASKS = 2 };

struct task {
    int number;
    ASYNC_JOB *job;
    ASYNC_WAIT_CTX *ctx;
    struct task *next; /* in ready.tasks or in refused */
};

struct list {
    struct task *first, *last;
};

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    enum { FREE, SUBMITTED, DONE } state; /* of the ring's only slot */
    int value;                            /* the number; its square when DONE */
    ASYNC_callback_fn callback;
    void *callback_arg;
} device = { .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t filled;
    struct list tasks;
} ready = { .mutex = PTHREAD_MUTEX_INITIALIZER, .filled = PTHREAD_COND_INITIALIZER };

static struct list refused; /* tasks that found the ring full; for the main thread only */

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "callback: %s failed\n", what);
    exit(EXIT_FAILURE);
}

static void append(struct list *list, struct task *task)
{
    task->next = NULL;
    if (list->first == NULL)
        list->first = task;
    else
        list->last->next = task;
    list->last = task;
}

static struct task *take_first(struct list *list)
{
    struct task *task = list->first;

    if (task != NULL)
        list->first = task->next;
    return task;
}

/* The device */

static void *run_device(void *arg)
{
    for (int i = 0; i < TASKS; i++) {
        pthread_mutex_lock(&device.mutex);
        while (device.state != SUBMITTED)
            pthread_cond_wait(&device.changed, &device.mutex);
        device.value *= device.value;
        device.state = DONE;
        /* After the unlock another request may use the slot, so copy the callback before. */
        ASYNC_callback_fn callback = device.callback;
        void *callback_arg = device.callback_arg;
        pthread_mutex_unlock(&device.mutex);
        if (!callback(callback_arg))
            die("the callback");
    }
    return arg;
}

/* Returns 0 if the ring is full. */
static int submit(int number, ASYNC_callback_fn callback, void *callback_arg)
{
    pthread_mutex_lock(&device.mutex);
    int ok = device.state == FREE;
    if (ok) {
        device.state = SUBMITTED;
        device.value = number;
        device.callback = callback;
        device.callback_arg = callback_arg;
        pthread_cond_signal(&device.changed);
    }
    pthread_mutex_unlock(&device.mutex);
    return ok;
}

/* Returns 0 if the request is not done yet; otherwise frees its slot. */
static int collect(int *square)
{
    pthread_mutex_lock(&device.mutex);
    int ok = device.state == DONE;
    if (ok) {
        device.state = FREE;
        *square = device.value;
    }
    pthread_mutex_unlock(&device.mutex);
    return ok;
}

/* The job */

/* By its status a job tells the application why it pauses. */
static void pause_with(ASYNC_WAIT_CTX *ctx, int status)
{
    if (!ASYNC_WAIT_CTX_set_status(ctx, status) || !ASYNC_pause_job())
        die("pause");
}

static int square_job(void *args)
{
    int number = *(int *)args, square;
    ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(ASYNC_get_current_job());
    ASYNC_callback_fn callback;
    void *callback_arg;

    if (!ASYNC_WAIT_CTX_get_callback(ctx, &callback, &callback_arg))
        die("ASYNC_WAIT_CTX_get_callback");
    while (!submit(number, callback, callback_arg))
        pause_with(ctx, ASYNC_STATUS_EAGAIN);
    do { /* a job may also be resumed before its request is done */
        pause_with(ctx, ASYNC_STATUS_OK);
    } while (!collect(&square));
    return square;
}

/* The application */

/*
 * The callback. It runs on the device's thread, where the job cannot be resumed, and possibly
 * before the job has paused. So it only puts the task onto the ready list.
 */
static int make_ready(void *arg)
{
    pthread_mutex_lock(&ready.mutex);
    append(&ready.tasks, arg);
    pthread_cond_signal(&ready.filled);
    pthread_mutex_unlock(&ready.mutex);
    return 1;
}

static struct task *wait_for_ready(void)
{
    struct task *task;

    pthread_mutex_lock(&ready.mutex);
    while ((task = take_first(&ready.tasks)) == NULL)
        pthread_cond_wait(&ready.filled, &ready.mutex);
    pthread_mutex_unlock(&ready.mutex);
    return task;
}

/* Starts or resumes a task's job. Returns 1 if the job has finished. */
static int drive(struct task *task)
{
    int number = task->number, square;

    printf("%s job %d\n", task->job == NULL ? "start" : "resume", number);
    switch (ASYNC_start_job(&task->job, task->ctx, &square, square_job, &number, sizeof(number))) {
    case ASYNC_FINISH:
        printf("    finished, the square is %d\n", square);
        return 1;
    case ASYNC_PAUSE:
        if (ASYNC_WAIT_CTX_get_status(task->ctx) == ASYNC_STATUS_EAGAIN) {
            printf("    paused, the ring is full\n");
            append(&refused, task); /* without a request there will be no callback */
        } else {
            printf("    paused, the request is submitted\n");
        }
        return 0;
    default:
        die("ASYNC_start_job");
    }
}

int main(void)
{
    struct task tasks[TASKS], *task;
    pthread_t thread;

    if (pthread_create(&thread, NULL, run_device, NULL) != 0)
        die("pthread_create");
    for (int i = 0; i < TASKS; i++) {
        tasks[i] = (struct task){ .number = i + 1, .ctx = ASYNC_WAIT_CTX_new() };
        if (!ASYNC_WAIT_CTX_set_callback(tasks[i].ctx, make_ready, &tasks[i]))
            die("making a wait context");
        make_ready(&tasks[i]); /* to be started */
    }
    for (int finished = 0; finished < TASKS;) {
        if (!drive(wait_for_ready()))
            continue;
        finished++;
        while ((task = take_first(&refused)) != NULL) /* the ring has room again */
            make_ready(task);
    }
    if (pthread_join(thread, NULL) != 0)
        die("pthread_join");
    for (int i = 0; i < TASKS; i++)
        ASYNC_WAIT_CTX_free(tasks[i].ctx);
    ASYNC_cleanup_thread(); /* free the finished jobs, which are kept for reuse */
    return EXIT_SUCCESS;
}
