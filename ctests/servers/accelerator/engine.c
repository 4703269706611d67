// An engine whose random numbers pause the job: a server needs some in each handshake.

#define OPENSSL_SUPPRESS_DEPRECATED

#include "pause.h"

#include <openssl/engine.h>
#include <openssl/rand.h>

static int bytes(unsigned char *to, int count) {
    pause_until_completion();
    return RAND_OpenSSL()->bytes(to, count);
}

static int status(void) { return RAND_OpenSSL()->status(); }

static const RAND_METHOD METHOD = {.bytes = bytes, .pseudorand = bytes, .status = status};

static int bind(ENGINE *engine, const char *id) {
    (void)id;
    return ENGINE_set_id(engine, "accelerator") && ENGINE_set_name(engine, "random numbers, slowly")
           && ENGINE_set_RAND(engine, &METHOD);
}

IMPLEMENT_DYNAMIC_CHECK_FN()
IMPLEMENT_DYNAMIC_BIND_FN(bind)
