//! OpenSSL's default library context (3.0 and later), which a job keeps across its pauses.
//!
//! The default belongs to a thread. A job starts with its caller's. At each switch out of a job
//! the job's default is saved and the caller's restored; at each resume the job's is set. So
//! every switch reads the default, and few have to set one.
//!
//! Reading it by the public function costs more than a switch. libcrypto keeps the value behind
//! a pthread key, which can be read directly once it is known which one ([`find_key`]). Where
//! that fails, the public function serves.

use std::cell::Cell;
use std::cell::UnsafeCell;
use std::ffi::{c_ulong, c_void};
use std::ptr;
use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Release},
};

/// `OSSL_LIB_CTX_set0_default`: makes a context the thread's default and returns the one before;
/// NULL changes nothing.
pub type SetDefault = unsafe extern "C" fn(*mut c_void) -> *mut c_void;

/// A libcrypto whose default context is followed.
struct Tracked {
    /// An [`Access`].
    access: AtomicU32,
    /// Written by `track` before `access` is, then only read.
    functions: UnsafeCell<Option<Functions>>,
}

// SAFETY: `functions` is written once, by one thread, before `access` tells others to read it.
unsafe impl Sync for Tracked {}

#[derive(Clone, Copy)]
struct Functions {
    set: SetDefault,
    /// The address of the context that is every thread's default at first.
    global: usize,
}

/// How the default context of a libcrypto is read.
#[derive(Clone, Copy)]
enum Access {
    /// Behind this pthread key, where NULL stands for the global context.
    Key(libc::pthread_key_t),
    /// By the public function.
    Call,
    /// Not any more: OPENSSL_cleanup has run, and the key may be somebody else's by now.
    Gone,
    /// No libcrypto has this place yet.
    Unused,
}

impl Access {
    /// A pthread key is a number below this: glibc has the most (PTHREAD_KEYS_MAX).
    const KEYS: libc::pthread_key_t = 1024;
    const GONE_BITS: u32 = Self::KEYS + 1;

    #[inline(always)]
    const fn from_bits(bits: u32) -> Self {
        match bits {
            0..Self::KEYS => Self::Key(bits),
            Self::KEYS => Self::Call,
            Self::GONE_BITS => Self::Gone,
            _ => Self::Unused,
        }
    }

    const fn to_bits(self) -> u32 {
        match self {
            Self::Key(key) => key,
            Self::Call => Self::KEYS,
            Self::Gone => Self::GONE_BITS,
            Self::Unused => Self::GONE_BITS + 1,
        }
    }
}

/// One is usual; versions 3 and 4 may be in a process together.
const TRACKED_COUNT: usize = 2;

static TRACKED: [Tracked; TRACKED_COUNT] = [const {
    Tracked {
        access: AtomicU32::new(Access::Unused.to_bits()),
        functions: UnsafeCell::new(None),
    }
}; TRACKED_COUNT];

/// A library context, as somebody's default.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LibCtx(*mut c_void);

impl LibCtx {
    const GLOBAL: Self = Self(ptr::null_mut());
    /// It was not read, because that libcrypto was not tracked.
    const UNKNOWN: Self = Self(ptr::without_provenance_mut(1));
}

/// The default contexts of a job or a thread, one in each tracked libcrypto.
pub struct SavedLibCtx([Cell<LibCtx>; TRACKED_COUNT]);

impl SavedLibCtx {
    pub const fn unknown() -> Self {
        Self([const { Cell::new(LibCtx::UNKNOWN) }; TRACKED_COUNT])
    }

    /// What the calling thread has now.
    #[inline(always)]
    pub fn of_thread() -> Self {
        Self([
            Cell::new(TRACKED[0].first_default()),
            Cell::new(TRACKED[1].default()),
        ])
    }

    /// Gives the thread these and returns what it had.
    #[inline(always)]
    pub fn swap_with_thread(&self) -> Self {
        let before = Self::of_thread();
        self.set_where_different(&before);
        before
    }

    /// Saves what the thread has now, and gives it back what it had before.
    #[inline(always)]
    pub fn save_and_restore(&self, before: Self) {
        let Self([first, second]) = Self::of_thread();
        self.0[0].set(first.get());
        self.0[1].set(second.get());
        before.set_where_different(self);
    }

    /// Makes these the thread's where they differ from `now`, which it has.
    #[inline(always)]
    fn set_where_different(&self, now: &Self) {
        for ((tracked, new), now) in TRACKED.iter().zip(&self.0).zip(&now.0) {
            if new.get() != now.get() {
                tracked.set_default(new.get());
            }
        }
    }
}

