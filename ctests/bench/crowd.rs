//! Crowds of paused jobs: time and memory for each job. Each crowd has a process of its own.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::ptr;
use std::sync::Barrier;
use std::thread;

use checks::functions::Pointer;
use indicatif::ProgressBar;
use procfs::process::Process;
use serde::{Deserialize, Serialize};

use crate::loops::{self, Loaded};
use crate::measure::{Bar, Row, Section, Side, Unit};
use crate::number::thousands;

/// What one process found. Times are nanoseconds for each job, memory is bytes for each.
#[derive(Serialize, Deserialize)]
struct Crowd {
    make: f64,
    finish: f64,
    again: f64,
    resident: f64,
    tables: f64,
    /// Of rsasync.
    unguarded: Option<u64>,
}

/// A crowd that is measured: so many jobs in each of so many threads.
pub struct Plan {
    pub jobs: usize,
    pub threads: usize,
    rounds: u32,
}

impl Plan {
    pub fn rounds(&self) -> u64 {
        self.rounds.into()
    }

    /// The other is the same with two threads.
    pub fn is_half_of(&self, other: &Self) -> bool {
        (self.jobs, self.threads, other.threads) == (other.jobs, 1, 2)
    }

    pub fn title(&self) -> String {
        let threads = if self.threads == 1 {
            "one thread"
        } else {
            "each of two threads"
        };
        format!(
            "a crowd of {} jobs in {threads}",
            thousands(self.jobs as f64)
        )
    }
}

/// All sizes, in one thread and in two; without the million if it is to be quick.
pub fn plans(quick: bool) -> Vec<Plan> {
    let sizes: &[(usize, u32)] = if quick {
        &[(1_000, 5), (10_000, 5), (50_000, 5)]
    } else {
        &[
            (1_000, 15),
            (10_000, 15),
            (50_000, 15),
            (100_000, 3),
            (1_000_000, 2),
        ]
    };
    let plan = |threads| {
        sizes.iter().map(move |&(jobs, rounds)| Plan {
            jobs,
            threads,
            rounds,
        })
    };
    plan(1).chain(plan(2)).collect()
}

/// The libraries, by their files.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    pub rsasync: &'a Path,
    pub libcrypto: &'a Path,
}

/// The rows of a crowd: these, and how many have no guard.
pub const TIMES: [&str; 3] = [
    "make and pause",
    "finish, cold",
    "start again from the pool, cold",
];
pub const MEMORY: [&str; 2] = ["resident memory", "page tables"];

/// Makes the crowds, each library in turn.
pub fn measure(plan: &Plan, files: Files, progress: &ProgressBar) -> Section {
    let bar = |bar| (plan.jobs == 50_000 && plan.threads == 1).then_some(bar);
    let million = plan.jobs == 1_000_000 && plan.threads == 1;
    let resident =
        (million || plan.jobs == 50_000 && plan.threads == 1).then_some(Bar::AtMost(4400.0));
    let mut rows = [
        Row::new(TIMES[0], Unit::Nanoseconds, bar(Bar::Ratio(1.2))),
        Row::new(TIMES[1], Unit::Nanoseconds, bar(Bar::Ratio(1.3))),
        Row::new(
            "start again from the pool, cold",
            Unit::Nanoseconds,
            bar(Bar::Ratio(1.2)),
        ),
        Row::new(MEMORY[0], Unit::Bytes, resident),
        Row::new(MEMORY[1], Unit::Bytes, None),
        Row::new(
            "jobs without a guard",
            Unit::Jobs,
            million.then_some(Bar::AtMost(0.0)),
        ),
    ];
    let mut sides = [Side::Libcrypto, Side::Rsasync, Side::Alone];
    for round in 0..plan.rounds {
        progress.set_message(plan.title());
        for side in sides {
            match in_a_process(plan, side, files) {
                Ok(crowd) => {
                    let values = [
                        crowd.make,
                        crowd.finish,
                        crowd.again,
                        crowd.resident,
                        crowd.tables,
                    ];
                    for (row, value) in rows.iter_mut().zip(values) {
                        row.add(side, value);
                    }
                    if let Some(unguarded) = crowd.unguarded {
                        rows[5].add(side, unguarded as f64);
                    }
                }
                Err(why) => {
                    progress.suspend(|| eprintln!("bench: {}, round {round}: {why}", plan.title()))
                }
            }
        }
        progress.inc(1);
        sides.reverse();
    }
    Section {
        title: plan.title(),
        rows: rows.into(),
    }
}

