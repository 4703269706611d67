//! Failing allocations: a trial for each system or C library call that fails, with and without a
//! libcrypto, whose error queue gets the errors.

use std::path::PathBuf;

use libtest_mimic::{Failed, Trial};

use harness::stage::{BUILT, BuiltOnce, ROOT, command, compiler, headers, library_path, output_of};

/// The calls that are made to fail, one kind in each trial.
const CALLS: [&str; 4] = ["malloc", "mmap", "madvise", "mprotect"];

pub fn trials() -> Vec<Trial> {
    static ALONE: BuiltOnce = BuiltOnce::new();
    static LINKED: BuiltOnce = BuiltOnce::new();
    let trials = CALLS.iter().flat_map(|call| {
        let alone = trial("alone", call, &ALONE, &["-lrsasync"]);
        let flags = &["-DWITH_LIBCRYPTO", "-lrsasync", "-lcrypto"];
        [alone, trial("linked", call, &LINKED, flags)]
    });
    trials.collect()
}

fn trial(
    build: &'static str,
    call: &str,
    program: &'static BuiltOnce,
    flags: &'static [&str],
) -> Trial {
    const TIMEOUT_S: u32 = 240;
    let case = format!("{call}_fails");
    Trial::test(format!("{build}::faults::{case}"), move || {
        let program = program.get_or_build(|| build_faults(build, flags))?;
        output_of(command(program, TIMEOUT_S).arg(&case)).map(drop)
    })
}

fn build_faults(build: &str, flags: &[&str]) -> Result<PathBuf, Failed> {
    let folder = ROOT.join("ctests/faults");
    let program = BUILT.join("faults").with_extension(build);
    output_of(
        compiler(&folder.join("faults.c"))
            .arg(folder.join("fail_nth.c"))
            .arg("-I")
            .arg(headers())
            .arg(library_path())
            .args(flags)
            .arg("-o")
            .arg(&program),
    )?;
    Ok(program)
}
