//! The libcrypto in this process, if any: how it is found, and the few calls made into it.
//!
//! This library neither links to one nor loads one, and the program may have none, or several
//! (1.1 beside 3, a plug-in's own). Its error queue takes our errors, and it has a default
//! library context to carry. After its `OPENSSL_cleanup` no call goes there any more.
//!
//! It is looked for where it may matter, not when this library is loaded: what follows from
//! the first call into libcrypto (that its allocator is fixed, say) must not come earlier than
//! with its own jobs.

use std::arch::global_asm;
use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use std::mem;
use std::ops::ControlFlow;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use crate::clock::{PATIENCE, now};
use crate::default_context;
use crate::elf::{Object, for_each_object, objects_ever_loaded};
use crate::error::{Error, Function};
use crate::quiet::Quiet;

/// Lists what is wanted of a libcrypto: as a struct, as what an object defines, and as weak
/// references, which the linker or the loader resolves, or leaves NULL. Weak references find
/// a libcrypto that is linked statically.
macro_rules! symbols {
    ($($field:ident: $name:literal as $type:ty,)*) => {
        #[repr(C)]
        #[derive(Clone, Copy)]
        pub struct Symbols {
            $(pub $field: Option<$type>,)*
        }

        impl Symbols {
            fn of(object: &Object) -> Self {
                // SAFETY: NULL is None; else it is the function of that name, whose type in
                // OpenSSL's headers this is.
                unsafe {
                    Self {
                        $($field: mem::transmute::<*mut c_void, Option<$type>>(object.function(
                            const { match CStr::from_bytes_with_nul(concat!($name, "\0").as_bytes()) {
                                Ok(name) => name,
                                Err(_) => unreachable!(),
                            } },
                        )),)*
                    }
                }
            }
        }

        global_asm!(
            $(concat!(".weak ", $name),)*
            ".pushsection .data.rel.ro.rsasync_weak, \"aw\", %progbits",
            ".balign 8",
            ".globl rsasync_weak",
            ".hidden rsasync_weak",
            "rsasync_weak:",
            $(concat!(".8byte ", $name),)*
            ".popsection",
        );
    };
}

symbols! {
    err_new: "ERR_new" as unsafe extern "C" fn(),
    err_set_debug: "ERR_set_debug" as unsafe extern "C" fn(*const c_char, c_int, *const c_char),
    err_set_error: "ERR_set_error" as unsafe extern "C" fn(c_int, c_int, *const c_char, ...),
    err_put_error: "ERR_put_error"
        as unsafe extern "C" fn(c_int, c_int, c_int, *const c_char, c_int),
    err_add_error_data: "ERR_add_error_data" as unsafe extern "C" fn(c_int, ...),
    err_set_mark: "ERR_set_mark" as unsafe extern "C" fn() -> c_int,
    err_pop_to_mark: "ERR_pop_to_mark" as unsafe extern "C" fn() -> c_int,
    set_default: "OSSL_LIB_CTX_set0_default" as unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    global_default: "OSSL_LIB_CTX_get0_global_default" as unsafe extern "C" fn() -> *mut c_void,
    version: "OpenSSL_version_num" as unsafe extern "C" fn() -> c_ulong,
    init: "OPENSSL_init_crypto" as unsafe extern "C" fn(u64, *const c_void) -> c_int,
    at_exit: "OPENSSL_atexit" as unsafe extern "C" fn(extern "C" fn()) -> c_int,
}

unsafe extern "C" {
    #[link_name = "rsasync_weak"]
    static WEAK: Symbols;
}

impl Symbols {
    /// What no two libcryptos share; None for what is none.
    fn identity(&self) -> Option<usize> {
        match (self.err_new, self.err_put_error) {
            (Some(new), _) => Some(new as usize),
            (None, put) => put.map(|put| put as usize),
        }
    }
}

struct Libcrypto {
    symbols: Symbols,
    home: Home,
    /// A [`Stage`].
    stage: AtomicU8,
    /// Its place among the carried, if it has one.
    carrier: AtomicUsize,
}

/// Where a libcrypto is.
#[derive(PartialEq, Eq)]
enum Home {
    /// It is what this library was linked to, or never unloaded and there since this library
    /// was loaded: nobody is at work on it.
    Settled,
    /// In an object that asks never to be unloaded, once it is loaded.
    NeverUnloaded,
    Unloadable,
}

/// How far a libcrypto has come.
enum Stage {
    New,
    /// It is initialised, and `OPENSSL_cleanup` has not run.
    Alive,
    Gone,
}

