/*
 * refusals.h: what a refused call leaves on OpenSSL's error queue and in RSASYNC_last_error().
 *
 * Without libcrypto there is no queue, and the checks of it do nothing.
 */
#ifndef REFUSALS_H
#define REFUSALS_H

#include "check.h"
#include <ctype.h>
#ifdef WITH_LIBCRYPTO
# include <openssl/err.h>
#endif

/*
 * The library number of ASYNC, and the reasons, as ERR_GET_LIB and ERR_GET_REASON give them. The
 * last three are ERR_R_MALLOC_FAILURE, ERR_R_SHOULD_NOT_HAVE_BEEN_CALLED and
 * ERR_R_PASSED_NULL_PARAMETER; OpenSSL's names are not there in the way `alone`.
 */
enum { ASYNC_LIBRARY = 51, INVALID_POOL_SIZE = 103 };
#if defined(WITH_LIBCRYPTO) && OPENSSL_VERSION_NUMBER < 0x30000000L
enum { NO_MEMORY = 65, NOT_NOW = 66, NULL_POINTER = 67 };
#else
enum { NO_MEMORY = 786688, NOT_NOW = 786689, NULL_POINTER = 786690 };
#endif

/* Whether the text has the word: "job" is in "job is NULL", not in "ASYNC_start_job". */
__attribute__((unused)) static int has_word(const char *text, const char *word)
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
/*
 * Empties the queue, which holds one error, by ERR_print_errors_fp; returns what that prints:
 * ":error:CODE:LIBRARY:FUNCTION:REASON:FILE:LINE:TEXT\n".
 */
__attribute__((unused)) static const char *print_the_error(void)
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

__attribute__((unused)) static const char *reason_name(int reason)
{
    return reason == INVALID_POOL_SIZE ? "invalid pool size"
        : reason == NO_MEMORY ? "malloc failure"
        : reason == NULL_POINTER ? "passed a null parameter"
                                 : "called a function you should not call";
}

/* What ERR_peek_error gives; before OpenSSL 3.0 the code holds a number for some functions. */
__attribute__((unused)) static unsigned long error_code(int reason, const char *function)
{
# if OPENSSL_VERSION_NUMBER < 0x30000000L
    unsigned long number = strcmp(function, "ASYNC_init_thread") == 0 ? 101
        : strcmp(function, "ASYNC_start_job") == 0                    ? 105
        : strcmp(function, "ASYNC_WAIT_CTX_set_wait_fd") == 0         ? 106
                                                                      : 0;

    return (unsigned long)ASYNC_LIBRARY << 24 | number << 12 | (unsigned long)reason;
# else
    (void)function;
    return (unsigned long)ASYNC_LIBRARY << 23 | (unsigned long)reason;
# endif
}
#endif

/* The queue holds one error of ASYNC, with this reason. Empties the queue. */
__attribute__((unused)) static void check_queue(int reason)
{
#ifdef WITH_LIBCRYPTO
    unsigned long code = ERR_peek_last_error();

    CHECK_INT(ERR_GET_LIB(code), ASYNC_LIBRARY);
    CHECK_INT(ERR_GET_REASON(code), reason);
    CHECK(strstr(print_the_error(), reason_name(reason)) != NULL);
#else
    (void)reason;
#endif
}

__attribute__((unused)) static void check_queue_is_empty(void)
{
#ifdef WITH_LIBCRYPTO
    CHECK_INT(ERR_peek_error(), 0);
#endif
}

/*
 * The call before, of this function, was refused for this reason: the queue holds one error, with
 * its code and a text that has the word, as has RSASYNC_last_error(). Empties the queue.
 */
__attribute__((unused))
static void check_refused(int reason, const char *function, const char *word)
{
#ifdef WITH_LIBCRYPTO
    unsigned long code = error_code(reason, function);
    const char *data = NULL, *printed;
    char text[256], line[512];
    int flags = 0;

    CHECK_INT(ERR_peek_error(), code);
    CHECK_INT(ERR_peek_last_error(), code);
# if OPENSSL_VERSION_NUMBER < 0x30000000L
    CHECK_INT(ERR_peek_last_error_line_data(NULL, NULL, &data, &flags), code);
    /* In place of a function without a number the library's name is printed again. */
    if (ERR_GET_FUNC(code) == 0)
        function = "ASYNC routines";
# else
    CHECK_INT(ERR_peek_last_error_all(NULL, NULL, NULL, &data, &flags), code);
# endif
    CHECK((flags & ERR_TXT_STRING) != 0);
    CHECK(has_word(data, word));
    /* Printing an error takes it off the queue, and frees its text. */
    snprintf(text, sizeof text, "%s", data);
    printed = print_the_error();
    snprintf(line, sizeof line, ":error:%08lX:ASYNC routines:%s:%s:rsasync:0:%s\n", code,
             function, reason_name(reason), text);
    CHECK_STR(printed, line);
#else
    (void)reason;
    (void)function;
#endif
#ifndef ON_LIBCRYPTO
    CHECK(has_word(RSASYNC_last_error(), word));
#endif
}
#endif
