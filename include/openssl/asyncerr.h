/* Reasons of errors of library ASYNC, number 51.
 *
 * Made by cbindgen from src/error.rs; see `make headers`. */

#ifndef OPENSSL_ASYNCERR_H
#define OPENSSL_ASYNCERR_H

/**
 * The thread's pool could not be set up. Not used by rsasync.
 */
#define ASYNC_R_FAILED_TO_SET_POOL 101

/**
 * The switch to another stack failed. Not used by rsasync.
 */
#define ASYNC_R_FAILED_TO_SWAP_CONTEXT 102

/**
 * More jobs were to be made at once than are allowed.
 */
#define ASYNC_R_INVALID_POOL_SIZE 103

/**
 * The library could not be set up. Not used by rsasync.
 */
#define ASYNC_R_INIT_FAILED 105

#endif  /* OPENSSL_ASYNCERR_H */
