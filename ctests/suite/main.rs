//! Runs what checks the library from outside, in parallel, each check with a time limit.
//! `cargo test -- NAME` runs those whose name contains NAME.

mod bugs;
mod cost;
mod endurance;
mod faults;
mod fuzz;
mod plain_switch;
mod surface;
mod watchers;

use std::process::exit;

use harness::openssl::SYSTEM;
use harness::{chapters, programs};
use libtest_mimic::Trial;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let mut trials = surface::trials();
    let mut checks = programs::without_openssl();
    checks.extend(programs::with_openssl(&SYSTEM));
    let programs_of_chapters = chapters::programs(&SYSTEM, &chapters::ALL);
    checks.extend(chapters::checks(&programs_of_chapters, &chapters::ALL));
    trials.extend(checks.into_iter().map(Trial::from));
    trials.extend(faults::trials());
    trials.extend(cost::trials());
    trials.extend(bugs::trials());
    trials.extend(watchers::trials());
    trials.extend(plain_switch::trials(&programs_of_chapters));
    trials.extend(endurance::trials());
    trials.extend(fuzz::trials());
    let end = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        print!("{} passed, {} failed", end.num_passed, end.num_failed);
        match end.num_ignored {
            0 => println!(),
            ignored => println!(", {ignored} skipped"),
        }
    }
    exit(if end.has_failed() { 101 } else { 0 });
}
