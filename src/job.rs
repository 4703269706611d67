//! A job's life: made, started, paused, resumed, finished, and made to start again.
//!
//! A [`Job`] lies at the top of its own stack, followed downwards by the copy of the caller's
//! arguments, if it is small, and the first frames, so that a paused job that has not called
//! deep touches a single page:
//!
//! ```text
//!   bottom                                                            top
//!    |  ...  <-- frames of func | base | args | padding | Job |
//! ```

use std::alloc::{self, Layout};
use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::mem;
use std::ops::Deref;
use std::ptr::{self, NonNull};

use crate::default_context::Defaults;
use crate::error::{Error, Reason};
use crate::fibre::{Fibre, Func};
use crate::pool::Era;
use crate::stack::Stack;
use crate::thread::{Thread, ThreadId};
use crate::wait_ctx::{Attachment, WaitCtx};

/// The memory that a C caller wants copied.
#[derive(Clone, Copy)]
pub struct Args {
    start: *const u8,
    size: usize,
}

impl Args {
    /// # Safety
    /// `start` is NULL, or may be read for `size` bytes until the job is started.
    pub unsafe fn new(start: *const c_void, size: usize) -> Self {
        Self {
            start: start.cast(),
            size: if start.is_null() { 0 } else { size },
        }
    }

    /// # Safety
    /// `to` may be written for that size.
    #[inline]
    unsafe fn copy_to(self, to: NonNull<u8>) {
        // SAFETY: `new`'s promise and the caller's; nobody knew of the new place before.
        unsafe { ptr::copy_nonoverlapping(self.start, to.as_ptr(), self.size) };
    }
}

/// How a call that started or resumed a job ended.
pub enum Outcome {
    /// No job could be had, for this reason; it is no error, as it may be tried again.
    NoJobs(&'static CStr),
    Paused(JobRef),
    Finished(c_int),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a pool.
    Idle,
    /// Its thread is in it, or in a job that it started.
    Running,
    Paused,
}

#[repr(C, align(64))]
pub struct Job {
    // The first cache line, up to what the fibre has for sanitizers: what decides whether the
    // job may be resumed, and what the switch takes.
    owner: ThreadId,
    defaults: Defaults,
    state: Cell<State>,
    /// How many calls of `ASYNC_block_pause` are open.
    blocked: Cell<u32>,
    fibre: Fibre,
    // The second and third: what is needed less often.
    pub wait_ctx: Attachment,
    pub next_idle: Cell<Option<JobRef>>,
    era: Era,
    /// The copy of the arguments, if it is on the heap.
    heap_args: Cell<Option<(NonNull<u8>, Layout)>>,
    stack: Stack,
}

const _: () = assert!(mem::offset_of!(Job, fibre) + Fibre::HOT == 64);

/// A job that exists: in the pool of its thread, or started and not finished.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct JobRef(NonNull<Job>);

impl JobRef {
    /// # Safety
    /// `job` came from [`JobRef::as_ptr`], and the pool of its thread has not been freed while
    /// it was idle.
    pub unsafe fn from_ptr(job: NonNull<Job>) -> Self {
        Self(job)
    }

    pub fn as_ptr(self) -> *mut Job {
        self.0.as_ptr()
    }
}

impl Deref for JobRef {
    type Target = Job;

