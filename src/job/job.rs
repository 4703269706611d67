//! The job: what it consists of, and the handle by which a program knows it.
//!
//! A [`Job`] lies at the top of its own stack, followed downwards by the copy of the caller's
//! arguments, if it is small, and the first frames, so that a paused job that has not called
//! deep touches a single page:
//!
//! ```text
//!   low                                                                  high
//!    |  ...  <-- frames of func | trampoline | args | padding | Job |
//! ```
//!
//! (Beside a stack from the program's own functions, it lies in a slot of its own.)
//!
//! A handle is the job's address, which has six zero bits at the low end and sixteen at the high
//! end, with a generation in their place. Each run of a job, from its start to its end, has the
//! next generation. The job keeps its handle; another handle with the same address is stale:
//!
//! ```text
//!   63            48 47                                     6 5    0
//!  | generation >> 6 |           address of the job          | gen. |
//! ```
//!
//! The memory there can be read for ever (`slots.rs`), so any thread may compare at any time. A
//! handle's value comes back after 2^22 runs on the same stack.

use std::alloc::{self, Layout};
use std::cell::Cell;
use std::ffi::c_void;
use std::mem;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::atomic::{
    AtomicU8, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::c_types::ASYNC_JOB;
use crate::error::{Error, Reason};
use crate::fibre::fibre::{Fibre, Func};
use crate::openssl::default_context::SavedLibCtx;
use crate::stack::stack::{OWNER_BYTES, Stack};
use crate::sys::env;
use crate::sys::sanitizer;
use crate::sys::syscall_guard::SyscallGuard;
use crate::wait_ctx::wait_ctx::WaitCtx;
use crate::wait_ctx::weak::WeakWaitCtx;

/// Tells threads apart for as long as the process lives. Neither a pid nor an address does: a
/// forked child goes on with the jobs of the thread that forked, and a new thread may get the
/// memory of one that has exited.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ThreadId(u64);

impl ThreadId {
    /// No thread has this one.
    pub const NONE: Self = Self(0);

    /// The number itself, never 0.
    pub fn number(self) -> u64 {
        self.0
    }

    pub fn new() -> Self {
        Self(LAST_THREAD_ID.fetch_add(1, Relaxed) + 1)
    }

    /// Whether some thread of the process has made a job or a wait context, or set its limit.
    pub fn any_was_given() -> bool {
        LAST_THREAD_ID.load(Relaxed) != 0
    }
}

static LAST_THREAD_ID: AtomicU64 = AtomicU64::new(0);

/// The time since a thread's limit was set last. Jobs that were made before and join the pool
/// when they finish don't count against the new limit, as in libcrypto.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LimitEpoch(pub u32);

/// The memory that a C caller wants copied.
#[derive(Clone, Copy)]
pub struct Args {
    start: *const u8,
    bytes: usize,
}

impl Args {
    /// # Safety
    /// `start` is NULL, or may be read for `bytes` bytes until the job is started.
    pub unsafe fn new(start: *const c_void, bytes: usize) -> Self {
        Self {
            start: start.cast(),
            bytes: if start.is_null() { 0 } else { bytes },
        }
    }

    /// # Safety
    /// `to` is fresh memory that may be written for that many bytes.
    #[inline]
    unsafe fn copy_to(self, to: *mut u8) {
        // SAFETY: the callers of `new` and of this function promise both sides; they don't
        // overlap, as nobody knew of `to` before.
        unsafe { ptr::copy_nonoverlapping(self.start, to, self.bytes) };
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// In a pool.
    Idle,
    /// In a pool, and its stack has given back the pages below the job's own.
    Trimmed,
    /// Its thread is in it, or in a job that it started.
    Running,
    Paused,
}

/// A [`State`] that the job's thread changes and others may read.
pub struct AtomicState(AtomicU8);

impl AtomicState {
    #[inline(always)]
    pub fn get(&self) -> State {
        match self.0.load(Relaxed) {
            0 => State::Idle,
            1 => State::Trimmed,
            2 => State::Running,
            _ => State::Paused,
        }
    }

    #[inline(always)]
    pub fn set(&self, state: State) {
        self.0.store(state as u8, Relaxed);
    }
}

#[repr(C, align(64))]
pub struct Job {
    // The first cache line has what a resume and a pause use, up to the fibre's hot bytes.
    /// The handle of this run, or of the next one while the job is idle; 0 after its end.
    handle: AtomicUsize,
    /// The thread on which it may be resumed, a [`ThreadId`].
    owner: AtomicU64,
    /// While the job is paused: its default library contexts.
    pub lib_ctx: SavedLibCtx,
    pub state: AtomicState,
    /// How often it was switched to; an observer sees by it that the job moves.
    pub switches: Cell<u32>,
    /// How many calls of `ASYNC_block_pause` are open.
    pub pause_blocks: Cell<u32>,
    pub fibre: Fibre,
    // The rest is used by starts and finishes.
    pub wait_ctx: WeakWaitCtx,
    /// The next one towards the bottom of the pool.
    pub next_idle: Cell<Option<JobRef>>,
    pub epoch: LimitEpoch,
    /// The largest copy of arguments, in bytes, that lies on the stack.
    most_args_on_stack: usize,
    /// When this run was first seen to be an orphan, in milliseconds; 0: it was not.
    pub orphan_seen_ms: Cell<u64>,
    /// What a run leaves on the stack is wiped at its end.
    is_wiped: bool,
    /// Memory for a larger copy, of this run or an earlier one.
    heap_args: Cell<Option<(NonNull<u8>, Layout)>>,
    stack: Stack,
}

/// Offsets in a job, in bytes.
#[repr(C)]
pub struct JobLayout {
    /// The job is in use if these bits of its handle are its address: [`JobLayout::address_mask`].
    pub handle: usize,
    address_mask: usize,
    owner: usize,
    /// A byte, a [`State`].
    state: usize,
    /// Four bytes each.
    switches: usize,
    pause_blocks: usize,
    /// The saved stack pointer of the suspended side, where the switch has put its registers.
    suspended: usize,
    pub func: usize,
    pub wait_ctx: usize,
    wait_ctx_generation: usize,
    frames_start: usize,
    frames_end: usize,
}

impl Job {
    pub const LAYOUT: JobLayout = JobLayout {
        handle: mem::offset_of!(Self, handle),
        address_mask: Handle::ADDRESS_MASK,
        owner: mem::offset_of!(Self, owner),
        state: mem::offset_of!(Self, state),
        switches: mem::offset_of!(Self, switches),
        pause_blocks: mem::offset_of!(Self, pause_blocks),
        suspended: mem::offset_of!(Self, fibre) + Fibre::SUSPENDED_OFFSET,
        func: mem::offset_of!(Self, fibre) + Fibre::FUNC_OFFSET,
        wait_ctx: mem::offset_of!(Self, wait_ctx) + WeakWaitCtx::CTX_OFFSET,
        wait_ctx_generation: mem::offset_of!(Self, wait_ctx) + WeakWaitCtx::GENERATION_OFFSET,
        frames_start: mem::offset_of!(Self, stack) + Stack::FRAMES_START_OFFSET,
        frames_end: mem::offset_of!(Self, stack) + Stack::FRAMES_END_OFFSET,
    };
}

const _: () = assert!(mem::offset_of!(Job, fibre) + Fibre::HOT_BYTES <= 64);
const _: () = assert!(mem::size_of::<Job>() <= OWNER_BYTES);

/// Where the frames of a job begin on its stack, the highest address.
pub struct Top(usize);

/// A job that exists: in its thread's pool, or started and not finished.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct JobRef(NonNull<Job>);

impl Deref for JobRef {
    type Target = Job;

    #[inline]
    fn deref(&self) -> &Job {
        // SAFETY: it exists; that is what a JobRef means. It is never borrowed mutably.
        unsafe { self.0.as_ref() }
    }
}

/// A handle as a program has it, of a job that exists or of one that is long gone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Handle(*mut ASYNC_JOB);

impl Handle {
    const LOW_BITS: u32 = 6;
    const LOW_MASK: usize = (1 << Self::LOW_BITS) - 1;
    const HIGH_SHIFT: u32 = 48;
    const ADDRESS_MASK: usize = ((1 << Self::HIGH_SHIFT) - 1) & !Self::LOW_MASK;

    /// None for NULL.
    ///
    /// # Safety
    /// `handle` is NULL or came from [`Handle::as_ptr`].
    #[inline(always)]
    pub unsafe fn from_ptr(handle: *mut ASYNC_JOB) -> Option<Self> {
        (!handle.is_null()).then_some(Self(handle))
    }

    #[inline(always)]
    pub fn as_ptr(self) -> *mut ASYNC_JOB {
        self.0
    }

    #[inline(always)]
    fn bits(self) -> usize {
        self.0.addr()
    }

    /// The job that this is the handle of; None if it is stale.
    #[inline]
    pub fn job(self) -> Option<JobRef> {
        let job = ptr::with_exposed_provenance_mut::<Job>(self.bits() & Self::ADDRESS_MASK);
        // SAFETY: the address is that of a job, or of one that was there, where an atomic number
        // can be read for ever. If it is this handle, the job exists.
        unsafe {
            let is_its = (*job).handle.load(Acquire) == self.bits();
            is_its.then(|| JobRef(NonNull::new_unchecked(job)))
        }
    }

    /// The wait context of the job; None if it has none or the handle is stale. Any thread and
    /// any signal handler may ask.
    #[inline]
    pub fn wait_ctx(self) -> Option<&'static WaitCtx> {
        let job = self.job()?;
        let ctx = job.wait_ctx.get();
        // The job may have been started anew for another context meanwhile. It got its next
        // handle before that context, so who has seen the context sees the handle.
        ctx.filter(|_| job.handle.load(Relaxed) == self.bits())
    }

    const fn encode(address: usize, generation: u32) -> usize {
        let generation = generation as usize;
        address | generation & Self::LOW_MASK | generation >> Self::LOW_BITS << Self::HIGH_SHIFT
    }

    const fn generation(bits: usize) -> u32 {
        (bits >> Self::HIGH_SHIFT << Self::LOW_BITS | bits & Self::LOW_MASK) as u32
    }

    /// The same with the next generation.
    #[inline(always)]
    const fn next(bits: usize) -> usize {
        if bits & Self::LOW_MASK != Self::LOW_MASK {
            bits + 1
        } else {
            (bits & !Self::LOW_MASK).wrapping_add(1 << Self::HIGH_SHIFT)
        }
    }
}

impl JobRef {
    /// A copy of arguments on the stack takes at most one part in 32 of it, ...
    const ARGS_SHARE_OF_STACK: usize = 32;
    /// ... and at most this many bytes, so that a job that has not called deep touches one page.
    const MOST_ARGS_BYTES: usize = 1024;

    /// A new job on this stack, idle.
    pub fn new(stack: Stack, owner: ThreadId, epoch: LimitEpoch) -> Self {
        let place = stack.owner_bytes().cast::<Job>();
        let generation = stack.generation().load(Relaxed).wrapping_add(1);
        let handle = Handle::encode(place.as_ptr().expose_provenance(), generation);
        let frames_bytes = stack.frames().len();
        let job = place.as_ptr();
        // SAFETY: the place is aligned, large enough (see the assertions above) and nobody else's,
        // and every field is written. Other threads may read the atomic ones meanwhile, by a stale
        // handle or in a walk; zeroed memory and what an earlier job left are valid values of them.
        unsafe {
            (*job).owner.store(owner.0, Relaxed);
            (*job).wait_ctx.clear();
            (&raw mut (*job).lib_ctx).write(SavedLibCtx::unknown());
            (*job).state.set(State::Idle);
            (&raw mut (*job).switches).write(Cell::new(0));
            (&raw mut (*job).pause_blocks).write(Cell::new(0));
            (&raw mut (*job).fibre).write(Fibre::new());
            (&raw mut (*job).next_idle).write(Cell::new(None));
            (&raw mut (*job).epoch).write(epoch);
            (&raw mut (*job).most_args_on_stack)
                .write((frames_bytes / Self::ARGS_SHARE_OF_STACK).min(Self::MOST_ARGS_BYTES));
            (&raw mut (*job).orphan_seen_ms).write(Cell::new(0));
            (&raw mut (*job).is_wiped).write(env::options().wipe_stacks);
            (&raw mut (*job).heap_args).write(Cell::new(None));
            (&raw mut (*job).stack).write(stack);
            (*job).handle.store(handle, Release);
        }
        Self(place)
    }

    /// The job of this thread in this place, where a stack's owner is or was; None if there is none.
    pub fn of_thread(thread: ThreadId, place: usize) -> Option<Self> {
        let job = job_at(place)?;
        // SAFETY: as in `job_at`. Only its own thread destroys a job: it goes on to exist.
        let owner = unsafe { (*job.as_ptr()).owner.load(Relaxed) };
        (owner == thread.0).then_some(Self(job))
    }

    /// Ends an idle job that is in no pool: every handle of it is stale from now on. Nobody has
    /// another JobRef of it. Its stack is left.
    pub fn destroy(self) -> Stack {
        self.free_heap_args();
        let handle = self.handle.swap(0, Relaxed);
        // SAFETY: the job exists, and nobody uses it any more; the copy in its place is never
        // dropped.
        let Job { stack, fibre, .. } = unsafe { self.0.read() };
        drop(fibre);
        stack
            .generation()
            .store(Handle::generation(handle), Relaxed);
        stack
    }
}

/// The job in this place, where a stack's owner is or was; None if there is none. It may be gone
/// at any time, unless it is the calling thread's.
fn job_at(place: usize) -> Option<NonNull<Job>> {
    let job = NonNull::new(ptr::with_exposed_provenance_mut::<Job>(place))?;
    // SAFETY: the place is aligned, and can be read for ever; the field is atomic.
    let handle = unsafe { (*job.as_ptr()).handle.load(Acquire) };
    (handle & Handle::ADDRESS_MASK == place).then_some(job)
}

/// What any thread can see of a job. It may have changed since.
pub struct Sight {
    pub state: State,
    /// The job was started with a wait context, which has been freed.
    pub is_orphaned: bool,
}

impl Sight {
    /// Of the job in this place, where a stack's owner is or was; None if there is none.
    pub fn of(place: usize) -> Option<Self> {
        let job = job_at(place)?.as_ptr();
        // SAFETY: as in `job_at`; these fields are atomic, too.
        unsafe {
            Some(Self {
                state: (*job).state.get(),
                is_orphaned: (*job).wait_ctx.is_orphaned(),
            })
        }
    }
}

impl Job {
    /// The most bytes that stay allocated for the arguments of an idle job's next run.
    const KEPT_ARGS_BYTES: usize = 4096;

    /// The handle of this run.
    #[inline]
    pub fn handle(&self) -> Handle {
        Handle(ptr::without_provenance_mut(self.handle.load(Relaxed)))
    }

    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    #[inline]
    pub fn is_owned_by(&self, thread: ThreadId) -> bool {
        self.owner.load(Relaxed) == thread.0
    }

    /// Gives an idle job what it will run, with a copy of the arguments; returns where its frames
    /// begin, see [`Job::begin`].
    #[inline]
    pub fn prepare(&self, func: Func, args: Args) -> Result<Top, Error> {
        let mut top = self.stack.frames().end;
        let mut copy = ptr::null_mut();
        if args.bytes > 0 {
            if args.bytes > self.most_args_on_stack {
                copy = self.copy_to_heap(args)?.as_ptr();
            } else {
                let end = top;
                top = (end - args.bytes) & !15;
                copy = ptr::with_exposed_provenance_mut(top);
                self.stack
                    .allow_writing(top - Fibre::FIRST_FRAME_BYTES..end);
                // SAFETY: the stack is larger than this, and nothing of an idle job is on it.
                unsafe { args.copy_to(copy) };
            }
        }
        self.fibre.set_func(func, copy.cast());
        Ok(Top(top))
    }

    /// Runs a job that [`Job::prepare`] has made ready, until it pauses or ends.
    #[inline(always)]
    pub fn begin(&self, Top(top): Top) {
        let frames = self.stack.frames().start..top;
        // SAFETY: the stack is this job's, which is idle; what lies above `top` stays.
        unsafe { self.fibre.begin(frames, || self.stack.whole()) };
    }

    /// Larger arguments are copied to the heap. The memory stays for the next run, if it is not much.
    #[inline]
    fn copy_to_heap(&self, args: Args) -> Result<NonNull<u8>, Error> {
        let copy = match self.heap_args.get() {
            Some((kept, layout)) if layout.size() >= args.bytes => kept,
            _ => self.allocate_for(args.bytes)?,
        };
        // SAFETY: it was allocated for that many bytes.
        unsafe { args.copy_to(copy.as_ptr()) };
        Ok(copy)
    }

    #[cold]
    fn allocate_for(&self, bytes: usize) -> Result<NonNull<u8>, Error> {
        self.free_heap_args();
        let _guard = SyscallGuard::new();
        let layout = Layout::from_size_align(bytes, 16).ok();
        let heap_args = layout.and_then(|layout| {
            // SAFETY: there are more than 0 bytes.
            Some((NonNull::new(unsafe { alloc::alloc(layout) })?, layout))
        });
        self.heap_args.set(heap_args);
        heap_args.map(|(copy, _)| copy).ok_or(Error {
            reason: Reason::NoMemory,
            text: c"no memory for a copy of args; give the job a pointer instead, or free some",
        })
    }

    #[cold]
    fn free_heap_args(&self) {
        if let Some((copy, layout)) = self.heap_args.take() {
            let _guard = SyscallGuard::new();
            // SAFETY: `allocate_for` allocated it with this layout; nobody uses it any more.
            unsafe { alloc::dealloc(copy.as_ptr(), layout) };
        }
    }

    /// Makes a job that has ended idle. Its handle becomes stale first; who sees the next run's
    /// wait context sees that, too (by the Release in [`WeakWaitCtx::set`]).
    #[inline(always)]
    pub fn finish(&self) {
        self.handle
            .store(Handle::next(self.handle.load(Relaxed)), Relaxed);
        self.state.set(State::Idle);
        self.wait_ctx.clear();
        self.pause_blocks.set(0);
        self.orphan_seen_ms.set(0);
        if self.is_wiped {
            self.wipe();
        }
        if let Some((_, layout)) = self.heap_args.get()
            && !Self::may_keep_args(layout)
        {
            self.free_heap_args();
        }
    }

    /// (LeakSanitizer does not find it there.)
    #[inline]
    fn may_keep_args(layout: Layout) -> bool {
        layout.size() <= Self::KEPT_ARGS_BYTES && !sanitizer::is_present()
    }

    /// Writes zeros over what the run has left on the stack, and over the copy of the arguments.
    #[cold]
    fn wipe(&self) {
        self.stack.wipe();
        if let Some((copy, layout)) = self.heap_args.get() {
            // SAFETY: the copy has that many bytes, and the job that used it has ended.
            unsafe { libc::explicit_bzero(copy.as_ptr().cast(), layout.size()) };
        }
    }

    /// Gives back the pages of an idle job's stack, but for the one that the job is in.
    pub fn trim(&self) {
        self.free_heap_args();
        self.stack.trim_below(self.stack.frames().end);
        self.state.set(State::Trimmed);
    }

    /// Gives back the pages of a paused job's stack in which nothing is.
    pub fn trim_paused(&self) {
        let frames = self.stack.frames();
        // A job may have paused on another stack, a coroutine's.
        if let Some(lowest) = self.fibre.lowest_in_use().filter(|it| frames.contains(it)) {
            self.stack.trim_below(lowest);
        }
    }
}
