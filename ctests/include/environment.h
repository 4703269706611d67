/*
 * environment.h: cases that need a variable in the environment from the start, as the library reads
 * it when it is loaded.
 */
#ifndef ENVIRONMENT_H
#define ENVIRONMENT_H

#include "check.h"

/* Names the variable by which a case knows that it runs again. */
#define RUNS_AGAIN "CHECK_RUNS_AGAIN"

/* What the case passed to run_again(), in the process that that started; NULL in the first one. */
__attribute__((unused)) static const char *runs_again_with(void)
{
    return getenv(RUNS_AGAIN);
}

/*
 * Becomes this program anew, with its first two arguments. An emulator's words, which CHECK_EMULATOR
 * has, come before, as the kernel does not know this program's processor.
 */
__attribute__((unused)) static void run_this_program(const char *name)
{
    char words[256], program[4096], preload[4096], *argv[32], *word;
    const char *emulator = getenv("CHECK_EMULATOR"), *preloaded = getenv("LD_PRELOAD");
    int n = 0;

    if (emulator == NULL) {
        execl("/proc/self/exe", name, name, (char *)NULL);
        return;
    }
    snprintf(words, sizeof words, "%s", emulator);
    for (word = strtok(words, " "); word != NULL && n < 16; word = strtok(NULL, " "))
        argv[n++] = word;
    if (preloaded != NULL) { /* not into the emulator */
        snprintf(preload, sizeof preload, "LD_PRELOAD=%s", preloaded);
        unsetenv("LD_PRELOAD");
        argv[n++] = "-E";
        argv[n++] = preload;
    }
    memset(program, 0, sizeof program);
    CHECK(readlink("/proc/self/exe", program, sizeof program - 1) > 0);
    argv[n++] = "-0";
    argv[n++] = (char *)name;
    argv[n++] = program;
    argv[n++] = (char *)name;
    argv[n] = NULL;
    execvp(argv[0], argv);
}

/*
 * Runs the case in a new process, which has variable=value in its environment (without the variable,
 * if value is NULL) and finds `with` in runs_again_with(). message gets what it prints on stderr
 * after its promise. Returns its status, as waitpid() gives it. Valgrind does not follow into that
 * process.
 */
__attribute__((unused))
static int status_with(const char *name, const char *variable, const char *value, const char *with,
                       char *message, size_t capacity)
{
    size_t length = 0;
    ssize_t more;
    int out[2], status;
    char *printed;
    pid_t pid;

    CHECK_INT(pipe(out), 0);
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        if (value != NULL)
            setenv(variable, value, 1);
        else
            unsetenv(variable);
        setenv(RUNS_AGAIN, with, 1);
        dup2(out[1], 2);
        close(out[0]);
        close(out[1]);
        run_this_program(name);
        _exit(127);
    }
    CHECK(pid > 0);
    CHECK_INT(close(out[1]), 0);
    while ((more = read(out[0], message + length, capacity - 1 - length)) > 0)
        length += (size_t)more;
    CHECK_INT(more, 0);
    message[length] = '\0';
    CHECK_INT(close(out[0]), 0);
    CHECK(waitpid(pid, &status, 0) == pid);
    /* The promise is one line. */
    printed = strchr(message, '\n');
    CHECK(printed != NULL);
    memmove(message, printed + 1, strlen(printed));
    return status;
}

/* The same with RSASYNC_STACK_SIZE=size; the process has to succeed. */
__attribute__((unused)) static void run_again(const char *name, const char *size, const char *with,
                                              char *message, size_t capacity)
{
    int status = status_with(name, "RSASYNC_STACK_SIZE", size, with, message, capacity);

    if (status != 0)
        fprintf(stderr, "with RSASYNC_STACK_SIZE=%s: %s", size != NULL ? size : "", message);
    CHECK_INT(status, 0);
}

/* The same for a case that prints nothing. */
__attribute__((unused))
static void run_again_silently(const char *name, const char *size, const char *with)
{
    char message[4096];

    run_again(name, size, with, message, sizeof message);
    CHECK_STR(message, "");
}

/* Runs the case again with variable=value; it has to succeed, and to print nothing. */
__attribute__((unused))
static void run_again_with(const char *name, const char *variable, const char *value)
{
    char message[4096];
    int status = status_with(name, variable, value, "", message, sizeof message);

    if (status != 0)
        fprintf(stderr, "with %s=%s: %s", variable, value, message);
    CHECK_INT(status, 0);
    CHECK_STR(message, "");
}

/* Calls f in a new process that has variable=value in its environment from the start. */
__attribute__((unused))
static void call_with(const char *name, const char *variable, const char *value, void (*f)(void))
{
    if (runs_again_with() != NULL)
        f();
    else
        run_again_with(name, variable, value);
}
#endif
