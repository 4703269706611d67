//! What `fork` does to this library: who must hear of it, in which order.

use crate::job::thread;
use crate::openssl::discover;
use crate::sys::mutex;
use crate::sys::syscall_guard::SyscallGuard;

/// Registers the handlers. Where the C library has no memory for that, a fork is as unprotected
/// as with libcrypto.
pub fn on_load() {
    // SAFETY: the handlers are never unloaded.
    unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
}

/// The discovery is locked first: a forker that waits for it has not announced its fork yet, so no
/// other thread waits for that forker.
extern "C" fn prepare() {
    let _guard = SyscallGuard::new();
    discover::before_fork();
    mutex::before_fork();
}

/// In reverse order: the announcement is taken back before the next forker gets the discovery.
extern "C" fn parent() {
    mutex::after_fork_in_parent();
    discover::after_fork_in_parent();
}

extern "C" fn child() {
    let _guard = SyscallGuard::new();
    mutex::after_fork_in_child();
    discover::after_fork_in_child();
    thread::after_fork_in_child();
}
