// An operation that pauses its job, and the thread that completes it.

#include "pause.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <openssl/async.h>
#include <openssl/opensslv.h>

#if OPENSSL_VERSION_NUMBER >= 0x30000000L
#define HAS_CALLBACKS 1
#else
#define HAS_CALLBACKS 0
typedef int (*ASYNC_callback_fn)(void *);
#endif

enum { DEFAULT_DELAY_US = 200 };

// An operation in flight. On the heap, as the job's stack may be gone by the time it completes.
struct operation {
    struct operation *next;
    int64_t due_ns;
    atomic_int references; // the completing thread, and the wait context or the job
    atomic_bool is_complete;
    int fd; // -1 where a callback is announced to
    ASYNC_callback_fn callback;
    void *callback_arg;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t submitted;
static struct operation *first, **end = &first; // ordered by due_ns, as the delay is constant
static bool has_thread;
static int64_t delay_ns;
static _Atomic uint64_t *pauses; // shared by all processes

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void release(struct operation *it) {
    if (atomic_fetch_sub(&it->references, 1) > 1)
        return;
    if (it->fd >= 0)
        close(it->fd);
    free(it);
}

static void complete(struct operation *it) {
    ASYNC_callback_fn callback = it->callback;
    void *arg = it->callback_arg;
    atomic_store(&it->is_complete, true);
    if (callback != NULL)
        callback(arg);
    else
        eventfd_write(it->fd, 1);
    release(it);
}

static void *complete_in_turn(void *unused) {
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&lock);
        while (first == NULL)
            pthread_cond_wait(&submitted, &lock);
        struct operation *it = first;
        first = it->next;
        if (first == NULL)
            end = &first;
        pthread_mutex_unlock(&lock);
        struct timespec due = {it->due_ns / 1000000000, it->due_ns % 1000000000};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
        complete(it);
    }
    return NULL;
}

// Starts the thread; the caller holds the lock. The server's signals are not for it.
static bool start_thread(void) {
    sigset_t all, before;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    has_thread = pthread_create(&thread, NULL, complete_in_turn, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (has_thread)
        pthread_detach(thread);
    return has_thread;
}

static bool submit(struct operation *it) {
    atomic_store(&it->is_complete, false);
    it->next = NULL;
    pthread_mutex_lock(&lock);
    bool can_complete = has_thread || start_thread();
    if (can_complete) {
        atomic_fetch_add(&it->references, 1);
        it->due_ns = now_ns() + delay_ns;
        *end = it;
        end = &it->next;
        pthread_cond_signal(&submitted);
    }
    pthread_mutex_unlock(&lock);
    return can_complete;
}

// A server forks its workers after it has loaded this. Only the forking thread is in the child.
static void begin_anew(void) {
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&submitted, NULL);
    first = NULL;
    end = &first;
    has_thread = false;
}

__attribute__((constructor)) static void read_environment(void) {
    const char *delay = getenv("ACCELERATOR_DELAY_US"), *file = getenv("ACCELERATOR_PAUSES");
    delay_ns = (delay ? atoi(delay) : DEFAULT_DELAY_US) * INT64_C(1000);
    // Opened now, as the server may give up its rights later.
    int fd = file ? open(file, O_RDWR | O_CLOEXEC) : -1;
    if (fd >= 0) {
        void *it = mmap(NULL, sizeof *pauses, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        pauses = it == MAP_FAILED ? NULL : it;
        close(fd);
    }
    pthread_cond_init(&submitted, NULL);
    pthread_atfork(NULL, NULL, begin_anew);
}

static struct operation *new_operation(void) {
    struct operation *it = calloc(1, sizeof *it);
    if (it != NULL) {
        it->references = 1;
        it->fd = -1;
    }
    return it;
}

static void forget(ASYNC_WAIT_CTX *ctx, const void *key, OSSL_ASYNC_FD fd, void *it) {
    (void)ctx, (void)key, (void)fd;
    release(it);
}

// The operation that a wait context owns: its descriptor serves all pauses of a connection.
static struct operation *operation_of(ASYNC_WAIT_CTX *ctx) {
    static const char key;
    OSSL_ASYNC_FD fd;
    void *found;
    if (ASYNC_WAIT_CTX_get_fd(ctx, &key, &fd, &found))
        return found;
    struct operation *it = new_operation();
    if (it == NULL)
        return NULL;
    it->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (it->fd < 0 || !ASYNC_WAIT_CTX_set_wait_fd(ctx, &key, it->fd, it, forget)) {
        release(it);
        return NULL;
    }
    return it;
}

// Waits in the job for an operation that was submitted.
static void wait_for(struct operation *it) {
    if (pauses != NULL)
        atomic_fetch_add(pauses, 1);
    // A job may be resumed before its time. It pauses also if the operation is complete by now: for
    // each callback there is one pause.
    do {
        if (!ASYNC_pause_job())
            sched_yield();
    } while (!atomic_load(&it->is_complete));
}

#if HAS_CALLBACKS
static bool pause_with_callback(ASYNC_WAIT_CTX *ctx) {
    ASYNC_callback_fn callback;
    void *arg;
    if (!ASYNC_WAIT_CTX_get_callback(ctx, &callback, &arg))
        return false;
    struct operation *it = new_operation();
    if (it == NULL)
        return true;
    it->callback = callback;
    it->callback_arg = arg;
    ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_OK);
    if (submit(it))
        wait_for(it);
    release(it);
    return true;
}
#endif

void pause_until_completion(void) {
    ASYNC_JOB *job = ASYNC_get_current_job();
    ASYNC_WAIT_CTX *ctx = job ? ASYNC_get_wait_ctx(job) : NULL;
    if (ctx == NULL)
        return;
#if HAS_CALLBACKS
    if (pause_with_callback(ctx))
        return;
#endif
    struct operation *it = operation_of(ctx);
    if (it == NULL || !submit(it))
        return;
    wait_for(it);
    eventfd_t unused;
    eventfd_read(it->fd, &unused);
}