/// A process that takes longer hangs.
const SECONDS: &str = "300";

fn in_a_process(plan: &Plan, side: Side, files: Files) -> io::Result<Crowd> {
    let mut command = Command::new("timeout");
    command
        .arg("--kill-after=5")
        .arg(SECONDS)
        .arg(std::env::current_exe()?);
    command.args([
        "measure-crowd",
        &plan.jobs.to_string(),
        &plan.threads.to_string(),
    ]);
    match side {
        Side::Libcrypto => command.arg(files.libcrypto),
        Side::Alone => command.arg(files.rsasync),
        _ => command
            .arg(files.rsasync)
            .arg("--beside")
            .arg(files.libcrypto),
    };
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{command:?}: {}", output.status)));
    }
    ron::de::from_bytes(&output.stdout).map_err(io::Error::other)
}

/// What that process does.
pub fn serve(library: &Loaded, jobs: usize, threads: usize) -> io::Result<()> {
    // What a library sets up once is not to be counted.
    measure_thread(library, 1, &Barrier::new(1), &mut || ());
    let barrier = Barrier::new(threads);
    let mut looks = Vec::new();
    let times = thread::scope(|scope| {
        // This thread has a crowd too: malloc serves it otherwise than those that come later.
        let others: Vec<_> = (1..threads)
            .map(|_| scope.spawn(|| measure_thread(library, jobs, &barrier, &mut || ())))
            .collect();
        let mut look = || looks.push((memory(), library.stats()));
        let mut times = vec![measure_thread(library, jobs, &barrier, &mut look)];
        times.extend(
            others
                .into_iter()
                .map(|other| other.join().expect("it can't panic")),
        );
        times
    });
    let [(before, _), (after, stats)] = looks.try_into().ok().expect("it looked twice");
    let ([resident, tables], before) = (after?, before?);
    let all = (jobs * threads) as f64;
    let time = |which: usize| times.iter().map(|times| times[which]).sum::<f64>() / threads as f64;
    let crowd = Crowd {
        make: time(0),
        finish: time(1),
        again: time(2),
        resident: (resident - before[0]) / all,
        tables: (tables - before[1]) / all,
        unguarded: stats.map(|stats| stats.stacks_unguarded),
    };
    println!("{}", ron::to_string(&crowd).expect("it is plain data"));
    Ok(())
}

/// A thread's crowd is made, finished and started again, at the same time as the others'. The
/// thread looks at the memory before the first are made, and when all are paused.
fn measure_thread(
    library: &Loaded,
    count: usize,
    barrier: &Barrier,
    look: &mut dyn FnMut(),
) -> [f64; 3] {
    let mut jobs: Vec<Pointer> = vec![ptr::without_provenance_mut(1); count];
    let jobs = jobs.as_mut_ptr();
    // SAFETY: the library is loaded; there is room for so many jobs.
    unsafe {
        let ctx = (library.jobs.new)();
        barrier.wait();
        look();
        barrier.wait();
        let make = loops::crowd_start(&library.jobs, ctx, jobs, count);
        barrier.wait();
        look();
        barrier.wait();
        let finish = loops::crowd_finish(&library.jobs, ctx, jobs, count);
        barrier.wait();
        let again = loops::crowd_start(&library.jobs, ctx, jobs, count);
        barrier.wait();
        loops::crowd_finish(&library.jobs, ctx, jobs, count);
        (library.jobs.cleanup_thread)();
        (library.jobs.free)(ctx);
        [make, finish, again]
    }
}

/// Bytes that are resident, and those of page tables.
fn memory() -> io::Result<[f64; 2]> {
    let status = Process::myself()
        .and_then(|process| process.status())
        .map_err(io::Error::other)?;
    let bytes = |kib: Option<u64>| {
        kib.map(|kib| (kib << 10) as f64)
            .ok_or(io::ErrorKind::Unsupported)
    };
    Ok([bytes(status.vmrss)?, bytes(status.vmpte)?])
}

/// How much more two threads do than one, from crowds of the same size.
pub fn speedups(plan: &Plan, one: &Section, two: &Section) -> Vec<Row> {
    let speedup = |(one, two): (&Row, &Row)| {
        let name = format!("a crowd of {}: {}", thousands(plan.jobs as f64), one.name);
        let mut row = Row::new(name, Unit::Times, None);
        for (&side, one) in &one.values {
            let two = two.values.get(&side).into_iter().flatten();
            for (one, two) in one.iter().zip(two) {
                row.add(side, 2.0 * one / two);
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
