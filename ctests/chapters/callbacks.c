/*
 * callbacks.c: a wait context keeps a callback and a status, by which an engine tells an
 * application without an fd which job to resume. The library itself calls no callback.
 */
#include "threads.h"
#include <limits.h>

static int called, other_called, data_a, data_b;

static int count_call(void *arg)
{
    (void)arg;
    return ++called;
}

static int count_other_call(void *arg)
{
    (void)arg;
    return ++other_called;
}

static void expect_callback(ASYNC_WAIT_CTX *ctx, ASYNC_callback_fn want, const void *want_arg)
{
    ASYNC_callback_fn callback = NULL;
    void *arg = &arg;

    CHECK_INT(ASYNC_WAIT_CTX_get_callback(ctx, &callback, &arg), 1);
    CHECK(callback == want);
    CHECK(arg == want_arg);
}

static void expect_no_callback(ASYNC_WAIT_CTX *ctx)
{
    ASYNC_callback_fn callback = count_call;
    void *arg = &data_a;

    CHECK_INT(ASYNC_WAIT_CTX_get_callback(ctx, &callback, &arg), 0);
    CHECK(callback == count_call);
    CHECK(arg == &data_a);
}

CASE(a_new_context_has_no_callback, SINCE_3_0,
     "get_callback gives 0 if no callback was set, and does not touch its outputs")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    expect_no_callback(ctx);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(get_callback_gives_what_was_set_last, SINCE_3_0,
     "get_callback gives the function and the argument of the last set_callback")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, count_call, &data_a), 1);
    expect_callback(ctx, count_call, &data_a);
    expect_callback(ctx, count_call, &data_a);
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, count_other_call, &data_b), 1);
    expect_callback(ctx, count_other_call, &data_b);
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, count_other_call, NULL), 1);
    expect_callback(ctx, count_other_call, NULL);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(a_null_callback_removes_the_callback, SINCE_3_0,
     "set_callback with a NULL function is 1 and removes the callback, whatever the argument")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, NULL, &data_b), 1);
    expect_no_callback(ctx);
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, count_other_call, &data_b), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, NULL, &data_b), 1);
    expect_no_callback(ctx);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(the_four_statuses, SINCE_3_0, "the status constants have OpenSSL's values")
{
    CHECK_INT(ASYNC_STATUS_UNSUPPORTED, 0);
    CHECK_INT(ASYNC_STATUS_ERR, 1);
    CHECK_INT(ASYNC_STATUS_OK, 2);
    CHECK_INT(ASYNC_STATUS_EAGAIN, 3);
}

CASE(status_is_0_at_first, SINCE_3_0, "a new context's status is 0: callbacks unsupported")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_get_status(ctx), ASYNC_STATUS_UNSUPPORTED);
    /* The new context may get the memory of a freed one. */
    CHECK_INT(ASYNC_WAIT_CTX_set_status(ctx, 3), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, count_call, &data_a), 1);
    ASYNC_WAIT_CTX_free(ctx);
    ctx = ASYNC_WAIT_CTX_new();
    CHECK_INT(ASYNC_WAIT_CTX_get_status(ctx), ASYNC_STATUS_UNSUPPORTED);
    expect_no_callback(ctx);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(status_may_be_any_int, SINCE_3_0, "set_status takes any int, get_status gives it back")
{
    static const int values[] = {ASYNC_STATUS_ERR, ASYNC_STATUS_OK, ASYNC_STATUS_EAGAIN, 4, 77, 256,
                                 65536, -1, INT_MAX, INT_MIN, ASYNC_STATUS_UNSUPPORTED};
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        CHECK_INT(ASYNC_WAIT_CTX_set_status(ctx, values[i]), 1);
        CHECK_INT(ASYNC_WAIT_CTX_get_status(ctx), values[i]);
    }
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(each_context_has_its_own, SINCE_3_0, "each context has its own callback and status")
{
    ASYNC_WAIT_CTX *one = ASYNC_WAIT_CTX_new(), *two = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_callback(one, count_call, &data_a), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_status(one, ASYNC_STATUS_OK), 1);
    expect_no_callback(two);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(two), 0);
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(two, count_other_call, &data_b), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_status(two, ASYNC_STATUS_ERR), 1);
    expect_callback(one, count_call, &data_a);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(one), ASYNC_STATUS_OK);
    ASYNC_WAIT_CTX_free(one);
    expect_callback(two, count_other_call, &data_b);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(two), ASYNC_STATUS_ERR);
    ASYNC_WAIT_CTX_free(two);
}

