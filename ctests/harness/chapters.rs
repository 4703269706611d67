//! The contract: each case of each program in this folder, in each of the ways of check.h.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, thread};

use libtest_mimic::Failed;

use crate::check::Check;
use crate::openssl::{Openssl, SYSTEM};
use crate::sanitizer::Sanitizer;
use crate::stage::{ROOT, compiler, headers, library_path, output_of, shared_library, stdout_of};

/// How a program is built; the first column of check.h's table.
#[derive(Clone, Copy)]
enum Build {
    Alone,
    Linked,
    OnLibcrypto,
    AloneSanitized(Sanitizer),
    LinkedSanitized(Sanitizer),
}

/// How it is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Alone,
    Linked,
    Preloaded,
    Libcrypto,
    Valgrind,
    Sanitized(Sanitizer),
}

/// A case, with its flags in check.h.
struct Case {
    name: String,
    ours: bool,
    needs_libcrypto: bool,
    not_on_valgrind: bool,
    not_on_asan: bool,
    not_on_tsan: bool,
}

const SECONDS: u32 = 120;
const SECONDS_WATCHED: u32 = 300;

/// Every way but the tools that watch memory: on another OpenSSL they add nothing but time.
pub const NATIVE: [Way; 4] = [Way::Alone, Way::Linked, Way::Preloaded, Way::Libcrypto];
pub const ALL: [Way; 7] = [
    Way::Alone,
    Way::Linked,
    Way::Preloaded,
    Way::Libcrypto,
    Way::Valgrind,
    Way::Sanitized(Sanitizer::Address),
    Way::Sanitized(Sanitizer::Thread),
];

/// The checks of all chapters, built against this OpenSSL and run on it, in these ways.
pub fn checks(openssl: &'static Openssl, ways: &'static [Way]) -> Vec<Check> {
    let mut chapters: Vec<PathBuf> = fs::read_dir(ROOT.join("ctests/chapters"))
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "c" || extension == "cc")
        })
        .collect();
    chapters.sort();
    let of_all = |chapters: &[PathBuf]| -> Vec<Check> {
        let of_each = chapters
            .iter()
            .flat_map(|chapter| checks_of(chapter, openssl, ways));
        of_each.collect()
    };
    let (first, second) = chapters.split_at(chapters.len() / 2);
    thread::scope(|scope| {
        let second = scope.spawn(|| of_all(second));
        let mut checks = of_all(first);
        checks.extend(second.join().expect("a chapter can't be built"));
        checks
    })
}

fn checks_of(chapter: &Path, openssl: &'static Openssl, ways: &[Way]) -> Vec<Check> {
    let mut builds = vec![Build::Alone, Build::Linked, Build::OnLibcrypto];
    for way in ways {
        if let Way::Sanitized(sanitizer) = *way {
            builds.push(Build::AloneSanitized(sanitizer));
            builds.push(Build::LinkedSanitized(sanitizer));
        }
    }
    builds
        .into_iter()
        .flat_map(|build| checks_of_build(chapter, build, openssl, ways))
        .collect()
}

/// A chapter's program without libcrypto, and its cases that don't need one.
pub fn alone(chapter: &Path) -> Result<(PathBuf, Vec<String>), Failed> {
    let program = Build::Alone.program(chapter, &SYSTEM)?;
    let cases = cases_of(&program, &SYSTEM)?.into_iter();
    let names = cases.filter(|case| !case.needs_libcrypto);
    Ok((program, names.map(|case| case.name).collect()))
}

/// A check for each way and case; one that fails if the program can't be built.
fn checks_of_build(
    chapter: &Path,
    build: Build,
    openssl: &'static Openssl,
    ways: &[Way],
) -> Vec<Check> {
    let listed = build
        .program(chapter, openssl)
        .and_then(|program| Ok((cases_of(&program, openssl)?, program)));
    let (cases, program) = match listed {
        Ok(listed) => listed,
        Err(why) => {
            return vec![Check::new(format!("build::{}", chapter.display()), || {
                Err(why)
            })];
        }
    };
    let of_way = |&way: &Way| {
        let taken = cases.iter().filter(move |case| way.takes(build, case));
        taken
            .map(|case| check(way, chapter, &program, &case.name, openssl))
            .collect::<Vec<_>>()
    };
    let ways = ways.iter().filter(|way| build.serves(**way));
    ways.flat_map(of_way).collect()
}

fn check(way: Way, chapter: &Path, program: &Path, case: &str, openssl: &'static Openssl) -> Check {
    let chapter = chapter
        .file_stem()
        .expect("it has a name")
        .to_string_lossy()
        .into_owned();
    let name = format!("{}::{chapter}::{case}", way.name());
    let (program, case) = (program.to_owned(), case.to_owned());
    Check::new(name, move || {
        output_of(way.command(&program, openssl).arg(&case))?;
        Ok(())
    })
}

