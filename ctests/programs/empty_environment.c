/*
 * empty_environment.c: linked into a program, empties its environment before main, and overwrites
 * what was in it, as nginx does in its workers to set their title.
 */
#define _GNU_SOURCE
#include <string.h>
#include <unistd.h>

__attribute__((constructor)) static void empty_environment(void)
{
    for (char **variable = environ; *variable != NULL; variable++)
        memset(*variable, 'x', strlen(*variable));
    environ = NULL;
}
