//! The switch between two stacks: Boost.Context's, from the `context` crate.
//!
//! A fibre has two sides: the job, on a stack of its own, and the dispatcher, which started or
//! resumed it. One of them runs; the [`Fibre`] holds the saved context of the other, the
//! suspended one. [`Fibre::switch`] exchanges them, the same way from both sides:
//!
//! ```text
//!   dispatcher            suspended            job
//!   prepare               trampoline
//!   switch  ----------->  dispatcher  ------>  trampoline calls func
//!                         job         <------  switch              (a pause)
//!   switch  ----------->  dispatcher  ------>  goes on
//!                         job         <------  func returns        (the end)
//! ```

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem;
use std::ops::Range;
use std::process;
use std::ptr;

use context::stack::Stack;
use context::{Context, ContextFn, Transfer};

use crate::sys::sanitizer::{self, FakeStack};

/// What a fibre runs.
pub type Func = unsafe extern "C" fn(args: *mut c_void) -> c_int;

/// A function on a stack of its own.
#[repr(C)]
pub struct Fibre {
    /// Saved context of the suspended side; None while a switch is in flight.
    suspended: Cell<Option<Context>>,
    /// What `func` has returned.
    result: Cell<Option<c_int>>,
    func: Cell<Option<Func>>,
    args: Cell<*mut c_void>,
    /// What the sanitizers know of the suspended side.
    sanitizer: sanitizer::Suspended,
}

// The trampoline stores a context's pointer where an Option<Context> is.
const _: () = assert!(mem::size_of::<Option<Context>>() == mem::size_of::<usize>());

impl Fibre {
    /// Bytes at the beginning that every switch uses; the first one uses more.
    pub const HOT_BYTES: usize = mem::offset_of!(Self, func);
    pub const SUSPENDED_OFFSET: usize = mem::offset_of!(Self, suspended);
    pub const FUNC_OFFSET: usize = mem::offset_of!(Self, func);
    /// `prepare` writes less than this below the end of the frames, in bytes.
    pub const FIRST_FRAME_BYTES: usize = 192;

    pub const fn new() -> Self {
        Self {
            suspended: Cell::new(None),
            result: Cell::new(None),
            func: Cell::new(None),
            args: Cell::new(ptr::null_mut()),
            sanitizer: sanitizer::Suspended::new(),
        }
    }

    /// Has the next switch call `func`, its frames in these addresses, with the rounding modes and
    /// exception masks that the caller has now. `whole` tells where the frames are and what else
    /// belongs to the fibre.
    ///
    /// # Safety
    /// The memory can be written, is large enough, and is used for nothing else until `func` has
    /// returned. The fibre stays in its place until then. `args` is what `func` expects.
    #[inline]
    pub unsafe fn prepare(
        &self,
        frames: Range<usize>,
        whole: impl FnOnce() -> Range<usize>,
        func: Func,
        args: *mut c_void,
    ) {
        self.func.set(Some(func));
        self.args.set(args);
        let mut entry: ContextFn = trampoline;
        if sanitizer::is_present() {
            self.sanitizer.begin(whole());
            entry = trampoline_instrumented;
        }
        let bottom = ptr::with_exposed_provenance_mut(frames.start);
        let top = ptr::with_exposed_provenance_mut(frames.end);
        // SAFETY: the caller gives the memory; the trampolines never return, as a ContextFn must.
        let context = unsafe { Context::new(&Stack::new(top, bottom), entry) };
        self.suspended.set(Some(context));
    }

    /// Switches to the suspended side; returns when that switches back. Each side keeps its
    /// callee-saved registers, its x87 control word and its MXCSR.
    ///
    /// # Safety
    /// There is a suspended side, it belongs to this thread, and its stack still exists.
    #[inline(always)]
    pub unsafe fn switch(&self) {
        // SAFETY: the caller's promise above.
        unsafe {
            if sanitizer::is_present() {
                self.switch_instrumented();
            } else {
                self.swap();
            }
        }
    }

    #[cold]
    unsafe fn switch_instrumented(&self) {
        let fake_stack = self.sanitizer.start_switch(false);
        // SAFETY: the caller's promise.
        unsafe { self.swap() };
        let has_ended = self.result.get().is_some();
        self.sanitizer.finish_switch(fake_stack, has_ended);
    }

