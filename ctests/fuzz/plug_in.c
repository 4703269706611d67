/* plug_in.c: a plug-in that calls the executor when it is loaded and unloaded. */
#include <stdint.h>
#include <stdlib.h>

/* The environment has the function's address. */
static void call_executor(void)
{
    void (*function)(void) = (void (*)(void))(uintptr_t)strtoull(getenv("FUZZ_PLUG_IN"), NULL, 10);

    function();
}

__attribute__((constructor)) static void begin(void)
{
    call_executor();
}

__attribute__((destructor)) static void end(void)
{
    call_executor();
}