CASE(callback_and_status_outlast_jobs, SINCE_3_0,
     "starting, resuming and ending jobs changes neither callback nor status")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, count_call, &data_a), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_EAGAIN), 1);
    for (int i = 0; i < 3; i++)
        run_a_job(ctx, 5);
    expect_callback(ctx, count_call, &data_a);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(ctx), ASYNC_STATUS_EAGAIN);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(callbacks_and_fds_are_independent, SINCE_3_0,
     "setting a callback or a status changes no fds and no marks; clearing an fd changes neither "
     "callback nor status")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    static int key;
    int fd = -1, add[2] = {-1, -1}, del[1] = {-1};
    size_t n_add = 0, n_del = 9;
    void *data = NULL;

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key, 3, &data_b, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, count_call, &data_a), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_OK), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, &key, &fd, &data), 1);
    CHECK_INT(fd, 3);
    CHECK(data == &data_b);
    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, add, &n_add, del, &n_del), 1);
    CHECK_INT(n_add, 1);
    CHECK_INT(n_del, 0);
    CHECK_INT(add[0], 3);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key), 1);
    expect_callback(ctx, count_call, &data_a);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(ctx), ASYNC_STATUS_OK);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(the_library_calls_no_callback, SINCE_3_0,
     "only engines call the callback: no function of this API does")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    static int key;

    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, count_call, &data_a), 1);
    for (int status = 0; status < 4; status++) {
        CHECK_INT(ASYNC_WAIT_CTX_set_status(ctx, status), 1);
        CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &key, 3, NULL, NULL), 1);
        run_a_job(ctx, 5);
        CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, &key), 1);
    }
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, count_other_call, &data_a), 1);
    ASYNC_WAIT_CTX_free(ctx);
    CHECK_INT(called, 0);
    CHECK_INT(other_called, 0);
}

CASE(a_null_context_takes_no_callback, SINCE_3_0, "set_callback on a NULL context gives 0")
{
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(NULL, count_call, &data_a), 0);
}

/* libcrypto crashes. */
CASE(a_null_context_has_no_callback_and_no_status, OURS,
     "get_callback, set_status and get_status on a NULL context give 0")
{
    expect_no_callback(NULL);
    CHECK_INT(ASYNC_WAIT_CTX_set_status(NULL, ASYNC_STATUS_OK), 0);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(NULL), 0);
}

/* libcrypto crashes. */
CASE(get_callback_needs_its_outputs, OURS,
     "get_callback gives 0 if either output is NULL, and does not touch the other one")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_callback_fn callback = count_call;
    void *arg = &data_a;

    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, count_other_call, &data_b), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_callback(ctx, NULL, &arg), 0);
    CHECK(arg == &data_a);
    CHECK_INT(ASYNC_WAIT_CTX_get_callback(ctx, &callback, NULL), 0);
    CHECK(callback == count_call);
    ASYNC_WAIT_CTX_free(ctx);
}

/*
 * From here on callbacks are used as by Intel's QAT engine. The engine's code runs in the job and
 * submits a request to a device, which is a thread. The device answers it and calls the callback of
 * the request's context, which tells the application to resume the job.
 */
#define REQUESTS 32

