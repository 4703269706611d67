//! Stack memory: where a job's stack comes from, and where it goes.
//!
//! A [`Stack`] comes from the allocator in place: a user's, or [`guarded_alloc`], which
//! carves it from a large mapping, a [`Region`]:
//!
//! ```text
//!   low                                                                    high
//!  | header | guard | stack 0       | guard | stack 1       | guard | ...
//!  |        |       |     <-- grows |       |               |       |
//!           |<------- a slot ------>|
//! ```
//!
//! An overflow ends in the guard: the kernel answers with SIGSEGV. One mapping for many
//! stacks, because a process may have only so many (`vm.max_map_count`, 65,530), and a
//! guard that leaves the mapping whole where the kernel has it (`MADV_GUARD_INSTALL`,
//! Linux 6.13). Memory is committed as it is touched and goes back as soon as a stack is
//! freed, address space when the region's last stack is.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::mem;
use std::num::NonZero;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use once_cell::race::OnceNonZeroUsize;

use crate::config;
use crate::lock::Shared;
use crate::quiet::Quiet;
use crate::valgrind;

/// A function that gives stack memory: takes the bytes wanted, leaves the bytes given.
pub type AllocFn = unsafe extern "C" fn(num: *mut usize) -> *mut c_void;
/// The function that takes it back.
pub type FreeFn = unsafe extern "C" fn(addr: *mut c_void);

/// The pair in place for the whole process.
#[derive(Clone, Copy)]
pub struct Allocator {
    pub alloc: AllocFn,
    pub free: FreeFn,
}

struct Choice {
    allocator: Allocator,
    /// A stack has been asked for: memory of two allocators must not mix.
    fixed: bool,
}

static CHOICE: Shared<Choice> = Shared::new(Choice {
    allocator: Allocator {
        alloc: guarded_alloc,
        free: guarded_free,
    },
    fixed: false,
});

/// Puts the functions given in place; false if it is too late for that.
///
/// With a function of its own to take memory back, but none to give it, a program counts on
/// memory as from `malloc`, which libcrypto's default gives; so it gets that. (The other way
/// round, [`guarded_free`] takes both.)
pub fn set_allocator(alloc: Option<AllocFn>, free: Option<FreeFn>) -> bool {
    let mut choice = CHOICE.lock();
    if choice.fixed {
        return false;
    }
    let Allocator {
        alloc: alloc_now,
        free: free_now,
    } = choice.allocator;
    let is_guarded = ptr::fn_addr_eq(alloc_now, guarded_alloc as AllocFn);
    let default = if free.is_some() && is_guarded {
        plain_alloc
    } else {
        alloc_now
    };
    choice.allocator = Allocator {
        alloc: alloc.unwrap_or(default),
        free: free.unwrap_or(free_now),
    };
    true
}

pub fn allocator() -> Allocator {
    CHOICE.lock().allocator
}

/// What libcrypto asks its stack allocator for, and so what a user's is asked for.
const LIBCRYPTO_SIZE: usize = 32 << 10;
/// Less than this holds no job.
const SMALLEST: usize = 2 << 10;
/// What a job needs of its stack for itself; stacks of our own have it on top of their size.
const JOB_ROOM: usize = 4 << 10;
/// The least room below a stack that faults when touched: 16 pages of 4 KiB, one of 64.
const GUARD: usize = 64 << 10;

/// A piece of memory for one job's stack, given back when dropped.
pub struct Stack {
    bottom: NonNull<u8>,
    size: usize,
    free: FreeFn,
    /// It came from [`guarded_alloc`], as its default.
    ours: bool,
    /// It ought to have a guard and has none.
    unguarded: bool,
    valgrind: valgrind::Registration,
}

static MADE: AtomicU64 = AtomicU64::new(0);
static FREED: AtomicU64 = AtomicU64::new(0);
static UNGUARDED: AtomicU64 = AtomicU64::new(0);

/// How many stacks there were and are in the process.
pub struct Counts {
    pub made: u64,
    pub in_use: u64,
    /// Those in use that ought to have a guard and have none.
    pub unguarded: u64,
}

pub fn counts() -> Counts {
    let freed = FREED.load(Acquire); // before what was made: not more can be freed than that
    let made = MADE.load(Relaxed);
    Counts {
        made,
        in_use: made - freed,
        unguarded: UNGUARDED.load(Relaxed),
    }
}

