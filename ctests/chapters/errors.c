/* errors.c: what a refused call says and where, that it changed nothing, and OPENSSL_cleanup. */
#include "check.h"
#include <ctype.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#ifdef WITH_LIBCRYPTO
# include <openssl/crypto.h>
# include <openssl/err.h>
#endif

/*
 * The reasons, as ERR_GET_REASON gives them, and the errors as ERR_print_errors_fp shows them:
 * "THREAD:error:CODE:LIBRARY:FUNCTION:REASON:FILE:LINE:TEXT".
 */
enum { LIBRARY = 51, POOL_SIZE = 103 };
#if defined(WITH_LIBCRYPTO) && OPENSSL_VERSION_NUMBER < 0x30000000L
enum { NO_MEMORY = 65, NOT_NOW = 66, NULL_POINTER = 67 };
#else
enum { NO_MEMORY = 786688, NOT_NOW = 786689, NULL_POINTER = 786690 };
#endif

/* Whether text has the word: "job" is in "job is NULL", not in "ASYNC_start_job". */
static int names(const char *text, const char *word)
{
    size_t len = strlen(word);
    const char *at;

    for (at = text; (at = strstr(at, word)) != NULL; at++)
        if ((at == text || (!isalnum((unsigned char)at[-1]) && at[-1] != '_'))
            && !isalnum((unsigned char)at[len]))
            return 1;
    return 0;
}

#ifdef WITH_LIBCRYPTO
/* What ERR_print_errors_fp prints, which empties the queue: one error, from its code on. */
static const char *print_the_error(void)
{
    static char printed[1024];
    FILE *file = fmemopen(printed, sizeof printed, "w");
    char *error;

    CHECK(file != NULL);
    ERR_print_errors_fp(file);
    CHECK_INT(fclose(file), 0);
    CHECK_INT(ERR_peek_error(), 0);
    error = strstr(printed, ":error:");
    CHECK(error != NULL);
    CHECK(strchr(error, '\n') != NULL && strchr(error, '\n')[1] == '\0');
    return error;
}

static const char *name_of(int reason)
{
    return reason == POOL_SIZE ? "invalid pool size"
        : reason == NO_MEMORY ? "malloc failure"
        : reason == NULL_POINTER ? "passed a null parameter"
                                 : "called a function you should not call";
}

/* What ERR_peek_error gives; the libcryptos before 3.0 have numbers for some functions. */
static unsigned long code_of(int reason, const char *function)
{
# if OPENSSL_VERSION_NUMBER < 0x30000000L
    unsigned long number = strcmp(function, "ASYNC_init_thread") == 0 ? 101
        : strcmp(function, "ASYNC_start_job") == 0                    ? 105
        : strcmp(function, "ASYNC_WAIT_CTX_set_wait_fd") == 0         ? 106
                                                                      : 0;

    return (unsigned long)LIBRARY << 24 | number << 12 | (unsigned long)reason;
# else
    (void)function;
    return (unsigned long)LIBRARY << 23 | (unsigned long)reason;
# endif
}

/* The queue holds one error, this one, and ERR_print_errors_fp shows it. Empties the queue. */
static void check_queue(int reason)
{
    unsigned long code = ERR_peek_last_error();

    CHECK_INT(ERR_GET_LIB(code), LIBRARY);
    CHECK_INT(ERR_GET_REASON(code), reason);
    CHECK(strstr(print_the_error(), name_of(reason)) != NULL);
}

static void check_queue_is_empty(void)
{
    CHECK_INT(ERR_peek_error(), 0);
}
#else
static void check_queue(int reason)
{
    (void)reason;
}

static void check_queue_is_empty(void)
{
}
#endif

/*
 * The call before, of this function, was refused: one error for this reason, with its code and
 * a text that has the word.
 */
