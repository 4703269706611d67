//! Crowds of paused jobs: time and memory for each job. Each crowd is made in a process of its own,
//! as memory that an earlier crowd has freed would change the numbers.

use std::hint;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::ptr;
use std::sync::Barrier;
use std::thread;

use harness::functions::Pointer;
use indicatif::ProgressBar;
use procfs::process::Process;
use procfs::{Current, Meminfo};

use crate::clock;
use crate::loops::{self, Loaded};
use crate::measure::{Row, Section, Subject, Target, Unit};
use crate::number::thousands;

/// What is measured, for each job; the last row is for the process.
const ROWS: [(&str, Unit); 8] = [
    (TIMES[0], Unit::Nanoseconds),
    (TIMES[1], Unit::Nanoseconds),
    (TIMES[2], Unit::Nanoseconds),
    ("fork, all paused", Unit::Nanoseconds),
    (MEMORY[0], Unit::Bytes),
    (MEMORY[1], Unit::Bytes),
    ("both", Unit::Bytes),
    ("jobs without a guard", Unit::Jobs),
];
pub const TIMES: [&str; 3] = [
    "make and pause",
    "finish, cold",
    "start again from the pool, cold",
];
pub const MEMORY: [&str; 2] = ["resident memory", "page tables"];

/// A value for each row; `None` where the library does not count such a thing.
type Values = [Option<f64>; ROWS.len()];

/// A crowd to measure.
pub struct Plan {
    /// Jobs in each thread.
    pub jobs: usize,
    pub threads: usize,
    pub rounds: u64,
}

impl Plan {
    /// Whether the other crowd is the same with two threads instead of one.
    pub fn is_half_of(&self, other: &Self) -> bool {
        (self.jobs, self.threads, other.threads) == (other.jobs, 1, 2)
    }

    pub fn title(&self) -> String {
        let jobs = thousands(self.jobs as f64);
        match self.threads {
            1 => format!("a crowd of {jobs} jobs in one thread"),
            _ => format!("a crowd of {jobs} jobs in each of two threads"),
        }
    }

    fn rows(&self) -> Vec<Row> {
        let ratio = |least| Some(Target::Ratio(least));
        let at_most = |most| Some(Target::AtMost(most));
        let targets = match (self.jobs, self.threads) {
            (50_000, 1) => {
                let times = [ratio(1.25), ratio(1.5), ratio(2.0), None];
                let memory = [None, None, at_most(4500.0), at_most(0.0)];
                [times, memory].concat()
            }
            (1_000_000, 1) => {
                let memory = [None, None, at_most(4500.0), at_most(0.0)];
                [[None; 4], memory].concat()
            }
            _ => vec![None; ROWS.len()],
        };
        let rows = ROWS.into_iter().zip(targets);
        rows.map(|((name, unit), target)| Row::new(name, unit, target))
            .collect()
    }

    /// An upper bound of its memory, in bytes.
    fn memory_bytes(&self) -> usize {
        /// Memory of a job of either library, at most.
        const JOB_BYTES: usize = 6 << 10;
        self.jobs * self.threads * JOB_BYTES
    }
}

/// All sizes in one thread, then in two. The large ones have few rounds, as each takes long.
pub fn plans(quick: bool) -> Vec<Plan> {
    // Jobs and rounds.
    let all = [
        (1_000, 15),
        (10_000, 15),
        (50_000, 15),
        (100_000, 5),
        (1_000_000, 1),
    ];
    let small = [(1_000, 5), (10_000, 5), (50_000, 5)];
    let sizes = if quick { &small[..] } else { &all[..] };
    let plan = |threads| {
        sizes.iter().map(move |&(jobs, rounds)| Plan {
            jobs,
            threads,
            rounds,
        })
    };
    plan(1).chain(plan(2)).collect()
}

/// The files of the libraries.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    pub rsasync: &'a Path,
    pub libcrypto: &'a Path,
}

/// Measures a crowd of each library in turn. A failure is printed, and leaves rows empty.
pub fn measure(plan: &Plan, files: Files, progress: &ProgressBar) -> Section {
    let mut rows = plan.rows();
    let mut subjects = [Subject::Libcrypto, Subject::Rsasync, Subject::RsasyncAlone];
    for _ in 0..plan.rounds {
        progress.set_message(plan.title());
        for subject in subjects {
            match in_a_process(plan, subject, files) {
                Ok(values) => {
                    for (row, value) in rows.iter_mut().zip(values) {
                        if let Some(value) = value {
                            row.add(subject, value);
                        }
                    }
                }
                Err(why) => progress.suspend(|| {
                    eprintln!("bench: {}, {}: {why}", plan.title(), subject.name());
                }),
            }
        }
        progress.inc(1);
        subjects.reverse();
    }
    Section {
        title: plan.title(),
        rows,
    }
}

fn in_a_process(plan: &Plan, subject: Subject, files: Files) -> io::Result<Values> {
    /// A process that runs longer hangs, and is ended.
    const TIME_LIMIT_SECONDS: &str = "300";
    let available = Meminfo::current().map_err(io::Error::other)?.mem_available;
    if available.is_some_and(|available| available < plan.memory_bytes() as u64) {
        return Err(io::Error::other("there is not enough memory"));
    }
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", TIME_LIMIT_SECONDS]);
    command.arg(std::env::current_exe()?).arg("measure-crowd");
    command.args([plan.jobs, plan.threads].map(|number| number.to_string()));
    match subject {
        Subject::Libcrypto => command.arg(files.libcrypto),
        Subject::RsasyncAlone => command.arg(files.rsasync),
        _ => command
            .arg(files.rsasync)
            .arg("--beside")
            .arg(files.libcrypto),
    };
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(io::Error::other(output.status.to_string()));
    }
    ron::de::from_bytes(&output.stdout).map_err(io::Error::other)
}

