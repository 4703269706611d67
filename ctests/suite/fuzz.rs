//! Random programs for some time, with a fresh seed, and the fuzzer's own test: a library with a
//! fault is found out, and the log of that is replayed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::{env, fs};

use libtest_mimic::{Failed, Trial};

use harness::stage::{BUILT, ROOT, command, compiler, headers, library_path, output_of};
use harness::stage::{shared_library, stdout_of};

/// The fuzzer's exit statuses, which its --help explains.
mod status {
    pub const SAME: i32 = 0;
    pub const RSASYNC_DIFFERS: i32 = 1;
    pub const CANT_RUN: i32 = 2;
    pub const LISTED_DIFFERENCE: i32 = 3;
    pub const UNLISTED_DIFFERENCE: i32 = 4;
}

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("fuzz::same_as_libcrypto_and_as_the_contract_says", || {
            fuzz(seconds()?, &[])
        }),
        Trial::test("fuzz::bad_input_is_answered_as_the_contract_says", || {
            fuzz(seconds()?.div_ceil(5), &["--bad-input"])
        }),
        replay("a_fault_is_found_and_replayed", fault_in_rsasync),
        replay("a_difference_of_libcrypto_alone", fault_in_libcrypto),
        replay("a_difference_that_the_readme_lists", listed_difference),
        replay("all_programs_in_a_log", several_programs),
        replay("a_log_without_a_whole_program", no_program),
        replay("a_library_that_does_not_load", missing_library),
    ]
}

fn replay(name: &str, run: fn() -> Result<(), Failed>) -> Trial {
    Trial::test(format!("fuzz::replay::{name}"), run)
}

/// How long the fuzzer runs.
fn seconds() -> Result<u32, Failed> {
    match env::var("RSASYNC_FUZZ_SECONDS") {
        Ok(seconds) => Ok(seconds.parse()?),
        Err(_) => Ok(30),
    }
}

fn fuzz(seconds: u32, flags: &[&str]) -> Result<(), Failed> {
    const SECONDS_TO_SHRINK: u32 = 180;
    let mut fuzz = command(env!("CARGO_BIN_EXE_fuzz"), seconds + SECONDS_TO_SHRINK);
    fuzz.args(["--seconds", &seconds.to_string()]).args(flags);
    fuzz.arg("--rsasync").arg(shared_library());
    let summary = stdout_of(&mut fuzz)?;
    for line in summary.lines().take(3) {
        eprintln!("{line}");
    }
    Ok(())
}

/// The libraries that the fuzzer compares.
struct Libraries {
    rsasync: PathBuf,
    libcrypto: PathBuf,
}

impl Libraries {
    fn good() -> Self {
        Self {
            rsasync: shared_library(),
            libcrypto: "libcrypto.so".into(),
        }
    }

    fn faulty_rsasync() -> Result<Self, Failed> {
        Ok(Self {
            rsasync: faulty("rsasync")?,
            ..Self::good()
        })
    }

    fn faulty_libcrypto() -> Result<Self, Failed> {
        Ok(Self {
            libcrypto: faulty("crypto")?,
            ..Self::good()
        })
    }

    /// Runs the fuzzer; returns all that it printed, if its exit status is the expected one.
    fn fuzz(&self, arguments: &[&str], status: i32) -> Result<String, Failed> {
        let mut fuzz = command(env!("CARGO_BIN_EXE_fuzz"), 300);
        fuzz.args(arguments);
        fuzz.arg("--rsasync").arg(&self.rsasync);
        fuzz.arg("--libcrypto").arg(&self.libcrypto);
        let output = fuzz.output()?;
        let printed = [&output.stdout[..], &output.stderr[..]].concat();
        let printed = String::from_utf8_lossy(&printed).into_owned();
        if output.status.code() == Some(status) {
            return Ok(printed);
        }
        Err(format!("{fuzz:?}: {}, not {status}\n{printed}", output.status).into())
    }

    /// Finds a difference by random programs; returns what the fuzzer printed. With this seed the
    /// first program to show one reaches no row of the README's table.
    fn find_difference(&self, status: i32) -> Result<String, Failed> {
        self.fuzz(&["--seed", "1", "--cases", "2000"], status)
    }

    fn replay(&self, log: &str, status: i32) -> Result<String, Failed> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("log");
        fs::write(&file, log)?;
        self.fuzz(&["--replay", path(&file)?], status)
    }
}

fn path(path: &Path) -> Result<&str, Failed> {
    Ok(path.to_str().ok_or("not UTF-8")?)
}

/// Builds faulty.c on a library.
fn faulty(library: &str) -> Result<PathBuf, Failed> {
    // Trials run at the same time: each builds a file of its own.
    static BUILDS: AtomicUsize = AtomicUsize::new(0);
    let number = BUILDS.fetch_add(1, Relaxed);
    let built = BUILT.join(format!("faulty-{library}-{number}.so"));
    let mut compiler = compiler(&ROOT.join("ctests/fuzz/faulty.c"));
    compiler.args(["-shared", "-fPIC", "-I"]).arg(headers());
    compiler.args(["-Wl,--no-as-needed", &library_path()]);
    compiler.arg(format!("-l{library}"));
    output_of(compiler.arg("-o").arg(&built))?;
    Ok(built)
}

/// A log of `make test` in which a trial has failed, with lines that look like steps but are none.
fn log_of_tests(of_fuzzer: &str) -> String {
    format!(
        "running 1874 tests\n\
         0 Pause\n\
         2 Start(var:0,ctx:Null,args:Null(0),null:Nothing)\n\
         test fuzz::same_as_libcrypto_and_as_the_contract_says ... FAILED\n\
         \n\
         failures:\n\
         \n\
         ---- fuzz::same_as_libcrypto_and_as_the_contract_says ----\n\
         \"timeout\" \"fuzz\": exit status: 1\n\
         {of_fuzzer}\n\
         0 GetWaitCtx(var:0)\n\
         1873 passed, 1 failed\n"
    )
}

