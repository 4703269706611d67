//! A thread's pool: its idle jobs, the one used last on top, and how many may be made.
//!
//! What lies deep in the pool has not been needed for a while. From time to time the pool
//! looks how far down it was used, and has the jobs below that give back what their stacks
//! have touched, all but the topmost page:
//!
//! ```text
//!   top                                                         bottom
//!    |  needed in this period  |  not needed  |  to do  |  shallow  |
//!   idle                     lowest          at      shallow        0
//! ```

use std::cell::Cell;

use crate::clock;
use crate::job::JobRef;
use crate::libcrypto;

/// Idle jobs of one thread, linked through [`Job::next_idle`](crate::job::Job).
pub struct Pool {
    /// The one used last, as its stack is the warmest.
    top: Cell<Option<JobRef>>,
    /// How many there are.
    idle: Cell<usize>,
    /// The fewest there were in this period, and the topmost of those.
    lowest: Cell<usize>,
    lowest_top: Cell<Option<JobRef>>,
    /// So many at the bottom had nothing more to give back after the last pass.
    shallow: Cell<usize>,
    pass: Cell<Pass>,
    /// When this period began, in milliseconds.
    began: Cell<u64>,
    /// How many jobs were put here.
    finished: Cell<u32>,
    /// Jobs made in this era.
    made: Cell<usize>,
    /// How many that may be; 0: any number.
    limit: Cell<usize>,
    era: Cell<Era>,
}

/// The way from what was not needed in a period down to what is shallow.
#[derive(Clone, Copy)]
struct Pass {
    /// How many idle jobs there are from its start to the bottom.
    from: usize,
    /// How many there are from the next one that is to be made shallow, and that one.
    at: usize,
    next: Option<JobRef>,
}

/// Begins with each [`Pool::set_limit`]. Jobs that were made before and join the pool when
/// they finish are not counted, as in libcrypto.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Era(u32);

/// In milliseconds: longer than what busy threads do again and again.
const PERIOD: u64 = 10_000;
/// When so many jobs have finished, as many at the most are made shallow: no call that finishes
/// a job takes much longer than others.
const STEP: u32 = 16;
/// When so many have, the pool looks whether the period is over.
const LOOK_EVERY: u32 = 256;

impl Pool {
    pub const fn new() -> Self {
        Self {
            top: Cell::new(None),
            idle: Cell::new(0),
            lowest: Cell::new(0),
            lowest_top: Cell::new(None),
            shallow: Cell::new(0),
            pass: Cell::new(Pass {
                from: 0,
                at: 0,
                next: None,
            }),
            began: Cell::new(0),
            finished: Cell::new(0),
            made: Cell::new(0),
            limit: Cell::new(0),
            era: Cell::new(Era(0)),
        }
    }

    /// The idle job that was used last.
    #[inline]
    pub fn take(&self) -> Option<JobRef> {
        let job = self.top.get()?;
        let top = job.next_idle.take();
        let idle = self.idle.get() - 1;
        self.top.set(top);
        self.idle.set(idle);
        if idle < self.lowest.get() {
            self.lowest.set(idle);
            self.lowest_top.set(top);
        }
        Some(job)
    }

    #[inline]
    pub fn put(&self, job: JobRef) {
        job.next_idle.set(self.top.replace(Some(job)));
        self.idle.set(self.idle.get() + 1);
        let finished = self.finished.get().wrapping_add(1);
        self.finished.set(finished);
        if finished.is_multiple_of(STEP) {
            self.look_back();
        }
    }

    #[cold]
    fn look_back(&self) {
        let asks_clock = self.finished.get().is_multiple_of(LOOK_EVERY);
        if asks_clock {
            libcrypto::look(); // it may run jobs: nothing of the pool is held meanwhile
        }
        let (lowest, lowest_top) = (self.lowest.get(), self.lowest_top.get());
        let mut shallow = self.shallow.get();
        let mut pass = self.pass.get();
        pass.from = pass.from.min(lowest);
        if pass.at > lowest {
            (pass.at, pass.next) = (lowest, lowest_top); // what it had come to was used since
        }
        for _ in 0..STEP {
            let Some(job) = pass.next.filter(|_| pass.at > shallow) else {
                break;
            };
            job.make_shallow();
            (pass.at, pass.next) = (pass.at - 1, job.next_idle.get());
        }
        let is_done = pass.at <= shallow;
        if is_done {
            shallow = pass.from;
        }
        self.shallow.set(shallow);
        if asks_clock {
            let now = clock::now();
            // A clock that was put back begins a new period.
            if now.wrapping_sub(self.began.get()) >= PERIOD {
                self.began.set(now);
                self.lowest.set(self.idle.get());
                self.lowest_top.set(self.top.get());
                if is_done {
                    (pass.from, pass.at, pass.next) = (lowest, lowest, lowest_top);
                }
            }
        }
        self.pass.set(pass);
    }

    /// Begins an era, with no job made.
    pub fn set_limit(&self, limit: usize) {
        self.made.set(0);
        self.limit.set(limit);
        self.era.set(Era(self.era.get().0.wrapping_add(1)));
    }

    pub fn era(&self) -> Era {
        self.era.get()
    }

    pub fn is_at_limit(&self) -> bool {
        self.limit.get() != 0 && self.made.get() >= self.limit.get()
    }

    pub fn count_made(&self) {
        self.made.set(self.made.get() + 1);
    }

    /// A job that was made in that era is gone.
    pub fn uncount_made(&self, era: Era) {
        if era == self.era.get() {
            self.made.set(self.made.get() - 1);
        }
    }
}
