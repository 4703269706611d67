//! The switch: Boost.Context's, from the `context` crate, behind a safe face.
//!
//! A fibre has two sides, the job's and that of whoever started or resumed it, its
//! dispatcher. One of them runs; the [`Fibre`] holds the other, and [`Fibre::switch`]
//! exchanges them, the same way from both sides:
//!
//! ```text
//!   dispatcher            Fibre holds          job
//!   prepare               base
//!   switch  ----------->  dispatcher  ------>  base calls func
//!                         job         <------  switch           (a pause)
//!   switch  ----------->  dispatcher  ------>  goes on
//!                         job         <------  func returns     (the end)
//! ```

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem;
use std::process;
use std::ptr::{self, NonNull};

use context::stack::Stack;
use context::{Context, ContextFn, Transfer};

use crate::sanitizer::{self, Away};
use crate::thread::Thread;

/// What a fibre runs.
pub type Func = unsafe extern "C" fn(args: *mut c_void) -> c_int;

/// A function on a stack of its own.
#[repr(C)]
pub struct Fibre {
    /// The side that is not running, if it can be gone to.
    far_side: Cell<Option<Context>>,
    func: Cell<Option<Func>>,
    args: Cell<*mut c_void>,
    /// What `func` has returned.
    result: Cell<Option<c_int>>,
    /// Where a sanitizer watches: what it knows of the far side.
    watched: sanitizer::FarSide,
}

impl Fibre {
    /// The size of what is used where no sanitizer watches.
    pub const HOT: usize = mem::offset_of!(Self, watched);
    /// More than `prepare` writes below `top`.
    pub const FRAME: usize = 128;

    pub const fn new() -> Self {
        Self {
            far_side: Cell::new(None),
            func: Cell::new(None),
            args: Cell::new(ptr::null_mut()),
            result: Cell::new(None),
            watched: sanitizer::FarSide::new(),
        }
    }

    /// Has the next switch call `func` on the memory from `bottom` to `top`, with the rounding
    /// modes and exception masks that the caller has now. From there to `end` lies what else
    /// belongs to it.
    ///
    /// # Safety
    /// The memory can be written, is large enough, and is used for nothing else until `func`
    /// has returned. The fibre stays where it is until then. `args` is what `func` expects.
    #[inline]
    pub unsafe fn prepare(
        &self,
        bottom: NonNull<u8>,
        top: NonNull<u8>,
        end: NonNull<u8>,
        func: Func,
        args: *mut c_void,
    ) {
        self.func.set(Some(func));
        self.args.set(args);
        let stack = (bottom.as_ptr().cast(), top.as_ptr().cast::<c_void>());
        let mut main: ContextFn = base;
        if sanitizer::is_present() {
            let size = end.as_ptr().addr() - bottom.as_ptr().addr();
            self.watched.begin(stack.0, size);
            main = watched_base;
        }
        // SAFETY: the memory is the caller's promise, and `base` keeps what a ContextFn must.
        let far_side = unsafe { Context::new(&Stack::new(stack.1, stack.0), main) };
        self.far_side.set(Some(far_side));
    }

    /// Goes to the far side; returns when that comes back. Callee-saved registers, the x87
    /// control word and MXCSR stay with their side.
    ///
    /// # Safety
    /// There is a far side, it belongs to this thread, and its stack still exists.
    #[inline(always)]
    pub unsafe fn switch(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            if sanitizer::is_present() {
                self.switch_watched();
            } else {
                self.exchange_sides();
            }
        }
    }

    #[cold]
    unsafe fn switch_watched(&self) {
        let away = self.watched.leave(false);
        // SAFETY: the caller's promise.
        unsafe { self.exchange_sides() };
        let ended = self.result.get().is_some();
        self.watched.arrive(away, ended);
    }

    #[inline(always)]
    unsafe fn exchange_sides(&self) {
        let Some(to) = self.far_side.take() else {
            process::abort()
        };
        // SAFETY: the caller's promise; a context is used once, as it was taken.
        let back = unsafe { jump(to, ptr::from_ref(self).expose_provenance()) };
        self.far_side.set(Some(back));
    }

    /// Where a sanitizer watches, `base` tells it first that it has come.
    extern "C" fn arrive(&self) {
        self.watched.arrive(Away::FIRST_TIME, false);
    }

    /// What `func` returned, once, if it did.
    #[inline]
    pub fn take_result(&self) -> Option<c_int> {
        self.result.take()
    }

    /// Where `func` returns to: goes to the dispatcher for the last time.
    extern "C" fn end(&self, result: c_int) -> ! {
        self.result.set(Some(result));
        if sanitizer::is_present() {
            self.watched.leave(true);
        }
        // SAFETY: the far side is the dispatcher, which waits on this thread.
        unsafe { self.exchange_sides() };
        process::abort() // nobody comes back to a function that has returned
    }
}

