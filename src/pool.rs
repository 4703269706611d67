//! A thread's pool: the idle jobs, the one used last in front, and how many may be made.

use std::cell::Cell;

use crate::job::JobRef;

/// Idle jobs of one thread, linked through [`Job::next_idle`](crate::job::Job).
pub struct Pool {
    front: Cell<Option<JobRef>>,
    /// Jobs made for this pool since [`Pool::set_limit`]. Jobs that were made before and
    /// join it when they finish are not among them, as in libcrypto.
    made: Cell<usize>,
    /// How many that may be; 0: any number.
    limit: Cell<usize>,
}

impl Pool {
    pub const fn new() -> Self {
        Self {
            front: Cell::new(None),
            made: Cell::new(0),
            limit: Cell::new(0),
        }
    }

    /// The idle job that was used last: its stack is the warmest.
    #[inline]
    pub fn take(&self) -> Option<JobRef> {
        let job = self.front.get()?;
        self.front.set(job.next_idle.take());
        Some(job)
    }

    #[inline]
    pub fn put(&self, job: JobRef) {
        job.next_idle.set(self.front.replace(Some(job)));
    }

    /// Begins to count anew.
    pub fn set_limit(&self, limit: usize) {
        self.made.set(0);
        self.limit.set(limit);
    }

    pub fn is_at_limit(&self) -> bool {
        self.limit.get() != 0 && self.made.get() >= self.limit.get()
    }

    pub fn count_made(&self) {
        self.made.set(self.made.get() + 1);
    }
}
