/*
 * An event loop that runs a thousand jobs with epoll.
 *
 * Each job computes a checksum in three steps. One of four worker threads does a step while the
 * job is paused, and then signals the eventfd that the job has put into its wait context.
 * ASYNC_WAIT_CTX_get_changed_fds() gives the descriptors to add to epoll and to remove. At most
 * 256 jobs are in flight; when one finishes, the next is started.
 *
 *     cc -std=gnu11 epoll.c -o epoll -lrsasync -pthread     (or -lcrypto for -lrsasync)
 */
#include <errno.h>
#include <openssl/async.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    JOBS = 1000,
    IN_FLIGHT = 256,
    WORKERS = 4,
    STEPS = 3,
    CHUNK = 500, /* bytes for a step */
    EVENTS = 64  /* for one epoll_wait() */
};

/* A job's request to the workers, and their answer. Each channel serves one job after another. */
struct channel {
    int eventfd;          /* readable when the answer is there */
    const uint8_t *chunk; /* the request */
    uint32_t sum;         /* request: the checksum so far; answer: the checksum with the chunk */
    struct channel *next; /* in the queue, or in free_channels */
};

struct task {
    const uint8_t *data;
    uint32_t sum;
    ASYNC_JOB *job;
    ASYNC_WAIT_CTX *ctx;
};

struct loop {
    int epoll;
    size_t started, finished, pauses;
    size_t most_in_flight;
    uint64_t sum;
};

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t filled;
    struct channel *first, **end;
    int closed;
} queue = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, &queue.first, 0 };

static struct channel channels[IN_FLIGHT];
static struct channel *free_channels; /* for the loop's thread only */
static const char channel_key;        /* its address is the key in the wait contexts */

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "epoll: %s failed\n", what);
    exit(EXIT_FAILURE);
}

