//! Refusals go to OpenSSL's error queue, if there is a libcrypto in the process.

use std::ffi::{CStr, c_int};
use std::ptr;

use crate::error::{ASYNC_R_INVALID_POOL_SIZE, Error, Reason};
use crate::openssl::{discover, libcrypto};
use crate::sys::syscall_guard::SyscallGuard;

/// `ERR_LIB_ASYNC`.
const LIBRARY: c_int = 51;
/// What an error names as its source file.
const FILE: &CStr = c"rsasync";

/// Puts an error, in the name of a C function, on the queue of the first libcrypto.
#[cold]
pub fn push(error: Error, function: &'static CStr) {
    let _guard = SyscallGuard::new(); // libcrypto allocates
    discover::discover();
    let Some(libcrypto) = libcrypto::alive().next() else {
        return;
    };
    let symbols = &libcrypto.symbols;
    // SAFETY: the libcrypto is alive, and all strings are static.
    unsafe {
        if let (Some(new), Some(set_debug), Some(set_error)) = (
            symbols.err_new,
            symbols.err_set_debug,
            symbols.err_set_error,
        ) {
            new();
            set_debug(FILE.as_ptr(), 0, function.as_ptr());
            set_error(LIBRARY, reason_code(error.reason), ptr::null());
        } else if let Some(put) = symbols.err_put_error {
            let (function, reason) = (function_code_1_1(function), reason_code_1_1(error.reason));
            put(LIBRARY, function, reason, FILE.as_ptr(), 0);
        }
        // The text takes memory. Where there is none, libcrypto queues a second error; going back
        // to the mark takes that away.
        if let (Some(set_mark), Some(add_data), Some(pop_to_mark)) = (
            symbols.err_set_mark,
            symbols.err_add_error_data,
            symbols.err_pop_to_mark,
        ) {
            set_mark();
            add_data(1, error.text.as_ptr());
            pop_to_mark();
        }
    }
}

/// A reason in OpenSSL 3 and later, from openssl/err.h.
fn reason_code(reason: Reason) -> c_int {
    /// `ERR_RFLAG_FATAL | ERR_RFLAG_COMMON`.
    const FATAL: c_int = 0b11 << 18;
    match reason {
        Reason::InvalidPoolSize => ASYNC_R_INVALID_POOL_SIZE,
        Reason::NoMemory => 256 | FATAL,
        Reason::ShouldNotHaveBeenCalled => 257 | FATAL,
        Reason::PassedNullParameter => 258 | FATAL,
    }
}

/// A reason in OpenSSL 1.1, from its openssl/err.h.
fn reason_code_1_1(reason: Reason) -> c_int {
    /// `ERR_R_FATAL`.
    const FATAL: c_int = 64;
    match reason {
        Reason::InvalidPoolSize => ASYNC_R_INVALID_POOL_SIZE,
        Reason::NoMemory => 1 | FATAL,
        Reason::ShouldNotHaveBeenCalled => 2 | FATAL,
        Reason::PassedNullParameter => 3 | FATAL,
    }
}

/// The number that OpenSSL 1.1 has for a function, from its openssl/asyncerr.h.
fn function_code_1_1(function: &CStr) -> c_int {
    match function.to_bytes() {
        b"ASYNC_init_thread" => 101,
        b"ASYNC_start_job" => 105,
        b"ASYNC_WAIT_CTX_set_wait_fd" => 106,
        _ => 0,
    }
}
