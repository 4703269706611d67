//! Processes that the command looks at, and what it says of them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use libtest_mimic::Failed;
use serde_json::Value;

use harness::check::expect;
use harness::observed::{self, Observed};
use harness::stage::{
    BUILT, BuiltOnce, STAGE, command, compiler, headers, library_path, output_of, program_source,
    shared_library,
};

pub fn rsasync() -> PathBuf {
    STAGE.join("usr/bin/rsasync")
}

/// The program that is observed, which has libcrypto's functions when it is not preloaded.
pub fn observed() -> Result<&'static Path, Failed> {
    static BUILT_ONCE: BuiltOnce = BuiltOnce::new();
    BUILT_ONCE.get_or_build(|| build("observed", &ON_LIBCRYPTO, &["-Wl,-z,lazy", "-lcrypto"]))
}

/// For programs that are built with OpenSSL's header.
pub const ON_LIBCRYPTO: [&str; 2] = ["-DON_LIBCRYPTO", "-DWITH_LIBCRYPTO"];

/// The linker's words that put all of rsasync into a program.
pub const RSASYNC_INSIDE: [&str; 3] = [
    "-Wl,--whole-archive",
    "-l:librsasync.a",
    "-Wl,--no-whole-archive",
];

pub fn build(name: &str, flags: &[&str], libraries: &[&str]) -> Result<PathBuf, Failed> {
    let program = BUILT.join(name);
    let mut compiler = compiler(&program_source("observed.c"));
    compiler
        .args(observed::FLAGS)
        .args(flags)
        .args(libraries)
        .arg("-o")
        .arg(&program);
    output_of(&mut compiler)?;
    Ok(program)
}

/// The same with rsasync linked into it, by these flags of the linker besides.
pub fn build_static(name: &str, flags: &[&str]) -> Result<PathBuf, Failed> {
    let (include, path) = (format!("-I{}", headers().display()), library_path());
    let libraries = [&[path.as_str()][..], &RSASYNC_INSIDE, flags].concat();
    build(name, &[&include], &libraries)
}

/// The case of the program, with the library preloaded.
pub fn start_case(case: &str) -> Result<Observed, Failed> {
    start_preloaded(observed()?, case)
}

pub fn start_preloaded(program: &Path, case: &str) -> Result<Observed, Failed> {
    Observed::start(plain(program).arg(case).env("LD_PRELOAD", shared_library()))
}

/// A command whose process is the program itself, without what the tester has set.
pub fn plain(program: &Path) -> Command {
    let mut command = Command::new(program);
    for variable in ["LD_PRELOAD", "RSASYNC_STACK_SIZE", "RSASYNC_STATS"] {
        command.env_remove(variable);
    }
    command.env("LD_LIBRARY_PATH", harness::stage::library_directory());
    command
}

/// What the command says: its exit status, standard output and standard error.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

pub fn say(command: &mut Command) -> Result<Said, Failed> {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output()?;
    Ok(Said {
        code: status.code(),
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

pub fn ask(arguments: &[&str]) -> Result<Said, Failed> {
    say(command(rsasync(), 60).args(arguments))
}

impl Said {
    /// Fails unless the exit status is this and the output has all of these.
    pub fn expect(self, code: i32, parts: &[&str]) -> Result<Self, Failed> {
        let Self { out, err, .. } = &self;
        let text = format!("{out}{err}");
        let has_all = parts.iter().all(|part| text.contains(part));
        expect(
            self.code == Some(code) && has_all,
            format!(
                "wanted status {code} and {parts:?}, got {:?}:\n{text}",
                self.code
            ),
        )?;
        Ok(self)
    }

    pub fn json(&self) -> Result<Value, Failed> {
        Ok(serde_json::from_str(&self.out)?)
    }
}
