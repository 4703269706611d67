//! Client requests that tell valgrind of our stacks, so that a switch is not taken for a
//! jump of the stack pointer. Outside valgrind they are five instructions that do nothing.

/// A stack that valgrind knows of, if it runs this program.
pub struct Registration {
    id: usize,
    watched: bool,
}

const RUNNING_ON_VALGRIND: usize = 0x1001;
const STACK_REGISTER: usize = 0x1501;
const STACK_DEREGISTER: usize = 0x1502;
/// Memcheck's: 'M', 'C', and the second request.
const MAKE_MEM_UNDEFINED: usize = 0x4d43_0001;

impl Registration {
    /// Registers the memory from `bottom` up to `top`.
    pub fn new(bottom: usize, top: usize) -> Self {
        let watched = request([RUNNING_ON_VALGRIND, 0, 0, 0, 0, 0]) != 0;
        Self {
            id: request([STACK_REGISTER, bottom, top, 0, 0, 0]),
            watched,
        }
    }

    /// Memory of frames that are gone is out of bounds; this is going to be written.
    #[inline]
    pub fn allow_writing(&self, bottom: usize, top: usize) {
        if self.watched {
            request([MAKE_MEM_UNDEFINED, bottom, top - bottom, 0, 0, 0]);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        request([STACK_DEREGISTER, self.id, 0, 0, 0, 0]);
    }
}

/// valgrind's "special instruction preamble", from its manual and valgrind.h.
#[cfg(target_arch = "x86_64")]
fn request(arguments: [usize; 6]) -> usize {
    let mut answer = 0;
    // SAFETY: the four rotations add up to 128 bits, so `rdi` ends as it began, and the
    // exchange of `rbx` with itself does nothing; valgrind reads `arguments` and sets `rdx`.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
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
    // SAFETY: the rotations of `x12` add up to 128 bits and `orr` writes `x10` to itself;
    // valgrind reads `arguments` and sets `x3`.
    unsafe {
        std::arch::asm!(
            "ror x12, x12, #3",
            "ror x12, x12, #13",
            "ror x12, x12, #51",
            "ror x12, x12, #61",
            "orr x10, x10, x10",
            inout("x3") answer,
            in("x4") &arguments,
            options(nostack),
        );
    }
    answer
}

/// Elsewhere valgrind is not told.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn request(_: [usize; 6]) -> usize {
    0
}
