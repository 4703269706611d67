//! Many pages in one system call: `process_madvise` on the own process.
//!
//! A call for each page costs as much as what the kernel does for it, and on some processors more.

use std::ffi::{c_int, c_long};
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::sys::clock::now_ns;

/// The most pieces that one call is for.
const MOST: usize = 16;

/// Gives the kernel an advice about pieces of memory; false if it does not take it for all. It takes
/// any advice since Linux 6.13, and knows this name of the own process since 6.15.
///
/// # Safety
/// The memory may become what the advice makes of it.
pub unsafe fn advise(pieces: &[Range<usize>; MOST], advice: c_int) -> bool {
    const PIDFD_SELF: c_long = -10_000;
    let vector = pieces.clone().map(|Range { start, end }| libc::iovec {
        iov_base: ptr::with_exposed_provenance_mut(start),
        iov_len: end - start,
    });
    let bytes: usize = vector.iter().map(|piece| piece.iov_len).sum();
    // SAFETY: the kernel reads the vector; for the rest the caller's promise.
    let advised = unsafe {
        let call = libc::SYS_process_madvise;
        libc::syscall(call, PIDFD_SELF, vector.as_ptr(), MOST, advice, 0)
    };
    usize::try_from(advised) == Ok(bytes)
}

/// Has pages committed, if the kernel does that faster when it is asked than when each is touched,
/// which faults. It depends on the processor, so the first calls try both in turn.
///
/// # Safety
/// The pages can be written, and nobody uses them yet.
pub unsafe fn commit(pages: &[Range<usize>; MOST]) {
    const TRIALS: u32 = 8;
    static CALLS: AtomicU32 = AtomicU32::new(0);
    static LEAST_NS: [AtomicU64; 2] = [const { AtomicU64::new(u64::MAX) }; 2];
    // SAFETY: it only makes pages present.
    let ask = || unsafe { advise(pages, libc::MADV_POPULATE_WRITE) };
    let [asking, touching] = &LEAST_NS;
    let call = CALLS.load(Relaxed);
    if call >= TRIALS {
        if asking.load(Relaxed) < touching.load(Relaxed) {
            ask();
        } // else: who uses the pages touches them
        return;
    }
    CALLS.store(call + 1, Relaxed);
    let began_ns = now_ns();
    let least = if call.is_multiple_of(2) {
        if !ask() {
            return; // a kernel that refuses is quick
        }
        asking
    } else {
        for page in pages {
            // SAFETY: the caller's promise.
            unsafe { ptr::with_exposed_provenance_mut::<u64>(page.start).write_volatile(0) };
        }
        touching
    };
    least.fetch_min(now_ns().wrapping_sub(began_ns), Relaxed);
}