impl Stack {
    /// Memory from the allocator in place, if it has any.
    pub fn new() -> Option<Self> {
        let _quiet = Quiet::new();
        let Allocator { alloc, free } = {
            let mut choice = CHOICE.lock();
            choice.fixed = true;
            choice.allocator
        };
        let ours = ptr::fn_addr_eq(alloc, guarded_alloc as AllocFn);
        let mut size = match ours {
            true => config::stack_size(),
            false => config::stack_size_set().unwrap_or(LIBCRYPTO_SIZE),
        };
        // SAFETY: `size` is a valid place; the function is ours or came through
        // `ASYNC_set_mem_functions`, whose caller vouches for it.
        let bottom = NonNull::new(unsafe { alloc(&mut size) })?.cast::<u8>();
        if size < SMALLEST {
            // SAFETY: it is what `alloc` gave, and nobody has it.
            unsafe { free(bottom.as_ptr().cast()) };
            return None;
        }
        let unguarded = ours && Slot::of(bottom).is_some_and(|slot| !slot.is_guarded());
        MADE.fetch_add(1, Relaxed);
        UNGUARDED.fetch_add(unguarded.into(), Relaxed);
        let bottom_address = bottom.as_ptr().addr();
        let valgrind = valgrind::Registration::new(bottom_address, bottom_address + size);
        Some(Self {
            bottom,
            size,
            free,
            ours,
            unguarded,
            valgrind,
        })
    }

    pub fn bottom(&self) -> NonNull<u8> {
        self.bottom
    }

    /// Memory between frames that are gone is going to be written.
    #[inline]
    pub fn allow_writing(&self, bottom: NonNull<u8>, top: NonNull<u8>) {
        self.valgrind
            .allow_writing(bottom.as_ptr().addr(), top.as_ptr().addr());
    }

    /// Usable bytes above `bottom`.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Gives back the pages that lie below the one of `end`, as far as they are ours to give
    /// (locked ones are not); whether they were. They read as zeros then.
    pub fn discard_below(&self, end: NonNull<u8>) -> bool {
        if !self.ours {
            return false;
        }
        let _quiet = Quiet::new();
        let whole_pages = end.as_ptr().addr() / page_size() * page_size();
        let length = whole_pages - self.bottom.as_ptr().addr();
        let start = self.bottom.as_ptr().cast();
        // SAFETY: the owner has nothing there that is still needed.
        unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) == 0 }
    }

    /// Gives it back; says how many bytes the system got, or the program's own function.
    pub fn give_back(self) -> usize {
        if !self.ours {
            return self.size;
        }
        let touched = self.touched();
        // SAFETY: one past the end of the memory.
        let end = unsafe { self.bottom.add(self.size) };
        if self.discard_below(end) { touched } else { 0 }
    }

    /// How many bytes of it are in memory.
    fn touched(&self) -> usize {
        let _quiet = Quiet::new();
        let mut pages = [0; 64];
        let mut touched = 0;
        for first in (0..self.size / page_size()).step_by(pages.len()) {
            let here = pages.len().min(self.size / page_size() - first);
            // SAFETY: the pages are this stack's, and there is room to tell of each.
            let told = unsafe {
                let start = self.bottom.add(first * page_size());
                libc::mincore(
                    start.as_ptr().cast(),
                    here * page_size(),
                    pages.as_mut_ptr(),
                ) == 0
            };
            if told {
                touched += pages[..here].iter().filter(|&&page| page & 1 != 0).count();
            }
        }
        touched * page_size()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let _quiet = Quiet::new();
        // SAFETY: `alloc` gave it, and the owner of a Stack lets nobody use it any more.
        unsafe { (self.free)(self.bottom.as_ptr().cast()) };
        UNGUARDED.fetch_sub(self.unguarded.into(), Relaxed);
        FREED.fetch_add(1, Release);
    }
}