/// The main function of that process: measures the crowd once.
pub fn serve(library: &Loaded, plan: &Plan) -> io::Result<()> {
    // In a virtual machine the first use of a page may cost more than all else that is measured.
    // To use as many pages here makes the host provide them to the kernel beforehand.
    drop(hint::black_box(vec![1_u8; plan.memory_bytes()]));
    // A first job makes the library set up what it has once in a process or thread.
    measure_thread(library, 1, &Barrier::new(1), &mut |_| ());
    let barrier = Barrier::new(plan.threads);
    let (mut before, mut after) = (Ok([0.0; 2]), Ok([0.0; 2]));
    let (mut stats, mut fork) = (None, 0.0);
    let times = thread::scope(|scope| {
        // The main thread makes one of the crowds: malloc serves it from another kind of arena
        // than the threads that are made later.
        let others: Vec<_> = (1..plan.threads)
            .map(|_| scope.spawn(|| measure_thread(library, plan.jobs, &barrier, &mut |_| ())))
            .collect();
        let mut look = |moment| match moment {
            Moment::Before => before = memory_bytes(),
            Moment::Paused => (after, stats) = (memory_bytes(), library.stats()),
            // SAFETY: the child makes one system call.
            Moment::PausedAgain => fork = unsafe { loops::fork_once() },
        };
        let mut times = vec![measure_thread(library, plan.jobs, &barrier, &mut look)];
        times.extend(
            others
                .into_iter()
                .map(|other| other.join().expect("it can't panic")),
        );
        times
    });
    let (before, after) = (before?, after?);
    let time = |row| {
        let sum: f64 = times.iter().map(|times| times[row]).sum();
        Some(sum / times.len() as f64)
    };
    let all_jobs = (plan.jobs * plan.threads) as f64;
    let [resident, tables] = [0, 1].map(|row| (after[row] - before[row]) / all_jobs);
    let values: Values = [
        time(0),
        time(1),
        time(2),
        fork.is_finite().then_some(fork / all_jobs),
        Some(resident),
        Some(tables),
        Some(resident + tables),
        stats.map(|stats| stats.stacks_unguarded as f64),
    ];
    println!("{}", ron::to_string(&values).expect("it is plain data"));
    Ok(())
}

/// When no thread of a crowd's process does anything.
enum Moment {
    /// Before the first job of any thread.
    Before,
    /// All jobs of all threads are paused.
    Paused,
    /// They are again, after each has finished and was started anew.
    PausedAgain,
}

/// Makes a thread's crowd, finishes it and starts it again, each step at the same time as the other
/// threads. Returns nanoseconds for each job, in the order of [`TIMES`]. Calls `look` when no thread
/// does anything.
fn measure_thread(
    library: &Loaded,
    count: usize,
    barrier: &Barrier,
    look: &mut dyn FnMut(Moment),
) -> [f64; 3] {
    // Not NULL, so that the pages of the list are resident before the first snapshot.
    let mut jobs: Vec<Pointer> = vec![ptr::without_provenance_mut(1); count];
    let (library, jobs) = (&library.jobs, jobs.as_mut_ptr());
    // SAFETY: the list has room for `count` jobs, and the context lives until they have finished.
    unsafe {
        let ctx = (library.new)();
        barrier.wait();
        look(Moment::Before);
        barrier.wait();
        let make = clock::nanoseconds_each(count, || loops::crowd_start(library, ctx, jobs, count));
        barrier.wait();
        look(Moment::Paused);
        barrier.wait();
        let finish =
            clock::nanoseconds_each(count, || loops::crowd_finish(library, ctx, jobs, count));
        barrier.wait();
        let again =
            clock::nanoseconds_each(count, || loops::crowd_start(library, ctx, jobs, count));
        barrier.wait();
        look(Moment::PausedAgain);
        barrier.wait();
        loops::crowd_finish(library, ctx, jobs, count);
        (library.cleanup_thread)();
        (library.free)(ctx);
        [make, finish, again]
    }
}

/// The process's resident memory and page tables, in the order of [`MEMORY`].
fn memory_bytes() -> io::Result<[f64; 2]> {
    let status = Process::myself().and_then(|process| process.status());
    let status = status.map_err(io::Error::other)?;
    let bytes = |kib: Option<u64>| {
        kib.map(|kib| (kib << 10) as f64)
            .ok_or(io::ErrorKind::Unsupported)
    };
    Ok([bytes(status.vmrss)?, bytes(status.vmpte)?])
}

/// The throughput of two threads divided by that of one, from crowds of the same size.
pub fn speedups(plan: &Plan, one: &Section, two: &Section) -> Vec<Row> {
    let speedup = |(one, two): (&Row, &Row)| {
        let name = format!("a crowd of {}: {}", thousands(plan.jobs as f64), one.name);
        let mut row = Row::new(name, Unit::Times, None);
        for (&subject, one) in &one.values {
            let two = two.values.get(&subject).into_iter().flatten();
            for (one, two) in one.iter().zip(two) {
                row.add(subject, 2.0 * one / two);
            }
        }
        row
    };
    one.rows
        .iter()
        .zip(&two.rows)
        .take(TIMES.len())
        .map(speedup)
        .collect()
}
