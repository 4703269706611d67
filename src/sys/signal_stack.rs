//! A stack for a thread's signal handlers, above a guard.

use std::mem;
use std::ptr;

use crate::sys::limits::page_bytes;

/// Bytes of the stack: the kernel's frame with all registers (some 12 KiB at most), and a handler.
const BYTES: usize = 64 << 10;

/// Gives the calling thread a stack for signal handlers if it has none. Returns its address, NULL
/// if it gave none.
pub fn open() -> *mut libc::c_void {
    // SAFETY: zeros are a valid stack_t; the mapping is a new one.
    unsafe {
        let mut stack: libc::stack_t = mem::zeroed();
        if libc::sigaltstack(ptr::null(), &mut stack) != 0 || stack.ss_flags & libc::SS_DISABLE == 0
        {
            return ptr::null_mut();
        }
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        let guard_bytes = page_bytes();
        let bytes = guard_bytes + BYTES;
        let guard = libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0);
        if guard == libc::MAP_FAILED {
            return ptr::null_mut();
        }
        libc::mprotect(guard, guard_bytes, libc::PROT_NONE);
        let start = guard.byte_add(guard_bytes);
        stack.ss_sp = start;
        stack.ss_size = BYTES;
        stack.ss_flags = 0;
        if libc::sigaltstack(&stack, ptr::null_mut()) != 0 {
            libc::munmap(guard, bytes);
            return ptr::null_mut();
        }
        start
    }
}

/// Takes back what `open` gave the calling thread. Where the program has put another stack in its
/// place, that stays.
pub fn close(start: *mut libc::c_void) {
    if start.is_null() {
        return;
    }
    // SAFETY: the memory is the one that `open` mapped. It is unmapped only when the kernel no
    // longer knows of it: a handler that runs on it, which can't be disabled, keeps it.
    unsafe {
        let mut stack: libc::stack_t = mem::zeroed();
        if libc::sigaltstack(ptr::null(), &mut stack) == 0 && stack.ss_sp == start {
            stack.ss_flags = libc::SS_DISABLE;
            if libc::sigaltstack(&stack, ptr::null_mut()) != 0 {
                return;
            }
        }
        libc::munmap(start.byte_sub(page_bytes()), page_bytes() + BYTES);
    }
}
