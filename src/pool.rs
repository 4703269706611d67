//! A thread's pool: its idle jobs, the one used last on top, and how many may be made.
//!
//! What lies deep in the pool has not been needed for a while. From time to time the pool
//! looks how far down it was used, and has the jobs below that give back what their stacks
//! have touched, all but the topmost page:
//!
//! ```text
//!   bottom                                                     top
//!    | shallow |   unneeded   | needed in this period |  <- put, take ->
//!    0      shallow        lowest                    len
//! ```

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;

use crate::clock;
use crate::job::JobRef;

/// Idle jobs of one thread.
pub struct Pool {
    /// The one used last is on top, as its stack is the warmest. There is room for all jobs
    /// that the thread has: to finish one takes no memory. Given back by
    /// [`Pool::give_back_room`], as nothing of a thread has a destructor.
    idle: RefCell<ManuallyDrop<Vec<JobRef>>>,
    /// The fewest that were idle in this period.
    lowest: Cell<usize>,
    /// The fewest that were idle in the last one.
    unneeded: Cell<usize>,
    /// So many have made their stacks shallow. Above `lowest` they were used since.
    shallow: Cell<usize>,
    /// When this period began, in milliseconds.
    began: Cell<u64>,
    until_look: Cell<u32>,
    /// Jobs made in this era.
    made: Cell<usize>,
    /// How many that may be; 0: any number.
    limit: Cell<usize>,
    era: Cell<Era>,
}

/// Begins with each [`Pool::set_limit`]. Jobs that were made before and join the pool when
/// they finish are not counted, as in libcrypto.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Era(u32);

/// In milliseconds: longer than what busy threads do again and again.
const PERIOD: u64 = 10_000;
/// The pool looks when so many jobs have finished, and makes as many shallow at the most, so
/// that nobody waits for it.
const LOOK_EVERY: u32 = 256;

impl Pool {
    pub const fn new() -> Self {
        Self {
            idle: RefCell::new(ManuallyDrop::new(Vec::new())),
            lowest: Cell::new(0),
            unneeded: Cell::new(0),
            shallow: Cell::new(0),
            began: Cell::new(0),
            until_look: Cell::new(LOOK_EVERY),
            made: Cell::new(0),
            limit: Cell::new(0),
            era: Cell::new(Era(0)),
        }
    }

    /// The idle job that was used last.
    #[inline]
    pub fn take(&self) -> Option<JobRef> {
        let mut idle = self.idle.borrow_mut();
        let job = idle.pop()?;
        self.lowest.set(self.lowest.get().min(idle.len()));
        Some(job)
    }

    #[inline]
    pub fn put(&self, job: JobRef) {
        self.idle.borrow_mut().push(job);
        let until_look = self.until_look.get() - 1;
        self.until_look.set(until_look);
        if until_look == 0 {
            self.look_back();
        }
    }

    /// Whether there is room for so many jobs in all.
    pub fn make_room(&self, jobs: usize) -> bool {
        let mut idle = self.idle.borrow_mut();
        let more = jobs.saturating_sub(idle.len());
        idle.try_reserve(more).is_ok()
    }

    /// The pool is empty, and no job is left that could join it.
    pub fn give_back_room(&self) {
        drop(ManuallyDrop::into_inner(self.idle.take()));
    }

    #[cold]
    fn look_back(&self) {
        self.until_look.set(LOOK_EVERY);
        let idle = self.idle.borrow();
        let lowest = self.lowest.get();
        let mut unneeded = self.unneeded.get().min(lowest);
        let now = clock::now();
        if now - self.began.get() >= PERIOD {
            unneeded = lowest;
            self.lowest.set(idle.len());
            self.began.set(now);
        }
        self.unneeded.set(unneeded);
        let start = self.shallow.get().min(lowest);
        let end = unneeded.min(start + LOOK_EVERY as usize);
        idle[start..end].iter().for_each(|job| job.make_shallow());
        self.shallow.set(end);
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
