//! Wait contexts: the file descriptors that tell when a paused job may go on.
//!
//! A job must learn that its context was freed, but a list of jobs to keep would cost every
//! start and finish. So the memory of a context is never anything else: a freed one is kept
//! for the next that is made. Each life of it has a generation that no other ever has. A job
//! notes that beside the address ([`Attachment`]); where the two no longer match, the context
//! was freed. For the same reason freeing a context twice does no harm.

use std::alloc::{self, Layout};
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr::{self, NonNull};
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::entry::ASYNC_WAIT_CTX;
use crate::error::{Error, Reason};
use crate::lock::Shared;
use crate::thread::Thread;

/// Tells that an entry's context is freed, so that its owner can close the descriptor.
pub type CleanupFn =
    unsafe extern "C" fn(*mut ASYNC_WAIT_CTX, *const c_void, c_int, custom_data: *mut c_void);
/// What an engine calls to tell that a job may be resumed.
pub type CallbackFn = unsafe extern "C" fn(arg: *mut c_void) -> c_int;

pub struct WaitCtx {
    /// 0 while it is freed.
    generation: AtomicU64,
    /// Some entry is marked: a resumed job has something to clear.
    marked: AtomicBool,
    /// There is nothing in it: freeing it needs no lock.
    empty: AtomicBool,
    /// `free` is at work, or has been.
    freed: AtomicBool,
    status: AtomicI32,
    contents: Shared<Contents>,
    next_spare: Cell<Option<&'static WaitCtx>>,
}

// SAFETY: `next_spare` is touched only by the one list that has the context.
unsafe impl Sync for WaitCtx {}

struct Contents {
    /// The oldest first. Its memory stays from life to life, and is enlarged outside the lock.
    entries: Vec<Entry>,
    callback: Option<(CallbackFn, *mut c_void)>,
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
    /// The context is being freed, and this entry's cleanup has been called.
    cleaning: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    Added,
    Deleted,
}

/// How many entries there is room for at first.
const ROOM: usize = 2;
/// Room for more than this is not kept from life to life.
const ROOM_KEPT: usize = 8;

