//! Stacks of our own, each above a guard.
//!
//! ```text
//!   low                                                             high
//!    | guard | stack        | guard | stack        | guard | ...
//!    |       |    <-- grows |       |              |
//!    |<------ a slot ------>|
//! ```
//!
//! An overflow ends in the guard, where the kernel answers with SIGSEGV. The guard is made by
//! the first way that works: a marker in the page tables (`MADV_GUARD_INSTALL`, Linux 6.13),
//! which leaves the mapping whole, or the protection of its pages, which splits it. Some systems
//! accept the marker and do nothing (emulators), some refuse it (locked memory); so what counts
//! is the result, and whether the first guard of the process really faults.
//!
//! A freed stack gives its pages back at once, but for at most 16 of them, which don't hold much. Its
//! guard stays.

use std::ffi::{c_int, c_long};
use std::ops::Range;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::stack::valgrind;
use crate::sys::advice::{advise, commit};
use crate::sys::limits::page_bytes;
use crate::sys::slots::{BLOCK_SLOTS, Content, Slot, SlotPool, SpareSlots};
use crate::sys::syscall_guard::SyscallGuard;

/// Bytes of a guard: 16 pages of 4 KiB, one of 64 KiB. Frames up to this size can't jump over it.
pub const GUARD_BYTES: usize = 64 << 10;
const _: () = assert!(
    GUARD_BYTES.is_multiple_of(64 << 10),
    "whole pages, of any size"
);
/// Bytes that a slot has beside the guard and the stack's size, for what the owner has at the top:
/// the job (256), a copy of arguments (1,024 at most), the first frames.
const TOP_BYTES: usize = 4 << 10;
/// The most bytes in memory that a freed stack may go on to hold.
const KEPT_BYTES: usize = 64 << 10;

const MADV_GUARD_INSTALL: c_int = 102;

/// What is known of guard markers: one of the following.
static MARKERS: AtomicU8 = AtomicU8::new(UNTRIED);
const UNTRIED: u8 = 0;
const WORKS: u8 = 1;
const DOES_NOTHING: u8 = 2;

/// How much of a stack has been used.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    /// Bytes of the pages in memory.
    pub resident_bytes: usize,
    /// The kernel has told which those are.
    pub is_known: bool,
    /// The address of the lowest word that is not zero, if there is one. On valgrind there is none:
    /// it would report the search.
    pub lowest: Option<usize>,
}

impl Usage {
    /// Of a stack in these addresses, which can be read.
    pub fn of(stack: Range<usize>) -> Self {
        let mut usage = Self {
            is_known: true,
            ..Self::default()
        };
        let mut pages = [0; 64];
        for start in stack.clone().step_by(pages.len() * page_bytes()) {
            let count = pages.len().min((stack.end - start) / page_bytes());
            let first = ptr::with_exposed_provenance_mut(start);
            // SAFETY: there is room for the answer of each page.
            if unsafe { libc::mincore(first, count * page_bytes(), pages.as_mut_ptr()) } != 0 {
                usage.is_known = false;
                continue;
            }
            let resident = (0..count).filter(|&page| pages[page] & 1 != 0);
            for page in resident.map(|page| start + page * page_bytes()) {
                usage.resident_bytes += page_bytes();
                if usage.lowest.is_none() && !valgrind::is_running() {
                    usage.lowest = lowest_word_in_use(page..page + page_bytes());
                }
            }
        }
        usage
    }

    /// How many bytes below this address, where the frames begin, have been used.
    pub fn depth_below(&self, top: usize) -> usize {
        self.lowest.map_or(0, |lowest| top.saturating_sub(lowest))
    }
}

/// The lowest address of a word of this page that is not zero.
fn lowest_word_in_use(page: Range<usize>) -> Option<usize> {
    const LINE_WORDS: usize = 8; // many at a time: most of a page is zero
    let words = page.len() / size_of::<AtomicU64>();
    // SAFETY: the caller's page can be read; the job's thread may be writing there.
    let words = unsafe {
        slice::from_raw_parts(ptr::with_exposed_provenance::<AtomicU64>(page.start), words)
    };
    let is_used =
        |words: &[AtomicU64]| words.iter().fold(0, |bits, word| bits | word.load(Relaxed)) != 0;
    let line = words.chunks_exact(LINE_WORDS).position(is_used)?;
    let word = words[line * LINE_WORDS..]
        .iter()
        .position(|word| word.load(Relaxed) != 0)?;
    Some(page.start + (line * LINE_WORDS + word) * size_of::<AtomicU64>())
}