    #[inline]
    fn deref(&self) -> &Job {
        // SAFETY: it exists; that is what a JobRef means. It is never borrowed mutably.
        unsafe { self.0.as_ref() }
    }
}

/// Starts a job that runs `func` on a copy of `args`.
#[inline]
pub fn start(
    thread: &Thread,
    wait_ctx: Option<&'static WaitCtx>,
    func: Func,
    args: Args,
) -> Result<Outcome, Error> {
    let job = match thread.pool.take() {
        Some(job) => job,
        None => match make_for_pool(thread) {
            Ok(job) => job,
            Err(why) => return Ok(Outcome::NoJobs(why)),
        },
    };
    if let Err(error) = job.prepare(func, args) {
        retire(thread, job);
        return Err(error);
    }
    job.wait_ctx.attach(wait_ctx);
    let callers = Defaults::of_thread();
    Ok(run(thread, job, callers))
}

/// Resumes a paused one.
#[inline]
pub fn resume(thread: &Thread, job: JobRef) -> Result<Outcome, Error> {
    if job.owner != thread.id() || job.state.get() != State::Paused {
        return Err(job.why_not_resumed(thread));
    }
    let callers = job.defaults.exchange_with_thread();
    Ok(run(thread, job, callers))
}

/// Goes into the job until it pauses or ends.
#[inline(always)]
fn run(thread: &Thread, job: JobRef, callers: Defaults) -> Outcome {
    job.state.set(State::Running);
    let starter = thread.current.replace(Some(job));
    // SAFETY: the far side is the job's, on its own stack, and the job is this thread's.
    unsafe { job.fibre.switch() };
    thread.current.set(starter);
    job.defaults.take_from_thread(callers);
    let Some(result) = job.fibre.take_result() else {
        job.state.set(State::Paused);
        return Outcome::Paused(job);
    };
    job.finish();
    retire(thread, job);
    Outcome::Finished(result)
}

/// An idle job goes to the pool, as long as that is emptied some time.
#[inline(always)]
fn retire(thread: &Thread, job: JobRef) {
    if thread.is_ending() {
        drop(dismantle(thread, job));
    } else {
        thread.pool.put(job);
    }
}

/// Pauses the current job; returns once it has been resumed. Does nothing outside a job.
#[inline]
pub fn pause(thread: &Thread) {
    let Some(job) = thread.current.get() else {
        return;
    };
    if job.blocked.get() > 0 {
        return;
    }
    // SAFETY: the job runs, so the far side is its dispatcher, which waits on this thread.
    unsafe { job.fibre.switch() };
    job.wait_ctx.clear_marks();
}

/// Keeps the current job from pausing, once more.
pub fn block_pause(thread: &Thread) {
    if let Some(job) = thread.current.get() {
        job.blocked.set(job.blocked.get().saturating_add(1));
    }
}

/// Takes that back, once.
pub fn unblock_pause(thread: &Thread) {
    if let Some(job) = thread.current.get() {
        job.blocked.set(job.blocked.get().saturating_sub(1));
    }
}

impl Job {
    /// The largest copy of arguments that lies on the job's stack.
    fn room_for_args(&self) -> usize {
        (self.stack.size() / 32).min(1024)
    }

    /// Makes an idle job ready for its first switch.
    #[inline]
    fn prepare(&self, func: Func, args: Args) -> Result<(), Error> {
        let mut top = NonNull::from(self).cast::<u8>();
        let mut copy = ptr::null_mut();
        if args.size > self.room_for_args() {
            copy = self.copy_to_heap(args)?.as_ptr();
        } else if args.size > 0 {
            // SAFETY: the stack is larger than this, and an idle job has nothing on it.
            unsafe {
                let job = top;
                top = top.sub(args.size.next_multiple_of(16));
                self.stack.allow_writing(top.sub(Fibre::FRAME), job);
                args.copy_to(top);
            }
            copy = top.as_ptr();
        }
        // SAFETY: the stack is this job's, which is idle; what lies above `top` stays.
        unsafe {
            let bottom = self.stack.bottom();
            let end = bottom.add(self.stack.size());
            self.fibre.prepare(bottom, top, end, func, copy.cast())
        };
        Ok(())
    }

    #[cold]
    fn copy_to_heap(&self, args: Args) -> Result<NonNull<u8>, Error> {
        let layout = Layout::from_size_align(args.size, 16).ok();
        let heap_args = layout.and_then(|layout| {
            // SAFETY: the size is not 0.
            Some((NonNull::new(unsafe { alloc::alloc(layout) })?, layout))
        });
        let (copy, _) = heap_args.ok_or(Error {
            reason: Reason::NoMemory,
            text: c"no memory for a copy of args; give the job a pointer instead, or free some",
        })?;
        // SAFETY: it was allocated for that.
        unsafe { args.copy_to(copy) };
        self.heap_args.set(heap_args);
        Ok(copy)
    }

