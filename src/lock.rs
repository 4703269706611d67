//! Data shared between threads, behind locks that are held across `fork`.
//!
//! A lock that another thread holds at the moment of a `fork` would stay locked in the
//! child for ever. So `fork` first takes every lock there is and both sides release them
//! afterwards. To make "every lock" a short list, a [`Shared`] has no lock of its own: it
//! borrows one of [`LOCKS`], chosen by its address. From that follow the two rules of this
//! file: **no thread holds two at once**, and **no foreign code runs under a lock**, not
//! even `malloc`, which may have fork handlers of its own.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};

/// Enough that two threads at work on different things rarely meet.
const LOCKS: usize = 64;

/// One lock to a cache line, so that neighbours do not slow each other.
#[repr(align(64))]
struct Lock(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: the mutex is only touched by the pthread_mutex functions, which are made for that.
unsafe impl Sync for Lock {}

static TABLE: [Lock; LOCKS] =
    [const { Lock(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER)) }; LOCKS];

impl Lock {
    #[inline]
    fn take(&self) {
        // SAFETY: a statically initialised mutex that is never moved nor destroyed.
        unsafe { libc::pthread_mutex_lock(self.0.get()) };
    }

    #[inline]
    fn give_back(&self) {
        // SAFETY: as above; the callers hold it, or are the fork that took it.
        unsafe { libc::pthread_mutex_unlock(self.0.get()) };
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
        // What differs between neighbours is above the size of the smallest of them.
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

/// Has every `fork` from now on take all locks before and release them after, on both sides.
pub fn hold_across_fork() {
    extern "C" fn before() {
        TABLE.iter().for_each(Lock::take);
    }
    extern "C" fn after() {
        TABLE.iter().for_each(Lock::give_back);
    }
    // SAFETY: the handlers live as long as the process: the library is never unloaded.
    unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after)) };
}
