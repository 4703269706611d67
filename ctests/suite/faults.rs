//! Memory that can't be had: a trial for each kind of call that fails, with and without a
//! libcrypto, whose error queue then tells of it.

use std::path::PathBuf;

use libtest_mimic::{Failed, Trial};

use harness::stage::{BUILT, ROOT, command, compiler, headers, library_path, output_of};

const KINDS: [&str; 4] = ["malloc", "mmap", "madvise", "mprotect"];

pub fn trials() -> Vec<Trial> {
    let builds: [(&str, &[&str]); 2] = [
        ("alone", &["-lrsasync"]),
        ("linked", &["-DWITH_LIBCRYPTO", "-lrsasync", "-lcrypto"]),
    ];
    let of_build = |(build, flags): (&str, &[&str])| match program(build, flags) {
        Ok(program) => KINDS.map(|kind| trial(build, kind, program.clone())).into(),
        Err(why) => vec![Trial::test(format!("build::faults_{build}"), || Err(why))],
    };
    builds.into_iter().flat_map(of_build).collect()
}

fn trial(build: &str, kind: &str, program: PathBuf) -> Trial {
    let case = format!("{kind}_fails");
    Trial::test(format!("{build}::faults::{case}"), move || {
        output_of(command(&program, 240).arg(&case)).map(drop)
    })
}

fn program(build: &str, flags: &[&str]) -> Result<PathBuf, Failed> {
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
