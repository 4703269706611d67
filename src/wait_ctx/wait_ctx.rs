//! A wait context: the file descriptors that tell when a paused job may go on, a callback, a
//! status.
//!
//! A job must learn that its context was freed, but a list of jobs in the context would cost
//! every start and finish. So the memory of a context is never anything else, and each life of
//! it has a generation that no other life of any context has. A job keeps that number beside the
//! address (`weak.rs`); where the two no longer match, the context was freed. For the same
//! reason freeing a context twice does no harm.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr::{self, NonNull};
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use crate::c_types::ASYNC_WAIT_CTX;
use crate::error::{Error, Reason};
use crate::sys::mutex::ForkSafeMutex;
use crate::sys::slots::{Content, SlotPool};
use crate::sys::syscall_guard::SyscallGuard;

/// Tells that an entry's context is freed, so that its owner can close the descriptor.
pub type CleanupFn =
    unsafe extern "C" fn(*mut ASYNC_WAIT_CTX, *const c_void, c_int, custom_data: *mut c_void);
/// What an engine calls to tell that a job may be resumed.
pub type CallbackFn = unsafe extern "C" fn(arg: *mut c_void) -> c_int;

/// Zeroed memory is a freed context, but for `contents`, which [`WaitCtx::allocate`] writes.
pub struct WaitCtx {
    /// 0 while the context is freed.
    generation: AtomicU64,
    /// Whether the context was made and [`WaitCtx::end_life`] has not been called since.
    is_alive: AtomicBool,
    /// Whether some entry is marked, so that resuming a job has something to clear.
    has_marks: AtomicBool,
    /// Whether ending the context's life has anything to do under the mutex.
    has_contents: AtomicBool,
    status: AtomicI32,
    callback: Callback,
    contents: ForkSafeMutex<Contents>,
    /// The next one in a free list.
    pub next_free: Cell<Option<&'static WaitCtx>>,
}

// SAFETY: only the one free list that has the context touches `next_free`.
unsafe impl Sync for WaitCtx {}

static CONTEXTS: SlotPool = SlotPool::new(Content::Objects);
const SLOT_BYTES: usize = mem::size_of::<WaitCtx>().next_multiple_of(64);

struct Contents {
    /// The oldest first.
    entries: Vec<Entry>,
}

// SAFETY: the pointers in it are the program's, which chose to share them.
unsafe impl Send for Contents {}

#[derive(Clone, Copy)]
struct Entry {
    key: *const c_void,
    fd: c_int,
    custom_data: *mut c_void,
    cleanup: Option<CleanupFn>,
    mark: Mark,
    /// The context is being freed, and it is the turn of this entry's cleanup.
    is_in_cleanup: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Mark {
    None,
    Added,
    Deleted,
}

/// Offsets in a wait context and its entries, in bytes.
#[repr(C)]
pub struct WaitCtxLayout {
    /// 0: the context is freed.
    generation: usize,
    /// Four bytes.
    status: usize,
    /// The lowest bit tells which pair is valid.
    callback_version: usize,
    /// Two pairs of a function and its argument.
    callback_pairs: usize,
    /// Three words, in no certain order: the largest is the address of the entries, if it is above
    /// 4096; the smallest is their number.
    entries: usize,
    entry_bytes: usize,
    /// In an entry.
    key: usize,
    /// Four bytes.
    fd: usize,
    /// A byte: 0, 1 added, 2 deleted.
    mark: usize,
}

impl WaitCtx {
    pub const LAYOUT: WaitCtxLayout = WaitCtxLayout {
        generation: mem::offset_of!(Self, generation),
        status: mem::offset_of!(Self, status),
        callback_version: mem::offset_of!(Self, callback) + mem::offset_of!(Callback, version),
        callback_pairs: mem::offset_of!(Self, callback) + mem::offset_of!(Callback, pairs),
        entries: mem::offset_of!(Self, contents) + mem::offset_of!(Contents, entries),
        entry_bytes: mem::size_of::<Entry>(),
        key: mem::offset_of!(Entry, key),
        fd: mem::offset_of!(Entry, fd),
        mark: mem::offset_of!(Entry, mark),
    };
}

/// A context's first entries have room for this many.
const FIRST_CAPACITY: usize = 2;
/// Room for more entries than this is not kept for the context's next life.
const KEPT_CAPACITY: usize = 8;

impl WaitCtx {
    /// Memory for a context that is freed.
    #[cold]
    pub fn allocate() -> Option<&'static Self> {
        let _guard = SyscallGuard::new();
        let start = CONTEXTS.take(SLOT_BYTES)?.addresses().start;
        let ctx = NonNull::new(ptr::with_exposed_provenance_mut::<Self>(start))?;
        // SAFETY: the slot is large enough, aligned, and holds zeros or a freed context, whose
        // contents are without memory. Nobody looks at a freed context's contents.
        unsafe {
            (&raw mut (*ctx.as_ptr()).contents).write(ForkSafeMutex::new(Contents {
                entries: Vec::new(),
            }));
            Some(ctx.as_ref())
        }
    }

