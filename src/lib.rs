//! OpenSSL's asynchronous jobs (`openssl/async.h`) as a library of its own.
//!
//! A job is a C function on a stack of its own, which can pause in the middle and be resumed.
//! How a call travels, from the C program inwards:
//!
//! ```text
//!   entry      the C functions: pointers in, codes out; extensions: those of rsasync.h
//!     job        a job's life: start, resume, pause, finish
//!       fibre      the switch from one stack to another
//!       stack      the memory of stacks
//!       pool       a thread's idle jobs
//!       thread     what belongs to a thread; its end
//!       default_context  OpenSSL's default library context, which a job keeps
//!     wait_ctx   the file descriptors that a job waits for
//!     error      refusals, and their way to OpenSSL's queue
//!       libcrypto  the libcrypto in this process, if any
//! ```
//!
//! Below them: `lock` (locks that outlive a `fork`), `config` (the environment), `quiet` (system
//! calls that go unnoticed), `clock`, `elf` (symbols), and `valgrind` and `sanitizer` (which are
//! told of our stacks).

#[cfg(not(panic = "abort"))]
compile_error!("a panic must not unwind into C: build with panic = \"abort\"");

mod clock;
mod config;
mod default_context;
mod elf;
pub mod entry;
pub mod error;
pub mod extensions;
mod fibre;
mod job;
mod libcrypto;
mod lock;
mod pool;
mod quiet;
mod sanitizer;
mod stack;
mod thread;
mod valgrind;
mod wait_ctx;

/// Run by the loader.
extern "C" fn loaded() {
    thread::set_up();
    libcrypto::find_list_of_objects();
    stay_loaded();
}

/// What has this library in it, if not the program, is never unloaded: handlers of fork and of
/// threads' ends point into it. The shared library says so itself; a plug-in with the static
/// one doesn't.
fn stay_loaded() {
    // SAFETY: the address is in it; nothing is loaded by NOLOAD.
    unsafe {
        let mut info = std::mem::zeroed::<libc::Dl_info>();
        if libc::dladdr(loaded as *const libc::c_void, &mut info) != 0 {
            let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
            libc::dlopen(info.dli_fname, flags);
        }
    }
}

/// Run at the end of the process.
extern "C" fn unloaded() {
    if config::stats_at_exit() {
        extensions::print_stats();
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = loaded;

#[used]
#[unsafe(link_section = ".fini_array")]
static UNLOADED: extern "C" fn() = unloaded;