static void check_refused(int reason, const char *function, const char *word)
{
#ifdef WITH_LIBCRYPTO
    unsigned long code = code_of(reason, function);
    const char *data = NULL, *printed;
    char text[256], line[512];
    int flags = 0;

    CHECK_INT(ERR_peek_error(), code);
    CHECK_INT(ERR_peek_last_error(), code);
# if OPENSSL_VERSION_NUMBER < 0x30000000L
    CHECK_INT(ERR_peek_last_error_line_data(NULL, NULL, &data, &flags), code);
    /* Where there is no function's number the library's name is printed again. */
    if (ERR_GET_FUNC(code) == 0)
        function = "ASYNC routines";
# else
    CHECK_INT(ERR_peek_last_error_all(NULL, NULL, NULL, &data, &flags), code);
# endif
    CHECK((flags & ERR_TXT_STRING) != 0);
    CHECK(names(data, word));
    /* Printing an error takes it off the queue, and its text with it. */
    snprintf(text, sizeof text, "%s", data);
    printed = print_the_error();
    snprintf(line, sizeof line, ":error:%08lX:ASYNC routines:%s:%s:rsasync:0:%s\n", code,
             function, name_of(reason), text);
    CHECK_STR(printed, line);
#else
    (void)reason;
    (void)function;
#endif
#ifndef ON_LIBCRYPTO
    CHECK(names(RSASYNC_last_error(), word));
#endif
}

static int runs; /* how often a job's function was entered */

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

/* A job that is paused for the first time; its context is for finish to free. */
static ASYNC_JOB *paused_job(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = 77;

    CHECK(ctx != NULL);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, pause_give_6, NULL, 0), ASYNC_PAUSE);
    CHECK_INT(ret, 77);
    return job;
}

/* The job can still be resumed, and ends as if nothing had been. */
static void finish(ASYNC_JOB *job)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(job);
    int ret = 77;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 6);
    CHECK(job == NULL);
    ASYNC_WAIT_CTX_free(ctx);
}

/* The pool gives exactly one job: what was refused took none and gave none back twice. */
static void check_pool_of_one(void)
{
    ASYNC_JOB *job = paused_job(), *second = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&second, NULL, &ret, give_5, NULL, 0), ASYNC_NO_JOBS);
    CHECK(second == NULL);
    finish(job);
    ASYNC_cleanup_thread();
}

static void in_a_thread(void *(*f)(void *), void *arg)
{
    pthread_t thread;

    CHECK_INT(pthread_create(&thread, NULL, f, arg), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
}

/* ---- the reasons ---- */

CASE(init_above_max_is_invalid_pool_size, EVERYWHERE,
     "ASYNC_init_thread(2, 3) is 0, for the reason INVALID_POOL_SIZE")
{
    CHECK_INT(ASYNC_init_thread(2, 3), 0);
    check_queue(POOL_SIZE);
}

CASE(init_with_max_0_is_invalid_pool_size, EVERYWHERE,
     "max 0 is no limit for starting, but init jobs are above it")
{
    CHECK_INT(ASYNC_init_thread(0, 1), 0);
    check_queue(POOL_SIZE);
}

#ifdef WITH_LIBCRYPTO
CASE(the_error_names_the_function, EVERYWHERE | NEEDS_LIBCRYPTO,
     "the queued error has the name of the function that refused")
{
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(ERR_peek_error(), code_of(POOL_SIZE, "ASYNC_init_thread"));
    CHECK(strstr(print_the_error(), ":ASYNC_init_thread:") != NULL);
}
#endif

/* libcrypto queues no text of its own. */
CASE(init_above_max_says_which_argument, OURS,
     "the text for INVALID_POOL_SIZE names the init size")
{
    CHECK_INT(ASYNC_init_thread(2, 3), 0);
    check_refused(POOL_SIZE, "ASYNC_init_thread", "init");
}

CASE(a_refused_init_keeps_the_pool_in_place, EVERYWHERE,
     "a refused ASYNC_init_thread leaves the thread's limit as it was")
{
    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    CHECK_INT(ASYNC_init_thread(5, 6), 0);
    check_queue(POOL_SIZE);
    check_pool_of_one();
}

/* libcrypto dereferences the pointer. */
CASE(start_without_a_handle_is_refused, OURS, "&job NULL: ASYNC_ERR, and nothing runs")
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
CASE(start_without_ret_is_refused, OURS, "&ret NULL: ASYNC_ERR, and nothing runs")
{
    ASYNC_JOB *job = NULL;

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    CHECK_INT(ASYNC_start_job(&job, NULL, NULL, give_5, NULL, 0), ASYNC_ERR);
    check_refused(NULL_POINTER, "ASYNC_start_job", "ret");
    CHECK(job == NULL);
    CHECK_INT(runs, 0);
    check_pool_of_one();
}

/* libcrypto calls it. */
CASE(start_without_func_is_refused, OURS, "func NULL at a start: ASYNC_ERR, nothing changed")
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

/* As above: libcrypto writes through the pointer. */
CASE(resume_without_ret_is_refused, OURS, "&ret NULL at a resume: ASYNC_ERR, the job stays paused")
{
    ASYNC_JOB *job = paused_job(), *same = job;

    CHECK_INT(ASYNC_start_job(&job, NULL, NULL, NULL, NULL, 0), ASYNC_ERR);
    check_refused(NULL_POINTER, "ASYNC_start_job", "ret");
    CHECK(job == same);
    CHECK_INT(runs, 1);
    finish(job);
    ASYNC_cleanup_thread();
}

CASE(resume_needs_no_func, EVERYWHERE, "func NULL at a resume is no error: it is not looked at")
{
    finish(paused_job());
    check_queue_is_empty();
    ASYNC_cleanup_thread();
}

/* valgrind counts sizes above PTRDIFF_MAX as errors of the program. */
CASE(args_that_cannot_be_copied_are_refused, UNTIL_3_2 | NOT_ON_VALGRIND,
     "no memory for the copy of args: ASYNC_ERR and MALLOC_FAILURE, for sizes that overflow too")
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

/* libcrypto queues no text of its own. */
CASE(args_that_cannot_be_copied_are_named, OURS, "the text for MALLOC_FAILURE names args")
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

/* Takes all memory there is below the address-space limit; the list is given back by the caller. */
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

/* The memory of valgrind and of ThreadSanitizer would be limited with the program's. */
CASE(no_memory_for_an_entry_is_refused, UNTIL_3_2 | NOT_ON_VALGRIND | NOT_ON_TSAN,
     "set_wait_fd without memory is 0 and MALLOC_FAILURE, and the entries made before stand")
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    struct block *taken, *next;
    struct rlimit limit, none;
    size_t made = 0, count = 77;
    int answer;

    CHECK(ctx != NULL);
    /* Each thread's first error takes memory that libcrypto then keeps. */
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_queue(POOL_SIZE);
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
    CHECK(!names(RSASYNC_last_error(), "init"));
#endif
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(ctx, NULL, &count), 1);
    CHECK_INT(count, made);
    ASYNC_WAIT_CTX_free(ctx);
}