impl Build {
    fn program(self, chapter: &Path, openssl: &Openssl) -> Result<PathBuf, Failed> {
        let alone: (&[&str], &[&str]) = (&[], &["-lrsasync"]);
        let linked: (&[&str], &[&str]) = (&["-DWITH_LIBCRYPTO"], &["-lrsasync", "-lcrypto"]);
        let on_libcrypto: (&[&str], &[&str]) =
            (&["-DWITH_LIBCRYPTO", "-DON_LIBCRYPTO"], &["-lcrypto"]);
        let (suffix, (flags, libraries)) = match self {
            Self::Alone => ("alone".to_owned(), alone),
            Self::Linked => ("linked".to_owned(), linked),
            Self::OnLibcrypto => ("openssl".to_owned(), on_libcrypto),
            Self::AloneSanitized(sanitizer) => (format!("alone-{}", sanitizer.name()), alone),
            Self::LinkedSanitized(sanitizer) => (format!("linked-{}", sanitizer.name()), linked),
        };
        let program = openssl
            .built()
            .join(chapter.file_stem().expect("it has a name"))
            .with_extension(suffix);
        let mut compiler = match self {
            Self::AloneSanitized(sanitizer) | Self::LinkedSanitized(sanitizer) => {
                sanitizer.compiler(chapter)
            }
            _ => compiler(chapter),
        };
        if !matches!(self, Self::OnLibcrypto) {
            compiler.arg("-I").arg(headers());
        }
        output_of(
            compiler
                .args(flags)
                .args(openssl.compile_flags())
                .arg(library_path())
                .args(libraries)
                .arg("-o")
                .arg(&program),
        )?;
        Ok(program)
    }

    fn serves(self, way: Way) -> bool {
        match self {
            Self::Alone => matches!(way, Way::Alone | Way::Valgrind),
            Self::Linked => matches!(way, Way::Linked | Way::Valgrind),
            Self::OnLibcrypto => matches!(way, Way::Preloaded | Way::Libcrypto),
            Self::AloneSanitized(sanitizer) | Self::LinkedSanitized(sanitizer) => {
                way == Way::Sanitized(sanitizer)
            }
        }
    }
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Linked => "linked",
            Self::Preloaded => "preloaded",
            Self::Libcrypto => "libcrypto",
            Self::Valgrind => "valgrind",
            Self::Sanitized(sanitizer) => sanitizer.name(),
        }
    }

    fn takes(self, build: Build, case: &Case) -> bool {
        match self {
            Self::Alone => !case.needs_libcrypto,
            Self::Linked | Self::Preloaded => true,
            Self::Libcrypto => !case.ours,
            // Once is enough: linked only where that is needed.
            Self::Valgrind => {
                !case.not_on_valgrind && case.needs_libcrypto == matches!(build, Build::Linked)
            }
            Self::Sanitized(sanitizer) => {
                let not_on_it = match sanitizer {
                    Sanitizer::Address => case.not_on_asan,
                    Sanitizer::Thread => case.not_on_tsan,
                };
                let is_linked = matches!(build, Build::LinkedSanitized(_));
                !not_on_it && case.needs_libcrypto == is_linked
            }
        }
    }

    fn command(self, program: &Path, openssl: &Openssl) -> Command {
        match self {
            Self::Alone | Self::Linked | Self::Libcrypto => openssl.command(program, SECONDS),
            Self::Preloaded => {
                let mut command = openssl.command("env", SECONDS);
                command
                    .arg(format!("LD_PRELOAD={}", shared_library().display()))
                    .arg(program);
                command
            }
            Self::Valgrind => {
                let mut command = openssl.command("valgrind", SECONDS_WATCHED);
                command.args([
                    "--quiet",
                    "--error-exitcode=9",
                    "--leak-check=full",
                    "--errors-for-leak-kinds=definite",
                    "--child-silent-after-fork=yes",
                ]);
                command.arg(program);
                command
            }
            Self::Sanitized(sanitizer) => {
                let mut command = openssl.command(program, SECONDS_WATCHED);
                sanitizer.set_options(&mut command, "");
                command
            }
        }
    }
}

fn cases_of(program: &Path, openssl: &Openssl) -> Result<Vec<Case>, Failed> {
    let list = stdout_of(openssl.command(program, SECONDS).arg("--list"))?;
    let case = |line: &str| {
        let (name, flags) = line.split_once(' ').expect("a case and its flags");
        let flags: u32 = flags.parse().expect("flags are a number");
        Case {
            name: name.to_owned(),
            ours: flags & 1 != 0,
            needs_libcrypto: flags & 2 != 0,
            not_on_valgrind: flags & 4 != 0,
            not_on_asan: flags & 8 != 0,
            not_on_tsan: flags & 16 != 0,
        }
    };
    Ok(list.lines().map(case).collect())
}
