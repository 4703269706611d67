//! The state of a thread: the job that runs on it, its jobs and wait contexts; and its exit.
//!
//! A [`Thread`] is plain thread-local memory without a destructor, so that it can be used to the
//! very end: destructors of other libraries may call in after the one here, that of a pthread
//! key, has run. From then on nothing is kept for later.

#[cfg(not(target_env = "musl"))]
use std::arch::asm;
use std::arch::global_asm;
use std::cell::Cell;
use std::ffi::c_void;
use std::mem;
#[cfg(target_env = "musl")]
use std::mem::MaybeUninit;
use std::ptr;

use crate::job::job::{JobRef, ThreadId};
use crate::job::orphans::Orphans;
use crate::job::pool::Pool;
use crate::job::record::{self, Count, Counts, ThreadRecord};
use crate::sys::env;
use crate::sys::mutex::ForkSafeMutex;
use crate::sys::sanitizer;
use crate::sys::signal_stack;
use crate::sys::syscall_guard::SyscallGuard;
use crate::wait_ctx::free_list::FreeList;

/// Zeroed memory is a thread that has not been registered.
pub struct Thread {
    /// The innermost job that runs on this thread.
    pub current: Cell<Option<JobRef>>,
    pub pool: Pool,
    pub orphans: Orphans,
    pub wait_contexts: FreeList,
    id: Cell<ThreadId>,
    /// Where it counts what it does; None before it is registered, and after its exit.
    record: Cell<Option<&'static ThreadRecord>>,
    /// The stack for signal handlers, where `overflow.rs` needs one and the thread had none.
    signal_stack: Cell<*mut c_void>,
    /// ThreadSanitizer's fiber of this thread outside jobs.
    tsan_fiber: Cell<*mut c_void>,
}

// The memory of each thread's Thread, zeroed. It is of the initial-exec kind: its place relative to
// the thread is fixed when the library is loaded. The usual kind is allocated when a thread first
// uses it, by malloc, which the signal handler that asks for the current job may have interrupted.
// The price: a library that comes by dlopen gets it from what the C library keeps for that (glibc:
// some 1,600 bytes for all libraries together).
#[cfg(not(target_env = "musl"))]
global_asm!(
    ".pushsection .tbss.rsasync_thread, \"awT\", %nobits",
    ".balign 16",
    ".globl rsasync_thread",
    ".hidden rsasync_thread",
    "rsasync_thread:",
    ".zero {bytes}",
    ".popsection",
    bytes = const mem::size_of::<Thread>(),
);

const _: () = assert!(mem::align_of::<Thread>() <= 16);

/// The calling thread's Thread, where the C library is musl. That has no memory of the initial-exec kind
/// for a library that comes by dlopen, and allocates none when a thread first uses it.
#[cfg(target_env = "musl")]
#[inline(always)]
fn this_thread() -> *const Thread {
    thread_local! {
        static THREAD: MaybeUninit<Thread> = const { MaybeUninit::zeroed() };
    }
    THREAD.with(MaybeUninit::as_ptr)
}

/// The calling thread's Thread.
#[cfg(all(target_arch = "x86_64", not(target_env = "musl")))]
#[inline(always)]
fn this_thread() -> *const Thread {
    let thread;
    // SAFETY: it only reads where the memory lies.
    unsafe {
        asm!(
            "mov {thread}, qword ptr [rip + rsasync_thread@gottpoff]", // relative to the thread
            "add {thread}, qword ptr fs:[0]", // where the thread is
            thread = out(reg) thread,
            options(pure, nomem, nostack),
        );
    }
    thread
}

/// The same for 64-bit ARM.
#[cfg(all(target_arch = "aarch64", not(target_env = "musl")))]
#[inline(always)]
fn this_thread() -> *const Thread {
    let thread;
    // SAFETY: it only reads where the memory lies.
    unsafe {
        asm!(
            "adrp {thread}, :gottprel:rsasync_thread",
            "ldr {thread}, [{thread}, :gottprel_lo12:rsasync_thread]", // relative to the thread
            "mrs {base}, tpidr_el0", // where the thread is
            "add {thread}, {thread}, {base}",
            thread = out(reg) thread,
            base = out(reg) _,
            options(pure, nomem, nostack),
        );
    }
    thread
}

impl Thread {
    /// Calls `f` with the calling thread.
    #[inline(always)]
    pub fn with<R>(f: impl FnOnce(&Self) -> R) -> R {
        // SAFETY: the memory lives as long as the thread; zeros, as it begins, are a valid value.
        f(unsafe { &*this_thread() })
    }