    /// Gives back the memory of a freed context that is in no list.
    #[cold]
    pub fn deallocate(&'static self) {
        let _guard = SyscallGuard::new();
        let entries = mem::take(&mut self.contents.lock().entries);
        drop(entries); // after the mutex
        if let Some(slot) = CONTEXTS.find(self.as_ptr().addr()) {
            slot.free();
        }
    }

    pub fn begin_life(&self, generation: u64) {
        // A late wake may have come for the life before.
        self.status.store(0, Relaxed);
        if self.callback.get().is_some() {
            self.callback.set(None);
        }
        self.is_alive.store(true, Relaxed);
        self.generation.store(generation, Release);
    }

    /// Ends the context's life: calls the cleanups, newest first. No other call for it is under
    /// way, but for those that its cleanups make. False if it was freed before.
    pub fn end_life(&'static self) -> bool {
        if !self.is_alive.load(Acquire) {
            return false;
        }
        self.is_alive.store(false, Release);
        while self.has_contents.load(Acquire)
            && let Some(entry) = self.next_to_clean()
        {
            if let Some(cleanup) = entry.cleanup {
                // SAFETY: the function came with these arguments through
                // ASYNC_WAIT_CTX_set_wait_fd, whose caller vouches for it. No mutex is held: it may
                // call back.
                unsafe { cleanup(self.as_ptr().cast(), entry.key, entry.fd, entry.custom_data) };
            }
        }
        self.has_marks.store(false, Relaxed);
        self.status.store(0, Relaxed);
        self.generation.store(0, Release);
        true
    }

    /// Takes out the entry whose cleanup has run and names the next one. After the last one
    /// nothing is left in the context.
    fn next_to_clean(&self) -> Option<Entry> {
        let mut contents = self.contents.lock();
        if let Some(done) = contents.newest(|entry| entry.is_in_cleanup) {
            contents.entries.remove(done);
        }
        while contents
            .entries
            .last()
            .is_some_and(|entry| !entry.is_valid())
        {
            contents.entries.pop();
        }
        if let Some(next) = contents.entries.last_mut() {
            next.is_in_cleanup = true;
            return Some(*next);
        }
        self.callback.set(None);
        self.has_contents.store(false, Release);
        let spare = match contents.entries.capacity() > KEPT_CAPACITY {
            true => mem::take(&mut contents.entries),
            false => Vec::new(),
        };
        drop(contents);
        drop(spare); // its memory goes back after the mutex
        None
    }

    pub fn as_ptr(&self) -> *mut Self {
        ptr::from_ref(self).cast_mut()
    }

    /// The number of this life; 0 if the context is freed.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    pub fn set_wait_fd(
        &self,
        key: *const c_void,
        fd: c_int,
        custom_data: *mut c_void,
        cleanup: Option<CleanupFn>,
    ) -> Result<(), Error> {
        let mut room; // memory comes and goes outside the mutex
        let mut contents = self.contents.lock();
        while contents.entries.len() == contents.entries.capacity() {
            let wanted = (contents.entries.len() * 2).max(FIRST_CAPACITY);
            drop(contents);
            let _guard = SyscallGuard::new();
            room = Vec::new();
            room.try_reserve_exact(wanted).map_err(|_| Error {
                reason: Reason::NoMemory,
                text: c"no memory for another descriptor; the wait context is as it was",
            })?;
            contents = self.contents.lock();
            if contents.entries.len() < room.capacity() {
                room.append(&mut contents.entries);
                mem::swap(&mut contents.entries, &mut room);
            }
        }
        if !self.is_alive.load(Relaxed) {
            return Err(Error {
                reason: Reason::ShouldNotHaveBeenCalled,
                text: c"the wait context is being freed; a cleanup can't add a descriptor to it",
            });
        }
        contents.entries.push(Entry {
            key,
            fd,
            custom_data,
            cleanup,
            mark: Mark::Added,
            is_in_cleanup: false,
        });
        self.has_marks.store(true, Relaxed);
        self.has_contents.store(true, Release);
        Ok(())
    }

    /// The descriptor and data of the newest entry with this key.
    pub fn fd(&self, key: *const c_void) -> Option<(c_int, *mut c_void)> {
        let contents = self.contents.lock();
        let place = contents.newest(|entry| entry.key == key && entry.is_valid())?;
        Some((
            contents.entries[place].fd,
            contents.entries[place].custom_data,
        ))
    }

    /// Lists the descriptors, newest first; returns how many there are.
    pub fn all_fds(&self, list: FdList) -> usize {
        self.contents.lock().list(list, Entry::is_valid)
    }

    /// Lists the added and the deleted ones; returns how many there are.
    pub fn changed_fds(&self, added: FdList, deleted: FdList) -> (usize, usize) {
        let contents = self.contents.lock();
        let added = contents.list(added, |entry| entry.mark == Mark::Added);
        let deleted = contents.list(deleted, |entry| entry.mark == Mark::Deleted);
        (added, deleted)
    }

    /// Marks the newest entry with this key as deleted, or takes it out if it is marked as added.
    /// False if there is none.
    pub fn clear_fd(&self, key: *const c_void) -> bool {
        let mut contents = self.contents.lock();
        let Some(place) = contents.newest(|entry| entry.key == key && entry.is_valid()) else {
            return false;
        };
        if contents.entries[place].mark == Mark::None {
            contents.entries[place].mark = Mark::Deleted;
            self.has_marks.store(true, Relaxed);
        } else {
            contents.entries.remove(place);
            self.update_has_contents(&contents);
        }
        true
    }

    /// Clears the marks, if there are any: a paused job of this context is resumed.
    #[inline]
    pub fn clear_marks(&self) {
        if self.has_marks.load(Relaxed) {
            self.clear_marks_of_entries();
        }
    }

    #[cold]
    fn clear_marks_of_entries(&self) {
        let mut contents = self.contents.lock();
        contents.entries.retain_mut(|entry| {
            let stays = entry.mark != Mark::Deleted;
            if entry.mark == Mark::Added {
                entry.mark = Mark::None;
            }
            stays
        });
        self.has_marks.store(false, Relaxed);
    }

    pub fn set_callback(&self, callback: Option<CallbackFn>, arg: *mut c_void) {
        let contents = self.contents.lock();
        self.callback.set(callback.map(|callback| (callback, arg)));
        self.update_has_contents(&contents);
    }

    pub fn callback(&self) -> Option<(CallbackFn, *mut c_void)> {
        self.callback.get()
    }

    pub fn set_status(&self, status: c_int) {
        self.status.store(status, Release);
    }

    pub fn status(&self) -> c_int {
        self.status.load(Acquire)
    }

    /// Room for many entries counts, too: it is given back at the end of the context's life.
    fn update_has_contents(&self, contents: &Contents) {
        let has_contents = !contents.entries.is_empty()
            || contents.entries.capacity() > KEPT_CAPACITY
            || self.callback.get().is_some();
        self.has_contents.store(has_contents, Release);
    }
}

