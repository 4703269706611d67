//! The functions of openssl/async.h: pointers in, codes out, no logic.
//!
//! The comments here are those of the header, which cbindgen makes from this file. The rules
//! are those of the man pages ASYNC_start_job(3ssl) and ASYNC_WAIT_CTX_new(3ssl).
#![allow(non_camel_case_types)]

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use crate::error::{Error, Function, note, null};
use crate::job::{self, Args, Job, JobRef, Outcome};
use crate::stack;
use crate::thread::Thread;
use crate::wait_ctx::{FdList, WaitCtx};

/// A job; see ASYNC_start_job().
pub struct async_job_st {
    _opaque: (),
}
pub type ASYNC_JOB = async_job_st;

/// A wait context; see ASYNC_WAIT_CTX_new().
pub struct async_wait_ctx_st {
    _opaque: (),
}
pub type ASYNC_WAIT_CTX = async_wait_ctx_st;

/// In C a macro, because programs ask for it with #ifdef.
type OSSL_ASYNC_FD = c_int;

/// What an engine calls, instead of making a file descriptor readable, to tell that a job may
/// be resumed: called with the argument given to ASYNC_WAIT_CTX_set_callback(). Since OpenSSL
/// 3.0.
pub type ASYNC_callback_fn = Option<unsafe extern "C" fn(arg: *mut c_void) -> c_int>;

/// Gives memory for a job's stack: takes the number of bytes wanted in *num, leaves there the
/// number given. NULL if there is none. Since OpenSSL 3.2.
pub type ASYNC_stack_alloc_fn = Option<unsafe extern "C" fn(num: *mut usize) -> *mut c_void>;

/// Takes such memory back. Since OpenSSL 3.2.
pub type ASYNC_stack_free_fn = Option<unsafe extern "C" fn(addr: *mut c_void)>;

/// ASYNC_start_job() was refused; the reason is on the error queue.
pub const ASYNC_ERR: c_int = 0;
/// ASYNC_start_job() got no job; try again later.
pub const ASYNC_NO_JOBS: c_int = 1;
/// The job paused; resume it later.
pub const ASYNC_PAUSE: c_int = 2;
/// The job finished.
pub const ASYNC_FINISH: c_int = 3;

/// The engine has no callbacks.
pub const ASYNC_STATUS_UNSUPPORTED: c_int = 0;
/// The engine failed to submit the job's request.
pub const ASYNC_STATUS_ERR: c_int = 1;
/// The engine has submitted it.
pub const ASYNC_STATUS_OK: c_int = 2;
/// The engine is busy; resume the job later, so that it submits again.
pub const ASYNC_STATUS_EAGAIN: c_int = 3;

/// Raises the error in the name of the function; the value is what that returns.
macro_rules! refuse {
    ($function:literal, $error:expr, $value:expr) => {{
        const FUNCTION: Function = Function::new($function);
        $error.raise(FUNCTION);
        $value
    }};
}

// ---- threads and their pools ---------------------------------------------------------

/// Sets how many jobs the calling thread may have, and makes some of them at once.
///
/// Idle jobs of before are freed and the count begins anew. Jobs that are paused stay valid,
/// don't count, and join the thread's idle ones when they finish. A thread that never calls
/// this has no limit.
///
/// @param max_size   how many jobs may be made; 0: any number
/// @param init_size  how many are made now; if memory ends there are fewer, which is no error
/// @return 1, or 0 with ASYNC_R_INVALID_POOL_SIZE if init_size is above max_size
///
/// Since OpenSSL 1.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_init_thread(max_size: usize, init_size: usize) -> c_int {
    match Thread::with_ready(|thread| job::init_thread(thread, max_size, init_size)) {
        Ok(()) => 1,
        Err(error) => refuse!(c"ASYNC_init_thread", error, 0),
    }
}

/// Frees the calling thread's idle jobs and forgets its limit.
///
/// Jobs that are paused stay valid and may be resumed; a running one that calls this goes on.
/// A thread that ends does it by itself. Jobs still paused then can never be resumed; their
/// stacks stay, as something may point into them.
///
/// Since OpenSSL 1.1.0, where no job may be left.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_cleanup_thread() {
    Thread::with(Thread::clean_up);
}

// ---- jobs ----------------------------------------------------------------------------

