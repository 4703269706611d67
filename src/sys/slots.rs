//! Memory in slots of one size, which can be read for ever.
//!
//! A handle or a weak pointer may be used long after what it named is gone. So an address that
//! was once in a slot always stays readable, and a reader finds zeros there or something of the
//! same kind. Slots are carved from regions, large mappings that are never unmapped (but for stacks
//! under a limit of the address space, whose jobs lie elsewhere):
//!
//! ```text
//!   | header | bits | generations |  slot 0  |  slot 1  |  slot 2  | ...
//! ```
//!
//! Many slots share a mapping because the kernel limits the number of mappings
//! (`vm.max_map_count`, 65,530). Memory is committed as it is touched; the user of a slot gives
//! it back. When the last slot of a region is freed, its page tables go back too, if there are
//! many.

use std::cell::Cell;
use std::ffi::c_int;
use std::mem;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::sys::limits::{
    is_address_space_limited, is_new_memory_committed, is_writable_memory_charged, mappings,
    page_bytes,
};
use crate::sys::mutex::ForkSafeMutex;
use crate::sys::sanitizer;

/// Slots of the first region. A later one has as many as all before it together, so that a crowd
/// has few regions.
const FIRST_REGION_SLOTS: usize = 4;
/// Where that growth ends: 12 GiB of address space for stacks of the default size.
const LARGEST_REGION_SLOTS: usize = 1 << 16;
/// Where space is scarce a new region has a slot for this many that there are.
const SLOTS_PER_NEW_SLOT: usize = 8;
/// An empty region stays as it is if at most this many of its slots were in use together: a
/// thread that makes and frees one job again and again costs no mapping each time.
const KEPT_SLOTS: usize = 16;
/// Slots of a block, which can be taken and prepared together.
pub const BLOCK_SLOTS: usize = 16;
const _: () = assert!(64 % BLOCK_SLOTS == 0, "the bits of a block are in one word");

/// The protection of memory in use.
const READ_WRITE: c_int = libc::PROT_READ | libc::PROT_WRITE;

/// The slots for one kind of thing, in the whole process. It has a cache line of its own, and so a
/// stripe of the mutexes: threads that make different things don't meet.
#[repr(align(64))]
pub struct SlotPool {
    newest: ForkSafeMutex<NewestRegion>,
    content: Content,
}

/// What a pool's slots are for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Where the system charges for what can be written, or commits it at once, slots are at first
    /// read-only, so that it does so only for those in use. Each user of a slot then calls
    /// [`Slot::protect`].
    Stacks,
    /// LeakSanitizer looks for pointers in them.
    Objects,
}

/// How regions are mapped now.
struct Terms {
    /// A mapping takes something from the program, touched or not: address space of which there is
    /// only so much, or memory that is locked as soon as it is mapped.
    is_space_scarce: bool,
    /// See [`Content::Stacks`].
    is_read_only_at_rest: bool,
}

impl Content {
    fn terms(self) -> Terms {
        let is_committed = self == Self::Stacks && is_new_memory_committed();
        let is_charged = self == Self::Stacks && is_writable_memory_charged();
        Terms {
            is_space_scarce: is_address_space_limited() || is_committed,
            is_read_only_at_rest: is_charged || is_committed,
        }
    }
}

