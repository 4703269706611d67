//! The monotonic clock, and how long threads wait for one another.

/// The longest that a thread waits for another one's `fork`, or for another one that initialises
/// a libcrypto, in milliseconds. After it the thread goes on unprotected, because the other may
/// wait for this very thread: a signal handler that forks has interrupted the holder of a mutex,
/// or a second library's fork handler holds a lock under which this thread called in.
pub const PATIENCE_MS: u64 = 1000;

/// The time of a clock; 0 where the kernel does not tell.
fn now(clock: libc::clockid_t) -> libc::timespec {
    // SAFETY: zeros are a valid time; the kernel writes to a local variable.
    unsafe {
        let mut now = std::mem::zeroed();
        libc::clock_gettime(clock, &mut now);
        now
    }
}

/// Nanoseconds since some moment before the process began; always 0 where the kernel does not tell.
pub fn now_ns() -> u64 {
    let now = now(libc::CLOCK_MONOTONIC);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The same in milliseconds.
pub fn now_ms() -> u64 {
    now_ns() / 1_000_000
}

/// Locks a mutex; false if it was not free until then. (By real time: ThreadSanitizer does not know
/// the function that takes another clock.)
///
/// # Safety
/// The mutex is initialised, and not destroyed meanwhile.
pub unsafe fn lock_until(mutex: *mut libc::pthread_mutex_t, deadline: &libc::timespec) -> bool {
    // SAFETY: the caller's promise; the deadline is a valid time.
    unsafe { libc::pthread_mutex_timedlock(mutex, deadline) == 0 }
}

/// The time that it will be that many milliseconds from now, for [`lock_until`].
pub fn time_in(ms: u64) -> libc::timespec {
    let mut time = now(libc::CLOCK_REALTIME);
    let nanoseconds = time.tv_nsec as u64 + ms % 1000 * 1_000_000;
    time.tv_sec += (ms / 1000 + nanoseconds / 1_000_000_000) as i64;
    time.tv_nsec = (nanoseconds % 1_000_000_000) as _;
    time
}
