//! Client requests by which valgrind learns where stacks are, so that it takes no switch for a
//! jump of the stack pointer. Without valgrind a request is five instructions that do nothing.

use std::ops::Range;

/// A stack that valgrind knows, if it runs this program; forgotten when this is dropped.
pub struct Registration {
    id: usize,
    on_valgrind: bool,
}

// From valgrind.h and memcheck.h.
const RUNNING_ON_VALGRIND: usize = 0x1001;
const STACK_REGISTER: usize = 0x1501;
const STACK_DEREGISTER: usize = 0x1502;
const MAKE_MEM_UNDEFINED: usize = 0x4d43_0001;

impl Registration {
    pub fn new(stack: Range<usize>) -> Self {
        Self {
            id: request([STACK_REGISTER, stack.start, stack.end, 0, 0, 0]),
            on_valgrind: is_running(),
        }
    }

    /// Allows writing memory where frames were before; memcheck has forbidden it since they
    /// returned.
    #[inline]
    pub fn allow_writing(&self, memory: Range<usize>) {
        if self.on_valgrind {
            request([MAKE_MEM_UNDEFINED, memory.start, memory.len(), 0, 0, 0]);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        request([STACK_DEREGISTER, self.id, 0, 0, 0, 0]);
    }
}

/// Whether valgrind runs this program.
pub fn is_running() -> bool {
    request([RUNNING_ON_VALGRIND, 0, 0, 0, 0, 0]) != 0
}

/// Makes a request: the number of one, and its arguments; returns valgrind's answer. The code is
/// the "special instruction preamble" of valgrind.h, which valgrind recognises and replaces.
#[cfg(target_arch = "x86_64")]
fn request(arguments: [usize; 6]) -> usize {
    let mut answer = 0;
    // SAFETY: without valgrind nothing changes; valgrind reads `arguments` and sets `rdx`.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3", // four rotations, by 128 bits together: rdi ends as it began
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx", // no change: which request this is, a call of valgrind
            inout("rdx") answer,
            in("rax") &arguments,
            options(nostack),
        );
    }
    answer
}

/// The same for 64-bit ARM.
#[cfg(target_arch = "aarch64")]
fn request(arguments: [usize; 6]) -> usize {
    let mut answer = 0;
    // SAFETY: without valgrind nothing changes; valgrind reads `arguments` and sets `x3`.
    unsafe {
        std::arch::asm!(
            "ror x12, x12, #3", // four rotations, by 128 bits together: x12 ends as it began
            "ror x12, x12, #13",
            "ror x12, x12, #51",
            "ror x12, x12, #61",
            "orr x10, x10, x10", // no change: which request this is, a call of valgrind
            inout("x3") answer,
            in("x4") &arguments,
            options(nostack),
        );
    }
    answer
}

/// The code for other processors is not known here: there valgrind learns nothing.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn request(_: [usize; 6]) -> usize {
    0
}
