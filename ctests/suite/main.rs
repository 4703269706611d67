//! Runs all checks of the library from outside, in parallel, each with a time limit.
//! `make test FLAGS=NAME` runs those whose names contain NAME.

mod build;
mod command;
mod cost;
mod differences;
mod endurance;
mod exports;
mod faults;
mod fuzz;
mod gdb;
mod gdb_jobs;
mod handlers;
mod headers;
mod install;
mod layers;
mod man_pages;
mod plain_switch;
mod probes;
mod sanitizer_bugs;
mod servers;
mod unwinding;
mod valgrind;

use std::process::exit;

use harness::chapters::Way;
use harness::openssl::SYSTEM;
use harness::{chapters, programs};
use libtest_mimic::Trial;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let mut trials = exports::trials();
    trials.extend(headers::trials());
    trials.extend(install::trials());
    trials.extend(build::trials());
    trials.extend(layers::trials());
    trials.extend(man_pages::trials());
    let mut checks = programs::without_openssl();
    checks.extend(programs::with_openssl(&SYSTEM));
    let of_chapters = chapters::programs(&SYSTEM, &chapters::ALL);
    let ways = chapters::ALL.into_iter();
    let (on_valgrind, elsewhere): (Vec<_>, Vec<_>) = ways.partition(|way| *way == Way::Valgrind);
    checks.extend(chapters::checks(&of_chapters, &elsewhere));
    trials.extend(checks.into_iter().map(Trial::from));
    trials.extend(faults::trials());
    trials.extend(cost::trials());
    trials.extend(sanitizer_bugs::trials());
    trials.extend(command::trials());
    trials.extend(gdb::trials());
    trials.extend(gdb_jobs::trials());
    trials.extend(probes::trials());
    trials.extend(handlers::trials());
    trials.extend(valgrind::trials());
    let on_valgrind = chapters::checks(&of_chapters, &on_valgrind).into_iter();
    trials.extend(spread(servers::trials(), on_valgrind.map(Trial::from)));
    trials.extend(plain_switch::trials(&of_chapters));
    trials.extend(unwinding::trials(&of_chapters));
    trials.extend(endurance::trials());
    trials.extend(fuzz::trials());
    trials.extend(differences::trials(&of_chapters, &trials));
    let end = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        print!("{} passed, {} failed", end.num_passed, end.num_failed);
        match end.num_ignored {
            0 => println!(),
            ignored => println!(", {ignored} skipped"),
        }
    }
    let nothing_ran = end.num_passed + end.num_failed + end.num_ignored == 0;
    if nothing_ran && !arguments.list {
        eprintln!("no trial has a name that contains that; --list shows all names");
    }
    exit(if end.has_failed() || nothing_ran && !arguments.list {
        101
    } else {
        0
    });
}

/// Puts some of the others before each server's trials. A server waits much, for its master or its
/// accelerator, and for the server before; the others run meanwhile.
fn spread(of_servers: Vec<Trial>, mut others: impl Iterator<Item = Trial>) -> Vec<Trial> {
    const BEFORE_EACH: usize = 25;
    let (mut spread, mut last) = (Vec::new(), String::new());
    for trial in of_servers {
        let (server, _) = trial.name().rsplit_once("::").unwrap_or_default();
        if server != last {
            server.clone_into(&mut last);
            spread.extend(others.by_ref().take(BEFORE_EACH));
        }
        spread.push(trial);
    }
    spread.extend(others);
    spread
}