    /// The same for a thread that may get something to free: its exit is noticed.
    #[inline(always)]
    pub fn with_registered<R>(f: impl FnOnce(&Self) -> R) -> R {
        Self::with(|thread| {
            if thread.id.get() == ThreadId::NONE {
                thread.register();
            }
            f(thread)
        })
    }

    #[cold]
    fn register(&self) {
        let _guard = SyscallGuard::new(); // the C library may allocate
        let id = ThreadId::new();
        self.id.set(id);
        self.record.set(ThreadRecord::open(id));
        self.wait_contexts.open();
        if env::options().report_overflow {
            self.signal_stack.set(signal_stack::open());
        }
        self.tsan_fiber.set(sanitizer::current_fiber());
        let is_registered = exit_key().is_some_and(|key| {
            // SAFETY: the key is ours; its destructor gets the value of its own thread, whose
            // memory outlives all destructors.
            unsafe { libc::pthread_setspecific(key, ptr::from_ref(self).cast()) == 0 }
        });
        if !is_registered {
            self.close();
        }
    }

    #[inline]
    pub fn id(&self) -> ThreadId {
        self.id.get()
    }

    /// Counts something that this thread does.
    #[inline(always)]
    pub fn count(&self, what: impl Fn(&Counts) -> &Count) {
        record::count(self.record.get(), what);
    }

    /// Destroys the idle jobs and forgets the limit. Paused and running jobs stay.
    pub fn clean_up(&self) {
        self.pool.begin_epoch(0);
    }

    /// `pthread_exit` or a cancellation has unwound the current job and goes on to the thread's
    /// end: no frame of the thread's other jobs will be unwound. Their stacks stay as they are.
    fn forget_current(&self) {
        if self.current.take().is_some() {
            sanitizer::leave_jobs(self.tsan_fiber.get());
        }
    }

    /// From now on nothing is kept for later.
    fn close(&self) {
        self.clean_up();
        self.pool.close();
        self.wait_contexts.close();
        if let Some(record) = self.record.take() {
            record.close();
        }
        signal_stack::close(self.signal_stack.replace(ptr::null_mut()));
    }
}

/// The key whose destructor runs when a thread exits, if one could be had.
fn exit_key() -> Option<libc::pthread_key_t> {
    unsafe extern "C" fn on_thread_exit(thread: *mut c_void) {
        // SAFETY: `register` set the value, on this thread.
        let thread = unsafe { &*thread.cast::<Thread>() };
        thread.forget_current(); // where the C library has not unwound it
        thread.close();
    }
    static KEY: ForkSafeMutex<Option<Option<libc::pthread_key_t>>> = ForkSafeMutex::new(None);
    *KEY.lock().get_or_insert_with(|| {
        let mut key = 0;
        // SAFETY: `key` is a local variable, and `on_thread_exit` is never unloaded.
        let is_made = unsafe { libc::pthread_key_create(&mut key, Some(on_thread_exit)) } == 0;
        is_made.then_some(key)
    })
}

/// Makes the key as early as possible: there may be only so many.
pub fn on_load() {
    exit_key();
}

/// The other threads of the parent are gone, and their records with them.
pub fn after_fork_in_child() {
    Thread::with(|thread| record::after_fork_in_child(thread.id()));
}

// The address of `personality`, where the unwind information of the trampolines in
// fibre/fibre.rs says that it is.
global_asm!(
    ".pushsection .data.rel.ro.rsasync_personality, \"aw\", %progbits", // read-only once relocated
    ".balign 8",
    ".globl rsasync_personality",
    ".hidden rsasync_personality",
    "rsasync_personality:",
    ".8byte {personality}",
    ".popsection",
    personality = sym personality,
);

/// The personality routine of the trampolines: what an unwinder calls when it has come to the
/// outermost frame of a job. If it unwinds for `pthread_exit` or a cancellation, the job's frames
/// are gone now, and the thread is about to exit.
extern "C" fn personality(
    _version: i32,
    actions: i32,
    _class: u64,
    _exception: *mut (),
    _context: *mut (),
) -> i32 {
    // From the Itanium C++ ABI, <unwind.h>.
    const UA_FORCE_UNWIND: i32 = 8;
    const URC_CONTINUE_UNWIND: i32 = 8;
    if actions & UA_FORCE_UNWIND != 0 {
        Thread::with(Thread::forget_current);
    }
    URC_CONTINUE_UNWIND
}
