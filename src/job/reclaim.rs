//! What idle jobs give back of their stacks, and when.
//!
//! A pool is used from its top. What lies deep in it has not been needed for a while: those jobs
//! give back what their stacks have touched, but for the page that the job itself is in.
//!
//! ```text
//!   top                                                                  bottom
//!    | used in this period | not used yet |  to trim  |    trimmed    |
//!                          ^ low_water    ^ cursor
//! ```
//!
//! An example: 1,000 jobs have run together and are idle; from then on a server uses 10. At the
//! end of the first period `low_water` moves to the top. At the end of the second one it is at
//! the eleventh job: those from there on were not used for a whole period. The cursor starts
//! there and trims 16 jobs, downwards, whenever 16 jobs have finished. A job that is popped while
//! one of the two points to it pushes the pointer down.

use std::cell::Cell;

use crate::job::job::{JobRef, State};
use crate::sys::clock;

/// The shortest period, in milliseconds: longer than what busy threads do again and again.
const PERIOD_MS: u64 = 10_000;
/// The most jobs that one step trims, so that no call takes much longer than others.
pub const STEP_JOBS: usize = 16;

/// Which jobs of a pool are to be trimmed; zeroed memory is a valid value.
pub struct Reclaim {
    /// The topmost job that has not been popped in this period; None: all were.
    low_water: Cell<Option<JobRef>>,
    /// The next job to trim, if there is one; from it on down to the first trimmed one, or to
    /// the bottom, no job was popped for a whole period.
    cursor: Cell<Option<JobRef>>,
    period_began_ms: Cell<u64>,
}

impl Reclaim {
    /// `job` is popped; `below` is the next one.
    #[inline(always)]
    pub fn on_pop(&self, job: JobRef, below: Option<JobRef>) {
        if self.low_water.get() == Some(job) {
            self.low_water.set(below);
            // Every job above the low water was popped, so the cursor is not above it.
            if self.cursor.get() == Some(job) {
                self.cursor.set(below);
            }
        }
    }

    /// Trims the next jobs.
    pub fn step(&self) {
        for _ in 0..STEP_JOBS {
            let Some(job) = self.cursor.get() else {
                return;
            };
            if job.state.get() == State::Trimmed {
                return self.cursor.set(None); // and so is all below it
            }
            job.trim();
            self.cursor.set(job.next_idle.get());
        }
    }

    /// Ends the period if it has been long enough. What was not used in it is to be trimmed; if an
    /// earlier trimming still goes on, a later period finds those jobs again.
    pub fn end_period(&self, top: Option<JobRef>) {
        let now_ms = clock::now_ms();
        if now_ms.wrapping_sub(self.period_began_ms.get()) >= PERIOD_MS {
            self.period_began_ms.set(now_ms);
            let unused = self.low_water.replace(top);
            if self.cursor.get().is_none() {
                self.cursor.set(unused);
            }
        }
    }
}
