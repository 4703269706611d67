//! OpenSSL's asynchronous jobs (`openssl/async.h`) as a library of their own.
//!
//! A job is a C function on a stack of its own, which can pause in the middle and be resumed.
//! The modules stand on floors; a file imports from lower floors and from its own folder, never in
//! a circle:
//!
//! ```text
//!   6  capi/       async_h          the functions of openssl/async.h: pointers in, codes out
//!                  rsasync_h        the functions of rsasync.h
//!      fork                         the one pthread_atfork handler and what it calls
//!      inspect                      where an observer of the process finds all this
//!   5  job/        switching        start, resume, pause, finish: the fast path
//!                  thread           the state of a thread; its exit
//!                  pool             the idle jobs of a thread, its limit; making, destroying
//!                  reclaim          what idle jobs give back of their stacks, and when
//!                  orphans          paused jobs that nobody will resume
//!                  overflow         a stack that overflowed, reported
//!                  census           how many jobs there are, in which state
//!                  record           how often a thread started, paused, resumed, finished
//!                  job              the job itself, at the top of its stack; its handle
//!   4  fibre/      fibre            the switch between two stacks
//!      wait_ctx/   weak             a job's weak pointer to its wait context
//!                  free_list        freed wait contexts, kept for new ones
//!                  wait_ctx         a wait context: descriptors, callback, status
//!      openssl/    error_queue      refusals go to OpenSSL's error queue
//!                  discover         which libcryptos the process has
//!                  libcrypto        one libcrypto: its functions, its beginning and end
//!                  default_context  the default library context, which a job keeps
//!   3  stack/      stack            a stack, whoever gave its memory
//!                  mem_functions    ASYNC_set_mem_functions
//!                  guarded          stacks of our own, each above a guard
//!                  valgrind         valgrind learns where stacks are
//!   2  error                        refusals; the thread's last message
//!   1  sys/        slots            memory in slots of one size, readable for ever
//!                  sanitizer        the sanitizers learn of stacks and switches
//!                  mutex            mutexes that a fork finds free
//!                  loader           the objects that the dynamic loader has loaded
//!                  elf              the symbols of one object
//!                  limits           what the system allows the process
//!                  advice           many pages in one system call
//!                  env              the environment variables
//!                  syscall_guard    system calls that leave no trace in errno
//!                  signal_stack     a stack for signal handlers
//!                  probes           places where a tracer can look
//!                  clock, stderr    the time; a line for the operator
//!   0  c_types                      the types that openssl/async.h declares
//! ```

#![allow(clippy::module_inception)] // a folder's main file has its name

#[cfg(not(all(
    target_os = "linux",
    target_pointer_width = "64",
    target_endian = "little",
    any(target_arch = "x86_64", target_arch = "aarch64"),
)))]
compile_error!(
    "rsasync runs on Linux, on x86-64 and 64-bit ARM; ctests/README.md says what others need"
);

#[cfg(not(panic = "abort"))]
compile_error!("a panic must not unwind into C: build with panic = \"abort\"");

pub mod c_types;

mod sys {
    pub mod advice;
    pub mod clock;
    pub mod elf;
    pub mod env;
    pub mod limits;
    pub mod loader;
    pub mod mutex;
    pub mod probes;
    pub mod sanitizer;
    pub mod signal_stack;
    pub mod slots;
    pub mod stderr;
    pub mod syscall_guard;
}

pub mod error;

mod stack {
    pub mod guarded;
    pub mod mem_functions;
    pub mod stack;
    pub mod valgrind;
}

mod fibre {
    pub mod fibre;
}

mod wait_ctx {
    pub mod free_list;
    pub mod wait_ctx;
    pub mod weak;
}

mod openssl {
    pub mod default_context;
    pub mod discover;
    pub mod error_queue;
    pub mod libcrypto;
}

mod job {
    pub mod census;
    pub mod job;
    pub mod orphans;
    pub mod overflow;
    pub mod pool;
    pub mod reclaim;
    pub mod record;
    pub mod switching;
    pub mod thread;
}

mod fork;
mod inspect;

pub mod capi {
    pub mod async_h;
    pub mod rsasync_h;
}

/// Runs when the library is loaded, or before `main` in a program that is linked statically.
extern "C" fn on_load() {
    sys::mutex::on_load();
    sys::env::read();
    sys::loader::on_load();
    job::thread::on_load();
    job::overflow::on_load();
    fork::on_load();
    inspect::on_load();
}

/// Runs when the process exits: the library is never unloaded before.
extern "C" fn on_process_exit() {
    if sys::env::options().stats {
        capi::rsasync_h::print_stats();
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static ON_LOAD: extern "C" fn() = on_load;

#[used]
#[unsafe(link_section = ".fini_array")]
static ON_EXIT: extern "C" fn() = on_process_exit;
