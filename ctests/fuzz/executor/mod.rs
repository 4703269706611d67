//! Runs programs on one library. The executor is a process of its own, and runs each program in a
//! fork of itself: a program starts with a library that was never used, and a crash is an event
//! like others.
//!
//! Reads programs in the form of text.rs from standard input. The first answer is a line with the
//! features of the libcrypto, or why a library can't be loaded; then each program is answered with
//! its trace and a line with a dot.

mod calls;
mod handlers;
mod others;
mod run;
mod thread_state;
mod trace;
mod wait_ctxs;

use std::io::{self, BufRead, Write};
use std::path::Path;
use std::sync::OnceLock;

use harness::functions::Pointer;

use crate::event::{Ctx, Event, Job};
use crate::library::Functions;
use crate::program::Step;
use crate::text;
use run::{emit, with_run};
use trace::Trace;

/// A program that runs longer hangs, and is ended by SIGALRM.
const TIME_LIMIT_SECONDS: u32 = 5;

static FUNCTIONS: OnceLock<Functions> = OnceLock::new();

fn functions() -> &'static Functions {
    FUNCTIONS.get().expect("they are found before any program")
}

/// The main function of an executor.
pub fn serve(library: &Path, libcrypto: &Path) -> Result<(), String> {
    let loaded = Functions::load(library, libcrypto);
    let features = loaded.as_ref().map(|functions| &functions.features);
    let features = ron::to_string(&features).expect("it is plain data");
    let mut answers = io::stdout().lock();
    let mut answer = |text: &str| {
        answers
            .write_all(text.as_bytes())
            .and_then(|()| answers.flush())
    };
    answer(&format!("{features}\n")).map_err(|error| error.to_string())?;
    let Ok(functions) = loaded else {
        return Ok(()); // the answer has said why
    };
    assert!(FUNCTIONS.set(functions).is_ok());
    others::announce_plug_in();
    let trace = Trace::new();
    let mut lines = String::new();
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|error| error.to_string())?;
        lines += &line;
        lines += "\n";
        if text::is_end(&line) {
            for steps in text::programs_in(&lines)? {
                let crash = run_in_fork(steps, trace);
                answer(&format!("{}{crash}.\n", trace.take()))
                    .map_err(|error| error.to_string())?;
            }
            lines.clear();
        }
    }
    Ok(())
}

/// Runs a program; returns a line that says how the process ended, unless it ended well.
fn run_in_fork(steps: Vec<Step>, trace: &'static Trace) -> String {
    // SAFETY: this process has only one thread, so that the child may call any function.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "can't fork: {}", io::Error::last_os_error());
    if child == 0 {
        std::panic::set_hook(Box::new(|panic| {
            eprintln!("{panic}");
            std::process::abort();
        }));
        // SAFETY: alarm has no conditions.
        unsafe { libc::alarm(TIME_LIMIT_SECONDS) };
        handlers::begin();
        run::run(steps, trace);
        // SAFETY: _exit has no conditions; it skips destructors, which belong to the parent.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: the child is this process's own, and the status is written to a variable.
    unsafe { libc::waitpid(child, &mut status, 0) };
    if libc::WIFSIGNALED(status) {
        match libc::WTERMSIG(status) {
            libc::SIGALRM => "it hung\n".to_owned(),
            signal => format!("it was ended by signal {signal}\n"),
        }
    } else if libc::WEXITSTATUS(status) != 0 {
        format!("it ended with status {}\n", libc::WEXITSTATUS(status))
    } else {
        String::new()
    }
}

// What the calls of jobs and those of wait contexts share.

fn emit_code(step: usize, code: i32) {
    emit(step, &Event::Code(code));
}

/// The job that a handle stands for.
fn job_name(handle: Pointer) -> Job {
    match handle.addr() {
        0 => Job::None,
        handle => with_run(|run| {
            run.last_jobs
                .get(&handle)
                .map_or(Job::Unknown, |&job| Job::J(job))
        }),
    }
}

/// The variable of a wait context.
fn ctx_name(ctx: Pointer) -> Ctx {
    if ctx.is_null() {
        return Ctx::None;
    }
    with_run(|run| {
        let mut vars = run.ctx_vars.iter();
        let var = vars.position(|var| var.live && var.address == ctx.addr());
        var.map_or(Ctx::Unknown, |var| Ctx::C(var as u8))
    })
}

/// A pointer that a library returned, kept as a number.
fn pointer(address: usize) -> Pointer {
    std::ptr::with_exposed_provenance_mut(address)
}

/// The address of an output, or NULL.
fn null_if<T>(null: bool, output: &mut T) -> *mut T {
    if null { std::ptr::null_mut() } else { output }
}
