//! The functions of openssl/async.h: pointers in, codes out, and no logic but whose
//! ASYNC_init_thread() a call is meant for.
//!
//! The comments of the functions are those of the header, which cbindgen makes from this file
//! and from c_types.rs. The rules are those of the man pages ASYNC_start_job(3ssl) and
//! ASYNC_WAIT_CTX_new(3ssl).

use std::ffi::{CStr, c_int, c_void};
use std::ptr::{self, NonNull};

use crate::c_types::{
    ASYNC_ERR, ASYNC_FINISH, ASYNC_JOB, ASYNC_NO_JOBS, ASYNC_PAUSE, ASYNC_WAIT_CTX,
    ASYNC_callback_fn, ASYNC_stack_alloc_fn, ASYNC_stack_free_fn, OSSL_ASYNC_FD,
};
use crate::error::{Error, NoJob, last_message, note_no_job, note_refusal};
use crate::job::job::{Args, Handle};
use crate::job::switching::{self, Outcome};
use crate::job::thread::Thread;
use crate::openssl::{error_queue, libcrypto};
use crate::stack::mem_functions;
use crate::sys::probes::probe;
use crate::wait_ctx::wait_ctx::{FdList, WaitCtx};

// ---- threads and their pools ---------------------------------------------------------

/// Goes on in another function, which gets one argument more, the third: where the caller goes on.
#[cfg(target_arch = "x86_64")]
macro_rules! jump_with_return_address {
    ($function:literal) => {
        concat!("mov rdx, [rsp]\njmp {", $function, "}")
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! jump_with_return_address {
    ($function:literal) => {
        concat!("mov x2, x30\nb {", $function, "}")
    };
}

/// Sets how many jobs the calling thread may have, and makes some of them at once.
///
/// Idle jobs that the thread had are freed, and the count begins anew at `init_size`. Jobs that are
/// running or paused stay valid, don't count, and join the thread's idle ones when they finish. A
/// thread that never calls this has no limit, and its ASYNC_start_job() makes jobs as it needs them.
///
/// @param max_size   how many jobs may be made, idle ones included; 0: any number, but `init_size`
///                   must be 0
/// @param init_size  how many are made now; if memory ends there are fewer, which is no error
/// @return 1, or 0 with nothing changed.
///         ASYNC_R_INVALID_POOL_SIZE: `init_size` is above `max_size`.
///
/// Since OpenSSL 1.1.0.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_init_thread(max_size: usize, init_size: usize) -> c_int {
    std::arch::naked_asm!(
        ".cfi_startproc",
        jump_with_return_address!("init_thread"),
        ".cfi_endproc",
        init_thread = sym init_thread,
    )
}

/// A libcrypto's own ASYNC_start_job(), which a program can reach by its handle, calls its own
/// ASYNC_init_thread() and relies on what that does. In some (Debian's) the loader binds that call
/// to this function. They get their own.
extern "C" fn init_thread(max_size: usize, init_size: usize, caller: usize) -> c_int {
    // SAFETY: the caller's code is in use, so it is not unloaded.
    if let Some(theirs) = unsafe { libcrypto::init_thread_of(caller) } {
        // SAFETY: it is the function that the caller has called.
        return unsafe { theirs(max_size, init_size) };
    }
    or_refuse(c"ASYNC_init_thread", 0, || {
        Thread::with_registered(|thread| thread.pool.reset(thread.id(), max_size, init_size))?;
        Ok(1)
    })
}

/// Frees the calling thread's idle jobs and forgets its limit. The memory of their stacks goes back to
/// the system, but for that of at most 16 in the process that hold no more than 64 KiB each.
///
/// Jobs that are paused stay valid, and ASYNC_start_job() may resume them; a running one that calls
/// this goes on. Both become idle when they finish, and need another call. In libcrypto no job of
/// the thread may be paused or running.
///
/// This is also done when a thread ends. Jobs still paused then can never be resumed; their stacks
/// stay, as something may point into them.
///
/// Since OpenSSL 1.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_cleanup_thread() {
    Thread::with(Thread::clean_up);
}

