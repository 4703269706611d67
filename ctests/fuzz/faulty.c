/*
 * faulty.c: a library with a fault, for the test of the fuzzer: blocking a pause has no effect.
 * All other functions are those of the library that it is linked with, rsasync or libcrypto.
 */
#include <openssl/async.h>

void ASYNC_block_pause(void)
{
}