/// The default `ASYNC_stack_alloc_fn`: at least `*num` bytes, and not less than
/// `RSASYNC_STACK_SIZE`, page-aligned, above a guard. NULL if there is no memory.
///
/// # Safety
/// `num` points to a `size_t`, read and written.
pub unsafe extern "C" fn guarded_alloc(num: *mut usize) -> *mut c_void {
    // SAFETY: the caller's promise.
    let size = unsafe { &mut *num };
    let Some(slot) = Slot::take((*size).max(config::stack_size())) else {
        return ptr::null_mut();
    };
    if !slot.is_guarded() {
        slot.guard();
    }
    slot.populate_top();
    *size = slot.stack_size();
    slot.stack_bottom()
}

/// The default `ASYNC_stack_free_fn`.
///
/// # Safety
/// `addr` is NULL, or came from [`guarded_alloc`] or from `malloc`, as a program's own function
/// may get it; nobody uses that memory any more.
pub unsafe extern "C" fn guarded_free(addr: *mut c_void) {
    let Some(bottom) = NonNull::new(addr) else {
        return;
    };
    match Slot::of(bottom.cast()) {
        Some(slot) => slot.give_back(),
        // SAFETY: the caller's promise.
        None => unsafe { libc::free(addr) },
    }
}

/// What gives the memory that a program takes back in its own way.
///
/// # Safety
/// `num` points to a `size_t` that can be read.
unsafe extern "C" fn plain_alloc(num: *mut usize) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { libc::malloc(*num) }
}

// ---- regions -------------------------------------------------------------------------

/// The first region of a process; later ones are as large as all before them together, so
/// that a crowd has few, and a program under `mlockall`, whose regions are populated as they
/// are mapped, pays no more than twice for what it uses.
const FIRST_REGION: usize = 4;
/// Where that growth ends: 12 GiB of address space at the default size.
const LARGEST_REGION: usize = 1 << 16;

/// A mapping full of slots. This header lies at its start, with the words behind.
/// What counts and `words.taken` change only under the lock of [`REGIONS`]; they are atomic
/// to be reached by a shared reference. No reference outlives the last slot taken.
struct Region {
    next: Cell<Option<&'static Region>>,
    slots: usize,
    slot_size: usize,
    header_size: usize,
    words: &'static [Word],
    slots_taken: AtomicUsize,
    /// Every slot of the words before this one is taken.
    first_free_word: AtomicUsize,
    /// Its guards that cost the process two mappings each.
    split_guards: AtomicUsize,
}

/// What is known of 64 slots, a bit for each. Zeroed memory is a valid one.
#[derive(Default)]
struct Word {
    taken: AtomicU64,
    /// Set by the taker of the slot, and stays when it is freed.
    guarded: AtomicU64,
}

/// The newest region, and by its `next` all others.
static REGIONS: Shared<Regions> = Shared::new(Regions { newest: None });

struct Regions {
    newest: Option<&'static Region>,
}

// SAFETY: regions are process-wide memory, linked and unlinked under the lock only.
unsafe impl Send for Regions {}

impl Regions {
    fn iter(&self) -> impl Iterator<Item = &'static Region> + Clone + use<> {
        std::iter::successors(self.newest, |region| region.next.get())
    }

    fn add(&mut self, region: &'static Region) {
        region.next.set(self.newest.replace(region));
    }

    fn remove(&mut self, region: &'static Region) {
        let next = region.next.get();
        match self
            .iter()
            .find(|other| other.next.get().is_some_and(|r| ptr::eq(r, region)))
        {
            Some(before) => before.next.set(next),
            None => self.newest = next,
        }
    }
}

