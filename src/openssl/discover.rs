//! Which libcryptos the process has.
//!
//! A libcrypto is what the weak references are bound to, and every object that defines
//! `ASYNC_start_job` and an error queue itself, whichever way it was loaded. They are looked for
//! when it may matter, at the first job and at the first error, and again when the loader has
//! loaded something: what follows from the first call into a libcrypto (its allocator can't be
//! replaced any more, say) must not come earlier than with its own jobs.
//!
//! Nobody waits for the loader: it holds its lock while a constructor runs, which may wait for the
//! thread that starts a job. So an object that is listed may be half loaded, or about to be
//! unloaded:
//!
//! ```text
//!   dlopen:   listed | relocated | constructors | returns          dlclose: destructors | unmapped
//!                    |<----------- is_relocated ------------ - - - ------------------->|
//! ```
//!
//! It is called from `relocated` on, when its `dlopen` can't fail any more. Nearly all libcryptos
//! ask never to be unloaded. One that does not is first pinned, by a thread of its own that may
//! wait for the loader as long as it has to. (Such a one may itself wait for the loader when it is
//! initialised, as it does in its own ASYNC_start_job.) What is not ready is tried again at the
//! next call.
//!
//! An example: a server without OpenSSL has started jobs, so `DISCOVERED` is the loader's count,
//! 9. It loads libm: 10, the next job finds nothing new, and `DISCOVERED` is 10. Another thread
//! calls `dlopen` for a plug-in and its libcrypto. The next job sees 12, walks the list, finds a
//! libcrypto that is not relocated, and leaves `DISCOVERED` at 10. The job after that walks again,
//! finds it relocated, initialises it, and stores 12. From then on jobs compare equal numbers.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::mem;
use std::ops::ControlFlow;
use std::ptr;
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::thread;
use std::time::Duration;

use crate::openssl::libcrypto::{self, Symbols};
use crate::sys::clock::{PATIENCE_MS, now_ms};
use crate::sys::elf::SymbolType;
use crate::sys::loader;
use crate::sys::mutex::this_thread;
use crate::sys::syscall_guard::SyscallGuard;

/// The loader's count when everything that it had loaded was known and initialised.
static DISCOVERED: AtomicU64 = AtomicU64::new(NEVER);

/// The loader's count before the last walk through its list.
static WALKED: AtomicU64 = AtomicU64::new(NEVER);

const NEVER: u64 = u64::MAX;

/// A count as it may be kept, to be compared later.
fn kept(count: u64) -> u64 {
    match count {
        loader::PENDING => NEVER,
        count => count,
    }
}

/// The discoverer: a thread, as `pthread_self` names it, and its purpose ([`DISCOVERY`] or
/// [`FORK`]); 0: none. Only this thread touches the candidates.
static DISCOVERER: AtomicUsize = AtomicUsize::new(0);

/// When the discoverer became one, in milliseconds of the monotonic clock; NEVER if there is none.
/// Those who wait for a discoverer that is stuck wait a second together, not each.
static SINCE_MS: AtomicU64 = AtomicU64::new(NEVER);

/// The purpose is the lowest bit, which the name of a thread leaves free.
const DISCOVERY: usize = 0;
const FORK: usize = 1;

struct Candidates(UnsafeCell<[Option<Candidate>; CAPACITY]>);

// SAFETY: only the thread named by DISCOVERER reaches the candidates.
unsafe impl Sync for Candidates {}

/// More libcryptos than this are not looked for at once.
const CAPACITY: usize = 4;

/// What the last walk has found and nobody has called yet.
static CANDIDATES: Candidates = Candidates(UnsafeCell::new([const { None }; CAPACITY]));

#[derive(Clone, Copy)]
struct Candidate {
    symbols: Symbols,
    identity: usize,
    lifetime: Lifetime,
}

/// How long an object stays once it is relocated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lifetime {
    /// Our weak references are bound to it.
    Permanent,
    /// It asks never to be unloaded.
    NoDelete,
    Dlclosable,
}

/// Whether something was loaded that has not been looked at.
#[inline(always)]
pub fn new_objects_possible() -> bool {
    loader::load_count() != DISCOVERED.load(Acquire)
}

