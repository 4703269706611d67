//! The chapters of the contract: the cases that each has, and how each is built and run. The
//! table of the ways is in check.h.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use libtest_mimic::Failed;

use crate::check::Check;
use crate::openssl::Openssl;
use crate::sanitizer::Sanitizer;
use crate::stage::{BuiltOnce, ROOT, output_of, stdout_of};

/// How a chapter's program is built: the columns "built against" and "linked with" of check.h's
/// table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Build {
    Alone,
    Linked,
    OnLibcrypto,
    AloneSanitized(Sanitizer),
    LinkedSanitized(Sanitizer),
}

/// How a case is run: a row of check.h's table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Alone,
    Linked,
    Preloaded,
    Libcrypto,
    Valgrind,
    Sanitized(Sanitizer),
}

/// The ways without a memory checker, which would find nothing new on another OpenSSL.
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

/// The time limit of a case, and of one that valgrind or a sanitizer slows down.
const CASE_TIMEOUT_S: u32 = 120;
const SLOW_CASE_TIMEOUT_S: u32 = 300;

struct Case {
    name: String,
    flags: u32,
}

// The flags of check.h.
const OURS: u32 = 1;
const NEEDS_LIBCRYPTO: u32 = 2;
const NOT_ON_VALGRIND: u32 = 4;
const NOT_ON_ASAN: u32 = 8;
const NOT_ON_TSAN: u32 = 16;
const NOT_EMULATED: u32 = 32;

/// A chapter's program in one build. Its cases are known from its preprocessed source, which takes
/// milliseconds; it is compiled when the first of its cases runs.
pub struct Program {
    source: PathBuf,
    build: Build,
    openssl: &'static Openssl,
    cases: Result<Vec<Case>, Failed>,
    built: BuiltOnce,
}

/// The source files of all chapters.
pub fn sources() -> Vec<PathBuf> {
    let is_source = |path: &PathBuf| path.extension().is_some_and(|it| it == "c" || it == "cc");
    let mut sources: Vec<PathBuf> = fs::read_dir(ROOT.join("ctests/chapters"))
        .expect("ctests/chapters can't be read")
        .map(|entry| entry.expect("ctests/chapters can't be read").path())
        .filter(is_source)
        .collect();
    sources.sort();
    sources
}

/// A chapter's name: its file's, without the extension.
pub fn name_of(source: &Path) -> String {
    let stem = source.file_stem().expect("a source file has a name");
    stem.to_string_lossy().into_owned()
}

/// The programs of all chapters that these ways need, for this OpenSSL.
pub fn programs(openssl: &'static Openssl, ways: &[Way]) -> Vec<Arc<Program>> {
    let mut builds = vec![Build::Alone, Build::Linked, Build::OnLibcrypto];
    for way in ways {
        if let Way::Sanitized(sanitizer) = *way {
            builds.push(Build::AloneSanitized(sanitizer));
            builds.push(Build::LinkedSanitized(sanitizer));
        }
    }
    let has_cxx = !openssl.platform.cxx.is_empty();
    let sources = sources().into_iter();
    let sources =
        sources.filter(|source| has_cxx || source.extension().is_some_and(|it| it == "c"));
    let programs = sources.flat_map(|source| {
        let program = |&build: &Build| Arc::new(Program::new(source.clone(), build, openssl));
        builds.iter().map(program).collect::<Vec<_>>()
    });
    programs.collect()
}

/// A check for each case of these programs in each of these ways. The first check of each program
/// comes before all others: as it compiles the program, the runner's threads then compile
/// different programs at the same time, instead of waiting for one.
pub fn checks(programs: &[Arc<Program>], ways: &[Way]) -> Vec<Check> {
    // If none had any, check.h's CASE would have become another one.
    let has_cases = |program: &Arc<Program>| program.cases.as_ref().is_ok_and(|it| !it.is_empty());
    assert!(programs.iter().any(has_cases), "no chapter has a case");
    let (mut first, mut others) = (Vec::new(), Vec::new());
    for program in programs {
        let mut checks = program.checks(ways).into_iter();
        first.extend(checks.next());
        others.extend(checks);
    }
    first.extend(others);
    first
}

