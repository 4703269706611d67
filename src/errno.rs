//! The caller's `errno`, kept over system calls that it knows nothing of.

use std::ffi::c_int;

/// Puts `errno` back when dropped.
pub struct KeptErrno(c_int);

impl KeptErrno {
    pub fn new() -> Self {
        // SAFETY: it points to the thread's errno.
        Self(unsafe { *libc::__errno_location() })
    }
}

impl Drop for KeptErrno {
    fn drop(&mut self) {
        // SAFETY: it points to the thread's errno.
        unsafe { *libc::__errno_location() = self.0 };
    }
}
