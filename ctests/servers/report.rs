//! The table of what the servers did, which is printed and written to target/servers.

use std::fs;
use std::sync::{Mutex, PoisonError};

use maud::{DOCTYPE, PreEscaped, html};

use super::run::{Plan, Seen};
use super::site::Library;
use crate::stage::TARGET;
use crate::table::{STYLE, Table};

static ROWS: Mutex<Vec<Vec<String>>> = Mutex::new(Vec::new());
static ORPHANS: Mutex<Vec<Vec<String>>> = Mutex::new(Vec::new());

const HEADER: [&str; 10] = [
    "server",
    "version",
    "library",
    "load",
    "handshakes",
    "dropped",
    "lost",
    "a second",
    "pauses",
    "MB resident",
];

const HEADER_OF_ORPHANS: [&str; 3] = ["HAProxy on", "lost clients", "bytes that each leaves"];

/// Adds what was seen of a server on one library.
pub fn add(plan: &Plan, seen: &Seen) {
    let steady = &seen.steady;
    let rate = steady.completed as f64 / steady.elapsed.as_secs_f64();
    let accelerator = plan.accelerator.map(|it| it.name());
    push(
        &ROWS,
        vec![
            plan.server.name().to_owned(),
            seen.version.clone(),
            seen.library.name().to_owned(),
            accelerator.unwrap_or("no accelerator").to_owned(),
            seen.completed().to_string(),
            seen.dropped().to_string(),
            seen.losses().count().to_string(),
            format!("{rate:.0}"),
            seen.pauses.to_string(),
            format!("{:.1}", seen.resident as f64 / 1e6),
        ],
    );
}

pub fn add_orphans(library: Library, settings: &[&str], clients: usize, bytes: u64) {
    let mut name = vec![library.name()];
    name.extend(settings);
    push(
        &ORPHANS,
        vec![name.join(", "), clients.to_string(), bytes.to_string()],
    );
}

fn push(rows: &Mutex<Vec<Vec<String>>>, row: Vec<String>) {
    let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
    rows.push(row);
}

/// A table of what was added; None if nothing was.
fn table(header: &[&str], rows: &Mutex<Vec<Vec<String>>>) -> Option<Table> {
    let rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
    let header = header.iter().map(|&title| title.to_owned()).collect();
    let all = [header].into_iter().chain(rows.iter().cloned()).collect();
    (!rows.is_empty()).then_some(Table(all))
}

/// Prints the tables, and writes the page.
pub fn show() -> std::io::Result<()> {
    let tables = [table(&HEADER, &ROWS), table(&HEADER_OF_ORPHANS, &ORPHANS)];
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { "rsasync: under servers" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "rsasync and libcrypto: under servers" }
                p {
                    "Each server was put under the same load on libcrypto's jobs and with rsasync "
                    "preloaded: for each handshake that was completed another one was dropped in the "
                    "middle, and the server reloaded three times. Lost are handshakes that the client "
                    "wanted to complete and could not; the rate and the memory of the workers are "
                    "those of the load after the last reload."
                }
                @for table in tables.iter().flatten() {
                    (table.html())
                }
            }
        }
    };
    for table in tables.iter().flatten() {
        println!();
        table.print();
    }
    let directory = TARGET.join("servers");
    fs::create_dir_all(&directory)?;
    let report = directory.join("report.html");
    fs::write(&report, page.into_string())?;
    println!("\nthese tables as a page: {}", report.display());
    Ok(())
}
