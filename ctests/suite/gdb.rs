//! gdb's backtraces in jobs: right frames, and an end where the job's stack begins.

use std::path::Path;
use std::process::Command;

use libtest_mimic::{Failed, Trial};

use harness::stage::{BuiltOnce, build_program, command, stdout_of};

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("gdb::backtraces_in_jobs_end", backtraces_end)]
}

/// Stops in jobs that have just started and in resumed ones, outside of and inside another job, and
/// in a function of the library that a job calls.
fn backtraces_end() -> Result<(), Failed> {
    let mut gdb = gdb();
    for breakpoint in ["stop_here", "ASYNC_block_pause"] {
        gdb.args(["-ex", &format!("break {breakpoint}")]);
    }
    gdb.args(["-ex", "run"]);
    for _ in 0..STOPS {
        gdb.args(["-ex", "bt", "-ex", "continue"]);
    }
    let said = stdout_of(gdb.arg("--args").arg(program()?).arg("backtraces"))?;
    let check = || {
        if !said.contains("exited normally") {
            return Err("the program did not end normally".to_owned());
        }
        for nonsense in ["??", "Backtrace stopped", "corrupt", "Cannot access memory"] {
            if said.contains(nonsense) {
                return Err(format!("\"{nonsense}\""));
            }
        }
        let frames: Vec<_> = said.lines().filter_map(function_of_frame).collect();
        let backtraces: Vec<_> = frames.chunk_by(|_, next| !is_innermost(next)).collect();
        if backtraces.len() != STOPS {
            return Err(format!("{} backtraces, not {STOPS}", backtraces.len()));
        }
        backtraces.into_iter().try_for_each(check_backtrace)
    };
    check().map_err(|what| format!("{what} in\n{said}").into())
}

/// gdb without its user's settings, and without a terminal.
pub fn gdb() -> Command {
    let mut gdb = command("gdb", 120);
    gdb.args(["-nx", "-batch"]);
    for setting in [
        "startup-with-shell off",
        "debuginfod enabled off",
        "width 0",
    ] {
        gdb.args(["-iex", &format!("set {setting}")]);
    }
    gdb
}

/// programs/backtraces.c, built.
pub fn program() -> Result<&'static Path, Failed> {
    static PROGRAM: BuiltOnce = BuiltOnce::new();
    PROGRAM.get_or_build(|| build_program("backtraces", &[]))
}

/// The number of breakpoints that programs/backtraces.c reaches.
const STOPS: usize = 6;

/// The function that a line of a backtrace names: `#1  0x0000555555555540 in middle (value=5) at ...`
pub fn function_of_frame(line: &str) -> Option<&str> {
    let (_, frame) = line.strip_prefix('#')?.split_once(' ')?;
    let frame = frame.split_once(" in ").map_or(frame, |(_, rest)| rest);
    frame.split_whitespace().next()
}

fn is_innermost(function: &str) -> bool {
    ["stop_here", "ASYNC_block_pause"].contains(&function)
}

/// The job's frames, the library's trampoline, and then the end or the frames of the resumer.
fn check_backtrace(functions: &[&str]) -> Result<(), String> {
    let ends_well = match functions {
        [_, "middle", "job_func", rest @ ..] => match rest {
            [] => true,
            [base] => base.starts_with("rsasync::fibre::fibre::trampoline"),
            [base, "ASYNC_start_job", .., "main"] => {
                base.starts_with("rsasync::fibre::fibre::trampoline")
            }
            _ => false,
        },
        _ => false,
    };
    if ends_well {
        Ok(())
    } else {
        Err(format!("{functions:?}"))
    }
}
