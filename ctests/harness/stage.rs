//! The library as `make install` puts it on this machine, how programs are built on it and run, and
//! what commands print.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{LazyLock, OnceLock};

use libtest_mimic::Failed;

use crate::platform::HOST;

/// The repository.
pub static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("ctests/ is in the repository")
        .to_owned()
});

/// Cargo's target directory: this program is TARGET/PROFILE/NAME or TARGET/PROFILE/deps/NAME.
pub static TARGET: LazyLock<PathBuf> = LazyLock::new(|| {
    let program = env::current_exe().expect("this program's path is not known");
    let mut profile = program.parent().expect("a program is in a directory");
    if profile.ends_with("deps") {
        profile = profile.parent().expect("deps/ is in a directory");
    }
    let target = profile
        .parent()
        .expect("a profile is in the target directory");
    target.to_owned()
});

/// Where the library is installed for the tests, as if this directory were `/`.
pub static STAGE: LazyLock<PathBuf> = LazyLock::new(|| HOST.stage().to_owned());

/// Where programs are built.
pub static BUILT: LazyLock<PathBuf> = LazyLock::new(|| HOST.built());

/// `make` in the repository, unaware of the make that may run the tests.
pub fn make() -> Command {
    let mut make = Command::new("make");
    make.current_dir(&*ROOT).arg("-s");
    unaware_of_make(&mut make);
    make
}

/// The command runs as if no make ran the tests, nor sudo, under which `make install` builds nothing.
pub fn unaware_of_make(command: &mut Command) {
    for variable in [
        "MAKEFLAGS",
        "MAKEOVERRIDES",
        "MAKELEVEL",
        "MFLAGS",
        "SUDO_USER",
    ] {
        command.env_remove(variable);
    }
}

/// A program or library that is built when a trial first needs it, and then serves all.
#[derive(Default)]
pub struct BuiltOnce(OnceLock<Result<PathBuf, Failed>>);

impl BuiltOnce {
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Its path. If it can't be built, every trial that needs it fails with the same message.
    pub fn get_or_build(
        &self,
        build: impl FnOnce() -> Result<PathBuf, Failed>,
    ) -> Result<&Path, Failed> {
        let built = self.0.get_or_init(build);
        built.as_deref().map_err(Failed::clone)
    }
}

pub fn library_directory() -> PathBuf {
    HOST.library_directory()
}

pub fn shared_library() -> PathBuf {
    HOST.shared_library()
}

pub fn headers() -> PathBuf {
    HOST.headers()
}

/// The library's version, from its manifest.
pub fn version() -> Result<String, Failed> {
    let manifest = fs::read_to_string(ROOT.join("Cargo.toml"))?;
    let line = manifest
        .lines()
        .find_map(|line| line.strip_prefix("version = \""));
    Ok(line
        .ok_or("the manifest has no version")?
        .trim_end_matches('"')
        .to_owned())
}

/// A command with a time limit, in seconds.
pub fn command(program: impl AsRef<OsStr>, timeout_s: u32) -> Command {
    let mut command = Command::new(TIMEOUT[0]);
    command
        .args(&TIMEOUT[1..])
        .arg(timeout_s.to_string())
        .arg(program);
    // The tester's own settings must not decide the outcome.
    for variable in [
        "RSASYNC_STACK_SIZE",
        "RSASYNC_RECLAIM_ORPHANS",
        "RSASYNC_REPORT_OVERFLOW",
        "RSASYNC_STATS",
        "RSASYNC_WIPE_STACKS",
        "LD_PRELOAD",
        "LD_DEBUG",
        "ASAN_OPTIONS",
        "LSAN_OPTIONS",
        "TSAN_OPTIONS",
        "UBSAN_OPTIONS",
    ] {
        command.env_remove(variable);
    }
    let libraries = HOST.stage_directory().join("usr/lib");
    command.env("LD_LIBRARY_PATH", libraries);
    command
}

