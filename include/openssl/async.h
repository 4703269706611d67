/* OpenSSL's asynchronous jobs, as rsasync has them. It may follow OpenSSL's own header.
 *
 * Made by cbindgen from src/c_types.rs and src/capi/async_h.rs; see `make headers`. */

#ifndef OPENSSL_ASYNC_H
#define OPENSSL_ASYNC_H

#define HEADER_ASYNC_H

#include <stdlib.h>
#include <openssl/asyncerr.h>

/** A file descriptor to wait for. */
#define OSSL_ASYNC_FD int

/** What is no such descriptor. */
#define OSSL_BAD_ASYNC_FD -1

/**
 * ASYNC_start_job() was refused; the reason is on the error queue.
 */
#define ASYNC_ERR 0

/**
 * ASYNC_start_job() got no job; try again later.
 */
#define ASYNC_NO_JOBS 1

/**
 * The job paused; resume it later.
 */
#define ASYNC_PAUSE 2

/**
 * The job finished.
 */
#define ASYNC_FINISH 3

/**
 * The engine has no callbacks.
 */
#define ASYNC_STATUS_UNSUPPORTED 0

/**
 * The engine failed to submit the job's request.
 */
#define ASYNC_STATUS_ERR 1

/**
 * The engine has submitted the job's request.
 */
#define ASYNC_STATUS_OK 2

/**
 * The engine is busy; resume the job later, so that it submits again.
 */
#define ASYNC_STATUS_EAGAIN 3

/**
 * A job, known by a pointer that is a handle: compare it, keep it, but don't read through it.
 * ASYNC_start_job() gives it. It stays the same from the job's start to its end and is stale from
 * then on: ASYNC_get_wait_ctx() gives NULL, and ASYNC_start_job() refuses it. Its value comes back
 * after some four million jobs on the same stack.
 */
struct async_job_st;

/**
 * A wait context; see ASYNC_WAIT_CTX_new().
 */
struct async_wait_ctx_st;

typedef struct async_job_st ASYNC_JOB;

typedef struct async_wait_ctx_st ASYNC_WAIT_CTX;

/**
 * Gives memory for a job's stack: takes the number of bytes wanted in `*num`, leaves there the
 * number given. NULL if there is none. Since OpenSSL 3.2.
 */
typedef void *(*ASYNC_stack_alloc_fn)(size_t *num);

/**
 * Takes such memory back. Since OpenSSL 3.2.
 */
typedef void (*ASYNC_stack_free_fn)(void *addr);

/**
 * What an engine calls, instead of making a file descriptor readable, to tell that a job may
 * be resumed: called with the argument given to ASYNC_WAIT_CTX_set_callback(). Since OpenSSL
 * 3.0.
 */
typedef int (*ASYNC_callback_fn)(void *arg);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Sets how many jobs the calling thread may have, and makes some of them at once.
 *
 * Idle jobs that the thread had are freed, and the count begins anew at `init_size`. Jobs that are
 * running or paused stay valid, don't count, and join the thread's idle ones when they finish. A
 * thread that never calls this has no limit, and its ASYNC_start_job() makes jobs as it needs them.
 *
 * @param max_size   how many jobs may be made, idle ones included; 0: any number, but `init_size`
 *                   must be 0
 * @param init_size  how many are made now; if memory ends there are fewer, which is no error
 * @return 1, or 0 with nothing changed.
 *         ASYNC_R_INVALID_POOL_SIZE: `init_size` is above `max_size`.
 *
 * Since OpenSSL 1.1.0.
 */
int ASYNC_init_thread(size_t max_size, size_t init_size);

/**
 * Frees the calling thread's idle jobs and forgets its limit. The memory of their stacks goes back to
 * the system, but for that of at most 16 in the process that hold no more than 64 KiB each.
 *
 * Jobs that are paused stay valid, and ASYNC_start_job() may resume them; a running one that calls
 * this goes on. Both become idle when they finish, and need another call. In libcrypto no job of
 * the thread may be paused or running.
 *
 * This is also done when a thread ends. Jobs still paused then can never be resumed; their stacks
 * stay, as something may point into them.
 *
 * Since OpenSSL 1.1.0.
 */