static void *resume_elsewhere(void *arg)
{
    ASYNC_JOB *job = arg;
    int ret = 77;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
    check_refused(NOT_NOW, "ASYNC_start_job", "thread");
    CHECK(job == arg);
    CHECK_INT(ret, 77);
    return NULL;
}

/* libcrypto runs the job on the wrong thread's state. */
CASE(resume_on_another_thread_is_refused, OURS,
     "resuming a job of another thread is ASYNC_ERR there, on that thread's queue alone")
{
    ASYNC_JOB *job = paused_job();

    in_a_thread(resume_elsewhere, job);
    check_queue_is_empty();
    CHECK_INT(runs, 1);
    finish(job);
    ASYNC_cleanup_thread();
}

static int resume_myself(void *arg)
{
    ASYNC_JOB *me = ASYNC_get_current_job(), *handle = me;
    int ret = 77;

    (void)arg;
    runs++;
    CHECK_INT(ASYNC_start_job(&handle, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
    check_refused(NOT_NOW, "ASYNC_start_job", "job");
    CHECK(handle == me);
    CHECK_INT(ret, 77);
    CHECK(ASYNC_get_current_job() == me);
    CHECK_INT(ASYNC_pause_job(), 1);
    return 6;
}

/* libcrypto frees the job it stands on. */
CASE(resume_of_the_running_job_is_refused, OURS,
     "a job that resumes itself gets ASYNC_ERR, and can pause and finish as before")
{
    ASYNC_JOB *job = NULL;
    int ret = 77;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, resume_myself, NULL, 0), ASYNC_PAUSE);
    finish(job);
    CHECK_INT(runs, 1);
    ASYNC_cleanup_thread();
}

