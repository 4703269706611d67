//! How long something takes.

use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Of this thread alone: what else the machine does meanwhile is not counted.
    Processor,
    /// On the wall: where threads may wait for each other.
    Wall,
}

impl Clock {
    fn now(self) -> Duration {
        let clock = match self {
            Self::Processor => libc::CLOCK_THREAD_CPUTIME_ID,
            Self::Wall => libc::CLOCK_MONOTONIC,
        };
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: it may be written.
        unsafe { libc::clock_gettime(clock, &mut time) };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    /// Nanoseconds for each of so many turns, which `work` takes.
    pub fn each(self, turns: usize, work: impl FnOnce()) -> f64 {
        let began = self.now();
        work();
        (self.now() - began).as_nanos() as f64 / turns as f64
    }
}
