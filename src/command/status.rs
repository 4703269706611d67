//! `rsasync status`: what the jobs of processes do, once or again and again.

use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::library;
use crate::objects;
use crate::process::{self, Process};
use crate::prometheus;
use crate::snapshot::{Activity, Snapshot};
use crate::table::Table;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
    Prometheus,
}

/// The document that `--json` prints, one a line.
#[derive(Serialize)]
struct Document {
    /// The version of this document; it changes when a reader of the former one would be misled.
    schema: u32,
    processes: Vec<Snapshot>,
}

pub fn status(
    pids: &[i32],
    tree: bool,
    format: Format,
    watch: Option<Duration>,
) -> Result<ExitCode> {
    let mut is_first = true;
    loop {
        let pids = match tree {
            true => process::with_descendants(pids)?,
            false => pids.to_vec(),
        };
        let (mut processes, mut errors) = (Vec::new(), Vec::new());
        for &pid in &pids {
            match snapshots(pid) {
                Ok(of_process) => processes.extend(of_process),
                Err(error) => errors.push(error.about(pid)),
            }
        }
        // Of a tree, those that have something to tell; the others are helpers, without rsasync.
        if !tree || processes.is_empty() {
            for error in &errors {
                anstream::eprintln!("rsasync: {error}");
            }
        }
        let is_failed = match tree {
            true => processes.is_empty(),
            false => !errors.is_empty(),
        };
        if !processes.is_empty() {
            if !is_first && format == Format::Text {
                anstream::println!();
            }
            is_first = false;
            print(processes, format).map_err(|error| Error::new(error.to_string()))?;
        } else if is_failed {
            return Ok(ExitCode::from(2));
        }
        let Some(time) = watch else {
            return Ok(ExitCode::from(if is_failed { 2 } else { 0 }));
        };
        thread::sleep(time);
    }
}

fn snapshots(pid: i32) -> Result<Vec<Snapshot>> {
    let process = Process::open(pid)?;
    let look = || -> Result<Vec<_>> {
        let objects = objects::objects(&process)?;
        let libraries = library::required(&process, &objects)?;
        let snapshots = libraries.iter().map(|library| {
            let state = library.state(&process)?;
            let name = &process.name;
            Ok(Snapshot::take(
                &process, pid, name, library, &objects, &state,
            ))
        });
        snapshots.collect()
    };
    look().map_err(|error| process.or_ended(error))
}

fn print(processes: Vec<Snapshot>, format: Format) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    match format {
        Format::Text => processes.iter().try_for_each(|it| print_text(&mut out, it)),
        Format::Prometheus => write!(out, "{}", prometheus::text(&processes)),
        Format::Json => {
            let document = Document {
                schema: 1,
                processes,
            };
            writeln!(out, "{}", serde_json::to_string(&document)?)
        }
    }?;
    out.flush()
}

fn print_text(out: &mut impl Write, it: &Snapshot) -> io::Result<()> {
    let bold = anstyle::Style::new().bold();
    let (pid, program) = (it.pid, &it.program);
    writeln!(
        out,
        "{bold}{pid} {program}{bold:#}, rsasync {}",
        it.library.version
    )?;
    let mut table = Table::new(&[
        "thread",
        "running",
        "paused",
        "orphaned",
        "abandoned",
        "idle",
        "starts",
        "pauses",
        "resumes",
        "finishes",
    ]);
    for thread in &it.threads {
        add_row(&mut table, &thread.tid.to_string(), &thread.activity);
    }
    if it.ended_threads.starts > 0 || it.ended_threads.jobs.abandoned > 0 {
        add_row(&mut table, "ended", &it.ended_threads);
    }
    if it.threads.len() != 1 {
        add_row(&mut table, "all", &it.all);
    }
    writeln!(out, "{table}")?;
    let refusals = [
        ("pool size", it.refusals.pool_size),
        ("NULL", it.refusals.null),
        ("no memory", it.refusals.memory),
        ("wrong thread or state, stale handle", it.refusals.state),
    ];
    writeln!(out, "  calls refused: {}", reasons(&refusals))?;
    let no_jobs = [
        ("limit", it.no_jobs.limit),
        ("no memory", it.no_jobs.memory),
    ];
    writeln!(out, "  starts that got no job: {}", reasons(&no_jobs))?;
    let stacks = &it.stacks;
    let resident = match stacks.resident_bytes {
        Some(bytes) => format!("{} in memory", size(bytes)),
        None => "not known how much in memory".to_owned(),
    };
    writeln!(
        out,
        "  stacks: {} of {} (at most {} together, {} without a guard), {resident}; deepest use {}",
        stacks.existing,
        size(stacks.bytes),
        stacks.peak,
        stacks.unguarded,
        size(stacks.deepest_bytes),
    )?;
    if it.orphans_reclaimed > 0 {
        writeln!(out, "  orphans reclaimed: {}", it.orphans_reclaimed)?;
    }
    let yellow = anstyle::AnsiColor::Yellow.on_default();
    for remark in &it.remarks {
        writeln!(out, "  {yellow}{remark}{yellow:#}")?;
    }
    Ok(())
}

fn add_row(table: &mut Table, name: &str, of: &Activity) {
    let jobs = &of.jobs;
    let numbers = [
        jobs.running,
        jobs.paused,
        jobs.orphaned,
        jobs.abandoned,
        jobs.idle,
        of.starts,
        of.pauses,
        of.resumes,
        of.finishes,
    ];
    let numbers = numbers.map(|number| number.to_string());
    table.add([name.to_owned()].into_iter().chain(numbers));
}

/// "3 (limit 2, no memory 1)"
fn reasons(counts: &[(&str, u64)]) -> String {
    let all: u64 = counts.iter().map(|(_, count)| count).sum();
    let parts: Vec<_> = counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    match parts.is_empty() {
        true => all.to_string(),
        false => format!("{all} ({})", parts.join(", ")),
    }
}

/// A number of bytes for people.
pub fn size(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    let kib = bytes as f64 / KIB;
    match kib {
        ..1.0 => format!("{bytes} B"),
        ..1024.0 if kib.fract() == 0.0 => format!("{kib} KiB"),
        ..1024.0 => format!("{kib:.1} KiB"),
        ..1_048_576.0 => format!("{:.1} MiB", kib / KIB),
        _ => format!("{:.1} GiB", kib / KIB / KIB),
    }
}