/// Starts a job, or resumes one that is paused.
///
/// With *job NULL it starts func on a stack of its own. With *job from a call that returned
/// ASYNC_PAUSE it goes on where that job paused, and ignores ctx, func, args and size; only
/// the thread that started a job may resume it. A job may start and resume other jobs.
///
/// @param job   where the handle of a paused job is, or will be put; it belongs to the thread
/// @param ctx   the wait context that the job will find by ASYNC_get_wait_ctx(), or NULL; it
///              stays the caller's
/// @param ret   where func's result will be put
/// @param func  what the job runs; it gets the copy of args, or NULL if there is none
/// @param args  what is copied, aligned to 16 bytes; the copy lives as long as the job. May
///              be NULL
/// @param size  the size of that in bytes; 0: there is nothing to copy
/// @return ASYNC_FINISH: func has returned, *ret is its result, *job is NULL.
///         ASYNC_PAUSE: it paused, *job is its handle.
///         ASYNC_NO_JOBS: the thread's limit is reached, or there is no memory for a stack;
///         try again when another job has finished. Nothing is on the error queue.
///         ASYNC_ERR: refused, nothing has changed, an error is queued.
///         ERR_R_PASSED_NULL_PARAMETER: job, ret, or func is NULL; ERR_R_MALLOC_FAILURE: args
///         can't be copied; ERR_R_SHOULD_NOT_HAVE_BEEN_CALLED: *job belongs to another
///         thread, is running, has started the job that calls, or has finished.
///
/// Since OpenSSL 1.1.0; size may be 0 since 3.0.
///
/// # Safety
/// The pointers are valid as described; a handle in *job has not been freed with its pool.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_start_job(
    job: *mut *mut ASYNC_JOB,
    ctx: *mut ASYNC_WAIT_CTX,
    ret: *mut c_int,
    func: Option<unsafe extern "C" fn(args: *mut c_void) -> c_int>,
    args: *mut c_void,
    size: usize,
) -> c_int {
    if job.is_null() || ret.is_null() {
        let error = null(c"job and ret must not be NULL");
        return refuse!(c"ASYNC_start_job", error, ASYNC_ERR);
    }
    // SAFETY: the caller's promise. No reference to *job or *ret lives while the job runs,
    // which may look at them, too.
    let paused = NonNull::new(unsafe { *job }.cast::<Job>());
    let outcome = Thread::with_ready(|thread| match paused {
        // SAFETY: the caller's promise.
        Some(paused) => job::resume(thread, unsafe { JobRef::from_ptr(paused) }),
        None => {
            let func = func.ok_or(null(c"func must not be NULL when *job is NULL"))?;
            // SAFETY: the caller's promise; the memory of a context is never anything else.
            let (ctx, args) = unsafe { (ctx.cast::<WaitCtx>().as_ref(), Args::new(args, size)) };
            job::start(thread, ctx, func, args)
        }
    });
    match outcome {
        Ok(Outcome::Finished(result)) => {
            // SAFETY: the caller's promise.
            unsafe {
                *ret = result;
                *job = std::ptr::null_mut();
            }
            ASYNC_FINISH
        }
        Ok(Outcome::Paused(paused)) => {
            // SAFETY: the caller's promise.
            unsafe { *job = paused.as_ptr().cast() };
            ASYNC_PAUSE
        }
        Ok(Outcome::NoJobs(why)) => {
            note(why);
            ASYNC_NO_JOBS
        }
        Err(error) => refuse!(c"ASYNC_start_job", error, ASYNC_ERR),
    }
}

/// Pauses the current job: the ASYNC_start_job() that started or resumed it returns
/// ASYNC_PAUSE. Returns once the job has been resumed; what the job's wait context had marked
/// as added or deleted is then forgotten.
///
/// Outside a job, and after ASYNC_block_pause(), it returns at once.
///
/// @return 1
///
/// Since OpenSSL 1.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_pause_job() -> c_int {
    Thread::with(job::pause);
    1
}

/// Returns the job that runs on the calling thread, NULL outside a job. The innermost one, if
/// jobs started others. Since OpenSSL 1.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_get_current_job() -> *mut ASYNC_JOB {
    Thread::with(|thread| thread.current.get())
        .map_or(std::ptr::null_mut(), JobRef::as_ptr)
        .cast()
}