/// The lowest address from which on all of this memory can be read.
pub fn lowest_readable(memory: Range<usize>) -> usize {
    let mut lowest = memory.end;
    while lowest > memory.start {
        let page = ((lowest - 1) / page_bytes() * page_bytes()).max(memory.start);
        if is_unreadable(page) {
            break;
        }
        lowest = page;
    }
    lowest
}

/// The stack in a slot with these addresses.
pub fn stack_in(slot: Range<usize>) -> Range<usize> {
    slot.start + GUARD_BYTES..slot.end
}

/// The slots of jobs' stacks.
pub static FOR_JOBS: SlotPool = SlotPool::new(Content::Stacks);
/// The slots of stacks that the program asked for by the default `ASYNC_stack_alloc_fn`. They are
/// apart because the program may write anything where a job's stack has its job.
pub static FOR_PROGRAM: SlotPool = SlotPool::new(Content::Stacks);

/// A stack in a slot, above a guard if there could be one.
pub struct GuardedStack {
    slot: Slot,
    pub is_guarded: bool,
}

impl GuardedStack {
    /// A stack with at least this many usable bytes; None if there is no memory. `spare` is for who
    /// makes many.
    pub fn new(pool: &'static SlotPool, bytes: usize, spare: Option<&SpareSlots>) -> Option<Self> {
        let slot_bytes = bytes
            .checked_add(TOP_BYTES + GUARD_BYTES)?
            .checked_next_multiple_of(page_bytes())?;
        let stack = Self {
            slot: pool.take_with_spare(slot_bytes, spare)?,
            is_guarded: true,
        };
        match stack.slot.is_prepared() {
            true => Some(stack),
            false => stack.prepare(spare),
        }
    }

    /// Gives back what [`GuardedStack::new`] has left in `spare`.
    pub fn give_back_spare(spare: &SpareSlots) {
        let _guard = SyscallGuard::new();
        while let Some(slot) = spare.pop() {
            Self::of(slot).give_back();
        }
    }

    /// The stack that this memory belongs to, if it is one of this pool.
    ///
    /// # Safety
    /// Nobody else has the stack.
    pub unsafe fn find(pool: &'static SlotPool, address: usize) -> Option<Self> {
        pool.find(address).map(Self::of)
    }

    /// The stack in a slot that was prepared before.
    fn of(slot: Slot) -> Self {
        let is_guarded = slot.is_prepared();
        Self { slot, is_guarded }
    }

    /// The usable memory.
    pub fn addresses(&self) -> Range<usize> {
        stack_in(self.slot.addresses())
    }

    pub fn guard(&self) -> Range<usize> {
        let start = self.slot.addresses().start;
        start..start + GUARD_BYTES
    }

    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Makes the guard of a slot that has none, and the stack writable where it is not.
    #[cold]
    fn prepare(mut self, spare: Option<&SpareSlots>) -> Option<Self> {
        let slot = &self.slot;
        if slot.is_at_rest_read_only() {
            // A protected guard costs two mappings, its own and the stack's. Else the whole slot
            // becomes writable, and neighbours merge into one mapping.
            let is_split = self.protect_guard();
            let writable = if is_split {
                self.addresses()
            } else {
                slot.addresses()
            };
            if !slot.make_writable(writable) {
                if is_split && !slot.restore_read_only() {
                    slot.unsplit();
                }
                self.slot.free();
                return None;
            }
            self.is_guarded = is_split || self.mark();
        } else if let Some(block) = spare.and_then(|spare| spare.block_of(slot))
            && prepare_block(block)
        {
            self.slot.set_block_prepared();
            return Some(self);
        } else {
            self.is_guarded = self.mark() || self.protect_guard();
        }
        if self.is_guarded {
            self.slot.set_prepared();
        }
        Some(self)
    }