impl Region {
    /// Maps a region for `slots` stacks, or for fewer if there is no room for so many.
    fn map(mut slots: usize, slot_size: usize) -> Option<&'static Self> {
        loop {
            let words = slots.div_ceil(64);
            let header_size = mem::size_of::<Self>() + words * mem::size_of::<Word>();
            let header_size = header_size.next_multiple_of(page_size());
            let length = slots
                .checked_mul(slot_size)
                .and_then(|size| size.checked_add(header_size));
            if let Some(start) = length.and_then(map_memory) {
                let header = start.cast::<Self>();
                // SAFETY: fresh, page-aligned memory, ours alone, zeroed, with room for the
                // header and the words behind it.
                return unsafe {
                    let words = slice::from_raw_parts(header.add(1).cast().as_ptr(), words);
                    header.write(Self {
                        next: Cell::new(None),
                        slots,
                        slot_size,
                        header_size,
                        words,
                        slots_taken: AtomicUsize::new(0),
                        first_free_word: AtomicUsize::new(0),
                        split_guards: AtomicUsize::new(0),
                    });
                    Some(&*header.as_ptr())
                };
            }
            if slots == 1 {
                return None;
            }
            slots /= 2;
        }
    }

    fn addresses(&self) -> Range<usize> {
        let start = ptr::from_ref(self).expose_provenance();
        start..start + self.header_size + self.slots * self.slot_size
    }

    /// Takes the lowest free slot, if there is one. Under the lock.
    fn take_slot(&'static self) -> Option<Slot> {
        if self.slots_taken.load(Relaxed) == self.slots {
            return None;
        }
        let is_free = |word: &Word| word.taken.load(Relaxed) != u64::MAX;
        let first = self.first_free_word.load(Relaxed);
        let at = first + self.words[first..].iter().position(is_free)?;
        let bit = self.words[at].taken.load(Relaxed).trailing_ones() as usize;
        self.words[at].taken.fetch_or(1 << bit, Relaxed);
        self.first_free_word.store(at, Relaxed);
        self.slots_taken.fetch_add(1, Relaxed);
        Some(Slot {
            region: self,
            index: at * 64 + bit,
        })
    }

    /// Takes that back; true if it was the last one taken. Under the lock.
    fn free_slot(&self, index: usize) -> bool {
        self.words[index / 64]
            .taken
            .fetch_and(!(1 << (index % 64)), Relaxed);
        self.first_free_word.fetch_min(index / 64, Relaxed);
        self.slots_taken.fetch_sub(1, Relaxed) == 1
    }
}

/// A slot that is taken: room for a guard and the stack above it.
struct Slot {
    region: &'static Region,
    index: usize,
}

impl Slot {
    fn take(stack_size: usize) -> Option<Self> {
        let slot_size = stack_size
            .checked_add(JOB_ROOM + GUARD)?
            .checked_next_multiple_of(page_size())?;
        let mut regions = REGIONS.lock();
        let alike = regions
            .iter()
            .filter(|region| region.slot_size == slot_size);
        if let Some(slot) = alike.clone().find_map(Region::take_slot) {
            return Some(slot);
        }
        let all_taken = alike.map(|region| region.slots).sum::<usize>();
        let largest = if is_address_space_limited() {
            FIRST_REGION
        } else {
            LARGEST_REGION
        };
        let region = Region::map(all_taken.clamp(FIRST_REGION, largest), slot_size)?;
        regions.add(region);
        region.take_slot()
    }

    /// The slot whose stack begins at `bottom`.
    fn of(bottom: NonNull<u8>) -> Option<Self> {
        let address = bottom.as_ptr().addr();
        let region = REGIONS
            .lock()
            .iter()
            .find(|region| region.addresses().contains(&address))?;
        let index = (address - region.addresses().start - region.header_size) / region.slot_size;
        Some(Self { region, index })
    }

    fn guard_bottom(&self) -> usize {
        self.region.addresses().start + self.region.header_size + self.index * self.region.slot_size
    }

    fn stack_bottom(&self) -> *mut c_void {
        ptr::with_exposed_provenance_mut(self.guard_bottom() + GUARD)
    }

    fn stack_size(&self) -> usize {
        self.region.slot_size - GUARD
    }

    fn is_guarded(&self) -> bool {
        self.region.words[self.index / 64].guarded.load(Relaxed) & 1 << (self.index % 64) != 0
    }

    /// Makes the guard fault when touched, by the first way that works: a marker, which
    /// leaves the mapping whole (not on older kernels, nor on locked memory), or protection,
    /// which splits it, as long as there are mappings to spare.
    #[cold]
    fn guard(&self) {
        const MADV_GUARD_INSTALL: c_int = 102;
        let guard = ptr::with_exposed_provenance_mut(self.guard_bottom());
        // SAFETY: the range is this slot's, below its stack; nobody reads or writes there.
        let mark = || unsafe { libc::madvise(guard, GUARD, MADV_GUARD_INSTALL) == 0 };
        // SAFETY: as above.
        let protect = || unsafe { libc::mprotect(guard, GUARD, libc::PROT_NONE) == 0 };
        if !mark() {
            if SPLIT_GUARDS.load(Relaxed) >= split_guards_at_most() || !protect() {
                return;
            }
            SPLIT_GUARDS.fetch_add(1, Relaxed);
            self.region.split_guards.fetch_add(1, Relaxed);
        }
        self.region.words[self.index / 64]
            .guarded
            .fetch_or(1 << (self.index % 64), Relaxed);
    }