// ---- jobs ----------------------------------------------------------------------------

/// Starts a job, or resumes one that is paused.
///
/// With `*job` NULL it starts `func` on a stack of its own. With `*job` from a call that returned
/// ASYNC_PAUSE it goes on where that job paused, and ignores `ctx`, `func`, `args` and `size`; only
/// the thread that started a job may resume it. A job may start and resume other jobs. It pauses by
/// ASYNC_pause_job(), unless ASYNC_block_pause() forbids that.
///
/// @param job   where the handle of a paused job is, or will be put; it belongs to the thread
/// @param ctx   the wait context that the job will find by ASYNC_get_wait_ctx(), or NULL; it
///              stays the caller's
/// @param ret   where the result of `func` will be put
/// @param func  what the job runs; it gets the copy of `args`, or NULL if there is none
/// @param args  what is copied, aligned to 16 bytes; the copy lives as long as the job. May
///              be NULL
/// @param size  the size of `args` in bytes; 0: nothing is copied. (With `args` not NULL libcrypto
///              1.1 and early 3.0 refuse 0.)
/// @return one of these.
///         ASYNC_FINISH: `func` has returned, `*ret` is its result, `*job` is NULL.
///         ASYNC_PAUSE: the job paused, `*job` is its handle.
///         ASYNC_NO_JOBS: the thread's limit, set by ASYNC_init_thread(), is reached, or there is
///         no memory for a stack; try again when another job has finished. Nothing is on the error
///         queue, where SSL_get_error(3ssl) would take it for the end of the connection.
///         ASYNC_ERR: refused, nothing has changed (but there may be an idle job more), an error
///         is queued.
///         ERR_R_PASSED_NULL_PARAMETER: `job` or `ret` is NULL, or `*job` and `func` both are.
///         ERR_R_MALLOC_FAILURE: `args` can't be copied.
///         ERR_R_SHOULD_NOT_HAVE_BEEN_CALLED: `*job` belongs to another thread, is running, waits
///         for a job that it started or resumed, or has finished.
///
/// Since OpenSSL 1.1.0.
///
/// # Safety
/// The pointers are valid as described; `*job` is NULL or a handle that ASYNC_start_job() or
/// ASYNC_get_current_job() gave, however long ago.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_start_job(
    job: *mut *mut ASYNC_JOB,
    ctx: *mut ASYNC_WAIT_CTX,
    ret: *mut c_int,
    func: Option<unsafe extern "C" fn(args: *mut c_void) -> c_int>,
    args: *mut c_void,
    size: usize,
) -> c_int {
    or_refuse(c"ASYNC_start_job", ASYNC_ERR, || {
        let text = c"job and ret must not be NULL";
        // SAFETY: the caller's promise above.
        let (job, ret) = unsafe { (Output::new(job, text)?, Output::new(ret, text)?) };
        // The program's *job and *ret are not borrowed while the job runs: it may look at them.
        // SAFETY: the caller's promise above.
        let paused = unsafe { Handle::from_ptr(job.get()) };
        let outcome = Thread::with_registered(|thread| match paused {
            Some(handle) => switching::resume(thread, handle),
            None => {
                let text = c"func must not be NULL when *job is NULL";
                let func = func.ok_or(Error::null_argument(text))?;
                // SAFETY: the caller's promise above; the memory of a wait context is never
                // anything else.
                let (ctx, args) =
                    unsafe { (ctx.cast::<WaitCtx>().as_ref(), Args::new(args, size)) };
                switching::start(thread, ctx, func, args)
            }
        })?;
        Ok(match outcome {
            Outcome::Finished(result) => {
                ret.put(result);
                job.put(ptr::null_mut());
                ASYNC_FINISH
            }
            Outcome::Paused(handle) => {
                job.put(handle.as_ptr());
                ASYNC_PAUSE
            }
            Outcome::NoJobs(why) => {
                no_jobs(why);
                ASYNC_NO_JOBS
            }
        })
    })
}

