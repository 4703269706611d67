//! A libcrypto in this process: its functions, its beginning and its end.
//!
//! rsasync neither links to a libcrypto nor loads one. The program may have none, or several
//! (1.1 beside 3, a plug-in's own). One takes our errors, each has a default library context to
//! keep. After its `OPENSSL_cleanup` no call goes there any more.

use std::arch::global_asm;
use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use std::mem;
use std::ptr;
use std::sync::atomic::{
    AtomicU8, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use crate::openssl::default_context::{self, SetDefault};
use crate::sys::elf::{Object, SymbolType};
use crate::sys::loader;

/// Lists the functions that are called in a libcrypto: as a struct, as a way to look them up in
/// an object, and as a table of weak references, which the linker or the loader fills in or
/// leaves NULL. These find a libcrypto that is linked statically.
macro_rules! symbols {
    ($($field:ident: $name:literal as $type:ty,)*) => {
        #[repr(C)]
        #[derive(Clone, Copy)]
        pub struct Symbols {
            $(pub $field: Option<$type>,)*
        }

        impl Symbols {
            /// Those that an object defines itself.
            pub fn of(object: &Object) -> Self {
                let pointer = |name: &[u8]| {
                    let name = CStr::from_bytes_with_nul(name).expect("it ends with a NUL");
                    match object.symbol(name, SymbolType::Function) {
                        Some((address, _)) => ptr::with_exposed_provenance_mut(address),
                        None => ptr::null_mut(),
                    }
                };
                // SAFETY: NULL is None; else it is the function of that name, which has this
                // type in OpenSSL's headers.
                unsafe {
                    Self {
                        $($field: mem::transmute::<*mut c_void, Option<$type>>(
                            pointer(concat!($name, "\0").as_bytes()),
                        ),)*
                    }
                }
            }
        }

        global_asm!(
            $(concat!(".weak ", $name),)*
            // Read-only once the loader has relocated it.
            ".pushsection .data.rel.ro.rsasync_libcrypto, \"aw\", %progbits",
            ".balign 8",
            ".globl rsasync_libcrypto",
            ".hidden rsasync_libcrypto",
            "rsasync_libcrypto:",
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
    set_default: "OSSL_LIB_CTX_set0_default" as SetDefault,
    global_default: "OSSL_LIB_CTX_get0_global_default" as unsafe extern "C" fn() -> *mut c_void,
    version: "OpenSSL_version_num" as unsafe extern "C" fn() -> c_ulong,
    init: "OPENSSL_init_crypto" as unsafe extern "C" fn(u64, *const c_void) -> c_int,
    at_exit: "OPENSSL_atexit" as unsafe extern "C" fn(extern "C" fn()) -> c_int,
}

unsafe extern "C" {
    #[link_name = "rsasync_libcrypto"]
    static WEAK: Symbols;
}

impl Symbols {
    /// What the weak references are bound to.
    pub fn weak() -> Self {
        // SAFETY: the table is filled in before any code of this library runs.
        unsafe { WEAK }
    }

    /// An address that no two libcryptos share; None for what is no libcrypto.
    pub fn identity(&self) -> Option<usize> {
        match (self.err_new, self.err_put_error) {
            (Some(new), _) => Some(new as usize),
            (None, put) => put.map(|put| put as usize),
        }
    }
}

/// A libcrypto that has been called.
pub struct Libcrypto {
    pub symbols: Symbols,
    /// An [`InitState`].
    state: AtomicU8,
    /// What [`default_context::track`] gave; usize::MAX: nothing.
    tracked: AtomicUsize,
}

enum InitState {
    /// It is being initialised.
    New,
    /// It is initialised, and `OPENSSL_cleanup` has not run.
    Alive,
    /// `OPENSSL_cleanup` has run, or the initialisation has failed.
    Gone,
}

/// How many there can be: more than one is rare, and this is more than there are major versions.
const CAPACITY: usize = 4;

/// The libcryptos that have been called, in the order in which they were found. One thread at a
/// time adds to them; any thread reads.
struct List {
    count: AtomicUsize,
    places: [UnsafeCell<mem::MaybeUninit<Libcrypto>>; CAPACITY],
}

// SAFETY: a place is written before `count` includes it, and not afterwards.
unsafe impl Sync for List {}

static LIST: List = List {
    count: AtomicUsize::new(0),
    places: [const { UnsafeCell::new(mem::MaybeUninit::uninit()) }; CAPACITY],
};

impl List {
    fn iter(&self) -> impl Iterator<Item = &Libcrypto> {
        let count = self.count.load(Acquire);
        // SAFETY: `count` includes only places that are written.
        (self.places[..count].iter()).map(|place| unsafe { (*place.get()).assume_init_ref() })
    }
}

/// The libcryptos that can be called, in the order in which they were found.
pub fn alive() -> impl Iterator<Item = &'static Libcrypto> {
    LIST.iter()
        .filter(|libcrypto| libcrypto.state.load(Acquire) == InitState::Alive as u8)
}

/// Whether the libcrypto of these functions is in the list, or there is no room for it.
pub fn is_settled(symbols: &Symbols) -> bool {
    LIST.count.load(Acquire) == CAPACITY
        || LIST
            .iter()
            .any(|libcrypto| libcrypto.symbols.identity() == symbols.identity())
}

/// Makes the first calls into a libcrypto, as its own ASYNC_start_job does; asks to be told of its
/// end; tracks its default context. One thread at a time calls this.
///
/// # Safety
/// The libcrypto is loaded, relocated and never unloaded, and not in the list.
pub unsafe fn initialise(symbols: Symbols) {
    const OPENSSL_INIT_ASYNC: u64 = 0x100;
    let index = LIST.count.load(Acquire);
    let Some(place) = LIST.places.get(index) else {
        return;
    };
    let libcrypto = Libcrypto {
        symbols,
        state: AtomicU8::new(InitState::New as u8),
        tracked: AtomicUsize::new(usize::MAX),
    };
    // SAFETY: nobody reads the place before `count` includes it, and no other thread adds.
    let libcrypto: &'static Libcrypto = unsafe { (*place.get()).write(libcrypto) };
    LIST.count.store(index + 1, Release);
    let Symbols { init, at_exit, .. } = symbols;
    // SAFETY: the caller's promise; the handler is never unloaded either.
    let is_ready = unsafe {
        let is_registered = match at_exit {
            Some(at_exit) => at_exit(ON_CLEANUP[index]) == 1,
            // 4.0 has no such function: its OPENSSL_cleanup takes effect after the last exit
            // handler.
            None => libc::atexit(ON_CLEANUP[index]) == 0,
        };
        is_registered && init.is_some_and(|init| init(OPENSSL_INIT_ASYNC, ptr::null()) == 1)
    };
    // SAFETY: it is initialised; `on_cleanup` untracks it.
    if is_ready && let Some(place) = unsafe { track(&symbols) } {
        libcrypto.tracked.store(place, Relaxed);
    }
    let new_state = if is_ready {
        InitState::Alive
    } else {
        InitState::Gone
    };
    let change =
        libcrypto
            .state
            .compare_exchange(InitState::New as u8, new_state as u8, AcqRel, Acquire);
    if change.is_err() {
        default_context::untrack(libcrypto.tracked.load(Relaxed)); // it was cleaned up meanwhile
    }
}

/// # Safety
/// As for [`default_context::track`].
unsafe fn track(symbols: &Symbols) -> Option<usize> {
    let (set, global) = (symbols.set_default?, symbols.global_default?);
    // SAFETY: the caller's promise.
    unsafe {
        default_context::track(default_context::Source {
            set,
            global: global(),
            version: symbols.version.map(|version| version()),
        })
    }
}

/// `OPENSSL_cleanup` of the libcrypto in each place calls one of these.
const ON_CLEANUP: [extern "C" fn(); CAPACITY] = [
    on_cleanup::<0>,
    on_cleanup::<1>,
    on_cleanup::<2>,
    on_cleanup::<3>,
];

extern "C" fn on_cleanup<const INDEX: usize>() {
    if let Some(libcrypto) = LIST.iter().nth(INDEX) {
        libcrypto.state.swap(InitState::Gone as u8, AcqRel);
        default_context::untrack(libcrypto.tracked.load(Relaxed));
    }
}

pub type InitThread = unsafe extern "C" fn(max_size: usize, init_size: usize) -> c_int;

/// The ASYNC_init_thread of the libcrypto that this code address lies in; None if it is other code.
///
/// # Safety
/// What lies there is not unloaded meanwhile.
pub unsafe fn init_thread_of(caller: usize) -> Option<InitThread> {
    let here = init_thread_of as *const () as usize;
    // A program that is linked statically has this function, one that wraps the ASYNC functions
    // its own: neither is a libcrypto.
    let look_up = |object: &Object| {
        let is_libcrypto = !object.contains(here) && Symbols::of(object).identity().is_some();
        is_libcrypto.then(|| object.symbol(c"ASYNC_init_thread", SymbolType::Function))?
    };
    // SAFETY: the caller's promise; the function of that name has this type.
    unsafe {
        let (function, _) = loader::with_object_at(caller, look_up)??;
        Some(mem::transmute::<*const c_void, InitThread>(
            ptr::with_exposed_provenance(function),
        ))
    }
}
