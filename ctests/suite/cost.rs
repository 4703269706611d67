//! What calls and paused jobs cost: instructions, as valgrind counts them, and bytes, as the kernel
//! does, compared with the recorded numbers below. Counts, unlike times, are the same in each run.

use std::path::Path;

use libtest_mimic::{Failed, Trial};

use harness::stage::{BuiltOnce, build_program, command, stderr_of, stdout_of};

/// A row of programs/cost.c, and the instructions of one run of its calls, the program's and the C
/// library's included: in a process without libcrypto, and in one with it.
const INSTRUCTIONS: [(&str, u64, u64); 7] = [
    ("start_finish", 227, 253),
    ("start_finish_64", 265, 291),
    ("start_finish_4096", 1038, 1029),
    ("resume_pause", 240, 266),
    ("get_current_job", 17, 17),
    ("pause_job_outside", 19, 19),
    ("wait_context_life", 502, 502),
];

/// Bytes of memory and page tables for each paused job: a page of 4,096 bytes, and a tenth.
const BYTES: u64 = 4500;

/// What another compiler or C library may add.
const TOLERANCE_PERCENT: u64 = 8;

/// Libraries that the program loads: a libcrypto, and one that stands for a server's plug-in, loaded
/// after it.
const WITH_LIBCRYPTO: &str = "libcrypto.so.3:libanl.so.1";

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![Trial::test(
        "cost::bytes::paused_job",
        bytes_of_a_paused_job,
    )];
    for (row, alone, with_libcrypto) in INSTRUCTIONS {
        trials.push(instructions("alone", row, alone, ""));
        trials.push(instructions("linked", row, with_libcrypto, WITH_LIBCRYPTO));
    }
    trials
}

fn program() -> Result<&'static Path, Failed> {
    static PROGRAM: BuiltOnce = BuiltOnce::new();
    PROGRAM.get_or_build(|| build_program("cost", &[]))
}

fn bytes_of_a_paused_job() -> Result<(), Failed> {
    let printed = stdout_of(command(program()?, 60).arg("memory"))?;
    within(printed.trim().parse()?, BYTES)
}

fn instructions(build: &str, row: &'static str, recorded: u64, loaded: &'static str) -> Trial {
    Trial::test(format!("cost::instructions_{build}::{row}"), move || {
        const TIMES: u64 = 2000;
        let once = count(row, loaded, TIMES)?;
        let twice = count(row, loaded, 2 * TIMES)?;
        within((twice - once) / TIMES, recorded)
    })
}

/// All instructions of a process that makes a row's calls `times` times.
fn count(row: &str, loaded: &str, times: u64) -> Result<u64, Failed> {
    let mut valgrind = command("env", 120);
    valgrind
        .arg(format!("TIMES={times}"))
        .arg(format!("LOADED={loaded}"));
    valgrind.args([
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
    ]);
    let said = stderr_of(valgrind.arg(program()?).arg(row))?;
    let total = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    Ok(total
        .ok_or("callgrind printed no count")?
        .1
        .trim()
        .parse()?)
}

fn within(cost: u64, recorded: u64) -> Result<(), Failed> {
    if cost < recorded / 2 {
        return Err(format!(
            "it costs {cost}, less than half of {recorded}: were the calls made at all?"
        )
        .into());
    }
    if cost <= recorded + recorded * TOLERANCE_PERCENT / 100 {
        return Ok(());
    }
    Err(format!(
        "it costs {cost}, and {recorded} is recorded: make it cheaper, or record the new cost"
    )
    .into())
}