impl Tracked {
    #[inline(always)]
    fn default(&self) -> LibCtx {
        match Access::from_bits(self.access.load(Acquire)) {
            // SAFETY: it is the key of a libcrypto that has not been cleaned up.
            Access::Key(key) => LibCtx(unsafe { libc::pthread_getspecific(key) }),
            Access::Call => self.call(),
            Access::Gone | Access::Unused => LibCtx::UNKNOWN,
        }
    }

    /// The same for the first place. While no libcrypto has it, the thread's default will be the
    /// global context of the first one that comes.
    #[inline(always)]
    fn first_default(&self) -> LibCtx {
        match self.default() {
            LibCtx::UNKNOWN => LibCtx::GLOBAL,
            known => known,
        }
    }

    /// None before a libcrypto has the place.
    fn functions(&self) -> Option<Functions> {
        match Access::from_bits(self.access.load(Acquire)) {
            Access::Unused => None,
            // SAFETY: `track` wrote them before it stored another access.
            _ => unsafe { *self.functions.get() },
        }
    }

    #[cold]
    fn call(&self) -> LibCtx {
        let Some(functions) = self.functions() else {
            return LibCtx::UNKNOWN;
        };
        // SAFETY: the libcrypto has not been cleaned up; NULL changes nothing.
        let now = unsafe { (functions.set)(ptr::null_mut()) };
        if now.addr() == functions.global {
            LibCtx::GLOBAL
        } else {
            LibCtx(now)
        }
    }

    #[cold]
    fn set_default(&self, new: LibCtx) {
        let access = Access::from_bits(self.access.load(Acquire));
        let Some(functions) = self.functions() else {
            return;
        };
        if new == LibCtx::UNKNOWN || !matches!(access, Access::Key(_) | Access::Call) {
            return;
        }
        let context = match new {
            LibCtx::GLOBAL => ptr::with_exposed_provenance_mut(functions.global),
            LibCtx(context) => context,
        };
        // SAFETY: the libcrypto has not been cleaned up. The context was this side's default
        // before; that it still exists is up to the program, as with libcrypto itself.
        unsafe { (functions.set)(context) };
    }
}

/// What tracking a libcrypto needs of it.
pub struct Source {
    pub set: SetDefault,
    /// `OSSL_LIB_CTX_get0_global_default`'s result.
    pub global: *mut c_void,
    /// `OpenSSL_version_num`'s result.
    pub version: Option<c_ulong>,
}

/// Tracks the default context of a libcrypto from now on. Returns its place, if there was one
/// left. One thread at a time calls this.
///
/// # Safety
/// The libcrypto is initialised, and `untrack` is called before it is gone.
pub unsafe fn track(source: Source) -> Option<usize> {
    /// Later versions may read what a context points to, which [`find_key`] does not have.
    const LAST_MAJOR_KNOWN: c_ulong = 4;
    let functions = Functions {
        set: source.set,
        global: source.global.expose_provenance(),
    };
    let place = TRACKED
        .iter()
        .position(|tracked| tracked.functions().is_none())?;
    let is_known = source
        .version
        .is_some_and(|version| version >> 28 <= LAST_MAJOR_KNOWN);
    let key = if is_known { find_key(functions) } else { None };
    // SAFETY: nobody reads an unused place, and no other thread calls this.
    unsafe { *TRACKED[place].functions.get() = Some(functions) };
    let access = key.map_or(Access::Call, Access::Key);
    TRACKED[place].access.store(access.to_bits(), Release);
    Some(place)
}

/// Leaves the libcrypto in that place alone from now on: it has been cleaned up.
pub fn untrack(place: usize) {
    if let Some(tracked) = TRACKED.get(place) {
        tracked.access.store(Access::Gone.to_bits(), Release);
    }
}

/// The key that holds the calling thread's default, if exactly one does: makes a context the
/// default that nobody else has, looks behind which key it turns up, and restores the old one.
fn find_key(functions: Functions) -> Option<libc::pthread_key_t> {
    static PROBE: u64 = 0;
    let probe = (&raw const PROBE).cast_mut().cast::<c_void>();
    // SAFETY: known versions only store the pointer. No other code uses this thread's default
    // meanwhile, but for a signal handler that does what libcrypto forbids there. Behind a key that
    // nobody has, C libraries find NULL; above the last one musl would read any memory.
    unsafe {
        let keys = u32::try_from(libc::sysconf(libc::_SC_THREAD_KEYS_MAX)).unwrap_or(0);
        let before = (functions.set)(probe);
        let mut holding =
            (0..keys.min(Access::KEYS)).filter(|&key| libc::pthread_getspecific(key) == probe);
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
