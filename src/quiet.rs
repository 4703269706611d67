//! System calls that the program is not to notice: they leave `errno` alone, and are no
//! cancellation points.

use std::ffi::c_int;

/// As long as this lives, the thread can't be cancelled; then `errno` is what it was.
pub struct Quiet {
    errno: c_int,
    cancel_state: c_int,
}

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

impl Quiet {
    pub fn new() -> Self {
        const PTHREAD_CANCEL_DISABLE: c_int = 1;
        let mut cancel_state = 0;
        // SAFETY: `cancel_state` can be written; errno's place is the thread's own.
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

impl Drop for Quiet {
    fn drop(&mut self) {
        let mut old = 0;
        // SAFETY: as above.
        unsafe {
            *libc::__errno_location() = self.errno;
            pthread_setcancelstate(self.cancel_state, &mut old);
        }
    }
}