/// Pauses the current job: the ASYNC_start_job() that started or resumed it returns
/// ASYNC_PAUSE. It returns once the job has been resumed; ASYNC_WAIT_CTX_get_changed_fds() then
/// lists nothing for the job's wait context until that changes again.
///
/// Outside a job, and while ASYNC_block_pause() is in force, it returns at once.
///
/// @return 1
///
/// Since OpenSSL 1.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_pause_job() -> c_int {
    Thread::with(switching::pause);
    1
}

/// Tells the job that runs on the calling thread: the innermost one, if jobs started others. A
/// signal handler may call it.
///
/// @return the job's handle; NULL outside a job
///
/// Since OpenSSL 1.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_get_current_job() -> *mut ASYNC_JOB {
    Thread::with(|thread| thread.current.get()).map_or(ptr::null_mut(), |job| job.handle().as_ptr())
}

/// Tells the wait context that a job was started with. Any thread may ask, and a signal handler.
///
/// @param job  a handle, or NULL
/// @return the context; NULL if `job` is NULL, if the job was started without a context, or the
///         context was freed, or the job has finished, whatever else runs in its place by then.
///         A signal handler must not give that NULL to a function of wait contexts: the refusal
///         goes to OpenSSL's queue, which allocates.
///
/// Since OpenSSL 1.1.0.
///
/// # Safety
/// `job` is NULL or a handle that ASYNC_start_job() or ASYNC_get_current_job() gave, however long
/// ago.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_get_wait_ctx(job: *mut ASYNC_JOB) -> *mut ASYNC_WAIT_CTX {
    // SAFETY: the caller's promise above.
    unsafe { Handle::from_ptr(job) }
        .and_then(Handle::wait_ctx)
        .map_or(ptr::null_mut(), WaitCtx::as_ptr)
        .cast()
}

/// Keeps the current job from pausing, so that it can hold a lock, until ASYNC_unblock_pause() has
/// been called as often. The calls are counted for each job, and forgotten when it ends. Outside a
/// job it does nothing. Since OpenSSL 1.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_block_pause() {
    Thread::with(switching::block_pause);
}

/// Takes back one call of ASYNC_block_pause() for the current job, if there was one. After the last
/// of them ASYNC_pause_job() pauses again. Outside a job it does nothing. Since OpenSSL 1.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_unblock_pause() {
    Thread::with(switching::unblock_pause);
}

/// Tells whether jobs work on this system.
///
/// @return 1
///
/// Since OpenSSL 1.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_is_capable() -> c_int {
    1
}

/// Sets the functions that give and take back memory for stacks, for the whole process.
///
/// `alloc_fn` is asked for 32,768 bytes, or for RSASYNC_STACK_SIZE where the environment sets that.
/// A job uses as many bytes as it leaves in `*num`, be that more or fewer; with fewer than 2 KiB
/// ASYNC_start_job() returns ASYNC_NO_JOBS. Such stacks have no guard but what the functions give
/// them. Both may be called in any thread, and must not throw.
///
/// @param alloc_fn  gives memory; NULL keeps the one in place, or takes malloc() if that is the
///                  default one and `free_fn` is the program's
/// @param free_fn   takes it back; NULL keeps the one in place (the default one hands what is not
///                  its own to free())
/// @return 1, or 0 after the first stack has been asked for, whether there was one or not; neither
///         RSASYNC_last_error() nor the error queue tells of that
///
/// Since OpenSSL 3.2.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_set_mem_functions(
    alloc_fn: ASYNC_stack_alloc_fn,
    free_fn: ASYNC_stack_free_fn,
) -> c_int {
    mem_functions::install(alloc_fn, free_fn).into()
}

