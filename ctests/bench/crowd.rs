//! Crowds of paused jobs: time and memory for each job. Each crowd has a process of its own.

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
use crate::measure::{Bar, Row, Section, Side, Unit};
use crate::number::thousands;

/// What is measured: for each job, but for the last.
const ROWS: [(&str, Unit); 6] = [
    (TIMES[0], Unit::Nanoseconds),
    (TIMES[1], Unit::Nanoseconds),
    (TIMES[2], Unit::Nanoseconds),
    (MEMORY[0], Unit::Bytes),
    (MEMORY[1], Unit::Bytes),
    ("jobs without a guard", Unit::Jobs),
];
pub const TIMES: [&str; 3] = [
    "make and pause",
    "finish, cold",
    "start again from the pool, cold",
];
pub const MEMORY: [&str; 2] = ["resident memory", "page tables"];

/// A value of each row, if the library has such a thing.
type Values = [Option<f64>; ROWS.len()];

/// A crowd that is measured: so many jobs in each of so many threads.
pub struct Plan {
    pub jobs: usize,
    pub threads: usize,
    pub rounds: u64,
}

impl Plan {
    /// The other is the same with two threads.
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
        let (ratio, at_most) = (|bar| Some(Bar::Ratio(bar)), |bar| Some(Bar::AtMost(bar)));
        let bars = match (self.jobs, self.threads) {
            (50_000, 1) => [
                ratio(1.2),
                ratio(1.3),
                ratio(1.2),
                at_most(4400.0),
                None,
                None,
            ],
            (1_000_000, 1) => [None, None, None, at_most(4400.0), None, at_most(0.0)],
            _ => [None; ROWS.len()],
        };
        let rows = ROWS.into_iter().zip(bars);
        rows.map(|((name, unit), bar)| Row::new(name, unit, bar))
            .collect()
    }

    /// Bytes that it takes at most.
    fn memory(&self) -> usize {
        self.jobs * self.threads * BYTES
    }
}

/// No less than a job of either library takes.
const BYTES: usize = 6 << 10;

/// All sizes, in one thread and in two; the large ones take long.
pub fn plans(quick: bool) -> Vec<Plan> {
    let all = [
        (1_000, 15),
        (10_000, 15),
        (50_000, 15),
        (100_000, 5),
        (1_000_000, 2),
    ];
    let quick_ones = [(1_000, 5), (10_000, 5), (50_000, 5)];
    let sizes = if quick { &quick_ones[..] } else { &all[..] };
    let plan = |threads| {
        sizes.iter().map(move |&(jobs, rounds)| Plan {
            jobs,
            threads,
            rounds: if jobs < 1_000_000 {
                rounds
            } else {
                rounds / threads as u64
            },
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

/// Makes the crowds, each library in turn. What fails is told, and leaves its rows empty.
pub fn measure(plan: &Plan, files: Files, progress: &ProgressBar) -> Section {
    let mut rows = plan.rows();
    let mut sides = [Side::Libcrypto, Side::Rsasync, Side::Alone];
    for _ in 0..plan.rounds {
        progress.set_message(plan.title());
        for side in sides {
            match in_a_process(plan, side, files) {
                Ok(values) => {
                    for (row, value) in rows.iter_mut().zip(values) {
                        if let Some(value) = value {
                            row.add(side, value);
                        }
                    }
                }
                Err(why) => progress.suspend(|| {
                    eprintln!("bench: {}, {}: {why}", plan.title(), side.name());
                }),
            }
        }
        progress.inc(1);
        sides.reverse();
    }
    Section {
        title: plan.title(),
        rows,
    }
}

/// A process that takes longer hangs.
const SECONDS: &str = "300";

fn in_a_process(plan: &Plan, side: Side, files: Files) -> io::Result<Values> {
    let available = Meminfo::current().map_err(io::Error::other)?.mem_available;
    if available.is_some_and(|available| available < plan.memory() as u64) {
        return Err(io::Error::other("there is not enough memory"));
    }
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", SECONDS]);
    command.arg(std::env::current_exe()?).arg("measure-crowd");
    command.args([plan.jobs, plan.threads].map(|number| number.to_string()));
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
        return Err(io::Error::other(output.status.to_string()));
    }
    ron::de::from_bytes(&output.stdout).map_err(io::Error::other)
}

/// What that process does.
pub fn serve(library: &Loaded, plan: &Plan) -> io::Result<()> {
    // In a virtual machine the first use of a page may cost more than all the rest. So the
    // kernel gets pages, and gives them back, before anything is measured.
    drop(hint::black_box(vec![1_u8; plan.memory()]));
    // What a library sets up once is not to be counted.
    measure_thread(library, 1, &Barrier::new(1), &mut || ());
    let barrier = Barrier::new(plan.threads);
    let mut looks = Vec::new();
    let times = thread::scope(|scope| {
        // This thread has a crowd too: malloc serves it otherwise than those that come later.
        let others: Vec<_> = (1..plan.threads)
            .map(|_| scope.spawn(|| measure_thread(library, plan.jobs, &barrier, &mut || ())))
            .collect();
        let mut look = || looks.push((memory(), library.stats()));
        let mut times = vec![measure_thread(library, plan.jobs, &barrier, &mut look)];
        times.extend(
            others
                .into_iter()
                .map(|other| other.join().expect("it can't panic")),
        );
        times
    });
    let [(before, _), (after, stats)] = looks.try_into().ok().expect("it looked twice");
    let (before, after) = (before?, after?);
    let time = |which| {
        let sum: f64 = times.iter().map(|times| times[which]).sum();
        Some(sum / times.len() as f64)
    };
    let each = |which| {
        let all = (plan.jobs * plan.threads) as f64;
        Some((after[which] - before[which]) / all)
    };
    let unguarded = stats.map(|stats| stats.stacks_unguarded as f64);
    let values: Values = [time(0), time(1), time(2), each(0), each(1), unguarded];
    println!("{}", ron::to_string(&values).expect("it is plain data"));
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
    let (library, jobs) = (&library.jobs, jobs.as_mut_ptr());
    // SAFETY: the library is loaded, and there is room for so many jobs.
    unsafe {
        let ctx = (library.new)();
        barrier.wait();
        look();
        barrier.wait();
        let make = clock::each(count, || loops::crowd_start(library, ctx, jobs, count));
        barrier.wait();
        look();
        barrier.wait();
        let finish = clock::each(count, || loops::crowd_finish(library, ctx, jobs, count));
        barrier.wait();
        let again = clock::each(count, || loops::crowd_start(library, ctx, jobs, count));
        barrier.wait();
        loops::crowd_finish(library, ctx, jobs, count);
        (library.cleanup_thread)();
        (library.free)(ctx);
        [make, finish, again]
    }
}

/// Bytes that are resident, and those of page tables.
fn memory() -> io::Result<[f64; 2]> {
    let status = Process::myself().and_then(|process| process.status());
    let status = status.map_err(io::Error::other)?;
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
