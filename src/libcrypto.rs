//! The libcrypto in this process, if any: how it is found, and the few calls made into it.
//!
//! This library neither links to one nor loads one, and the program may have none, or several
//! (1.1 beside 3, a plug-in's own). Its error queue takes our errors, and it has a default
//! library context to carry. After its `OPENSSL_cleanup` no call goes there any more.

use std::arch::global_asm;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::iter;
use std::mem;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use once_cell::race::OnceBox;

use crate::default_context;
use crate::errno::KeptErrno;
use crate::error::{Error, Function};

/// More than one is rare; this is more than there are major versions.
const AT_MOST: usize = 4;

/// Those found so far, in the order in which they were loaded.
static FOUND: [OnceBox<Libcrypto>; AT_MOST] = [const { OnceBox::new() }; AT_MOST];

struct Libcrypto {
    queue: Queue,
    default_context: Option<default_context::Functions>,
    init: Option<unsafe extern "C" fn(options: u64, settings: *const c_void) -> c_int>,
    at_exit: Option<unsafe extern "C" fn(handler: extern "C" fn()) -> c_int>,
    /// It is initialised, and `OPENSSL_cleanup` has not run.
    alive: AtomicBool,
}

/// The functions that put an error on the queue.
#[derive(Clone, Copy)]
enum Queue {
    V3 {
        new: unsafe extern "C" fn(),
        set_debug: unsafe extern "C" fn(file: *const c_char, line: c_int, function: *const c_char),
        set_error: unsafe extern "C" fn(library: c_int, reason: c_int, format: *const c_char, ...),
    },
    V1_1 {
        put: unsafe extern "C" fn(
            library: c_int,
            function: c_int,
            reason: c_int,
            *const c_char,
            c_int,
        ),
        add_data: unsafe extern "C" fn(count: c_int, ...),
    },
}

/// Puts an error on the queue of the first libcrypto.
pub fn queue(error: Error, function: Function) {
    const LIBRARY_ASYNC: c_int = 51;
    const FILE: &CStr = c"rsasync";
    look();
    let Some(libcrypto) = alive().next() else {
        return;
    };
    // SAFETY: the functions have these types since OpenSSL 1.1 and 3.0; all strings are static.
    unsafe {
        match libcrypto.queue {
            Queue::V3 {
                new,
                set_debug,
                set_error,
            } => {
                new();
                set_debug(FILE.as_ptr(), 0, function.name.as_ptr());
                set_error(
                    LIBRARY_ASYNC,
                    error.reason.code(),
                    c"%s".as_ptr(),
                    error.text.as_ptr(),
                );
            }
            Queue::V1_1 { put, add_data } => {
                let reason = error.reason.code_1_1();
                put(LIBRARY_ASYNC, function.code, reason, FILE.as_ptr(), 0);
                add_data(1, error.text.as_ptr());
            }
        }
    }
}

fn alive() -> impl Iterator<Item = &'static Libcrypto> {
    FOUND
        .iter()
        .map_while(OnceBox::get)
        .filter(|libcrypto| libcrypto.alive.load(Acquire))
}

// ---- finding it ----------------------------------------------------------------------

/// What is wanted of a libcrypto, in the order of [`WEAK`].
const SYMBOLS: [&CStr; 11] = [
    c"ERR_new",
    c"ERR_set_debug",
    c"ERR_set_error",
    c"ERR_put_error",
    c"ERR_add_error_data",
    c"OSSL_LIB_CTX_set0_default",
    c"OSSL_LIB_CTX_get0_global_default",
    c"OSSL_LIB_CTX_new",
    c"OSSL_LIB_CTX_free",
    c"OPENSSL_init_crypto",
    c"OPENSSL_atexit",
];

type Addresses = [*mut c_void; SYMBOLS.len()];

// Weak references: the linker or the loader fills in the address, or 0 if nobody has it.
// This is how a libcrypto that is linked statically is found.
global_asm!(
    ".weak ERR_new, ERR_set_debug, ERR_set_error, ERR_put_error, ERR_add_error_data",
    ".weak OSSL_LIB_CTX_set0_default, OSSL_LIB_CTX_get0_global_default",
    ".weak OSSL_LIB_CTX_new, OSSL_LIB_CTX_free",
    ".weak OPENSSL_init_crypto, OPENSSL_atexit",
    ".pushsection .data.rel.ro.rsasync_weak, \"aw\", %progbits",
    ".balign 8",
    ".globl rsasync_weak",
    ".hidden rsasync_weak",
    "rsasync_weak:",
    ".8byte ERR_new, ERR_set_debug, ERR_set_error, ERR_put_error, ERR_add_error_data",
    ".8byte OSSL_LIB_CTX_set0_default, OSSL_LIB_CTX_get0_global_default",
    ".8byte OSSL_LIB_CTX_new, OSSL_LIB_CTX_free",
    ".8byte OPENSSL_init_crypto, OPENSSL_atexit",
    ".popsection",
);

