//! Probes: places in the code where gdb, bpftrace or SystemTap can stop or count, also in a stripped
//! library. Where nobody looks, each is a `nop`.
//!
//! An ELF note (`.note.stapsdt`, version 3; no segment has it, and no process maps it) tells where
//! the `nop` is, and in which registers or words of memory its arguments are. So an argument costs
//! nothing if its register is in use there anyway.

/// Puts a probe here. Its arguments are either two integers:
///
/// `probe!("stack_made", start, bytes)`
///
/// or three words in memory, at constant offsets from an address:
///
/// `probe!("pause", [address; offset, offset, offset])`
macro_rules! probe {
    ($name:literal, [$address:expr; $first:expr, $second:expr, $third:expr]) => {
        // SAFETY: a `nop`.
        unsafe {
            std::arch::asm!(
                $crate::sys::probes::note!($name, $crate::sys::probes::words!()),
                address = in(reg) $address,
                first = const $first,
                second = const $second,
                third = const $third,
                options(readonly, nostack, preserves_flags),
            )
        }
    };
    ($name:literal, $first:expr, $second:expr) => {
        // SAFETY: a `nop`.
        unsafe {
            std::arch::asm!(
                $crate::sys::probes::note!($name, $crate::sys::probes::registers!()),
                first = in(reg) $first,
                second = in(reg) $second,
                options(readonly, nostack, preserves_flags),
            )
        }
    };
}

/// Three words of memory, in the note's language: that of the processor's assembler.
#[cfg(target_arch = "x86_64")]
macro_rules! words {
    () => {
        "8@{first}(%{address}) 8@{second}(%{address}) 8@{third}(%{address})"
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! words {
    () => {
        "8@[{address}, {first}] 8@[{address}, {second}] 8@[{address}, {third}]"
    };
}

/// Two registers.
#[cfg(target_arch = "x86_64")]
macro_rules! registers {
    () => {
        "8@%{first} 8@%{second}"
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! registers {
    () => {
        "8@{first} 8@{second}"
    };
}

/// The `nop` and its note.
macro_rules! note {
    ($name:literal, $($arguments:tt)*) => {
        concat!(
            "990: nop\n",
            ".pushsection .note.stapsdt, \"\", %note\n",
            ".balign 4\n",
            ".4byte 992f - 991f, 994f - 993f, 3\n", // bytes of the owner and of the rest; version
            "991: .asciz \"stapsdt\"\n",
            "992: .balign 4\n",
            "993: .8byte 990b\n",
            ".8byte _.stapsdt.base\n", // a reader compares it with where that is now
            ".8byte 0\n",              // no counter of those who look
            ".asciz \"rsasync\"\n",
            ".asciz \"", $name, "\"\n",
            ".asciz \"", $($arguments)*, "\"\n",
            "994: .balign 4\n",
            ".popsection\n",
            // One byte in the program or library, however many of its objects have probes. (R: the
            // linker keeps it, though nothing in memory refers to it.)
            ".ifndef _.stapsdt.base\n",
            ".pushsection .stapsdt.base, \"aGR\", %progbits, .stapsdt.base, comdat\n",
            ".weak _.stapsdt.base\n",
            ".hidden _.stapsdt.base\n",
            "_.stapsdt.base: .space 1\n",
            ".size _.stapsdt.base, 1\n",
            ".popsection\n",
            ".endif",
        )
    };
}

pub(crate) use {note, probe, registers, words};
