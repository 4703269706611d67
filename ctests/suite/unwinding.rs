//! Unwinding at any instruction, besides the chapter `unwinding`: gdb's backtraces at each
//! instruction of switches, and a library with frame pointers, as some distributions build all.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};

use harness::chapters::Program;
use harness::check::expect;
use harness::stage::{BuiltOnce, command, shared_library, stdout_of};

use crate::gdb;
use crate::plain_switch::{build_library, trials_on};

/// The chapters that are about frames.
const CHAPTERS: [&str; 3] = ["exceptions", "frames", "unwinding"];

pub fn trials(programs: &[Arc<Program>]) -> Vec<Trial> {
    let is_run = |program: &&Arc<Program>| {
        program.is_alone() && CHAPTERS.contains(&program.chapter().as_str())
    };
    let programs = programs.iter().filter(is_run);
    let mut trials: Vec<_> = programs
        .flat_map(|program| trials_on("frame_pointers", library_with_frame_pointers, program))
        .collect();
    if cfg!(target_arch = "x86_64") {
        let name = "gdb::backtraces_at_each_instruction_of_switches";
        trials.push(Trial::test(name, backtraces_at_each_instruction));
    }
    trials
}

fn library_with_frame_pointers() -> Result<&'static Path, Failed> {
    static LIBRARY: BuiltOnce = BuiltOnce::new();
    LIBRARY.get_or_build(|| {
        build_library("frame-pointers", |cargo: &mut Command| {
            cargo.env("RUSTFLAGS", "-C force-frame-pointers=yes");
        })
    })
}

/// Stops before each switch that programs/backtraces.c comes to, and goes on from
/// there instruction by instruction to the other side. All frames have names, and the outermost
/// ones are `main`, a job's trampoline, or the crate's two functions.
fn backtraces_at_each_instruction() -> Result<(), Failed> {
    const INSTRUCTIONS: usize = 30;
    const LEAST_BACKTRACES: usize = 300;
    let mut script = String::from("set pagination off\nbreak main\nrun\ndelete\n");
    for offset in offsets_of_jumps()? {
        script += &format!("break *((char *)&ASYNC_start_job + {offset})\n");
    }
    script += &format!(
        "continue
         while $_isvoid($_exitcode)
           set $left = {INSTRUCTIONS}
           while $left > 0
             bt
             stepi
             set $left = $left - 1
           end
           continue
         end\n"
    );
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("script");
    fs::write(&file, script)?;
    let mut debugger = gdb::gdb();
    debugger.arg("-x").arg(&file).arg("--args");
    let said = stdout_of(debugger.arg(gdb::program()?).arg("backtraces"))?;

    let mut backtraces: Vec<Vec<&str>> = Vec::new();
    for line in said.lines().filter(|line| line.starts_with('#')) {
        if line.starts_with("#0 ") {
            backtraces.push(Vec::new());
        }
        let backtrace = backtraces.last_mut().ok_or("frame #0 is missing")?;
        backtrace.push(line);
    }
    for backtrace in &backtraces {
        let has_names = backtrace.iter().all(|frame| !frame.contains("?? ("));
        let ends_well = backtrace.last().is_some_and(|frame| {
            let ends = [
                " main (",
                "::trampoline",
                " make_fcontext (",
                " jump_fcontext (",
            ];
            ends.iter().any(|end| frame.contains(end))
        });
        expect(has_names && ends_well, backtrace.join("\n"))?;
    }
    for complaint in ["Backtrace stopped", "corrupt", "Cannot access memory"] {
        expect(!said.contains(complaint), format!("{complaint} in\n{said}"))?;
    }
    let ended = said.contains("exited normally") && backtraces.len() >= LEAST_BACKTRACES;
    expect(ended, format!("{} backtraces in\n{said}", backtraces.len()))
}

/// Where the library jumps to `jump_fcontext`, to what jumps there, or to a job's trampoline, and
/// where that one goes back to the dispatcher; relative to `ASYNC_start_job`, in bytes.
fn offsets_of_jumps() -> Result<Vec<i64>, Failed> {
    let code = stdout_of(command("objdump", 60).arg("-d").arg(shared_library()))?;
    let address = |text: &str| i64::from_str_radix(text.trim(), 16).ok();
    let start = code
        .lines()
        .find_map(|line| address(line.strip_suffix(" <ASYNC_start_job>:")?))
        .ok_or("no ASYNC_start_job")?;
    let is_jump = |line: &&str| {
        let targets = ["<jump_fcontext>", "push_rax_and_jump", "10trampoline17"];
        line.contains("jmp ") && targets.iter().any(|target| line.contains(target))
            || line.ends_with("mov    (%rbx),%rsp")
    };
    let jumps = code.lines().filter(is_jump);
    let offsets: Vec<_> = jumps
        .filter_map(|line| Some(address(line.split_once(':')?.0)? - start))
        .collect();
    expect(offsets.len() >= 3, format!("only {} jumps", offsets.len()))?;
    Ok(offsets)
}
