//! The library as `make install` puts it, and how programs are built on it and run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::{env, fs};

use libtest_mimic::Failed;

/// The repository.
pub static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("it is in one")
        .to_owned()
});

/// Where it was installed, as if this were `/`.
pub static STAGE: LazyLock<PathBuf> = LazyLock::new(|| {
    let stage = ROOT.join("target/stage");
    let _ = fs::remove_dir_all(&stage);
    let destination = format!("DESTDIR={}", stage.display());
    let make = Command::new("make")
        .current_dir(&*ROOT)
        .args(["-s", "install", "PREFIX=/usr", &destination])
        .output();
    let make = make.expect("there is no make");
    assert!(
        make.status.success(),
        "make install failed:\n{}",
        String::from_utf8_lossy(&make.stderr)
    );
    stage
});

/// Where programs are built.
pub static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
    let built = ROOT.join("target/ctests");
    fs::create_dir_all(&built).expect("can't make target/ctests");
    built
});

pub fn library_directory() -> PathBuf {
    STAGE.join("usr/lib")
}

pub fn shared_library() -> PathBuf {
    library_directory().join("librsasync.so")
}

pub fn headers() -> PathBuf {
    STAGE.join("usr/include/rsasync")
}

/// A command that is ended after so many seconds.
pub fn command(program: impl AsRef<OsStr>, seconds: u32) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", &seconds.to_string()])
        .arg(program);
    // What the person who tests has set must not decide the outcome.
    for variable in [
        "RSASYNC_STACK_SIZE",
        "RSASYNC_STATS",
        "LD_PRELOAD",
        "LD_DEBUG",
        "ASAN_OPTIONS",
        "LSAN_OPTIONS",
        "TSAN_OPTIONS",
        "UBSAN_OPTIONS",
    ] {
        command.env_remove(variable);
    }
    command.env("LD_LIBRARY_PATH", library_directory());
    command
}

/// Its output if it succeeds; else a failure that shows all of it.
pub fn output_of(command: &mut Command) -> Result<Output, Failed> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let what = match output.status.code() {
        Some(124 | 137) => "ran out of time".to_owned(),
        _ => output.status.to_string(),
    };
    Err(format!(
        "{command:?}: {what}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
    .into())
}

/// What it printed.
pub fn stdout_of(command: &mut Command) -> Result<String, Failed> {
    Ok(String::from_utf8_lossy(&output_of(command)?.stdout).into_owned())
}

/// What it printed where errors go.
pub fn stderr_of(command: &mut Command) -> Result<String, Failed> {
    Ok(String::from_utf8_lossy(&output_of(command)?.stderr).into_owned())
}

/// The compiler for a source file, with the warnings that all sources here are free of.
pub fn compiler(source: &Path) -> Command {
    compiler_of("cc", "c++", source)
}

/// The same with other compilers, for C and C++.
pub fn compiler_of(cc: &str, cxx: &str, source: &Path) -> Command {
    let (compiler, standard) = match source.extension().and_then(OsStr::to_str) {
        Some("cc") => (cxx, "-std=c++17"),
        _ => (cc, "-std=gnu11"),
    };
    let mut compiler = command(compiler, 120);
    compiler.args([
        standard, "-Wall", "-Wextra", "-Werror", "-g", "-O1", "-pthread",
    ]);
    compiler
        .arg("-I")
        .arg(ROOT.join("ctests/include"))
        .arg(source);
    compiler
}

/// How programs find the shared library.
pub fn library_path() -> String {
    format!("-L{}", library_directory().display())
}