void ASYNC_cleanup_thread(void);

/**
 * Starts a job, or resumes one that is paused.
 *
 * With `*job` NULL it starts `func` on a stack of its own. With `*job` from a call that returned
 * ASYNC_PAUSE it goes on where that job paused, and ignores `ctx`, `func`, `args` and `size`; only
 * the thread that started a job may resume it. A job may start and resume other jobs. It pauses by
 * ASYNC_pause_job(), unless ASYNC_block_pause() forbids that.
 *
 * @param job   where the handle of a paused job is, or will be put; it belongs to the thread
 * @param ctx   the wait context that the job will find by ASYNC_get_wait_ctx(), or NULL; it
 *              stays the caller's
 * @param ret   where the result of `func` will be put
 * @param func  what the job runs; it gets the copy of `args`, or NULL if there is none
 * @param args  what is copied, aligned to 16 bytes; the copy lives as long as the job. May
 *              be NULL
 * @param size  the size of `args` in bytes; 0: nothing is copied. (With `args` not NULL libcrypto
 *              1.1 and early 3.0 refuse 0.)
 * @return one of these.
 *         ASYNC_FINISH: `func` has returned, `*ret` is its result, `*job` is NULL.
 *         ASYNC_PAUSE: the job paused, `*job` is its handle.
 *         ASYNC_NO_JOBS: the thread's limit, set by ASYNC_init_thread(), is reached, or there is
 *         no memory for a stack; try again when another job has finished. Nothing is on the error
 *         queue, where SSL_get_error(3ssl) would take it for the end of the connection.
 *         ASYNC_ERR: refused, nothing has changed (but there may be an idle job more), an error
 *         is queued.
 *         ERR_R_PASSED_NULL_PARAMETER: `job` or `ret` is NULL, or `*job` and `func` both are.
 *         ERR_R_MALLOC_FAILURE: `args` can't be copied.
 *         ERR_R_SHOULD_NOT_HAVE_BEEN_CALLED: `*job` belongs to another thread, is running, waits
 *         for a job that it started or resumed, or has finished.
 *
 * Since OpenSSL 1.1.0.
 *
 * What the caller must see to:
 * The pointers are valid as described; `*job` is NULL or a handle that ASYNC_start_job() or
 * ASYNC_get_current_job() gave, however long ago.
 */
int ASYNC_start_job(ASYNC_JOB **job,
                    ASYNC_WAIT_CTX *ctx,
                    int *ret,
                    int (*func)(void *args),
                    void *args,
                    size_t size);

/**
 * Pauses the current job: the ASYNC_start_job() that started or resumed it returns
 * ASYNC_PAUSE. It returns once the job has been resumed; ASYNC_WAIT_CTX_get_changed_fds() then
 * lists nothing for the job's wait context until that changes again.
 *
 * Outside a job, and while ASYNC_block_pause() is in force, it returns at once.
 *
 * @return 1
 *
 * Since OpenSSL 1.1.0.
 */
int ASYNC_pause_job(void);

/**
 * Tells the job that runs on the calling thread: the innermost one, if jobs started others. A
 * signal handler may call it.
 *
 * @return the job's handle; NULL outside a job
 *
 * Since OpenSSL 1.1.0.
 */
ASYNC_JOB *ASYNC_get_current_job(void);

/**
 * Tells the wait context that a job was started with. Any thread may ask, and a signal handler.
 *
 * @param job  a handle, or NULL
 * @return the context; NULL if `job` is NULL, if the job was started without a context, or the
 *         context was freed, or the job has finished, whatever else runs in its place by then.
 *         A signal handler must not give that NULL to a function of wait contexts: the refusal
 *         goes to OpenSSL's queue, which allocates.
 *
 * Since OpenSSL 1.1.0.
 *
 * What the caller must see to:
 * `job` is NULL or a handle that ASYNC_start_job() or ASYNC_get_current_job() gave, however long
 * ago.
 */
