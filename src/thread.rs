//! What belongs to a thread: the job that runs on it, its pool, and what happens at its end.
//!
//! A [`Thread`] is plain thread-local memory without a destructor, so that it can be used to
//! the very end: the destructors of other libraries may call in after ours, a pthread key's,
//! has run. From then on nothing is kept for later: there might be none.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::job::{self, JobRef};
use crate::lock::{self, Shared};
use crate::pool::Pool;
use crate::sanitizer;
use crate::wait_ctx;

/// Tells threads apart for as long as the process lives. Neither a pid nor an address does:
/// a forked child goes on with the jobs of the thread that forked, and a new thread may get
/// the memory of one that ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ThreadId(u64);

pub struct Thread {
    /// The innermost job that runs on this thread.
    pub current: Cell<Option<JobRef>>,
    pub pool: Pool,
    pub spare_contexts: wait_ctx::Spares,
    stage: Cell<Stage>,
    id: Cell<ThreadId>,
    /// Jobs of this thread that exist, idle or not.
    jobs: Cell<u64>,
    /// What ThreadSanitizer knows it by outside jobs.
    watched: Cell<*mut c_void>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has no id yet, and nothing to clean up.
    New,
    Ready,
    /// Its destructor has run, or it can't have one.
    Ending,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            current: Cell::new(None),
            pool: Pool::new(),
            spare_contexts: wait_ctx::Spares::new(),
            stage: Cell::new(Stage::New),
            id: Cell::new(ThreadId(0)),
            jobs: Cell::new(0),
            watched: Cell::new(ptr::null_mut()),
        }
    };
}

/// Jobs left paused or running by threads that ended; nobody can resume them.
static ABANDONED: AtomicU64 = AtomicU64::new(0);

/// How many jobs were abandoned since the process began.
pub fn jobs_abandoned() -> u64 {
    ABANDONED.load(Relaxed)
}

impl Thread {
    /// Calls `f` with the calling thread.
    #[inline(always)]
    pub fn with<R>(f: impl FnOnce(&Self) -> R) -> R {
        THREAD.with(f)
    }

    /// The same for a thread that is going to have something to clean up.
    #[inline(always)]
    pub fn with_ready<R>(f: impl FnOnce(&Self) -> R) -> R {
        Self::with(|thread| {
            if thread.stage.get() == Stage::New {
                thread.make_ready();
            }
            f(thread)
        })
    }

    #[cold]
    fn make_ready(&self) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        self.id.set(ThreadId(NEXT.fetch_add(1, Relaxed)));
        self.watched.set(sanitizer::current_fibre());
        let told_of_end = end_key().is_some_and(|key| {
            // SAFETY: it is our key; its destructor gets the value of its own thread, whose
            // memory outlives all destructors.
            unsafe { libc::pthread_setspecific(key, ptr::from_ref(self).cast()) == 0 }
        });
        self.stage.set(if told_of_end {
            Stage::Ready
        } else {
            Stage::Ending
        });
    }

    #[inline]
    pub fn id(&self) -> ThreadId {
        self.id.get()
    }

    /// The thread ends: what is kept now is lost.
    #[inline]
    pub fn is_ending(&self) -> bool {
        self.stage.get() == Stage::Ending
    }

    /// A job of this thread was made. While the thread ends, nobody may be left to resume it.
    pub fn count_job(&self) {
        self.jobs.set(self.jobs.get() + 1);
        if self.is_ending() {
            ABANDONED.fetch_add(1, Relaxed);
        }
    }

    /// A job of this thread was freed.
    pub fn uncount_job(&self) {
        self.jobs.set(self.jobs.get() - 1);
        if self.is_ending() {
            ABANDONED.fetch_sub(1, Relaxed);
        }
    }

    /// Frees the idle jobs and forgets the limit. Paused and running jobs stay.
    pub fn clean_up(&self) {
        job::free_idle(self);
        self.pool.set_limit(0);
    }

    /// `pthread_exit` or a cancellation has unwound the current job, and will unwind nothing
    /// else of this thread's jobs: their stacks are left as they are.
    pub fn leave_jobs(&self) {
        if self.current.take().is_some() {
            sanitizer::leave_jobs(self.watched.get());
        }
    }

    /// The thread ends. Where nothing is unwound a job may still count as running.
    fn end(&self) {
        self.leave_jobs();
        self.clean_up();
        self.spare_contexts.hand_over();
        self.stage.set(Stage::Ending);
        ABANDONED.fetch_add(self.jobs.get(), Relaxed);
    }
}

/// The key whose destructor is told of a thread's end, if one could be had.
fn end_key() -> Option<libc::pthread_key_t> {
    unsafe extern "C" fn end(thread: *mut c_void) {
        // SAFETY: the value is set by `make_ready`, on this thread.
        unsafe { &*thread.cast::<Thread>() }.end();
    }
    static KEY: Shared<Option<Option<libc::pthread_key_t>>> = Shared::new(None);
    *KEY.lock().get_or_insert_with(|| {
        let mut key = 0;
        // SAFETY: `key` is a valid place, and `end` is never unloaded.
        let made = unsafe { libc::pthread_key_create(&mut key, Some(end)) } == 0;
        made.then_some(key)
    })
}

/// Called when the library is loaded, while there is no other thread, most likely.
pub fn set_up() {
    end_key();
    lock::keep_across_fork();
}