/// Finds the libcryptos that have come and makes the first calls into them. Cheap if nothing was
/// loaded; where the loader's count is unknown it walks through the list each time.
#[cold]
pub fn discover() {
    if !new_objects_possible() && loader::is_load_count_known() {
        return;
    }
    let _guard = SyscallGuard::new();
    // Another thread that discovers may take long. Without a libcrypto it is worth the wait: a
    // default context or an error would be lost.
    let patience_ms = match libcrypto::alive().next() {
        Some(_) => 0,
        None => PATIENCE_MS,
    };
    if !lock_discovery(DISCOVERY, patience_ms) {
        return;
    }
    let count = loader::load_count();
    let is_due = count != WALKED.load(Relaxed) || !loader::is_load_count_known();
    let mut all_ready = !is_due || walk_or_retry_later(count);
    for index in 0..CAPACITY {
        // SAFETY: this thread is the discoverer. The candidate is taken out before libcrypto's
        // initialisation, which may call back into this library.
        let place = unsafe { &mut (*CANDIDATES.0.get())[index] };
        if place.is_some_and(|candidate| !candidate.is_ready()) {
            all_ready = false;
        } else if let Some(candidate) = place.take() {
            // SAFETY: it is relocated, and stays.
            unsafe { libcrypto::initialise(candidate.symbols) };
        }
    }
    if all_ready {
        DISCOVERED.store(kept(count), Release);
    }
    unlock_discovery();
}

/// Discovers where nothing tells whether something was loaded. Called now and then.
pub fn poll() {
    if !loader::is_load_count_known() {
        discover();
    }
}

/// Makes the calling thread the discoverer. False if another one is it for `patience_ms`, or if
/// this thread is already: libcrypto's initialisation has called the program, which starts a job.
fn lock_discovery(purpose: usize, patience_ms: u64) -> bool {
    let (this_thread, called_ms) = (this_thread(), now_ms());
    loop {
        match DISCOVERER.compare_exchange(0, this_thread | purpose, Acquire, Relaxed) {
            Ok(_) => {
                SINCE_MS.store(now_ms(), Relaxed);
                return true;
            }
            Err(other) if other & !FORK == this_thread => return false,
            Err(_) if now_ms() >= SINCE_MS.load(Relaxed).min(called_ms) + patience_ms => {
                return false;
            }
            Err(_) => thread::yield_now(),
        }
    }
}

fn unlock_discovery() {
    SINCE_MS.store(NEVER, Relaxed);
    DISCOVERER.store(0, Release);
}

/// How long a call waits for the loader's list, in milliseconds.
const LIST_PATIENCE_MS: u64 = 20;
/// How long calls do not wait for it at all after one has waited in vain, in milliseconds.
const LIST_RETRY_MS: u64 = 500;

/// Walks; false if the list is locked: then the next call tries again.
fn walk_or_retry_later(count: u64) -> bool {
    static PATIENT_FROM_MS: AtomicU64 = AtomicU64::new(0);
    let patience_ms = match now_ms() < PATIENT_FROM_MS.load(Relaxed) {
        true => 0,
        false => LIST_PATIENCE_MS,
    };
    let is_walked = walk(count, patience_ms);
    if !is_walked && patience_ms > 0 {
        PATIENT_FROM_MS.store(now_ms() + LIST_RETRY_MS, Relaxed);
    }
    is_walked
}

/// Walks through the loader's list and makes a new list of candidates; false if the list is locked
/// for `patience_ms`. By the discoverer.
fn walk(count: u64, patience_ms: u64) -> bool {
    let here = walk as *const () as usize;
    let weak = Symbols::weak();
    let mut weak_is_listed = false;
    let mut found = [const { None }; CAPACITY];
    let mut places = found.iter_mut();
    let mut add = |symbols: Symbols, lifetime| {
        if let Some(identity) = symbols.identity()
            && !libcrypto::is_settled(&symbols)
            && let Some(place) = places.next()
        {
            *place = Some(Candidate {
                symbols,
                identity,
                lifetime,
            });
        }
    };
    let is_walked = loader::try_for_each_object(patience_ms, |object| {
        let has_jobs = object
            .symbol(c"ASYNC_start_job", SymbolType::Function)
            .is_some();
        if has_jobs && !object.contains(here) {
            let symbols = Symbols::of(object);
            let is_weak = symbols.identity() == weak.identity();
            weak_is_listed |= is_weak;
            add(
                symbols,
                match (is_weak, loader::IS_MUSL || object.is_no_delete()) {
                    (true, _) => Lifetime::Permanent,
                    (false, true) => Lifetime::NoDelete,
                    (false, false) => Lifetime::Dlclosable,
                },
            );
        }
        ControlFlow::Continue(())
    });
    if !is_walked {
        return false;
    }
    if !weak_is_listed {
        add(weak, Lifetime::Permanent); // linked statically
    }
    // SAFETY: this thread is the discoverer.
    unsafe { *CANDIDATES.0.get() = found };
    WALKED.store(kept(count), Relaxed);
    true
}

impl Candidate {
    /// Whether it can be called, now and for ever.
    fn is_ready(&self) -> bool {
        if self.lifetime == Lifetime::Permanent {
            return true;
        }
        if !loader::is_relocated(self.identity) {
            WALKED.store(NEVER, Relaxed); // by the next call its dlopen may have failed
            return false;
        }
        self.lifetime == Lifetime::NoDelete || is_pinned(self.identity)
    }
}

