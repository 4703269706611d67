//! Where an observer finds the library's state: the `rsasync` command, a debugger, a reader of core
//! files. They read memory, without the library's help, so that they see stopped, stripped and dead
//! processes, too.
//!
//! ```text
//!   ELF note "rsasync", type 1  -->  STATE  -->  pools of slots: jobs, records of threads
//!   (8 bytes: the offset of          |
//!    STATE from these bytes)         '-------->  counters
//! ```
//!
//! [`State`] consists of words of 64 bits. An observer need not stop the process: it finds jobs by
//! the bits of taken slots, follows no list but that of the regions, and takes for a job only what
//! names its own address.

use std::arch::global_asm;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::error::{NO_JOBS, REFUSALS};
use crate::job::job::{Job, JobLayout};
use crate::job::orphans::RECLAIMED;
use crate::job::pool::ABANDONED;
use crate::job::record::{OTHERS, RECORDS, RecordLayout, ThreadRecord};
use crate::stack::guarded::{FOR_JOBS, GUARD_BYTES};
use crate::stack::stack::{DEEPEST, FREED, MADE, OWNER_BYTES, OWNERS, PEAK, UNGUARDED};
use crate::sys::env;
use crate::sys::slots::{SlotPool, SlotsLayout};
use crate::wait_ctx::wait_ctx::{WaitCtx, WaitCtxLayout};

/// The version of what follows. It changes when an observer of the former version would be misled;
/// words that are added at the end, where `bytes` tells of them, don't mislead.
const VERSION: u64 = 1;

#[repr(C)]
struct State {
    magic: [u8; 8],
    version: u64,
    /// The size of this struct.
    bytes: usize,
    library_version: [u8; 16],
    settings: Settings,
    /// Slots with a job's stack each: `guard_bytes`, the stack, and the job in the highest
    /// `job_bytes`. A slot that is taken may have no job yet. In a pool of regions that may be
    /// unmapped the jobs lie in `job_slots`.
    stack_slots: &'static SlotPool,
    guard_bytes: usize,
    job_bytes: usize,
    /// Slots with a job each, whose stack lies elsewhere.
    job_slots: &'static SlotPool,
    /// Slots with a thread's record each.
    record_slots: &'static SlotPool,
    /// What threads without a record did.
    other_threads: &'static ThreadRecord,
    stacks_made: &'static AtomicU64,
    stacks_freed: &'static AtomicU64,
    stacks_unguarded: &'static AtomicU64,
    stacks_peak: &'static AtomicU64,
    /// Bytes that frames took of the deepest stack, of those that were freed or gave memory back.
    deepest_bytes: &'static AtomicUsize,
    jobs_abandoned: &'static AtomicU64,
    orphans_reclaimed: &'static AtomicU64,
    /// By reason: pool size, NULL, memory, state.
    refusals: &'static [AtomicU64; 4],
    /// By reason: limit, memory.
    no_jobs: &'static [AtomicU64; 2],
    slots: SlotsLayout,
    job: JobLayout,
    record: RecordLayout,
    wait_ctx: WaitCtxLayout,
}

/// What the environment asked for; zeros until the library is loaded.
#[repr(C)]
struct Settings {
    stack_bytes: AtomicU64,
    /// 0: orphans stay.
    reclaim_orphans_ms: AtomicU64,
    /// Bits: 1 statistics, 2 wiping, 4 reports of overflows.
    switches: AtomicU64,
}

static STATE: State = State {
    magic: *b"rsasync\0",
    version: VERSION,
    bytes: size_of::<State>(),
    library_version: padded(env!("CARGO_PKG_VERSION").as_bytes()),
    settings: Settings {
        stack_bytes: AtomicU64::new(0),
        reclaim_orphans_ms: AtomicU64::new(0),
        switches: AtomicU64::new(0),
    },
    stack_slots: &FOR_JOBS,
    guard_bytes: GUARD_BYTES,
    job_bytes: OWNER_BYTES,
    job_slots: &OWNERS,
    record_slots: &RECORDS,
    other_threads: &OTHERS,
    stacks_made: &MADE,
    stacks_freed: &FREED,
    stacks_unguarded: &UNGUARDED,
    stacks_peak: &PEAK,
    deepest_bytes: &DEEPEST,
    jobs_abandoned: &ABANDONED,
    orphans_reclaimed: &RECLAIMED,
    refusals: &REFUSALS,
    no_jobs: &NO_JOBS,
    slots: SlotPool::LAYOUT,
    job: Job::LAYOUT,
    record: ThreadRecord::LAYOUT,
    wait_ctx: WaitCtx::LAYOUT,
};

const fn padded(text: &[u8]) -> [u8; 16] {
    let mut padded = [0; 16];
    padded.split_at_mut(text.len()).0.copy_from_slice(text);
    padded
}

// The note. Notes are loaded with the library and stay in it when its symbols are removed.
global_asm!(
    ".pushsection .note.rsasync, \"a\", %note",
    ".balign 4",
    ".4byte 8, 8, 1", // bytes of the name, bytes of what follows it, type
    ".asciz \"rsasync\"",
    ".8byte {state} - .",
    ".popsection",
    state = sym STATE,
);

/// Tells what the environment asked for.
pub fn on_load() {
    let (options, settings) = (env::options(), &STATE.settings);
    let switches = [options.stats, options.wipe_stacks, options.report_overflow];
    let switches = (0..)
        .zip(switches)
        .map(|(bit, is_on)| u64::from(is_on) << bit);
    settings.switches.store(switches.sum(), Relaxed);
    let reclaim_ms = options.reclaim_orphans_ms.unwrap_or(0);
    settings.reclaim_orphans_ms.store(reclaim_ms, Relaxed);
    let stack_bytes = options.stack_bytes() as u64;
    settings.stack_bytes.store(stack_bytes, Relaxed);
}