    /// Has the page that the job will be in committed now: to ask for it costs less than the
    /// fault at its first touch, and that is most of what a job costs. Before Linux 5.14 it
    /// faults.
    #[cold]
    fn populate_top(&self) {
        let top = self.stack_bottom().addr() + self.stack_size();
        let page = ptr::with_exposed_provenance_mut(top - page_size());
        // SAFETY: the page is this slot's; it is only made present.
        unsafe { libc::madvise(page, page_size(), libc::MADV_POPULATE_WRITE) };
    }

    /// Gives the stack's memory back to the system, then the slot to whoever wants one.
    fn give_back(self) {
        // SAFETY: the stack is this slot's, and its owner has given it up.
        unsafe { libc::madvise(self.stack_bottom(), self.stack_size(), libc::MADV_DONTNEED) };
        let mut regions = REGIONS.lock();
        if self.region.free_slot(self.index) {
            regions.remove(self.region);
            drop(regions);
            SPLIT_GUARDS.fetch_sub(self.region.split_guards.load(Relaxed), Relaxed);
            let Range { start, end } = self.region.addresses();
            // SAFETY: `map` made it, and there is no slot in it that anybody has.
            unsafe { libc::munmap(ptr::with_exposed_provenance_mut(start), end - start) };
        }
    }
}

/// Guards by `mprotect` that the process has.
static SPLIT_GUARDS: AtomicUsize = AtomicUsize::new(0);

/// How many of them it may have: with two mappings each they take three quarters of what the
/// kernel allows a process. The rest is for the program: past the limit its threads and its
/// large allocations would fail.
fn split_guards_at_most() -> usize {
    const USUAL_LIMIT: usize = 65_530;
    static CACHED: OnceNonZeroUsize = OnceNonZeroUsize::new();
    let read = || {
        let limit = number_in(c"/proc/sys/vm/max_map_count").unwrap_or(USUAL_LIMIT);
        NonZero::new(limit / 8 * 3).unwrap_or(NonZero::<usize>::MIN)
    };
    CACHED.get_or_init(read).get()
}

/// What a file that is a number says, without memory from the heap.
fn number_in(path: &CStr) -> Option<usize> {
    let mut text = [0_u8; 24];
    // SAFETY: the path is a C string, and the buffer as long as is said.
    let length = unsafe {
        let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        let length = libc::read(file, text.as_mut_ptr().cast(), text.len());
        libc::close(file);
        usize::try_from(length).ok()?
    };
    str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
}

/// Zeroed memory, none of it committed yet; `MAP_NORESERVE` because most never will be.
fn map_memory(length: usize) -> Option<NonNull<c_void>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
    // SAFETY: a new mapping, where the kernel likes; the advice is about it alone. Huge pages
    // would commit ten stacks at the first touch of one; where there are none it is refused.
    unsafe {
        let start = libc::mmap(ptr::null_mut(), length, protection, flags, -1, 0);
        if start == libc::MAP_FAILED {
            return None;
        }
        libc::madvise(start, length, libc::MADV_NOHUGEPAGE);
        NonNull::new(start)
    }
}

/// Whether address space is scarce: what we take of it, the program's `malloc` can't have.
fn is_address_space_limited() -> bool {
    // SAFETY: a plain struct of numbers; the call writes it.
    unsafe {
        let mut limit = mem::zeroed::<libc::rlimit>();
        libc::getrlimit(libc::RLIMIT_AS, &mut limit) == 0 && limit.rlim_cur != libc::RLIM_INFINITY
    }
}

fn page_size() -> usize {
    static CACHED: OnceNonZeroUsize = OnceNonZeroUsize::new();
    // SAFETY: no pointers.
    let ask = || NonZero::new(unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize);
    CACHED
        .get_or_init(|| ask().expect("a page has a size"))
        .get()
}