/// Returns the wait context that the job was started with. Any thread may ask.
///
/// NULL if there is none, or it was freed, or the job has finished (as long as its thread's
/// pool has it), or job is NULL.
///
/// Since OpenSSL 1.1.0.
///
/// # Safety
/// `job` is NULL, or has not been freed with its pool.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_get_wait_ctx(job: *mut ASYNC_JOB) -> *mut ASYNC_WAIT_CTX {
    // SAFETY: the caller's promise.
    let job = NonNull::new(job.cast::<Job>()).map(|job| unsafe { JobRef::from_ptr(job) });
    job.and_then(|job| job.wait_ctx.get())
        .map_or(std::ptr::null_mut(), WaitCtx::as_ptr)
        .cast()
}

/// Keeps the current job from pausing until as many calls of ASYNC_unblock_pause(), so that it
/// can hold a lock. Counted for each job; forgotten when the job ends. Does nothing outside a
/// job. Since OpenSSL 1.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_block_pause() {
    Thread::with(job::block_pause);
}

/// Takes back one call of ASYNC_block_pause(), if there is one. Since OpenSSL 1.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_unblock_pause() {
    Thread::with(job::unblock_pause);
}

/// Returns 1: jobs work on this system. Since OpenSSL 1.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_is_capable() -> c_int {
    1
}

/// Sets the functions that give and take back memory for stacks, for the whole process.
///
/// They are asked for 32,768 bytes, or for RSASYNC_STACK_SIZE where the environment sets that.
/// A job uses what is in *num then, more or less, but for some 200 bytes at its top; below
/// 2 KiB there is no job. Such stacks have no guard but what the functions give them. They
/// may be called in any thread, and must not throw.
///
/// @param alloc_fn  gives memory; NULL keeps the function in place
/// @param free_fn   takes it back; NULL keeps the function in place
/// @return 1, or 0 after the first stack has been asked for, whether there was one or not
///
/// Since OpenSSL 3.2.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_set_mem_functions(
    alloc_fn: ASYNC_stack_alloc_fn,
    free_fn: ASYNC_stack_free_fn,
) -> c_int {
    stack::set_allocator(alloc_fn, free_fn).into()
}

/// Tells the functions in place. The default ones may be called: they give guarded stacks of
/// at least the size asked for, and not less than RSASYNC_STACK_SIZE.
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
    let allocator = stack::allocator();
    // SAFETY: the caller's promise.
    unsafe {
        put(alloc_fn, Some(allocator.alloc));
        put(free_fn, Some(allocator.free));
    }
}

// ---- wait contexts -------------------------------------------------------------------

/// Makes a wait context: where a job puts the file descriptors that become readable when it
/// may be resumed. It belongs to the caller, who frees it by ASYNC_WAIT_CTX_free(); it may
/// serve one job after another.
///
/// All calls but ASYNC_WAIT_CTX_free() may be made by several threads at once.
///
/// @return NULL with ERR_R_MALLOC_FAILURE if there is no memory
///
/// Since OpenSSL 1.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_WAIT_CTX_new() -> *mut ASYNC_WAIT_CTX {
    match Thread::with_ready(WaitCtx::new) {
        Ok(ctx) => ctx.as_ptr().cast(),
        Err(error) => refuse!(c"ASYNC_WAIT_CTX_new", error, std::ptr::null_mut()),
    }
}

/// Frees a wait context, after the cleanup routines of its descriptors, the newest first. A
/// routine may call back into the context. A job that is paused goes on without context.
///
/// @param ctx  the context, or NULL
///
/// Since OpenSSL 1.1.0.
///
/// # Safety
/// `ctx` is NULL or came from ASYNC_WAIT_CTX_new(); no other call for it is under way.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_free(ctx: *mut ASYNC_WAIT_CTX) {
    // SAFETY: the caller's promise.
    if let Ok(ctx) = unsafe { context(ctx) } {
        Thread::with_ready(|thread| ctx.free(thread));
    }
}

