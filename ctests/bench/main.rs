//! `make bench`: measures the costs of rsasync's and libcrypto's calls in one run, in turn.

mod calls;
mod client;
mod clock;
mod crowd;
mod loops;
mod measure;
mod number;
mod plot;
mod programs;
mod promises;
mod report;
mod servers;
mod switchers;
mod table;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use calls::Alone;
use crowd::{Files, Plan};
use loops::Loaded;
use measure::{Comparison, Section};
use report::Results;

/// Measures the costs of rsasync's and libcrypto's calls, in turn; writes a report to target/bench
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Arguments {
    /// Fewer rounds, and smaller crowds
    #[arg(long)]
    quick: bool,
    /// Only the rows and crowds whose names contain one of these words
    rows: Vec<String>,
    /// The libcrypto to compare with
    #[arg(long, value_name = "FILE", default_value = "libcrypto.so")]
    libcrypto: PathBuf,
    /// The rsasync to measure [default: target/release/librsasync.so]
    #[arg(long, value_name = "FILE", hide_default_value = true)]
    #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/librsasync.so"))]
    rsasync: PathBuf,
    /// The same with line tables, to tell what each source file costs a call
    #[arg(long, value_name = "FILE")]
    with_lines: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What the benchmark starts in a process of its own.
#[derive(Subcommand)]
enum Part {
    /// Measures single calls, as requested on standard input
    #[command(hide = true)]
    MeasureCalls { library: PathBuf },
    /// Measures a crowd
    #[command(hide = true)]
    MeasureCrowd {
        jobs: usize,
        threads: usize,
        library: PathBuf,
        /// Another library, which is loaded first
        #[arg(long)]
        beside: Option<PathBuf>,
    },
    /// Puts a load on a TLS server
    #[command(hide = true)]
    LoadServer {
        address: SocketAddr,
        in_flight: usize,
        handshakes: usize,
    },
}

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.part {
        None => compare(&arguments),
        Some(part) => measure_part(part),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn measure_part(part: &Part) -> Outcome {
    match part {
        Part::MeasureCalls { library } => calls::serve(&Loaded::load(library)?)?,
        Part::MeasureCrowd {
            jobs,
            threads,
            library,
            beside,
        } => {
            let _beside = beside.as_deref().map(Loaded::load).transpose()?;
            let plan = Plan {
                jobs: *jobs,
                threads: *threads,
                rounds: 1,
            };
            crowd::serve(&Loaded::load(library)?, &plan)?;
        }
        Part::LoadServer {
            address,
            in_flight,
            handshakes,
        } => client::serve(*address, *in_flight, *handshakes)?,
    }
    Ok(())
}

fn compare(arguments: &Arguments) -> Outcome {
    let wanted = |name: &str| {
        let words = &arguments.rows;
        words.is_empty() || words.iter().any(|word| name.contains(word))
    };
    // libcrypto is loaded first: rsasync looks for one when its first job starts.
    let libcrypto = Loaded::load(&arguments.libcrypto)?;
    let rsasync = Loaded::load(&arguments.rsasync)?;
    if libcrypto.jobs.start_job as usize == rsasync.jobs.start_job as usize {
        return Err("both libraries are the same".into());
    }
    let machine = report::machine(&libcrypto)?;
    let alone = Alone::new(&arguments.rsasync)?;
    let progress = ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{wide_bar} {pos}/{len} {elapsed} {msg:40}",
    )?);

    let measure_wanted = |mut comparisons: Vec<Comparison<'_>>, rounds, milliseconds| {
        comparisons.retain(|comparison| wanted(&comparison.row.name));
        let duration = Duration::from_millis(milliseconds);
        measure::rounds(comparisons, rounds, duration, &progress)
    };
    let files = Files {
        rsasync: &arguments.rsasync,
        libcrypto: &arguments.libcrypto,
    };
    let rounds = if arguments.quick { 31 } else { 101 };
    let comparisons = calls::comparisons(&libcrypto, &rsasync, &alone, files);
    let mut calls = Section {
        title: "Calls".to_owned(),
        rows: measure_wanted(comparisons, rounds, 5),
    };
    let with_threads = calls::with_threads(&libcrypto, &rsasync);
    calls.rows.extend(measure_wanted(with_threads, rounds, 5));
    let mut speedups = measure_wanted(calls::two_threads(&libcrypto, &rsasync), rounds / 3, 60);

    let mut plans = crowd::plans(arguments.quick);
    plans.retain(|plan| wanted(&plan.title()));
    progress.set_position(0);
    progress.set_length(plans.iter().map(|plan| plan.rounds).sum());
    let crowds: Vec<_> = plans
        .into_iter()
        .map(|plan| {
            let crowd = crowd::measure(&plan, files, &progress);
            (plan, crowd)
        })
        .collect();
    for (plan, one) in &crowds {
        for (_, two) in crowds.iter().filter(|(other, _)| plan.is_half_of(other)) {
            speedups.extend(crowd::speedups(plan, one, two));
        }
    }

    let mut programs = Vec::new();
    if wanted(programs::SPEED) {
        progress.set_position(0);
        progress.set_length(programs::runs(arguments.quick));
        let speed = programs::openssl_speed(&arguments.rsasync, arguments.quick, &progress);
        programs.push(speed);
    }
    let mut plans = servers::plans(arguments.quick);
    plans.retain(|plan| wanted(&plan.title()));
    progress.set_position(0);
    progress.set_length(plans.iter().map(servers::Plan::all_rounds).sum());
    programs.extend(servers::measure(&plans, &progress));
    progress.finish_and_clear();
    let lines = arguments
        .with_lines
        .as_deref()
        .filter(|_| wanted("promises"));
    let promises = lines.map(promises::table).transpose()?;
    let results = Results {
        promises,
        programs,
        calls,
        speedups: Section {
            title: "Two threads at once: their throughput divided by that of one".to_owned(),
            rows: speedups,
        },
        crowds,
        machine,
    };
    results.report()
}