// ---- pinning -------------------------------------------------------------------------

/// The libcryptos that were pinned: the address that identifies each; 0: an empty place.
static PINNED: [AtomicUsize; CAPACITY] = [const { AtomicUsize::new(0) }; CAPACITY];

/// The one that a thread is about to pin; 0: none.
static PINNING: AtomicUsize = AtomicUsize::new(0);

/// Whether an object is pinned: has it pinned if it is not, which may take longer than this call.
#[cold]
fn is_pinned(identity: usize) -> bool {
    /// Most often the loader is idle, and a pin takes less than a millisecond.
    const WAIT: Duration = Duration::from_millis(50);
    const STEP: Duration = Duration::from_micros(100);
    let is_pinned = || PINNED.iter().any(|pinned| pinned.load(Acquire) == identity);
    if !is_pinned()
        && PINNING
            .compare_exchange(0, identity, Acquire, Relaxed)
            .is_ok()
    {
        if !start_pinning(identity) {
            PINNING.store(0, Relaxed);
            return false;
        }
        let mut waited = Duration::ZERO;
        while PINNING.load(Acquire) != 0 && waited < WAIT {
            thread::sleep(STEP);
            waited += STEP;
        }
    }
    is_pinned()
}

/// Has the object that an address lies in stay loaded. Waits for the loader.
fn pin(identity: usize) {
    let mut name = [0; libc::PATH_MAX as usize];
    if loader::copy_file_name(identity, &mut name) {
        // SAFETY: the name is a C string; RTLD_NOLOAD loads nothing. The object may have been
        // replaced meanwhile: that shows in the symbol's address.
        unsafe {
            let object = libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            let names = [c"ERR_new", c"ERR_put_error"];
            let is_it =
                |name: &std::ffi::CStr| libc::dlsym(object, name.as_ptr()).addr() == identity;
            if !object.is_null() && names.into_iter().any(is_it) {
                let mut places = PINNED.iter();
                places.any(|place| {
                    place
                        .compare_exchange(0, identity, Release, Relaxed)
                        .is_ok()
                });
            } else if !object.is_null() {
                libc::dlclose(object);
            }
        }
    }
    PINNING.store(0, Release);
}

/// Pins in a new thread, which handles no signal of the program. False if there can be none now.
/// Not by std::thread: to make one, that calls `dlsym` and registers a destructor of the calling
/// thread, and the C library waits for the loader in both.
fn start_pinning(identity: usize) -> bool {
    extern "C" fn run(identity: *mut c_void) -> *mut c_void {
        // SAFETY: the function has no conditions for a thread that nobody joins.
        unsafe { libc::pthread_detach(libc::pthread_self()) };
        pin(identity.expose_provenance());
        ptr::null_mut()
    }
    // SAFETY: both sets and the thread's name are local variables; the mask of this thread is
    // restored.
    unsafe {
        let (mut all, mut before) = (mem::zeroed(), mem::zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let mut thread = mem::zeroed(); // a number in glibc, a pointer in musl
        let argument = ptr::with_exposed_provenance_mut(identity);
        let is_made = loader::try_with_tls_lock(|| {
            libc::pthread_create(&mut thread, ptr::null(), run, argument) == 0
        });
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        is_made.unwrap_or(false)
    }
}

// ---- fork ----------------------------------------------------------------------------

/// Sees to it that no other thread discovers while this one forks, and that the child knows what
/// the parent had loaded: the child must not walk, as it may find the list locked.
pub fn before_fork() {
    if lock_discovery(FORK, PATIENCE_MS) {
        let count = loader::load_count();
        if count != WALKED.load(Relaxed) && DISCOVERED.load(Relaxed) != count {
            walk(count, PATIENCE_MS); // the child could not look itself
        }
    }
}

pub fn after_fork_in_parent() {
    if DISCOVERER.load(Relaxed) == this_thread() | FORK {
        unlock_discovery();
    }
}

pub fn after_fork_in_child() {
    // A hook of libcrypto's initialisation may fork: this thread goes on discovering then.
    let discoverer = DISCOVERER.load(Relaxed);
    let is_list_whole = discoverer & !FORK == this_thread();
    // SAFETY: this is the only thread.
    for place in unsafe { &mut *CANDIDATES.0.get() } {
        // What is not relocated now never will be: the thread that loads it is not here.
        if !is_list_whole || place.is_some_and(|it| !loader::is_relocated(it.identity)) {
            *place = None;
        }
    }
    // What the child loads itself changes the count, and proves that the list is not locked.
    WALKED.store(kept(loader::load_count()), Relaxed);
    PINNING.store(0, Relaxed);
    if discoverer != this_thread() | DISCOVERY {
        unlock_discovery();
    }
}
