/*
 * errors.c: refused calls (src/error.rs, src/openssl/error_queue.rs): the error on OpenSSL's queue,
 * the message of RSASYNC_last_error(), and that nothing else has changed.
 */
#include "every_call.h"
#include "refusals.h"
#include <sys/resource.h>

static int runs; /* how often a job's function has been entered */

static int give_5(void *arg)
{
    (void)arg;
    runs++;
    return 5;
}

static int pause_give_6(void *arg)
{
    (void)arg;
    runs++;
    CHECK_INT(ASYNC_pause_job(), 1);
    return 6;
}

/* A new job at its pause, with a wait context for finish_and_free(). */
static ASYNC_JOB *new_paused_job(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = 77;

    CHECK(ctx != NULL);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, pause_give_6, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(ret, 77);
    return job;
}

/*
 * With a limit of one, exactly one job can be had: no refusal has lost a job, or put one into the
 * pool twice.
 */
static void check_pool_of_one(void)
{
    ASYNC_JOB *job = new_paused_job(), *second = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&second, NULL, &ret, give_5, NULL, 0), ASYNC_NO_JOBS);
    CHECK(second == NULL);
    finish_and_free(job, 6);
    ASYNC_cleanup_thread();
}

/* ---- the reasons ---- */

CASE(init_above_max_is_invalid_pool_size, EVERYWHERE,
     "ASYNC_init_thread(2, 3) is 0, for the reason INVALID_POOL_SIZE")
{
    CHECK_INT(ASYNC_init_thread(2, 3), 0);
    check_queue(INVALID_POOL_SIZE);
}

CASE(init_with_max_0_is_invalid_pool_size, EVERYWHERE,
     "ASYNC_init_thread(0, 1) is refused too, though a max of 0 sets no limit for starts")
{
    CHECK_INT(ASYNC_init_thread(0, 1), 0);
    check_queue(INVALID_POOL_SIZE);
}

#ifdef WITH_LIBCRYPTO
CASE(the_error_names_the_function, EVERYWHERE | NEEDS_LIBCRYPTO,
     "The queued error has the name of the function that refused")
{
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(ERR_peek_error(), error_code(INVALID_POOL_SIZE, "ASYNC_init_thread"));
    CHECK(strstr(print_the_error(), ":ASYNC_init_thread:") != NULL);
}
#endif

/* libcrypto queues no text with its errors. */
CASE(init_above_max_says_which_argument, OURS,
     "The text of INVALID_POOL_SIZE names init, the argument that is wrong")
{
    CHECK_INT(ASYNC_init_thread(2, 3), 0);
    check_refused(INVALID_POOL_SIZE, "ASYNC_init_thread", "init");
}

CASE(a_refused_init_keeps_the_pool_in_place, EVERYWHERE,
     "A refused ASYNC_init_thread leaves the thread's limit as it was")
{
    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    CHECK_INT(ASYNC_init_thread(5, 6), 0);
    check_queue(INVALID_POOL_SIZE);
    check_pool_of_one();
}

/* libcrypto dereferences the pointer. */
CASE(start_without_a_handle_is_refused, OURS,
     "A start with &job NULL is ASYNC_ERR, and nothing runs")
{
    int ret = 77;

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    CHECK_INT(ASYNC_start_job(NULL, NULL, &ret, give_5, NULL, 0), ASYNC_ERR);
    check_refused(NULL_POINTER, "ASYNC_start_job", "job");
    CHECK_INT(ret, 77);
    CHECK_INT(runs, 0);
    check_pool_of_one();
}

/* libcrypto runs the job and then writes through the pointer. */
CASE(start_without_ret_is_refused, OURS,
     "A start with &ret NULL is ASYNC_ERR, and nothing runs")
{
    ASYNC_JOB *job = NULL;

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    CHECK_INT(ASYNC_start_job(&job, NULL, NULL, give_5, NULL, 0), ASYNC_ERR);
    check_refused(NULL_POINTER, "ASYNC_start_job", "ret");
    CHECK(job == NULL);
    CHECK_INT(runs, 0);
    check_pool_of_one();
}

