//! What calls and paused jobs cost, counted and not timed, against what they did cost when this was
//! written: instructions by valgrind, bytes by the kernel.

use std::path::{Path, PathBuf};

use libtest_mimic::{Failed, Trial};

use harness::stage::{BUILT, ROOT, command, compiler, headers, library_path, stderr_of, stdout_of};

/// Instructions of one call, or of a few that belong together: those of the program and of the C
/// library with them, in a process that has no libcrypto, and in one that has.
const INSTRUCTIONS: [(&str, u64, u64); 7] = [
    ("start_finish", 293, 320),
    ("start_finish_64", 325, 352),
    ("start_finish_4096", 1060, 1052),
    ("resume_pause", 250, 276),
    ("get_current_job", 28, 28),
    ("pause_job_outside", 35, 35),
    ("wait_context_life", 505, 505),
];

/// Bytes of memory and of page tables for each paused job: a page, and a tenth of one.
const BYTES: u64 = 4500;

/// What another compiler or C library may add, in percent.
const ROOM: u64 = 8;

/// With a plug-in that came after libcrypto, as servers have them.
const WITH_LIBCRYPTO: &str = "libcrypto.so.3:libanl.so.1";

pub fn trials() -> Vec<Trial> {
    let program = match program() {
        Ok(program) => program,
        Err(why) => return vec![Trial::test("build::cost", || Err(why))],
    };
    let mut trials = vec![bytes(program.clone())];
    for (row, alone, with_libcrypto) in INSTRUCTIONS {
        trials.push(instructions("alone", row, alone, "", program.clone()));
        trials.push(instructions(
            "linked",
            row,
            with_libcrypto,
            WITH_LIBCRYPTO,
            program.clone(),
        ));
    }
    trials
}

fn program() -> Result<PathBuf, Failed> {
    let program = BUILT.join("cost");
    let mut compiler = compiler(&ROOT.join("ctests/programs/cost.c"));
    compiler.arg("-I").arg(headers()).arg(library_path());
    stdout_of(compiler.arg("-lrsasync").arg("-o").arg(&program))?;
    Ok(program)
}

fn bytes(program: PathBuf) -> Trial {
    Trial::test("cost::bytes::paused_job", move || {
        let printed = stdout_of(command(&program, 60).arg("memory"))?;
        within(printed.trim().parse()?, BYTES)
    })
}

fn instructions(
    build: &str,
    row: &'static str,
    recorded: u64,
    loaded: &'static str,
    program: PathBuf,
) -> Trial {
    Trial::test(format!("cost::instructions_{build}::{row}"), move || {
        const TIMES: u64 = 2000;
        let once = count(&program, row, loaded, TIMES)?;
        let twice = count(&program, row, loaded, 2 * TIMES)?;
        within((twice - once) / TIMES, recorded)
    })
}

/// All instructions of a process that does it so many times.
fn count(program: &Path, row: &str, loaded: &str, times: u64) -> Result<u64, Failed> {
    let mut valgrind = command("env", 120);
    valgrind
        .arg(format!("TIMES={times}"))
        .arg(format!("LOADED={loaded}"));
    valgrind.args([
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
    ]);
    let said = stderr_of(valgrind.arg(program).arg(row))?;
    let total = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    Ok(total
        .ok_or("callgrind has told no count")?
        .1
        .trim()
        .parse()?)
}

fn within(cost: u64, recorded: u64) -> Result<(), Failed> {
    if cost < recorded / 2 {
        return Err(format!("it costs {cost}, half of {recorded}: was it done at all?").into());
    }
    if cost <= recorded + recorded * ROOM / 100 {
        return Ok(());
    }
    Err(
        format!("it costs {cost}, where {recorded} was enough; make it cheaper, or record that")
            .into(),
    )
}
