//! The Makefile honours the variables of packagers: cargo's target directory, the compiler and its
//! flags, and the places to install to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Failed, Trial};

use harness::check::expect;
use harness::stage::{TARGET, make, output_of, stdout_of};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("build::install_honours_the_environment", install),
        Trial::test("build::demo_honours_the_environment", demo),
    ]
}

/// Where these trials build. It stays, so that the dependencies are built once.
fn target() -> PathBuf {
    TARGET.join("build-trials")
}

/// A compiler of its own for a trial: it appends its arguments to a log, and calls `cc`.
struct Compiler {
    directory: tempfile::TempDir,
}

impl Compiler {
    fn new() -> Result<Self, Failed> {
        let it = Self {
            directory: tempfile::tempdir()?,
        };
        let (path, log) = (it.path(), it.log());
        let script = format!(
            "#!/bin/sh\necho \"$*\" >> {}\nexec cc \"$@\"\n",
            log.display()
        );
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(it)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("trial-cc")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Fails unless one call had all of these words among its arguments.
    fn was_called_with(&self, words: &[&str]) -> Result<(), Failed> {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let has_all = |call: &str| words.iter().all(|word| call.contains(word));
        let found = log.lines().any(has_all);
        expect(
            found,
            format!("no call of $CC has all of {words:?}:\n{log}"),
        )
    }
}

/// `make` with a compiler and flags from the environment. The library is built without
/// optimisation, which takes a second instead of ten.
fn make_with(compiler: &Compiler) -> Command {
    let mut make = make();
    for (name, value) in [
        ("CFLAGS", "-DFLAG_OF_THE_TRIAL"),
        ("LDFLAGS", "-Wl,--build-id=0x74726961 -Wl,-O1"),
        ("CARGO_PROFILE_RELEASE_LTO", "off"),
        ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
        ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ] {
        make.env(name, value);
    }
    make.env("CARGO_TARGET_DIR", target());
    make.env("CC", compiler.path());
    make
}

/// One trial at a time: they build in the same directory.
fn in_turn(trial: impl FnOnce() -> Result<(), Failed>) -> Result<(), Failed> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    trial()
}

fn is_there(path: &Path) -> Result<(), Failed> {
    expect(path.exists(), format!("there is no {}", path.display()))
}

fn install() -> Result<(), Failed> {
    in_turn(|| {
        let compiler = Compiler::new()?;
        let (release, archives) = (target().join("release"), target().join("static"));
        for old in [
            &release.join("librsasync.so"),
            &archives.join("librsasync.a"),
        ] {
            let _ = fs::remove_file(old);
        }
        let destination = tempfile::tempdir()?;
        output_of(
            make_with(&compiler)
                .arg("install")
                .env("DESTDIR", destination.path())
                .env("PREFIX", "/opt/trial")
                .env("LIBDIR", "/opt/trial/lib/multiarch"),
        )?;

        is_there(&release.join("librsasync.so"))?;
        is_there(&archives.join("librsasync.a"))?;
        compiler.was_called_with(&["librsasync.so", "-Wl,--build-id=0x74726961", "-Wl,-O1"])?;

        let prefix = destination.path().join("opt/trial");
        let libraries = prefix.join("lib/multiarch");
        for file in ["librsasync.so", "librsasync.a", "pkgconfig/rsasync.pc"] {
            is_there(&libraries.join(file))?;
        }
        is_there(&prefix.join("include/rsasync/openssl/async.h"))?;
        let at_top: Vec<_> = fs::read_dir(destination.path())?.collect();
        expect(at_top.len() == 1, format!("installed besides: {at_top:?}"))?;
        let pc = fs::read_to_string(libraries.join("pkgconfig/rsasync.pc"))?;
        for line in [
            "libdir=/opt/trial/lib/multiarch\n",
            "includedir=/opt/trial/include\n",
        ] {
            expect(pc.contains(line), format!("no {line}in rsasync.pc:\n{pc}"))?;
        }
        let notes = stdout_of(
            Command::new("readelf")
                .arg("--notes")
                .arg(libraries.join("librsasync.so")),
        )?;
        expect(
            notes.contains("Build ID: 74726961"),
            "LDFLAGS did not reach the library",
        )?;

        // As root, who has no cargo.
        let again = tempfile::tempdir()?;
        let mut make = make_with(&compiler);
        make.args(["install", "CARGO=no-such-cargo", "PREFIX=/opt/trial"]);
        make.arg("LIBDIR=/opt/trial/lib/multiarch");
        output_of(make.arg(format!("DESTDIR={}", again.path().display())))?;
        let mut diff = Command::new("diff");
        diff.args(["--recursive", "--no-dereference"]);
        output_of(diff.arg(destination.path()).arg(again.path())).map(drop)
    })
}

/// The README's first command.
fn demo() -> Result<(), Failed> {
    in_turn(|| {
        let compiler = Compiler::new()?;
        let demo = target().join("demo/pipe");
        let _ = fs::remove_file(&demo);
        let output = output_of(make_with(&compiler).arg("demo"))?;
        is_there(&demo)?;
        compiler.was_called_with(&["examples/pipe.c", "-DFLAG_OF_THE_TRIAL", "-Wl,-O1"])?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let made = "8 jobs made";
        expect(stderr.contains(made), format!("no \"{made}\" in\n{stderr}"))
    })
}
