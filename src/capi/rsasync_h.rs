//! The functions of rsasync.h: what this library can tell that libcrypto can't.
#![allow(non_camel_case_types)]

use std::ffi::{CStr, c_char};
use std::mem;
use std::process;
use std::sync::atomic::Ordering::Relaxed;

use crate::error::{self, NoJob, Reason};
use crate::job::census::Census;
use crate::job::job::ThreadId;
use crate::job::thread::Thread;
use crate::job::{orphans, pool, record};
use crate::stack::stack;
use crate::sys::env;
use crate::sys::mutex;
use crate::sys::stderr;
use crate::sys::syscall_guard::SyscallGuard;

/// What RSASYNC_get_stats() tells of the whole process. Later versions may add members at the
/// end. What is counted since the process began is counted on by a forked child.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct rsasync_stats {
    /// Stacks that exist: one for each job, those of idle jobs included.
    pub stacks_in_use: u64,
    /// Stacks that should have a guard below and have none, because guards have three quarters of
    /// the mappings that the process may have, or the system refused one. Stacks from a program's
    /// own allocator don't count.
    pub stacks_unguarded: u64,
    /// Jobs that were left paused or running by threads which ended, since the process began.
    /// They can't be resumed, and their stacks stay.
    pub jobs_abandoned: u64,
    /// Jobs that run, or wait for one that they started.
    pub jobs_running: u64,
    /// Jobs that are paused, orphaned and abandoned ones included.
    pub jobs_paused: u64,
    /// Paused jobs whose wait context was freed: probably nobody will resume them.
    pub jobs_orphaned: u64,
    /// Jobs in pools, ready to be started.
    pub jobs_idle: u64,
    /// How often jobs were started since the process began.
    pub starts: u64,
    /// How often jobs paused.
    pub pauses: u64,
    /// How often jobs were resumed.
    pub resumes: u64,
    /// How often jobs finished.
    pub finishes: u64,
    /// Calls refused because init_size was above max_size.
    pub refused_pool_size: u64,
    /// Calls refused because a pointer was NULL.
    pub refused_null: u64,
    /// Calls refused because there was no memory.
    pub refused_memory: u64,
    /// Calls refused because of the job's thread or state, or because its handle is stale.
    pub refused_state: u64,
    /// Starts that got ASYNC_NO_JOBS because of the limit of ASYNC_init_thread().
    pub no_jobs_limit: u64,
    /// Starts that got ASYNC_NO_JOBS because there was no memory for a stack.
    pub no_jobs_memory: u64,
    /// Orphans that were destroyed, because RSASYNC_RECLAIM_ORPHANS asks for it.
    pub orphans_reclaimed: u64,
    /// Stacks made since the process began.
    pub stacks_made: u64,
    /// The most stacks that existed together.
    pub stacks_peak: u64,
    /// Usable bytes of a stack. A program's own allocator is asked for as many where
    /// RSASYNC_STACK_SIZE is set, else for 32 KiB.
    pub stack_bytes: u64,
    /// The most bytes of a stack that a job has used, as far as that can still be seen. Stacks from
    /// a program's own allocator don't count.
    pub stack_deepest_bytes: u64,
    /// Bytes of the stacks that are in memory now, without those from a program's own allocator.
    pub stack_resident_bytes: u64,
}

const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => unreachable!(),
    };

/// Tells why a call on this thread was last refused or got no job, and what to do about it.
///
/// A refusal is ASYNC_ERR, the 0 of ASYNC_WAIT_CTX_set_callback(), or a 0 or NULL that comes with one
/// of the ERRORS of the function's man page. Searches that find nothing, ASYNC_set_mem_functions()
/// too late, and calls that succeed leave the message alone.
///
/// Where a libcrypto is in the process, and its OPENSSL_cleanup() has not run, ERR_get_error(3ssl)
/// gives refusals as well, but for that of ASYNC_WAIT_CTX_set_callback(). ASYNC_NO_JOBS of
/// ASYNC_start_job(), which is no error, is told of here only. RSASYNC_get_stats() counts both in the
/// whole process.
///
/// @return a static string, never NULL, empty if there was no such call; any thread may keep it
#[unsafe(no_mangle)]
pub extern "C" fn RSASYNC_last_error() -> *const c_char {
    error::last_message().as_ptr()
}

