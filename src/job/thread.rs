//! The state of a thread: the job that runs on it, its jobs and wait contexts; and its exit.
//!
//! A [`Thread`] is plain thread-local memory without a destructor, so that it can be used to the
//! very end: destructors of other libraries may call in after the one here, that of a pthread
//! key, has run. From then on nothing is kept for later.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

use crate::job::job::{JobRef, ThreadId};
use crate::job::pool::Pool;
use crate::sys::mutex::ForkSafeMutex;
use crate::sys::sanitizer;
use crate::sys::syscall_guard::SyscallGuard;
use crate::wait_ctx::free_list::FreeList;

pub struct Thread {
    /// The innermost job that runs on this thread.
    pub current: Cell<Option<JobRef>>,
    pub pool: Pool,
    pub wait_contexts: FreeList,
    id: Cell<ThreadId>,
    /// ThreadSanitizer's fiber of this thread outside jobs.
    tsan_fiber: Cell<*mut c_void>,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            current: Cell::new(None),
            pool: Pool::new(),
            wait_contexts: FreeList::new(),
            id: Cell::new(ThreadId::NONE),
            tsan_fiber: Cell::new(ptr::null_mut()),
        }
    };
}

impl Thread {
    /// Calls `f` with the calling thread.
    #[inline(always)]
    pub fn with<R>(f: impl FnOnce(&Self) -> R) -> R {
        THREAD.with(f)
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
        self.id.set(ThreadId::new());
        self.tsan_fiber.set(sanitizer::current_fiber());
        let _guard = SyscallGuard::new(); // the C library may allocate
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

    /// Destroys the idle jobs and forgets the limit. Paused and running jobs stay.
    pub fn clean_up(&self) {
        let unlimited = self.pool.reset(self.id.get(), 0, 0);
        debug_assert!(unlimited.is_ok(), "no idle job is asked for");
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

// The address of `personality`, where the unwind information of the trampolines in
// fibre/fibre.rs says that it is.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .data.rel.ro.rsasync_personality, \"aw\", @progbits", // read-only once relocated
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
#[cfg(target_arch = "x86_64")]
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
