//! Whole programs, unchanged, with and without a library preloaded: what loading it costs, and
//! `openssl speed -async_jobs`.

use std::error::Error;
use std::mem;
use std::path::Path;
use std::process::{Command, Stdio};

use indicatif::ProgressBar;

use crate::crowd::Files;
use crate::measure::{Comparison, Measure, Row, Section, Subject, Target, Unit};

/// What a library costs a process that does nothing, again and again.
pub fn loading<'a>(files: Files<'a>) -> Comparison<'a> {
    /// Processes for each that would fill the time of a measurement: one varies much.
    const BATCH: usize = 8;
    let of = |library: &'a Path| -> Measure<'a> {
        Box::new(move |count| {
            let [with, without] = [Some(library), None].map(|preload| {
                microseconds(1, preload); // other programs have used the caches
                microseconds(BATCH * count, preload)
            });
            with - without
        })
    };
    Comparison {
        row: Row::new(
            "loading the library",
            Unit::Microseconds,
            Some(Target::AtMost(125.0)),
        ),
        subjects: vec![
            (Subject::Libcrypto, of(files.libcrypto)),
            (Subject::Rsasync, of(files.rsasync)),
        ],
    }
}

/// Processor time of a process, of `count` one after the other.
fn microseconds(count: usize, preload: Option<&Path>) -> f64 {
    let began = of_children();
    for _ in 0..count {
        let mut command = Command::new("/bin/true");
        if let Some(library) = preload {
            command.env("LD_PRELOAD", library);
        }
        let status = command.stderr(Stdio::inherit()).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "/bin/true failed"
        );
    }
    (of_children() - began) / count as f64
}

/// Processor time of all children that have ended, in microseconds.
fn of_children() -> f64 {
    // SAFETY: plain data, for which zeros are valid; the kernel writes it.
    let usage = unsafe {
        let mut usage: libc::rusage = mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    let of = |time: libc::timeval| time.tv_sec as f64 * 1e6 + time.tv_usec as f64;
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// The title of what [`openssl_speed`] measures.
pub const SPEED: &str = "openssl speed -async_jobs: an operation";

const ALGORITHMS: [&str; 3] = ["sha256", "rsa2048", "ecdsap256"];
const JOBS: [usize; 3] = [1, 64, 1000];

pub fn rounds(quick: bool) -> u64 {
    if quick { 1 } else { 3 }
}

/// How many runs of the program are to be made for each library.
pub fn runs(quick: bool) -> u64 {
    (ALGORITHMS.len() * JOBS.len()) as u64 * rounds(quick)
}

pub fn openssl_speed(rsasync: &Path, quick: bool, progress: &ProgressBar) -> Section {
    let mut rows = Vec::new();
    for algorithm in ALGORITHMS {
        for jobs in JOBS {
            let name = format!("{algorithm}, {jobs} jobs");
            progress.set_message(format!("openssl speed: {name}"));
            let mut row = Row::new(name, Unit::Nanoseconds, None);
            let mut subjects = [Subject::Libcrypto, Subject::Rsasync];
            for _ in 0..rounds(quick) {
                for subject in subjects {
                    let preload = (subject == Subject::Rsasync).then_some(rsasync);
                    match nanoseconds(algorithm, jobs, preload) {
                        Ok(value) => row.add(subject, value),
                        Err(why) => progress.suspend(|| eprintln!("bench: openssl speed: {why}")),
                    }
                }
                progress.inc(1);
                subjects.reverse();
            }
            rows.push(row);
        }
    }
    Section {
        title: SPEED.to_owned(),
        rows,
    }
}

/// Processor time of the first kind of operation that it measures: a digest, or a signature.
fn nanoseconds(
    algorithm: &str,
    jobs: usize,
    preload: Option<&Path>,
) -> Result<f64, Box<dyn Error>> {
    let mut openssl = Command::new("openssl");
    openssl.args([
        "speed",
        "-mr",
        "-seconds",
        "1",
        "-bytes",
        "1024",
        "-async_jobs",
    ]);
    openssl.arg(jobs.to_string());
    if algorithm == "sha256" {
        openssl.arg("-evp");
    }
    openssl.arg(algorithm);
    if let Some(preload) = preload {
        openssl.env("LD_PRELOAD", preload);
    }
    let output = openssl.output()?;
    // +R:8049452:sha256:1.990000, or +R1:3438:2048:1.99
    let said = String::from_utf8_lossy(&output.stderr);
    let result = said.lines().find(|line| line.starts_with("+R"));
    let fields: Vec<_> = result.ok_or("no result")?.split(':').collect();
    let [_, count, _, seconds] = fields[..] else {
        return Err(format!("a result of another kind: {fields:?}").into());
    };
    Ok(seconds.parse::<f64>()? / count.parse::<f64>()? * 1e9)
}