    #[inline(always)]
    unsafe fn swap(&self) {
        let Some(to) = self.suspended.take() else {
            process::abort()
        };
        // SAFETY: the caller's promise; the context is used once, as it was taken out.
        let from = unsafe { jump(to, ptr::from_ref(self).expose_provenance()) };
        self.suspended.set(Some(from));
    }

    /// The first thing that `trampoline_instrumented` calls, on the new stack.
    extern "C" fn finish_first_switch(&self) {
        self.sanitizer.finish_switch(FakeStack::NONE, false);
    }

    /// The lowest address that the suspended side uses: its stack pointer, and what a function may
    /// use below that (the red zone).
    pub fn lowest_in_use(&self) -> Option<usize> {
        const RED_ZONE_BYTES: usize = 128;
        // SAFETY: a context is a pointer (`repr(C)`), to where the switch has put the registers.
        let context = unsafe { *self.suspended.as_ptr().cast::<usize>() };
        context.checked_sub(RED_ZONE_BYTES)
    }

    /// The address of what the fibre runs; 0 before its first run.
    pub fn func_address(&self) -> usize {
        self.func.get().map_or(0, |func| func as usize)
    }

    /// What `func` returned, once, if it did.
    #[inline]
    pub fn take_result(&self) -> Option<c_int> {
        self.result.take()
    }

    /// What the trampoline does when `func` has returned: switches to the dispatcher for good.
    extern "C" fn end(&self, result: c_int) -> ! {
        self.result.set(Some(result));
        if sanitizer::is_present() {
            self.sanitizer.start_switch(true);
        }
        // SAFETY: the dispatcher is suspended on this thread, in the call that runs this job.
        unsafe { self.swap() };
        process::abort() // a function that has returned is never resumed
    }
}

/// Jumps to a saved context and passes `data`; returns the context of whoever jumps back.
///
/// A processor predicts where a `ret` goes from a stack of the calls that it has seen. The
/// crate's `jump_fcontext` is made to be called but leaves by a `jmp`: its call would stay on
/// that stack, and each `ret` that follows, all the way up the callers, would be predicted one
/// off. So it is entered as it leaves, by a `jmp`. The return address, which a call would push,
/// goes through rax to [`push_rax_and_jump`].
#[cfg(all(target_arch = "x86_64", not(rsasync_plain_switch)))]
#[inline(always)]
unsafe fn jump(to: Context, data: usize) -> Context {
    let from: *const c_void;
    // SAFETY: this amounts to a call of a C function with two arguments, which keeps what such a
    // function must keep and returns a struct of two words, in rax and rdx. The first of them is
    // a Context, which is a pointer (`repr(C)`).
    unsafe {
        std::arch::asm!(
            "lea rax, [rip + 2f]", // where the switch back comes
            "jmp {push_rax_and_jump}",
            "2:",
            push_rax_and_jump = sym push_rax_and_jump,
            inout("rdi") mem::transmute::<Context, *const c_void>(to) => _,
            inout("rsi") data => _,
            lateout("rax") from,
            clobber_abi("C"),
        );
        mem::transmute::<*const c_void, Context>(from)
    }
}

/// Enters `jump_fcontext` with the return address that rax has. It is apart from `jump` to have
/// unwind information of its own: between the `push` and the jump the stack pointer is not where
/// the table of `jump`'s caller says.
#[cfg(all(target_arch = "x86_64", not(rsasync_plain_switch)))]
#[unsafe(naked)]
extern "C" fn push_rax_and_jump() {
    unsafe extern "C" {
        fn jump_fcontext();
    }
    std::arch::naked_asm!(
        ".cfi_startproc",
        ".cfi_def_cfa rsp, 0",    // no call has pushed anything yet
        ".cfi_register rip, rax", // the caller goes on where rax says
        "push rax",
        ".cfi_def_cfa_offset 8",
        ".cfi_offset rip, -8", // ... and from here on where the stack says
        "jmp {jump_fcontext}", // where walks of the stack end
        ".cfi_endproc",
        jump_fcontext = sym jump_fcontext,
    )
}

