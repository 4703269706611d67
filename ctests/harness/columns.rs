//! Checks in columns, one for each OpenSSL or platform: they run as many at a time as there are
//! processors, and a table shows how many passed, groups of checks down.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stderr};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use libtest_mimic::Failed;

use crate::check::Check;

/// Runs the checks, each with the number of its column, and prints the table, the failures, and how
/// many passed. `what`: what a column is.
pub fn run(what: &str, columns: &[String], checks: Vec<(usize, Check)>) -> ExitCode {
    if checks.is_empty() {
        eprintln!("no check has such a name");
        return ExitCode::FAILURE;
    }
    let start = Instant::now();
    let results = run_all(columns, checks);
    show(what, columns, &results);
    let failed = results.iter().filter(|result| result.end.is_err()).count();
    println!(
        "{} passed, {failed} failed, in {} s",
        results.len() - failed,
        start.elapsed().as_secs()
    );
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

struct Outcome {
    column: usize,
    name: String,
    end: Result<(), Failed>,
}

fn run_all(columns: &[String], checks: Vec<(usize, Check)>) -> Vec<Outcome> {
    let all = checks.len();
    let (waiting, done) = (Mutex::new(checks.into_iter()), Mutex::new(Vec::new()));
    let next = || waiting.lock().expect("nobody panics").next();
    let work = || {
        while let Some((column, check)) = next() {
            let name = check.name.clone();
            let end = check.run();
            let mut done = done.lock().expect("nobody panics");
            let title = format!("{}: {name}", columns[column]);
            done.push(Outcome { column, name, end });
            progress(&format!("{} of {all}  {title}", done.len()));
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    progress("");
    done.into_inner().expect("nobody panics")
}

/// Prints the table, and the failures below it.
fn show(what: &str, columns: &[String], results: &[Outcome]) {
    let mut rows: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
    for Outcome { column, name, end } in results {
        let group = name
            .rsplit_once("::")
            .map_or(name.as_str(), |(group, _)| group);
        let cells = rows
            .entry(group)
            .or_insert_with(|| vec![(0, 0); columns.len()]);
        match end {
            Ok(()) => cells[*column].0 += 1,
            Err(_) => cells[*column].1 += 1,
        }
    }
    let title = format!("passed/failed on {what}");
    let groups = rows.keys().map(|group| group.len());
    let width = groups.chain([title.len()]).max().unwrap_or(0);
    let wide = |text: &str| text.len().max(8) + 2;
    print!("{title:width$}");
    for column in columns {
        print!("{column:>0$}", wide(column));
    }
    println!();
    for (group, cells) in rows {
        print!("{:width$}", group.replace("::", " "));
        for ((passed, failed), column) in cells.iter().zip(columns) {
            let cell = match passed + failed {
                0 => "-".to_owned(),
                _ => format!("{passed}/{failed}"),
            };
            print!("{cell:>0$}", wide(column));
        }
        println!();
    }
    for Outcome { column, name, end } in results {
        if let Err(why) = end {
            let why = why.message().unwrap_or_default();
            println!("\n{}: {name}\n{why}", columns[*column]);
        }
    }
}

/// Shows the line in place of the last one, if standard error is a terminal.
fn progress(line: &str) {
    let mut terminal = stderr();
    if terminal.is_terminal() {
        let _ = write!(terminal, "\r\x1b[K{line}");
        let _ = terminal.flush();
    }
}
