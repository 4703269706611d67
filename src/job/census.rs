//! How many jobs the process has, in which state, and what they have of their stacks.

use crate::job::job::{Sight, State};
use crate::stack::guarded::Usage;
use crate::stack::stack::{OWNER_BYTES, Walk};

#[derive(Default)]
pub struct Census {
    pub running: u64,
    pub paused: u64,
    /// Those of the paused ones whose wait context was freed.
    pub orphaned: u64,
    pub idle: u64,
    /// Bytes of the stacks that are in memory.
    pub resident_bytes: u64,
    /// Bytes that frames have taken of the deepest of these stacks.
    pub deepest_bytes: u64,
}

impl Census {
    /// Counts the jobs, without what stacks have: in time proportional to their number.
    pub fn of_jobs() -> Self {
        Self::take(false)
    }

    /// The same with that, which takes some system calls for each stack.
    pub fn of_jobs_and_stacks() -> Self {
        Self::take(true)
    }

    fn take(with_stacks: bool) -> Self {
        let mut census = Self::default();
        let walk = Walk::new();
        while walk.step(usize::MAX, |passed| {
            let Some(job) = Sight::of(passed.owner) else {
                return;
            };
            match job.state {
                State::Running => census.running += 1,
                State::Paused => census.paused += 1,
                State::Idle | State::Trimmed => census.idle += 1,
            }
            census.orphaned += u64::from(job.state == State::Paused && job.is_orphaned);
            if let Some(stack) = passed.stack.filter(|_| with_stacks) {
                let usage = Usage::of(stack.clone());
                census.resident_bytes += usage.resident_bytes as u64;
                let depth = usage.depth_below(stack.end - OWNER_BYTES) as u64;
                census.deepest_bytes = census.deepest_bytes.max(depth);
            }
        }) {}
        census
    }
}
