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
    AtomicPtr, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use once_cell::race::OnceBox;

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

/// A place for a libcrypto whose default context is carried.
struct Carrier {
    /// The pthread key behind which the default is, NULL there being the global one; or one
    /// of the constants below.
    key: AtomicU32,
    functions: OnceBox<Functions>,
    global: AtomicPtr<c_void>,
}

/// Pthread keys are numbers below this (PTHREAD_KEYS_MAX).
const KEYS: libc::pthread_key_t = 1024;
/// No key was found: the public function has to be asked.
const ASK: u32 = KEYS;
/// Its OPENSSL_cleanup has run: it is not to be called, and its key may be somebody else's.
const GONE: u32 = KEYS + 1;
/// The place is free.
const FREE: u32 = KEYS + 2;

/// One is usual; 3 and 4 may be in a process together.
const CARRIERS: usize = 2;

static CARRIED: [Carrier; CARRIERS] = [const {
    Carrier {
        key: AtomicU32::new(FREE),
        functions: OnceBox::new(),
        global: AtomicPtr::new(ptr::null_mut()),
    }
}; CARRIERS];

/// The defaults of a job, or of a thread, in each libcrypto; NULL is the global one.
pub struct Defaults([Cell<*mut c_void>; CARRIERS]);

impl Defaults {
    pub const fn global() -> Self {
        Self([const { Cell::new(ptr::null_mut()) }; CARRIERS])
    }

    /// What the thread has now.
    #[inline(always)]
    pub fn of_thread() -> Self {
        Self([
            Cell::new(CARRIED[0].get_first()),
            Cell::new(CARRIED[1].get()),
        ])
    }

    /// Gives the thread these, and returns what it had.
    #[inline(always)]
    pub fn exchange_with_thread(&self) -> Self {
        let before = Self::of_thread();
        self.give_to_thread(&before);
        before
    }

    /// Remembers what the thread has now, and gives it back what it had before.
    #[inline(always)]
    pub fn take_from_thread(&self, before: Self) {
        let Self([first, second]) = Self::of_thread();
        self.0[0].set(first.get());
        self.0[1].set(second.get());
        before.give_to_thread(self);
    }

    /// Gives the thread these where they differ from what it has.
    #[inline(always)]
    fn give_to_thread(&self, now: &Self) {
        for ((carrier, new), now) in CARRIED.iter().zip(&self.0).zip(&now.0) {
            if new.get() != now.get() {
                carrier.set(new.get());
            }
        }
    }
}

impl Carrier {
    /// The thread's default; NULL for the global one.
    #[inline(always)]
    fn get(&self) -> *mut c_void {
        let key = self.key.load(Acquire);
        if key < KEYS {
            // SAFETY: it is the libcrypto's, which is not gone.
            unsafe { libc::pthread_getspecific(key) }
        } else if key == ASK {
            self.ask()
        } else {
            ptr::null_mut()
        }
    }

    /// The same for the first place. If that is free this looks for a libcrypto: one may have
    /// been loaded since.
    #[inline(always)]
    fn get_first(&self) -> *mut c_void {
        if self.key.load(Relaxed) == FREE {
            libcrypto::look();
        }
        self.get()
    }

    #[cold]
    fn ask(&self) -> *mut c_void {
        let Some(functions) = self.functions.get() else {
            return ptr::null_mut();
        };
        // SAFETY: NULL only asks.
        let now = unsafe { (functions.set)(ptr::null_mut()) };
        if now == self.global.load(Relaxed) {
            ptr::null_mut()
        } else {
            now
        }
    }

    /// Makes a context the thread's default; NULL for the global one.
    #[cold]
    fn set(&self, context: *mut c_void) {
        let Some(functions) = self
            .functions
            .get()
            .filter(|_| self.key.load(Acquire) <= ASK)
        else {
            return;
        };
        let context = if context.is_null() {
            self.global.load(Relaxed)
        } else {
            context
        };
        // SAFETY: it was the default before; that it still exists is up to the program, as
        // with libcrypto.
        unsafe { (functions.set)(context) };
    }
}

/// Has the default context of a libcrypto carried from now on.
pub fn carry(functions: Functions) {
    // SAFETY: it takes nothing.
    let global = unsafe { (functions.global)() };
    let key = find_key(functions, global).unwrap_or(ASK);
    let mut functions = Box::new(functions);
    for carrier in &CARRIED {
        match carrier.functions.set(functions) {
            Ok(()) => {
                carrier.global.store(global, Relaxed);
                carrier.key.store(key, Release);
                return;
            }
            Err(taken) => functions = taken,
        }
    }
}

/// Leaves alone the libcrypto that has this function: it has been cleaned up.
pub fn forget(set: unsafe extern "C" fn(*mut c_void) -> *mut c_void) {
    for carrier in &CARRIED {
        if carrier
            .functions
            .get()
            .is_some_and(|functions| ptr::fn_addr_eq(functions.set, set))
        {
            carrier.key.store(GONE, Release);
        }
    }
}

/// The key that holds the calling thread's default, if there is exactly one that does.
fn find_key(functions: Functions, global: *mut c_void) -> Option<libc::pthread_key_t> {
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
