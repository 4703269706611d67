//! Large loads: a million jobs at once, and ten seconds of `make soak`.

use std::fs;
use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Failed, Trial};

use harness::stage::{build_program, command, output_of};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("endurance::a_million_jobs_at_once", || {
            run("million", &[], "JOBS=1000000")
        })
        .with_ignored_flag(available_memory() < MEMORY_FOR_A_MILLION),
        Trial::test("endurance::soak", || {
            run("soak", &["-DWITH_LIBCRYPTO", "-lcrypto"], "SECONDS=10")
        }),
    ]
}

/// Bytes: a page of stack for each job, the kernel's page tables, and what other trials take.
const MEMORY_FOR_A_MILLION: u64 = 6 << 30;

/// Bytes that can be allocated without swapping; 0 if /proc does not say.
fn available_memory() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.strip_suffix("kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib << 10)
}

/// Builds a program and runs its case of the same name with an environment variable. One program at
/// a time, as each of them uses the whole machine.
fn run(name: &str, flags: &[&str], setting: &str) -> Result<(), Failed> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let program = build_program(name, flags)?;
    output_of(command("env", 180).arg(setting).arg(&program).arg(name)).map(drop)
}
