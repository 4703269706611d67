//! Functions of rsasync and libcrypto, looked up at run time: those of openssl/async.h, and those of
//! libcrypto that show what jobs do to it.

use std::ffi::{c_char, c_int, c_ulong, c_void};

use libloading::os::unix::Library;

pub type Pointer = *mut c_void;
pub type JobFn = extern "C" fn(Pointer) -> c_int;
pub type CleanupFn = extern "C" fn(Pointer, *const c_void, c_int, Pointer);
pub type CallbackFn = extern "C" fn(Pointer) -> c_int;

/// Declares a struct of function pointers, and `find`, which looks each of them up by its name. C
/// code reads the struct as well, so that the order of the fields is part of its type.
macro_rules! functions {
    ($table:ident { $($field:ident: $name:literal, $type:ty;)* }) => {
        #[repr(C)]
        pub struct $table {
            $(pub $field: $type,)*
        }

        impl $table {
            /// # Safety
            /// The library's functions of these names must have these types.
            pub unsafe fn find(library: &Library) -> Result<Self, libloading::Error> {
                // SAFETY: the caller vouches for the types. The pointers outlive `library`, as both
                // rsasync (by its nodelete flag) and libcrypto (which pins itself) stay loaded.
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
