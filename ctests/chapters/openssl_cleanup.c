/*
 * openssl_cleanup.c: jobs after OPENSSL_cleanup (src/openssl/libcrypto.rs), when no call may go
 * into libcrypto any more, and no pthread key of libcrypto may be used.
 *
 * Every case is OURS: after OPENSSL_cleanup each start is ASYNC_ERR in libcrypto.
 */
#include "check.h"
#ifdef WITH_LIBCRYPTO
# include "every_call.h"
# include "refusals.h"
# include <openssl/crypto.h>
# include <sys/mman.h>

/*
 * In OpenSSL 4 OPENSSL_cleanup only sets a flag. libcrypto's own destructor cleans up, after the
 * destructors of the program and of all libraries that depend on it.
 */
# if OPENSSL_VERSION_NUMBER < 0x40000000L
static const int cleanup_ends_libcrypto = 1;
# else
static const int cleanup_ends_libcrypto = 0;
# endif

/* Keys that this program has created, and the value of each. */
enum { MOST_KEYS = 512 };
static pthread_key_t taken_keys[MOST_KEYS];
static size_t n_taken, n_given_back;
static void *poison;

/*
 * Creates so many keys that those of libcrypto are among them, if it has freed them. Their value is
 * an address that must not be read: code that still uses a key of libcrypto faults, and code that
 * still sets one is found by check_taken_keys().
 */
static void take_keys(void)
{
    poison = mmap(NULL, 1 << 16, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(poison != MAP_FAILED);
    while (n_taken < MOST_KEYS && pthread_key_create(&taken_keys[n_taken], NULL) == 0)
        CHECK_INT(pthread_setspecific(taken_keys[n_taken++], poison), 0);
#ifdef __GLIBC__
    CHECK_INT(n_taken, MOST_KEYS);
#endif
    CHECK(n_taken > 100);
    /* musl has 128, of which those come first that nobody has had; libcrypto may want some. */
    while (n_taken < MOST_KEYS && n_given_back < 16)
        CHECK_INT(pthread_key_delete(taken_keys[n_given_back++]), 0);
}

static void clean_up_libcrypto(void)
{
    /* OPENSSL_cleanup does nothing in a libcrypto that has not been initialised. */
    CHECK_INT(OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CRYPTO_STRINGS, NULL), 1);
    OPENSSL_cleanup();
    take_keys();
}

static void check_taken_keys(void)
{
    size_t i;

    for (i = n_given_back; i < n_taken; i++)
        CHECK(pthread_getspecific(taken_keys[i]) == poison);
}

/* As check_refused(); but no error is queued if libcrypto has ended. */
static void check_refused_after(int ended, int reason, const char *function, const char *word)
{
    if (!ended) {
        check_refused(reason, function, word);
        return;
    }
# ifndef ON_LIBCRYPTO
    CHECK(has_word(RSASYNC_last_error(), word));
# endif
    CHECK_INT(ERR_peek_error(), 0);
}

/* All calls succeed or are refused as ever, but no error is queued if libcrypto has ended. */
static void check_all_works(int ended)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret = 77;

    CHECK(ctx != NULL);
    make_every_call();
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_refused_after(ended, INVALID_POOL_SIZE, "ASYNC_init_thread", "init");
    CHECK_INT(ASYNC_start_job(&job, ctx, &ret, NULL, NULL, 0), ASYNC_ERR);
    check_refused_after(ended, NULL_POINTER, "ASYNC_start_job", "func");
    CHECK_INT(start_pausing_job(&job, ctx, &ret, 1, 6), ASYNC_PAUSE);
    finish_and_free(job, 6);
    ASYNC_cleanup_thread();
}

static void *check_all_works_on_thread(void *arg)
{
    (void)arg;
    check_all_works(cleanup_ends_libcrypto);
    return NULL;
}

CASE(all_works_after_openssl_cleanup, OURS | NEEDS_LIBCRYPTO,
     "After OPENSSL_cleanup jobs start, pause, resume and finish, on this thread and on new ones")
{
    make_every_call();
    clean_up_libcrypto();
    check_all_works(cleanup_ends_libcrypto);
    check_taken_keys();
    on_new_thread(check_all_works_on_thread, NULL);
}

CASE(openssl_cleanup_before_the_first_call, OURS | NEEDS_LIBCRYPTO,
     "A program that calls OPENSSL_cleanup before its first job can have jobs")
{
    clean_up_libcrypto();
    check_all_works(cleanup_ends_libcrypto);
    check_taken_keys();
    on_new_thread(check_all_works_on_thread, NULL);
}

