//! What the processor and the kernel keep for each thread: the rounding mode, the signal mask.

use std::mem::MaybeUninit;
use std::ptr;

#[link(name = "m")]
unsafe extern "C" {
    fn fesetround(mode: i32) -> i32;
    fn fegetround() -> i32;
}

/// The place of the mode's two bits in what libm's functions take: that of the x87 control word,
/// or of FPCR.
#[cfg(target_arch = "x86_64")]
const ROUNDING_SHIFT: u32 = 10;
#[cfg(target_arch = "aarch64")]
const ROUNDING_SHIFT: u32 = 22;

/// A signal that nobody sends.
const SIGNAL: i32 = libc::SIGUSR1;

/// Sets one of four modes.
pub fn set_rounding(mode: u8) {
    // SAFETY: fesetround refuses modes that it does not know.
    unsafe { fesetround(i32::from(mode) << ROUNDING_SHIFT) };
}

/// The mode, one of four; another number if the x87 and the SSE unit have different modes.
pub fn rounding() -> i32 {
    // SAFETY: fegetround has no conditions.
    let mode = unsafe { fegetround() } >> ROUNDING_SHIFT;
    mode + 10 * (sse_rounding().unwrap_or(mode) - mode)
}

#[cfg(target_arch = "x86_64")]
fn sse_rounding() -> Option<i32> {
    let mut mxcsr = 0_u32;
    // SAFETY: stmxcsr stores the four bytes of MXCSR in the variable.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut mxcsr, options(nostack)) };
    Some((mxcsr >> 13 & 3) as i32) // the rounding mode is bits 13 and 14
}

#[cfg(not(target_arch = "x86_64"))]
fn sse_rounding() -> Option<i32> {
    None
}

pub fn set_signal_blocked(blocked: bool) {
    let how = if blocked {
        libc::SIG_BLOCK
    } else {
        libc::SIG_UNBLOCK
    };
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set before it is used.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), SIGNAL);
        libc::pthread_sigmask(how, set.as_ptr(), ptr::null_mut());
    }
}

pub fn signal_blocked() -> bool {
    let mut set = MaybeUninit::uninit();
    // SAFETY: pthread_sigmask initialises the set before it is read.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), set.as_mut_ptr());
        libc::sigismember(set.as_ptr(), SIGNAL) == 1
    }
}
