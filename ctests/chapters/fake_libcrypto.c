/*
 * fake_libcrypto.c: a libcrypto that is none, in the program itself: it sees which calls are made into
 * it, and when. It is of a version that nobody knows yet, or keeps its default in a strange way.
 * (What it has of 1.1 is in fake_libcrypto_1_1.c.)
 */
#include "check.h"
#include <pthread.h>

#ifndef WITH_LIBCRYPTO
static unsigned long version = 5UL << 28;
static int calls, global, mine, theirs;
static int lib, reason, marked, texts;
static const char *function;
static void (*end)(void);

/* Two places: which of them is the default, nobody can tell from outside. */
static pthread_key_t places[2];
static int has_places;

void ERR_new(void)
{
    calls++;
}

void ERR_set_debug(const char *file, int line, const char *func)
{
    (void)file;
    (void)line;
    function = func;
    calls++;
}

void ERR_set_error(int l, int r, const char *format, ...)
{
    (void)format;
    lib = l;
    reason = r;
    calls++;
}

int ERR_set_mark(void)
{
    marked++;
    return 1;
}

/* Where there is no memory for the text, this queues another error, unless that can be undone. */
void ERR_add_error_data(int count, ...)
{
    CHECK_INT(count, 1);
    CHECK_INT(marked, 1);
    texts++;
}

int ERR_pop_to_mark(void)
{
    marked--;
    return 1;
}

void *OSSL_LIB_CTX_get0_global_default(void)
{
    calls++;
    return &global;
}

static void *current(void)
{
    void *set;

    if (!has_places) {
        has_places = 1;
        CHECK_INT(pthread_key_create(&places[0], NULL), 0);
        CHECK_INT(pthread_key_create(&places[1], NULL), 0);
    }
    set = pthread_getspecific(places[1]);
    return set != NULL ? set : &global;
}

void *OSSL_LIB_CTX_set0_default(void *ctx)
{
    void *before = current(), *stored = ctx == &global ? NULL : ctx;

    calls++;
    /* A version that nobody knows may look into what it gets. */
    if (version >> 28 > 4)
        CHECK(ctx == NULL || ctx == &global || ctx == &mine || ctx == &theirs);
    if (ctx != NULL) {
        CHECK_INT(pthread_setspecific(places[0], stored), 0);
        CHECK_INT(pthread_setspecific(places[1], stored), 0);
    }
    return before;
}

unsigned long OpenSSL_version_num(void)
{
    calls++;
    return version;
}

int OPENSSL_init_crypto(uint64_t what, const void *settings)
{
    (void)settings;
    CHECK_INT(what, 0x100);
    calls++;
    return 1;
}

int OPENSSL_atexit(void (*handler)(void))
{
    end = handler;
    calls++;
    return 1;
}

static int sets_its_default(void *arg)
{
    (void)arg;
    OSSL_LIB_CTX_set0_default(&theirs);
    /* As the imitation itself would, by a way of its own. */
    CHECK_INT(pthread_setspecific(places[1], &mine), 0);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current() == &mine);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK(current() == &mine);
    return 6;
}

static void carry_a_default(void)
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, sets_its_default, NULL, 0), ASYNC_PAUSE);
    CHECK(current() == &global);
    OSSL_LIB_CTX_set0_default(&theirs);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_PAUSE);
    CHECK(current() == &theirs);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 6);
    CHECK(current() == &theirs);
    ASYNC_cleanup_thread();
}

CASE(a_libcrypto_of_the_program_gets_errors, OURS,
     "what the program itself has of a libcrypto is found: it is initialised, and gets errors")
{
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(lib, 51);
    CHECK_INT(reason, 103);
    CHECK_STR(function, "ASYNC_init_thread");
    CHECK_INT(texts, 1);
    CHECK_INT(marked, 0);
}

CASE(a_later_version_gets_nothing_to_look_into, OURS,
     "the default of a version that is not known is carried by the public function, which gets "
     "no context but the program's own")
{
    carry_a_default();
}

CASE(a_default_in_two_places_is_asked_for, OURS,
     "where it can't be told which pthread key holds the default, the public function is asked")
{
    version = 3UL << 28;
    carry_a_default();
}

CASE(no_call_is_made_after_the_end, OURS,
     "once OPENSSL_cleanup has said so, no call goes into that libcrypto, whatever is refused")
{
    ASYNC_JOB *job = NULL, *stale;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, sets_its_default, NULL, 0), ASYNC_PAUSE);
    CHECK(end != NULL);
    end();
    calls = 0;
    pthread_setspecific(places[1], &mine);
    CHECK_INT(ASYNC_init_thread(1, 2), 0);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_PAUSE);
    stale = job;
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, NULL, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ASYNC_start_job(&stale, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
    CHECK_INT(ASYNC_start_job(NULL, NULL, &ret, NULL, NULL, 0), ASYNC_ERR);
    ASYNC_cleanup_thread();
    CHECK_INT(calls, 0);
}
#endif
