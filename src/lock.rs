//! Data shared between threads, behind locks that are held across `fork`.
//!
//! A lock that another thread holds at the moment of a `fork` would stay locked in the child
//! for ever, and what it guards half-changed. So a thread that forks says so and waits until
//! every lock was free once; from then on others wait for it before they change anything:
//!
//! ```text
//!   the thread that forks: FORKER = self | each lock: take, give back | fork | FORKER = 0
//!   the others:                 take ... give back     take, wait ............. go on
//! ```
//!
//! Nobody waits for ever: other libraries' fork handlers may take locks under which they call
//! in here, or call in themselves. To make "every lock" a short list, a [`Shared`] has no lock
//! of its own: it borrows one of [`TABLE`], chosen by its address. From that follow the two
//! rules of this file: **no thread holds two at once**, and **no foreign code runs under a
//! lock**.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};

use crate::clock::{PATIENCE, now};
use crate::libcrypto;
use crate::quiet::Quiet;

/// Enough that two threads at work on different things rarely meet.
const LOCKS: usize = 64;

/// One lock to a cache line, so that neighbours do not slow each other.
#[repr(align(64))]
struct Lock(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: the mutex is only touched by the pthread_mutex functions, which are made for that.
unsafe impl Sync for Lock {}

static TABLE: [Lock; LOCKS] =
    [const { Lock(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER)) }; LOCKS];

/// The thread that forks, 0 if none does.
static FORKER: AtomicUsize = AtomicUsize::new(0);

/// When it began, in milliseconds of the monotonic clock.
static FORK_BEGAN: AtomicU64 = AtomicU64::new(0);

impl Lock {
    #[inline]
    fn take(&self) {
        // SAFETY: a statically initialised mutex that is never moved nor destroyed.
        unsafe { libc::pthread_mutex_lock(self.0.get()) };
        if FORKER.load(Relaxed) != 0 {
            self.wait_for_fork();
        }
    }

    #[cold]
    fn wait_for_fork(&self) {
        // SAFETY: it takes nothing.
        let this_thread = unsafe { libc::pthread_self() } as usize;
        let end = FORK_BEGAN.load(Relaxed) + PATIENCE;
        while ![0, this_thread].contains(&FORKER.load(Relaxed)) && now() < end {
            self.give_back();
            std::thread::yield_now();
            // SAFETY: as in `take`.
            unsafe { libc::pthread_mutex_lock(self.0.get()) };
        }
    }

    /// Waits until it is free.
    fn drain(&self, until: &libc::timespec) {
        // SAFETY: as in `take`; the time is a valid one.
        if unsafe { libc::pthread_mutex_timedlock(self.0.get(), until) } == 0 {
            self.give_back();
        }
    }

    #[inline]
    fn give_back(&self) {
        // SAFETY: as in `take`; the callers hold it.
        unsafe { libc::pthread_mutex_unlock(self.0.get()) };
    }

    /// Frees it, whoever held it.
    fn reset(&self) {
        // SAFETY: only in a child with a single thread, which doesn't wait for it.
        unsafe { self.0.get().write(libc::PTHREAD_MUTEX_INITIALIZER) };
    }
}

/// A value that one thread at a time may see.
pub struct Shared<T>(UnsafeCell<T>);

// SAFETY: the value is reached only through a `Held`, which holds the lock.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Waits for the value. The caller must not hold another `Held`.
    #[inline]
    pub fn lock(&self) -> Held<'_, T> {
        // The lowest bits are the same in most addresses.
        let lock = &TABLE[(self.0.get().addr() >> 6) % LOCKS];
        lock.take();
        Held {
            lock,
            value: &self.0,
        }
    }
}

/// The value of a [`Shared`], for as long as this lives.
pub struct Held<'a, T> {
    lock: &'static Lock,
    value: &'a UnsafeCell<T>,
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the lock is held, so nobody else has a reference.
        unsafe { &*self.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, so nobody else has a reference.
        unsafe { &mut *self.value.get() }
    }
}

impl<T> Drop for Held<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.give_back();
    }
}

/// Has every `fork` from now on find and leave the locks free, and what they guard whole.
pub fn keep_across_fork() {
    extern "C" fn before() {
        let _quiet = Quiet::new();
        // SAFETY: the time is a valid place to write.
        let until = unsafe {
            FORK_BEGAN.store(now(), SeqCst);
            FORKER.store(libc::pthread_self() as usize, SeqCst);
            let mut until = std::mem::zeroed::<libc::timespec>();
            libc::clock_gettime(libc::CLOCK_REALTIME, &mut until);
            until.tv_sec += (PATIENCE / 1000) as libc::time_t;
            until
        };
        TABLE.iter().for_each(|lock| lock.drain(&until));
        libcrypto::before_fork();
    }
    extern "C" fn after_in_parent() {
        libcrypto::after_fork_in_parent();
        FORKER.store(0, SeqCst);
    }
    extern "C" fn after_in_child() {
        libcrypto::after_fork_in_child();
        TABLE.iter().for_each(Lock::reset);
        FORKER.store(0, SeqCst);
    }
    // SAFETY: the handlers live as long as the process: the library is never unloaded.
    unsafe { libc::pthread_atfork(Some(before), Some(after_in_parent), Some(after_in_child)) };
}
