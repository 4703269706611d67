//! The switch between two stacks: Boost.Context's, from the `context` crate.
//!
//! A fibre has two sides: the job, on a stack of its own, and the dispatcher, which started or
//! resumed it. One of them runs; the [`Fibre`] holds the saved context of the other, the
//! suspended one. [`Fibre::switch`] exchanges them, the same way from both sides:
//!
//! ```text
//!   dispatcher            suspended            job
//!   begin   ----------->  dispatcher  ------>  func is called
//!                         job         <------  switch              (a pause)
//!   switch  ----------->  dispatcher  ------>  goes on
//!                         (none)      <------  func returns        (the end)
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

/// Calls a function with two arguments, without a `call`: by a `jmp`, with the return address in rax.
/// Returns the context of whoever switches back, or None if that was a job at its end.
///
/// A processor predicts where a `ret` goes from a stack of the calls that it has seen. The
/// crate's `jump_fcontext` is made to be called but leaves by a `jmp`: its call would stay on
/// that stack, and each `ret` that follows, all the way up the callers, would be predicted one
/// off. So it is entered as it leaves, by a `jmp`, and so is a job's trampoline.
#[cfg(all(target_arch = "x86_64", not(rsasync_plain_switch)))]
macro_rules! call_by_jump {
    ($function:path, $first:expr, $second:expr) => {{
        let from: *const c_void;
        // This amounts to a call of a C function, which keeps what such a function must keep, and
        // returns a Context in rax, which is a pointer (`repr(C)`), or NULL.
        std::arch::asm!(
            "lea rax, [rip + 2f]", // where the switch back comes
            "jmp {function}",
            "2:",
            function = sym $function,
            inout("rdi") $first => _,
            inout("rsi") $second => _,
            lateout("rax") from,
            clobber_abi("C"),
        );
        mem::transmute::<*const c_void, Option<Context>>(from)
    }};
}

/// What a fibre runs.
pub type Func = unsafe extern "C" fn(args: *mut c_void) -> c_int;

/// A function on a stack of its own.
#[repr(C)]
pub struct Fibre {
    /// Saved context of the suspended side; None while a switch is in flight.
    suspended: Cell<Option<Context>>,
    /// Whether `func` has returned, and what.
    has_returned: Cell<u32>,
    result: Cell<c_int>,
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
    /// `begin` writes less than this below the end of the frames, in bytes: a context (64 on x86-64, 176
    /// on 64-bit ARM) from the next multiple of 16 on.
    pub const FIRST_FRAME_BYTES: usize = 192;

    pub const fn new() -> Self {
        Self {
            suspended: Cell::new(None),
            has_returned: Cell::new(0),
            result: Cell::new(0),
            func: Cell::new(None),
            args: Cell::new(ptr::null_mut()),
            sanitizer: sanitizer::Suspended::new(),
        }
    }

    /// What the next [`Fibre::begin`] calls.
    #[inline]
    pub fn set_func(&self, func: Func, args: *mut c_void) {
        self.func.set(Some(func));
        self.args.set(args);
    }

    /// Calls `func`, its frames in these addresses, with the rounding modes and exception masks that
    /// the caller has now; returns at its first switch, or when it has returned. `whole` tells where
    /// the frames are and what else belongs to the fibre.
    ///
    /// # Safety
    /// The memory can be written, is large enough, and is used for nothing else until `func` has
    /// returned. The fibre stays in its place until then. `args` is what `func` expects.
    #[inline(always)]
    pub unsafe fn begin(&self, frames: Range<usize>, whole: impl FnOnce() -> Range<usize>) {
        // SAFETY: the caller's promise.
        unsafe {
            if sanitizer::is_present() {
                self.begin_instrumented(frames, whole());
            } else {
                self.begin_plain(frames);
            }
        }
    }