impl WaitCtx {
    pub fn new(thread: &Thread) -> Result<&'static Self, Error> {
        let ctx = thread
            .spare_contexts
            .take()
            .or_else(Self::allocate)
            .ok_or(Error {
                reason: Reason::NoMemory,
                text: c"no memory for another wait context; free some",
            })?;
        ctx.freed.store(false, Relaxed);
        ctx.generation
            .store(thread.spare_contexts.next_generation(), Release);
        Ok(ctx)
    }

    #[cold]
    fn allocate() -> Option<&'static Self> {
        // SAFETY: a WaitCtx has a size.
        let memory = unsafe { alloc::alloc(Layout::new::<Self>()) };
        let memory = NonNull::new(memory.cast::<Self>())?;
        // SAFETY: fresh memory of this layout, which is never freed.
        unsafe {
            memory.write(Self {
                generation: AtomicU64::new(0),
                marked: AtomicBool::new(false),
                empty: AtomicBool::new(true),
                freed: AtomicBool::new(true),
                status: AtomicI32::new(0),
                contents: Shared::new(Contents {
                    entries: Vec::new(),
                    callback: None,
                }),
                next_spare: Cell::new(None),
            });
            Some(memory.as_ref())
        }
    }

    /// Calls the cleanups, newest first, and ends the context's life. No other call for it is
    /// under way, but for those of its cleanups.
    pub fn free(&'static self, thread: &Thread) {
        if self.freed.load(Acquire) {
            return;
        }
        self.freed.store(true, Release);
        while !self.empty.load(Acquire)
            && let Some(entry) = self.next_to_clean()
        {
            if let Some(cleanup) = entry.cleanup {
                // SAFETY: what came with the entry; no lock is held, so it may call back.
                unsafe { cleanup(self.as_ptr().cast(), entry.key, entry.fd, entry.custom_data) };
            }
        }
        self.marked.store(false, Relaxed);
        self.status.store(0, Relaxed);
        self.generation.store(0, Release);
        thread.spare_contexts.keep(self);
    }

    /// Takes out the entry that was cleaned, and names the next. When there is none, nothing
    /// is left in the context.
    fn next_to_clean(&self) -> Option<Entry> {
        let mut contents = self.contents.lock();
        if let Some(done) = contents.newest(|entry| entry.cleaning) {
            contents.entries.remove(done);
        }
        if let Some(next) = contents.newest(Entry::is_valid) {
            contents.entries[next].cleaning = true;
            return Some(contents.entries[next]);
        }
        contents.callback = None;
        contents.entries.clear();
        self.empty.store(true, Release);
        let too_large = contents.entries.capacity() > ROOM_KEPT;
        let room = if too_large {
            mem::take(&mut contents.entries)
        } else {
            Vec::new()
        };
        drop(contents);
        drop(room);
        None
    }

    pub fn as_ptr(&self) -> *mut Self {
        ptr::from_ref(self).cast_mut()
    }

    pub fn set_wait_fd(
        &self,
        key: *const c_void,
        fd: c_int,
        custom_data: *mut c_void,
        cleanup: Option<CleanupFn>,
    ) -> Result<(), Error> {
        let mut room; // is freed after the lock
        let mut contents = self.contents.lock();
        while contents.entries.len() == contents.entries.capacity() {
            let wanted = (contents.entries.len() * 2).max(ROOM);
            drop(contents);
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
        contents.entries.push(Entry {
            key,
            fd,
            custom_data,
            cleanup,
            mark: Mark::Added,
            cleaning: false,
        });
        self.marked.store(true, Relaxed);
        self.empty.store(false, Release);
        Ok(())
    }

    /// The descriptor and data of the newest entry with this key.
    pub fn fd(&self, key: *const c_void) -> Option<(c_int, *mut c_void)> {
        let contents = self.contents.lock();
        let at = contents.newest(|entry| entry.key == key && entry.is_valid())?;
        Some((contents.entries[at].fd, contents.entries[at].custom_data))
    }

    /// Lists the descriptors, newest first; says how many.
    pub fn all_fds(&self, list: FdList) -> usize {
        self.contents.lock().list(list, Entry::is_valid)
    }

    /// Lists those that were added and those that were deleted; says how many.
    pub fn changed_fds(&self, added: FdList, deleted: FdList) -> (usize, usize) {
        let contents = self.contents.lock();
        let added = contents.list(added, |entry| entry.mark == Mark::Added);
        let deleted = contents.list(deleted, |entry| entry.mark == Mark::Deleted);
        (added, deleted)
    }

    /// Marks the newest entry with this key as deleted, or takes it out if it was just added.
    /// False if there is none.
    pub fn clear_fd(&self, key: *const c_void) -> bool {
        let mut contents = self.contents.lock();
        let Some(at) = contents.newest(|entry| entry.key == key && entry.is_valid()) else {
            return false;
        };
        if contents.entries[at].mark == Mark::None {
            contents.entries[at].mark = Mark::Deleted;
            self.marked.store(true, Relaxed);
        } else {
            contents.entries.remove(at);
            self.empty.store(contents.is_empty(), Release);
        }
        true
    }

    /// Forgets what changed: a paused job of this context was resumed.
    #[cold]
    fn clear_marks(&self) {
        let mut contents = self.contents.lock();
        contents.entries.retain_mut(|entry| {
            let keep = entry.mark != Mark::Deleted;
            if entry.mark == Mark::Added {
                entry.mark = Mark::None;
            }
            keep
        });
        self.marked.store(false, Relaxed);
    }

    pub fn set_callback(&self, callback: Option<CallbackFn>, arg: *mut c_void) {
        let mut contents = self.contents.lock();
        contents.callback = callback.map(|callback| (callback, arg));
        self.empty.store(contents.is_empty(), Release);
    }

    pub fn set_status(&self, status: c_int) {
        self.status.store(status, Release);
    }

    pub fn status(&self) -> c_int {
        self.status.load(Acquire)
    }

    pub fn callback(&self) -> Option<(CallbackFn, *mut c_void)> {
        self.contents.lock().callback
    }
}

impl Contents {
    /// There is nothing to clean up, and not much room to give back.
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.entries.capacity() <= ROOM_KEPT && self.callback.is_none()
    }

    /// Where the newest entry of that kind is.
    fn newest(&self, wanted: impl Fn(&Entry) -> bool) -> Option<usize> {
        self.entries.iter().rposition(wanted)
    }

    fn list(&self, mut list: FdList, wanted: impl Fn(&Entry) -> bool) -> usize {
        self.entries
            .iter()
            .rev()
            .filter(|&entry| wanted(entry))
            .inspect(|entry| list.push(entry.fd))
            .count()
    }
}

