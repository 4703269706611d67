//! Signal handlers that make the calls that they may make: one that a step raises, and on rsasync
//! one that a timer raises all the while, in any thread, at any instruction.

use std::ffi::c_int;
use std::mem;
use std::ptr;
use std::sync::atomic::{
    AtomicI32, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};

use harness::functions::{CallbackFn, Pointer};

use super::run::{emit, with_run};
use super::{calls, ctx_name, functions, job_name, pointer};
use crate::event::Event;

/// The signals: of a step, and of the timer.
const OF_STEP: c_int = libc::SIGUSR2;
const OF_TIMER: c_int = libc::SIGPROF;

// What the handler of a step is asked, and what it was told.
static HANDLE: AtomicUsize = AtomicUsize::new(0);
static CTX: AtomicUsize = AtomicUsize::new(0);
static STATUS: AtomicI32 = AtomicI32::new(0);
static CURRENT: AtomicUsize = AtomicUsize::new(0);
static WAIT_CTX: AtomicUsize = AtomicUsize::new(0);
static CALLBACK: AtomicI32 = AtomicI32::new(0);
static CALLED_WITH: AtomicUsize = AtomicUsize::new(0);

/// The handles of the first jobs of a program, which the timer's handler asks for their contexts,
/// long after they are stale.
static HANDLES: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; _];
static PUBLISHED: AtomicUsize = AtomicUsize::new(0);
/// A wait context for the timer's handler alone: those of the program may be freed meanwhile.
static CTX_OF_TIMER: AtomicUsize = AtomicUsize::new(0);

/// Notes the handle of a job that begins.
pub fn publish(handle: usize) {
    if let Some(place) = HANDLES.get(PUBLISHED.load(Relaxed)) {
        place.store(handle, Relaxed);
        PUBLISHED.fetch_add(1, Relaxed);
    }
}

/// Sets the handlers, and starts the timer.
pub fn begin() {
    const INTERVAL_NS: libc::c_long = 100_000;
    handle(OF_STEP, on_step);
    if !functions().is_rsasync {
        return;
    }
    let Some(callbacks) = &functions().callbacks else {
        return;
    };
    handle(OF_TIMER, on_timer);
    // SAFETY: the context is new; the timer's values are variables of this function.
    unsafe {
        let ctx = (functions().jobs.new)();
        (callbacks.set)(ctx, Some(callback_of_timer), ctx);
        CTX_OF_TIMER.store(ctx.expose_provenance(), SeqCst);
        let mut event: libc::sigevent = mem::zeroed();
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = OF_TIMER;
        let mut timer = ptr::null_mut();
        if libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) == 0 {
            let interval = libc::timespec {
                tv_sec: 0,
                tv_nsec: INTERVAL_NS,
            };
            let times = libc::itimerspec {
                it_interval: interval,
                it_value: interval,
            };
            libc::timer_settime(timer, 0, &times, ptr::null_mut());
        }
    }
}

fn handle(signal: c_int, handler: extern "C" fn(c_int)) {
    // SAFETY: a zeroed sigaction has an empty mask; the handlers call what a handler may call.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal, &action, ptr::null_mut());
    }
}

/// Raises a signal whose handler asks for what the step names.
pub fn in_handler(step: usize, var: u8, ctx: u8, status: i32) {
    HANDLE.store(calls::job_var(var).addr(), SeqCst);
    let ctx = with_run(|run| run.ctx_vars[usize::from(ctx)].address);
    CTX.store(ctx, SeqCst);
    STATUS.store(status, SeqCst);
    // SAFETY: `on_step` handles the signal, which is never blocked.
    unsafe { libc::raise(OF_STEP) };
    let code = CALLBACK.load(SeqCst);
    emit(
        step,
        &Event::Handler {
            current: job_name(pointer(CURRENT.load(SeqCst))),
            wait_ctx: ctx_name(pointer(WAIT_CTX.load(SeqCst))),
            callback: (code, (code == 1).then(|| CALLED_WITH.load(SeqCst))),
            status: STATUS.load(SeqCst),
        },
    );
}

extern "C" fn on_step(_signal: c_int) {
    let (jobs, Some(callbacks)) = (&functions().jobs, &functions().callbacks) else {
        return;
    };
    let ctx = pointer(CTX.load(SeqCst));
    let (mut callback, mut arg) = (None, ptr::null_mut());
    // SAFETY: the model has seen to it that the context exists; all handles may be asked for on
    // rsasync, and on libcrypto those that the model lets pass.
    unsafe {
        CURRENT.store((jobs.current_job)().addr(), SeqCst);
        let wait_ctx = (jobs.wait_ctx)(pointer(HANDLE.load(SeqCst)));
        WAIT_CTX.store(wait_ctx.addr(), SeqCst);
        CALLBACK.store((callbacks.get)(ctx, &mut callback, &mut arg), SeqCst);
        CALLED_WITH.store(arg.addr(), SeqCst);
        (callbacks.set_status)(ctx, STATUS.load(SeqCst));
        STATUS.store((callbacks.status)(ctx), SeqCst);
    }
}

extern "C" fn callback_of_timer(_arg: Pointer) -> c_int {
    0
}

const STATUS_OF_TIMER: c_int = 5;

/// Makes the calls; ends the process if an answer is impossible.
extern "C" fn on_timer(_signal: c_int) {
    let (jobs, Some(callbacks)) = (&functions().jobs, &functions().callbacks) else {
        return;
    };
    // SAFETY: errno belongs to this thread. The handles are of this library, and its context for
    // the timer is never freed.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        for handle in &HANDLES[..PUBLISHED.load(Relaxed)] {
            (jobs.wait_ctx)(pointer(handle.load(Relaxed)));
        }
        let current = (jobs.current_job)();
        (jobs.wait_ctx)(current);
        let ctx = pointer(CTX_OF_TIMER.load(SeqCst));
        let (mut callback, mut arg): (Option<CallbackFn>, _) = (None, ptr::null_mut());
        let code = (callbacks.get)(ctx, &mut callback, &mut arg);
        (callbacks.set_status)(ctx, STATUS_OF_TIMER);
        let status = (callbacks.status)(ctx);
        if code != 1
            || callback.is_none()
            || arg != ctx
            || status != STATUS_OF_TIMER
            || *errno != saved
        {
            libc::abort();
        }
    }
}