/// Adds a file descriptor, in front of the others.
///
/// @param ctx          the context
/// @param key          by which the owner finds the descriptor again; if the context has one
///                     with this key, then that is hidden until this one is cleared
/// @param fd           the descriptor; it stays the caller's
/// @param custom_data  what comes back from ASYNC_WAIT_CTX_get_fd()
/// @param cleanup      called with all of this when the context is freed, but not when the
///                     descriptor is cleared; or NULL
/// @return 1, or 0 with ERR_R_PASSED_NULL_PARAMETER or ERR_R_MALLOC_FAILURE
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
    // SAFETY: the caller's promise.
    match unsafe { context(ctx) }.and_then(|ctx| ctx.set_wait_fd(key, fd, custom_data, cleanup)) {
        Ok(()) => 1,
        Err(error) => refuse!(c"ASYNC_WAIT_CTX_set_wait_fd", error, 0),
    }
}

/// Finds the newest descriptor with a key.
///
/// @param ctx          the context
/// @param key          the key
/// @param fd           where the descriptor is put
/// @param custom_data  where its data are put, or NULL
/// @return 1; 0 if there is none, or with ERR_R_PASSED_NULL_PARAMETER
///
/// Since OpenSSL 1.1.0.
///
/// # Safety
/// `ctx` is NULL or a context that has not been freed; the others are NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_get_fd(
    ctx: *mut ASYNC_WAIT_CTX,
    key: *const c_void,
    fd: *mut OSSL_ASYNC_FD,
    custom_data: *mut *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise.
    let arguments =
        unsafe { context(ctx).and_then(|ctx| Ok((ctx, Output::new(fd, c"fd must not be NULL")?))) };
    match arguments {
        Ok((ctx, place)) => match ctx.fd(key) {
            Some((fd, data)) => {
                place.put(fd);
                // SAFETY: the caller's promise.
                unsafe { put(custom_data, data) };
                1
            }
            None => 0,
        },
        Err(error) => refuse!(c"ASYNC_WAIT_CTX_get_fd", error, 0),
    }
}

/// Lists the descriptors, the newest first.
///
/// @param ctx     the context
/// @param fd      where they are put, with room for all; NULL: only count them
/// @param numfds  where their number is put
/// @return 1, or 0 with ERR_R_PASSED_NULL_PARAMETER
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
    // SAFETY: the caller's promise.
    let arguments = unsafe {
        context(ctx).and_then(|ctx| Ok((ctx, Output::new(numfds, c"numfds must not be NULL")?)))
    };
    match arguments {
        Ok((ctx, count)) => {
            // SAFETY: the caller's promise.
            count.put(ctx.all_fds(unsafe { FdList::new(fd) }));
            1
        }
        Err(error) => refuse!(c"ASYNC_WAIT_CTX_get_all_fds", error, 0),
    }
}

/// Lists the descriptors that were added, and those that were cleared, since the context was
/// made or a paused job of it was last resumed; the newest first.
///
/// @param ctx        the context
/// @param addfd      where the added ones are put, with room for all; NULL: only count them
/// @param numaddfds  where their number is put
/// @param delfd      where the cleared ones are put, with room for all; NULL: only count them
/// @param numdelfds  where their number is put
/// @return 1, or 0 with ERR_R_PASSED_NULL_PARAMETER
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
    // SAFETY: the caller's promise.
    let arguments = unsafe {
        context(ctx).and_then(|ctx| {
            let added = Output::new(numaddfds, c"numaddfds must not be NULL")?;
            Ok((
                ctx,
                added,
                Output::new(numdelfds, c"numdelfds must not be NULL")?,
            ))
        })
    };
    match arguments {
        Ok((ctx, added, deleted)) => {
            // SAFETY: the caller's promise.
            let counts = unsafe { ctx.changed_fds(FdList::new(addfd), FdList::new(delfd)) };
            added.put(counts.0);
            deleted.put(counts.1);
            1
        }
        Err(error) => refuse!(c"ASYNC_WAIT_CTX_get_changed_fds", error, 0),
    }
}

/// Takes out the newest descriptor with a key, without calling its cleanup routine.
///
/// @param ctx  the context
/// @param key  the key
/// @return 1; 0 if there is none, or with ERR_R_PASSED_NULL_PARAMETER
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
    // SAFETY: the caller's promise.
    match unsafe { context(ctx) } {
        Ok(ctx) => ctx.clear_fd(key).into(),
        Err(error) => refuse!(c"ASYNC_WAIT_CTX_clear_fd", error, 0),
    }
}