static int resume_ancestors(void *arg)
{
    ASYNC_JOB *me = ASYNC_get_current_job();
    int i;

    for (i = 0; i < 2; i++) {
        ASYNC_JOB *ancestor = ((ASYNC_JOB **)arg)[i], *handle = ancestor;
        int ret = 77;

        CHECK(ancestor != NULL && ancestor != me);
        CHECK_INT(ASYNC_start_job(&handle, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
        check_refused(NOT_NOW, "ASYNC_start_job", "job");
        CHECK(handle == ancestor);
        CHECK_INT(ret, 77);
        CHECK(ASYNC_get_current_job() == me);
    }
    CHECK_INT(ASYNC_pause_job(), 1);
    return 6;
}

/* The last of three jobs in each other; arg has the handles of the first two. */
static int nest(void *arg)
{
    ASYNC_JOB **line = *(ASYNC_JOB ***)arg, *me = ASYNC_get_current_job(), *inner = NULL;
    int second = line[0] != NULL, ret = 77;

    line[second] = me;
    if (second)
        CHECK_INT(ASYNC_start_job(&inner, NULL, &ret, resume_ancestors, line, 2 * sizeof *line),
                  ASYNC_PAUSE);
    else
        CHECK_INT(ASYNC_start_job(&inner, NULL, &ret, nest, arg, sizeof line), ASYNC_PAUSE);
    CHECK(ASYNC_get_current_job() == me);
    finish(inner);
    CHECK(ASYNC_get_current_job() == me);
    CHECK_INT(ASYNC_pause_job(), 1);
    return 6;
}

/* In libcrypto a job that starts another corrupts the thread's state. */
CASE(resume_of_an_ancestor_is_refused, OURS,
     "a job inside jobs cannot resume those it runs in, and all of them end as before")
{
    ASYNC_JOB *line[2] = { NULL, NULL }, **args = line, *job = NULL;
    int ret = 77;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, nest, &args, sizeof args), ASYNC_PAUSE);
    CHECK(line[0] == job && line[1] != NULL);
    finish(job);
    CHECK(ASYNC_get_current_job() == NULL);
    check_queue_is_empty();
    ASYNC_cleanup_thread();
}

/* libcrypto gives such a job out a second time. */
CASE(resume_of_a_finished_job_is_refused, OURS,
     "the stale handle of a job that lies idle in the pool is refused, and the pool is whole")
{
    ASYNC_JOB *job, *stale;
    int ret = 77;

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    job = stale = paused_job();
    finish(job);
    CHECK_INT(ASYNC_start_job(&stale, NULL, &ret, give_5, NULL, 0), ASYNC_ERR);
    check_refused(NOT_NOW, "ASYNC_start_job", "job");
    CHECK(stale == job);
    CHECK_INT(ret, 77);
    CHECK_INT(runs, 1);
    check_pool_of_one();
}

/* libcrypto loses the place of a job each time. */
CASE(a_refused_start_costs_no_job, OURS, "a limit of one is still one after many refusals")
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
     "a wait context NULL is 0 from every call that takes one, and outputs are untouched")
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
     "the one call that libcrypto refuses without a context, it refuses without an error")
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
     "an output that may not be NULL: 0, and the other outputs are untouched")
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
    /* The context is whole. */
    CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, ctx, &added, &data), 1);
    CHECK_INT(added, 3);
    CHECK(data == ctx);
    CHECK_INT(ASYNC_WAIT_CTX_get_callback(ctx, &callback, &data), 1);
    CHECK(callback == give_5 && data == ctx);
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(finding_nothing_is_no_error, SINCE_3_0,
     "0 for a key or a callback that is not there leaves the queue empty")
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

/* ---- what leaves the queue untouched ---- */

#ifdef WITH_LIBCRYPTO
/* One of each call, none refused; job and context are made, used and freed. */
static void call_everything(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL, *second = NULL;
    OSSL_ASYNC_FD fd;
    size_t count, deleted;
    ASYNC_callback_fn callback;
    void *data;
    int ret;

    CHECK_INT(ASYNC_is_capable(), 1);
    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    CHECK_INT(ASYNC_pause_job(), 1);
    ASYNC_block_pause();
    ASYNC_unblock_pause();
    CHECK(ASYNC_get_current_job() == NULL);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, ctx, 3, NULL, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_fd(ctx, ctx, &fd, &data), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_all_fds(ctx, NULL, &count), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_changed_fds(ctx, NULL, &count, NULL, &deleted), 1);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, ctx), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_callback(ctx, give_5, NULL), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_callback(ctx, &callback, &data), 1);
    CHECK_INT(ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_OK), 1);
    CHECK_INT(ASYNC_WAIT_CTX_get_status(ctx), ASYNC_STATUS_OK);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, pause_give_6, &fd, sizeof fd), ASYNC_PAUSE);
    CHECK(ASYNC_get_wait_ctx(job) == ctx);
    CHECK_INT(ASYNC_start_job(&second, NULL, &ret, give_5, NULL, 0), ASYNC_NO_JOBS);
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, NULL, NULL, 0), ASYNC_FINISH);
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(ctx);
}