# if OPENSSL_VERSION_NUMBER >= 0x30000000L
static int pause_with_own_default(void *arg)
{
    OSSL_LIB_CTX *own = *(OSSL_LIB_CTX **)arg;

    CHECK(OSSL_LIB_CTX_set0_default(own) != NULL);
    CHECK_INT(ASYNC_pause_job(), 1);
    /* The resume has not tried to set the job's default context again, which uses a key. */
    check_taken_keys();
    CHECK_INT(ASYNC_pause_job(), 1);
    return 6;
}

CASE(jobs_paused_across_openssl_cleanup, OURS | NEEDS_LIBCRYPTO,
     "A job paused before OPENSSL_cleanup, with a default context of its own, can be finished")
{
    OSSL_LIB_CTX *own = OSSL_LIB_CTX_new();
    ASYNC_JOB *plain = paused_job(ASYNC_WAIT_CTX_new(), 1, 6), *job = NULL, *same;
    int ret = 77;

    CHECK(own != NULL);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, pause_with_own_default, &own, sizeof own),
              ASYNC_PAUSE);
    same = job;
    OSSL_LIB_CTX_free(own);
    clean_up_libcrypto();
    CHECK_INT(resume(&job, &ret), ASYNC_PAUSE);
    CHECK(job == same);
    check_taken_keys();
    finish_and_free(job, 6);
    finish_and_free(plain, 6);
    ASYNC_cleanup_thread();
    check_taken_keys();
}
# endif

static int clean_up_and_pause(void *arg)
{
    (void)arg;
    clean_up_libcrypto();
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    check_refused_after(cleanup_ends_libcrypto, INVALID_POOL_SIZE, "ASYNC_init_thread", "init");
    CHECK_INT(ASYNC_pause_job(), 1);
    return 6;
}

CASE(openssl_cleanup_inside_a_job, OURS | NEEDS_LIBCRYPTO,
     "A job that calls OPENSSL_cleanup itself goes on, pauses and finishes")
{
    ASYNC_JOB *job = NULL;
    int ret = 77;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, clean_up_and_pause, NULL, 0), ASYNC_PAUSE);
    finish_and_free(job, 6);
    check_taken_keys();
    check_all_works(cleanup_ends_libcrypto);
}

static pthread_barrier_t step;

static void *live_across_cleanup(void *arg)
{
    ASYNC_JOB *job = paused_job(ASYNC_WAIT_CTX_new(), 1, 6);

    (void)arg;
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    finish_and_free(job, 6);
    /* Without ASYNC_cleanup_thread: the end of the thread frees the pool. */
    return NULL;
}

CASE(threads_that_end_after_openssl_cleanup, OURS | NEEDS_LIBCRYPTO,
     "A thread with jobs from before OPENSSL_cleanup finishes them and ends")
{
    pthread_t thread;

    CHECK_INT(pthread_barrier_init(&step, NULL, 2), 0);
    CHECK_INT(pthread_create(&thread, NULL, live_across_cleanup, NULL), 0);
    pthread_barrier_wait(&step);
    clean_up_libcrypto();
    pthread_barrier_wait(&step);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_INT(pthread_barrier_destroy(&step), 0);
    check_all_works(cleanup_ends_libcrypto);
    check_taken_keys();
}

static int to_parent[2]; /* a pipe */

/*
 * The write function of a stream. stdio's last flush comes after all destructors, libcrypto's too,
 * so this is the last code of the program.
 */
static ssize_t work_at_the_very_end(void *job, const char *text, size_t size)
{
    (void)text;
    if (size == 0)
        return 0; /* musl's second call */
    take_keys();
    check_all_works(1);
    finish_and_free(job, 6);
    check_taken_keys();
    CHECK(write(to_parent[1], "worked", 6) == 6);
    return (ssize_t)size;
}

static void write_at_the_very_end(void)
{
    cookie_io_functions_t functions = { NULL, work_at_the_very_end, NULL, NULL };
    FILE *last;

    make_every_call();
    last = fopencookie(paused_job(ASYNC_WAIT_CTX_new(), 1, 6), "w", functions);
    CHECK(last != NULL && fputs("something", last) >= 0);
    OPENSSL_cleanup();
    exit(0);
}

CASE(all_works_when_libcrypto_has_run_its_destructor, OURS | NEEDS_LIBCRYPTO,
     "A program that has called OPENSSL_cleanup may use jobs to its very end")
{
    char said[8] = "";

    CHECK_INT(pipe(to_parent), 0);
    CHECK_INT(check_child(write_at_the_very_end, 0), 0);
    CHECK_INT(close(to_parent[1]), 0);
    CHECK_INT(read(to_parent[0], said, sizeof said), 6);
    CHECK_STR(said, "worked");
}
#endif
