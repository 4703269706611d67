//! Runs what checks the library from outside, in parallel, each check with a time limit.
//! `cargo test -- NAME` runs those whose name contains NAME.

#[path = "runner/bugs.rs"]
mod bugs;
#[path = "runner/cost.rs"]
mod cost;
#[path = "runner/endurance.rs"]
mod endurance;
#[path = "runner/faults.rs"]
mod faults;
#[path = "runner/fuzz.rs"]
mod fuzz;
#[path = "runner/plain_switch.rs"]
mod plain_switch;
#[path = "runner/surface.rs"]
mod surface;
#[path = "runner/watchers.rs"]
mod watchers;

use std::process::exit;

use checks::openssl::SYSTEM;
use checks::{chapters, programs};
use libtest_mimic::Trial;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let mut trials = surface::trials();
    let mut checks = programs::without_openssl();
    checks.extend(programs::with_openssl(&SYSTEM));
    checks.extend(chapters::checks(&SYSTEM, &chapters::ALL));
    trials.extend(checks.into_iter().map(Trial::from));
    trials.extend(faults::trials());
    trials.extend(cost::trials());
    trials.extend(bugs::trials());
    trials.extend(watchers::trials());
    trials.extend(plain_switch::trials());
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