impl Entry {
    fn is_valid(&self) -> bool {
        self.mark != Mark::Deleted
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
            // SAFETY: `new`'s promise.
            unsafe {
                self.0.write(fd);
                self.0 = self.0.add(1);
            }
        }
    }
}

/// A job's hold on its context, which may be freed at any time. The job's thread writes it,
/// others may read it.
pub struct Attachment {
    ctx: AtomicPtr<WaitCtx>,
    generation: AtomicU64,
}

impl Attachment {
    pub const fn none() -> Self {
        Self {
            ctx: AtomicPtr::new(ptr::null_mut()),
            generation: AtomicU64::new(0),
        }
    }

    #[inline]
    pub fn attach(&self, ctx: Option<&'static WaitCtx>) {
        let Some(ctx) = ctx else { return self.detach() };
        self.generation.store(ctx.generation.load(Relaxed), Relaxed);
        self.ctx.store(ctx.as_ptr(), Release);
    }

    #[inline]
    pub fn detach(&self) {
        self.ctx.store(ptr::null_mut(), Relaxed);
    }

    /// The context, if there is one and it has not been freed.
    #[inline]
    pub fn get(&self) -> Option<&'static WaitCtx> {
        // SAFETY: the memory of a context is never anything else. A reader that finds the
        // address of one attachment and the generation of another sees that they don't match.
        let ctx = unsafe { self.ctx.load(Acquire).as_ref() }?;
        let generation = self.generation.load(Relaxed);
        (generation != 0 && ctx.generation.load(Acquire) == generation).then_some(ctx)
    }

    /// Forgets what changed in the context before its paused job was resumed.
    #[inline]
    pub fn clear_marks(&self) {
        if let Some(ctx) = self.get()
            && ctx.marked.load(Relaxed)
        {
            ctx.clear_marks();
        }
    }
}

/// Freed contexts that a thread keeps for itself, so that making one needs no lock.
pub struct Spares {
    first: Cell<Option<&'static WaitCtx>>,
    /// How many more it takes: a thread that frees what others make must not hoard it, and one
    /// that ends must not keep any.
    room: Cell<usize>,
    last_generation: Cell<u64>,
}

/// What threads had too many of, or left behind.
static SPARES_OF_ALL: Shared<FirstSpare> = Shared::new(FirstSpare(None));

struct FirstSpare(Option<&'static WaitCtx>);

// SAFETY: spare contexts belong to nobody.
unsafe impl Send for FirstSpare {}

impl Spares {
    pub const fn new() -> Self {
        Self {
            first: Cell::new(None),
            room: Cell::new(64),
            last_generation: Cell::new(0),
        }
    }

    /// A number that no other context gets. Threads draw them in blocks.
    fn next_generation(&self) -> u64 {
        const BLOCK: u64 = 1 << 16;
        static NEXT_BLOCK: AtomicU64 = AtomicU64::new(0);
        if self.last_generation.get() % BLOCK == BLOCK - 1 || self.last_generation.get() == 0 {
            self.last_generation
                .set(NEXT_BLOCK.fetch_add(BLOCK, Relaxed));
        }
        self.last_generation.set(self.last_generation.get() + 1);
        self.last_generation.get()
    }

    fn take(&self) -> Option<&'static WaitCtx> {
        let Some(ctx) = self.first.get() else {
            return Self::take_of_all();
        };
        self.first.set(ctx.next_spare.take());
        self.room.set(self.room.get() + 1);
        Some(ctx)
    }

    fn keep(&self, ctx: &'static WaitCtx) {
        if self.room.get() == 0 {
            return Self::give_to_all(ctx);
        }
        ctx.next_spare.set(self.first.replace(Some(ctx)));
        self.room.set(self.room.get() - 1);
    }

    #[cold]
    fn take_of_all() -> Option<&'static WaitCtx> {
        let mut spares = SPARES_OF_ALL.lock();
        let ctx = spares.0?;
        spares.0 = ctx.next_spare.take();
        Some(ctx)
    }

    #[cold]
    fn give_to_all(ctx: &'static WaitCtx) {
        let mut spares = SPARES_OF_ALL.lock();
        ctx.next_spare.set(spares.0.replace(ctx));
    }

    /// The thread ends: others can have them, and those that come yet.
    pub fn hand_over(&self) {
        self.room.set(0);
        while let Some(ctx) = self.first.get() {
            self.first.set(ctx.next_spare.take());
            Self::give_to_all(ctx);
        }
    }
}
