//! Mutexes that a `fork` finds free, with what they guard whole.
//!
//! A mutex that another thread holds at the moment of a `fork` would stay locked in the child
//! for ever, and what it guards half-changed. So a thread that forks announces it, then waits
//! until each mutex has been free once; from the announcement on other threads wait before they
//! change anything. Two threads that fork at once take turns:
//!
//! ```text
//!   forking thread:  FORKER = self | each stripe: lock, unlock | fork | FORKER = 0
//!   another thread:        lock ... unlock       lock, wait ............. goes on
//!   another forker:  waits for FORKER == 0 .............................. FORKER = self ...
//! ```
//!
//! The stripes are not simply held across the fork: handlers of other libraries, which run in
//! between, may call in on this thread, or wait for a lock under which another thread calls in.
//! For the same reason every wait ends after [`PATIENCE_MS`].
//!
//! To keep "each mutex" a short list, a [`ForkSafeMutex`] has no lock of its own; it borrows one
//! of the [`STRIPES`], chosen by its address. Two rules follow: **no thread holds two at once**,
//! and **no foreign code runs under one**.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::thread;

use crate::sys::clock::{PATIENCE_MS, lock_until, now_ms, time_in};
use crate::sys::limits::page_bytes;

/// Many enough that two threads at work on different things rarely meet.
const STRIPE_COUNT: usize = 64;

/// One stripe to a cache line, so that neighbours don't slow each other.
#[repr(align(64))]
struct Stripe(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: only the pthread_mutex functions, which are made for several threads, and `reset`,
// which runs while there is a single thread, touch the mutex.
unsafe impl Sync for Stripe {}

/// All stripes, in pages of their own, of whatever size the processor has.
#[cfg_attr(target_arch = "x86_64", repr(align(4096)))]
#[cfg_attr(target_arch = "aarch64", repr(align(65536)))]
struct Stripes([Stripe; STRIPE_COUNT]);

static STRIPES: Stripes =
    Stripes([const { Stripe(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER)) }; STRIPE_COUNT]);

/// Has the kernel (Linux 4.14) give a forked child stripes that are free: zeros. Fork handlers of
/// other libraries, which may run in the child before those of this one, find them so. Where the
/// kernel refuses, the stripes are reset by the handler. So they are where a page is larger than the
/// processor's ever are, as tests simulate it: other variables share it.
pub fn on_load() {
    const MADV_WIPEONFORK: i32 = 18;
    if page_bytes() > align_of::<Stripes>() {
        return;
    }
    let stripes = (&raw const STRIPES).cast_mut().cast();
    // SAFETY: the pages hold nothing but the stripes.
    unsafe { libc::madvise(stripes, size_of::<Stripes>(), MADV_WIPEONFORK) };
}

/// The thread that is about to fork, as `pthread_self` names it; 0: none.
static FORKER: AtomicUsize = AtomicUsize::new(0);

/// When that thread announced itself, in milliseconds of the monotonic clock.
static ANNOUNCED_MS: AtomicU64 = AtomicU64::new(0);

/// The calling thread as `pthread_self` names it: an even number, and not 0. A forked child's only
/// thread has the name of the one that forked.
pub fn this_thread() -> usize {
    // SAFETY: the function has no conditions.
    unsafe { libc::pthread_self() as usize }
}

impl Stripe {
    #[inline]
    fn lock(&self) {
        // SAFETY: the mutex is initialised statically and never moves.
        unsafe { libc::pthread_mutex_lock(self.0.get()) };
        if FORKER.load(Relaxed) != 0 {
            self.wait_for_fork();
        }
    }

    #[cold]
    fn wait_for_fork(&self) {
        let deadline = ANNOUNCED_MS.load(Relaxed) + PATIENCE_MS;
        let must_wait =
            || ![0, this_thread()].contains(&FORKER.load(Relaxed)) && now_ms() < deadline;
        while must_wait() {
            self.unlock(); // the child must not find it locked
            while must_wait() {
                thread::yield_now();
            }
            // SAFETY: as in `lock`.
            unsafe { libc::pthread_mutex_lock(self.0.get()) };
        }
    }

    #[inline]
    fn unlock(&self) {
        // SAFETY: as in `lock`; every caller has locked it.
        unsafe { libc::pthread_mutex_unlock(self.0.get()) };
    }

    /// Waits until the stripe has been free once, `deadline` at the latest; false if it was not.
    fn drain(&self, deadline: &libc::timespec) -> bool {
        // SAFETY: as in `lock`; the deadline is a valid time.
        let was_free = unsafe { lock_until(self.0.get(), deadline) };
        if was_free {
            self.unlock();
        }
        was_free
    }

    /// Makes it free, whichever thread of the parent held it.
    fn reset(&self) {
        // SAFETY: called in a forked child, whose single thread is here. (If it forked in a signal
        // handler that has interrupted a pthread_mutex function, POSIX allows the child no such
        // call afterwards.)
        unsafe { self.0.get().write(libc::PTHREAD_MUTEX_INITIALIZER) };
    }
}

/// A value that one thread at a time sees.
#[repr(transparent)]
pub struct ForkSafeMutex<T>(UnsafeCell<T>);

// SAFETY: the value is reached only through a MutexGuard, which holds the value's stripe.
unsafe impl<T: Send> Sync for ForkSafeMutex<T> {}

impl<T> ForkSafeMutex<T> {
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Waits for the value. The caller must not hold another MutexGuard.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        // Most addresses agree in their lowest six bits.
        let stripe = &STRIPES.0[(self.0.get().addr() >> 6) % STRIPE_COUNT];
        stripe.lock();
        MutexGuard {
            stripe,
            value: &self.0,
        }
    }
}

/// The value of a [`ForkSafeMutex`]; dropping it unlocks.
pub struct MutexGuard<'a, T> {
    stripe: &'static Stripe,
    value: &'a UnsafeCell<T>,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the stripe, so no other thread has a reference.
        unsafe { &*self.value.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; `&mut self` excludes another reference of this thread.
        unsafe { &mut *self.value.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.stripe.unlock();
    }
}

/// Announces a fork of this thread and waits until every stripe has been free once.
pub fn before_fork() {
    let give_up_ms = now_ms() + PATIENCE_MS;
    loop {
        let announced = FORKER.compare_exchange(0, this_thread(), SeqCst, SeqCst);
        if announced.is_ok() {
            ANNOUNCED_MS.store(now_ms(), SeqCst);
            break;
        }
        if now_ms() >= give_up_ms {
            break; // the other forker is stuck: this one forks unannounced
        }
        thread::yield_now();
    }
    let deadline = time_in(PATIENCE_MS);
    for stripe in &STRIPES.0 {
        stripe.drain(&deadline);
    }
}

/// Whether no mutex is held for long.
pub fn are_free() -> bool {
    const PATIENCE_MS: u64 = 100;
    let deadline = time_in(PATIENCE_MS);
    STRIPES.0.iter().all(|stripe| stripe.drain(&deadline))
}

/// Takes back this thread's announcement, if it stands.
pub fn after_fork_in_parent() {
    let _ = FORKER.compare_exchange(this_thread(), 0, SeqCst, SeqCst);
}

pub fn after_fork_in_child() {
    STRIPES.0.iter().for_each(Stripe::reset);
    FORKER.store(0, SeqCst);
}
