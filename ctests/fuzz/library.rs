//! A library's functions, found at run time: those of openssl/async.h and the few of libcrypto
//! that a program watches it by.

use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use std::path::Path;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::model::Features;

pub type Pointer = *mut c_void;
pub type JobFn = extern "C" fn(Pointer) -> c_int;
pub type CleanupFn = extern "C" fn(Pointer, *const c_void, c_int, Pointer);
pub type CallbackFn = extern "C" fn(Pointer) -> c_int;

/// `OPENSSL_INIT_LOAD_CRYPTO_STRINGS`.
const LOAD_CRYPTO_STRINGS: u64 = 2;

/// Declares the table of functions, and how it is filled: each name is looked up as it stands.
macro_rules! functions {
    ($table:ident { $($field:ident: $name:literal, $type:ty;)* }) => {
        pub struct $table {
            $(pub $field: $type,)*
        }

        impl $table {
            /// # Safety
            /// The library's functions of these names have these types.
            unsafe fn find(library: &Library) -> Result<Self, libloading::Error> {
                // SAFETY: the caller's promise; the library is never unloaded.
                unsafe { Ok(Self { $($field: *library.get::<$type>($name)?,)* }) }
            }
        }
    };
}

functions! { Async {
    init_thread: "ASYNC_init_thread", unsafe extern "C" fn(usize, usize) -> c_int;
    cleanup_thread: "ASYNC_cleanup_thread", unsafe extern "C" fn();
    start_job: "ASYNC_start_job", unsafe extern "C" fn(
        *mut Pointer, Pointer, *mut c_int, Option<JobFn>, Pointer, usize) -> c_int;
    pause_job: "ASYNC_pause_job", unsafe extern "C" fn() -> c_int;
    current_job: "ASYNC_get_current_job", unsafe extern "C" fn() -> Pointer;
    wait_ctx: "ASYNC_get_wait_ctx", unsafe extern "C" fn(Pointer) -> Pointer;
    block_pause: "ASYNC_block_pause", unsafe extern "C" fn();
    unblock_pause: "ASYNC_unblock_pause", unsafe extern "C" fn();
    is_capable: "ASYNC_is_capable", unsafe extern "C" fn() -> c_int;
    new: "ASYNC_WAIT_CTX_new", unsafe extern "C" fn() -> Pointer;
    free: "ASYNC_WAIT_CTX_free", unsafe extern "C" fn(Pointer);
    set_wait_fd: "ASYNC_WAIT_CTX_set_wait_fd", unsafe extern "C" fn(
        Pointer, *const c_void, c_int, Pointer, Option<CleanupFn>) -> c_int;
    fd: "ASYNC_WAIT_CTX_get_fd", unsafe extern "C" fn(
        Pointer, *const c_void, *mut c_int, *mut Pointer) -> c_int;
    all_fds: "ASYNC_WAIT_CTX_get_all_fds", unsafe extern "C" fn(
        Pointer, *mut c_int, *mut usize) -> c_int;
    changed_fds: "ASYNC_WAIT_CTX_get_changed_fds", unsafe extern "C" fn(
        Pointer, *mut c_int, *mut usize, *mut c_int, *mut usize) -> c_int;
    clear_fd: "ASYNC_WAIT_CTX_clear_fd", unsafe extern "C" fn(Pointer, *const c_void) -> c_int;
}}

functions! { Callbacks {
    set: "ASYNC_WAIT_CTX_set_callback", unsafe extern "C" fn(
        Pointer, Option<CallbackFn>, Pointer) -> c_int;
    get: "ASYNC_WAIT_CTX_get_callback", unsafe extern "C" fn(
        Pointer, *mut Option<CallbackFn>, *mut Pointer) -> c_int;
    set_status: "ASYNC_WAIT_CTX_set_status", unsafe extern "C" fn(Pointer, c_int) -> c_int;
    status: "ASYNC_WAIT_CTX_get_status", unsafe extern "C" fn(Pointer) -> c_int;
}}

functions! { Libcrypto {
    init: "OPENSSL_init_crypto", unsafe extern "C" fn(u64, Pointer) -> c_int;
    get_error: "ERR_get_error", unsafe extern "C" fn() -> c_ulong;
    thread_stop: "OPENSSL_thread_stop", unsafe extern "C" fn();
    version: "OpenSSL_version", unsafe extern "C" fn(c_int) -> *const c_char;
}}

functions! { Defaults {
    new: "OSSL_LIB_CTX_new", unsafe extern "C" fn() -> Pointer;
    set: "OSSL_LIB_CTX_set0_default", unsafe extern "C" fn(Pointer) -> Pointer;
}}

pub struct Functions {
    pub jobs: Async,
    /// Since 3.0.
    pub callbacks: Option<Callbacks>,
    pub libcrypto: Libcrypto,
    /// `OSSL_LIB_CTX_set0_default`, since 3.0.
    pub set_default: Option<unsafe extern "C" fn(Pointer) -> Pointer>,
    /// The global default context and two others.
    pub contexts: [usize; 3],
    pub features: Features,
}

impl Functions {
    /// Those of a library, beside a libcrypto, which may be the same.
    pub fn load(library: &Path, libcrypto: &Path) -> Result<Self, libloading::Error> {
        // SAFETY: the libraries are what a program would link with, so that what runs when
        // they are loaded is harmless, and their functions have the types of their headers.
        unsafe {
            let crypto = Library::open(Some(libcrypto), RTLD_NOW | RTLD_LOCAL)?;
            let library = Library::open(Some(library), RTLD_NOW | RTLD_LOCAL)?;
            let libcrypto = Libcrypto::find(&crypto)?;
            // What libcrypto does once in a process is done before the forks: its strings are
            // most of it.
            (libcrypto.init)(LOAD_CRYPTO_STRINGS, std::ptr::null_mut());
            (libcrypto.get_error)();
            let callbacks = Callbacks::find(&library).ok();
            let defaults = Defaults::find(&crypto).ok();
            let contexts = defaults.as_ref().map_or([0; 3], |defaults| {
                let global = (defaults.set)(std::ptr::null_mut());
                [global, (defaults.new)(), (defaults.new)()].map(|ctx| ctx.addr())
            });
            let version = CStr::from_ptr((libcrypto.version)(0));
            let features = Features {
                version: version.to_string_lossy().into_owned(),
                function_codes: crypto.get::<Pointer>("ERR_new").is_err(),
                callbacks: callbacks.is_some(),
                default_context: defaults.is_some(),
            };
            let functions = Self {
                jobs: Async::find(&library)?,
                callbacks,
                libcrypto,
                set_default: defaults.map(|defaults| defaults.set),
                contexts,
                features,
            };
            // They are used to the end of the process.
            std::mem::forget((crypto, library));
            Ok(functions)
        }
    }
}
