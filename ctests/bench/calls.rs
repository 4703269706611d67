//! The costs of single calls, and how much more two threads do than one.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Barrier;
use std::thread;

use crate::clock;
use crate::crowd::Files;
use crate::loops::{self, Loaded, Loop};
use crate::measure::{Comparison, Measure, Row, Subject, Target, Unit};
use crate::programs;
use crate::switchers;

/// Other implementations of stack switches that do the same.
type Others = &'static [(Subject, fn(usize) -> f64)];

struct Call {
    name: &'static str,
    run: Loop,
    /// The least ratio of libcrypto's cost to rsasync's.
    target: Option<f64>,
    others: Others,
}

impl Call {
    const fn new(name: &'static str, run: Loop) -> Self {
        Self {
            name,
            run,
            target: None,
            others: &[],
        }
    }

    const fn target(self, ratio: f64) -> Self {
        Self {
            target: Some(ratio),
            ..self
        }
    }

    const fn others(self, others: Others) -> Self {
        Self { others, ..self }
    }
}

const CALLS: [Call; 11] = [
    Call::new("start + finish, no args", loops::start_finish_no_args)
        .target(4.5)
        .others(&[(Subject::Corosensei, switchers::corosensei_start_finish)]),
    Call::new("start + finish, 64 bytes", loops::start_finish_64).target(4.5),
    Call::new("start + finish, 4 KiB", loops::start_finish_4096).target(2.0),
    Call::new(
        "start + finish, ten calls deep",
        loops::start_finish_ten_deep,
    )
    .target(4.5)
    .others(&[(
        Subject::Corosensei,
        switchers::corosensei_start_finish_ten_deep,
    )]),
    Call::new("resume + pause", loops::resume_pause)
        .target(2.3)
        .others(&[
            (Subject::Corosensei, switchers::corosensei_resume_suspend),
            (Subject::BareJump, switchers::jump),
        ]),
    Call::new(
        "resume + pause, ten calls deep",
        loops::resume_pause_ten_deep,
    )
    .target(2.3)
    .others(&[(
        Subject::Corosensei,
        switchers::corosensei_resume_suspend_ten_deep,
    )]),
    Call::new("get_current_job", loops::current_job).target(3.0),
    Call::new("get_current_job, in a job", loops::current_job_in_job),
    Call::new("pause_job outside a job", loops::pause_outside).target(2.0),
    Call::new(
        "wait context: new, set, get, clear, free",
        loops::wait_ctx_life,
    )
    .target(1.3),
    Call::new("start + finish + cleanup_thread", loops::job_and_cleanup).target(1.0),
];

/// They are measured last: from the first thread on a process's mutexes cost more.
const WITH_THREADS: [Call; 2] = [
    // Most of it is the thread's own.
    Call::new("a thread with a job", loops::thread_with_a_job).target(0.97),
    Call::new(
        "wait context: the same, in a process with threads",
        loops::wait_ctx_life,
    ),
];

/// Two processes without libcrypto that measure rsasync.
pub struct Alone {
    plain: RefCell<AloneProcess>,
    /// Its environment has RSASYNC_WIPE_STACKS=1.
    wiping: RefCell<AloneProcess>,
}

impl Alone {
    pub fn new(rsasync: &Path) -> io::Result<Self> {
        let process = |wipes| AloneProcess::new(rsasync, wipes).map(RefCell::new);
        Ok(Self {
            plain: process(false)?,
            wiping: process(true)?,
        })
    }
}

struct AloneProcess {
    process: Child,
    /// Its standard input; `None` once it is closed, which ends the process.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl AloneProcess {
    fn new(rsasync: &Path, wipes: bool) -> io::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .env("RSASYNC_WIPE_STACKS", if wipes { "1" } else { "0" })
            .arg("measure-calls")
            .arg(rsasync)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self {
            requests: process.stdin.take(),
            answers: BufReader::new(process.stdout.take().expect("it is a pipe")),
            process,
        })
    }

    fn measure(&mut self, call: usize, count: usize) -> io::Result<f64> {
        let requests = self.requests.as_mut().expect("it is open until the end");
        writeln!(requests, "{call} {count}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        answer.trim().parse().map_err(io::Error::other)
    }
}

impl Drop for AloneProcess {
    fn drop(&mut self) {
        self.requests = None;
        let _ = self.process.wait();
    }
}