/// The newest region, and by `older` all others.
struct NewestRegion(Option<&'static Region>);

// SAFETY: regions are process-wide memory. Their `older` is used only under the pool's mutex; one
// is unmapped only when it is empty, under it.
unsafe impl Send for NewestRegion {}

/// The header of a mapping. The user of a slot changes `splits`, its generation, and its bits
/// `prepared` and `split`; all else changes only under the pool's mutex, and is atomic to be
/// reached by a shared reference.
struct Region {
    older: Cell<Option<&'static Region>>,
    pool: &'static SlotPool,
    slots: usize,
    slot_bytes: usize,
    header_bytes: usize,
    is_read_only: AtomicBool,
    /// It may be unmapped when it is empty: nobody reads in a freed slot of it.
    is_temporary: bool,
    bits: &'static [SlotBits],
    generations: &'static [AtomicU32],
    slots_taken: AtomicUsize,
    /// The most that were taken since the region was mapped or [renewed](Region::renew).
    most_taken: AtomicUsize,
    /// Every slot of the words before this one is taken.
    first_free_word: AtomicUsize,
    /// Slots whose protection cost the process two mappings.
    splits: AtomicUsize,
    /// Slots from this one on were never taken and stay out of core files.
    first_undumped: AtomicUsize,
}

// SAFETY: `older` is used only under the pool's mutex.
unsafe impl Sync for Region {}

/// The state of 64 slots, a bit for each; zeroed memory is a valid value.
struct SlotBits {
    taken: AtomicU64,
    /// Set by the user of the slot; stays when the slot is freed.
    prepared: AtomicU64,
    /// The protection of the slot cost the process two mappings.
    split: AtomicU64,
}

/// Offsets in a pool and its regions, in bytes.
#[repr(C)]
pub struct SlotsLayout {
    /// In a pool: the address of the newest region, or 0. The others are in a region.
    newest: usize,
    older: usize,
    slots: usize,
    slot_bytes: usize,
    /// Where the first slot begins.
    header_bytes: usize,
    /// The state of the first 64 slots, of the next 64 ...
    bits: usize,
    bits_stride: usize,
    /// In such a state: a bit for each slot that is taken.
    taken: usize,
}

impl SlotPool {
    pub const LAYOUT: SlotsLayout = SlotsLayout {
        newest: mem::offset_of!(Self, newest),
        older: mem::offset_of!(Region, older),
        slots: mem::offset_of!(Region, slots),
        slot_bytes: mem::offset_of!(Region, slot_bytes),
        header_bytes: mem::offset_of!(Region, header_bytes),
        bits: mem::size_of::<Region>(),
        bits_stride: mem::size_of::<SlotBits>(),
        taken: mem::offset_of!(SlotBits, taken),
    };
}

/// Slots of all regions whose protection cost two mappings each.
static SPLITS: AtomicUsize = AtomicUsize::new(0);

/// A slot that is taken. It is freed by [`Slot::free`], not when it is dropped.
pub struct Slot {
    region: &'static Region,
    index: usize,
}

/// Slots that a thread has taken ahead, neighbours; zeroed memory is none. Their user frees each.
pub struct SpareSlots {
    region: Cell<Option<&'static Region>>,
    next: Cell<usize>,
    end: Cell<usize>,
}

impl SpareSlots {
    fn put(&self, region: &'static Region, slots: Range<usize>) {
        self.region.set(Some(region));
        self.next.set(slots.start);
        self.end.set(slots.end);
    }

    pub fn is_empty(&self) -> bool {
        self.next.get() == self.end.get()
    }

    pub fn pop(&self) -> Option<Slot> {
        let (region, index) = (self.region.get()?, self.next.get());
        if self.is_empty() {
            return None;
        }
        self.next.set(index + 1);
        Some(Slot { region, index })
    }

    /// The addresses of this slot and those behind it, if it begins a block whose others are here.
    pub fn block_of(&self, slot: &Slot) -> Option<[Range<usize>; BLOCK_SLOTS]> {
        let is_whole = ptr::eq(self.region.get()?, slot.region)
            && self.next.get() == slot.index + 1
            && self.end.get() == slot.index + BLOCK_SLOTS;
        let (Range { start, .. }, bytes) = (slot.addresses(), slot.region.slot_bytes);
        let nth = |n: usize| start + n * bytes..start + (n + 1) * bytes;
        is_whole.then(|| std::array::from_fn(nth))
    }
}

/// Slots that are taken, of 64 neighbours: an iterator over their addresses.
pub struct TakenSlots {
    /// The address of the first of the 64.
    start: usize,
    slot_bytes: usize,
    taken: u64,
}

impl Iterator for TakenSlots {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        if self.taken == 0 {
            return None;
        }
        let start = self.start + self.taken.trailing_zeros() as usize * self.slot_bytes;
        self.taken &= self.taken - 1;
        Some(start..start + self.slot_bytes)
    }
}

