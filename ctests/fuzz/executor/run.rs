//! One run of a program: what its threads share, and how they take turns.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Condvar, Mutex};
use std::thread::{self, JoinHandle};

use super::calls;
use super::trace::Trace;
use crate::event::Event;
use crate::program::{CONTEXTS, Op, Step, THREADS, VARIABLES};

static RUN: Mutex<Option<Run>> = Mutex::new(None);
/// Notified when a thread has finished its step, or is about to end.
static TURN: Condvar = Condvar::new();

thread_local! {
    /// This thread's number in the program, and the number of its latest step.
    pub static THREAD: Cell<u8> = const { Cell::new(0) };
    pub static STEP: Cell<usize> = const { Cell::new(0) };
}

/// What all threads of a program share. It is locked only between calls of the library: a job may
/// be switched out of in any of these.
pub struct Run {
    steps: Vec<Step>,
    next_step: usize,
    trace: &'static Trace,
    /// The variables for job handles.
    pub job_vars: [usize; VARIABLES as usize],
    pub ctx_vars: [CtxVar; CONTEXTS as usize],
    /// The handle of each job, in the order of their starts.
    pub handles: Vec<usize>,
    /// The last job that each handle stood for.
    pub last_jobs: HashMap<usize, usize>,
    /// What each thread passes to the job that it is about to start.
    pub passed: [Option<Passed>; THREADS as usize],
    /// An upper bound of the number of descriptors in a context.
    pub most_fds: usize,
    threads: HashMap<u8, JoinHandle<()>>,
    /// The thread that is taking a step, until it asks for the next.
    busy: Option<u8>,
    /// The thread that is about to end.
    ending: Option<u8>,
}

#[derive(Clone, Copy, Default)]
pub struct CtxVar {
    pub address: usize,
    /// The context in it is not freed.
    pub live: bool,
}

/// The arguments that are passed to a job, and the step that passes them.
#[derive(Clone, Copy)]
pub struct Passed {
    pub step: usize,
    pub address: usize,
    pub size: usize,
}

pub fn with_run<R>(f: impl FnOnce(&mut Run) -> R) -> R {
    let mut run = RUN.lock().expect("a panic ends the process");
    f(run.as_mut().expect("a program runs"))
}

/// Runs a program in this thread and as many others as it needs.
pub fn run(steps: Vec<Step>, trace: &'static Trace) {
    let others = (1..THREADS).filter(|&thread| steps.iter().any(|step| step.thread == thread));
    let others = others.collect::<Vec<_>>();
    *RUN.lock().expect("no other thread has begun") = Some(Run {
        steps,
        next_step: 0,
        trace,
        job_vars: Default::default(),
        ctx_vars: Default::default(),
        handles: Vec::new(),
        last_jobs: HashMap::new(),
        passed: Default::default(),
        most_fds: 0,
        threads: HashMap::new(),
        busy: None,
        ending: None,
    });
    with_run(|run| {
        for other in others {
            let handle = thread::spawn(move || {
                THREAD.set(other);
                interpret(Where::OutsideJobs);
            });
            run.threads.insert(other, handle);
        }
    });
    interpret(Where::OutsideJobs);
    let handles = with_run(|run| std::mem::take(&mut run.threads));
    for handle in handles.into_values() {
        handle.join().expect("a panic ends the process");
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Where {
    InJob,
    OutsideJobs,
}

/// Takes steps until the job returns or the thread ends; returns the job's result.
pub fn interpret(place: Where) -> i32 {
    while let Some(op) = take_turn() {
        let step = STEP.get();
        match op {
            Op::Return(result) => {
                if place == Where::InJob {
                    return result;
                }
            }
            Op::EndThread => return 0,
            op => calls::call(step, op),
        }
        calls::emit_errors(step);
    }
    0
}

/// Waits until the next step is this thread's, and returns it; `None` at the program's end.
fn take_turn() -> Option<Op> {
    let this_thread = THREAD.get();
    let mut lock = RUN.lock().expect("a panic ends the process");
    let run = lock.as_mut().expect("a program runs");
    if run.busy == Some(this_thread) {
        run.busy = None;
        TURN.notify_all();
    }
    loop {
        let run = lock.as_mut().expect("a program runs");
        let step = run.steps.get(run.next_step)?;
        if step.thread == this_thread
            && let Some(handle) = run
                .ending
                .take()
                .and_then(|ending| run.threads.remove(&ending))
        {
            // Its thread-exit destructors must have run before the next step.
            drop(lock);
            handle.join().expect("a panic ends the process");
            lock = RUN.lock().expect("a panic ends the process");
            lock.as_mut().expect("a program runs").busy = None;
        } else if step.thread == this_thread && run.busy.is_none() {
            let op = step.op.clone();
            STEP.set(run.next_step);
            run.next_step += 1;
            run.busy = Some(this_thread);
            if op == Op::EndThread {
                run.ending = Some(this_thread);
                TURN.notify_all();
            }
            return Some(op);
        } else {
            lock = TURN.wait(lock).expect("a panic ends the process");
        }
    }
}

/// Appends an event of a step to the trace.
pub fn emit(step: usize, event: &Event) {
    with_run(|run| run.trace.push(&event.line(step)));
}