/// All cases of these programs as `chapter::case`, with whether they are flagged OURS. In builds
/// with OpenSSL's header the flags depend on its version; those builds are left out.
pub fn flagged_ours(programs: &[Arc<Program>]) -> Result<BTreeMap<String, bool>, Failed> {
    let mut all = BTreeMap::new();
    for program in programs {
        if matches!(program.build, Build::Alone | Build::Linked) {
            for case in program.cases.as_ref().map_err(Failed::clone)? {
                let name = format!("{}::{}", program.chapter(), case.name);
                all.insert(name, case.flags & OURS != 0);
            }
        }
    }
    Ok(all)
}

impl Program {
    fn new(source: PathBuf, build: Build, openssl: &'static Openssl) -> Self {
        let preprocess = || {
            let mut compiler = build.compiler(&source, openssl);
            cases_in(&stdout_of(compiler.args(["-E", "-P"]))?)
        };
        Self {
            cases: preprocess(),
            source,
            build,
            openssl,
            built: BuiltOnce::new(),
        }
    }

    pub fn chapter(&self) -> String {
        name_of(&self.source)
    }

    /// Whether it is built without libcrypto and without a sanitizer.
    pub fn is_alone(&self) -> bool {
        self.build == Build::Alone
    }

    /// The names of its cases that run in this way.
    pub fn cases(&self, way: Way) -> Result<Vec<String>, Failed> {
        let cases = self.cases.as_ref().map_err(Failed::clone)?;
        let is_emulated = self.openssl.platform.is_emulated;
        let taken = cases.iter().filter(|case| {
            way.takes(self.build, case) && !(is_emulated && case.flags & NOT_EMULATED != 0)
        });
        Ok(taken.map(|case| case.name.clone()).collect())
    }

    /// Compiles it, unless that was done before; its path.
    pub fn executable(&self) -> Result<&Path, Failed> {
        self.built.get_or_build(|| {
            let executable = self
                .openssl
                .built()
                .join(self.chapter())
                .with_extension(self.build.suffix());
            let mut compiler = self.build.compiler(&self.source, self.openssl);
            compiler.arg(self.openssl.platform.library_path());
            compiler.args(self.build.libraries());
            output_of(compiler.arg("-o").arg(&executable))?;
            self.compare_lists(&executable)?;
            Ok(executable)
        })
    }

    /// The program must list the cases that its preprocessed source showed: a difference would be
    /// a case that never runs.
    fn compare_lists(&self, executable: &Path) -> Result<(), Failed> {
        let mut list = self.openssl.run(executable, &[], CASE_TIMEOUT_S);
        let listed = stdout_of(list.arg("--list"))?;
        let listed: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
        let cases = self.cases.as_ref().map_err(Failed::clone)?;
        let found = cases
            .iter()
            .map(|case| format!("{} {}", case.name, case.flags))
            .collect::<BTreeSet<_>>();
        let difference: Vec<_> = listed.symmetric_difference(&found).collect();
        if difference.is_empty() {
            return Ok(());
        }
        Err(format!("its own list and its preprocessed source differ in {difference:?}").into())
    }

    /// Its checks; one that fails if its cases can't be found out.
    fn checks(self: &Arc<Self>, ways: &[Way]) -> Vec<Check> {
        let mut checks = Vec::new();
        for &way in ways.iter().filter(|way| self.build.serves(**way)) {
            match self.cases(way) {
                Ok(cases) => checks.extend(cases.into_iter().map(|case| self.check(way, case))),
                Err(why) => {
                    let name = format!("build::{}::{}", way.name(), self.chapter());
                    checks.push(Check::new(name, || Err(why)));
                }
            }
        }
        checks
    }

    fn check(self: &Arc<Self>, way: Way, case: String) -> Check {
        let name = format!("{}::{}::{case}", way.name(), self.chapter());
        let program = Arc::clone(self);
        Check::new(name, move || {
            let mut command = way.command(program.executable()?, program.openssl);
            output_of(command.arg(&case)).map(drop)
        })
    }
}

/// The cases of a preprocessed chapter: for each, check.h's macro CASE leaves a function
/// `check_register_NAME`, with `c.where = FLAGS; c.run = NAME;` in it.
fn cases_in(preprocessed: &str) -> Result<Vec<Case>, Failed> {
    let case = |registration: &str| {
        let (name, body) = registration.split_once('(')?;
        let (fields, _) = body.split_once("c.run =")?;
        let (_, flags) = fields.rsplit_once("c.where =")?;
        Some(Case {
            name: name.to_owned(),
            flags: flags_of(flags.trim().trim_end_matches(';'), preprocessed)?,
        })
    };
    let registrations = preprocessed.split("void check_register_").skip(1);
    let cases = registrations.map(|registration| {
        case(registration).ok_or_else(|| {
            let start: String = registration.chars().take(400).collect();
            Failed::from(format!("not what CASE of check.h leaves: {start}"))
        })
    });
    cases.collect()
}