ASYNC_WAIT_CTX *ASYNC_get_wait_ctx(ASYNC_JOB *job);

/**
 * Keeps the current job from pausing, so that it can hold a lock, until ASYNC_unblock_pause() has
 * been called as often. The calls are counted for each job, and forgotten when it ends. Outside a
 * job it does nothing. Since OpenSSL 1.1.0.
 */
void ASYNC_block_pause(void);

/**
 * Takes back one call of ASYNC_block_pause() for the current job, if there was one. After the last
 * of them ASYNC_pause_job() pauses again. Outside a job it does nothing. Since OpenSSL 1.1.0.
 */
void ASYNC_unblock_pause(void);

/**
 * Tells whether jobs work on this system.
 *
 * @return 1
 *
 * Since OpenSSL 1.1.0.
 */
int ASYNC_is_capable(void);

/**
 * Sets the functions that give and take back memory for stacks, for the whole process.
 *
 * `alloc_fn` is asked for 32,768 bytes, or for RSASYNC_STACK_SIZE where the environment sets that.
 * A job uses as many bytes as it leaves in `*num`, be that more or fewer; with fewer than 2 KiB
 * ASYNC_start_job() returns ASYNC_NO_JOBS. Such stacks have no guard but what the functions give
 * them. Both may be called in any thread, and must not throw.
 *
 * @param alloc_fn  gives memory; NULL keeps the one in place, or takes malloc() if that is the
 *                  default one and `free_fn` is the program's
 * @param free_fn   takes it back; NULL keeps the one in place (the default one hands what is not
 *                  its own to free())
 * @return 1, or 0 after the first stack has been asked for, whether there was one or not; neither
 *         RSASYNC_last_error() nor the error queue tells of that
 *
 * Since OpenSSL 3.2.
 */
int ASYNC_set_mem_functions(ASYNC_stack_alloc_fn alloc_fn, ASYNC_stack_free_fn free_fn);

/**
 * Tells which functions give and take back memory for stacks. The default ones may be called: they
 * give guarded stacks of at least the size asked for, and not less than RSASYNC_STACK_SIZE.
 *
 * @param alloc_fn  where the one that gives memory is put, or NULL
 * @param free_fn   where the one that takes it back is put, or NULL
 *
 * Since OpenSSL 3.2.
 *
 * What the caller must see to:
 * The pointers are NULL or may be written.
 */
void ASYNC_get_mem_functions(ASYNC_stack_alloc_fn *alloc_fn, ASYNC_stack_free_fn *free_fn);

/**
 * Makes a wait context: where a job puts the file descriptors that become readable when it
 * may be resumed. It belongs to the caller, who frees it by ASYNC_WAIT_CTX_free(); it may
 * serve one job after another.
 *
 * Several threads may call the functions of wait contexts on one context at once, but for
 * ASYNC_WAIT_CTX_free().
 *
 * @return the context, or NULL if refused.
 *         ERR_R_MALLOC_FAILURE: there is no memory.
 *
 * Since OpenSSL 1.1.0.
 */
ASYNC_WAIT_CTX *ASYNC_WAIT_CTX_new(void);

/**
 * Frees a wait context, after calling the cleanup routine of each descriptor that was not cleared,
 * the newest first. A routine may call back into the context, but can't add a descriptor. A job
 * that is paused goes on without context.
 *
 * @param ctx  the context, or NULL
 *
 * Since OpenSSL 1.1.0.
 *
 * What the caller must see to:
 * `ctx` is NULL or came from ASYNC_WAIT_CTX_new(); no other call for it is under way.
 */
void ASYNC_WAIT_CTX_free(ASYNC_WAIT_CTX *ctx);

