//! Compares rsasync with libcrypto, and with the contract, on random programs of API calls.
//!
//! A program that keeps to what libcrypto bears runs on both, and the traces must be the same
//! to the last event. One that comes where libcrypto crashes or differs, which is a row of the
//! README's table, runs on rsasync, and the trace must be what a model of the contract says.

mod event;
mod executor;
mod expected;
mod library;
mod machine;
mod model;
mod peer;
mod program;
mod report;
mod trace;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use expected::Row;
use model::Checked;
use peer::Peer;
use program::{Args, Null, Op, Slot, Step, Taste};
use report::{Progress, Tally};

/// Compares rsasync with libcrypto on random programs of API calls.
#[derive(Parser)]
struct Arguments {
    /// Stop after so many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// Stop after so many programs
    #[arg(long)]
    cases: Option<u64>,
    /// Make up the programs of an earlier run again
    #[arg(long)]
    seed: Option<u64>,
    /// Only bad arguments, on rsasync alone
    #[arg(long)]
    bad_input: bool,
    /// Run the program in this file, as printed before
    #[arg(long)]
    replay: Option<PathBuf>,
    /// The libcrypto to compare with
    #[arg(long, default_value = "libcrypto.so")]
    libcrypto: PathBuf,
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/librsasync.so"))]
    rsasync: PathBuf,
}

/// Two traces that should be the same.
struct Difference {
    steps: Vec<Step>,
    names: [&'static str; 2],
    traces: [Vec<String>; 2],
}

/// Both libraries, and what is known of the libcrypto.
struct Fuzzer {
    rsasync: Peer,
    libcrypto: Peer,
    /// Rows where this version of libcrypto does what rsasync does.
    agreed: Vec<Row>,
}

/// How a program is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// On both, without the steps that this libcrypto can't bear.
    Both,
    /// The same but for one row of the table, on rsasync; then on libcrypto, to see it differ.
    Row(Row),
    /// On rsasync alone, with whatever comes.
    Ours,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "execute") {
        let (library, libcrypto) = (arguments.next(), arguments.next());
        let (Some(library), Some(libcrypto)) = (library, libcrypto) else {
            return ExitCode::from(2);
        };
        return done(executor::serve(Path::new(&library), Path::new(&libcrypto)).map(|()| true));
    }
    done(fuzz(&Arguments::parse()))
}

fn done(outcome: Result<bool, String>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("fuzz: {why}");
            ExitCode::from(2)
        }
    }
}

fn fuzz(arguments: &Arguments) -> Result<bool, String> {
    let missing = expected::missing();
    if !missing.is_empty() {
        return Err(format!("the README's table has no such rows: {missing:?}"));
    }
    let mut fuzzer = Fuzzer::new(arguments)?;
    if let Some(file) = &arguments.replay {
        return fuzzer.replay(file);
    }
    let seed = arguments.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |now| now.as_nanos() as u64)
    });
    println!(
        "fuzz: seed {seed}, rsasync against {}",
        fuzzer.libcrypto.features.version
    );

    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let sound = program::programs(Taste::Sound);
    let bad = program::programs(Taste::Bad);

    let begin = Instant::now();
    let mut tally = Tally::new();
    let mut progress = Progress::new();
    let goes_on = |tally: &Tally| {
        arguments.cases.is_none_or(|cases| tally.programs < cases)
            && arguments
                .seconds
                .is_none_or(|seconds| begin.elapsed().as_secs() < seconds)
    };
    while goes_on(&tally) {
        let (way, taste) = fuzzer.turn(tally.programs, arguments.bad_input);
        let taste = if taste == Taste::Bad { &bad } else { &sound };
        let mut tree = taste
            .new_tree(&mut runner)
            .map_err(|error| error.to_string())?;
        let (checked, difference) = fuzzer.judge(&tree.current(), way);
        if difference.is_some() {
            progress.clear();
            println!(
                "fuzz: program {} shows a difference; making it smaller",
                tally.programs
            );
            let smallest = fuzzer.shrink(&mut *tree, way).or(difference);
            report::print(&smallest.expect("there was one"), seed);
            return Ok(false);
        }
        let differs = match way {
            Way::Row(row) if checked.rows.contains_key(&row) => {
                Some((row, fuzzer.libcrypto.run(&checked.steps) != checked.trace))
            }
            _ => None,
        };
        tally.count(&checked, way == Way::Both, differs);
        progress.show(&tally, begin.elapsed());
    }
    progress.clear();
    Ok(tally.summary(begin.elapsed(), &fuzzer.agreed, arguments.bad_input))
}