/* Adler-32, which can be computed in steps: each continues the sum of the one before. */
static uint32_t checksum(uint32_t sum, const uint8_t *data, size_t size)
{
    uint32_t a = sum & 0xffff, b = sum >> 16;

    for (size_t i = 0; i < size; i++) {
        a = (a + data[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

/* The workers */

static void submit(struct channel *channel)
{
    channel->next = NULL;
    pthread_mutex_lock(&queue.mutex);
    *queue.end = channel;
    queue.end = &channel->next;
    pthread_cond_signal(&queue.filled);
    pthread_mutex_unlock(&queue.mutex);
}

/* Waits for a request. Returns NULL when the queue is closed. */
static struct channel *take(void)
{
    struct channel *channel;

    pthread_mutex_lock(&queue.mutex);
    while (queue.first == NULL && !queue.closed)
        pthread_cond_wait(&queue.filled, &queue.mutex);
    channel = queue.first;
    if (channel != NULL && (queue.first = channel->next) == NULL)
        queue.end = &queue.first;
    pthread_mutex_unlock(&queue.mutex);
    return channel;
}

static void *work(void *arg)
{
    struct channel *channel;

    while ((channel = take()) != NULL) {
        channel->sum = checksum(channel->sum, channel->chunk, CHUNK);
        /* Gives the channel back to the job. The system call also orders the memory accesses. */
        if (eventfd_write(channel->eventfd, 1) != 0)
            die("eventfd_write");
    }
    return arg;
}

static void close_queue(void)
{
    pthread_mutex_lock(&queue.mutex);
    queue.closed = 1;
    pthread_cond_broadcast(&queue.filled);
    pthread_mutex_unlock(&queue.mutex);
}

/* The jobs */

/* Submits one step to the workers, and pauses the job until it is done. */
static uint32_t request(struct channel *channel, uint32_t sum, const uint8_t *chunk)
{
    eventfd_t count;

    channel->sum = sum;
    channel->chunk = chunk;
    submit(channel);
    do { /* a job may also be resumed before its own request is done */
        if (!ASYNC_pause_job())
            die("ASYNC_pause_job");
    } while (eventfd_read(channel->eventfd, &count) != 0);
    return channel->sum;
}

static int checksum_job(void *args)
{
    struct task *task = *(struct task **)args;
    ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(ASYNC_get_current_job());
    struct channel *channel = free_channels;

    free_channels = channel->next; /* never NULL: each job in flight has one */
    /* No cleanup routine: the descriptor outlives the wait context. */
    if (!ASYNC_WAIT_CTX_set_wait_fd(ctx, &channel_key, channel->eventfd, channel, NULL))
        return 0;

    task->sum = 1;
    for (size_t step = 0; step < STEPS; step++)
        task->sum = request(channel, task->sum, task->data + step * CHUNK);

    /* The loop removes the descriptor from epoll when this job returns, before the next starts. */
    if (!ASYNC_WAIT_CTX_clear_fd(ctx, &channel_key))
        return 0;
    channel->next = free_channels;
    free_channels = channel;
    return 1;
}

/* The event loop */

/* Adds to epoll, and removes, what the job has added to and cleared from its wait context. */
static void update_epoll(struct loop *loop, struct task *task)
{
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = task };
    OSSL_ASYNC_FD added, removed;
    size_t adds, removes;

    /* With NULL for the lists the call only counts. These jobs change at most one of each. */
    if (!ASYNC_WAIT_CTX_get_changed_fds(task->ctx, NULL, &adds, NULL, &removes)
            || adds > 1 || removes > 1
            || !ASYNC_WAIT_CTX_get_changed_fds(task->ctx, &added, &adds, &removed, &removes))
        die("ASYNC_WAIT_CTX_get_changed_fds");
    if (removes && epoll_ctl(loop->epoll, EPOLL_CTL_DEL, removed, NULL) != 0)
        die("EPOLL_CTL_DEL");
    if (adds && epoll_ctl(loop->epoll, EPOLL_CTL_ADD, added, &event) != 0)
        die("EPOLL_CTL_ADD");
}

/* Starts or resumes a task's job. Returns 0 if no job can be started now. */
static int drive(struct loop *loop, struct task *task)
{
    int ok;

    switch (ASYNC_start_job(&task->job, task->ctx, &ok, checksum_job, &task, sizeof(task))) {
    case ASYNC_NO_JOBS:
        return 0;
    case ASYNC_PAUSE:
        loop->pauses++;
        break;
    case ASYNC_FINISH:
        if (!ok)
            die("a job");
        loop->finished++;
        loop->sum += task->sum;
        break;
    default:
        die("ASYNC_start_job");
    }
    update_epoll(loop, task);
    return 1;
}

static void run(struct loop *loop, struct task *tasks)
{
    struct epoll_event events[EVENTS];

    while (loop->finished < JOBS) {
        /* Start jobs until all are started, or ASYNC_NO_JOBS: IN_FLIGHT is the limit. */
        while (loop->started < JOBS && drive(loop, &tasks[loop->started]))
            loop->started++;

        size_t in_flight = loop->started - loop->finished;
        if (in_flight == 0)
            die("starting even one job");
        if (in_flight > loop->most_in_flight)
            loop->most_in_flight = in_flight;

        int count = epoll_wait(loop->epoll, events, EVENTS, -1);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < count; i++)
            drive(loop, events[i].data.ptr);
    }
}

static void set_up(struct loop *loop, struct task *tasks, const uint8_t *data)
{
    if ((loop->epoll = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("epoll_create1");
    for (size_t i = 0; i < IN_FLIGHT; i++) {
        if ((channels[i].eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) < 0)
            die("eventfd");
        channels[i].next = free_channels;
        free_channels = &channels[i];
    }
    for (size_t i = 0; i < JOBS; i++) {
        tasks[i].data = data + i;
        if ((tasks[i].ctx = ASYNC_WAIT_CTX_new()) == NULL)
            die("ASYNC_WAIT_CTX_new");
    }
    /* The limit, and how many jobs are made in advance; the others are made when needed. */
    if (!ASYNC_init_thread(IN_FLIGHT, IN_FLIGHT / 4))
        die("ASYNC_init_thread");
}

static void tear_down(struct loop *loop, struct task *tasks)
{
    ASYNC_cleanup_thread();
    for (size_t i = 0; i < JOBS; i++)
        ASYNC_WAIT_CTX_free(tasks[i].ctx);
    for (size_t i = 0; i < IN_FLIGHT; i++)
        if (close(channels[i].eventfd) != 0)
            die("close");
    if (close(loop->epoll) != 0)
        die("close");
}

int main(void)
{
    static uint8_t data[JOBS + STEPS * CHUNK];
    static struct task tasks[JOBS];
    struct loop loop = { 0 };
    pthread_t workers[WORKERS];
    uint64_t expected = 0;

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * i >> 3);
    for (size_t i = 0; i < JOBS; i++)
        expected += checksum(1, data + i, STEPS * CHUNK);

    set_up(&loop, tasks, data);
    for (size_t i = 0; i < WORKERS; i++)
        if (pthread_create(&workers[i], NULL, work, NULL) != 0)
            die("pthread_create");
    run(&loop, tasks);
    close_queue();
    for (size_t i = 0; i < WORKERS; i++)
        if (pthread_join(workers[i], NULL) != 0)
            die("pthread_join");
    tear_down(&loop, tasks);

    printf("jobs      %zu, at most %zu in flight\n", loop.finished, loop.most_in_flight);
    printf("pauses    %zu\n", loop.pauses);
    printf("sum       %llu\n", (unsigned long long)loop.sum);
    printf("expected  %llu\n", (unsigned long long)expected);
    return loop.sum == expected ? EXIT_SUCCESS : EXIT_FAILURE;
}