/* libcrypto calls the function, and crashes. */
CASE(start_without_func_is_refused, OURS,
     "A start with func NULL is ASYNC_ERR, and nothing changes")
{
    ASYNC_JOB *job = NULL;
    int ret = 77;

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
    check_refused(NULL_POINTER, "ASYNC_start_job", "func");
    CHECK(job == NULL);
    CHECK_INT(ret, 77);
    check_pool_of_one();
}

/* libcrypto writes through the pointer when the job ends. */
CASE(resume_without_ret_is_refused, OURS,
     "A resume with &ret NULL is ASYNC_ERR, and the job stays paused")
{
    ASYNC_JOB *job = new_paused_job(), *same = job;

    CHECK_INT(ASYNC_start_job(&job, NULL, NULL, NULL, NULL, 0), ASYNC_ERR);
    check_refused(NULL_POINTER, "ASYNC_start_job", "ret");
    CHECK(job == same);
    CHECK_INT(runs, 1);
    finish_and_free(job, 6);
    ASYNC_cleanup_thread();
}

CASE(resume_needs_no_func, EVERYWHERE, "A resume ignores func, which may be NULL")
{
    finish_and_free(new_paused_job(), 6);
    check_queue_is_empty();
    ASYNC_cleanup_thread();
}

/* NOT_ON_VALGRIND: it reports an allocation of such a size as an error of the program. */
CASE(args_that_cannot_be_copied_are_refused, UNTIL_3_2 | NOT_ON_VALGRIND,
     "Args that cannot be copied: ASYNC_ERR and MALLOC_FAILURE, for sizes that overflow too")
{
    static const size_t sizes[] = { (size_t)1 << 62, SIZE_MAX - 4096, SIZE_MAX - 7, SIZE_MAX };
    char args[1] = { 0 };
    size_t i;

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        ASYNC_JOB *job = NULL;
        int ret = 77;

        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, give_5, args, sizes[i]), ASYNC_ERR);
        check_queue(NO_MEMORY);
        CHECK(job == NULL);
        CHECK_INT(ret, 77);
        CHECK_INT(runs, 0);
        CHECK(ASYNC_get_current_job() == NULL);
    }
    check_pool_of_one();
}

/* libcrypto queues no text with its errors. */
CASE(args_that_cannot_be_copied_are_named, OURS, "The text of MALLOC_FAILURE names args")
{
    ASYNC_JOB *job = NULL;
    char args[1] = { 0 };
    int ret;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, give_5, args, (size_t)1 << 62), ASYNC_ERR);
    check_refused(NO_MEMORY, "ASYNC_start_job", "args");
    ASYNC_cleanup_thread();
}

struct block {
    struct block *next;
};

/* Allocates until the address-space limit is reached; returns the list of blocks to free. */
static struct block *take_all_memory(void)
{
    struct block *all = NULL, *block;
    size_t size;

    for (size = (size_t)1 << 20; size >= sizeof *block; size -= size > 4096 ? size / 2 : 8)
        while ((block = malloc(size)) != NULL) {
            block->next = all;
            all = block;
        }
    return all;
}

/* Not on valgrind and ThreadSanitizer: the limit would apply to their own memory too. */
CASE(no_memory_for_an_entry_is_refused, UNTIL_3_2 | NOT_ON_VALGRIND | NOT_ON_TSAN | NOT_EMULATED,
     "Without memory set_wait_fd is 0 and MALLOC_FAILURE, and keeps the entries made before")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    struct block *taken, *next;
    struct rlimit limit, none;
    size_t made = 0, count = 77;
    int answer;

    CHECK(ctx != NULL);
    /* A thread's first error makes libcrypto allocate its error queue: now, before the limit. */
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_queue(INVALID_POOL_SIZE);
    CHECK_INT(getrlimit(RLIMIT_AS, &limit), 0);
    none = limit;
    none.rlim_cur = 4096;
    CHECK_INT(setrlimit(RLIMIT_AS, &none), 0);
    taken = take_all_memory();
    while ((answer = ASYNC_WAIT_CTX_set_wait_fd(ctx, ctx, 3, NULL, NULL)) == 1 && made < 100000)
        made++;
    CHECK_INT(setrlimit(RLIMIT_AS, &limit), 0);
    for (; taken != NULL; taken = next) {
        next = taken->next;
        free(taken);
    }
    CHECK_INT(answer, 0);
    check_queue(NO_MEMORY);