    #[cfg(all(target_arch = "x86_64", not(rsasync_plain_switch)))]
    #[inline(always)]
    unsafe fn begin_plain(&self, frames: Range<usize>) {
        // SAFETY: the caller's promise; the trampoline finds the function in the fibre.
        let from = unsafe { call_by_jump!(trampoline, ptr::from_ref(self), frames.end & !15) };
        self.suspended.set(from);
    }

    #[cfg(not(all(target_arch = "x86_64", not(rsasync_plain_switch))))]
    #[inline(always)]
    unsafe fn begin_plain(&self, frames: Range<usize>) {
        // SAFETY: the caller's promise.
        unsafe {
            self.make_context(frames, trampoline);
            self.swap();
        }
    }

    #[cold]
    unsafe fn begin_instrumented(&self, frames: Range<usize>, whole: Range<usize>) {
        self.sanitizer.begin(whole);
        // SAFETY: the caller's promise.
        unsafe {
            self.make_context(frames, trampoline_instrumented);
            self.switch_instrumented();
        }
    }

    unsafe fn make_context(&self, frames: Range<usize>, entry: ContextFn) {
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
        let has_ended = self.has_returned.get() != 0;
        self.sanitizer.finish_switch(fake_stack, has_ended);
    }

    #[inline(always)]
    unsafe fn swap(&self) {
        let Some(to) = self.suspended.take() else {
            process::abort()
        };
        // SAFETY: the caller's promise; the context is used once, as it was taken out.
        let from = unsafe { jump(to, ptr::from_ref(self).expose_provenance()) };
        self.suspended.set(from);
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
        (self.has_returned.replace(0) != 0).then(|| self.result.get())
    }

    /// What the trampoline does when `func` has returned: switches to the dispatcher for good.
    extern "C" fn end(&self, result: c_int) -> ! {
        self.result.set(result);
        self.has_returned.set(1);
        if sanitizer::is_present() {
            self.sanitizer.start_switch(true);
        }
        // SAFETY: the dispatcher is suspended on this thread, in the call that runs this job.
        unsafe { self.swap() };
        process::abort() // a function that has returned is never resumed
    }
}

