//! `make servers`: real servers on rsasync and on libcrypto's own jobs, with a table of what they did.

use std::process::{ExitCode, exit};

use clap::Parser;
use harness::servers::{Size, checks, report};
use libtest_mimic::Trial;

/// Runs real servers on rsasync and on libcrypto's own jobs; writes a report to target/servers
#[derive(Parser)]
struct Arguments {
    /// As little load as in make test
    #[arg(long)]
    short: bool,
    /// Only the checks whose names contain this
    name: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let size = match arguments.short {
        true => Size::Short,
        false => Size::Full,
    };
    let trials = checks(size).into_iter().map(Trial::from).collect();
    let of_trials = libtest_mimic::Arguments {
        filter: arguments.name,
        // Checks of one server wait for the same run.
        test_threads: Some(1),
        ..libtest_mimic::Arguments::default()
    };
    let end = libtest_mimic::run(&of_trials, trials);
    if let Err(why) = report::show() {
        eprintln!("servers: no report: {why}");
        exit(1);
    }
    end.exit_code()
}