#ifndef ON_LIBCRYPTO
    CHECK(RSASYNC_last_error()[0] != '\0');
    CHECK(!has_word(RSASYNC_last_error(), "init"));
#endif
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(ctx, NULL, &count), 1);
    CHECK_INT(count, made);
    ASYNC_WAIT_CTX_free(ctx);
}

/* A resume of the job is ASYNC_ERR for NOT_NOW with this word in the text, and changes nothing. */
static void check_not_now(ASYNC_JOB *job, const char *word)
{
    ASYNC_JOB *handle = job, *current = ASYNC_get_current_job();
    int ret = 77;

    CHECK_INT(ASYNC_start_job(&handle, NULL, &ret, give_5, NULL, 0), ASYNC_ERR);
    check_refused(NOT_NOW, "ASYNC_start_job", word);
    CHECK(handle == job);
    CHECK_INT(ret, 77);
    CHECK(ASYNC_get_current_job() == current);
}

static void *resume_on_this_thread(void *job)
{
    check_not_now(job, "thread");
    return NULL;
}

/* libcrypto runs the job with the wrong thread's state. */
CASE(resume_on_another_thread_is_refused, OURS,
     "A resume of another thread's job is ASYNC_ERR, and queued on the resuming thread only")
{
    ASYNC_JOB *job = new_paused_job();

    on_new_thread(resume_on_this_thread, job);
    check_queue_is_empty();
    CHECK_INT(runs, 1);
    finish_and_free(job, 6);
    ASYNC_cleanup_thread();
}

static int resume_myself(void *arg)
{
    (void)arg;
    runs++;
    check_not_now(ASYNC_get_current_job(), "job");
    CHECK_INT(ASYNC_pause_job(), 1);
    return 6;
}

/* libcrypto frees the job on whose stack it runs. */
CASE(resume_of_the_running_job_is_refused, OURS,
     "A job that resumes itself gets ASYNC_ERR, and can pause and finish as before")
{
    ASYNC_JOB *job = NULL;
    int ret = 77;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, resume_myself, NULL, 0), ASYNC_PAUSE);
    finish_and_free(job, 6);
    CHECK_INT(runs, 1);
    ASYNC_cleanup_thread();
}

/* The innermost of three nested jobs; its args are the handles of the other two. */
static int resume_ancestors(void *arg)
{
    ASYNC_JOB **handles = arg;
    int i;

    for (i = 0; i < 2; i++)
        check_not_now(handles[i], "job");
    CHECK_INT(ASYNC_pause_job(), 1);
    return 6;
}

/* The outer two of three nested jobs. Each puts its handle into the array that *arg points to. */
static int nest(void *arg)
{
    ASYNC_JOB **handles = *(ASYNC_JOB ***)arg, *me = ASYNC_get_current_job(), *inner = NULL;
    int second = handles[0] != NULL, ret = 77;

    handles[second] = me;
    if (second)
        CHECK_INT(ASYNC_start_job(&inner, NULL, &ret, resume_ancestors, handles,
                                  2 * sizeof *handles), ASYNC_PAUSE);
    else
        CHECK_INT(ASYNC_start_job(&inner, NULL, &ret, nest, arg, sizeof handles), ASYNC_PAUSE);
    CHECK(ASYNC_get_current_job() == me);
    finish_and_free(inner, 6);
    CHECK(ASYNC_get_current_job() == me);
    CHECK_INT(ASYNC_pause_job(), 1);
    return 6;
}

/* In libcrypto a job that starts another corrupts the thread's state. */
CASE(resume_of_an_ancestor_is_refused, OURS,
     "A nested job cannot resume the jobs around it, and all of them end as before")
{
    ASYNC_JOB *handles[2] = { NULL, NULL }, **args = handles, *job = NULL;
    int ret = 77;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, nest, &args, sizeof args), ASYNC_PAUSE);
    CHECK(handles[0] == job && handles[1] != NULL);
    finish_and_free(job, 6);
    CHECK(ASYNC_get_current_job() == NULL);
    check_queue_is_empty();
    ASYNC_cleanup_thread();
}