/// Tells which functions give and take back memory for stacks. The default ones may be called: they
/// give guarded stacks of at least the size asked for, and not less than RSASYNC_STACK_SIZE.
///
/// @param alloc_fn  where the one that gives memory is put, or NULL
/// @param free_fn   where the one that takes it back is put, or NULL
///
/// Since OpenSSL 3.2.
///
/// # Safety
/// The pointers are NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_get_mem_functions(
    alloc_fn: *mut ASYNC_stack_alloc_fn,
    free_fn: *mut ASYNC_stack_free_fn,
) {
    let installed = mem_functions::installed();
    // SAFETY: the caller's promise above.
    unsafe {
        put_unless_null(alloc_fn, Some(installed.alloc));
        put_unless_null(free_fn, Some(installed.free));
    }
}

// ---- wait contexts -------------------------------------------------------------------

/// Makes a wait context: where a job puts the file descriptors that become readable when it
/// may be resumed. It belongs to the caller, who frees it by ASYNC_WAIT_CTX_free(); it may
/// serve one job after another.
///
/// Several threads may call the functions of wait contexts on one context at once, but for
/// ASYNC_WAIT_CTX_free().
///
/// @return the context, or NULL if refused.
///         ERR_R_MALLOC_FAILURE: there is no memory.
///
/// Since OpenSSL 1.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_WAIT_CTX_new() -> *mut ASYNC_WAIT_CTX {
    or_refuse(c"ASYNC_WAIT_CTX_new", ptr::null_mut(), || {
        let ctx = Thread::with_registered(|thread| thread.wait_contexts.make_context())?;
        Ok(ctx.as_ptr().cast())
    })
}

/// Frees a wait context, after calling the cleanup routine of each descriptor that was not cleared,
/// the newest first. A routine may call back into the context, but can't add a descriptor. A job
/// that is paused goes on without context.
///
/// @param ctx  the context, or NULL
///
/// Since OpenSSL 1.1.0.
///
/// # Safety
/// `ctx` is NULL or came from ASYNC_WAIT_CTX_new(); no other call for it is under way.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_free(ctx: *mut ASYNC_WAIT_CTX) {
    // SAFETY: the caller's promise above.
    if let Ok(ctx) = unsafe { wait_ctx(ctx) } {
        Thread::with_registered(|thread| thread.wait_contexts.free_context(ctx));
    }
}

/// Adds a file descriptor to a wait context, in front of its others.
///
/// @param ctx          the context
/// @param key          by which the owner finds the descriptor again; never read through. If the
///                     context has another one with this key, ASYNC_WAIT_CTX_get_fd() and
///                     ASYNC_WAIT_CTX_clear_fd() reach that only after this one is cleared; the
///                     lists have both
/// @param fd           the descriptor; it stays the caller's
/// @param custom_data  what comes back from ASYNC_WAIT_CTX_get_fd()
/// @param cleanup      called with all of this when the context is freed, but not when the
///                     descriptor is cleared; or NULL
/// @return 1, or 0 with nothing changed.
///         ERR_R_PASSED_NULL_PARAMETER: `ctx` is NULL.
///         ERR_R_MALLOC_FAILURE: there is no memory for another descriptor.
///         ERR_R_SHOULD_NOT_HAVE_BEEN_CALLED: the context is being freed.
///
/// Since OpenSSL 1.1.0.
///
/// # Safety
/// `ctx` is NULL or a context that has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_set_wait_fd(
    ctx: *mut ASYNC_WAIT_CTX,
    key: *const c_void,
    fd: OSSL_ASYNC_FD,
    custom_data: *mut c_void,
    cleanup: Option<
        unsafe extern "C" fn(
            ctx: *mut ASYNC_WAIT_CTX,
            key: *const c_void,
            fd: OSSL_ASYNC_FD,
            custom_data: *mut c_void,
        ),
    >,
) -> c_int {
    or_refuse(c"ASYNC_WAIT_CTX_set_wait_fd", 0, || {
        // SAFETY: the caller's promise above.
        unsafe { wait_ctx(ctx) }?.set_wait_fd(key, fd, custom_data, cleanup)?;
        Ok(1)
    })
}

