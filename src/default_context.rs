//! OpenSSL's default library context (3.0 and later), which a job keeps across its pauses.
//!
//! The default belongs to a thread. When a job is started it has its caller's. At each switch
//! out of a job the job's is remembered and the caller's put back; at each resume the job's
//! is set. So each switch asks, and few have to set.
//!
//! Asking by the public function costs more than a switch. libcrypto keeps the value behind a
//! pthread key, which can be read instead, once it is known which one: [`find_key`] sets a
//! context nobody else has and looks where it turns up. Where that fails, the public function
//! serves.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{
    AtomicBool, AtomicPtr,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::libcrypto;

/// The functions of one libcrypto.
#[derive(Clone, Copy)]
pub struct Functions {
    /// Makes a context the thread's default and returns the one before; NULL only asks.
    pub set: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    /// The one that a thread has which never set any.
    pub global: unsafe extern "C" fn() -> *mut c_void,
    pub new: unsafe extern "C" fn() -> *mut c_void,
    pub free: unsafe extern "C" fn(*mut c_void),
}

/// A libcrypto whose default context is carried.
struct Carrier {
    set: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    global: *mut c_void,
    /// The pthread key behind which the default is; NULL there stands for the global one.
    key: Option<libc::pthread_key_t>,
    /// Whether it can be called, and its key is still its own.
    alive: &'static AtomicBool,
}

/// How many libcryptos can have their default context carried.
const CARRIERS: usize = 2;

static CARRIED: [AtomicPtr<Carrier>; CARRIERS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; CARRIERS];

/// The defaults of a job, or of a thread, in each libcrypto; NULL is the global one.
pub struct Defaults([Cell<*mut c_void>; CARRIERS]);

impl Defaults {
    pub const fn global() -> Self {
        Self([const { Cell::new(ptr::null_mut()) }; CARRIERS])
    }

    /// What the thread has now.
    #[inline]
    pub fn of_thread() -> Self {
        let now = Self::global();
        for (carrier, now) in carriers().zip(&now.0) {
            now.set(carrier.get());
        }
        now
    }

    /// Gives the thread these, and returns what it had.
    #[inline]
    pub fn exchange_with_thread(&self) -> Self {
        let before = Self::of_thread();
        self.give_to_thread(&before);
        before
    }

    /// Remembers what the thread has now, and gives it back what it had before.
    #[inline]
    pub fn take_from_thread(&self, before: Self) {
        for (carrier, now) in carriers().zip(&self.0) {
            now.set(carrier.get());
        }
        before.give_to_thread(self);
    }

    /// Gives the thread these where they differ from what it has.
    #[inline]
    fn give_to_thread(&self, now: &Self) {
        for (carrier, (new, now)) in carriers().zip(std::iter::zip(&self.0, &now.0)) {
            if new.get() != now.get() {
                carrier.set(new.get());
            }
        }
    }
}

/// The libcryptos that can be called. Where none is known this looks for one: it may have been
/// loaded since.
#[inline(always)]
fn carriers() -> impl Iterator<Item = &'static Carrier> {
    if CARRIED[0].load(Relaxed).is_null() {
        libcrypto::look();
    }
    // SAFETY: what `carry` put there is never freed.
    let known = CARRIED
        .iter()
        .map_while(|carrier| unsafe { carrier.load(Acquire).as_ref() });
    known.take_while(|carrier| carrier.alive.load(Relaxed))
}

impl Carrier {
    /// The thread's default; NULL for the global one.
    #[inline(always)]
    fn get(&self) -> *mut c_void {
        match self.key {
            // SAFETY: as long as it is alive, its key is a valid one.
            Some(key) => unsafe { libc::pthread_getspecific(key) },
            None => self.ask(),
        }
    }

    #[cold]
    fn ask(&self) -> *mut c_void {
        // SAFETY: NULL only asks.
        let now = unsafe { (self.set)(ptr::null_mut()) };
        if now == self.global {
            ptr::null_mut()
        } else {
            now
        }
    }

    /// Makes a context the thread's default; NULL for the global one.
    #[cold]
    fn set(&self, context: *mut c_void) {
        let context = if context.is_null() {
            self.global
        } else {
            context
        };
        // SAFETY: it was the default before; that it still exists is up to the program, as
        // with libcrypto.
        unsafe { (self.set)(context) };
    }
}

/// Has the default context of a libcrypto carried from now on, while it is alive.
pub fn carry(functions: Functions, alive: &'static AtomicBool) {
    // SAFETY: it takes nothing.
    let global = unsafe { (functions.global)() };
    let carrier = Carrier {
        set: functions.set,
        global,
        key: find_key(functions, global),
        alive,
    };
    let carrier = Box::into_raw(Box::new(carrier));
    let free = |place: &&AtomicPtr<_>| {
        place
            .compare_exchange(ptr::null_mut(), carrier, Release, Relaxed)
            .is_ok()
    };
    let _ = CARRIED.iter().find(free); // one too many stays as it is
}

/// The key that holds the calling thread's default, if there is exactly one that does.
fn find_key(functions: Functions, global: *mut c_void) -> Option<libc::pthread_key_t> {
    const KEYS: libc::pthread_key_t = 1024; // PTHREAD_KEYS_MAX; keys are numbers below it
    // SAFETY: the functions are libcrypto's; a key that is nobody's reads as NULL.
    unsafe {
        let probe = (functions.new)();
        if probe.is_null() {
            return None;
        }
        let before = (functions.set)(probe);
        let mut holding = (0..KEYS).filter(|&key| libc::pthread_getspecific(key) == probe);
        let (key, another) = (holding.next(), holding.next());
        (functions.set)(before);
        (functions.free)(probe);
        let stored = if before == global {
            ptr::null_mut()
        } else {
            before
        };
        key.filter(|&key| another.is_none() && libc::pthread_getspecific(key) == stored)
    }
}
