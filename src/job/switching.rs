//! Start, resume, pause, finish: the fast path, from a C function's first line to the jump.
//!
//! ```text
//!   start   a job from the pool | prepare: args              | switch_in
//!   resume  the handle's job | marks cleared                 | switch_in
//!   switch_in  current = job | switch ...          ... switched back | paused, or finish: pool
//!   pause                        ... | switch back ... resumed
//! ```

use std::ffi::c_int;

use crate::error::{Error, NoJob, Reason};
use crate::fibre::fibre::Func;
use crate::job::job::{Args, Handle, Job, JobRef, State};
use crate::job::pool::Due;
use crate::job::thread::Thread;
use crate::openssl::default_context::SavedLibCtx;
use crate::openssl::discover;
use crate::sys::probes::probe;
use crate::wait_ctx::wait_ctx::WaitCtx;

/// How a call that started or resumed a job ended.
pub enum Outcome {
    /// No job could be had, for this reason. It is no error: it may be tried again.
    NoJobs(NoJob),
    Paused(Handle),
    Finished(c_int),
}

/// A probe with the handle of a job, its wait context and its function.
macro_rules! probe_job {
    ($name:literal, $job:expr) => {
        probe!($name, [&raw const *$job; Job::LAYOUT.handle, Job::LAYOUT.wait_ctx, Job::LAYOUT.func])
    };
}

/// Starts a job that runs `func` on a copy of `args`.
#[inline]
pub fn start(
    thread: &Thread,
    wait_ctx: Option<&'static WaitCtx>,
    func: Func,
    args: Args,
) -> Result<Outcome, Error> {
    let job = match thread.pool.pop() {
        Some(job) => job,
        None => match make(thread) {
            Ok(job) => job,
            Err(why) => return Ok(Outcome::NoJobs(why)),
        },
    };
    let top = match job.prepare(func, args) {
        Ok(top) => top,
        Err(error) => {
            release(thread, job);
            return Err(error);
        }
    };
    job.wait_ctx.set(wait_ctx);
    thread.count(|counts| &counts.starts);
    probe_job!("start", job);
    discover_if_due();
    let callers = SavedLibCtx::of_thread();
    Ok(switch_in(thread, job, callers, || job.begin(top)))
}

/// Resumes a paused job.
#[inline]
pub fn resume(thread: &Thread, handle: Handle) -> Result<Outcome, Error> {
    discover_if_due(); // it may run jobs, which may end this one
    let is_resumable =
        |job: &JobRef| job.is_owned_by(thread.id()) && job.state.get() == State::Paused;
    let Some(job) = handle.job().filter(is_resumable) else {
        return Err(why_not_resumed(thread, handle));
    };
    thread.count(|counts| &counts.resumes);
    probe_job!("resume", job);
    if let Some(ctx) = job.wait_ctx.get() {
        ctx.clear_marks();
    }
    let callers = job.lib_ctx.swap_with_thread();
    // SAFETY: the job is suspended on its own stack, which exists, and belongs to this thread.
    let go_on = || unsafe { job.fibre.switch() };
    Ok(switch_in(thread, job, callers, go_on))
}

/// Runs the job until it pauses or ends. `callers` is the thread's default library context
/// outside the job.
#[inline(always)]
fn switch_in(thread: &Thread, job: JobRef, callers: SavedLibCtx, switch: impl FnOnce()) -> Outcome {
    job.state.set(State::Running);
    job.switches.set(job.switches.get().wrapping_add(1));
    let starter = thread.current.replace(Some(job));
    switch();
    thread.current.set(starter);
    discover_if_due();
    job.lib_ctx.save_and_restore(callers);
    let Some(result) = job.fibre.take_result() else {
        job.state.set(State::Paused);
        thread.count(|counts| &counts.pauses);
        return Outcome::Paused(job.handle());
    };
    probe_job!("finish", job);
    job.finish();
    thread.count(|counts| &counts.finishes);
    release(thread, job);
    Outcome::Finished(result)
}

/// Pauses the current job; returns once it is resumed. Does nothing outside a job.
#[inline]
pub fn pause(thread: &Thread) {
    let Some(job) = thread.current.get() else {
        return;
    };
    if job.pause_blocks.get() > 0 {
        return;
    }
    probe_job!("pause", job);
    // SAFETY: the job runs, so its dispatcher is suspended, on this thread.
    unsafe { job.fibre.switch() };
}

/// Puts an idle job into the pool.
#[inline(always)]
fn release(thread: &Thread, job: JobRef) {
    match thread.pool.push(job) {
        Due::Nothing => {}
        due => house_keeping(thread, due),
    }
}

/// Looks for libcryptos if the loader has loaded something. The job itself may have done so.
#[inline(always)]
fn discover_if_due() {
    if discover::new_objects_possible() {
        discover::discover();
    }
}

/// A new job. A thread whose jobs never finish, because their clients go away, comes here only: so
/// this looks for orphans, too, and one whose time has come makes room under the thread's limit.
#[cold]
fn make(thread: &Thread) -> Result<JobRef, NoJob> {
    thread.orphans.begin_pass();
    thread.orphans.step(thread.id(), &thread.pool);
    thread.pool.make(thread.id())
}

#[cold]
fn house_keeping(thread: &Thread, due: Due) {
    if matches!(due, Due::Period) {
        discover::poll(); // it may run jobs, so nothing of the pool is in hand
        thread.orphans.begin_pass();
    }
    thread.pool.reclaim(due);
    thread.orphans.step(thread.id(), &thread.pool);
}

#[cold]
fn why_not_resumed(thread: &Thread, handle: Handle) -> Error {
    let text = match handle.job() {
        None => c"this job has finished; set *job to NULL to start a new one",
        Some(job) if !job.is_owned_by(thread.id()) => {
            c"this job belongs to another thread; resume it on the thread that started it"
        }
        Some(_) => {
            c"this job is running, or waits for one that it started; only a paused job can be resumed"
        }
    };
    Error {
        reason: Reason::ShouldNotHaveBeenCalled,
        text,
    }
}

/// Keeps the current job from pausing, once more.
pub fn block_pause(thread: &Thread) {
    if let Some(job) = thread.current.get() {
        job.pause_blocks
            .set(job.pause_blocks.get().saturating_add(1));
    }
}

/// Takes that back, once.
pub fn unblock_pause(thread: &Thread) {
    if let Some(job) = thread.current.get() {
        job.pause_blocks
            .set(job.pause_blocks.get().saturating_sub(1));
    }
}