CASE(what_succeeds_queues_nothing, SINCE_3_0 | NEEDS_LIBCRYPTO,
     "no call that succeeds, and no ASYNC_NO_JOBS, adds an error")
{
    call_everything();
    CHECK_INT(ERR_peek_error(), 0);
}

CASE(what_succeeds_takes_no_error_away, SINCE_3_0 | NEEDS_LIBCRYPTO,
     "an error of somebody else stays on the queue, alone, whatever succeeds meanwhile")
{
    ERR_put_error(ERR_LIB_USER, 0, 123, "here", 1);
    call_everything();
    CHECK_INT(ERR_GET_LIB(ERR_peek_last_error()), ERR_LIB_USER);
    CHECK_INT(ERR_GET_REASON(ERR_get_error()), 123);
    CHECK_INT(ERR_peek_error(), 0);
}

CASE(a_refusal_keeps_the_errors_before_it, EVERYWHERE | NEEDS_LIBCRYPTO,
     "a refused call adds its error behind those that were there")
{
    ERR_put_error(ERR_LIB_USER, 0, 123, "here", 1);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(ERR_GET_REASON(ERR_get_error()), 123);
    check_queue(POOL_SIZE);
}

static int refused_then_pause(void *arg)
{
    (void)arg;
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(ASYNC_pause_job(), 1);
    /* The caller has emptied the queue meanwhile: it is the thread's, not the job's. */
    CHECK_INT(ERR_peek_error(), 0);
    return 6;
}

CASE(the_queue_is_the_threads, EVERYWHERE | NEEDS_LIBCRYPTO,
     "an error queued inside a job is there for the caller when the job has paused")
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, ASYNC_WAIT_CTX_new(), &ret, refused_then_pause, NULL, 0),
              ASYNC_PAUSE);
    check_queue(POOL_SIZE);
    finish(job);
    ASYNC_cleanup_thread();
}

/* In libcrypto it empties the pool, and the limit is gone with it. */
CASE(openssl_thread_stop_leaves_the_pool, OURS | NEEDS_LIBCRYPTO,
     "OPENSSL_thread_stop does not touch the thread's jobs, its limit or its way to the queue")
{
    ASYNC_JOB *job, *second = NULL;
    int ret;

    CHECK_INT(ASYNC_init_thread(1, 1), 1);
    job = paused_job();
    OPENSSL_thread_stop();
    CHECK_INT(ASYNC_start_job(&second, NULL, &ret, give_5, NULL, 0), ASYNC_NO_JOBS);
    CHECK_INT(ERR_peek_error(), 0);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_refused(POOL_SIZE, "ASYNC_init_thread", "init");
    finish(job);
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
     "a job whose own start is refused, or finds no job, goes on as before")
{
    ASYNC_JOB *job = NULL;
    int ret = 77;

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, start_inside, NULL, 0), ASYNC_PAUSE);
    finish(job);
    CHECK_INT(runs, 0);
    check_pool_of_one();
}

/* ---- RSASYNC_last_error ---- */

#ifndef ON_LIBCRYPTO
CASE(last_error_is_empty_at_first, OURS, "without a refusal the message is \"\", never NULL")
{
    CHECK_STR(RSASYNC_last_error(), "");
    finish(paused_job());
    CHECK_STR(RSASYNC_last_error(), "");
    ASYNC_cleanup_thread();
    CHECK_STR(RSASYNC_last_error(), "");
}

CASE(no_jobs_has_a_message_and_no_error, OURS,
     "ASYNC_NO_JOBS gives its reason in RSASYNC_last_error, where the queue has none")
{
    ASYNC_JOB *job, *second = NULL;
    int ret;

    CHECK_INT(ASYNC_init_thread(1, 0), 1);
    job = paused_job();
    CHECK_INT(ASYNC_start_job(&second, NULL, &ret, give_5, NULL, 0), ASYNC_NO_JOBS);
    CHECK(RSASYNC_last_error()[0] != '\0');
    check_queue_is_empty();
    finish(job);
    ASYNC_cleanup_thread();
}

