//! What belongs to a thread: the job that runs on it, its pool, and what happens at its end.
//!
//! A [`Thread`] is plain thread-local memory without a destructor, so that it can be used to
//! the very end: the destructors of other libraries may call in after ours has run. Ours is a
//! pthread key's; it is set anew whenever the thread goes on using jobs.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::job::{self, JobRef};
use crate::lock::{self, Shared};
use crate::pool::Pool;
use crate::wait_ctx;

/// Tells threads apart for as long as the process lives. Neither a pid nor an address does:
/// a forked child goes on with the jobs of the thread that forked, and a new thread may get
/// the memory of one that ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ThreadId(u64);

impl ThreadId {
    pub fn number(self) -> u64 {
        self.0
    }
}

pub struct Thread {
    /// The innermost job that runs on this thread.
    pub current: Cell<Option<JobRef>>,
    /// It has an id, and its end is waited for.
    ready: Cell<bool>,
    id: Cell<ThreadId>,
    pub pool: Pool,
    /// Jobs of this thread that exist, idle or not.
    pub jobs: Cell<usize>,
    /// What it has added to [`ABANDONED`].
    abandoned: Cell<usize>,
    pub spare_contexts: wait_ctx::Spares,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            current: Cell::new(None),
            ready: Cell::new(false),
            id: Cell::new(ThreadId(0)),
            pool: Pool::new(),
            jobs: Cell::new(0),
            abandoned: Cell::new(0),
            spare_contexts: wait_ctx::Spares::new(),
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
            if !thread.ready.get() {
                thread.make_ready();
            }
            f(thread)
        })
    }

    #[cold]
    fn make_ready(&self) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        if self.id.get() == ThreadId(0) {
            self.id.set(ThreadId(NEXT.fetch_add(1, Relaxed)));
        }
        // SAFETY: the key is a valid one; its destructor gets the value of its own thread,
        // whose memory outlives all pthread destructors.
        unsafe { libc::pthread_setspecific(end_key(), ptr::from_ref(self).cast()) };
        self.ready.set(true);
    }

    #[inline]
    pub fn id(&self) -> ThreadId {
        self.id.get()
    }

    /// Frees the idle jobs and forgets the limit. Paused and running jobs stay.
    pub fn clean_up(&self) {
        job::free_idle(self);
        self.pool.set_limit(0);
    }

    /// The thread ends. A job may still count as running: `pthread_exit` left its stack.
    fn end(&self) {
        self.ready.set(false);
        self.current.set(None);
        self.clean_up();
        self.spare_contexts.hand_over();
        // What is left can't be resumed any more, unless a later destructor does it: then it
        // comes here again and takes back what it had counted.
        let abandoned = self.jobs.get();
        ABANDONED.fetch_add(abandoned.wrapping_sub(self.abandoned.replace(abandoned)) as u64, Relaxed);
    }
}

/// The key whose destructor is told of a thread's end. Made by the first thread, together
/// with the handlers that let locks survive a `fork`.
pub fn end_key() -> libc::pthread_key_t {
    unsafe extern "C" fn end(thread: *mut c_void) {
        // SAFETY: the value is set by `make_ready`, on this thread.
        unsafe { &*thread.cast::<Thread>() }.end();
    }
    static KEY: Shared<Option<libc::pthread_key_t>> = Shared::new(None);
    *KEY.lock().get_or_insert_with(|| {
        let mut key = 0;
        // SAFETY: `key` is a valid place, and `end` is never unloaded.
        unsafe { libc::pthread_key_create(&mut key, Some(end)) };
        lock::hold_across_fork();
        key
    })
}
