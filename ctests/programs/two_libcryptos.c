/*
 * two_libcryptos.c: `two_libcryptos FIRST SECOND` loads two libcryptos of different versions, whose
 * symbols no other object sees, the second after jobs have run. Jobs keep their default in both,
 * and errors go to the first.
 */
#include "require.h"
#include <dlfcn.h>
#include <openssl/async.h>
#include <rsasync.h>

enum { JOBS = 12, ROUNDS = 4, POOL_SIZE = 103, ASYNC_LIBRARY = 51 };

/*
 * A libcrypto's functions, the contexts of each job, and the thread's default at first. In 1.1,
 * which has no default context, set_default is NULL.
 */
struct libcrypto {
    unsigned long (*get_error)(void);
    unsigned long (*version)(void);
    void *(*new_ctx)(void);
    void (*free_ctx)(void *ctx);
    void *(*set_default)(void *ctx);
    void *own[JOBS + 1], *thread;
};
static struct libcrypto libcryptos[2];
static int loaded;

static void load(const char *path)
{
    struct libcrypto *it = &libcryptos[loaded++];
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    int i;

    if (handle == NULL)
        fprintf(stderr, "%s\n", dlerror());
    REQUIRE(handle != NULL);
    *(void **)&it->get_error = dlsym(handle, "ERR_get_error");
    *(void **)&it->version = dlsym(handle, "OpenSSL_version_num");
    *(void **)&it->new_ctx = dlsym(handle, "OSSL_LIB_CTX_new");
    *(void **)&it->free_ctx = dlsym(handle, "OSSL_LIB_CTX_free");
    *(void **)&it->set_default = dlsym(handle, "OSSL_LIB_CTX_set0_default");
    REQUIRE(it->get_error != NULL && it->version != NULL);
    REQUIRE((it->set_default != NULL) == (it->version() >= 0x30000000));
    if (it->set_default == NULL)
        return;
    it->thread = it->set_default(NULL);
    for (i = 0; i <= JOBS; i++) {
        it->own[i] = it->new_ctx();
        REQUIRE(it->own[i] != NULL);
    }
}

/* Each libcrypto has the default of this job, or, for -1, the one that the thread had at first. */
static void check_defaults(int number)
{
    int i;

    for (i = 0; i < loaded; i++)
        if (libcryptos[i].set_default != NULL)
            REQUIRE(libcryptos[i].set_default(NULL)
                    == (number < 0 ? libcryptos[i].thread : libcryptos[i].own[number]));
}

/* Sets it, by the same rule. */
static void set_defaults(int number)
{
    int i;

    for (i = 0; i < loaded; i++)
        if (libcryptos[i].set_default != NULL)
            libcryptos[i].set_default(number < 0 ? libcryptos[i].thread
                                                 : libcryptos[i].own[number]);
}

/* The error is on the first libcrypto's queue, in the coding of its version, and on no other. */
static void check_error_goes_to_the_first(void)
{
    unsigned long code;
    int i;

    REQUIRE(ASYNC_init_thread(1, 2) == 0);
    code = libcryptos[0].get_error();
    if (libcryptos[0].version() < 0x30000000) {
        REQUIRE(code == (51UL << 24 | 101UL << 12 | POOL_SIZE));
    } else {
        REQUIRE((code >> 23 & 0xff) == ASYNC_LIBRARY);
        REQUIRE((code & 0x7fffff) == POOL_SIZE);
    }
    for (i = 0; i < loaded; i++)
        REQUIRE(libcryptos[i].get_error() == 0);
}

static int keep_defaults(void *arg)
{
    int number = *(int *)arg, i;

    set_defaults(number);
    for (i = 1; i < ROUNDS; i++) {
        REQUIRE(ASYNC_pause_job() == 1);
        check_defaults(number);
    }
    return number;
}

/* A job function: starts a job, and pauses after each of its pauses. */
static int nest(void *arg)
{
    int outer = *(int *)arg, inner = outer - 1, ret = -1, i;
    ASYNC_JOB *job = NULL;

    set_defaults(outer);
    for (i = 0; i < ROUNDS; i++) {
        REQUIRE(ASYNC_start_job(&job, NULL, &ret, keep_defaults, &inner, sizeof inner)
                == (i < ROUNDS - 1 ? ASYNC_PAUSE : ASYNC_FINISH));
        check_defaults(outer);
        REQUIRE(ASYNC_pause_job() == 1);
        check_defaults(outer);
    }
    REQUIRE(ret == inner);
    return outer;
}

/* Many jobs, resumed in changing order; every second one starts a job itself. */
static void run_jobs(void)
{
    ASYNC_JOB *job[JOBS] = { NULL };
    int left = JOBS, round, i, ret;

    for (round = 0; left > 0; round++)
        for (i = 0; i < JOBS; i++) {
            int number = round % 2 == 0 ? i : JOBS - 1 - i;
            int answer;

            if (round > 0 && job[number] == NULL)
                continue;
            answer = ASYNC_start_job(&job[number], NULL, &ret,
                                     number % 2 == 0 ? keep_defaults : nest, &number,
                                     sizeof number);
            check_defaults(-1);
            REQUIRE(answer == ASYNC_PAUSE || answer == ASYNC_FINISH);
            if (answer == ASYNC_FINISH) {
                REQUIRE(ret == number);
                left--;
            }
        }
    REQUIRE(round == ROUNDS + 1);
}

static int pause_once(void *arg)
{
    (void)arg;
    REQUIRE(ASYNC_pause_job() == 1);
    check_defaults(-1);
    return 6;
}

int main(int argc, char **argv)
{
    ASYNC_JOB *early = NULL;
    int ret, i, j;

    REQUIRE(argc == 3);
    load(argv[1]);
    run_jobs();
    check_error_goes_to_the_first();
    REQUIRE(ASYNC_start_job(&early, NULL, &ret, pause_once, NULL, 0) == ASYNC_PAUSE);
    load(argv[2]);
    run_jobs();
    check_error_goes_to_the_first();
    REQUIRE(ASYNC_start_job(&early, NULL, &ret, NULL, NULL, 0) == ASYNC_FINISH);
    REQUIRE(ret == 6);
    ASYNC_cleanup_thread();
    for (i = 0; i < loaded; i++)
        for (j = 0; j <= JOBS && libcryptos[i].free_ctx != NULL; j++)
            libcryptos[i].free_ctx(libcryptos[i].own[j]);
    return 0;
}