/// More than one is rare; this is more than there are major versions.
const AT_MOST: usize = 4;

/// Those found so far: those that were there at the same time in the order of loading.
static FOUND: [OnceLock<Libcrypto>; AT_MOST] = [const { OnceLock::new() }; AT_MOST];

fn alive() -> impl Iterator<Item = &'static Libcrypto> {
    FOUND
        .iter()
        .map_while(OnceLock::get)
        .filter(|libcrypto| libcrypto.stage.load(Acquire) == Stage::Alive as u8)
}

/// Puts an error on the queue of the first libcrypto.
#[cold]
pub fn queue(error: Error, function: Function) {
    const LIBRARY_ASYNC: c_int = 51;
    const FILE: &CStr = c"rsasync";
    look();
    let Some(libcrypto) = alive().next() else {
        return;
    };
    let of = &libcrypto.symbols;
    // SAFETY: it is alive, and all strings are static. The text takes memory; where there is
    // none, that must not be queued as another error.
    unsafe {
        if let (Some(new), Some(set_debug), Some(set_error)) =
            (of.err_new, of.err_set_debug, of.err_set_error)
        {
            new();
            set_debug(FILE.as_ptr(), 0, function.name.as_ptr());
            set_error(LIBRARY_ASYNC, error.reason.code(), ptr::null());
        } else if let Some(put) = of.err_put_error {
            put(
                LIBRARY_ASYNC,
                function.code,
                error.reason.code_1_1(),
                FILE.as_ptr(),
                0,
            );
        }
        if let (Some(set_mark), Some(add_data), Some(pop_to_mark)) =
            (of.err_set_mark, of.err_add_error_data, of.err_pop_to_mark)
        {
            set_mark();
            add_data(1, error.text.as_ptr());
            pop_to_mark();
        }
    }
}

// ---- finding it ----------------------------------------------------------------------

/// A node of the loader's list of objects, as in <link.h>.
#[repr(C)]
struct LinkMap {
    address: usize,
    name: *const c_char,
    dynamic: *const c_void,
    next: AtomicPtr<LinkMap>,
    previous: *const c_void,
}

/// The program's node: the first in the list.
static PROGRAM: AtomicPtr<LinkMap> = AtomicPtr::new(ptr::null_mut());

/// An address in what was the last in the list when this library was loaded; 0: unknown.
static LAST_AT_LOAD: AtomicUsize = AtomicUsize::new(0);

/// Where the loader puts what it loads next: while nothing is there, nothing was loaded since
/// the last look. NULL: who knows?
static NEXT: AtomicPtr<AtomicPtr<LinkMap>> = AtomicPtr::new(ptr::null_mut());

/// How many objects the loader had ever loaded at the last look, and one more.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// A thread is looking.
static LOOKING: AtomicBool = AtomicBool::new(false);

/// This is the child of a process that had other threads when it forked. The loader's locks
/// may never be free again, so only what was found before is known.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Called when this library is loaded.
pub fn find_list_of_objects() {
    // SAFETY: the program's node is never freed.
    unsafe {
        let program = libc::dlopen(ptr::null(), libc::RTLD_LAZY);
        if !program.is_null() {
            let place = PROGRAM.as_ptr().cast();
            libc::dlinfo(program, libc::RTLD_DI_LINKMAP, place);
        }
    }
    // No other thread's dlclose is under way while the loader runs constructors.
    let last = last_in_list().map_or(0, |last| last.dynamic.addr());
    LAST_AT_LOAD.store(last, Relaxed);
}

/// Something was found that was not called into yet: what a child still can look for.
static PENDING: AtomicBool = AtomicBool::new(false);

fn is_anything_new() -> bool {
    if FORKED.load(Relaxed) {
        return PENDING.load(Acquire);
    }
    SEEN.load(Acquire) != objects_ever_loaded() + 1
}

/// Whether it is worth a look. False if nothing was loaded since the last.
///
/// This can be told by the list, if its last object is one that stays there. If it is not,
/// only the loader can tell, under a lock. Then this is false where a libcrypto was found:
/// another one that comes is found when a thread looks now and then.
#[inline(always)]
pub fn may_be_another() -> bool {
    // SAFETY: an object that is never unloaded keeps its node.
    let next = unsafe { NEXT.load(Acquire).as_ref() };
    next.is_none_or(|next| !next.load(Relaxed).is_null())
}

