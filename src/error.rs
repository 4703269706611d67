//! Refusals: what was wrong and what to do, kept for the thread and put on OpenSSL's queue.

use std::cell::Cell;
use std::ffi::{CStr, c_int};

use crate::libcrypto;

/// The thread's pool could not be set up. Not used by rsasync.
pub const ASYNC_R_FAILED_TO_SET_POOL: c_int = 101;
/// The switch to another stack failed. Not used by rsasync.
pub const ASYNC_R_FAILED_TO_SWAP_CONTEXT: c_int = 102;
/// More jobs were to be made at once than are allowed.
pub const ASYNC_R_INVALID_POOL_SIZE: c_int = 103;
/// The library could not be set up. Not used by rsasync.
pub const ASYNC_R_INIT_FAILED: c_int = 105;

/// Why a call was refused. The text says what to do about it.
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

/// The C function that refuses.
#[derive(Clone, Copy)]
pub struct Function {
    pub name: &'static CStr,
    /// Its number in OpenSSL 1.1, whose errors have one.
    pub code: c_int,
}

impl Function {
    pub const fn new(name: &'static CStr) -> Self {
        let code = match name.to_bytes() {
            b"ASYNC_init_thread" => 101,
            b"ASYNC_start_job" => 105,
            b"ASYNC_WAIT_CTX_set_wait_fd" => 106,
            _ => 0,
        };
        Self { name, code }
    }
}

impl Reason {
    /// Its code in OpenSSL 3 and later.
    pub fn code(self) -> c_int {
        /// `ERR_R_FATAL`: reasons that all libraries share, and that nothing can be done about.
        const FATAL: c_int = 0b11 << 18;
        match self {
            Self::InvalidPoolSize => ASYNC_R_INVALID_POOL_SIZE,
            Self::NoMemory => 256 | FATAL,
            Self::ShouldNotHaveBeenCalled => 257 | FATAL,
            Self::PassedNullParameter => 258 | FATAL,
        }
    }

    /// Its code in OpenSSL 1.1.
    pub fn code_1_1(self) -> c_int {
        const FATAL: c_int = 64;
        match self {
            Self::InvalidPoolSize => ASYNC_R_INVALID_POOL_SIZE,
            Self::NoMemory => 1 | FATAL,
            Self::ShouldNotHaveBeenCalled => 2 | FATAL,
            Self::PassedNullParameter => 3 | FATAL,
        }
    }
}

thread_local! {
    static LAST: Cell<&'static CStr> = const { Cell::new(c"") };
}

/// The thread's last message; empty if there was none.
pub fn last() -> &'static CStr {
    LAST.get()
}

/// Keeps a message for the thread, and queues nothing: a queued error would make
/// `SSL_get_error` take a connection that has to wait for a dead one.
pub fn note(text: &'static CStr) {
    LAST.set(text);
}

/// A pointer that must not be NULL.
pub fn null(text: &'static CStr) -> Error {
    Error {
        reason: Reason::PassedNullParameter,
        text,
    }
}

impl Error {
    /// Keeps the message for the thread and queues the error.
    #[cold]
    pub fn raise(self, function: Function) {
        note(self.text);
        libcrypto::queue(self, function);
    }
}