unsafe extern "C" {
    #[link_name = "rsasync_weak"]
    static WEAK: Addresses;
}

impl Libcrypto {
    fn new(addresses: Addresses) -> Option<Self> {
        /// # Safety
        /// `F` is an `Option` of the type of the function at this address.
        unsafe fn function<F>(address: *mut c_void) -> F {
            // SAFETY: NULL is `None`; else by the caller's promise.
            unsafe { mem::transmute_copy(&address) }
        }
        let [
            new,
            set_debug,
            set_error,
            put,
            add_data,
            set,
            global,
            ctx_new,
            ctx_free,
            init,
            at_exit,
        ] = addresses;
        // SAFETY: the types are those of OpenSSL's headers.
        unsafe {
            let v3 = || {
                let (new, set_debug) = (
                    function::<Option<_>>(new)?,
                    function::<Option<_>>(set_debug)?,
                );
                Some(Queue::V3 {
                    new,
                    set_debug,
                    set_error: function::<Option<_>>(set_error)?,
                })
            };
            let v1_1 = || {
                let put = function::<Option<_>>(put)?;
                Some(Queue::V1_1 {
                    put,
                    add_data: function::<Option<_>>(add_data)?,
                })
            };
            let default_context = || {
                Some(default_context::Functions {
                    set: function::<Option<_>>(set)?,
                    global: function::<Option<_>>(global)?,
                    new: function::<Option<_>>(ctx_new)?,
                    free: function::<Option<_>>(ctx_free)?,
                })
            };
            Some(Self {
                queue: v3().or_else(v1_1)?,
                default_context: default_context(),
                init: function(init),
                at_exit: function(at_exit),
                alive: AtomicBool::new(false),
            })
        }
    }

    /// What no two of them share.
    fn identity(&self) -> usize {
        match self.queue {
            Queue::V3 { new, .. } => new as usize,
            Queue::V1_1 { put, .. } => put as usize,
        }
    }

    /// Adds it to those found, unless it is there.
    fn add(self) {
        let mut new = Some(Box::new(self));
        for (place, gone) in iter::zip(&FOUND, GONE) {
            if let Some(this) = new.take()
                && let Err(this) = place.set(this)
            {
                if place
                    .get()
                    .is_some_and(|found| found.identity() == this.identity())
                {
                    return;
                }
                new = Some(this);
                continue;
            }
            if let Some(found) = place.get() {
                found.initialise(gone);
            }
            return;
        }
    }

    /// Does what libcrypto's own ASYNC_start_job does first, and asks to be told of its end.
    fn initialise(&'static self, gone: extern "C" fn()) {
        const OPENSSL_INIT_ASYNC: u64 = 0x100;
        // SAFETY: the functions have these types since OpenSSL 1.1; `gone` stays loaded.
        let alive = unsafe {
            self.init
                .is_none_or(|init| init(OPENSSL_INIT_ASYNC, ptr::null()) == 1)
                && self.at_exit.is_none_or(|at_exit| at_exit(gone) == 1)
        };
        self.alive.store(alive, Release);
        if let Some(functions) = self.default_context.filter(|_| alive) {
            default_context::carry(functions);
        }
    }
}

/// `OPENSSL_cleanup` of the libcrypto found at each place calls one of these.
const GONE: [extern "C" fn(); AT_MOST] = [gone::<0>, gone::<1>, gone::<2>, gone::<3>];

extern "C" fn gone<const PLACE: usize>() {
    if let Some(libcrypto) = FOUND[PLACE].get() {
        libcrypto.alive.store(false, Release);
        if let Some(functions) = &libcrypto.default_context {
            default_context::forget(functions.set);
        }
    }
}

/// A node of the loader's list of objects, as in <link.h>.
#[repr(C)]
struct LinkMap {
    address: usize,
    name: *const c_char,
    dynamic: *const c_void,
    next: AtomicPtr<LinkMap>,
    previous: *const c_void,
}

/// The last of the objects that were there when this library was loaded. Later ones come
/// after it: while it is the last, there is nothing new, and nothing to look through.
static LAST_AT_LOAD: AtomicPtr<LinkMap> = AtomicPtr::new(ptr::null_mut());

