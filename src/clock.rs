//! The time, in milliseconds, and how long to be patient.

/// How long threads wait for each other around a fork, or while one looks for a libcrypto. What
/// takes longer than this may never come: then a signal handler forks that has interrupted this
/// very thread, other locks are in play, or a `dlopen` waits for us.
pub const PATIENCE: u64 = 1000;

/// Milliseconds of the monotonic clock.
pub fn now() -> u64 {
    // SAFETY: the time is a valid place to write.
    unsafe {
        let mut now = std::mem::zeroed::<libc::timespec>();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now);
        now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
    }
}