/**
 * Adds a file descriptor to a wait context, in front of its others.
 *
 * @param ctx          the context
 * @param key          by which the owner finds the descriptor again; never read through. If the
 *                     context has another one with this key, ASYNC_WAIT_CTX_get_fd() and
 *                     ASYNC_WAIT_CTX_clear_fd() reach that only after this one is cleared; the
 *                     lists have both
 * @param fd           the descriptor; it stays the caller's
 * @param custom_data  what comes back from ASYNC_WAIT_CTX_get_fd()
 * @param cleanup      called with all of this when the context is freed, but not when the
 *                     descriptor is cleared; or NULL
 * @return 1, or 0 with nothing changed.
 *         ERR_R_PASSED_NULL_PARAMETER: `ctx` is NULL.
 *         ERR_R_MALLOC_FAILURE: there is no memory for another descriptor.
 *         ERR_R_SHOULD_NOT_HAVE_BEEN_CALLED: the context is being freed.
 *
 * Since OpenSSL 1.1.0.
 *
 * What the caller must see to:
 * `ctx` is NULL or a context that has not been freed.
 */
int ASYNC_WAIT_CTX_set_wait_fd(ASYNC_WAIT_CTX *ctx,
                               const void *key,
                               OSSL_ASYNC_FD fd,
                               void *custom_data,
                               void (*cleanup)(ASYNC_WAIT_CTX *ctx,
                                               const void *key,
                                               OSSL_ASYNC_FD fd,
                                               void *custom_data));

/**
 * Finds the newest descriptor of a wait context with a key.
 *
 * @param ctx          the context
 * @param key          the key
 * @param fd           where the descriptor is put
 * @param custom_data  where its data are put, or NULL
 * @return 1; 0 if no descriptor has the key (nothing is put, and it is no error), or if refused.
 *         ERR_R_PASSED_NULL_PARAMETER: `ctx` or `fd` is NULL.
 *
 * Since OpenSSL 1.1.0.
 *
 * What the caller must see to:
 * `ctx` is NULL or a context that has not been freed; `fd` and `custom_data` are NULL or may be
 * written.
 */
int ASYNC_WAIT_CTX_get_fd(ASYNC_WAIT_CTX *ctx,
                          const void *key,
                          OSSL_ASYNC_FD *fd,
                          void **custom_data);

/**
 * Lists the descriptors of a wait context, the newest first.
 *
 * @param ctx     the context
 * @param fd      where they are put, with room for all; NULL: only count them. No other thread may
 *                add one between the counting and this call
 * @param numfds  where their number is put
 * @return 1, or 0 if refused.
 *         ERR_R_PASSED_NULL_PARAMETER: `ctx` or `numfds` is NULL.
 *
 * Since OpenSSL 1.1.0.
 *
 * What the caller must see to:
 * `ctx` is NULL or a context that has not been freed; the others may be written as described.
 */
int ASYNC_WAIT_CTX_get_all_fds(ASYNC_WAIT_CTX *ctx, OSSL_ASYNC_FD *fd, size_t *numfds);

/**
 * Lists which descriptors of a wait context are new or cleared. These are the ones that were added,
 * and those that were cleared, since the context was made or a paused job of it was last resumed;
 * the newest first. One that was added and cleared in between is in neither list.
 *
 * @param ctx        the context
 * @param addfd      where the added ones are put, with room for all; NULL: only count them. No
 *                   other thread may add or clear one between the counting and this call
 * @param numaddfds  where their number is put
 * @param delfd      where the cleared ones are put, with room for all; NULL: only count them
 * @param numdelfds  where their number is put
 * @return 1, or 0 if refused.
 *         ERR_R_PASSED_NULL_PARAMETER: `ctx`, `numaddfds` or `numdelfds` is NULL.
 *
 * Since OpenSSL 1.1.0.
 *
 * What the caller must see to:
 * `ctx` is NULL or a context that has not been freed; the others may be written as described.
 */
int ASYNC_WAIT_CTX_get_changed_fds(ASYNC_WAIT_CTX *ctx,
                                   OSSL_ASYNC_FD *addfd,
                                   size_t *numaddfds,
                                   OSSL_ASYNC_FD *delfd,
                                   size_t *numdelfds);