/* libcrypto puts such a job into the pool a second time. */
CASE(resume_of_a_finished_job_is_refused, OURS,
     "A resume of a finished, idle job is refused, and the pool holds the job once")
{
    ASYNC_JOB *job;

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    job = new_paused_job();
    finish_and_free(job, 6);
    check_not_now(job, "job");
    CHECK_INT(runs, 1);
    check_pool_of_one();
}

/* In libcrypto each refusal loses a job of the limit. */
CASE(a_refused_start_costs_no_job, OURS, "A limit of one is still one after many refusals")
{
    ASYNC_JOB *job = NULL;
    char args[1] = { 0 };
    int i, idle, ret;

    for (idle = 0; idle < 2; idle++) {
        CHECK_INT(ASYNC_init_thread(1, (size_t)idle), 1);
        for (i = 0; i < 100; i++) {
            CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
            check_refused(NULL_POINTER, "ASYNC_start_job", "func");
            CHECK_INT(ASYNC_start_job(&job, NULL, &ret, give_5, args, (size_t)1 << 62), ASYNC_ERR);
            check_refused(NO_MEMORY, "ASYNC_start_job", "args");
        }
        CHECK_INT(runs, idle);
        check_pool_of_one();
    }
}

/* ---- wait contexts ---- */

/* libcrypto dereferences the pointer. */
CASE(calls_without_a_context_are_refused, OURS,
     "Calls with NULL for the wait context return 0 and leave their outputs untouched")
{
    OSSL_ASYNC_FD fd = 77;
    size_t added = 77, deleted = 77;
    void *data = &fd;
    ASYNC_callback_fn callback = give_5;

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(NULL, &fd, 3, NULL, NULL), 0);
    check_refused(NULL_POINTER, "ASYNC_WAIT_CTX_set_wait_fd", "ctx");
    CHECK_INT(ASYNC_WAIT_CTX_get_fd(NULL, &fd, &fd, &data), 0);
    check_refused(NULL_POINTER, "ASYNC_WAIT_CTX_get_fd", "ctx");
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(NULL, &fd, &added), 0);
    check_refused(NULL_POINTER, "ASYNC_WAIT_CTX_get_all_fds", "ctx");
    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(NULL, &fd, &added, &fd, &deleted), 0);
    check_refused(NULL_POINTER, "ASYNC_WAIT_CTX_get_changed_fds", "ctx");
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(NULL, &fd), 0);
    check_refused(NULL_POINTER, "ASYNC_WAIT_CTX_clear_fd", "ctx");
    CHECK_INT(ASYNC_WAIT_CTX_get_callback(NULL, &callback, &data), 0);
    check_refused(NULL_POINTER, "ASYNC_WAIT_CTX_get_callback", "ctx");
    CHECK_INT(ASYNC_WAIT_CTX_set_status(NULL, 3), 0);
    check_refused(NULL_POINTER, "ASYNC_WAIT_CTX_set_status", "ctx");
    CHECK_INT(ASYNC_WAIT_CTX_get_status(NULL), 0);
    check_refused(NULL_POINTER, "ASYNC_WAIT_CTX_get_status", "ctx");
    CHECK_INT(fd, 77);
    CHECK_INT(added, 77);
    CHECK_INT(deleted, 77);
    CHECK(data == &fd);
    CHECK(callback == give_5);
}

CASE(set_callback_without_a_context_is_refused_silently, SINCE_3_0,
     "ASYNC_WAIT_CTX_set_callback without a context is 0, and queues nothing, as in libcrypto")
{
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(NULL, give_5, NULL), 0);
    check_queue_is_empty();
}

CASE(free_without_a_context_does_nothing, EVERYWHERE, "ASYNC_WAIT_CTX_free(NULL) is no error")
{
    ASYNC_WAIT_CTX_free(NULL);
    check_queue_is_empty();
#ifndef ON_LIBCRYPTO
    CHECK_STR(RSASYNC_last_error(), "");
#endif
}

