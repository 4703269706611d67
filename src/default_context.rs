//! OpenSSL's default library context (3.0 and later), which a job keeps across its pauses.
//!
//! The default belongs to a thread. When a job is started it has its caller's. At each switch
//! out of a job the job's is remembered and the caller's put back; at each resume the job's
//! is set. So each switch asks, and few have to set.
//!
//! Asking by the public function costs more than a switch. libcrypto keeps the value behind a
//! pthread key, which can be read instead, once it is known which one ([`find_key`]). Where
//! that fails, the public function serves.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Release},
};

use crate::libcrypto::{self, Symbols};

/// Makes a context the thread's default and returns the one before; NULL only asks.
type Set = unsafe extern "C" fn(*mut c_void) -> *mut c_void;

/// A place for a libcrypto whose default context is carried.
struct Carrier {
    /// A [`Way`] to read it.
    way: AtomicU32,
    functions: OnceLock<Functions>,
}

struct Functions {
    set: Set,
    /// The context that is every thread's default at first.
    global: usize,
}

/// How to read the default context of a libcrypto.
#[derive(Clone, Copy)]
enum Way {
    /// Behind this pthread key, where NULL stands for the global one.
    Key(libc::pthread_key_t),
    /// By asking the public function.
    Ask,
    /// Not any more: its OPENSSL_cleanup has run, and the key may be somebody else's.
    Gone,
    /// There is no libcrypto in this place.
    Free,
}

impl Way {
    /// Pthread keys are numbers below this (PTHREAD_KEYS_MAX).
    const KEYS: libc::pthread_key_t = 1024;

    #[inline(always)]
    const fn from_bits(bits: u32) -> Self {
        match bits {
            0..Self::KEYS => Self::Key(bits),
            Self::KEYS => Self::Ask,
            0x401 => Self::Gone,
            _ => Self::Free,
        }
    }

    const fn to_bits(self) -> u32 {
        match self {
            Self::Key(key) => key,
            Self::Ask => Self::KEYS,
            Self::Gone => 0x401,
            Self::Free => 0x402,
        }
    }
}

/// One is usual; 3 and 4 may be in a process together.
const CARRIERS: usize = 2;

static CARRIED: [Carrier; CARRIERS] = [const {
    Carrier {
        way: AtomicU32::new(Way::Free.to_bits()),
        functions: OnceLock::new(),
    }
}; CARRIERS];

/// A thread's default, or a job's.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Default(*mut c_void);

impl Default {
    const GLOBAL: Self = Self(ptr::null_mut());
    /// It was not asked, as nobody knew of that libcrypto.
    const UNKNOWN: Self = Self(ptr::without_provenance_mut(1));
}

/// The defaults of a job, or of a thread, in each libcrypto.
pub struct Defaults([Cell<Default>; CARRIERS]);

impl Defaults {
    pub const fn unknown() -> Self {
        Self([const { Cell::new(Default::UNKNOWN) }; CARRIERS])
    }

    /// What the thread has now.
    #[inline(always)]
    pub fn of_thread() -> Self {
        if libcrypto::may_be_another() {
            libcrypto::look();
        }
        Self([
            Cell::new(CARRIED[0].first_default()),
            Cell::new(CARRIED[1].default()),
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

    /// Gives the thread these where they differ from `now`, which it has.
    #[inline(always)]
    fn give_to_thread(&self, now: &Self) {
        for ((carrier, new), now) in CARRIED.iter().zip(&self.0).zip(&now.0) {
            if new.get() != now.get() {
                carrier.set_default(new.get());
            }
        }
    }
}

impl Carrier {
    #[inline(always)]
    fn default(&self) -> Default {
        match Way::from_bits(self.way.load(Acquire)) {
            // SAFETY: it is the libcrypto's, which is not gone.
            Way::Key(key) => Default(unsafe { libc::pthread_getspecific(key) }),
            Way::Ask => self.ask(),
            Way::Gone | Way::Free => Default::UNKNOWN,
        }
    }

    /// The same for the first place. Where there is no libcrypto, the thread has what will be
    /// the global one of the first that comes.
    #[inline(always)]
    fn first_default(&self) -> Default {
        match self.default() {
            Default::UNKNOWN => Default::GLOBAL,
            known => known,
        }
    }

    #[cold]
    fn ask(&self) -> Default {
        let Some(functions) = self.functions.get() else {
            return Default::UNKNOWN;
        };
        // SAFETY: NULL only asks.
        let now = unsafe { (functions.set)(ptr::null_mut()) };
        if now.addr() == functions.global {
            Default::GLOBAL
        } else {
            Default(now)
        }
    }

    #[cold]
    fn set_default(&self, new: Default) {
        let way = Way::from_bits(self.way.load(Acquire));
        let Some(functions) = self.functions.get() else {
            return;
        };
        if new == Default::UNKNOWN || !matches!(way, Way::Key(_) | Way::Ask) {
            return;
        }
        let context = match new {
            Default::GLOBAL => ptr::with_exposed_provenance_mut(functions.global),
            Default(context) => context,
        };
        // SAFETY: it was the default before; that it still exists is up to the program, as
        // with libcrypto.
        unsafe { (functions.set)(context) };
    }
}

/// Has the default context of a libcrypto carried from now on, if it has such a thing and
/// there is a place for it, which is returned. By one thread at a time.
///
/// # Safety
/// The libcrypto is initialised.
pub unsafe fn carry(symbols: &Symbols) -> Option<usize> {
    let (set, global) = (symbols.set_default?, symbols.global_default?);
    // SAFETY: the caller's promise.
    let (global, version) = unsafe { (global(), symbols.version.map(|version| version())) };
    let functions = Functions {
        set,
        global: global.expose_provenance(),
    };
    let place = CARRIED
        .iter()
        .position(|carrier| carrier.functions.get().is_none())?;
    // Later versions may do more with a context than to compare it.
    const LAST_VERSION_KNOWN: std::ffi::c_ulong = 4;
    let known = version.is_some_and(|version| version >> 28 <= LAST_VERSION_KNOWN);
    let key = if known { find_key(&functions) } else { None };
    let _ = CARRIED[place].functions.set(functions);
    CARRIED[place]
        .way
        .store(key.map_or(Way::Ask, Way::Key).to_bits(), Release);
    Some(place)
}

/// Leaves alone what has that place: it has been cleaned up.
pub fn forget(place: usize) {
    if let Some(carrier) = CARRIED.get(place) {
        carrier.way.store(Way::Gone.to_bits(), Release);
    }
}

/// The key that holds the calling thread's default, if there is exactly one that does: sets
/// one that nobody else has, which is never used, looks where it turns up, and puts the old
/// one back.
fn find_key(functions: &Functions) -> Option<libc::pthread_key_t> {
    static PROBE: u64 = 0;
    let probe = (&raw const PROBE).cast_mut().cast::<c_void>();
    // SAFETY: set only stores the pointer, and nobody uses this thread's default meanwhile. A
    // key that is nobody's reads as NULL.
    unsafe {
        let before = (functions.set)(probe);
        let mut holding = (0..Way::KEYS).filter(|&key| libc::pthread_getspecific(key) == probe);
        let (key, another) = (holding.next(), holding.next());
        (functions.set)(before);
        let stored = if before.addr() == functions.global {
            ptr::null_mut()
        } else {
            before
        };
        key.filter(|&key| another.is_none() && libc::pthread_getspecific(key) == stored)
    }
}
