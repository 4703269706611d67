//! Refusals, and the last message of each thread.

use std::cell::Cell;
use std::ffi::{CStr, c_int};

/// The thread's pool could not be set up. Not used by rsasync.
pub const ASYNC_R_FAILED_TO_SET_POOL: c_int = 101;
/// The switch to another stack failed. Not used by rsasync.
pub const ASYNC_R_FAILED_TO_SWAP_CONTEXT: c_int = 102;
/// More jobs were to be made at once than are allowed.
pub const ASYNC_R_INVALID_POOL_SIZE: c_int = 103;
/// The library could not be set up. Not used by rsasync.
pub const ASYNC_R_INIT_FAILED: c_int = 105;

/// Why a call was refused. The text says what was wrong and what to do.
#[derive(Clone, Copy)]
pub struct Error {
    pub reason: Reason,
    pub text: &'static CStr,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    InvalidPoolSize,
    PassedNullParameter,
    NoMemory,
    ShouldNotHaveBeenCalled,
}

impl Error {
    /// A pointer is NULL that must not be.
    pub fn null_argument(text: &'static CStr) -> Self {
        Self {
            reason: Reason::PassedNullParameter,
            text,
        }
    }
}

thread_local! {
    static LAST_MESSAGE: Cell<&'static CStr> = const { Cell::new(c"") };
}

/// The calling thread's last message; empty if it had none.
pub fn last_message() -> &'static CStr {
    LAST_MESSAGE.get()
}

/// Keeps a message for the calling thread. For ASYNC_NO_JOBS that is all: `SSL_get_error` would
/// take a queued error for the end of the connection. A refusal is queued as well, by the C face.
pub fn set_last_message(text: &'static CStr) {
    LAST_MESSAGE.set(text);
}