/// The main function of that process. A request is a line with a call's place in `CALLS` and a
/// count; the answer is nanoseconds for each.
pub fn serve(rsasync: &Loaded) -> io::Result<()> {
    for request in io::stdin().lines() {
        let request = request?;
        let (call, count) = request.split_once(' ').unwrap_or_default();
        let call: usize = call.parse().map_err(io::Error::other)?;
        let count = count.parse().map_err(io::Error::other)?;
        // SAFETY: the loops call only the functions in the library's table.
        println!("{}", unsafe { (CALLS[call].run)(&rsasync.jobs, count) });
    }
    Ok(())
}

/// Single calls, of both libraries and of what else does the same.
pub fn comparisons<'a>(
    libcrypto: &'a Loaded,
    rsasync: &'a Loaded,
    alone: &'a Alone,
    files: Files<'a>,
) -> Vec<Comparison<'a>> {
    let mut comparisons: Vec<_> = CALLS
        .iter()
        .enumerate()
        .map(|(number, call)| {
            let mut subjects = vec![
                (Subject::Libcrypto, on(libcrypto, call.run)),
                (Subject::Rsasync, on(rsasync, call.run)),
                (Subject::RsasyncAlone, in_process(&alone.plain, number)),
                (Subject::RsasyncWiping, in_process(&alone.wiping, number)),
            ];
            for &(subject, run) in call.others {
                subjects.push((subject, Box::new(run)));
            }
            Comparison {
                row: Row::new(call.name, Unit::Nanoseconds, call.target.map(Target::Ratio)),
                subjects,
            }
        })
        .collect();
    comparisons.push(programs::loading(files));
    comparisons.push(Comparison {
        row: Row::new(
            "the bare jump behind two C functions",
            Unit::Nanoseconds,
            None,
        ),
        subjects: vec![(Subject::BareJump, Box::new(switchers::jump_behind_two))],
    });
    comparisons
}

/// Calls in a process that has, or had, more than one thread.
pub fn with_threads<'a>(libcrypto: &'a Loaded, rsasync: &'a Loaded) -> Vec<Comparison<'a>> {
    let comparison = |call: &Call| Comparison {
        row: Row::new(call.name, Unit::Nanoseconds, call.target.map(Target::Ratio)),
        subjects: vec![
            (Subject::Libcrypto, on(libcrypto, call.run)),
            (Subject::Rsasync, on(rsasync, call.run)),
        ],
    };
    WITH_THREADS.iter().map(comparison).collect()
}

fn on(library: &Loaded, run: Loop) -> Measure<'_> {
    // SAFETY: the loops call only the functions in the library's table.
    Box::new(move |count| unsafe { run(&library.jobs, count) })
}

fn in_process(alone: &RefCell<AloneProcess>, call: usize) -> Measure<'_> {
    Box::new(move |count| {
        let answer = alone.borrow_mut().measure(call, count);
        answer.expect("the process without libcrypto has ended")
    })
}

/// The throughput of two threads divided by that of one.
pub fn two_threads<'a>(libcrypto: &'a Loaded, rsasync: &'a Loaded) -> Vec<Comparison<'a>> {
    [
        ("start + finish", loops::start_finish_no_args as Loop),
        ("resume + pause", loops::resume_pause),
    ]
    .map(|(name, run)| {
        let speedup = |library: &'a Loaded| -> Measure<'a> {
            Box::new(move |count| rate(library, run, count, 2) / rate(library, run, count, 1))
        };
        Comparison {
            row: Row::new(
                format!("{name} in two threads"),
                Unit::Times,
                Some(Target::AtLeast(1.9)),
            ),
            subjects: vec![
                (Subject::Libcrypto, speedup(libcrypto)),
                (Subject::Rsasync, speedup(rsasync)),
            ],
        }
    })
    .into()
}

/// Iterations in a nanosecond, of all threads together.
fn rate(library: &Loaded, run: Loop, count: usize, threads: usize) -> f64 {
    let barrier = Barrier::new(threads);
    let work = || {
        // SAFETY: the loops call only the functions in the library's table.
        let iterate = |count| unsafe { run(&library.jobs, count) };
        iterate(count / 10 + 1); // the cost of a thread's first job is left out
        barrier.wait();
        clock::nanoseconds_each(count, || {
            iterate(count);
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