struct request {
    ASYNC_WAIT_CTX *ctx; /* its callback reports the answer */
    int question, answer;
};

static struct request *device_queue[REQUESTS], stop_the_device;
static sem_t device_work;
/* Requests submitted, requests taken, and how many more the device accepts. */
static int device_in, device_out, device_room;
static pthread_mutex_t device_lock = PTHREAD_MUTEX_INITIALIZER;

/* The argument of each call of the application's callback, in the order of the calls. */
static int ready[REQUESTS], n_ready;
static sem_t app_work;

static int on_ready(void *arg)
{
    ready[n_ready++] = *(int *)arg;
    CHECK_INT(sem_post(&app_work), 0);
    return 1;
}

static int device_submit(struct request *request)
{
    int taken;

    pthread_mutex_lock(&device_lock);
    taken = device_room > 0;
    if (taken) {
        device_room--;
        device_queue[device_in++ % REQUESTS] = request;
    }
    pthread_mutex_unlock(&device_lock);
    if (taken)
        CHECK_INT(sem_post(&device_work), 0);
    return taken;
}

static void *device(void *arg)
{
    (void)arg;
    for (;;) {
        struct request *request;
        ASYNC_callback_fn callback;
        void *callback_arg;

        wait_for(&device_work);
        pthread_mutex_lock(&device_lock);
        request = device_queue[device_out++ % REQUESTS];
        pthread_mutex_unlock(&device_lock);
        if (request == &stop_the_device)
            return NULL;
        request->answer = request->question * request->question;
        CHECK_INT(ASYNC_WAIT_CTX_get_callback(request->ctx, &callback, &callback_arg), 1);
        CHECK_INT(callback(callback_arg), 1);
    }
}

static void device_start(pthread_t *thread, int room)
{
    device_room = room;
    CHECK_INT(sem_init(&device_work, 0, 0), 0);
    CHECK_INT(sem_init(&app_work, 0, 0), 0);
    CHECK_INT(pthread_create(thread, NULL, device, NULL), 0);
}

static void device_end(pthread_t thread)
{
    device_room = 1;
    CHECK_INT(device_submit(&stop_the_device), 1);
    CHECK_INT(pthread_join(thread, NULL), 0);
    sem_destroy(&device_work);
    sem_destroy(&app_work);
}

/* The engine's code, in the job: squares a number. */
static int engine_square(void *arg)
{
    struct request request = {ASYNC_get_wait_ctx(ASYNC_get_current_job()), *(int *)arg, -1};
    ASYNC_callback_fn callback;
    void *callback_arg;

    CHECK_INT(ASYNC_WAIT_CTX_get_callback(request.ctx, &callback, &callback_arg), 1);
    if (request.question < 0) {
        CHECK_INT(ASYNC_WAIT_CTX_set_status(request.ctx, ASYNC_STATUS_ERR), 1);
        return -1;
    }
    while (!device_submit(&request)) {
        CHECK_INT(ASYNC_WAIT_CTX_set_status(request.ctx, ASYNC_STATUS_EAGAIN), 1);
        CHECK_INT(ASYNC_pause_job(), 1);
    }
    CHECK_INT(ASYNC_WAIT_CTX_set_status(request.ctx, ASYNC_STATUS_OK), 1);
    CHECK_INT(ASYNC_pause_job(), 1);
    return request.answer;
}

static struct session {
    ASYNC_JOB *job;
    ASYNC_WAIT_CTX *ctx;
    int number, ret;
} sessions[REQUESTS];

static void session_new(struct session *session, int number)
{
    session->number = number;
    session->ctx = ASYNC_WAIT_CTX_new();
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(session->ctx, on_ready, &session->number), 1);
}

static int session_run(struct session *session)
{
    return ASYNC_start_job(&session->job, session->ctx, &session->ret, engine_square,
                           &session->number, sizeof(session->number));
}