/// Jumps to a saved context and passes `data`; returns the context of whoever jumps back, or None
/// if that was a job at its end.
#[cfg(all(target_arch = "x86_64", not(rsasync_plain_switch)))]
#[inline(always)]
unsafe fn jump(to: Context, data: usize) -> Option<Context> {
    // SAFETY: the caller's promise; the context is used once.
    unsafe {
        let to = mem::transmute::<Context, *const c_void>(to);
        call_by_jump!(push_rax_and_jump, to, data)
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

/// The two ends of a job, on the stack whose top rsi has. At the beginning it leaves on the
/// dispatcher's stack the frame that `jump_fcontext` would leave there; at the end it loads that of
/// the last dispatcher.
///
/// ```text
///   low                                                        high
///    | MXCSR, x87 | r12 | r13 | r14 | r15 | rbx | rbp | return address |
///    ^ the context
/// ```
///
/// The crate's way costs more: `make_fcontext` writes a frame for the first jump to load, and the
/// last jump saves one that nobody will load. To save MXCSR alone takes 4.5 ns on some processors.
///
/// A debugger or `pthread_exit` may unwind at any instruction, so each has its unwind information.
#[cfg(all(target_arch = "x86_64", not(rsasync_plain_switch)))]
#[unsafe(naked)]
extern "C" fn trampoline() {
    std::arch::naked_asm!(
        ".cfi_startproc",
        ".cfi_personality 0x9b, rsasync_personality", // 0x9b: indirect, relative, 4 bytes
        ".cfi_def_cfa rsp, 0",                        // no call has pushed anything yet
        ".cfi_register rip, rax",                     // the caller goes on where rax says
        "push rax",
        ".cfi_def_cfa_offset 8",
        ".cfi_offset rip, -8",
        "sub rsp, 0x38",
        ".cfi_adjust_cfa_offset 0x38",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 4]",
        "mov [rsp + 0x08], r12",
        "mov [rsp + 0x10], r13",
        "mov [rsp + 0x18], r14",
        "mov [rsp + 0x20], r15",
        "mov [rsp + 0x28], rbx",
        "mov [rsp + 0x30], rbp",
        "mov [rdi + {suspended}], rsp", // the dispatcher's context
        "mov rsp, rsi",
        ".cfi_undefined rip", // the job's outermost frame: no caller
        "mov rbx, rdi",       // the Fibre, which func keeps
        "mov rdi, [rbx + {args}]",
        "call [rbx + {func}]",
        "mov [rbx + {result}], eax",
        "mov dword ptr [rbx + {has_returned}], 1",
        "mov rsp, [rbx + {suspended}]",
        ".cfi_def_cfa rsp, 0x40", // back in the dispatcher
        ".cfi_offset rip, -0x08",
        ".cfi_offset rbp, -0x10",
        ".cfi_offset rbx, -0x18",
        ".cfi_offset r15, -0x20",
        ".cfi_offset r14, -0x28",
        ".cfi_offset r13, -0x30",
        ".cfi_offset r12, -0x38",
        "ldmxcsr [rsp]",
        "fldcw [rsp + 4]",
        "mov r12, [rsp + 0x08]",
        "mov r13, [rsp + 0x10]",
        "mov r14, [rsp + 0x18]",
        "mov r15, [rsp + 0x20]",
        "mov rbx, [rsp + 0x28]",
        "mov rbp, [rsp + 0x30]",
        "mov rcx, [rsp + 0x38]",
        "xor eax, eax", // no context: nobody comes back here
        "add rsp, 0x40",
        ".cfi_def_cfa rsp, 0",
        ".cfi_register rip, rcx",
        ".cfi_same_value rbp",
        ".cfi_same_value rbx",
        ".cfi_same_value r15",
        ".cfi_same_value r14",
        ".cfi_same_value r13",
        ".cfi_same_value r12",
        "jmp rcx", // as `jump_fcontext` leaves
        ".cfi_endproc",
        suspended = const mem::offset_of!(Fibre, suspended),
        args = const mem::offset_of!(Fibre, args),
        func = const mem::offset_of!(Fibre, func),
        result = const mem::offset_of!(Fibre, result),
        has_returned = const mem::offset_of!(Fibre, has_returned),
    )
}

/// A processor in the tables below: DWARF's numbers of its registers, what a call pushes, how long the
/// crate's functions are, and the type of the tables' section.
#[cfg(target_arch = "x86_64")]
mod dwarf {
    pub const RETURN_ADDRESS: u8 = 16; // rip
    pub const STACK_POINTER: u8 = 7; // rsp
    pub const PUSHED_BYTES: u8 = 8;
    pub const JUMP_BYTES: u32 = 0x6a;
    pub const MAKE_BYTES: u32 = 0x38;
}
#[cfg(target_arch = "x86_64")]
macro_rules! eh_frame_type {
    () => {
        "%unwind"
    };
}
#[cfg(target_arch = "aarch64")]
mod dwarf {
    pub const RETURN_ADDRESS: u8 = 30; // x30
    pub const STACK_POINTER: u8 = 31; // sp
    pub const PUSHED_BYTES: u8 = 0;
    pub const JUMP_BYTES: u32 = 0x70;
    pub const MAKE_BYTES: u32 = 0x20;
}
#[cfg(target_arch = "aarch64")]
macro_rules! eh_frame_type {
    () => {
        "%progbits"
    };
}

// Unwind information for the crate's two functions, which have none, so that a debugger would
// guess: walks of the stack end there. First what they share (a CIE), then a piece for each (an
// FDE).
std::arch::global_asm!(
    concat!(".pushsection .eh_frame, \"a\", ", eh_frame_type!()),
    ".balign 8",
    "20: .4byte 22f - 21f", // its length
    "21: .4byte 0",         // it is a CIE
    ".byte 1",              // version
    ".asciz \"zR\"",        // the encoding of addresses follows
    ".byte 1, 0x78, {return_address}", // units of code and data: 1 and -8
    ".byte 1, 0x1b",        // addresses are relative and have 4 bytes
    ".byte 0x0c, {stack_pointer}, {pushed}", // DW_CFA_def_cfa
    ".byte 0x07, {return_address}", // DW_CFA_undefined: there is no caller
    ".balign 8",
    "22: .4byte 24f - 23f", // its length
    "23: .4byte 23b - 20b", // it belongs to that CIE
    ".4byte jump_fcontext - .",
    ".4byte {jump_bytes}",
    ".byte 0",
    ".balign 8",
    "24: .4byte 26f - 25f",
    "25: .4byte 25b - 20b",
    ".4byte make_fcontext - .",
    ".4byte {make_bytes}",
    ".byte 0",
    ".balign 8",
    "26: .popsection",
    return_address = const dwarf::RETURN_ADDRESS,
    stack_pointer = const dwarf::STACK_POINTER,
    pushed = const dwarf::PUSHED_BYTES,
    jump_bytes = const dwarf::JUMP_BYTES,
    make_bytes = const dwarf::MAKE_BYTES,
);

/// The same by an ordinary call.
#[cfg(all(target_arch = "x86_64", rsasync_plain_switch))]
#[inline(always)]
unsafe fn jump(to: Context, data: usize) -> Option<Context> {
    // SAFETY: the caller's promise.
    Some(unsafe { to.resume(data) }.context)
}

/// The same for 64-bit ARM, where `jump_fcontext` leaves by a `ret`, with which its call pairs up in
/// the processor's prediction. It leaves the rounding mode as it is; so each side keeps its own.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
unsafe fn jump(to: Context, data: usize) -> Option<Context> {
    let (modes, from): (u64, _);
    // SAFETY: the register is a number of this thread; for the jump the caller's promise.
    unsafe {
        std::arch::asm!("mrs {}, fpcr", out(reg) modes, options(nomem, nostack, preserves_flags));
        from = to.resume(data).context;
        std::arch::asm!(
            "mrs {now}, fpcr",
            "cmp {now}, {modes}",
            "b.eq 2f", // to write it may take dozens of cycles
            "msr fpcr, {modes}",
            "2:",
            modes = in(reg) modes,
            now = out(reg) _,
            options(nostack),
        );
    }
    Some(from)
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
/// The same for 64-bit ARM.
#[cfg(target_arch = "aarch64")]
macro_rules! trampoline {
    ($name:ident $(, $call:literal, $callee:path)?) => {
        #[unsafe(naked)]
        extern "C" fn $name(_first: Transfer) -> ! {
            std::arch::naked_asm!(
                ".cfi_startproc",
                ".cfi_undefined x30", // no caller
                ".cfi_personality 0x9b, rsasync_personality", // 0x9b: indirect, relative, 4 bytes
                "mov x29, xzr", // where a walk along frame pointers ends
                "mov x19, x1", // the Fibre, which the first switch passes as data
                "str x0, [x19, {suspended}]", // the dispatcher's context
                $("mov x0, x19", $call,)?
                "ldr x8, [x19, {func}]",
                "ldr x0, [x19, {args}]",
                "blr x8",
                "mov w1, w0", // func's result
                "mov x0, x19",
                "b {end}",
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

#[cfg(not(all(target_arch = "x86_64", not(rsasync_plain_switch))))]
trampoline!(trampoline);
#[cfg(target_arch = "x86_64")]
trampoline!(
    trampoline_instrumented,
    "call {callee}",
    Fibre::finish_first_switch
);
#[cfg(target_arch = "aarch64")]
trampoline!(
    trampoline_instrumented,
    "bl {callee}",
    Fibre::finish_first_switch
);

// The trampolines' personality routine, which an unwinder calls for their frames, stands in
// job/thread.rs: when `pthread_exit` or a cancellation unwinds, the thread leaves its jobs. The
// linker joins the two by the name `rsasync_personality`.