/// Finds the newest descriptor of a wait context with a key.
///
/// @param ctx          the context
/// @param key          the key
/// @param fd           where the descriptor is put
/// @param custom_data  where its data are put, or NULL
/// @return 1; 0 if no descriptor has the key (nothing is put, and it is no error), or if refused.
///         ERR_R_PASSED_NULL_PARAMETER: `ctx` or `fd` is NULL.
///
/// Since OpenSSL 1.1.0.
///
/// # Safety
/// `ctx` is NULL or a context that has not been freed; `fd` and `custom_data` are NULL or may be
/// written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_get_fd(
    ctx: *mut ASYNC_WAIT_CTX,
    key: *const c_void,
    fd: *mut OSSL_ASYNC_FD,
    custom_data: *mut *mut c_void,
) -> c_int {
    or_refuse(c"ASYNC_WAIT_CTX_get_fd", 0, || {
        // SAFETY: the caller's promise above.
        let (ctx, fd) = unsafe { (wait_ctx(ctx)?, Output::new(fd, c"fd must not be NULL")?) };
        let Some((found, data)) = ctx.fd(key) else {
            return Ok(0);
        };
        fd.put(found);
        // SAFETY: the caller's promise above.
        unsafe { put_unless_null(custom_data, data) };
        Ok(1)
    })
}

/// Lists the descriptors of a wait context, the newest first.
///
/// @param ctx     the context
/// @param fd      where they are put, with room for all; NULL: only count them. No other thread may
///                add one between the counting and this call
/// @param numfds  where their number is put
/// @return 1, or 0 if refused.
///         ERR_R_PASSED_NULL_PARAMETER: `ctx` or `numfds` is NULL.
///
/// Since OpenSSL 1.1.0.
///
/// # Safety
/// `ctx` is NULL or a context that has not been freed; the others may be written as described.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_get_all_fds(
    ctx: *mut ASYNC_WAIT_CTX,
    fd: *mut OSSL_ASYNC_FD,
    numfds: *mut usize,
) -> c_int {
    or_refuse(c"ASYNC_WAIT_CTX_get_all_fds", 0, || {
        // SAFETY: the caller's promise above.
        unsafe {
            let ctx = wait_ctx(ctx)?;
            let count = Output::new(numfds, c"numfds must not be NULL")?;
            count.put(ctx.all_fds(FdList::new(fd)));
        }
        Ok(1)
    })
}

/// Lists which descriptors of a wait context are new or cleared. These are the ones that were added,
/// and those that were cleared, since the context was made or a paused job of it was last resumed;
/// the newest first. One that was added and cleared in between is in neither list.
///
/// @param ctx        the context
/// @param addfd      where the added ones are put, with room for all; NULL: only count them. No
///                   other thread may add or clear one between the counting and this call
/// @param numaddfds  where their number is put
/// @param delfd      where the cleared ones are put, with room for all; NULL: only count them
/// @param numdelfds  where their number is put
/// @return 1, or 0 if refused.
///         ERR_R_PASSED_NULL_PARAMETER: `ctx`, `numaddfds` or `numdelfds` is NULL.
///
/// Since OpenSSL 1.1.0.
///
/// # Safety
/// `ctx` is NULL or a context that has not been freed; the others may be written as described.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_get_changed_fds(
    ctx: *mut ASYNC_WAIT_CTX,
    addfd: *mut OSSL_ASYNC_FD,
    numaddfds: *mut usize,
    delfd: *mut OSSL_ASYNC_FD,
    numdelfds: *mut usize,
) -> c_int {
    or_refuse(c"ASYNC_WAIT_CTX_get_changed_fds", 0, || {
        // SAFETY: the caller's promise above.
        unsafe {
            let ctx = wait_ctx(ctx)?;
            let added = Output::new(numaddfds, c"numaddfds must not be NULL")?;
            let deleted = Output::new(numdelfds, c"numdelfds must not be NULL")?;
            let counts = ctx.changed_fds(FdList::new(addfd), FdList::new(delfd));
            added.put(counts.0);
            deleted.put(counts.1);
        }
        Ok(1)
    })
}