// Unwind information for the crate's two functions, which have none, so that a debugger would
// guess: walks of the stack end there. First what they share (a CIE), then a piece for each (an
// FDE).
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .eh_frame, \"a\", @unwind",
    ".balign 8",
    "20: .4byte 22f - 21f", // its length
    "21: .4byte 0",         // it is a CIE
    ".byte 1",              // version
    ".asciz \"zR\"",        // the encoding of addresses follows
    ".byte 1, 0x78, 16",    // units of code and data: 1 and -8; rip is register 16
    ".byte 1, 0x1b",        // addresses are relative and have 4 bytes
    ".byte 0x0c, 7, 8",     // DW_CFA_def_cfa: rsp + 8
    ".byte 0x07, 16",       // DW_CFA_undefined: rip; there is no caller
    ".balign 8",
    "22: .4byte 24f - 23f", // its length
    "23: .4byte 23b - 20b", // it belongs to that CIE
    ".4byte jump_fcontext - .",
    ".4byte 0x6a", // the function's bytes
    ".byte 0",
    ".balign 8",
    "24: .4byte 26f - 25f",
    "25: .4byte 25b - 20b",
    ".4byte make_fcontext - .",
    ".4byte 0x38",
    ".byte 0",
    ".balign 8",
    "26: .popsection",
);

/// The same by an ordinary call. It is also right where a call and the `jmp` back pair up:
/// aarch64 leaves `jump_fcontext` by a `ret`.
#[cfg(not(all(target_arch = "x86_64", not(rsasync_plain_switch))))]
#[inline(always)]
unsafe fn jump(to: Context, data: usize) -> Context {
    // SAFETY: the caller's promise.
    unsafe { to.resume(data) }.context
}

/// Defines the outermost function of a fibre's stack: it saves the dispatcher's context in the
/// Fibre, calls `func`, and ends.
///
/// It is no Rust function, because `pthread_exit` unwinds the frames of `func` and this one, and
/// Rust would abort. Backtraces end here: its unwind information says that it has no caller.
#[cfg(target_arch = "x86_64")]
macro_rules! trampoline {
    ($name:ident $(, $call:literal, $callee:path)?) => {
        #[unsafe(naked)]
        extern "C" fn $name(_first: Transfer) -> ! {
            std::arch::naked_asm!(
                ".cfi_startproc",
                ".cfi_undefined rip", // no caller
                ".cfi_personality 0x9b, rsasync_personality", // 0x9b: indirect, relative, 4 bytes
                "sub rsp, 8", // functions are called with rsp a multiple of 16
                ".cfi_adjust_cfa_offset 8",
                "mov rbx, rsi", // the Fibre, which the first switch passes as data
                "mov [rbx + {suspended}], rdi", // the dispatcher's context
                $("mov rdi, rbx", $call,)?
                "mov rdi, [rbx + {args}]",
                "call [rbx + {func}]",
                "mov rdi, rbx",
                "mov esi, eax", // func's result
                "add rsp, 8", // as at a function's first instruction
                ".cfi_adjust_cfa_offset -8",
                "jmp {end}", // not called, for the same reason as in `jump`
                ".cfi_endproc",
                suspended = const mem::offset_of!(Fibre, suspended),
                args = const mem::offset_of!(Fibre, args),
                func = const mem::offset_of!(Fibre, func),
                end = sym Fibre::end,
                $(callee = sym $callee,)?
            )
        }
    };
}
#[cfg(target_arch = "x86_64")]
trampoline!(trampoline);
#[cfg(target_arch = "x86_64")]
trampoline!(
    trampoline_instrumented,
    "call {callee}",
    Fibre::finish_first_switch
);

#[cfg(not(target_arch = "x86_64"))]
use trampoline as trampoline_instrumented;

// The trampolines' personality routine, which an unwinder calls for their frames, stands in
// job/thread.rs: when `pthread_exit` or a cancellation unwinds, the thread leaves its jobs. The
// linker joins the two by the name `rsasync_personality`.

/// The same for other processors, where `pthread_exit` inside `func` ends the process.
#[cfg(not(target_arch = "x86_64"))]
extern "C" fn trampoline(first: Transfer) -> ! {
    type UnwindingFunc = unsafe extern "C-unwind" fn(*mut c_void) -> c_int;
    // SAFETY: the first switch passes the fibre, which stays in its place. Its function has the
    // type that it was given with, whether it unwinds or not.
    let (fibre, func) = unsafe {
        let fibre = &*ptr::with_exposed_provenance::<Fibre>(first.data);
        let func = mem::transmute::<Option<Func>, Option<UnwindingFunc>>(fibre.func.get());
        (fibre, func)
    };
    fibre.suspended.set(Some(first.context));
    if sanitizer::is_present() {
        fibre.finish_first_switch();
    }
    let Some(func) = func else { process::abort() };
    // SAFETY: `prepare`'s caller promised that these are its arguments.
    fibre.end(unsafe { func(fibre.args.get()) })
}
