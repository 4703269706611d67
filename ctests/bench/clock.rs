//! The time that work takes a thread, on a machine that does other work as well.

use std::fs;
use std::time::{Duration, Instant};

/// Nanoseconds of wall time for each of the iterations that `work` makes. Waiting for other threads
/// of the program counts; waiting for a processor that runs something else does not.
pub fn nanoseconds_each(iterations: usize, work: impl FnOnce()) -> f64 {
    let (delay_before, began) = (run_delay(), Instant::now());
    work();
    let took = began.elapsed();
    let delay = run_delay().saturating_sub(delay_before);
    took.saturating_sub(delay).as_nanos() as f64 / iterations as f64
}

/// The time that this thread has waited for a processor since it began; 0 if the kernel doesn't
/// say.
fn run_delay() -> Duration {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let delay = schedstat
        .split(' ')
        .nth(1)
        .and_then(|delay| delay.parse().ok());
    Duration::from_nanos(delay.unwrap_or(0))
}
