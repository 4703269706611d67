//! The record of a thread: what it has done with jobs, for who observes the process.
//!
//! Records lie in slots, where they can be read for ever and are found by a walk (see inspect.rs).
//! A thread counts in its own record only, so that counting shares no cache line.

use std::mem;
use std::ptr;
use std::sync::atomic::{
    AtomicI32, AtomicU64,
    Ordering::{Relaxed, Release},
};

use crate::job::job::ThreadId;
use crate::sys::slots::{Content, SlotPool};

/// Zeroed memory is the record of no thread.
#[repr(C, align(64))]
pub struct ThreadRecord {
    /// A [`ThreadId`]; 0: the record is free.
    id: AtomicU64,
    /// The kernel's number of the thread.
    tid: AtomicI32,
    pub counts: Counts,
}

/// Offsets in a record, in bytes.
#[repr(C)]
pub struct RecordLayout {
    /// 0: the record is free.
    id: usize,
    /// Four bytes.
    tid: usize,
    counts: usize,
}

/// How often a thread started, paused, resumed and finished jobs.
#[repr(C)]
pub struct Counts {
    pub starts: Count,
    pub pauses: Count,
    pub resumes: Count,
    pub finishes: Count,
}

/// A number that one thread changes and others may read.
#[repr(transparent)]
pub struct Count(AtomicU64);

impl Count {
    /// For the one thread that counts here.
    #[inline(always)]
    pub fn increment(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// For a count of several threads.
    #[cold]
    fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

pub static RECORDS: SlotPool = SlotPool::new(Content::Objects);

/// What threads did that have no record: those that have exited, or found no memory for one.
pub static OTHERS: ThreadRecord = ThreadRecord {
    id: AtomicU64::new(0),
    tid: AtomicI32::new(0),
    counts: Counts {
        starts: Count(AtomicU64::new(0)),
        pauses: Count(AtomicU64::new(0)),
        resumes: Count(AtomicU64::new(0)),
        finishes: Count(AtomicU64::new(0)),
    },
};

/// Counts one in the record of a thread, or in that of all who have none.
#[inline(always)]
pub fn count(record: Option<&'static ThreadRecord>, which: impl Fn(&Counts) -> &Count) {
    match record {
        Some(record) => which(&record.counts).increment(),
        None => which(&OTHERS.counts).add(1),
    }
}

impl ThreadRecord {
    pub const LAYOUT: RecordLayout = RecordLayout {
        id: mem::offset_of!(Self, id),
        tid: mem::offset_of!(Self, tid),
        counts: mem::offset_of!(Self, counts),
    };

    /// A record for the calling thread; None if there is no memory.
    #[cold]
    pub fn open(id: ThreadId) -> Option<&'static Self> {
        let slot = RECORDS.take(size_of::<Self>())?;
        // SAFETY: the slot is large enough and aligned, zeros or a freed record are a valid value,
        // and its memory is never anything else.
        let record = unsafe { &*ptr::with_exposed_provenance::<Self>(slot.addresses().start) };
        record.set_tid();
        record.id.store(id.number(), Release);
        Some(record)
    }

    fn set_tid(&self) {
        // SAFETY: the call has no conditions.
        self.tid.store(unsafe { libc::gettid() }, Relaxed);
    }

    /// Adds the counts to those of [`OTHERS`] and frees the record. Nobody counts in it any more.
    #[cold]
    pub fn close(&self) {
        self.id.store(0, Relaxed);
        self.counts.move_to(&OTHERS.counts);
        if let Some(slot) = RECORDS.find(ptr::from_ref(self).addr()) {
            slot.free();
        }
    }
}

impl Counts {
    pub fn all(&self) -> [&Count; 4] {
        [&self.starts, &self.pauses, &self.resumes, &self.finishes]
    }

    fn move_to(&self, other: &Self) {
        for (from, to) in self.all().into_iter().zip(other.all()) {
            to.add(from.0.swap(0, Relaxed));
        }
    }
}

/// How often all threads together started, paused, resumed and finished jobs.
pub fn totals() -> [u64; 4] {
    let mut totals = OTHERS.counts.all().map(Count::get);
    for_each(|record| {
        for (total, count) in totals.iter_mut().zip(record.counts.all()) {
            *total += count.get();
        }
    });
    totals
}

/// In a forked child, where no other thread is left: closes the records of all but this thread.
pub fn after_fork_in_child(this_thread: ThreadId) {
    for_each(|record| {
        if record.id.load(Relaxed) == this_thread.number() {
            record.set_tid();
        } else {
            record.close();
        }
    });
}

fn for_each(mut f: impl FnMut(&'static ThreadRecord)) {
    let mut next = 0;
    while let Some(slots) = RECORDS.taken_from(next) {
        for slot in slots {
            next = slot.end;
            // SAFETY: as in `open`; all fields are atomic.
            let record = unsafe { &*ptr::with_exposed_provenance::<ThreadRecord>(slot.start) };
            if record.id.load(Relaxed) != 0 {
                f(record);
            }
        }
    }
}