/// Finds the libcryptos that came since the last look, and makes the first call into them.
#[cold]
pub fn look() {
    if !is_anything_new() {
        return;
    }
    let _quiet = Quiet::new();
    // Its holder may wait for this thread, or for a slow `dlopen`: once there is a libcrypto,
    // others are not waited for.
    let patience = if alive().next().is_some() {
        0
    } else {
        PATIENCE
    };
    if !take_turn(patience) {
        return;
    }
    let mut seen = SEEN.load(Relaxed);
    let mut next = NEXT.load(Relaxed);
    if !FORKED.load(Relaxed) {
        seen = objects_ever_loaded() + 1;
        next = find(|_| true);
    }
    for (libcrypto, gone) in FOUND.iter().map_while(OnceLock::get).zip(GONE) {
        if !libcrypto.initialise(gone) {
            next = watch_nothing();
        }
    }
    PENDING.store(false, Relaxed);
    SEEN.store(seen, Release); // others wait for their turn until then
    NEXT.store(next, Release);
    LOOKING.store(false, Release);
}

/// Waits until no other thread looks, so many milliseconds at most; whether it is so.
fn take_turn(patience: u64) -> bool {
    let end = now() + patience;
    while LOOKING.swap(true, Acquire) {
        if now() > end {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Adds what is in the process now to [`FOUND`], where it `suits`, and returns what [`NEXT`] is
/// then. By the thread whose turn it is.
fn find(suits: impl Fn(&Libcrypto) -> bool) -> *mut AtomicPtr<LinkMap> {
    let here = (&raw const FOUND).addr();
    // SAFETY: filled in before this library ran.
    let weak = unsafe { WEAK };
    let mut weak_is_an_object = false;
    let (mut last, mut last_stays) = (None, false);
    let mut at_load = LAST_AT_LOAD.load(Relaxed) != 0;
    for_each_object(|object| {
        let last = *last.get_or_insert_with(last_in_list);
        let itself = object.contains(here);
        let mut stays = itself || is_needed_here(&object);
        if !itself && !object.function(c"ASYNC_start_job").is_null() {
            let symbols = Symbols::of(&object);
            let is_weak = symbols.identity() == weak.identity();
            let home = match object.is_never_unloaded() {
                never if is_weak || never && at_load => Home::Settled,
                true => Home::NeverUnloaded,
                false => Home::Unloadable,
            };
            let found = Libcrypto::new(symbols, home);
            weak_is_an_object |= is_weak;
            stays |= suits(&found) && found.add();
        }
        at_load &= !object.contains(LAST_AT_LOAD.load(Relaxed));
        last_stays |= stays && last.is_some_and(|last| object.contains(last.dynamic.addr()));
        ControlFlow::Continue(())
    });
    if !weak_is_an_object {
        Libcrypto::new(weak, Home::Settled).add();
    }
    match last.flatten() {
        Some(last) if last_stays => (&raw const last.next).cast_mut(),
        _ => watch_nothing(),
    }
}

/// What [`NEXT`] is where the list can't tell.
fn watch_nothing() -> *mut AtomicPtr<LinkMap> {
    static NOTHING: AtomicPtr<LinkMap> = AtomicPtr::new(ptr::null_mut());
    if FOUND[0].get().is_none() {
        return ptr::null_mut();
    }
    (&raw const NOTHING).cast_mut()
}

/// The last object in the loader's list. Under the loader's lock.
fn last_in_list() -> Option<&'static LinkMap> {
    // SAFETY: the list stands, as long as the lock is held.
    unsafe {
        let mut last = PROGRAM.load(Relaxed).as_ref()?;
        while let Some(next) = last.next.load(Relaxed).as_ref() {
            last = next;
        }
        Some(last)
    }
}

/// This library stays loaded, and with it those that it needs: libc, libgcc_s, the loader.
fn is_needed_here(object: &Object) -> bool {
    unsafe extern "C" {
        fn _Unwind_GetIP();
    }
    // SAFETY: it only asks.
    let loader = unsafe { libc::getauxval(libc::AT_BASE) } as usize;
    let (libc, libgcc) = (libc::getpid as *const (), _Unwind_GetIP as *const ());
    [libc.addr(), libgcc.addr(), loader]
        .iter()
        .any(|&address| object.contains(address))
}

impl Libcrypto {
    fn new(symbols: Symbols, home: Home) -> Self {
        Self {
            symbols,
            home,
            stage: AtomicU8::new(Stage::New as u8),
            carrier: AtomicUsize::new(usize::MAX),
        }
    }

    /// Adds it to those found, unless it is there; false if there is no place, or no libcrypto.
    fn add(self) -> bool {
        let Some(identity) = self.symbols.identity() else {
            return false;
        };
        let mut new = Some(self);
        FOUND.iter().any(|place| {
            let found = place.get_or_init(|| new.take().expect("it is taken once"));
            found.symbols.identity() == Some(identity)
        })
    }

    /// Does what libcrypto's own ASYNC_start_job does first, and asks to be told of its end.
    /// False if it is not there any more.
    fn initialise(&self, gone: extern "C" fn()) -> bool {
        const OPENSSL_INIT_ASYNC: u64 = 0x100;
        const NEW: u8 = Stage::New as u8;
        if self.stage.load(Relaxed) != NEW {
            return true;
        }
        if !self.stays() {
            return false;
        }
        let Symbols { init, at_exit, .. } = self.symbols;
        // SAFETY: it is loaded, and stays so; `gone` does, too.
        unsafe {
            let told_of_end = match at_exit {
                Some(at_exit) => at_exit(gone) == 1,
                // 4.0 has no such function: its OPENSSL_cleanup takes effect after the last
                // exit handler.
                None => libc::atexit(gone) == 0,
            };
            let alive =
                told_of_end && init.is_some_and(|init| init(OPENSSL_INIT_ASYNC, ptr::null()) == 1);
            if alive && let Some(place) = default_context::carry(&self.symbols) {
                self.carrier.store(place, Relaxed);
            }
            let alive = alive
                && (self.stage)
                    .compare_exchange(NEW, Stage::Alive as u8, AcqRel, Acquire)
                    .is_ok();
            if !alive {
                default_context::forget(self.carrier.load(Relaxed)); // it is gone meanwhile
            }
        }
        true
    }

    /// Keeps it loaded. Another thread's `dlopen` may not have finished with it, or fail yet:
    /// `dladdr` waits for that. Then something else may be in its place.
    fn stays(&self) -> bool {
        if self.home == Home::Settled || FORKED.load(Relaxed) {
            return self.home == Home::Settled;
        }
        let address = self.symbols.identity().unwrap_or_default();
        // SAFETY: `dladdr` takes any address; nothing is loaded by NOLOAD.
        let is_kept = unsafe {
            let mut info = mem::zeroed::<libc::Dl_info>();
            let pin = |name| libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            libc::dladdr(ptr::with_exposed_provenance(address), &mut info) != 0
                && (self.home == Home::NeverUnloaded || !pin(info.dli_fname).is_null())
        };
        let mut is_there = false;
        for_each_object(|object| {
            is_there |=
                object.contains(address) && Symbols::of(&object).identity() == Some(address);
            ControlFlow::Continue(())
        });
        is_kept && is_there
    }
}

/// `OPENSSL_cleanup` of the libcrypto at each place calls one of these.
const GONE: [extern "C" fn(); AT_MOST] = [gone::<0>, gone::<1>, gone::<2>, gone::<3>];

extern "C" fn gone<const PLACE: usize>() {
    if let Some(libcrypto) = FOUND[PLACE].get() {
        libcrypto.stage.swap(Stage::Gone as u8, AcqRel);
        default_context::forget(libcrypto.carrier.load(Relaxed));
    }
}

// ---- fork ----------------------------------------------------------------------------

/// The thread that forks has got the turn to look. Only that one uses this.
static FORKER_LOOKS: AtomicBool = AtomicBool::new(false);

/// Sees to it that no other thread looks while this one forks, and that the child, which
/// can't look, knows what stays loaded.
pub fn before_fork() {
    let got_turn = take_turn(PATIENCE);
    FORKER_LOOKS.store(got_turn, Relaxed);
    if got_turn && has_threads() && !FORKED.load(Relaxed) && is_anything_new() {
        find(|libcrypto| libcrypto.home == Home::Settled);
        NEXT.store(ptr::null_mut(), Release);
        PENDING.store(true, Release);
    }
}

pub fn after_fork_in_parent() {
    if FORKER_LOOKS.load(Relaxed) {
        LOOKING.store(false, Release);
    }
}

pub fn after_fork_in_child() {
    if has_threads() {
        FORKED.store(true, Relaxed);
    }
    LOOKING.store(false, Release);
}

/// Whether the process may have more threads than this one, or, after a fork, had.
fn has_threads() -> bool {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            static __libc_single_threaded: c_char;
        }
        // SAFETY: a variable of the C library's, which changes while there is one thread.
        unsafe { __libc_single_threaded == 0 }
    }
    #[cfg(not(target_env = "gnu"))]
    true
}