/// Called when this library is loaded.
pub fn remember_loaded_objects() {
    let mut last: *mut LinkMap = ptr::null_mut();
    // SAFETY: the loader runs no other thread's dlclose while it runs constructors, so the
    // list stands; the last object is then pinned, so that its node stays for ever.
    unsafe {
        let program = libc::dlopen(ptr::null(), libc::RTLD_LAZY);
        if program.is_null()
            || libc::dlinfo(program, libc::RTLD_DI_LINKMAP, (&raw mut last).cast()) != 0
        {
            return;
        }
        while let Some(next) = (*last).next.load(Relaxed).as_mut() {
            last = next;
        }
        if !libc::dlopen((*last).name, libc::RTLD_LAZY | libc::RTLD_NOLOAD).is_null() {
            LAST_AT_LOAD.store(last, Release);
        }
    }
}

/// Finds the libcryptos that came since the last look.
#[cold]
pub fn look() {
    /// How many objects the loader had ever loaded at the last look, and one more.
    static SEEN: AtomicU64 = AtomicU64::new(0);
    let seen = SEEN.load(Acquire);
    // SAFETY: its node stays for ever.
    let last_at_load = unsafe { LAST_AT_LOAD.load(Acquire).as_ref() };
    let nothing_new = |last: &LinkMap| last.next.load(Relaxed).is_null();
    if seen != 0 && last_at_load.is_some_and(nothing_new) {
        return;
    }
    let loaded = objects_ever_loaded() + 1;
    if seen == loaded {
        return;
    }
    let _errno = KeptErrno::new();
    // SAFETY: filled in before this library ran.
    let weak = unsafe { WEAK };
    let dynamic = loaded_objects()
        .iter()
        .filter_map(Object::libcrypto)
        .collect::<Vec<_>>();
    // One in the program itself is not among them, and was there first.
    if let Some(libcrypto) = Libcrypto::new(weak)
        && !dynamic
            .iter()
            .any(|other| other.identity() == libcrypto.identity())
    {
        libcrypto.add();
    }
    dynamic.into_iter().for_each(Libcrypto::add);
    SEEN.store(loaded, Release);
}

/// A shared object in this process.
struct Object {
    name: CString,
    addresses: Range<usize>,
}

impl Object {
    /// The libcrypto that it is, which then stays loaded, or None.
    fn libcrypto(&self) -> Option<Libcrypto> {
        // SAFETY: plain calls of the loader with C strings; nothing is loaded by NOLOAD.
        unsafe {
            let handle = libc::dlopen(self.name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            if handle.is_null() {
                return None;
            }
            // Its own, not that of a library which it needs.
            if self
                .addresses
                .contains(&libc::dlsym(handle, c"ASYNC_start_job".as_ptr()).addr())
                && let Some(found) =
                    Libcrypto::new(SYMBOLS.map(|name| libc::dlsym(handle, name.as_ptr())))
            {
                return Some(found);
            }
            libc::dlclose(handle);
            None
        }
    }
}

/// Calls `each` for the objects of the process until it returns true.
fn for_objects(mut each: impl FnMut(&libc::dl_phdr_info) -> bool) {
    unsafe extern "C" fn call<F: FnMut(&libc::dl_phdr_info) -> bool>(
        info: *mut libc::dl_phdr_info,
        _: usize,
        each: *mut c_void,
    ) -> c_int {
        // SAFETY: `each` is the one below, `info` the loader's.
        unsafe { (*each.cast::<F>())(&*info).into() }
    }
    fn callback_of<F: FnMut(&libc::dl_phdr_info) -> bool>(
        _: &F,
    ) -> unsafe extern "C" fn(*mut libc::dl_phdr_info, usize, *mut c_void) -> c_int {
        call::<F>
    }
    // SAFETY: the callback gets the pointer that belongs to it.
    unsafe { libc::dl_iterate_phdr(Some(callback_of(&each)), (&raw mut each).cast()) };
}

fn objects_ever_loaded() -> u64 {
    let mut count = 0;
    for_objects(|info| {
        count = info.dlpi_adds;
        true
    });
    count
}

/// All objects but the program itself and this library, in the order of loading.
fn loaded_objects() -> Vec<Object> {
    let mut objects = Vec::new();
    let here = (&raw const FOUND).addr();
    for_objects(|info| {
        // SAFETY: the loader's strings and headers, which stand during the call.
        let (name, headers) = unsafe {
            let headers = std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into());
            (CStr::from_ptr(info.dlpi_name), headers)
        };
        let segments = headers
            .iter()
            .filter(|header| header.p_type == libc::PT_LOAD);
        let start = segments
            .clone()
            .map(|segment| segment.p_vaddr as usize)
            .min()
            .unwrap_or(0);
        let end = segments
            .map(|segment| (segment.p_vaddr + segment.p_memsz) as usize)
            .max()
            .unwrap_or(0);
        let bias = info.dlpi_addr as usize;
        let addresses = bias.wrapping_add(start)..bias.wrapping_add(end);
        if !name.is_empty() && !addresses.contains(&here) {
            objects.push(Object {
                name: name.to_owned(),
                addresses,
            });
        }
        false
    });
    objects
}
