//! The switch of processors other than x86-64, an ordinary call (`jump` in src/fibre/): a library
//! that is built with it here passes the chapters about jobs and switches.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};

use harness::chapters::{Program, Way};
use harness::stage::{BuiltOnce, ROOT, TARGET, command, output_of, shared_library, stdout_of};

/// The chapters that are less about switches than about memory, errors or libcrypto. All others run
/// on this library too.
const LEFT_OUT: [&str; 16] = [
    "callbacks",
    "default_context",
    "discover",
    "errors",
    "fake_libcrypto",
    "fake_libcrypto_1_1",
    "fork",
    "guards",
    "mem_functions",
    "openssl_cleanup",
    "orphans",
    "pool",
    "reclaim",
    "stacks",
    "wait_ctx",
    "wait_ctx_free",
];

pub fn trials(programs: &[Arc<Program>]) -> Vec<Trial> {
    let runs_here = |program: &&Arc<Program>| {
        program.is_alone() && !LEFT_OUT.iter().any(|chapter| program.chapter() == *chapter)
    };
    let mut trials: Vec<_> = programs
        .iter()
        .filter(runs_here)
        .flat_map(|program| trials_on("plain_switch", library, program))
        .collect();
    if cfg!(target_arch = "x86_64") {
        let name = "plain_switch::the_library_has_it";
        trials.push(Trial::test(name, has_another_switch));
    }
    trials
}

/// The cases of a chapter's program on another build of the library.
pub fn trials_on(
    build: &'static str,
    library: fn() -> Result<&'static Path, Failed>,
    program: &Arc<Program>,
) -> Vec<Trial> {
    let chapter = program.chapter();
    let cases = match program.cases(Way::Alone) {
        Ok(cases) => cases,
        Err(why) => return vec![Trial::test(format!("build::{chapter}"), || Err(why))],
    };
    let trial = |case: String| {
        let program = Arc::clone(program);
        Trial::test(format!("{build}::{chapter}::{case}"), move || {
            const TIMEOUT_S: u32 = 120;
            let mut run = command(program.executable()?, TIMEOUT_S);
            run.env("LD_LIBRARY_PATH", library()?.parent().ok_or("no folder")?);
            output_of(run.arg(&case)).map(drop)
        })
    };
    cases.into_iter().map(trial).collect()
}

/// The library with that switch, under the name that programs look for.
pub fn library() -> Result<&'static Path, Failed> {
    static LIBRARY: BuiltOnce = BuiltOnce::new();
    LIBRARY.get_or_build(|| {
        build_library("plain-switch", |cargo| {
            cargo.args(["--", "--cfg", "rsasync_plain_switch"]);
        })
    })
}

/// Builds the library with other options, in a directory of its own. Returns its path, under the
/// name that programs look for.
pub fn build_library(name: &str, set_options: fn(&mut Command)) -> Result<PathBuf, Failed> {
    let target = TARGET.join(name);
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(&*ROOT);
    cargo.args(["rustc", "--quiet", "--release", "-p", "rsasync", "--lib"]);
    cargo
        .args(["--crate-type", "cdylib", "--target-dir"])
        .arg(&target);
    set_options(&mut cargo);
    output_of(&mut cargo)?;
    let library = target.join("release/librsasync.so");
    let soname = target.join("release/librsasync.so.0");
    output_of(command("ln", 60).arg("-sf").arg(&library).arg(&soname))?;
    Ok(soname)
}

/// The usual library goes to `jump_fcontext` by a jump, this one by a call.
fn has_another_switch() -> Result<(), Failed> {
    let jumps = |library: &Path| -> Result<bool, Failed> {
        let code = stdout_of(command("objdump", 60).arg("-d").arg(library))?;
        let is_jump = |line: &str| line.contains("jmp ") && line.contains("<jump_fcontext>");
        Ok(code.lines().any(is_jump))
    };
    match (jumps(&shared_library())?, jumps(library()?)?) {
        (true, false) => Ok(()),
        found => Err(format!("jumps in the usual library and in the other: {found:?}").into()),
    }
}