/* Waits for the nth call of the callback, and returns the number that it was called with. */
static int wait_for_callback(int nth)
{
    wait_for(&app_work);
    return ready[nth];
}

CASE(a_callback_says_which_job_to_resume, SINCE_3_0,
     "many paused jobs are resumed in the order in which another thread calls their callbacks")
{
    pthread_t thread;

    device_start(&thread, REQUESTS);
    for (int i = 0; i < REQUESTS; i++) {
        session_new(&sessions[i], i);
        CHECK_INT(session_run(&sessions[i]), ASYNC_PAUSE);
        CHECK_INT(ASYNC_WAIT_CTX_get_status(sessions[i].ctx), ASYNC_STATUS_OK);
    }
    for (int i = 0; i < REQUESTS; i++) {
        int number = wait_for_callback(i);

        CHECK_INT(number, i);
        CHECK_INT(session_run(&sessions[number]), ASYNC_FINISH);
        CHECK_INT(sessions[number].ret, number * number);
        ASYNC_WAIT_CTX_free(sessions[number].ctx);
    }
    CHECK_INT(n_ready, REQUESTS);
    device_end(thread);
}

CASE(status_eagain_asks_for_a_resume_without_a_callback, SINCE_3_0,
     "a job that cannot submit sets the status EAGAIN, and is resumed without a callback")
{
    pthread_t thread;

    device_start(&thread, 0);
    session_new(&sessions[0], 7);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(session_run(&sessions[0]), ASYNC_PAUSE);
        CHECK_INT(ASYNC_WAIT_CTX_get_status(sessions[0].ctx), ASYNC_STATUS_EAGAIN);
    }
    CHECK_INT(n_ready, 0);
    device_room = 1;
    CHECK_INT(session_run(&sessions[0]), ASYNC_PAUSE);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(sessions[0].ctx), ASYNC_STATUS_OK);
    CHECK_INT(wait_for_callback(0), 7);
    CHECK_INT(session_run(&sessions[0]), ASYNC_FINISH);
    CHECK_INT(sessions[0].ret, 49);
    ASYNC_WAIT_CTX_free(sessions[0].ctx);
    device_end(thread);
}

CASE(status_outlasts_the_job, SINCE_3_0,
     "the status that a job has set can be read after the job has finished")
{
    session_new(&sessions[0], -7);
    CHECK_INT(session_run(&sessions[0]), ASYNC_FINISH);
    CHECK_INT(sessions[0].ret, -1);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(sessions[0].ctx), ASYNC_STATUS_ERR);
    CHECK_INT(n_ready, 0);
    ASYNC_WAIT_CTX_free(sessions[0].ctx);
}

static int uses_its_context(void *arg)
{
    ASYNC_WAIT_CTX *ctx = arg;

    CHECK_INT(ASYNC_WAIT_CTX_get_status(ctx), ASYNC_STATUS_OK);
    CHECK_INT(ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_EAGAIN), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, &data_a, 3, NULL, NULL), 1);
    expect_callback(ctx, uses_its_context, ctx);
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, count_call, NULL), 1);
    return 1;
}

static int calls_its_callback(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(ASYNC_get_current_job());
    ASYNC_callback_fn callback;

    CHECK_INT(ASYNC_WAIT_CTX_get_callback(ctx, &callback, &arg), 1);
    CHECK_INT(callback(arg), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(ctx), ASYNC_STATUS_EAGAIN);
    expect_callback(ctx, count_call, NULL);
    return 5;
}

CASE(a_callback_may_use_its_context, SINCE_3_0,
     "a callback, here called by the job itself, may read and change its context")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = 0, fd = -1;
    void *data = &fd;

    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, uses_its_context, ctx), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_OK), 1);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, calls_its_callback, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 5);
    CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, &data_a, &fd, &data), 1);
    CHECK_INT(fd, 3);
    CHECK(data == NULL);
    ASYNC_WAIT_CTX_free(ctx);
}
