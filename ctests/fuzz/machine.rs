//! What a processor or a kernel keeps for a thread: the rounding mode, the signal mask.

use std::mem::MaybeUninit;
use std::ptr;

#[link(name = "m")]
unsafe extern "C" {
    fn fesetround(mode: i32) -> i32;
    fn fegetround() -> i32;
}

#[cfg(target_arch = "x86_64")]
const SHIFT: u32 = 10;
#[cfg(target_arch = "aarch64")]
const SHIFT: u32 = 22;

pub fn set_rounding(mode: u8) {
    // SAFETY: one of four modes.
    unsafe { fesetround(i32::from(mode) << SHIFT) };
}

/// The mode, of four; more if the x87 and the SSE unit disagree.
pub fn rounding() -> i32 {
    // SAFETY: it has no conditions.
    let mode = unsafe { fegetround() } >> SHIFT;
    mode + 10 * (sse_rounding().unwrap_or(mode) - mode)
}

#[cfg(target_arch = "x86_64")]
fn sse_rounding() -> Option<i32> {
    let mut mxcsr = 0_u32;
    // SAFETY: it stores four bytes.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut mxcsr, options(nostack)) };
    Some((mxcsr >> 13 & 3) as i32)
}

#[cfg(not(target_arch = "x86_64"))]
fn sse_rounding() -> Option<i32> {
    None
}

/// Blocks a signal that nobody sends, or unblocks it.
pub fn set_mask(blocked: bool) {
    let how = if blocked {
        libc::SIG_BLOCK
    } else {
        libc::SIG_UNBLOCK
    };
    let mut set = MaybeUninit::uninit();
    // SAFETY: the set is made empty first.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGUSR1);
        libc::pthread_sigmask(how, set.as_ptr(), ptr::null_mut());
    }
}

pub fn mask() -> bool {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the set is filled in by the first call.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), set.as_mut_ptr());
        libc::sigismember(set.as_ptr(), libc::SIGUSR1) == 1
    }
}