/// Takes the newest descriptor with a key out of a wait context, without calling its cleanup
/// routine. ASYNC_WAIT_CTX_get_changed_fds() lists it as cleared until a paused job of the context is
/// resumed; but one that was itself added since the last resume just disappears.
///
/// @param ctx  the context
/// @param key  the key
/// @return 1; 0 if no descriptor has the key (which is no error), or if refused.
///         ERR_R_PASSED_NULL_PARAMETER: `ctx` is NULL.
///
/// Since OpenSSL 1.1.0.
///
/// # Safety
/// `ctx` is NULL or a context that has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_clear_fd(
    ctx: *mut ASYNC_WAIT_CTX,
    key: *const c_void,
) -> c_int {
    or_refuse(c"ASYNC_WAIT_CTX_clear_fd", 0, || {
        // SAFETY: the caller's promise above.
        Ok(unsafe { wait_ctx(ctx) }?.clear_fd(key).into())
    })
}

/// Sets the callback of a wait context. An engine or provider calls it, instead of making a
/// descriptor readable, to tell that the job may be resumed; by ASYNC_WAIT_CTX_set_status() it says
/// whether it will. rsasync itself never calls it. The function should be short and must not block.
///
/// @param ctx           the context
/// @param callback      the function, or NULL for none
/// @param callback_arg  its argument
/// @return 1, or 0 if `ctx` is NULL; RSASYNC_last_error() tells of that, the error queue does not
///
/// Since OpenSSL 3.0.
///
/// # Safety
/// `ctx` is NULL or a context that has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_set_callback(
    ctx: *mut ASYNC_WAIT_CTX,
    callback: ASYNC_callback_fn,
    callback_arg: *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise above.
    match unsafe { wait_ctx(ctx) } {
        Ok(ctx) => {
            ctx.set_callback(callback, callback_arg);
            1
        }
        Err(error) => {
            // libcrypto refuses this one, too, and queues nothing.
            note_refusal(error);
            0
        }
    }
}

/// Tells the callback of a wait context, and its argument. A signal handler may call it, if no
/// pointer is NULL.
///
/// @param ctx           the context
/// @param callback      where the function is put
/// @param callback_arg  where its argument is put
/// @return 1; 0 if no callback is set (nothing is put, and it is no error), or if refused.
///         ERR_R_PASSED_NULL_PARAMETER: `ctx`, `callback` or `callback_arg` is NULL.
///
/// Since OpenSSL 3.0.
///
/// # Safety
/// `ctx` is NULL or a context that has not been freed; `callback` and `callback_arg` are NULL or may
/// be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_get_callback(
    ctx: *mut ASYNC_WAIT_CTX,
    callback: *mut ASYNC_callback_fn,
    callback_arg: *mut *mut c_void,
) -> c_int {
    or_refuse(c"ASYNC_WAIT_CTX_get_callback", 0, || {
        // SAFETY: the caller's promise above.
        let (ctx, function, arg) = unsafe {
            let ctx = wait_ctx(ctx)?;
            let function = Output::new(callback, c"callback must not be NULL")?;
            let arg = Output::new(callback_arg, c"callback_arg must not be NULL")?;
            (ctx, function, arg)
        };
        let Some(callback) = ctx.callback() else {
            return Ok(0);
        };
        function.put(Some(callback.0));
        arg.put(callback.1);
        Ok(1)
    })
}