impl SlotPool {
    pub const fn new(content: Content) -> Self {
        Self {
            newest: ForkSafeMutex::new(NewestRegion(None)),
            content,
        }
    }

    /// A free slot of this size; None if there is no memory.
    pub fn take(&'static self, slot_bytes: usize) -> Option<Slot> {
        self.take_with_spare(slot_bytes, None)
    }

    /// The same for who takes many, always of this size from this pool, and has `spare` for the rest of
    /// the slot's block. So threads meet less, here and in page tables.
    pub fn take_with_spare(
        &'static self,
        slot_bytes: usize,
        spare: Option<&SpareSlots>,
    ) -> Option<Slot> {
        if let Some(slot) = spare.and_then(SpareSlots::pop) {
            return Some(slot);
        }
        let mut newest = self.newest.lock();
        let alike = newest
            .iter()
            .filter(|region| region.slot_bytes == slot_bytes);
        if let Some(slot) = alike.clone().find_map(|region| region.take_slot(spare)) {
            return Some(slot);
        }
        let all = alike.map(|region| region.slots).sum::<usize>();
        let terms = self.content.terms();
        let wanted = match terms.is_space_scarce {
            true => all / SLOTS_PER_NEW_SLOT,
            false => all,
        };
        let wanted = wanted.clamp(FIRST_REGION_SLOTS, LARGEST_REGION_SLOTS);
        let region = Region::map(self, wanted, slot_bytes, &terms)?;
        region.older.set(newest.0.replace(region));
        let slot = region.take_slot(spare);
        drop(newest);
        if self.content == Content::Objects {
            let Range { start, end } = region.slot_addresses();
            sanitizer::add_root(ptr::with_exposed_provenance(start), end - start);
        }
        slot
    }

    /// The next slots that are taken, at least one and at most 64, at this address or above; None if
    /// there is none. It leaves out slots that may be unmapped: what it finds can be read, also
    /// when somebody frees it meanwhile.
    pub fn taken_from(&'static self, mut address: usize) -> Option<TakenSlots> {
        let newest = self.newest.lock();
        loop {
            let regions = newest.iter().filter(|region| !region.is_temporary);
            let region = regions
                .filter(|region| address < region.slot_addresses().end)
                .min_by_key(|region| region.slot_addresses().start)?;
            let Range { start, end } = region.slot_addresses();
            let first = address.saturating_sub(start).div_ceil(region.slot_bytes);
            let slots = region.taken_from(first);
            if slots.is_some() {
                return slots;
            }
            address = end;
        }
    }

    /// The slot that an address lies in, which somebody has taken.
    pub fn find(&'static self, address: usize) -> Option<Slot> {
        let region = self
            .newest
            .lock()
            .iter()
            .find(|region| region.slot_addresses().contains(&address))?;
        let index = (address - region.slot_addresses().start) / region.slot_bytes;
        Some(Slot { region, index })
    }
}

impl NewestRegion {
    fn iter(&self) -> impl Iterator<Item = &'static Region> + Clone + use<> {
        std::iter::successors(self.0, |region| region.older.get())
    }

    /// Unmaps an empty temporary region.
    fn unmap(&mut self, region: &'static Region) {
        let older = region.older.get();
        match self
            .iter()
            .find(|newer| newer.older.get().is_some_and(|it| ptr::eq(it, region)))
        {
            Some(newer) => newer.older.set(older),
            None => self.0 = older,
        }
        SPLITS.fetch_sub(region.splits.load(Relaxed), Relaxed);
        let start = ptr::from_ref(region).expose_provenance();
        let end = region.slot_addresses().end.next_multiple_of(page_bytes());
        let mapping = ptr::with_exposed_provenance_mut(start);
        // SAFETY: it is in no list any more, and nobody has a slot of it; its mutex is held.
        unsafe { libc::munmap(mapping, end - start) };
    }
}

