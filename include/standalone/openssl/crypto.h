/*
 * For programs that use jobs and nothing else of OpenSSL: the memory functions that OpenSSL's
 * header of this name has, as those of the C library. Only such programs have this directory
 * on their include path.
 */
#ifndef OPENSSL_CRYPTO_H
#define OPENSSL_CRYPTO_H

#include <stdlib.h>
#include <string.h>

#define OPENSSL_malloc(num) malloc(num)
#define OPENSSL_zalloc(num) calloc(1, num)
#define OPENSSL_realloc(addr, num) realloc(addr, num)
#define OPENSSL_free(addr) free(addr)
#define OPENSSL_strdup(str) strdup(str)

#endif