CASE(last_error_is_the_last_one, OURS,
     "a refusal's message stands over calls that succeed, until the next refusal's")
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_refused(POOL_SIZE, "ASYNC_init_thread", "init");
    finish(paused_job());
    CHECK(names(RSASYNC_last_error(), "init"));
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
    check_refused(NULL_POINTER, "ASYNC_start_job", "func");
    CHECK(!names(RSASYNC_last_error(), "init"));
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

CASE(last_error_is_per_thread, OURS, "a thread sees its own last message, and no other's")
{
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_refused(POOL_SIZE, "ASYNC_init_thread", "init");
    in_a_thread(another_last_error, NULL);
    CHECK(names(RSASYNC_last_error(), "init"));
    CHECK(!names(RSASYNC_last_error(), "func"));
}
#endif

/* ---- OPENSSL_cleanup ---- */

#ifdef WITH_LIBCRYPTO
/*
 * In OpenSSL 4 OPENSSL_cleanup only leaves a mark: libcrypto goes on, and is ended by its own
 * destructor, after those of the program and of all that needs it.
 */
# if OPENSSL_VERSION_NUMBER < 0x40000000L
static const int cleanup_is_at_once = 1;
# else
static const int cleanup_is_at_once = 0;
# endif

/*
 * Ends libcrypto, then takes the pthread keys it gave back, with values that may not
 * be followed: who still reads a key of libcrypto's faults, who writes one is found out.
 */
static pthread_key_t taken_keys[512];
static void *poison;

static void take_keys(void)
{
    size_t i;

    poison = mmap(NULL, 1 << 16, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(poison != MAP_FAILED);
    for (i = 0; i < sizeof taken_keys / sizeof *taken_keys; i++) {
        CHECK_INT(pthread_key_create(&taken_keys[i], NULL), 0);
        CHECK_INT(pthread_setspecific(taken_keys[i], poison), 0);
    }
}

static void end_libcrypto(void)
{
    /* Nothing is cleaned up in a libcrypto that was never used. */
    CHECK_INT(OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CRYPTO_STRINGS, NULL), 1);
    OPENSSL_cleanup();
    take_keys();
}

static void check_taken_keys(void)
{
    size_t i;

    for (i = 0; i < sizeof taken_keys / sizeof *taken_keys; i++)
        CHECK(pthread_getspecific(taken_keys[i]) == poison);
}

/* The call before was refused; the error was queued, unless libcrypto has ended. */
static void check_refused_without(int ended, int reason, const char *function, const char *word)
{
    if (!ended) {
        check_refused(reason, function, word);
        return;
    }
# ifndef ON_LIBCRYPTO
    CHECK(names(RSASYNC_last_error(), word));
# endif
    CHECK_INT(ERR_peek_error(), 0);
}

/* All calls work and refuse as ever, only that no error is queued if libcrypto has ended. */
static void check_all_works(int ended)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = 77;

    CHECK(ctx != NULL);
    call_everything();
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_refused_without(ended, POOL_SIZE, "ASYNC_init_thread", "init");
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, NULL, NULL, 0), ASYNC_ERR);
    check_refused_without(ended, NULL_POINTER, "ASYNC_start_job", "func");
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, pause_give_6, NULL, 0), ASYNC_PAUSE);
    finish(job);
    ASYNC_cleanup_thread();
}

static void *check_all_works_in_thread(void *arg)
{
    (void)arg;
    check_all_works(cleanup_is_at_once);
    return NULL;
}

/* In libcrypto every start is ASYNC_ERR from then on. */
CASE(all_works_after_openssl_cleanup, OURS | NEEDS_LIBCRYPTO,
     "after OPENSSL_cleanup jobs start, pause, resume and finish, in this thread and in new ones")
{
    call_everything();
    end_libcrypto();
    check_all_works(cleanup_is_at_once);
    check_taken_keys();
    in_a_thread(check_all_works_in_thread, NULL);
}

/* As above. */
CASE(openssl_cleanup_before_the_first_call, OURS | NEEDS_LIBCRYPTO,
     "a program that has cleaned libcrypto up before its first job can have jobs")
{
    end_libcrypto();
    check_all_works(cleanup_is_at_once);
    check_taken_keys();
    in_a_thread(check_all_works_in_thread, NULL);
}

