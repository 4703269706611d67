// A provider whose RSA and EC signatures pause the job. The work is that of a default provider in a
// library context of its own: this provider hands out its functions, and its context as the one
// that they get, with those in their place that pause first.

#include "pause.h"

#include <string.h>

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/params.h>
#include <openssl/provider.h>

static const char PROPERTIES[] = "provider=accelerator";

enum { MOST_FUNCTIONS = 64 };

// One of the two signatures: the default provider's functions, and ours.
struct signature {
    const char *name;
    OSSL_FUNC_signature_sign_fn *sign;
    OSSL_FUNC_signature_digest_sign_fn *digest_sign;
    OSSL_FUNC_signature_digest_sign_final_fn *digest_sign_final;
    OSSL_DISPATCH functions[MOST_FUNCTIONS];
};

static struct signature rsa = {.name = "RSA"}, ecdsa = {.name = "ECDSA"};
static OSSL_LIB_CTX *libctx;
static OSSL_PROVIDER *standard;
static OSSL_ALGORITHM keys[3], signatures[3]; // two, and the end

#define PAUSING(KIND)                                                                              \
    static int KIND##_sign(void *ctx, unsigned char *sig, size_t *size, size_t most,               \
                           const unsigned char *tbs, size_t tbs_size) {                            \
        if (sig != NULL)                                                                           \
            pause_until_completion();                                                              \
        return KIND.sign(ctx, sig, size, most, tbs, tbs_size);                                     \
    }                                                                                              \
    static int KIND##_digest_sign(void *ctx, unsigned char *sig, size_t *size, size_t most,        \
                                  const unsigned char *tbs, size_t tbs_size) {                     \
        if (sig != NULL)                                                                           \
            pause_until_completion();                                                              \
        return KIND.digest_sign(ctx, sig, size, most, tbs, tbs_size);                              \
    }                                                                                              \
    static int KIND##_digest_sign_final(void *ctx, unsigned char *sig, size_t *size,               \
                                        size_t most) {                                             \
        if (sig != NULL)                                                                           \
            pause_until_completion();                                                              \
        return KIND.digest_sign_final(ctx, sig, size, most);                                       \
    }

PAUSING(rsa)
PAUSING(ecdsa)

// Copies the default provider's functions, and puts those that pause in their place.
#define REPLACE(KIND)                                                                              \
    static int replace_##KIND(const OSSL_DISPATCH *of_default) {                                   \
        int count = 0;                                                                             \
        for (; of_default[count].function_id != 0; count++) {                                      \
            if (count == MOST_FUNCTIONS - 1)                                                       \
                return 0;                                                                          \
            OSSL_DISPATCH *it = &KIND.functions[count];                                            \
            *it = of_default[count];                                                               \
            switch (it->function_id) {                                                             \
            case OSSL_FUNC_SIGNATURE_SIGN:                                                         \
                KIND.sign = OSSL_FUNC_signature_sign(it);                                          \
                it->function = (void (*)(void))KIND##_sign;                                        \
                break;                                                                             \
            case OSSL_FUNC_SIGNATURE_DIGEST_SIGN:                                                  \
                KIND.digest_sign = OSSL_FUNC_signature_digest_sign(it);                            \
                it->function = (void (*)(void))KIND##_digest_sign;                                 \
                break;                                                                             \
            case OSSL_FUNC_SIGNATURE_DIGEST_SIGN_FINAL:                                            \
                KIND.digest_sign_final = OSSL_FUNC_signature_digest_sign_final(it);                \
                it->function = (void (*)(void))KIND##_digest_sign_final;                           \
                break;                                                                             \
            }                                                                                      \
        }                                                                                          \
        return 1;                                                                                  \
    }

REPLACE(rsa)
REPLACE(ecdsa)

// The algorithm of this first name ("RSA" in "RSA:rsaEncryption:1.2.840.113549.1.1.1").
static const OSSL_ALGORITHM *find(int operation, const char *name) {
    int unused;
    const OSSL_ALGORITHM *it = OSSL_PROVIDER_query_operation(standard, operation, &unused);
    size_t size = strlen(name);
    for (; it != NULL && it->algorithm_names != NULL; it++)
        if (strncmp(it->algorithm_names, name, size) == 0
            && strchr(":", it->algorithm_names[size]) != NULL)
            return it;
    return NULL;
}

static int take_over(void) {
    const OSSL_ALGORITHM *of_keys[] = {find(OSSL_OP_KEYMGMT, "RSA"),
                                       find(OSSL_OP_KEYMGMT, "EC")};
    const OSSL_ALGORITHM *of_signatures[] = {find(OSSL_OP_SIGNATURE, rsa.name),
                                             find(OSSL_OP_SIGNATURE, ecdsa.name)};
    for (int i = 0; i < 2; i++) {
        if (of_keys[i] == NULL || of_signatures[i] == NULL)
            return 0;
        keys[i] = *of_keys[i];
        signatures[i] = *of_signatures[i];
        keys[i].property_definition = signatures[i].property_definition = PROPERTIES;
    }
    if (!replace_rsa(of_signatures[0]->implementation)
        || !replace_ecdsa(of_signatures[1]->implementation))
        return 0;
    signatures[0].implementation = rsa.functions;
    signatures[1].implementation = ecdsa.functions;
    return 1;
}

static const OSSL_ALGORITHM *query(void *context, int operation, int *no_cache) {
    (void)context;
    *no_cache = 0;
    switch (operation) {
    case OSSL_OP_KEYMGMT:
        return keys;
    case OSSL_OP_SIGNATURE:
        return signatures;
    default:
        return NULL;
    }
}

// libssl takes a group from the provider only that has the keys for it.
static int capabilities(void *context, const char *of, OSSL_CALLBACK *tell, void *arg) {
    (void)context;
    return strcmp(of, "TLS-GROUP") != 0 || OSSL_PROVIDER_get_capabilities(standard, of, tell, arg);
}

static void teardown(void *context) {
    (void)context;
    OSSL_LIB_CTX_free(libctx);
}

static const OSSL_DISPATCH FUNCTIONS[] = {
    {OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))query},
    {OSSL_FUNC_PROVIDER_GET_CAPABILITIES, (void (*)(void))capabilities},
    {OSSL_FUNC_PROVIDER_TEARDOWN, (void (*)(void))teardown},
    {0, NULL},
};

OSSL_provider_init_fn OSSL_provider_init;

int OSSL_provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *core,
                       const OSSL_DISPATCH **functions, void **context) {
    (void)handle, (void)core;
    libctx = OSSL_LIB_CTX_new();
    standard = libctx ? OSSL_PROVIDER_load(libctx, "default") : NULL;
    if (standard == NULL || !take_over()) {
        OSSL_LIB_CTX_free(libctx);
        return 0;
    }
    *functions = FUNCTIONS;
    *context = OSSL_PROVIDER_get0_provider_ctx(standard);
    return 1;
}
