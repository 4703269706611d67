/*
 * One job that waits for a pipe, and a main() that waits for the job.
 *
 * The job starts an operation on a thread, puts the read end of a pipe into its wait context and
 * pauses. main() polls the descriptor in the wait context, resumes the job when it is readable,
 * and gets the job's result.
 *
 *     cc -std=gnu11 pipe.c -o pipe -lrsasync -pthread     (or -lcrypto for -lrsasync)
 */
#include <openssl/async.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct factors {
    int a, b;
};

struct operation {
    struct factors in;
    int write_end;
};

static const char pipe_key; /* its address is the key in the wait context */

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "pipe: %s failed\n", what);
    exit(EXIT_FAILURE);
}

/* The slow operation, on a thread of its own. The write makes the pipe readable. */
static void *multiply(void *arg)
{
    const struct operation *op = arg;
    int product = op->in.a * op->in.b;

    if (write(op->write_end, &product, sizeof(product)) != sizeof(product))
        die("write");
    return NULL;
}

/* Called when the wait context is freed, which does not close its descriptors itself. */
static void close_read_end(ASYNC_WAIT_CTX *ctx, const void *key, OSSL_ASYNC_FD fd, void *data)
{
    (void)ctx, (void)key, (void)data;
    printf("cleanup: close the pipe\n");
    if (close(fd) != 0)
        die("close");
}

static int multiply_job(void *args)
{
    const struct factors *factors = args;
    struct operation op = { .in = *factors }; /* the job's stack is kept while it is paused */
    /* Any function that a job calls can get the wait context so, without a parameter. */
    ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(ASYNC_get_current_job());
    pthread_t thread;
    int ends[2], product;

    if (ctx == NULL || pipe(ends) != 0)
        die("pipe");
    op.write_end = ends[1];
    /* The key finds the descriptor again; it is any address that nobody else uses as a key. */
    if (!ASYNC_WAIT_CTX_set_wait_fd(ctx, &pipe_key, ends[0], NULL, close_read_end))
        die("ASYNC_WAIT_CTX_set_wait_fd");
    if (pthread_create(&thread, NULL, multiply, &op) != 0)
        die("pthread_create");

    printf("job: operation started, pause\n");
    if (!ASYNC_pause_job()) /* main() goes on; this returns when main() resumes the job */
        die("ASYNC_pause_job");

    if (read(ends[0], &product, sizeof(product)) != sizeof(product))
        die("read");
    printf("job: resumed, %d times %d is %d\n", factors->a, factors->b, product);
    if (pthread_join(thread, NULL) != 0 || close(ends[1]) != 0)
        die("end of the operation");
    return product;
}

static void wait_until_readable(ASYNC_WAIT_CTX *ctx)
{
    OSSL_ASYNC_FD fd;
    size_t count;

    /* With NULL the call only counts. This context has one descriptor; others may have more. */
    if (!ASYNC_WAIT_CTX_get_all_fds(ctx, NULL, &count) || count != 1
            || !ASYNC_WAIT_CTX_get_all_fds(ctx, &fd, &count))
        die("ASYNC_WAIT_CTX_get_all_fds");

    struct pollfd pollfd = { .fd = fd, .events = POLLIN };
    if (poll(&pollfd, 1, -1) != 1)
        die("poll");
    printf("main: %zu descriptor, now readable\n", count);
}

int main(void)
{
    struct factors factors = { 6, 7 };
    ASYNC_JOB *job = NULL; /* NULL: ASYNC_start_job() starts a job; otherwise it resumes this one */
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    int product, running = 1;

    if (ctx == NULL)
        die("ASYNC_WAIT_CTX_new");
    while (running) {
        switch (ASYNC_start_job(&job, ctx, &product, multiply_job, &factors, sizeof(factors))) {
        case ASYNC_PAUSE: /* `job` is the job's handle now */
            printf("main: the job has paused\n");
            factors = (struct factors){ 0, 0 }; /* the job has a copy */
            wait_until_readable(ctx);
            break;
        case ASYNC_FINISH: /* `job` is NULL again, `product` is the result of multiply_job() */
            printf("main: the job has finished with %d\n", product);
            running = 0;
            break;
        case ASYNC_NO_JOBS: /* limit reached, or no memory; try again when another job ends */
            die("getting a job");
        case ASYNC_ERR: /* the call was refused; OpenSSL's error queue has the reason */
            die("ASYNC_start_job");
        }
    }
    ASYNC_WAIT_CTX_free(ctx);
    ASYNC_cleanup_thread(); /* free the finished job, which is kept for reuse */
    return EXIT_SUCCESS;
}