/// Sets the status of a wait context: what became of the job's request, for whoever resumes the
/// job. A signal handler may call it, with a `ctx` that is not NULL.
///
/// @param ctx     the context
/// @param status  one of ASYNC_STATUS_..., or any other number
/// @return 1, or 0 if refused.
///         ERR_R_PASSED_NULL_PARAMETER: `ctx` is NULL.
///
/// Since OpenSSL 3.0.
///
/// # Safety
/// `ctx` is NULL or a context that has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_set_status(
    ctx: *mut ASYNC_WAIT_CTX,
    status: c_int,
) -> c_int {
    or_refuse(c"ASYNC_WAIT_CTX_set_status", 0, || {
        // SAFETY: the caller's promise above.
        unsafe { wait_ctx(ctx) }?.set_status(status);
        Ok(1)
    })
}

/// Tells the status of a wait context: what became of the job's request. It is
/// ASYNC_STATUS_UNSUPPORTED at first. With any but ASYNC_STATUS_OK the callback of
/// ASYNC_WAIT_CTX_set_callback() is not to be expected. A signal handler may call it, with a `ctx`
/// that is not NULL.
///
/// @param ctx  the context
/// @return the status, one of ASYNC_STATUS_... or another number that was set; also 0 if refused.
///         ERR_R_PASSED_NULL_PARAMETER: `ctx` is NULL.
///
/// Since OpenSSL 3.0.
///
/// # Safety
/// `ctx` is NULL or a context that has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_get_status(ctx: *mut ASYNC_WAIT_CTX) -> c_int {
    or_refuse(c"ASYNC_WAIT_CTX_get_status", 0, || {
        // SAFETY: the caller's promise above.
        Ok(unsafe { wait_ctx(ctx) }?.status())
    })
}

// ---- refusals and pointers -----------------------------------------------------------

/// What `body` returns. If it refuses, the thread's message and an error on OpenSSL's queue say
/// why, in the name of the C function, and the result is `refused`.
#[inline(always)]
fn or_refuse<T>(function: &'static CStr, refused: T, body: impl FnOnce() -> Result<T, Error>) -> T {
    match body() {
        Ok(value) => value,
        Err(error) => {
            refuse(function, error);
            refused
        }
    }
}

#[cold]
#[inline(never)]
fn refuse(function: &'static CStr, error: Error) {
    note_refusal(error);
    probe!("refuse", function.as_ptr(), error.text.as_ptr());
    error_queue::push(error, function);
}

#[cold]
fn no_jobs(why: NoJob) {
    note_no_job(why);
    probe!(
        "refuse",
        c"ASYNC_start_job".as_ptr(),
        last_message().as_ptr()
    );
}

/// # Safety
/// `ctx` is NULL or came from ASYNC_WAIT_CTX_new().
#[inline(always)]
unsafe fn wait_ctx(ctx: *mut ASYNC_WAIT_CTX) -> Result<&'static WaitCtx, Error> {
    let text = c"ctx must not be NULL; make one by ASYNC_WAIT_CTX_new()";
    // SAFETY: the caller's promise; the memory of a wait context is never anything else.
    unsafe { ctx.cast::<WaitCtx>().as_ref() }.ok_or(Error::null_argument(text))
}

/// Where a C caller wants something put. Two of them may be the same place.
struct Output<T>(NonNull<T>);

impl<T: Copy> Output<T> {
    /// # Safety
    /// `pointer` is NULL, or may be read and written as long as the Output is used.
    #[inline(always)]
    unsafe fn new(pointer: *mut T, text: &'static CStr) -> Result<Self, Error> {
        NonNull::new(pointer)
            .map(Self)
            .ok_or(Error::null_argument(text))
    }

    #[inline(always)]
    fn get(&self) -> T {
        // SAFETY: the promise of `new`'s caller.
        unsafe { self.0.read() }
    }

    #[inline(always)]
    fn put(&self, value: T) {
        // SAFETY: the promise of `new`'s caller.
        unsafe { self.0.write(value) };
    }
}

/// # Safety
/// `pointer` is NULL, and nothing is done, or it may be written.
unsafe fn put_unless_null<T>(pointer: *mut T, value: T) {
    if !pointer.is_null() {
        // SAFETY: the caller's promise.
        unsafe { pointer.write(value) };
    }
}