/**
 * Takes the newest descriptor with a key out of a wait context, without calling its cleanup
 * routine. ASYNC_WAIT_CTX_get_changed_fds() lists it as cleared until a paused job of the context is
 * resumed; but one that was itself added since the last resume just disappears.
 *
 * @param ctx  the context
 * @param key  the key
 * @return 1; 0 if no descriptor has the key (which is no error), or if refused.
 *         ERR_R_PASSED_NULL_PARAMETER: `ctx` is NULL.
 *
 * Since OpenSSL 1.1.0.
 *
 * What the caller must see to:
 * `ctx` is NULL or a context that has not been freed.
 */
int ASYNC_WAIT_CTX_clear_fd(ASYNC_WAIT_CTX *ctx,
                            const void *key);

/**
 * Sets the callback of a wait context. An engine or provider calls it, instead of making a
 * descriptor readable, to tell that the job may be resumed; by ASYNC_WAIT_CTX_set_status() it says
 * whether it will. rsasync itself never calls it. The function should be short and must not block.
 *
 * @param ctx           the context
 * @param callback      the function, or NULL for none
 * @param callback_arg  its argument
 * @return 1, or 0 if `ctx` is NULL; RSASYNC_last_error() tells of that, the error queue does not
 *
 * Since OpenSSL 3.0.
 *
 * What the caller must see to:
 * `ctx` is NULL or a context that has not been freed.
 */
int ASYNC_WAIT_CTX_set_callback(ASYNC_WAIT_CTX *ctx,
                                ASYNC_callback_fn callback,
                                void *callback_arg);

/**
 * Tells the callback of a wait context, and its argument. A signal handler may call it, if no
 * pointer is NULL.
 *
 * @param ctx           the context
 * @param callback      where the function is put
 * @param callback_arg  where its argument is put
 * @return 1; 0 if no callback is set (nothing is put, and it is no error), or if refused.
 *         ERR_R_PASSED_NULL_PARAMETER: `ctx`, `callback` or `callback_arg` is NULL.
 *
 * Since OpenSSL 3.0.
 *
 * What the caller must see to:
 * `ctx` is NULL or a context that has not been freed; `callback` and `callback_arg` are NULL or may
 * be written.
 */
int ASYNC_WAIT_CTX_get_callback(ASYNC_WAIT_CTX *ctx,
                                ASYNC_callback_fn *callback,
                                void **callback_arg);

/**
 * Sets the status of a wait context: what became of the job's request, for whoever resumes the
 * job. A signal handler may call it, with a `ctx` that is not NULL.
 *
 * @param ctx     the context
 * @param status  one of ASYNC_STATUS_..., or any other number
 * @return 1, or 0 if refused.
 *         ERR_R_PASSED_NULL_PARAMETER: `ctx` is NULL.
 *
 * Since OpenSSL 3.0.
 *
 * What the caller must see to:
 * `ctx` is NULL or a context that has not been freed.
 */
int ASYNC_WAIT_CTX_set_status(ASYNC_WAIT_CTX *ctx, int status);

/**
 * Tells the status of a wait context: what became of the job's request. It is
 * ASYNC_STATUS_UNSUPPORTED at first. With any but ASYNC_STATUS_OK the callback of
 * ASYNC_WAIT_CTX_set_callback() is not to be expected. A signal handler may call it, with a `ctx`
 * that is not NULL.
 *
 * @param ctx  the context
 * @return the status, one of ASYNC_STATUS_... or another number that was set; also 0 if refused.
 *         ERR_R_PASSED_NULL_PARAMETER: `ctx` is NULL.
 *
 * Since OpenSSL 3.0.
 *
 * What the caller must see to:
 * `ctx` is NULL or a context that has not been freed.
 */
int ASYNC_WAIT_CTX_get_status(ASYNC_WAIT_CTX *ctx);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* OPENSSL_ASYNC_H */
