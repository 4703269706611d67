//! Debuggers and valgrind know a job's stack: backtraces in gdb end where the job does, and
//! valgrind takes no switch for a jump of the stack pointer.

use std::path::PathBuf;

use libtest_mimic::{Failed, Trial};

use harness::stage::{BUILT, ROOT, command, compiler, headers, library_path, output_of, stdout_of};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("gdb::backtraces_in_jobs_end", backtraces_end),
        Trial::test("valgrind::switches_of_many_jobs", || {
            no_warnings("guarded_stacks")
        }),
        Trial::test("valgrind::switches_between_stacks_of_the_programs", || {
            no_warnings("stacks_of_the_programs_own")
        }),
    ]
}

fn build(name: &str) -> Result<PathBuf, Failed> {
    let program = BUILT.join(name);
    let source = ROOT.join("ctests/programs").join(name).with_extension("c");
    let mut compiler = compiler(&source);
    compiler.arg("-I").arg(headers()).arg(library_path());
    output_of(compiler.arg("-lrsasync").arg("-o").arg(&program))?;
    Ok(program)
}

// ---- gdb -----------------------------------------------------------------------------

/// Stops in a job that is fresh, and resumed, both outside and inside of another job; at last
/// also in a function of the library that it calls.
fn backtraces_end() -> Result<(), Failed> {
    let mut gdb = command("gdb", 120);
    gdb.args(["-nx", "-batch"]);
    for setting in ["startup-with-shell off", "debuginfod enabled off"] {
        gdb.args(["-iex", &format!("set {setting}")]);
    }
    for breakpoint in ["stop_here", "ASYNC_block_pause"] {
        gdb.args(["-ex", &format!("break {breakpoint}")]);
    }
    gdb.args(["-ex", "run"]);
    for _ in 0..STOPS {
        gdb.args(["-ex", "bt", "-ex", "continue"]);
    }
    let said = stdout_of(
        gdb.arg("--args")
            .arg(build("backtraces")?)
            .arg("backtraces"),
    )?;
    let check = || {
        if !said.contains("exited normally") {
            return Err("the program did not come to its end".to_owned());
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

/// How often programs/backtraces.c comes to a breakpoint.
const STOPS: usize = 6;

/// What a line of a backtrace says: `#1  0x0000555555555540 in middle (value=5) at ...`
fn function_of_frame(line: &str) -> Option<&str> {
    let (_, frame) = line.strip_prefix('#')?.split_once(' ')?;
    let frame = frame.split_once(" in ").map_or(frame, |(_, rest)| rest);
    frame.split_whitespace().next()
}

fn is_innermost(function: &str) -> bool {
    ["stop_here", "ASYNC_block_pause"].contains(&function)
}

/// The job's frames, then the library's, and then the end or those that resumed it.
fn check_backtrace(functions: &[&str]) -> Result<(), String> {
    let ends_well = match functions {
        [_, "middle", "job_func", rest @ ..] => match rest {
            [] => true,
            [base] => base.starts_with("rsasync::fibre::base"),
            [base, "ASYNC_start_job", .., "main"] => base.starts_with("rsasync::fibre::base"),
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

// ---- valgrind ------------------------------------------------------------------------

fn no_warnings(case: &str) -> Result<(), Failed> {
    let mut valgrind = command("valgrind", 300);
    let output = output_of(valgrind.arg(build("crowd")?).arg(case))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("Warning:") || !said.contains("ERROR SUMMARY: 0 errors") {
        return Err(said.into_owned().into());
    }
    Ok(())
}