# if OPENSSL_VERSION_NUMBER >= 0x30000000L
static int pause_with_own_default(void *arg)
{
    OSSL_LIB_CTX *own = *(OSSL_LIB_CTX **)arg;

    CHECK(OSSL_LIB_CTX_set0_default(own) != NULL);
    CHECK_INT(ASYNC_pause_job(), 1);
    /* Nobody has tried to give the job its default back. */
    check_taken_keys();
    CHECK_INT(ASYNC_pause_job(), 1);
    return 6;
}

/* As above. */
CASE(jobs_paused_across_openssl_cleanup, OURS | NEEDS_LIBCRYPTO,
     "a job paused before OPENSSL_cleanup, with a default context of its own, can be finished")
{
    OSSL_LIB_CTX *own = OSSL_LIB_CTX_new();
    ASYNC_JOB *plain = paused_job(), *job = NULL, *same;
    int ret = 77;

    CHECK(own != NULL);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, pause_with_own_default, &own, sizeof own),
              ASYNC_PAUSE);
    same = job;
    OSSL_LIB_CTX_free(own);
    end_libcrypto();
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_PAUSE);
    CHECK(job == same);
    check_taken_keys();
    finish(job);
    finish(plain);
    ASYNC_cleanup_thread();
    check_taken_keys();
}
# endif

static int cleanup_inside(void *arg)
{
    (void)arg;
    end_libcrypto();
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_refused_without(cleanup_is_at_once, POOL_SIZE, "ASYNC_init_thread", "init");
    CHECK_INT(ASYNC_pause_job(), 1);
    return 6;
}

/* As above. */
CASE(openssl_cleanup_inside_a_job, OURS | NEEDS_LIBCRYPTO,
     "a job that calls OPENSSL_cleanup itself goes on, pauses and finishes")
{
    ASYNC_JOB *job = NULL;
    int ret = 77;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, cleanup_inside, NULL, 0), ASYNC_PAUSE);
    finish(job);
    check_taken_keys();
    check_all_works(cleanup_is_at_once);
}

static pthread_barrier_t step;

static void *live_across_cleanup(void *arg)
{
    ASYNC_JOB *job = paused_job();

    (void)arg;
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    finish(job);
    /* The pool is left for the thread's end. */
    return NULL;
}

/* As above. */
CASE(threads_that_end_after_openssl_cleanup, OURS | NEEDS_LIBCRYPTO,
     "a thread with jobs from before OPENSSL_cleanup finishes them and ends")
{
    pthread_t thread;

    CHECK_INT(pthread_barrier_init(&step, NULL, 2), 0);
    CHECK_INT(pthread_create(&thread, NULL, live_across_cleanup, NULL), 0);
    pthread_barrier_wait(&step);
    end_libcrypto();
    pthread_barrier_wait(&step);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_INT(pthread_barrier_destroy(&step), 0);
    check_all_works(cleanup_is_at_once);
    check_taken_keys();
}

/*
 * stdio's last flush comes after all destructors, libcrypto's too: this writer is the last code
 * of the program, and sees what a destructor sees that runs later than libcrypto's.
 */
static int to_the_parent[2];

static ssize_t work_at_the_very_end(void *job, const char *text, size_t size)
{
    (void)text;
    take_keys();
    check_all_works(1);
    finish(job);
    check_taken_keys();
    CHECK(write(to_the_parent[1], "worked", 6) == 6);
    return (ssize_t)size;
}

static void write_at_the_very_end(void)
{
    cookie_io_functions_t functions = { NULL, work_at_the_very_end, NULL, NULL };
    FILE *last;

    call_everything();
    last = fopencookie(paused_job(), "w", functions);
    CHECK(last != NULL && fputs("something", last) > 0);
    OPENSSL_cleanup();
    exit(0);
}

/* As above. */
CASE(all_works_when_libcrypto_has_run_its_destructor, OURS | NEEDS_LIBCRYPTO,
     "a program that has called OPENSSL_cleanup may use jobs to its very end")
{
    char said[8] = "";

    CHECK_INT(pipe(to_the_parent), 0);
    CHECK_INT(check_child(write_at_the_very_end, 0), 0);
    CHECK_INT(close(to_the_parent[1]), 0);
    CHECK_INT(read(to_the_parent[0], said, sizeof said), 6);
    CHECK_STR(said, "worked");
}
#endif
