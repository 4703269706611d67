//! Runs what checks the library from outside, in parallel, each check with a time limit.
//! `cargo test NAME` runs those whose name contains NAME.

#[path = "runner/chapters.rs"]
mod chapters;
#[path = "runner/endurance.rs"]
mod endurance;
#[path = "runner/faults.rs"]
mod faults;
#[path = "runner/fuzz.rs"]
mod fuzz;
#[path = "runner/programs.rs"]
mod programs;
#[path = "runner/stage.rs"]
mod stage;
#[path = "runner/surface.rs"]
mod surface;

use std::process::exit;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let mut trials = surface::trials();
    trials.extend(programs::trials());
    trials.extend(chapters::trials());
    trials.extend(faults::trials());
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
