//! Steps that use jobs outside of the program's own threads: in children of several threads that
//! fork at once, and in constructors and destructors of a plug-in.

use std::ffi::{CString, c_int};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use std::thread;

use harness::functions::Pointer;

use super::{emit_code, functions, pointer};
use crate::event::{FINISH, PAUSE};
use crate::program::FORKS;

const RESULT: c_int = 9;

extern "C" fn pauses_once(_args: Pointer) -> c_int {
    // SAFETY: the call has no conditions.
    unsafe { (functions().jobs.pause_job)() };
    RESULT
}

extern "C" fn returns(_args: Pointer) -> c_int {
    RESULT
}

/// A job at its pause, and its wait context; `None` if a call does not do what it must.
fn paused_job() -> Option<(Pointer, Pointer)> {
    const FD: c_int = 7;
    let jobs = &functions().jobs;
    let (mut handle, mut result) = (ptr::null_mut(), 0);
    // SAFETY: the context is new, outputs are variables of this function.
    unsafe {
        let ctx = (jobs.new)();
        let key = pointer(1);
        let is_set = (jobs.set_wait_fd)(ctx, key, FD, ptr::null_mut(), None) == 1;
        let job = Some(pauses_once as _);
        let args = ptr::null_mut();
        let code = (jobs.start_job)(&mut handle, ctx, &mut result, job, args, 0);
        let is_paused = code == PAUSE && (jobs.wait_ctx)(handle) == ctx;
        (is_set && is_paused).then_some((handle, ctx))
    }
}

/// Resumes the job to its end, and frees the context; says whether all did what it must.
fn finish((mut handle, ctx): (Pointer, Pointer)) -> bool {
    let jobs = &functions().jobs;
    let (mut result, mut count) = (0, 0);
    // SAFETY: the job is paused, on this thread; outputs are variables of this function.
    unsafe {
        let null = ptr::null_mut();
        let code = (jobs.start_job)(&mut handle, null, &mut result, None, null, 0);
        let is_counted = (jobs.all_fds)(ctx, ptr::null_mut(), &mut count) == 1 && count == 1;
        (jobs.free)(ctx);
        code == FINISH && result == RESULT && is_counted
    }
}

fn run_a_job() -> bool {
    paused_job().is_some_and(finish)
}

/// Two threads fork again and again, each with a paused job, while a third one uses jobs. Returns in
/// how many children the paused job was finished, and another one run.
pub fn fork_at_once() -> i32 {
    const FORKERS: i32 = 2;
    static IS_BUSY: AtomicBool = AtomicBool::new(false);
    let fork_all = || {
        let Some(job) = paused_job() else { return 0 };
        let right = (0..FORKS / FORKERS).filter(|_| is_right_in_a_child(job));
        right.count() as i32 * i32::from(finish(job))
    };
    IS_BUSY.store(true, SeqCst);
    thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let mut right = true;
            while IS_BUSY.load(SeqCst) {
                right &= run_a_job();
            }
            right
        });
        let forkers: Vec<_> = (0..FORKERS).map(|_| scope.spawn(fork_all)).collect();
        let children: i32 = forkers.into_iter().map(|it| it.join().unwrap_or(0)).sum();
        IS_BUSY.store(false, SeqCst);
        children * i32::from(busy.join().unwrap_or(false))
    })
}

fn is_right_in_a_child(job: (Pointer, Pointer)) -> bool {
    const TIME_LIMIT_SECONDS: u32 = 3;
    // SAFETY: the child calls the library only, which allows it.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::alarm(TIME_LIMIT_SECONDS);
            let is_right = finish(job) && run_a_job();
            libc::_exit(i32::from(!is_right));
        }
        let mut status = -1;
        libc::waitpid(child, &mut status, 0) == child && status == 0
    }
}

/// Tells the plug-in what to call. The process has a single thread.
pub fn announce_plug_in() {
    let address = (on_plug_in as *const ()).addr().to_string();
    // SAFETY: no other thread reads the environment.
    unsafe { std::env::set_var("FUZZ_PLUG_IN", address) };
}

/// What a constructor or destructor has seen: the code of its own job's start, and whether a
/// thread of its own could run a job.
static CODE: AtomicI32 = AtomicI32::new(0);
static THREADS: AtomicI32 = AtomicI32::new(0);

/// Loads the plug-in and unloads it again.
pub fn load_plug_in(step: usize) {
    let path = CString::new(concat!(env!("OUT_DIR"), "/plug_in.so")).expect("a path has no NUL");
    let emit = || {
        emit_code(step, CODE.swap(-1, SeqCst));
        emit_code(step, THREADS.swap(-1, SeqCst));
    };
    // SAFETY: its constructor and destructor call `on_plug_in`.
    unsafe {
        let plug_in = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
        emit();
        if !plug_in.is_null() {
            libc::dlclose(plug_in);
        }
        emit();
    }
}

/// Runs in the constructor and the destructor, while the loader is locked. A thread of the standard
/// library would wait for the loader when it ends, so this one is a plain one.
extern "C" fn on_plug_in() {
    extern "C" fn run(_arg: Pointer) -> Pointer {
        pointer(run_a_job().into())
    }
    let (mut handle, mut result) = (ptr::null_mut(), 0);
    // SAFETY: outputs are variables of this function.
    unsafe {
        let null = ptr::null_mut();
        let job = Some(returns as _);
        let code = (functions().jobs.start_job)(&mut handle, null, &mut result, job, null, 0);
        CODE.store(code, SeqCst);
        let (mut thread, mut right) = (0, ptr::null_mut());
        if libc::pthread_create(&mut thread, ptr::null(), run, null) == 0 {
            libc::pthread_join(thread, &mut right);
        }
        THREADS.store(right.addr() as i32, SeqCst);
    }
}