impl Contents {
    /// The place of the newest entry of that kind.
    fn newest(&self, is_wanted: impl Fn(&Entry) -> bool) -> Option<usize> {
        self.entries.iter().rposition(is_wanted)
    }

    fn list(&self, mut list: FdList, is_wanted: impl Fn(&Entry) -> bool) -> usize {
        self.entries
            .iter()
            .rev()
            .filter(|&entry| is_wanted(entry))
            .inspect(|entry| list.push(entry.fd))
            .count()
    }
}

impl Entry {
    fn is_valid(&self) -> bool {
        self.mark != Mark::Deleted
    }
}

/// A callback and its argument. Readers take no lock, so that a signal handler may read whatever
/// it has interrupted; writers hold the context's mutex. The version's lowest bit names the pair
/// that is valid, a writer fills in the other one first:
///
/// ```text
///   writer:  pairs[(version + 1) % 2] = new | version += 1
///   reader:  read version | read pairs[version % 2] | is version still the same?
/// ```
#[derive(Default)]
#[repr(C)]
struct Callback {
    version: AtomicUsize,
    pairs: [Pair; 2],
}

/// A function and its argument.
#[derive(Default)]
#[repr(C)]
struct Pair(AtomicPtr<c_void>, AtomicPtr<c_void>);

impl Callback {
    fn set(&self, new: Option<(CallbackFn, *mut c_void)>) {
        let version = self.version.load(Relaxed).wrapping_add(1);
        let (function, arg) = new.map_or((ptr::null_mut(), ptr::null_mut()), |(function, arg)| {
            (function as *mut c_void, arg)
        });
        let pair = &self.pairs[version % 2];
        fence(Release); // a reader that sees this pair sees that the version was another one
        pair.0.store(function, Relaxed);
        pair.1.store(arg, Relaxed);
        self.version.store(version, Release);
    }

    fn get(&self) -> Option<(CallbackFn, *mut c_void)> {
        loop {
            let version = self.version.load(Acquire);
            let pair = &self.pairs[version % 2];
            let (function, arg) = (pair.0.load(Relaxed), pair.1.load(Relaxed));
            fence(Acquire);
            if self.version.load(Relaxed) == version {
                // SAFETY: NULL is None; else it is a function that `set` stored.
                let function =
                    unsafe { mem::transmute::<*mut c_void, Option<CallbackFn>>(function) };
                return function.map(|function| (function, arg));
            }
        }
    }
}

/// Where a C caller wants descriptors; NULL if it only wants their number.
pub struct FdList(*mut c_int);

impl FdList {
    /// # Safety
    /// `first` is NULL, or has room for as many descriptors as will be pushed.
    pub unsafe fn new(first: *mut c_int) -> Self {
        Self(first)
    }

    fn push(&mut self, fd: c_int) {
        if !self.0.is_null() {
            // SAFETY: the caller of `new` promised the room.
            unsafe {
                self.0.write(fd);
                self.0 = self.0.add(1);
            }
        }
    }
}