    /// Leaves nothing of the job that has ended.
    #[inline]
    fn finish(&self) {
        self.state.set(State::Idle);
        self.wait_ctx.detach();
        self.blocked.set(0);
        if self.heap_args.get().is_some() {
            self.free_heap_args();
        }
    }

    #[cold]
    fn free_heap_args(&self) {
        if let Some((copy, layout)) = self.heap_args.take() {
            // SAFETY: `copy_to_heap` allocated it so.
            unsafe { alloc::dealloc(copy.as_ptr(), layout) };
        }
    }

    /// Leaves an idle job's stack nothing but the page that the job is in.
    pub fn make_shallow(&self) {
        self.stack.discard_below(NonNull::from(self).cast());
    }

    #[cold]
    fn why_not_resumed(&self, thread: &Thread) -> Error {
        let text = if self.owner != thread.id() {
            c"this job belongs to another thread; resume it on the thread that started it"
        } else if self.state.get() == State::Running {
            c"this job is running, or waits for one that it started; only a paused job can be resumed"
        } else {
            c"this job has finished; set *job to NULL to start a new one"
        };
        Error {
            reason: Reason::ShouldNotHaveBeenCalled,
            text,
        }
    }
}

/// A job for a pool that has no idle one, or why there can't be one.
#[cold]
fn make_for_pool(thread: &Thread) -> Result<JobRef, &'static CStr> {
    if thread.pool.is_at_limit() {
        return Err(c"the thread has as many jobs as ASYNC_init_thread allowed; let one finish, then try again");
    }
    make(thread).ok_or(c"no memory for another stack; let a job finish, then try again")
}

/// A new job, idle and in no pool.
fn make(thread: &Thread) -> Option<JobRef> {
    let stack = Stack::new()?;
    let top = stack
        .bottom()
        .as_ptr()
        .map_addr(|bottom| bottom + stack.size());
    let place = top.map_addr(|top| (top - mem::size_of::<Job>()) & !(mem::align_of::<Job>() - 1));
    let place = NonNull::new(place)?.cast::<Job>();
    let job = Job {
        owner: thread.id(),
        defaults: Defaults::unknown(),
        state: Cell::new(State::Idle),
        blocked: Cell::new(0),
        fibre: Fibre::new(),
        wait_ctx: Attachment::none(),
        next_idle: Cell::new(None),
        era: thread.pool.era(),
        heap_args: Cell::new(None),
        stack,
    };
    // SAFETY: aligned, inside the stack's memory, which is larger and nobody else's.
    unsafe { place.write(job) };
    thread.count_job();
    thread.pool.count_made();
    Some(JobRef(place))
}

/// Gives the thread a new limit, 0 for none, and so many idle jobs, or fewer if memory ends.
pub fn init_thread(thread: &Thread, limit: usize, idle: usize) -> Result<(), Error> {
    if idle > limit {
        let text =
            c"init_size is above max_size; give a larger max_size (0 allows no job to begin with)";
        return Err(Error {
            reason: Reason::InvalidPoolSize,
            text,
        });
    }
    free_idle(thread);
    thread.pool.set_limit(limit);
    let idle = if thread.is_ending() { 0 } else { idle };
    for job in (0..idle).map_while(|_| make(thread)) {
        thread.pool.put(job);
    }
    Ok(())
}

/// Frees all idle jobs of the thread, with their stacks.
pub fn free_idle(thread: &Thread) {
    while let Some(job) = thread.pool.take() {
        drop(dismantle(thread, job));
    }
}

/// The same; says how many bytes of memory went back.
pub fn trim(thread: &Thread) -> usize {
    let mut bytes = 0;
    while let Some(job) = thread.pool.take() {
        bytes += dismantle(thread, job).give_back();
    }
    bytes
}

/// Takes a job apart that is idle and in no pool: nobody may use it any more. Its stack is left.
#[cold]
fn dismantle(thread: &Thread, job: JobRef) -> Stack {
    thread.uncount_job();
    thread.pool.uncount_made(job.era);
    // SAFETY: the job is moved out of its stack before that is freed.
    let Job { stack, .. } = unsafe { job.0.read() };
    stack
}