impl Fuzzer {
    fn new(arguments: &Arguments) -> Result<Self, String> {
        let Arguments {
            rsasync, libcrypto, ..
        } = arguments;
        let mut fuzzer = Self {
            rsasync: Peer::new(rsasync, libcrypto, false)?,
            libcrypto: Peer::new(libcrypto, libcrypto, true)?,
            agreed: Vec::new(),
        };
        // In some versions libcrypto does the same.
        let start = Op::Start {
            var: 0,
            ctx: Slot::Null,
            args: Args::Bytes(0),
            null: Null::Nothing,
        };
        let huge = Op::InitThread {
            max: 1 << 40,
            init: 0,
        };
        for (row, op) in [(Row::EmptyArgs, start), (Row::HugeLimit, huge)] {
            let steps = [Step { thread: 0, op }];
            let checked = model::check(&steps, &fuzzer.libcrypto.features, |_| false);
            if fuzzer.libcrypto.run(&checked.steps) == checked.trace {
                fuzzer.agreed.push(row);
            }
        }
        Ok(fuzzer)
    }

    /// Runs a program; tells where two traces that should be the same are not.
    fn judge(&mut self, steps: &[Step], way: Way) -> (Checked, Option<Difference>) {
        let avoid = |row: Row| {
            let wanted = way == Way::Ours || way == Way::Row(row);
            !wanted && !row.is_silent() && !self.agreed.contains(&row)
        };
        let checked = model::check(steps, &self.libcrypto.features, avoid);
        self.rsasync.send(&checked.steps);
        if way == Way::Both {
            let libcrypto = self.libcrypto.run(&checked.steps);
            let rsasync = self.rsasync.trace();
            let difference = compare(&checked, ["libcrypto", "rsasync"], [&libcrypto, &rsasync])
                .or_else(|| compare(&checked, ["contract", "both"], [&checked.trace, &rsasync]));
            return (checked, difference);
        }
        let rsasync = self.rsasync.trace();
        let difference = compare(
            &checked,
            ["contract", "rsasync"],
            [&checked.trace, &rsasync],
        );
        (checked, difference)
    }

    /// How the so-manieth program is run, and of which taste it is.
    fn turn(&self, number: u64, bad_input: bool) -> (Way, Taste) {
        if bad_input {
            return (Way::Ours, Taste::Bad);
        }
        let rows = expected::ROWS
            .into_iter()
            .filter(|row| !row.is_silent() && !self.agreed.contains(row))
            .collect::<Vec<_>>();
        let round = number / 8;
        match number % 8 {
            4 | 5 => (Way::Row(rows[round as usize % rows.len()]), Taste::Bad),
            6 => (Way::Ours, Taste::Sound),
            7 => (Way::Ours, Taste::Bad),
            _ => (Way::Both, Taste::Sound),
        }
    }

    fn shrink(
        &mut self,
        tree: &mut dyn ValueTree<Value = Vec<Step>>,
        way: Way,
    ) -> Option<Difference> {
        const LIMIT: Duration = Duration::from_secs(120);
        let begin = Instant::now();
        let mut smallest = None;
        while begin.elapsed() < LIMIT && tree.simplify() {
            loop {
                if let (_, Some(difference)) = self.judge(&tree.current(), way) {
                    smallest = Some(difference);
                    break;
                }
                if !tree.complicate() {
                    return smallest;
                }
            }
        }
        smallest
    }

    /// Shows what both libraries and the contract make of a program.
    fn replay(&mut self, file: &Path) -> Result<bool, String> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        let steps = program::from_text(&text)?;
        let (checked, difference) = self.judge(&steps, Way::Ours);
        println!("rows: {:?}", checked.rows);
        let traces = [
            self.libcrypto.run(&checked.steps),
            self.rsasync.run(&checked.steps),
        ];
        let names = ["libcrypto", "rsasync"];
        report::print_traces(&Difference {
            steps: checked.steps,
            names,
            traces,
        });
        if let Some(difference) = &difference {
            report::print_traces(difference);
        }
        Ok(difference.is_none())
    }
}

fn compare(
    checked: &Checked,
    names: [&'static str; 2],
    traces: [&Vec<String>; 2],
) -> Option<Difference> {
    (traces[0] != traces[1]).then(|| Difference {
        steps: checked.steps.clone(),
        names,
        traces: traces.map(Clone::clone),
    })
}
