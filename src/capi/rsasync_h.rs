//! The functions of rsasync.h: what this library can tell that libcrypto can't.
#![allow(non_camel_case_types)]

use std::ffi::{CStr, c_char};
use std::mem;

use crate::error;
use crate::job::pool;
use crate::job::thread::Thread;
use crate::stack::stack;
use crate::sys::stderr;

/// What RSASYNC_get_stats() tells of the whole process. Later versions may add members at the
/// end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct rsasync_stats {
    /// Stacks that exist: one for each job, those of idle jobs included.
    pub stacks_in_use: u64,
    /// Those of them that should have a guard below and have none, because guards have three
    /// quarters of the mappings that the process may have, or the system refused one. Stacks from
    /// a program's own allocator don't count.
    pub stacks_unguarded: u64,
    /// Jobs that were left paused or running by threads which ended, since the process began.
    /// They can't be resumed, and their stacks stay.
    pub jobs_abandoned: u64,
}

const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => unreachable!(),
    };

/// Says why the last call that was refused on this thread, or got no job, was so, and what to do
/// about it.
///
/// Calls that succeed leave the message alone. It is a static string, never NULL, empty if
/// there was none; any thread may keep it. Where a libcrypto is in the process, refusals are
/// on its error queue as well; ASYNC_NO_JOBS, which is no error, is told of here only.
#[unsafe(no_mangle)]
pub extern "C" fn RSASYNC_last_error() -> *const c_char {
    error::last_message().as_ptr()
}

/// Returns the version of this library, such as "0.1.0": a static string.
#[unsafe(no_mangle)]
pub extern "C" fn RSASYNC_version() -> *const c_char {
    VERSION.as_ptr()
}

/// Writes the counts of this moment to *stats, of which the caller has size bytes: give
/// sizeof(*stats). A program that was built with another version of this header gets the
/// members that both know; the rest of its structure is set to 0. Any thread may call it.
///
/// # Safety
/// `stats` may be written for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn RSASYNC_get_stats(stats: *mut rsasync_stats, size: usize) {
    let counts = stack::counts();
    if stats.is_null() {
        return;
    }
    let now = rsasync_stats {
        stacks_in_use: counts.in_use,
        stacks_unguarded: counts.unguarded,
        jobs_abandoned: pool::jobs_abandoned(),
    };
    // SAFETY: the caller's promise; nothing is written behind `size`.
    unsafe {
        let stats = stats.cast::<u8>();
        stats.write_bytes(0, size);
        stats.copy_from((&raw const now).cast(), size.min(mem::size_of_val(&now)));
    }
}

/// Frees the calling thread's idle jobs and gives back the memory of their stacks. Paused and
/// running jobs stay, and so does the limit of ASYNC_init_thread(), up to which new jobs can be
/// made.
///
/// Without this call idle jobs keep their stacks until ASYNC_cleanup_thread(), ASYNC_init_thread()
/// or the thread's end, but what those have touched goes back, by this rule. Whenever 256 jobs of a
/// thread have finished, it looks how many of its idle jobs it has not needed for a period of at
/// least ten seconds. With each job that finishes from then on, on average, one of those comes down
/// to one page (4 KiB, mostly). A thread whose jobs don't finish gives nothing back. The rule holds
/// for stacks from the default functions of ASYNC_get_mem_functions(), in memory that is not
/// locked.
///
/// @return the bytes of memory that the system got back, without what is locked and stays; of
///         stacks from a program's own function, the sizes of what its other function took back
#[unsafe(no_mangle)]
pub extern "C" fn RSASYNC_trim_thread() -> usize {
    Thread::with(|thread| thread.pool.destroy_idle_counted())
}

/// The line that RSASYNC_STATS asks for.
pub fn print_stats() {
    let counts = stack::counts();
    stderr::print(format_args!(
        "rsasync {}: {} stacks made; at the end {} in use, {} without a guard, {} jobs abandoned\n",
        env!("CARGO_PKG_VERSION"),
        counts.made,
        counts.in_use,
        counts.unguarded,
        pool::jobs_abandoned(),
    ));
}