/// The jump itself; returns who came back.
///
/// A processor predicts where a `ret` goes from a stack of the calls that it saw. The crate's
/// `jump_fcontext` is called but leaves by a `jmp`: its call stays on that stack, and each
/// `ret` that follows, all the way up the callers, is predicted one off. So it is entered as
/// it leaves, by a `jmp`, with the return address pushed by hand.
#[cfg(all(target_arch = "x86_64", not(rsasync_plain_switch)))]
#[inline(always)]
unsafe fn jump(to: Context, data: usize) -> Context {
    unsafe extern "C" {
        fn jump_fcontext();
    }
    let back: *const c_void;
    // SAFETY: this is the call of a C function with two arguments, that keeps what such a
    // function must keep, and leaves the struct of two words that it returns in rax and rdx.
    // A Context is a pointer, by its `repr(C)`.
    unsafe {
        std::arch::asm!(
            "lea rax, [rip + 2f]",
            "push rax",
            "jmp {jump_fcontext}",
            "2:",
            jump_fcontext = sym jump_fcontext,
            inout("rdi") mem::transmute::<Context, *const c_void>(to) => _,
            inout("rsi") data => _,
            lateout("rax") back,
            clobber_abi("C"),
        );
        mem::transmute::<*const c_void, Context>(back)
    }
}

/// The same by an ordinary call.
#[cfg(not(all(target_arch = "x86_64", not(rsasync_plain_switch))))]
#[inline(always)]
unsafe fn jump(to: Context, data: usize) -> Context {
    // SAFETY: the caller's promise.
    unsafe { to.resume(data) }.context
}

/// The outermost frame of a fibre's stack: takes over the dispatcher, calls `func`, and ends.
///
/// It is no Rust function, as `pthread_exit` unwinds the frames of `func` and this one, where
/// Rust would abort. Unwinders and debuggers end here: it tells them that there is no caller.
#[cfg(target_arch = "x86_64")]
macro_rules! base {
    ($name:ident $(, $tell:literal, $watch:path)?) => {
        #[unsafe(naked)]
        extern "C" fn $name(_first: Transfer) -> ! {
            std::arch::naked_asm!(
                ".cfi_startproc",
                ".cfi_undefined rip",
                ".cfi_personality 0x9b, rsasync_unwound_place", // indirect, relative to here
                "sub rsp, 8",
                ".cfi_adjust_cfa_offset 8",
                "mov rbx, rsi", // the Fibre, which the first switch hands over
                "mov [rbx + {far_side}], rdi",
                $($tell,)?
                "mov rdi, [rbx + {args}]",
                "call [rbx + {func}]",
                "mov rdi, rbx",
                "mov esi, eax",
                "add rsp, 8",
                ".cfi_adjust_cfa_offset -8",
                "jmp {end}", // not called: see `jump`
                ".cfi_endproc",
                far_side = const mem::offset_of!(Fibre, far_side),
                args = const mem::offset_of!(Fibre, args),
                func = const mem::offset_of!(Fibre, func),
                end = sym Fibre::end,
                $(watch = sym $watch,)?
            )
        }
    };
}
#[cfg(target_arch = "x86_64")]
base!(base);
#[cfg(target_arch = "x86_64")]
base!(watched_base, "mov rdi, rbx\ncall {watch}", Fibre::arrive);

#[cfg(not(target_arch = "x86_64"))]
use base as watched_base;

// Where the unwinder finds `unwound`.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .data.rel.ro.rsasync_unwound, \"aw\", @progbits",
    ".balign 8",
    ".globl rsasync_unwound_place",
    ".hidden rsasync_unwound_place",
    "rsasync_unwound_place:",
    ".8byte {unwound}",
    ".popsection",
    unwound = sym unwound,
);

/// The personality routine of `base`: what an unwinder asks there. When `pthread_exit` or a
/// cancellation unwinds, the frames of `func` are gone now, and the thread is about to end.
#[cfg(target_arch = "x86_64")]
extern "C" fn unwound(
    _version: c_int,
    actions: c_int,
    _class: u64,
    _: *mut (),
    _: *mut (),
) -> c_int {
    const UA_FORCE_UNWIND: c_int = 8;
    const URC_CONTINUE_UNWIND: c_int = 8;
    if actions & UA_FORCE_UNWIND != 0 {
        Thread::with(Thread::leave_jobs);
    }
    URC_CONTINUE_UNWIND
}

/// The same elsewhere, but that `pthread_exit` inside `func` ends the process.
#[cfg(not(target_arch = "x86_64"))]
extern "C" fn base(first: Transfer) -> ! {
    // SAFETY: the first switch hands over the fibre, which stays where it is; its function
    // has the type that it was given with, whether it unwinds or not.
    let (fibre, func) = unsafe {
        let fibre = &*ptr::with_exposed_provenance::<Fibre>(first.data);
        let func = mem::transmute::<_, Option<unsafe extern "C-unwind" fn(*mut c_void) -> c_int>>(
            fibre.func.get(),
        );
        (fibre, func)
    };
    fibre.far_side.set(Some(first.context));
    if sanitizer::is_present() {
        fibre.arrive();
    }
    let Some(func) = func else { process::abort() };
    // SAFETY: `prepare`'s promise.
    fibre.end(unsafe { func(fibre.args.get()) })
}
