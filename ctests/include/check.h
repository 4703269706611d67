/*
 * check.h: what every test program is written with: CASE, CHECK, and the flags of a case.
 *
 * A program in ctests/chapters is a chapter of the contract; a CASE is one promise of it. The
 * runner (harness/chapters.rs) asks the program for its list of cases and runs each one in a
 * process of its own, in each of these ways:
 *
 *   way         built against         linked with             run with
 *   alone       rsasync's header      -lrsasync
 *   linked      rsasync's header      -lrsasync -lcrypto
 *   preloaded   OpenSSL's header      -lcrypto                LD_PRELOAD=librsasync.so
 *   libcrypto   OpenSSL's header      -lcrypto
 *   valgrind    as `alone`, or as `linked` for a case that needs libcrypto; under valgrind
 *   asan        the same, built by clang with AddressSanitizer and UBSan
 *   tsan        the same, built by clang with ThreadSanitizer
 *
 * The way `libcrypto` tests OpenSSL's own implementation: it proves that a case states OpenSSL's
 * contract. Two macros tell the ways apart at compile time: WITH_LIBCRYPTO (all ways that link
 * libcrypto), ON_LIBCRYPTO (OpenSSL's header: `preloaded` and `libcrypto`).
 *
 * The version matrix (tools/matrix.rs) runs the first four ways with other OpenSSL versions too, and
 * tools/platforms.rs runs them on other platforms, as far as these have them.
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
# define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <openssl/async.h>
#ifndef ON_LIBCRYPTO
# include <rsasync.h>
#endif
#ifdef WITH_LIBCRYPTO
# include <openssl/opensslv.h>
#endif

/* In which ways a case is run; the flags may be or-ed. */
enum {
    EVERYWHERE = 0,      /* in all ways */
    OURS = 1,            /* not `libcrypto`, which crashes, leaks or differs here */
    NEEDS_LIBCRYPTO = 2, /* not `alone` */
    /* For what the tool cannot do or replaces by its own; a comment at the case says what. */
    NOT_ON_VALGRIND = 4,
    NOT_ON_ASAN = 8,
    NOT_ON_TSAN = 16,
    /*
     * By qemu-user (7.2). It has no seccomp and no guard markers, ignores limits, locks and most
     * advice, keeps memory of its own, forks badly beside other threads, prints a line at a fault.
     */
    NOT_EMULATED = 32
};

/*
 * SINCE_x: the flag of a case whose functions libcrypto has since OpenSSL x; before that the case
 * is OURS. Programs for an older OpenSSL get these functions as weak declarations, so that they
 * can be linked with its libcrypto, and find them when rsasync is preloaded.
 */
#if defined(ON_LIBCRYPTO) && OPENSSL_VERSION_NUMBER < 0x30000000L
# define SINCE_3_0 OURS
# define ASYNC_STATUS_UNSUPPORTED 0
# define ASYNC_STATUS_ERR 1
# define ASYNC_STATUS_OK 2
# define ASYNC_STATUS_EAGAIN 3
typedef int (*ASYNC_callback_fn)(void *arg);
# pragma weak ASYNC_WAIT_CTX_set_callback
int ASYNC_WAIT_CTX_set_callback(ASYNC_WAIT_CTX *ctx, ASYNC_callback_fn callback, void *arg);
# pragma weak ASYNC_WAIT_CTX_get_callback
int ASYNC_WAIT_CTX_get_callback(ASYNC_WAIT_CTX *ctx, ASYNC_callback_fn *callback, void **arg);
# pragma weak ASYNC_WAIT_CTX_set_status
int ASYNC_WAIT_CTX_set_status(ASYNC_WAIT_CTX *ctx, int status);
# pragma weak ASYNC_WAIT_CTX_get_status
int ASYNC_WAIT_CTX_get_status(ASYNC_WAIT_CTX *ctx);
#else
# define SINCE_3_0 EVERYWHERE
#endif
#if defined(ON_LIBCRYPTO) && OPENSSL_VERSION_NUMBER < 0x30200000L
# define SINCE_3_2 OURS
typedef void *(*ASYNC_stack_alloc_fn)(size_t *num);
typedef void (*ASYNC_stack_free_fn)(void *addr);
# pragma weak ASYNC_set_mem_functions
int ASYNC_set_mem_functions(ASYNC_stack_alloc_fn alloc, ASYNC_stack_free_fn dealloc);
# pragma weak ASYNC_get_mem_functions
void ASYNC_get_mem_functions(ASYNC_stack_alloc_fn *alloc, ASYNC_stack_free_fn *dealloc);
#else
# define SINCE_3_2 EVERYWHERE
#endif
/* The flag of a case that libcrypto fulfils before OpenSSL 3.2, and breaks since. */
#if defined(ON_LIBCRYPTO) && OPENSSL_VERSION_NUMBER >= 0x30200000L
# define UNTIL_3_2 OURS
#else
# define UNTIL_3_2 EVERYWHERE
#endif

struct check_case {
    const char *name, *promise;
    int where;
    void (*run)(void);
    struct check_case *next;
};
static struct check_case *check_cases;

/* CASE(name, where, "the promise, as a sentence") { ... CHECK(...); } */
#define CASE(name_, where_, promise_) \
    static void name_(void); \
    __attribute__((constructor)) static void check_register_##name_(void) \
    { \
        static struct check_case c; \
        c.name = #name_; c.promise = promise_; c.where = where_; c.run = name_; \
        c.next = check_cases; \
        check_cases = &c; \
    } \
    static void name_(void)

/* A check that fails prints its file and line, and ends the process with status 1. */
#define CHECK(cond) \
    do { \
        if (!(cond)) \
            check_fail(__FILE__, __LINE__, #cond); \
    } while (0)

/* The same for two integers; a failure prints both. */
#define CHECK_INT(got, want) \
    do { \
        long long got_ = (long long)(got), want_ = (long long)(want); \
        if (got_ != want_) { \
            fprintf(stderr, "%s is %lld, not %lld\n", #got, got_, want_); \
            check_fail(__FILE__, __LINE__, #got " == " #want); \
        } \
    } while (0)

/* The same for two strings; a failure prints both. */
#define CHECK_STR(got, want) \
    do { \
        const char *got_ = (got), *want_ = (want); \
        if (strcmp(got_, want_) != 0) { \
            fprintf(stderr, "%s is \"%s\", not \"%s\"\n", #got, got_, want_); \
            check_fail(__FILE__, __LINE__, #got " == " #want); \
        } \
    } while (0)

__attribute__((noreturn, unused)) static void check_fail(const char *file, int line, const char *what)
{
    fflush(stdout);
    fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, what);
    fflush(stderr);
    _exit(1);
}

/*
 * Runs f in a child process, `quiet` with its stderr discarded. Returns 0 if the child exits with
 * status 0, the number of the signal that ended it, or minus its exit status.
 */
__attribute__((unused)) static int check_child(void (*f)(void), int quiet)
{
    int status;
    pid_t pid;

    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        if (quiet && freopen("/dev/null", "w", stderr) == NULL)
            _exit(99);
        f();
        _exit(0);
    }
    CHECK(pid > 0);
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
    struct check_case *c;

    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (c = check_cases; c != NULL; c = c->next)
            printf("%s %d\n", c->name, c->where);
        return 0;
    }
    for (c = check_cases; c != NULL; c = c->next) {
        if (argc == 2 && strcmp(argv[1], c->name) == 0) {
            fprintf(stderr, "promise: %s\n", c->promise);
            c->run();
            return 0;
        }
    }
    fprintf(stderr, "usage: %s --list | CASE\n", argv[0]);
    return 2;
}
#endif