/* libcrypto writes through the pointers. */
CASE(calls_without_an_output_are_refused, OURS,
     "Calls with NULL for a required output return 0 and leave the other outputs untouched")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    OSSL_ASYNC_FD added = 77, deleted = 77;
    size_t count = 77;
    ASYNC_callback_fn callback = NULL;
    void *data = &count;

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, ctx, 3, ctx, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, give_5, ctx), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, ctx, NULL, &data), 0);
    check_refused(NULL_POINTER, "ASYNC_WAIT_CTX_get_fd", "fd");
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(ctx, &added, NULL), 0);
    check_refused(NULL_POINTER, "ASYNC_WAIT_CTX_get_all_fds", "numfds");
    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, &added, NULL, &deleted, &count), 0);
    check_refused(NULL_POINTER, "ASYNC_WAIT_CTX_get_changed_fds", "numaddfds");
    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, &added, &count, &deleted, NULL), 0);
    check_refused(NULL_POINTER, "ASYNC_WAIT_CTX_get_changed_fds", "numdelfds");
    CHECK_INT(ASYNC_WAIT_CTX_get_callback(ctx, NULL, &data), 0);
    check_refused(NULL_POINTER, "ASYNC_WAIT_CTX_get_callback", "callback");
    CHECK_INT(ASYNC_WAIT_CTX_get_callback(ctx, &callback, NULL), 0);
    check_refused(NULL_POINTER, "ASYNC_WAIT_CTX_get_callback", "callback_arg");
    CHECK_INT(added, 77);
    CHECK_INT(deleted, 77);
    CHECK_INT(count, 77);
    CHECK(data == &count);
    CHECK(callback == NULL);
    /* The context has its entry and its callback. */
    CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, ctx, &added, &data), 1);
    CHECK_INT(added, 3);
    CHECK(data == ctx);
    CHECK_INT(ASYNC_WAIT_CTX_get_callback(ctx, &callback, &data), 1);
    CHECK(callback == give_5 && data == ctx);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(finding_nothing_is_no_error, SINCE_3_0,
     "0 for a key or a callback that does not exist is no refusal: the queue stays empty")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    OSSL_ASYNC_FD fd = 77;
    void *data = &fd;
    ASYNC_callback_fn callback = NULL;

    CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, ctx, &fd, &data), 0);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, ctx), 0);
    CHECK_INT(ASYNC_WAIT_CTX_get_callback(ctx, &callback, &data), 0);
    check_queue_is_empty();
    ASYNC_WAIT_CTX_free(ctx);
}

/* ---- what leaves the queue untouched, and whose queue it is ---- */

#ifdef WITH_LIBCRYPTO
CASE(what_succeeds_queues_nothing, SINCE_3_0 | NEEDS_LIBCRYPTO,
     "Neither a call that succeeds nor ASYNC_NO_JOBS adds an error")
{
    make_every_call();
    CHECK_INT(ERR_peek_error(), 0);
}

CASE(what_succeeds_takes_no_error_away, SINCE_3_0 | NEEDS_LIBCRYPTO,
     "Another library's error stays on the queue, alone, whatever calls succeed")
{
    ERR_put_error(ERR_LIB_USER, 0, 123, "here", 1);
    make_every_call();
    CHECK_INT(ERR_GET_LIB(ERR_peek_last_error()), ERR_LIB_USER);
    CHECK_INT(ERR_GET_REASON(ERR_get_error()), 123);
    CHECK_INT(ERR_peek_error(), 0);
}

CASE(a_refusal_keeps_the_errors_before_it, EVERYWHERE | NEEDS_LIBCRYPTO,
     "A refused call adds its error after those on the queue")
{
    ERR_put_error(ERR_LIB_USER, 0, 123, "here", 1);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(ERR_GET_REASON(ERR_get_error()), 123);
    check_queue(INVALID_POOL_SIZE);
}

static int refused_then_pause(void *arg)
{
    (void)arg;
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(ASYNC_pause_job(), 1);
    /* The starter has emptied the queue meanwhile, which is the thread's and not the job's. */
    CHECK_INT(ERR_peek_error(), 0);
    return 6;
}

CASE(the_queue_is_the_threads, EVERYWHERE | NEEDS_LIBCRYPTO,
     "An error queued inside a job is on the starter's queue when the job has paused")
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, ASYNC_WAIT_CTX_new(), &ret, refused_then_pause, NULL, 0),
              ASYNC_PAUSE);
    check_queue(INVALID_POOL_SIZE);
    finish_and_free(job, 6);
    ASYNC_cleanup_thread();
}