/// What `command` puts before a program, but for the time.
const TIMEOUT: [&str; 2] = ["timeout", "--kill-after=5"];

/// The command as a line for a shell, without the time limit: a debugger can be put before the
/// program.
pub fn shell_line(command: &Command) -> String {
    let mut words: Vec<String> = Vec::new();
    if let Some(directory) = command.get_current_dir() {
        words.push(format!("cd {} &&", quoted(directory.as_os_str())));
    }
    let mut settings = Vec::new();
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => settings.push(format!("{}={}", name.display(), quoted(value))),
            None if env::var_os(name).is_some() => settings.push(format!("-u {}", name.display())),
            None => {}
        }
    }
    if !settings.is_empty() {
        // `env` takes its options before the assignments.
        settings.sort_by_key(|setting| !setting.starts_with("-u "));
        words.push("env".to_owned());
        words.extend(settings);
    }
    let arguments = [command.get_program()].into_iter();
    let arguments: Vec<&OsStr> = arguments.chain(command.get_args()).collect();
    let arguments = match arguments[..] {
        [first, second, _, ref rest @ ..] if [first, second] == TIMEOUT => rest,
        ref all => all,
    };
    words.extend(arguments.iter().map(|word| quoted(word)));
    words.join(" ")
}

/// A word for a shell.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let is_plain = |c: char| c.is_alphanumeric() || "_-./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The output of a command that succeeds; otherwise a failure that shows the output, and the line
/// that runs the command again by hand.
pub fn output_of(command: &mut Command) -> Result<Output, Failed> {
    let line = shell_line(command);
    let output = command
        .output()
        .map_err(|error| format!("{line}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let what = match output.status.code() {
        Some(124 | 137) => "ran out of time".to_owned(),
        _ => output.status.to_string(),
    };
    Err(format!(
        "{what}\n{}{}to run it again by hand:\n{line}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
    .into())
}

/// What a command that succeeds prints on standard output.
pub fn stdout_of(command: &mut Command) -> Result<String, Failed> {
    Ok(String::from_utf8_lossy(&output_of(command)?.stdout).into_owned())
}

/// What a command that succeeds prints on standard error.
pub fn stderr_of(command: &mut Command) -> Result<String, Failed> {
    Ok(String::from_utf8_lossy(&output_of(command)?.stderr).into_owned())
}

/// The system's compiler for a C or C++ source file, with warnings as errors.
pub fn compiler(source: &Path) -> Command {
    HOST.compiler(source)
}

/// The same of these words for C and C++.
pub fn compiler_of(cc: &[String], cxx: &[String], source: &Path) -> Command {
    const TIMEOUT_S: u32 = 120;
    let (words, standard) = match source.extension().and_then(OsStr::to_str) {
        Some("cc") => (cxx, "-std=c++17"),
        _ => (cc, "-std=gnu11"),
    };
    let mut compiler = command(&words[0], TIMEOUT_S);
    compiler.args(&words[1..]).args([
        standard, "-Wall", "-Wextra", "-Werror", "-g", "-O1", "-pthread",
    ]);
    compiler
        .arg("-I")
        .arg(ROOT.join("ctests/include"))
        .arg(source);
    compiler
}

/// The linker's option by which programs are linked with the staged library.
pub fn library_path() -> String {
    HOST.library_path()
}

/// A source file of ctests/programs.
pub fn program_source(name: &str) -> PathBuf {
    ROOT.join("ctests/programs").join(name)
}

/// Builds ctests/programs/`name`.c on the staged library, with these flags besides.
pub fn build_program(name: &str, flags: &[&str]) -> Result<PathBuf, Failed> {
    let program = BUILT.join(name);
    let mut compiler = compiler(&program_source(&format!("{name}.c")));
    compiler.arg("-I").arg(headers()).arg(library_path());
    compiler.args(["-lrsasync"]).args(flags);
    output_of(compiler.arg("-o").arg(&program))?;
    Ok(program)
}
