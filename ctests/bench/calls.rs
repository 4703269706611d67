//! The rows of single calls, in one thread and in two at once.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Barrier;
use std::thread;

use crate::clock;
use crate::loops::{self, Loaded, Loop};
use crate::measure::{Bar, Contest, Measure, Row, Side, Unit};
use crate::switchers;

/// The same in other switchers.
type Others = &'static [(Side, fn(usize) -> f64)];

struct Call {
    name: &'static str,
    run: Loop,
    /// The least ratio.
    bar: Option<f64>,
    others: Others,
}

impl Call {
    const fn new(name: &'static str, run: Loop) -> Self {
        Self {
            name,
            run,
            bar: None,
            others: &[],
        }
    }

    const fn bar(self, ratio: f64) -> Self {
        Self {
            bar: Some(ratio),
            ..self
        }
    }

    const fn others(self, others: Others) -> Self {
        Self { others, ..self }
    }
}

const CALLS: [Call; 10] = [
    Call::new("start + finish, no args", loops::start_finish_no_args)
        .bar(4.0)
        .others(&[(Side::Corosensei, switchers::corosensei_start_finish)]),
    Call::new("start + finish, 64 bytes", loops::start_finish_64).bar(4.0),
    Call::new("start + finish, 4 KiB", loops::start_finish_4096),
    Call::new("start + finish, ten deep", loops::start_finish_ten_deep)
        .bar(3.5)
        .others(&[(
            Side::Corosensei,
            switchers::corosensei_start_finish_ten_deep,
        )]),
    Call::new("resume + pause", loops::resume_pause)
        .bar(1.9)
        .others(&[
            (Side::Corosensei, switchers::corosensei_resume_suspend),
            (Side::Context, switchers::jump),
        ]),
    Call::new("resume + pause, ten deep", loops::resume_pause_ten_deep)
        .bar(2.0)
        .others(&[(
            Side::Corosensei,
            switchers::corosensei_resume_suspend_ten_deep,
        )]),
    Call::new("get_current_job", loops::current_job).bar(2.0),
    Call::new("get_current_job, in a job", loops::current_job_in_job),
    Call::new("pause_job outside a job", loops::pause_outside),
    Call::new("a wait context's life", loops::wait_ctx_life).bar(1.0),
];

/// A process that measures rsasync without libcrypto.
pub struct Alone {
    process: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Alone {
    pub fn new(rsasync: &Path) -> io::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("measure-calls")
            .arg(rsasync)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self {
            questions: process.stdin.take(),
            answers: BufReader::new(process.stdout.take().expect("it is a pipe")),
            process,
        })
    }

    fn measure(&mut self, call: usize, count: usize) -> io::Result<f64> {
        let questions = self.questions.as_mut().expect("it is open until the end");
        writeln!(questions, "{call} {count}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        answer.trim().parse().map_err(io::Error::other)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.questions = None;
        let _ = self.process.wait();
    }
}

/// What that process does: a line names a call and a count, the answer is the time.
pub fn serve(rsasync: &Loaded) -> io::Result<()> {
    for question in io::stdin().lines() {
        let question = question?;
        let (call, count) = question.split_once(' ').unwrap_or_default();
        let call: usize = call.parse().map_err(io::Error::other)?;
        let count = count.parse().map_err(io::Error::other)?;
        // SAFETY: the library is loaded.
        println!("{}", unsafe { (CALLS[call].run)(&rsasync.jobs, count) });
    }
    Ok(())
}

/// Single calls, on whatever there is to compare.
pub fn contests<'a>(
    libcrypto: &'a Loaded,
    rsasync: &'a Loaded,
    alone: &'a RefCell<Alone>,
) -> Vec<Contest<'a>> {
    let mut contests: Vec<_> = CALLS
        .iter()
        .enumerate()
        .map(|(number, call)| {
            let mut entrants = vec![
                (Side::Libcrypto, on(libcrypto, call.run)),
                (Side::Rsasync, on(rsasync, call.run)),
                (Side::Alone, asked_of(alone, number)),
            ];
            for &(side, run) in call.others {
                entrants.push((side, Box::new(run)));
            }
            Contest {
                row: Row::new(call.name, Unit::Nanoseconds, call.bar.map(Bar::Ratio)),
                entrants,
            }
        })
        .collect();
    contests.push(Contest {
        row: Row::new(
            "the bare jump behind two C functions",
            Unit::Nanoseconds,
            None,
        ),
        entrants: vec![(Side::Context, Box::new(switchers::jump_behind_two))],
    });
    contests
}

fn on(library: &Loaded, run: Loop) -> Measure<'_> {
    // SAFETY: the library is loaded.
    Box::new(move |count| unsafe { run(&library.jobs, count) })
}

fn asked_of(alone: &RefCell<Alone>, call: usize) -> Measure<'_> {
    Box::new(move |count| {
        let answer = alone.borrow_mut().measure(call, count);
        answer.expect("the process without libcrypto has ended")
    })
}

/// How much more two threads do than one, each doing the same.
pub fn two_threads<'a>(libcrypto: &'a Loaded, rsasync: &'a Loaded) -> Vec<Contest<'a>> {
    [
        ("start + finish", loops::start_finish_no_args as Loop),
        ("resume + pause", loops::resume_pause),
    ]
    .map(|(name, run)| {
        let speedup = |library: &'a Loaded| -> Measure<'a> {
            Box::new(move |count| rate(library, run, count, 2) / rate(library, run, count, 1))
        };
        Contest {
            row: Row::new(
                format!("{name} in two threads"),
                Unit::Times,
                Some(Bar::AtLeast(1.9)),
            ),
            entrants: vec![
                (Side::Libcrypto, speedup(libcrypto)),
                (Side::Rsasync, speedup(rsasync)),
            ],
        }
    })
    .into()
}

/// How many turns so many threads do together in a nanosecond.
fn rate(library: &Loaded, run: Loop, count: usize, threads: usize) -> f64 {
    let barrier = Barrier::new(threads);
    let work = || {
        // SAFETY: the library is loaded.
        let turns = |count| unsafe { run(&library.jobs, count) };
        turns(count / 10 + 1); // what a thread's first job costs is not meant
        barrier.wait();
        clock::each(count, || {
            turns(count);
        })
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let times = threads
            .into_iter()
            .map(|thread| thread.join().expect("it can't panic"));
        times.map(|time| 1.0 / time).sum()
    })
}