impl Region {
    /// Maps a region for `slots` slots, or for fewer if there is no room for so many.
    fn map(
        pool: &'static SlotPool,
        mut slots: usize,
        slot_bytes: usize,
        terms: &Terms,
    ) -> Option<&'static Self> {
        let is_read_only = terms.is_read_only_at_rest;
        loop {
            let words = slots.div_ceil(64);
            let header_bytes = mem::size_of::<Self>()
                + words * mem::size_of::<SlotBits>()
                + slots * mem::size_of::<AtomicU32>();
            let header_bytes = header_bytes.next_multiple_of(page_bytes());
            let bytes = slots
                .checked_mul(slot_bytes)
                .and_then(|bytes| bytes.checked_add(header_bytes))
                .and_then(|bytes| bytes.checked_next_multiple_of(page_bytes()));
            if let Some(start) = bytes.and_then(|bytes| map_memory(None, bytes, is_read_only)) {
                let header = start.as_ptr().expose_provenance();
                if is_read_only && map_memory(Some(header), header_bytes, false).is_none() {
                    // SAFETY: nobody knows of the mapping yet.
                    unsafe { libc::munmap(start.as_ptr().cast(), bytes?) };
                    return None;
                }
                let header = start.cast::<Self>();
                // SAFETY: fresh memory of nobody else, zeroed, aligned to a page, with room for
                // the header, the bits and the generations one behind the other.
                let region = unsafe {
                    let bits = header.add(1).cast::<SlotBits>();
                    let generations = bits.add(words).cast::<AtomicU32>();
                    header.write(Self {
                        older: Cell::new(None),
                        pool,
                        slots,
                        slot_bytes,
                        header_bytes,
                        is_read_only: AtomicBool::new(is_read_only),
                        is_temporary: pool.content == Content::Stacks && terms.is_space_scarce,
                        bits: slice::from_raw_parts(bits.as_ptr(), words),
                        generations: slice::from_raw_parts(generations.as_ptr(), slots),
                        slots_taken: AtomicUsize::new(0),
                        most_taken: AtomicUsize::new(0),
                        first_free_word: AtomicUsize::new(0),
                        splits: AtomicUsize::new(0),
                        first_undumped: AtomicUsize::new(0),
                    });
                    &*header.as_ptr()
                };
                region.advise();
                return Some(region);
            }
            if slots == 1 {
                return None;
            }
            slots /= 2;
        }
    }

    fn slot_addresses(&self) -> Range<usize> {
        let start = ptr::from_ref(self).expose_provenance() + self.header_bytes;
        start..start + self.slots * self.slot_bytes
    }

    /// The pages of the slots from this one on.
    fn pages_from(&self, first: usize) -> Range<usize> {
        let Range { start, end } = self.slot_addresses();
        let first = (start + first * self.slot_bytes).next_multiple_of(page_bytes());
        let end = end.next_multiple_of(page_bytes());
        first.min(end)..end
    }

    /// No huge page, which would commit ten stacks at the first touch of one; and no slot in a
    /// core file, before it was taken.
    fn advise(&self) {
        let Range { start, end } = self.pages_from(0);
        let pages = ptr::with_exposed_provenance_mut(start);
        // SAFETY: the advice changes the contents of no page.
        unsafe {
            libc::madvise(pages, end - start, libc::MADV_NOHUGEPAGE);
            libc::madvise(pages, end - start, libc::MADV_DONTDUMP);
        }
        self.first_undumped.store(0, Relaxed);
    }

    /// Takes the lowest free slot, if there is one, and with it the rest of its block for `spare`, if
    /// all of that is free. Under the pool's mutex.
    fn take_slot(&'static self, spare: Option<&SpareSlots>) -> Option<Slot> {
        let taken = self.slots_taken.load(Relaxed);
        if taken == self.slots {
            return None;
        }
        let is_free = |bits: &SlotBits| bits.taken.load(Relaxed) != u64::MAX;
        let first = self.first_free_word.load(Relaxed);
        let word = first + self.bits[first..].iter().position(is_free)?;
        let bit = self.bits[word].taken.load(Relaxed).trailing_ones() as usize;
        let index = word * 64 + bit;
        let count = match spare {
            Some(spare) if self.may_take_block(index) => {
                spare.put(self, index + 1..index + BLOCK_SLOTS);
                BLOCK_SLOTS
            }
            _ => 1,
        };
        let bits = u64::MAX >> (64 - count) << bit;
        self.bits[word].taken.fetch_or(bits, Relaxed);
        self.first_free_word.store(word, Relaxed);
        self.slots_taken.store(taken + count, Relaxed);
        self.most_taken.fetch_max(taken + count, Relaxed);
        if index + count > self.first_undumped.load(Relaxed) {
            self.dump_through(index + count - 1);
        }
        Some(Slot {
            region: self,
            index,
        })
    }

    /// Whether a block of free slots begins here, which cost nothing before they are used.
    fn may_take_block(&self, first: usize) -> bool {
        first.is_multiple_of(BLOCK_SLOTS)
            && first + BLOCK_SLOTS <= self.slots
            && self.bits[first / 64].taken.load(Relaxed) & block_bits(first) == 0
            && !self.is_temporary
            && !self.is_read_only.load(Relaxed)
    }

    /// The taken ones among 64 slots, from this one on. Under the pool's mutex.
    fn taken_from(&self, first: usize) -> Option<TakenSlots> {
        let words = self.bits.iter().enumerate().skip(first / 64);
        let mut words = words.map(|(word, bits)| {
            let passed = if word == first / 64 { first % 64 } else { 0 };
            (word, bits.taken.load(Relaxed) & (u64::MAX << passed))
        });
        let (word, taken) = words.find(|&(_, taken)| taken != 0)?;
        Some(TakenSlots {
            start: self.slot_addresses().start + word * 64 * self.slot_bytes,
            slot_bytes: self.slot_bytes,
            taken,
        })
    }

    /// Has core files include the slots up to this one, and as many again.
    #[cold]
    fn dump_through(&self, index: usize) {
        let now = (2 * index + 1).min(self.slots);
        let (start, end) = (self.pages_from(0).start, self.pages_from(now).start);
        // SAFETY: the advice changes the contents of no page.
        unsafe {
            let pages = ptr::with_exposed_provenance_mut(start);
            libc::madvise(pages, end - start, libc::MADV_DODUMP);
        }
        self.first_undumped.store(now, Relaxed);
    }

    /// Frees a slot. Under the pool's mutex.
    fn free_slot(&self, index: usize) {
        let bit = 1 << (index % 64);
        self.bits[index / 64].taken.fetch_and(!bit, Relaxed);
        self.first_free_word.fetch_min(index / 64, Relaxed);
        let taken = self.slots_taken.load(Relaxed) - 1;
        self.slots_taken.store(taken, Relaxed);
    }

    fn is_empty(&self) -> bool {
        self.slots_taken.load(Relaxed) == 0
    }

    /// Gives back the pages of a word's 64 slots if none of them is taken, so that one slot in use
    /// does not keep the memory of a whole region. Under the pool's mutex.
    fn discard_if_free(&self, word: usize) {
        if self.bits[word].taken.load(Relaxed) != 0 {
            return;
        }
        let (first, behind) = (word * 64, (word * 64 + 64).min(self.slots));
        let start = self.pages_from(first).start;
        let end = self.slot_addresses().start + behind * self.slot_bytes;
        let bytes = (end / page_bytes() * page_bytes()).saturating_sub(start);
        // SAFETY: nobody has one of these slots; who reads there finds zeros from now on.
        unsafe {
            let pages = ptr::with_exposed_provenance_mut(start);
            libc::madvise(pages, bytes, libc::MADV_DONTNEED);
        }
    }

    /// Gives back the pages of the slots and their page tables: maps the slots anew in the same
    /// place. Nobody has one of them. Under the pool's mutex.
    fn renew(&self) {
        let Range { start, end } = self.pages_from(0);
        let is_read_only = self.pool.content.terms().is_read_only_at_rest;
        if map_memory(Some(start), end - start, is_read_only).is_none() {
            return;
        }
        self.is_read_only.store(is_read_only, Relaxed);
        self.advise();
        for bits in self.bits {
            bits.prepared.store(0, Relaxed);
            bits.split.store(0, Relaxed);
        }
        self.most_taken.store(0, Relaxed);
        SPLITS.fetch_sub(self.splits.swap(0, Relaxed), Relaxed);
    }
}

