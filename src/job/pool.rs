//! The jobs of a thread: the idle ones, the limit, making and destroying.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::error::{Error, NoJob, Reason};
use crate::job::job::{JobRef, LimitEpoch, ThreadId};
use crate::job::reclaim::{Reclaim, STEP_JOBS};
use crate::stack::guarded::GuardedStack;
use crate::stack::stack::Stack;
use crate::sys::slots::{BLOCK_SLOTS, SpareSlots};

/// The jobs of one thread; zeroed memory is a pool without any. The idle ones are linked by
/// [`Job::next_idle`](crate::job::job::Job).
pub struct Pool {
    /// The idle job used last, as its stack is the warmest.
    top: Cell<Option<JobRef>>,
    /// How many jobs were pushed.
    pushes: Cell<u32>,
    reclaim: Reclaim,
    /// Jobs made in this epoch that exist.
    made: Cell<usize>,
    /// How many that may be; 0: any number.
    limit: Cell<usize>,
    epoch: Cell<LimitEpoch>,
    /// Jobs of this thread that exist, idle or not, of any epoch.
    existing: Cell<u64>,
    /// For stacks of jobs to come, in a crowd.
    spare: SpareSlots,
    /// The thread exits: an idle job is destroyed, as nobody would free it later.
    is_closed: Cell<bool>,
}

/// Jobs left paused or running by threads that have exited; nobody can resume them.
pub static ABANDONED: AtomicU64 = AtomicU64::new(0);

/// What is due after a job was pushed.
pub enum Due {
    Nothing,
    /// Each 16th time: a step of the trimming, which so trims a job for each one pushed.
    Step,
    /// Each 256th time: the same, and a look at the clock.
    Period,
}

impl Pool {
    const STEP_EVERY: u32 = STEP_JOBS as u32;
    const PERIOD_EVERY: u32 = 256;
    /// From so many jobs on stacks are prepared a block at a time: one block in vain at most, one
    /// stack in 16.
    const CROWD: u64 = (BLOCK_SLOTS * BLOCK_SLOTS) as u64;

    /// The idle job that was used last.
    #[inline]
    pub fn pop(&self) -> Option<JobRef> {
        let job = self.top.get()?;
        let below = job.next_idle.take();
        self.top.set(below);
        self.reclaim.on_pop(job, below);
        Some(job)
    }

    /// Takes an idle job; destroys it if the pool is closed.
    #[inline]
    pub fn push(&self, job: JobRef) -> Due {
        if self.is_closed.get() {
            self.destroy(job).free();
            return Due::Nothing;
        }
        job.next_idle.set(self.top.replace(Some(job)));
        let pushes = self.pushes.get().wrapping_add(1);
        self.pushes.set(pushes);
        match pushes {
            pushes if !pushes.is_multiple_of(Self::STEP_EVERY) => Due::Nothing,
            pushes if !pushes.is_multiple_of(Self::PERIOD_EVERY) => Due::Step,
            _ => Due::Period,
        }
    }

    /// One step of the trimming; at [`Due::Period`] also the end of the period, if it was long
    /// enough.
    #[cold]
    pub fn reclaim(&self, due: Due) {
        self.reclaim.step();
        if matches!(due, Due::Period) {
            self.reclaim.end_period(self.top.get());
        }
    }

    /// A new job, idle and not in the pool, or why there can't be one.
    #[cold]
    pub fn make(&self, owner: ThreadId) -> Result<JobRef, NoJob> {
        if self.limit.get() != 0 && self.made.get() >= self.limit.get() {
            return Err(NoJob::Limit);
        }
        self.made.set(self.made.get() + 1); // before: the program's own function may start a job
        let uses_spare = self.is_crowd() || !self.spare.is_empty();
        let spare = uses_spare.then_some(&self.spare);
        let Some(stack) = Stack::new(spare) else {
            self.made.set(self.made.get() - 1);
            return Err(NoJob::NoMemory);
        };
        self.existing.set(self.existing.get() + 1);
        if self.is_closed.get() {
            ABANDONED.fetch_add(1, Relaxed); // until it ends: the thread may exit before
        }
        Ok(JobRef::new(stack, owner, self.epoch.get()))
    }

    /// Destroys an idle job that is not in the pool. Its stack is left.
    #[cold]
    pub fn destroy(&self, job: JobRef) -> Stack {
        if job.epoch == self.epoch.get() {
            self.made.set(self.made.get() - 1);
        }
        self.existing.set(self.existing.get() - 1);
        if self.is_closed.get() {
            ABANDONED.fetch_sub(1, Relaxed);
        }
        job.destroy()
    }

    /// Begins an epoch with this limit, and makes idle jobs, or fewer of them if memory ends.
    pub fn reset(&self, owner: ThreadId, limit: usize, idle: usize) -> Result<(), Error> {
        if idle > limit {
            let text = c"init_size is above max_size; give a larger max_size (with 0, no limit, init_size must be 0)";
            return Err(Error {
                reason: Reason::InvalidPoolSize,
                text,
            });
        }
        self.begin_epoch(limit);
        let idle = if self.is_closed.get() { 0 } else { idle };
        for job in (0..idle).map_while(|_| self.make(owner).ok()) {
            self.push(job);
        }
        Ok(())
    }

    /// Destroys the idle jobs, and begins an epoch with this limit (0: none) and no job made.
    pub fn begin_epoch(&self, limit: usize) {
        self.destroy_idle(Stack::free);
        self.made.set(0);
        self.limit.set(limit);
        self.epoch
            .set(LimitEpoch(self.epoch.get().0.wrapping_add(1)));
    }

    /// Destroys the idle jobs; their stacks go there.
    pub fn destroy_idle(&self, mut free: impl FnMut(Stack)) {
        while let Some(job) = self.pop() {
            free(self.destroy(job));
        }
        if !self.is_crowd() && !self.spare.is_empty() {
            GuardedStack::give_back_spare(&self.spare);
        }
    }

    /// Whether many jobs of the thread exist, so that more are to be expected.
    fn is_crowd(&self) -> bool {
        self.existing.get() >= Self::CROWD && !self.is_closed.get()
    }

    /// The thread exits, and has no idle job: from now on a job is destroyed when it becomes idle.
    /// Those that exist count as abandoned until then.
    pub fn close(&self) {
        self.is_closed.set(true);
        GuardedStack::give_back_spare(&self.spare);
        ABANDONED.fetch_add(self.existing.get(), Relaxed);
    }
}
