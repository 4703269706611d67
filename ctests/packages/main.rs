//! `make packages`: builds the Debian and RPM packages without a network, and looks at what they are:
//! linted, installed into a clean system, used, upgraded, removed; reproduced; with the ABI and the
//! list of crates that they should have.

mod kind;
mod life;
mod provenance;
mod root;
mod source;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::Parser;
use libtest_mimic::Trial;

use harness::stage::TARGET;

/// Checks the packages.
#[derive(Parser)]
struct Options {
    /// Leaves out what builds all once more, and cargo-c.
    #[arg(long)]
    short: bool,
    /// Only the checks whose names contain this.
    name: Option<String>,
}

/// Where packages are built.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| TARGET.join("packages"));

fn main() -> ExitCode {
    let Options { short, name } = Options::parse();
    let mut checks = life::checks();
    checks.extend(provenance::checks(short));
    checks.extend(source::checks(short));
    let arguments = libtest_mimic::Arguments {
        filter: name,
        ..libtest_mimic::Arguments::default()
    };
    let trials = checks.into_iter().map(Trial::from).collect();
    let end = libtest_mimic::run(&arguments, trials);
    println!("{} passed, {} failed", end.num_passed, end.num_failed);
    end.exit_code()
}
