//! Compares rsasync with libcrypto, and with the contract, on random programs of API calls.
//!
//! A program that does nothing where libcrypto crashes or differs on purpose runs on both, and
//! the traces must be the same to the last event. A program that reaches such a place, which is a
//! row of the README's table, runs on rsasync, and the trace must be the one that a model of the
//! contract predicts.
//!
//! From a random program to its outcome: generate.rs makes it up, check.rs and the model leave out
//! the steps that no program may take and predict its trace, an executor runs it on a library, and
//! fuzzer.rs compares.

mod check;
mod event;
mod executor;
mod executor_process;
mod fuzzer;
mod generate;
mod library;
mod model;
mod outcome;
mod program;
mod readme_table;
mod replay;
mod report;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use fuzzer::Fuzzer;
use outcome::{Outcome, STATUS_CANT_RUN};

const MORE_HELP: &str = "\
Through make:
  make fuzz SECONDS=30
  make fuzz FLAGS=\"--replay FILE\"

Replay: a difference is printed with the smallest program that shows it, between the lines
`fuzz program begins` and `fuzz program ends`. Save the whole output of `make fuzz`, `make test` or
`make matrix`; --replay finds the programs in it, and runs them on both libraries. Steps may be
deleted from a saved program, to see which of them matter.

The same seed makes up the same programs, as long as --bad-input and the libcrypto are the same.

`make test` runs the fuzzer for 30 seconds, and for a fifth of that with --bad-input;
RSASYNC_FUZZ_SECONDS in the environment sets another number.

Exit status (make reports it as `Error N`):
  0  no difference
  1  rsasync differs from the contract
  2  the fuzzer can't run: the arguments, the libraries or the file for --replay are wrong, or
     after thousands of programs some row of the README's table was not reached
  3  only with --replay: libcrypto differs from rsasync where the README's table says so
  4  libcrypto differs from rsasync, and the README's table does not say so";

/// Compares rsasync with libcrypto on random programs of API calls, until a difference is found
#[derive(Parser)]
#[command(after_help = MORE_HELP, args_conflicts_with_subcommands = true)]
#[command(disable_help_subcommand = true)]
struct Arguments {
    /// Stop after this many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// Stop after this many programs
    #[arg(long)]
    cases: Option<u64>,
    /// Make up the programs of an earlier run again; each run prints its seed
    #[arg(long)]
    seed: Option<u64>,
    /// Only programs with many bad arguments, on rsasync alone
    #[arg(long)]
    bad_input: bool,
    /// Run the programs that are found in this log of an earlier run
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// The libcrypto to compare with
    #[arg(long, value_name = "FILE", default_value = "libcrypto.so")]
    libcrypto: PathBuf,
    /// The rsasync to test [default: target/release/librsasync.so]
    #[arg(long, value_name = "FILE", hide_default_value = true)]
    #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/librsasync.so"))]
    rsasync: PathBuf,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What the fuzzer starts in a process of its own.
#[derive(Subcommand)]
enum Part {
    /// Runs programs from standard input on a library
    #[command(hide = true)]
    Execute {
        library: PathBuf,
        libcrypto: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.part {
        Some(Part::Execute { library, libcrypto }) => {
            executor::serve(library, libcrypto).map(|()| Outcome::Same)
        }
        None => fuzz(&arguments),
    };
    match outcome {
        Ok(outcome) => outcome.exit_status().into(),
        Err(why) => {
            eprintln!("fuzz: {why}");
            STATUS_CANT_RUN.into()
        }
    }
}

fn fuzz(arguments: &Arguments) -> Result<Outcome, String> {
    let missing = readme_table::missing();
    if !missing.is_empty() {
        return Err(format!("the README's table has no such rows: {missing:?}"));
    }
    let mut fuzzer = Fuzzer::new(arguments)?;
    match &arguments.replay {
        Some(file) => fuzzer.replay(file),
        None => fuzzer.fuzz(arguments),
    }
}