/// Sets what an engine calls to tell that the job may be resumed.
///
/// @param ctx           the context
/// @param callback      the function, or NULL for none
/// @param callback_arg  its argument
/// @return 1, or 0 if ctx is NULL
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
    // SAFETY: the caller's promise.
    match unsafe { context(ctx) } {
        Ok(ctx) => {
            ctx.set_callback(callback, callback_arg);
            1
        }
        Err(error) => {
            note(error.text); // the one refusal that is in libcrypto, too, and queues nothing
            0
        }
    }
}

/// Tells the function that was set, and its argument.
///
/// @param ctx           the context
/// @param callback      where the function is put
/// @param callback_arg  where its argument is put
/// @return 1; 0 if there is none, or with ERR_R_PASSED_NULL_PARAMETER
///
/// Since OpenSSL 3.0.
///
/// # Safety
/// `ctx` is NULL or a context that has not been freed; the others are NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_get_callback(
    ctx: *mut ASYNC_WAIT_CTX,
    callback: *mut ASYNC_callback_fn,
    callback_arg: *mut *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise.
    let arguments = unsafe {
        context(ctx).and_then(|ctx| {
            let function = Output::new(callback, c"callback must not be NULL")?;
            Ok((
                ctx,
                function,
                Output::new(callback_arg, c"callback_arg must not be NULL")?,
            ))
        })
    };
    match arguments {
        Ok((ctx, function, arg)) => match ctx.callback() {
            Some(callback) => {
                function.put(Some(callback.0));
                arg.put(callback.1);
                1
            }
            None => 0,
        },
        Err(error) => refuse!(c"ASYNC_WAIT_CTX_get_callback", error, 0),
    }
}

/// Sets what became of the job's request, for whoever resumes the job.
///
/// @param ctx     the context
/// @param status  one of ASYNC_STATUS_..., or any other number
/// @return 1, or 0 with ERR_R_PASSED_NULL_PARAMETER
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
    // SAFETY: the caller's promise.
    match unsafe { context(ctx) } {
        Ok(ctx) => {
            ctx.set_status(status);
            1
        }
        Err(error) => refuse!(c"ASYNC_WAIT_CTX_set_status", error, 0),
    }
}

/// Tells the status that was set, ASYNC_STATUS_UNSUPPORTED at first.
///
/// @param ctx  the context
/// @return the status, or 0 with ERR_R_PASSED_NULL_PARAMETER
///
/// Since OpenSSL 3.0.
///
/// # Safety
/// `ctx` is NULL or a context that has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_get_status(ctx: *mut ASYNC_WAIT_CTX) -> c_int {
    // SAFETY: the caller's promise.
    match unsafe { context(ctx) } {
        Ok(ctx) => ctx.status(),
        Err(error) => refuse!(c"ASYNC_WAIT_CTX_get_status", error, 0),
    }
}

// ---- pointers ------------------------------------------------------------------------

/// # Safety
/// `ctx` is NULL or came from ASYNC_WAIT_CTX_new().
unsafe fn context(ctx: *mut ASYNC_WAIT_CTX) -> Result<&'static WaitCtx, Error> {
    // SAFETY: the caller's promise; the memory of a context is never anything else.
    unsafe { ctx.cast::<WaitCtx>().as_ref() }.ok_or(null(
        c"ctx must not be NULL; make one by ASYNC_WAIT_CTX_new()",
    ))
}

/// Where a C caller wants something put. Two of them may be the same place.
struct Output<T>(NonNull<T>);

impl<T> Output<T> {
    /// # Safety
    /// `pointer` is NULL or may be written.
    unsafe fn new(pointer: *mut T, text: &'static std::ffi::CStr) -> Result<Self, Error> {
        NonNull::new(pointer).map(Self).ok_or(null(text))
    }

    fn put(self, value: T) {
        // SAFETY: `new`'s promise.
        unsafe { self.0.write(value) };
    }
}

/// # Safety
/// `pointer` is NULL, and nothing is done, or it may be written.
unsafe fn put<T>(pointer: *mut T, value: T) {
    if !pointer.is_null() {
        // SAFETY: the caller's promise.
        unsafe { pointer.write(value) };
    }
}
