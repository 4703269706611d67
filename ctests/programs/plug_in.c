/*
 * plug_in.c: a shared object that calls functions of the program when it is loaded and unloaded.
 * With FAKE_LIBCRYPTO it is a fake libcrypto, which counts the errors that it gets and has a
 * default library context. With RESOLVER it calls a function of the program when it is relocated.
 */
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#pragma weak plug_in_is_loaded
#pragma weak plug_in_is_unloaded
void plug_in_is_loaded(void);
void plug_in_is_unloaded(void);

__attribute__((constructor)) static void load(void)
{
    if (plug_in_is_loaded != NULL)
        plug_in_is_loaded();
}

__attribute__((destructor)) static void unload(void)
{
    if (plug_in_is_unloaded != NULL)
        plug_in_is_unloaded();
}

#ifdef FAKE_LIBCRYPTO
int fake_errors;
static int global;
static _Thread_local void *current;

int ASYNC_start_job(void)
{
    return 0;
}

void ERR_new(void)
{
    __atomic_add_fetch(&fake_errors, 1, __ATOMIC_RELAXED);
}

void ERR_set_debug(const char *file, int line, const char *func)
{
    (void)file;
    (void)line;
    (void)func;
}

void ERR_set_error(int lib, int reason, const char *format, ...)
{
    (void)lib;
    (void)reason;
    (void)format;
}

void *OSSL_LIB_CTX_get0_global_default(void)
{
    return &global;
}

void *OSSL_LIB_CTX_set0_default(void *ctx)
{
    void *before = current != NULL ? current : &global;

    if (ctx != NULL)
        current = ctx;
    return before;
}

unsigned long OpenSSL_version_num(void)
{
    return 0x30000000;
}

int OPENSSL_init_crypto(uint64_t what, const void *settings)
{
    (void)what;
    (void)settings;
    return 1;
}

int OPENSSL_atexit(void (*handler)(void))
{
    (void)handler;
    return 1;
}
#endif

#ifdef RESOLVER
void plug_in_is_relocated(void);

static void do_nothing(void)
{
}

/* Called by the loader, after the other references of this object are bound. */
static void (*resolve(void))(void)
{
    plug_in_is_relocated();
    return do_nothing;
}

static void resolved(void) __attribute__((ifunc("resolve")));
void (*plug_in_function)(void) = resolved;
#endif
