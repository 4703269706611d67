//! Runs random programs on the libraries, and makes one that shows a difference smaller.

use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::Arguments;
use crate::check::{Checked, check};
use crate::executor_process::{ExecutorProcess, Stderr};
use crate::generate::{self, Inputs};
use crate::outcome::{Difference, Outcome};
use crate::program::{Args, CtxArg, Null, Op, Step};
use crate::readme_table::{ROWS, Row};
use crate::report::{self, Progress, Tally};

/// Both libraries, and what is known of the libcrypto.
pub struct Fuzzer {
    pub rsasync: ExecutorProcess,
    pub libcrypto: ExecutorProcess,
    /// Rows of the README's table where this version of libcrypto does the same as rsasync.
    pub agreed: Vec<Row>,
}

/// Which libraries a program runs on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Both, without the steps that reach a row of the table: their traces must be the same.
    Both,
    /// rsasync, and no row but this one may be reached; afterwards libcrypto, to count how often
    /// it really differs.
    OneRow(Row),
    /// rsasync, and all rows may be reached.
    Rsasync,
}

impl Fuzzer {
    pub fn new(arguments: &Arguments) -> Result<Self, String> {
        let Arguments {
            rsasync, libcrypto, ..
        } = arguments;
        let mut fuzzer = Self {
            rsasync: ExecutorProcess::new(rsasync, libcrypto, Stderr::Shown)?,
            libcrypto: ExecutorProcess::new(libcrypto, libcrypto, Stderr::Discarded)?,
            agreed: Vec::new(),
        };
        // The rows that only some versions of libcrypto have.
        let start = Op::Start {
            var: 0,
            ctx: CtxArg::Null,
            args: Args::Bytes(0),
            null: Null::Nothing,
        };
        let huge = Op::InitThread {
            max: 1 << 40,
            init: 0,
        };
        for (row, op) in [(Row::EmptyArgs, start), (Row::HugeLimit, huge)] {
            let steps = [Step { thread: 0, op }];
            let checked = check(&steps, &fuzzer.libcrypto.features, |_| false);
            if fuzzer.libcrypto.run(&checked.steps) == checked.trace {
                fuzzer.agreed.push(row);
            }
        }
        Ok(fuzzer)
    }

    /// Runs random programs until one shows a difference, or for as long as the arguments say.
    pub fn fuzz(&mut self, arguments: &Arguments) -> Result<Outcome, String> {
        let seed = arguments.seed.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |now| now.as_nanos() as u64)
        });
        println!(
            "fuzz: seed {seed}, rsasync against {}",
            self.libcrypto.features.version
        );

        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), random);
        let mostly_valid = generate::programs(Inputs::MostlyValid);
        let often_bad = generate::programs(Inputs::OftenBad);

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
            let (mode, inputs) = self.mode_and_inputs(tally.programs, arguments.bad_input);
            let programs = match inputs {
                Inputs::MostlyValid => &mostly_valid,
                Inputs::OftenBad => &often_bad,
            };
            let mut tree = programs
                .new_tree(&mut runner)
                .map_err(|error| error.to_string())?;
            let (checked, difference) = self.judge(&tree.current(), mode);
            if let Some(difference) = difference {
                progress.clear();
                println!(
                    "fuzz: program {} shows a difference; making it smaller",
                    tally.programs
                );
                let smallest = self.shrink(&mut *tree, mode).unwrap_or(difference);
                report::print_difference(&smallest, seed);
                return Ok(smallest.outcome);
            }
            let libcrypto_differs = match mode {
                Mode::OneRow(row) if checked.rows.contains_key(&row) => {
                    Some((row, self.libcrypto.run(&checked.steps) != checked.trace))
                }
                _ => None,
            };
            tally.count(&checked, mode == Mode::Both, libcrypto_differs);
            progress.show(&tally, begin.elapsed());
        }
        progress.clear();
        tally.summary(begin.elapsed(), &self.agreed, arguments.bad_input)?;
        Ok(Outcome::Same)
    }

    /// Runs a program; returns two traces that should be the same and are not.
    fn judge(&mut self, steps: &[Step], mode: Mode) -> (Checked, Option<Difference>) {
        let avoid = |row: Row| {
            let wanted = mode == Mode::Rsasync || mode == Mode::OneRow(row);
            !wanted && !row.is_only_a_leak() && !self.agreed.contains(&row)
        };
        let checked = check(steps, &self.libcrypto.features, avoid);
        self.rsasync.send(&checked.steps);
        let libcrypto = (mode == Mode::Both).then(|| self.libcrypto.run(&checked.steps));
        let rsasync = self.rsasync.trace();
        let outcome = Outcome::of(
            &checked,
            &rsasync,
            libcrypto.as_ref().unwrap_or(&rsasync),
            &self.agreed,
        );
        if outcome == Outcome::Same {
            return (checked, None);
        }
        let (names, traces) = match libcrypto {
            Some(libcrypto) if libcrypto != rsasync => {
                (["libcrypto", "rsasync"], [libcrypto, rsasync])
            }
            Some(_) => (["contract", "both"], [checked.trace.clone(), rsasync]),
            None => (["contract", "rsasync"], [checked.trace.clone(), rsasync]),
        };
        let difference = Difference {
            steps: checked.steps.clone(),
            outcome,
            names,
            traces,
        };
        (checked, Some(difference))
    }

    /// The mode and the inputs of the program with this number: of eight programs four run on both
    /// libraries, two reach one row, and two reach any.
    fn mode_and_inputs(&self, number: u64, bad_input: bool) -> (Mode, Inputs) {
        if bad_input {
            return (Mode::Rsasync, Inputs::OftenBad);
        }
        let rows = ROWS
            .into_iter()
            .filter(|row| !row.is_only_a_leak() && !self.agreed.contains(row))
            .collect::<Vec<_>>();
        let round = number / 8;
        match number % 8 {
            4 | 5 => (
                Mode::OneRow(rows[round as usize % rows.len()]),
                Inputs::OftenBad,
            ),
            6 => (Mode::Rsasync, Inputs::MostlyValid),
            7 => (Mode::Rsasync, Inputs::OftenBad),
            _ => (Mode::Both, Inputs::MostlyValid),
        }
    }

    /// The smallest difference that is found in limited time; `None` if no smaller program shows
    /// one.
    fn shrink(
        &mut self,
        tree: &mut dyn ValueTree<Value = Vec<Step>>,
        mode: Mode,
    ) -> Option<Difference> {
        const TIME_LIMIT: Duration = Duration::from_secs(120);
        let begin = Instant::now();
        let mut smallest = None;
        while begin.elapsed() < TIME_LIMIT && tree.simplify() {
            loop {
                if let (_, Some(difference)) = self.judge(&tree.current(), mode) {
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
}
