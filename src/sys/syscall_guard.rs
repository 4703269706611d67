//! System calls that the program does not notice.

use std::ffi::c_int;

/// While it lives the thread can't be cancelled; when it is dropped `errno` is what it was. So
/// a call of this library is no cancellation point and leaves `errno` alone, whatever system
/// calls it makes.
pub struct SyscallGuard {
    errno: c_int,
    cancel_state: c_int,
}

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

impl SyscallGuard {
    pub fn new() -> Self {
        const PTHREAD_CANCEL_DISABLE: c_int = 1;
        let mut cancel_state = 0;
        // SAFETY: both pointers, to a local variable and to the thread's errno, are valid.
        let errno = unsafe {
            pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &mut cancel_state);
            *libc::__errno_location()
        };
        Self {
            errno,
            cancel_state,
        }
    }
}

impl Drop for SyscallGuard {
    fn drop(&mut self) {
        let mut disabled = 0;
        // SAFETY: as in `new`; the state is the one that `new` found.
        unsafe {
            *libc::__errno_location() = self.errno;
            pthread_setcancelstate(self.cancel_state, &mut disabled);
        }
    }
}