/// The value of `OURS | NOT_ON_ASAN`, of such a constant's own definition `NAME = VALUE` in an
/// enum, or of a number. None if it is something else, or there is no such definition.
fn flags_of(expression: &str, preprocessed: &str) -> Option<u32> {
    let value = |word: &str| {
        if let Ok(number) = word.parse() {
            return Some(number);
        }
        let definition = format!(" {word} = ");
        let (_, rest) = preprocessed.split_once(&definition)?;
        flags_of(&rest[..rest.find([',', '}', '\n'])?], preprocessed)
    };
    expression
        .split('|')
        .try_fold(0, |flags, word| Some(flags | value(word.trim())?))
}

impl Build {
    /// The extension of the programs' names.
    fn suffix(self) -> String {
        match self {
            Self::Alone => "alone".to_owned(),
            Self::Linked => "linked".to_owned(),
            Self::OnLibcrypto => "openssl".to_owned(),
            Self::AloneSanitized(sanitizer) => format!("alone-{}", sanitizer.name()),
            Self::LinkedSanitized(sanitizer) => format!("linked-{}", sanitizer.name()),
        }
    }

    /// The compiler for a chapter, with all that decides how the source reads.
    fn compiler(self, source: &Path, openssl: &Openssl) -> Command {
        let mut compiler = match self {
            Self::AloneSanitized(sanitizer) | Self::LinkedSanitized(sanitizer) => {
                sanitizer.compiler(source)
            }
            Self::Alone | Self::Linked | Self::OnLibcrypto => openssl.platform.compiler(source),
        };
        let headers = openssl.platform.headers();
        match self {
            Self::Alone | Self::AloneSanitized(_) => compiler.arg("-I").arg(headers),
            Self::Linked | Self::LinkedSanitized(_) => {
                compiler.arg("-I").arg(headers).arg("-DWITH_LIBCRYPTO")
            }
            Self::OnLibcrypto => compiler.args(["-DWITH_LIBCRYPTO", "-DON_LIBCRYPTO"]),
        };
        compiler.args(openssl.compile_flags());
        compiler
    }

    fn libraries(self) -> &'static [&'static str] {
        match self {
            Self::Alone | Self::AloneSanitized(_) => &["-lrsasync"],
            Self::Linked | Self::LinkedSanitized(_) => &["-lrsasync", "-lcrypto"],
            Self::OnLibcrypto => &["-lcrypto"],
        }
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
        let has = |flag: u32| case.flags & flag != 0;
        match self {
            Self::Alone => !has(NEEDS_LIBCRYPTO),
            Self::Linked | Self::Preloaded => true,
            Self::Libcrypto => !has(OURS),
            // The slow tools run each case once: linked with libcrypto only if it needs that.
            Self::Valgrind => {
                !has(NOT_ON_VALGRIND) && has(NEEDS_LIBCRYPTO) == (build == Build::Linked)
            }
            Self::Sanitized(sanitizer) => {
                let excluded = match sanitizer {
                    Sanitizer::Address => has(NOT_ON_ASAN),
                    Sanitizer::Thread => has(NOT_ON_TSAN),
                };
                let is_linked = matches!(build, Build::LinkedSanitized(_));
                !excluded && has(NEEDS_LIBCRYPTO) == is_linked
            }
        }
    }

    fn command(self, program: &Path, openssl: &Openssl) -> Command {
        match self {
            Self::Alone | Self::Linked | Self::Libcrypto => {
                openssl.run(program, &[], CASE_TIMEOUT_S)
            }
            Self::Preloaded => {
                openssl.run(program, &[openssl.platform.preloading()], CASE_TIMEOUT_S)
            }
            Self::Valgrind => {
                let mut command = openssl.command("valgrind", SLOW_CASE_TIMEOUT_S);
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
                let mut command = openssl.run(program, &[], SLOW_CASE_TIMEOUT_S);
                sanitizer.set_options(&mut command, "");
                command
            }
        }
    }
}