/// Tells the version of this library.
///
/// @return a static string, such as "0.1.0"
#[unsafe(no_mangle)]
pub extern "C" fn RSASYNC_version() -> *const c_char {
    VERSION.as_ptr()
}

/// Counts the jobs and stacks of the process, and what became of calls. A program that was built
/// with another version of rsasync.h gets the members that both know; the rest of its structure is
/// set to 0. Any thread may call it.
///
/// If `size` reaches beyond jobs_abandoned it looks at each job and its stack, which takes about a
/// microsecond for each. While other threads use jobs the counts may be of slightly different
/// moments. Where the address space is limited (RLIMIT_AS), or all memory is locked (MCL_FUTURE),
/// stack_resident_bytes and stack_deepest_bytes leave out the stacks in use.
///
/// @param stats  where the counts are written; NULL: nothing is done
/// @param size   the bytes that the caller has there: give `sizeof(*stats)`
///
/// # Safety
/// `stats` is NULL or may be written for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn RSASYNC_get_stats(stats: *mut rsasync_stats, size: usize) {
    if stats.is_null() {
        return;
    }
    let _guard = SyscallGuard::new();
    let wants_jobs = size > mem::offset_of!(rsasync_stats, jobs_running);
    let jobs = match wants_jobs {
        true => Census::of_jobs_and_stacks(),
        false => Census::default(),
    };
    let stacks = stack::counts();
    let [starts, pauses, resumes, finishes] = record::totals();
    let refused = |reason: Reason| error::REFUSALS[reason as usize].load(Relaxed);
    let no_jobs = |why: NoJob| error::NO_JOBS[why as usize].load(Relaxed);
    let now = rsasync_stats {
        stacks_in_use: stacks.in_use,
        stacks_unguarded: stacks.unguarded,
        jobs_abandoned: pool::ABANDONED.load(Relaxed),
        jobs_running: jobs.running,
        jobs_paused: jobs.paused,
        jobs_orphaned: jobs.orphaned,
        jobs_idle: jobs.idle,
        starts,
        pauses,
        resumes,
        finishes,
        refused_pool_size: refused(Reason::InvalidPoolSize),
        refused_null: refused(Reason::PassedNullParameter),
        refused_memory: refused(Reason::NoMemory),
        refused_state: refused(Reason::ShouldNotHaveBeenCalled),
        no_jobs_limit: no_jobs(NoJob::Limit),
        no_jobs_memory: no_jobs(NoJob::NoMemory),
        orphans_reclaimed: orphans::RECLAIMED.load(Relaxed),
        stacks_made: stacks.made,
        stacks_peak: stacks.peak,
        stack_bytes: env::options().stack_bytes() as u64,
        stack_deepest_bytes: jobs.deepest_bytes.max(stacks.deepest_bytes),
        stack_resident_bytes: jobs.resident_bytes,
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
/// made. RSASYNC_get_stats() tells how many idle jobs the process has.
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
    let mut bytes = 0;
    Thread::with(|thread| thread.pool.destroy_idle(|stack| bytes += stack.give_back()));
    bytes
}

unsafe extern "C" {
    static program_invocation_short_name: *const c_char;
}

/// The line that RSASYNC_STATS asks for. A process whose threads have made no job and no wait
/// context, such as a helper of a shell script, is silent.
pub fn print_stats() {
    // A signal handler may call exit() and have interrupted who holds a mutex.
    if !ThreadId::any_was_given() || !mutex::are_free() {
        return;
    }
    let (jobs, stacks) = (Census::of_jobs(), stack::counts());
    // SAFETY: the C library has set it, to a string that stays.
    let program = unsafe { CStr::from_ptr(program_invocation_short_name) };
    stderr::print(format_args!(
        "rsasync {} {}[{}]: {} jobs made, {} at most together; at the end {} idle, {} running, \
         {} paused, {} of them orphaned, {} abandoned; {} stacks without a guard\n",
        env!("CARGO_PKG_VERSION"),
        program.to_bytes().escape_ascii(),
        process::id(),
        stacks.made,
        stacks.peak,
        jobs.idle,
        jobs.running,
        jobs.paused,
        jobs.orphaned,
        pool::ABANDONED.load(Relaxed),
        stacks.unguarded,
    ));
}
