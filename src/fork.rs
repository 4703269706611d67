//! What `fork` does to this library: who must hear of it, in which order.

use crate::openssl::discover;
use crate::sys::mutex;
use crate::sys::syscall_guard::SyscallGuard;

/// Registers the handlers. They are never unloaded.
pub fn on_load() {
    // SAFETY: the handlers have the type that the C library expects and live as long as it does.
    unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
}

/// The discovery comes first: who waits for it has not announced a fork, and holds up nobody.
extern "C" fn prepare() {
    let _guard = SyscallGuard::new();
    discover::before_fork();
    mutex::before_fork();
}

/// The next forker, which waits for the discovery, finds the announcement taken back.
extern "C" fn parent() {
    mutex::after_fork_in_parent();
    discover::after_fork_in_parent();
}

extern "C" fn child() {
    mutex::after_fork_in_child();
    discover::after_fork_in_child();
}
