//! Refusals, and the last message of each thread.

use std::cell::Cell;
use std::ffi::{CStr, c_int};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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

/// Why a call got no job. It is no error, and may be tried again.
#[derive(Clone, Copy)]
pub enum NoJob {
    Limit,
    NoMemory,
}

impl NoJob {
    fn text(self) -> &'static CStr {
        match self {
            Self::Limit => {
                c"the thread has as many jobs as ASYNC_init_thread allowed; let one finish, then try again"
            }
            Self::NoMemory => c"no memory for another stack; let a job finish, then try again",
        }
    }
}

/// How many calls were refused in the process, by [`Reason`].
pub static REFUSALS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
/// How many got no job, by [`NoJob`].
pub static NO_JOBS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

thread_local! {
    static LAST_MESSAGE: Cell<&'static CStr> = const { Cell::new(c"") };
}

/// The calling thread's last message; empty if it had none.
pub fn last_message() -> &'static CStr {
    LAST_MESSAGE.get()
}

/// Counts a refusal and keeps its text for the calling thread. The C face puts it on OpenSSL's
/// queue as well.
#[cold]
pub fn note_refusal(error: Error) {
    REFUSALS[error.reason as usize].fetch_add(1, Relaxed);
    LAST_MESSAGE.set(error.text);
}

/// The same for ASYNC_NO_JOBS. It is not queued: `SSL_get_error` would take a queued error for the
/// end of the connection.
#[cold]
pub fn note_no_job(why: NoJob) {
    NO_JOBS[why as usize].fetch_add(1, Relaxed);
    LAST_MESSAGE.set(why.text());
}