impl Slot {
    pub fn addresses(&self) -> Range<usize> {
        let start = self.region.slot_addresses().start + self.index * self.region.slot_bytes;
        start..start + self.region.slot_bytes
    }

    /// A number that outlives the users of this slot, 0 before the first; for them to tell
    /// themselves apart.
    pub fn generation(&self) -> &'static AtomicU32 {
        &self.region.generations[self.index]
    }

    /// Whether a user of this slot has called [`Slot::set_prepared`]; it stays so when the slot
    /// is freed.
    pub fn is_prepared(&self) -> bool {
        self.bits().prepared.load(Relaxed) & self.bit() != 0
    }

    pub fn set_prepared(&self) {
        self.bits().prepared.fetch_or(self.bit(), Relaxed);
    }

    /// The same for this slot and the rest of its block.
    pub fn set_block_prepared(&self) {
        self.bits()
            .prepared
            .fetch_or(block_bits(self.index), Relaxed);
    }

    /// Whether the slot's memory may be unmapped once it is freed.
    pub fn is_temporary(&self) -> bool {
        self.region.is_temporary
    }

    /// Whether a free slot can't be written, so that its user must call [`Slot::protect`].
    pub fn is_at_rest_read_only(&self) -> bool {
        self.region.is_read_only.load(Relaxed)
    }

    /// Changes the protection of some pages of the slot. False if the system refuses.
    pub fn protect(&self, pages: Range<usize>, protection: c_int) -> bool {
        let start = ptr::with_exposed_provenance_mut(pages.start);
        // SAFETY: the pages are this slot's, whose user asks for it.
        unsafe { libc::mprotect(start, pages.end - pages.start, protection) == 0 }
    }

    /// Makes some pages of a slot that is read-only at rest writable. False if there is no memory.
    /// A filter of system calls may refuse to change a protection: then they are mapped anew.
    pub fn make_writable(&self, pages: Range<usize>) -> bool {
        if self.protect(pages.clone(), READ_WRITE) {
            return true;
        }
        // SAFETY: errno's place is the thread's own.
        let has_memory = unsafe { *libc::__errno_location() } != libc::ENOMEM;
        has_memory && remap(pages, false)
    }

    /// Counts two mappings for the protection of this slot; false if slots have three quarters of
    /// what the process may have. The rest is for the program: past the limit its threads and its
    /// large allocations would fail.
    pub fn may_split(&self) -> bool {
        if SPLITS.load(Relaxed) >= mappings() / 8 * 3 {
            return false;
        }
        SPLITS.fetch_add(1, Relaxed);
        self.region.splits.fetch_add(1, Relaxed);
        self.bits().split.fetch_or(self.bit(), Relaxed);
        true
    }

    pub fn is_split(&self) -> bool {
        self.bits().split.load(Relaxed) & self.bit() != 0
    }

    /// Takes back the two mappings that [`Slot::may_split`] counted.
    pub fn unsplit(&self) {
        self.bits().split.fetch_and(!self.bit(), Relaxed);
        SPLITS.fetch_sub(1, Relaxed);
        self.region.splits.fetch_sub(1, Relaxed);
    }

    /// Makes a split slot as it was when its region was mapped, which is read-only; false if the
    /// system refuses.
    pub fn restore_read_only(&self) -> bool {
        let is_restored = remap(self.addresses(), true);
        if is_restored {
            self.bits().prepared.fetch_and(!self.bit(), Relaxed);
            self.unsplit();
        }
        is_restored
    }

    /// Gives the slot to whoever takes one next. Its memory stays as it is.
    pub fn free(self) {
        let mut newest = self.region.pool.newest.lock();
        self.free_in(&mut newest);
    }

    /// The same, if the slot is one of the few that are taken first, and so again and again. (When a
    /// newer region is mapped no slot is free, so that there are no more of them elsewhere.)
    pub fn free_if_among_first(self) -> Result<(), Self> {
        let mut newest = self.region.pool.newest.lock();
        let is_newest = newest.0.is_some_and(|newest| ptr::eq(newest, self.region));
        let is_kept_apart = self.is_at_rest_read_only() || self.is_temporary();
        if !is_newest || self.index >= KEPT_SLOTS || is_kept_apart {
            return Err(self);
        }
        self.free_in(&mut newest);
        Ok(())
    }

    fn free_in(self, newest: &mut NewestRegion) {
        let region = self.region;
        region.free_slot(self.index);
        if region.is_empty() {
            let was_crowded = region.most_taken.load(Relaxed) > KEPT_SLOTS;
            if region.is_temporary {
                if was_crowded || newest.iter().filter(|other| other.is_empty()).count() > 1 {
                    newest.unmap(region);
                }
            } else if was_crowded {
                region.renew();
            }
        } else if region.pool.content == Content::Objects {
            region.discard_if_free(self.index / 64);
        }
    }

    fn bits(&self) -> &'static SlotBits {
        &self.region.bits[self.index / 64]
    }

    fn bit(&self) -> u64 {
        1 << (self.index % 64)
    }
}

