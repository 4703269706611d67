//! Many jobs and long work: a million jobs at once, and a short one of `make soak`.

use std::fs;
use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Failed, Trial};

use harness::stage::{BUILT, ROOT, command, compiler, headers, library_path, output_of};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("endurance::a_million_jobs_at_once", || {
            run("million", &["-lrsasync"], "JOBS=1000000")
        })
        .with_ignored_flag(available_memory() < MEMORY_FOR_A_MILLION),
        Trial::test("endurance::soak", || {
            run(
                "soak",
                &["-DWITH_LIBCRYPTO", "-lrsasync", "-lcrypto"],
                "SECONDS=10",
            )
        }),
    ]
}

/// A page of stack for each, the kernel's tables, and room for the other trials.
const MEMORY_FOR_A_MILLION: u64 = 6 << 30;

/// Bytes that can be had without swapping; 0 if that can't be told.
fn available_memory() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.strip_suffix("kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib << 10)
}

/// Builds a program and runs the case of its name, with a setting; one program at a time, as
/// they take what the machine has.
fn run(name: &str, flags: &[&str], setting: &str) -> Result<(), Failed> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let program = BUILT.join(name);
    output_of(
        compiler(&ROOT.join("ctests/programs").join(name).with_extension("c"))
            .arg("-I")
            .arg(headers())
            .arg(library_path())
            .args(flags)
            .arg("-o")
            .arg(&program),
    )?;
    output_of(command("env", 180).arg(setting).arg(&program).arg(name)).map(drop)
}
