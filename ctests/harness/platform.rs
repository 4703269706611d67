//! A platform that the checks run on: how programs are built for it, and how this machine runs them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::sync::{LazyLock, OnceLock};

use crate::stage::{TARGET, command, compiler_of, make, output_of};

pub struct Platform {
    pub name: &'static str,
    pub c_library: CLibrary,
    /// The compilers of the C and C++ programs, with options; no words if there is none.
    pub cc: Vec<String>,
    pub cxx: Vec<String>,
    /// The words before a program of it: `qemu-aarch64`, `env NAME=VALUE`, or none.
    pub runner: Vec<String>,
    pub is_emulated: bool,
    /// The target of `make` that installs the library for it, and the variables that it takes.
    pub install: &'static str,
    pub variables: Vec<(&'static str, String)>,
    /// Where all that belongs to it lies.
    pub directory: PathBuf,
    pub stage: OnceLock<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum CLibrary {
    Glibc,
    Musl,
}

/// This machine.
pub static HOST: LazyLock<Platform> = LazyLock::new(|| Platform {
    name: "host",
    c_library: CLibrary::Glibc,
    cc: vec!["cc".to_owned()],
    cxx: vec!["c++".to_owned()],
    runner: Vec::new(),
    is_emulated: false,
    install: "install",
    variables: Vec::new(),
    directory: TARGET.clone(),
    stage: OnceLock::new(),
});

impl Platform {
    pub fn is_host(&self) -> bool {
        ptr::eq(self, &*HOST)
    }

    /// Whether its libcrypto has jobs of its own.
    pub fn has_ucontext(&self) -> bool {
        self.c_library == CLibrary::Glibc
    }

    /// Where the library is installed for the tests, as if this directory were `/`.
    pub fn stage(&self) -> &Path {
        self.stage.get_or_init(|| {
            let stage = self.stage_directory();
            let _ = fs::remove_dir_all(&stage);
            let mut make = make();
            if !self.variables.is_empty() {
                make.env_remove("RUSTFLAGS"); // it would replace those of the target
            }
            make.envs(self.variables.iter().map(|(name, value)| (name, value)));
            make.args([self.install, "PREFIX=/usr", "LIBDIR=/usr/lib"]);
            if let Err(why) = output_of(make.arg(format!("DESTDIR={}", stage.display()))) {
                panic!("{}", why.message().unwrap_or("make install failed"));
            }
            stage
        })
    }

    /// The same, whether it is installed yet or not.
    pub fn stage_directory(&self) -> PathBuf {
        self.directory.join("stage")
    }

    /// Where programs are built.
    pub fn built(&self) -> PathBuf {
        let built = self.directory.join("ctests");
        fs::create_dir_all(&built).expect("a directory for programs can't be made");
        built
    }

    pub fn library_directory(&self) -> PathBuf {
        self.stage().join("usr/lib")
    }

    pub fn shared_library(&self) -> PathBuf {
        self.library_directory().join("librsasync.so")
    }

    pub fn headers(&self) -> PathBuf {
        self.stage().join("usr/include/rsasync")
    }

    /// The linker's option by which programs are linked with the staged library.
    pub fn library_path(&self) -> String {
        format!("-L{}", self.library_directory().display())
    }

    /// The setting of the environment that preloads the library.
    pub fn preloading(&self) -> String {
        format!("LD_PRELOAD={}", self.shared_library().display())
    }

    /// The compiler for a C or C++ source file, with warnings as errors.
    pub fn compiler(&self, source: &Path) -> Command {
        compiler_of(&self.cc, &self.cxx, source)
    }

    /// A program of the platform, with these settings in its environment, `NAME=VALUE`, and a time
    /// limit in seconds.
    pub fn run(&self, program: impl AsRef<OsStr>, settings: &[String], timeout_s: u32) -> Command {
        let mut words = self.runner.clone();
        if words.is_empty() && !settings.is_empty() {
            words.push("env".to_owned());
        }
        for setting in settings {
            if self.is_emulated {
                words.push("-E".to_owned()); // not for the emulator itself
            }
            words.push(setting.clone());
        }
        let mut run = match words.split_first() {
            None => command(program, timeout_s),
            Some((first, others)) => {
                let mut run = command(first, timeout_s);
                run.args(others).arg(program);
                run
            }
        };
        if self.is_emulated {
            run.env("CHECK_EMULATOR", self.runner.join(" ")); // for environment.h
        }
        run.env("LD_LIBRARY_PATH", self.search_path(None));
        run
    }

    /// Where its programs find this library, and those in another folder.
    pub fn search_path(&self, other: Option<&Path>) -> OsString {
        let mut path = self.library_directory().into_os_string();
        if let Some(other) = other {
            path.push(":");
            path.push(other);
        }
        path
    }
}