/* In libcrypto OPENSSL_thread_stop frees the pool, and with it the limit. */
CASE(openssl_thread_stop_leaves_the_pool, OURS | NEEDS_LIBCRYPTO,
     "After OPENSSL_thread_stop the thread has its jobs and its limit, and errors are queued")
{
    ASYNC_JOB *job, *second = NULL;
    int ret;

    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    job = new_paused_job();
    OPENSSL_thread_stop();
    CHECK_INT(ASYNC_start_job(&second, NULL, &ret, give_5, NULL, 0), ASYNC_NO_JOBS);
    CHECK_INT(ERR_peek_error(), 0);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_refused(INVALID_POOL_SIZE, "ASYNC_init_thread", "init");
    finish_and_free(job, 6);
    check_pool_of_one();
}
#endif

static int start_inside(void *arg)
{
    ASYNC_JOB *inner = NULL;
    int ret = 77;

    (void)arg;
    CHECK_INT(ASYNC_start_job(&inner, NULL, &ret, give_5, NULL, 0), ASYNC_NO_JOBS);
    check_queue_is_empty();
    CHECK_INT(ASYNC_start_job(&inner, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
    check_refused(NULL_POINTER, "ASYNC_start_job", "func");
    CHECK_INT(ASYNC_start_job(&inner, NULL, NULL, give_5, NULL, 0), ASYNC_ERR);
    check_refused(NULL_POINTER, "ASYNC_start_job", "ret");
    CHECK(inner == NULL);
    CHECK_INT(ret, 77);
    CHECK_INT(ASYNC_pause_job(), 1);
    return 6;
}

/* In libcrypto a job that starts another corrupts the thread's state. */
CASE(a_start_refused_inside_a_job_leaves_that_job, OURS,
     "A job whose own start of a job is refused, or ASYNC_NO_JOBS, goes on as before")
{
    ASYNC_JOB *job = NULL;
    int ret = 77;

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, start_inside, NULL, 0), ASYNC_PAUSE);
    finish_and_free(job, 6);
    CHECK_INT(runs, 0);
    check_pool_of_one();
}

/* ---- RSASYNC_last_error ---- */

#ifndef ON_LIBCRYPTO
CASE(last_error_is_empty_at_first, OURS, "Without a refusal the message is \"\", not NULL")
{
    CHECK_STR(RSASYNC_last_error(), "");
    finish_and_free(new_paused_job(), 6);
    CHECK_STR(RSASYNC_last_error(), "");
    ASYNC_cleanup_thread();
    CHECK_STR(RSASYNC_last_error(), "");
}

CASE(no_jobs_has_a_message_and_no_error, OURS,
     "ASYNC_NO_JOBS has its reason in RSASYNC_last_error, and queues no error")
{
    ASYNC_JOB *job, *second = NULL;
    int ret;

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    job = new_paused_job();
    CHECK_INT(ASYNC_start_job(&second, NULL, &ret, give_5, NULL, 0), ASYNC_NO_JOBS);
    CHECK(RSASYNC_last_error()[0] != '\0');
    check_queue_is_empty();
    finish_and_free(job, 6);
    ASYNC_cleanup_thread();
}

CASE(last_error_is_the_last_one, OURS,
     "A refusal's message stays until the next refusal, whatever calls succeed")
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_refused(INVALID_POOL_SIZE, "ASYNC_init_thread", "init");
    finish_and_free(new_paused_job(), 6);
    CHECK(has_word(RSASYNC_last_error(), "init"));
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
    check_refused(NULL_POINTER, "ASYNC_start_job", "func");
    CHECK(!has_word(RSASYNC_last_error(), "init"));
    ASYNC_cleanup_thread();
}

static void *another_last_error(void *arg)
{
    ASYNC_JOB *job = NULL;
    int ret;

    (void)arg;
    CHECK_STR(RSASYNC_last_error(), "");
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
    check_refused(NULL_POINTER, "ASYNC_start_job", "func");
    return NULL;
}

CASE(last_error_is_per_thread, OURS, "A thread sees its own last message only")
{
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_refused(INVALID_POOL_SIZE, "ASYNC_init_thread", "init");
    on_new_thread(another_last_error, NULL);
    CHECK(has_word(RSASYNC_last_error(), "init"));
    CHECK(!has_word(RSASYNC_last_error(), "func"));
}
#endif
