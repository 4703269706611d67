//! The time, to measure how long something took.

/// Milliseconds of the monotonic clock.
pub fn now() -> u64 {
    // SAFETY: the time is a valid place to write.
    unsafe {
        let mut now = std::mem::zeroed::<libc::timespec>();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now);
        now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
    }
}
