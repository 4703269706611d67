//! How long something takes a thread, on a machine that does other things as well.

use std::fs;
use std::time::{Duration, Instant};

/// Nanoseconds for each of so many turns, which `work` takes: from beginning to end, waiting for
/// other threads included, but for the time when the thread could have gone on and others had the
/// processors.
pub fn each(turns: usize, work: impl FnOnce()) -> f64 {
    let (delay, began) = (delay(), Instant::now());
    work();
    let took = began.elapsed();
    let disturbed = self::delay().saturating_sub(delay);
    took.saturating_sub(disturbed).as_nanos() as f64 / turns as f64
}

/// How long this thread was ready to run and did not, since it began; 0 if the kernel doesn't say.
fn delay() -> Duration {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let delay = schedstat
        .split(' ')
        .nth(1)
        .and_then(|delay| delay.parse().ok());
    Duration::from_nanos(delay.unwrap_or(0))
}