fn expect_words(printed: &str, words: &str) -> Result<(), Failed> {
    if printed.contains(words) {
        return Ok(());
    }
    Err(format!("`{words}` is missing in:\n{printed}").into())
}

fn fault_in_rsasync() -> Result<(), Failed> {
    let faulty = Libraries::faulty_rsasync()?;
    let found = faulty.find_difference(status::RSASYNC_DIFFERS)?;
    expect_words(&found, "rsasync differs from the contract")?;
    // What blocks a pause, and the pause: neither can be left out of a program that shows it.
    expect_words(&found, ": Block\n")?;
    expect_words(&found, ": Pause\n")?;

    let log = log_of_tests(&found);
    let replayed = faulty.replay(&log, status::RSASYNC_DIFFERS)?;
    expect_words(&replayed, "rsasync differs from the contract")?;
    let program = program_lines(&found);
    if program_lines(&replayed) != program {
        return Err(format!("replayed another program:\n{found}\nand:\n{replayed}").into());
    }
    // A replay's own output can be replayed, and lines may have a time stamp.
    let stamped: String = replayed
        .lines()
        .map(|line| format!("2026-01-02T03:04:05Z {line}\r\n"))
        .collect();
    faulty.replay(&stamped, status::RSASYNC_DIFFERS)?;

    let replayed = Libraries::good().replay(&log, status::SAME)?;
    expect_words(&replayed, "no difference between rsasync, libcrypto and")
}

fn program_lines(printed: &str) -> Vec<&str> {
    let lines = printed.lines();
    lines
        .filter(|line| line.starts_with("fuzz step "))
        .collect()
}

fn fault_in_libcrypto() -> Result<(), Failed> {
    let faulty = Libraries::faulty_libcrypto()?;
    let found = faulty.find_difference(status::UNLISTED_DIFFERENCE)?;
    expect_words(&found, "no row of the README's table says so")?;
    let replayed = faulty.replay(&log_of_tests(&found), status::UNLISTED_DIFFERENCE)?;
    expect_words(&replayed, "no row of the README's table says so")?;

    // A row that is reached after the difference does not explain it.
    let late_row = "fuzz program begins\n\
        fuzz step 0, thread 0: NewCtx(0)\n\
        fuzz step 1, thread 0: Start(var:0,ctx:C(0),args:Null(0),null:Nothing)\n\
        fuzz step 2, thread 0: Block\n\
        fuzz step 3, thread 0: Pause\n\
        fuzz step 4, thread 0: Unblock\n\
        fuzz step 5, thread 0: Return(7)\n\
        fuzz step 6, thread 0: GetWaitCtx(var:5)\n\
        fuzz program ends\n";
    faulty.replay(late_row, status::UNLISTED_DIFFERENCE)?;
    Libraries::good().replay(late_row, status::LISTED_DIFFERENCE)?;
    Ok(())
}

const LISTED: &str = "fuzz program begins\n\
    fuzz step 0, thread 1: GetWaitCtx(var:3)\n\
    fuzz program ends\n";

const SAME: &str = "fuzz program begins\n\
    fuzz step 0, thread 0: IsCapable\n\
    fuzz program ends\n";

fn listed_difference() -> Result<(), Failed> {
    let replayed = Libraries::good().replay(&log_of_tests(LISTED), status::LISTED_DIFFERENCE)?;
    expect_words(&replayed, "rows of the README's table that say so:")?;
    expect_words(&replayed, "  `ASYNC_get_wait_ctx(NULL)`\n")
}

/// The worst outcome decides, wherever its program stands.
fn several_programs() -> Result<(), Failed> {
    let good = Libraries::good();
    let replayed = good.replay(&format!("{SAME}{SAME}"), status::SAME)?;
    expect_words(&replayed, ": 2; rsasync against")?;
    good.replay(&format!("{LISTED}{SAME}"), status::LISTED_DIFFERENCE)?;
    good.replay(&format!("{SAME}{LISTED}"), status::LISTED_DIFFERENCE)?;
    Ok(())
}

fn no_program() -> Result<(), Failed> {
    let step = "fuzz step 0, thread 0: Pause\n";
    let logs = [
        (log_of_tests(""), "no program"),
        (step.to_owned(), "no program"),
        (format!("fuzz program begins\n{step}"), "has no end"),
        (format!("fuzz program begins\n{step}{SAME}"), "has no end"),
        (SAME.replace("IsCapable", "IsCap"), "line 2"),
        (SAME.replace("IsCapable", "NewCtx(4)"), "line 2"),
        (SAME.replace("thread 0", "thread 3"), "line 2"),
        (SAME.replace("thread 0: ", ""), "line 2"),
    ];
    for (log, why) in logs {
        let printed = Libraries::good().replay(&log, status::CANT_RUN)?;
        expect_words(&printed, why)?;
        expect_words(
            &printed,
            "expected a log with the program of an earlier run",
        )?;
        // A log with this message in it is refused as well.
        Libraries::good().replay(&printed, status::CANT_RUN)?;
    }
    Ok(())
}

fn missing_library() -> Result<(), Failed> {
    let missing = Libraries {
        libcrypto: "/nonexistent/libcrypto.so".into(),
        ..Libraries::good()
    };
    let printed = missing.replay(SAME, status::CANT_RUN)?;
    expect_words(
        &printed,
        "can't be used: dlopen failed: /nonexistent/libcrypto.so",
    )
}
