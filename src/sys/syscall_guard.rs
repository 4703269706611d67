//! System calls that the program does not notice.

use std::ffi::c_int;

/// When it is dropped `errno` is what it was. It is enough for an allocation, which is no
/// cancellation point.
pub struct ErrnoGuard {
    errno: c_int,
}

/// While it lives the thread can't be cancelled; when it is dropped `errno` is what it was. So
/// a call of this library is no cancellation point and leaves `errno` alone, whatever system
/// calls it makes.
pub struct SyscallGuard {
    cancel_state: c_int,
    _errno: ErrnoGuard,
}

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

impl ErrnoGuard {
    pub fn new() -> Self {
        // SAFETY: the pointer is to the thread's errno.
        let errno = unsafe { *libc::__errno_location() };
        Self { errno }
    }
}

impl Drop for ErrnoGuard {
    fn drop(&mut self) {
        // SAFETY: as in `new`.
        unsafe { *libc::__errno_location() = self.errno };
    }
}

impl SyscallGuard {
    pub fn new() -> Self {
        const PTHREAD_CANCEL_DISABLE: c_int = 1;
        let mut cancel_state = 0;
        // SAFETY: the pointer is to a local variable.
        unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &mut cancel_state) };
        Self {
            cancel_state,
            _errno: ErrnoGuard::new(),
        }
    }
}

impl Drop for SyscallGuard {
    fn drop(&mut self) {
        let mut disabled = 0;
        // SAFETY: the pointer is to a local variable; the state is the one that `new` found.
        unsafe { pthread_setcancelstate(self.cancel_state, &mut disabled) };
    }
}
