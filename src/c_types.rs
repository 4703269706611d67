//! The types and constants that openssl/async.h declares.
#![allow(non_camel_case_types)]

use std::ffi::{c_int, c_void};

/// A job, known by a pointer that is a handle: compare it, keep it, but don't read through it.
/// ASYNC_start_job() gives it. It stays the same from the job's start to its end and is stale from
/// then on: ASYNC_get_wait_ctx() gives NULL, and ASYNC_start_job() refuses it. Its value comes back
/// after some four million jobs on the same stack.
pub struct async_job_st {
    _opaque: (),
}
pub type ASYNC_JOB = async_job_st;

/// A wait context; see ASYNC_WAIT_CTX_new().
pub struct async_wait_ctx_st {
    _opaque: (),
}
pub type ASYNC_WAIT_CTX = async_wait_ctx_st;

/// In C a macro, because programs test for it with #ifdef.
pub(crate) type OSSL_ASYNC_FD = c_int;

/// What an engine calls, instead of making a file descriptor readable, to tell that a job may
/// be resumed: called with the argument given to ASYNC_WAIT_CTX_set_callback(). Since OpenSSL
/// 3.0.
pub type ASYNC_callback_fn = Option<unsafe extern "C" fn(arg: *mut c_void) -> c_int>;

/// Gives memory for a job's stack: takes the number of bytes wanted in `*num`, leaves there the
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
/// The engine has submitted the job's request.
pub const ASYNC_STATUS_OK: c_int = 2;
/// The engine is busy; resume the job later, so that it submits again.
pub const ASYNC_STATUS_EAGAIN: c_int = 3;