/// The bits of a block that begins at this slot, in their word.
fn block_bits(first: usize) -> u64 {
    ((1 << BLOCK_SLOTS) - 1) << (first % 64)
}

/// Maps pages of a region anew, without huge pages; false if the system refuses.
fn remap(pages: Range<usize>, is_read_only: bool) -> bool {
    let bytes = pages.end - pages.start;
    let is_mapped = map_memory(Some(pages.start), bytes, is_read_only).is_some();
    if is_mapped {
        let start = ptr::with_exposed_provenance_mut(pages.start);
        // SAFETY: the advice changes the contents of no page.
        unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
    }
    is_mapped
}

/// Maps zeroed memory, none of it committed yet: in a place where there is memory of ours that
/// nobody needs, or anywhere.
fn map_memory(place: Option<usize>, bytes: usize, is_read_only: bool) -> Option<NonNull<u8>> {
    let protection = match is_read_only {
        true => libc::PROT_READ,
        false => READ_WRITE,
    };
    // Most of it will never be used: the system need not reserve swap space.
    let mut flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    if place.is_some() {
        flags |= libc::MAP_FIXED;
    }
    let place = ptr::with_exposed_provenance_mut(place.unwrap_or(0));
    // SAFETY: without a place the mapping is a new one. With one it replaces memory of ours that
    // nobody needs: a slot that its user gives up, or those of a region where none is taken.
    let start = unsafe { libc::mmap(place, bytes, protection, flags, -1, 0) };
    NonNull::new(start.cast()).filter(|_| start != libc::MAP_FAILED)
}
