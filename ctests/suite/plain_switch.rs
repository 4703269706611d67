//! The switch that other processors have, an ordinary call (`jump` in fibre.rs): a library built
//! with it keeps the chapters that switch most.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use libtest_mimic::{Failed, Trial};

use harness::chapters;
use harness::stage::{ROOT, command, output_of, shared_library, stdout_of};

const CHAPTERS: [&str; 6] = [
    "exceptions.cc",
    "frames.c",
    "jobs.c",
    "nesting.c",
    "pausing.c",
    "threads.c",
];

pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<_> = CHAPTERS.into_iter().flat_map(trials_of).collect();
    if cfg!(target_arch = "x86_64") {
        let name = "plain_switch::the_library_has_it";
        trials.push(Trial::test(name, has_another_switch));
    }
    trials
}

fn trials_of(chapter: &str) -> Vec<Trial> {
    let (program, cases) = match chapters::alone(&ROOT.join("ctests/chapters").join(chapter)) {
        Ok(listed) => listed,
        Err(why) => {
            return vec![Trial::test(format!("build::{chapter}_alone"), || Err(why))];
        }
    };
    let chapter = chapter.split('.').next().expect("it has a name").to_owned();
    let trial = |case: String| {
        let program = program.clone();
        Trial::test(format!("plain_switch::{chapter}::{case}"), move || {
            let mut run = command(&program, 120);
            run.env("LD_LIBRARY_PATH", library()?.parent().ok_or("no folder")?);
            output_of(run.arg(&case)).map(drop)
        })
    };
    cases.into_iter().map(trial).collect()
}

/// The library with that switch, under the name that programs look for.
fn library() -> Result<&'static Path, Failed> {
    static LIBRARY: LazyLock<Result<PathBuf, String>> =
        LazyLock::new(|| build().map_err(|why| why.message().unwrap_or("no library").to_owned()));
    Ok(LIBRARY.as_deref().map_err(String::clone)?)
}

fn build() -> Result<PathBuf, Failed> {
    let target = ROOT.join("target/plain-switch");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(&*ROOT);
    cargo.args(["rustc", "--quiet", "--release", "-p", "rsasync", "--lib"]);
    cargo
        .args(["--crate-type", "cdylib", "--target-dir"])
        .arg(&target);
    output_of(cargo.args(["--", "--cfg", "rsasync_plain_switch"]))?;
    let library = target.join("release/librsasync.so");
    let soname = target.join("release/librsasync.so.0");
    output_of(command("ln", 60).arg("-sf").arg(&library).arg(&soname))?;
    Ok(soname)
}

/// The usual library leaves for `jump_fcontext` by jumps, this one by calls.
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