    /// Makes the guard inaccessible; false if that can't be had.
    fn protect_guard(&self) -> bool {
        if !self.slot.may_split() {
            return false;
        }
        let is_protected = self.slot.protect(self.guard(), libc::PROT_NONE);
        if !is_protected {
            self.slot.unsplit();
        }
        is_protected
    }

    /// Puts a guard marker into the page tables; false if that does not make a guard.
    fn mark(&self) -> bool {
        let markers = MARKERS.load(Relaxed);
        if markers == DOES_NOTHING {
            return false;
        }
        let Range { start, end } = self.guard();
        let guard = ptr::with_exposed_provenance_mut(start);
        // SAFETY: the pages are this slot's, below its stack; nobody reads or writes there.
        if unsafe { libc::madvise(guard, end - start, MADV_GUARD_INSTALL) } != 0 {
            return false;
        }
        if markers == UNTRIED {
            // (valgrind complains of the call, and passes the advice on.)
            let works = valgrind::is_running() || is_unreadable(start);
            MARKERS.store(if works { WORKS } else { DOES_NOTHING }, Relaxed);
            return works;
        }
        true
    }

    /// Gives back the whole pages below `end`; false if they are locked. They read as zeros then.
    /// The caller has nothing there.
    pub fn discard_below(&self, end: usize) -> bool {
        let start = self.addresses().start;
        let bytes = (end / page_bytes() * page_bytes()).saturating_sub(start);
        let pages = ptr::with_exposed_provenance_mut(start);
        // SAFETY: the pages are this stack's, whose owner needs nothing there.
        unsafe { libc::madvise(pages, bytes, libc::MADV_DONTNEED) == 0 }
    }

    /// Frees a stack that holds this much as it is, if it is one of the few that are taken first.
    pub fn free_warm(self, usage: &Usage) -> Result<(), Self> {
        if !usage.is_known || usage.resident_bytes > KEPT_BYTES {
            return Err(self);
        }
        self.slot.free_if_among_first().map_err(Self::of)
    }

    /// Gives the memory back to the system, then the slot to whoever takes one. False if the
    /// memory is locked and stays. (Among stacks that are one mapping, one can't become read-only
    /// again without a mapping of its own: it stays charged until its region is empty.)
    pub fn give_back(self) -> bool {
        let is_restored = self.slot.is_at_rest_read_only()
            && self.slot.is_split()
            && self.slot.restore_read_only();
        let is_discarded = is_restored || self.discard_below(self.addresses().end);
        self.slot.free();
        is_discarded
    }
}

/// Marks the guards of a block of slots, and has the pages committed that their jobs will lie in.
#[cold]
fn prepare_block(slots: [Range<usize>; BLOCK_SLOTS]) -> bool {
    if MARKERS.load(Relaxed) != WORKS || valgrind::is_running() {
        return false; // (valgrind 3.19 does not know the call)
    }
    let guards = slots
        .clone()
        .map(|slot| slot.start..slot.start + GUARD_BYTES);
    let tops = slots.map(|slot| slot.end - page_bytes()..slot.end);
    // SAFETY: the caller's thread has taken the slots, and uses none of them yet.
    unsafe {
        let are_marked =
            advise(&guards, MADV_GUARD_INSTALL) && is_unreadable(guards[BLOCK_SLOTS - 1].start);
        if are_marked {
            commit(&tops);
        }
        are_marked
    }
}

/// Whether the kernel, asked to read there, says that it can't. The call fails in any case: its
/// first argument is none that it knows.
fn is_unreadable(address: usize) -> bool {
    const NO_ACTION: c_long = -1;
    const MASK_BYTES: usize = 8;
    let mask = ptr::with_exposed_provenance::<u64>(address);
    let nowhere = ptr::null_mut::<u64>();
    // SAFETY: the kernel, not this process, reads the mask; nothing is changed.
    unsafe {
        let call = libc::SYS_rt_sigprocmask;
        libc::syscall(call, NO_ACTION, mask, nowhere, MASK_BYTES) == -1
            && *libc::__errno_location() == libc::EFAULT
    }
}
