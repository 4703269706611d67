//! What the fuzzer prints: its progress, a summary, a difference.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::check::Checked;
use crate::outcome::{Difference, Outcome, common_length};
use crate::program::Step;
use crate::readme_table::{ROWS, Row};
use crate::text;

/// Counts of the programs so far.
pub struct Tally {
    pub programs: u64,
    /// Programs that ran on both libraries.
    on_both: u64,
    events: usize,
    rows: BTreeMap<Row, RowTally>,
}

/// How many programs reached a row, how many of these ran on libcrypto, and in how many of those
/// it differed.
#[derive(Clone, Copy, Default)]
struct RowTally {
    programs: u64,
    on_libcrypto: u64,
    differed: u64,
}

impl Tally {
    pub fn new() -> Self {
        Self {
            programs: 0,
            on_both: 0,
            events: 0,
            rows: ROWS.map(|row| (row, RowTally::default())).into(),
        }
    }

    /// Counts a program. `libcrypto_differs`: a row for which it ran on libcrypto, and the result.
    pub fn count(
        &mut self,
        checked: &Checked,
        on_both: bool,
        libcrypto_differs: Option<(Row, bool)>,
    ) {
        self.programs += 1;
        self.on_both += u64::from(on_both);
        self.events += checked.trace.len();
        for row in checked.rows.keys() {
            self.rows.entry(*row).or_default().programs += 1;
        }
        if let Some((row, differed)) = libcrypto_differs {
            let row = self.rows.entry(row).or_default();
            row.on_libcrypto += 1;
            row.differed += u64::from(differed);
        }
    }

    /// Prints the counts. Fails if a row was never reached, although there were many programs.
    pub fn summary(&self, time: Duration, agreed: &[Row], bad_input: bool) -> Result<(), String> {
        /// Number of programs by which every row is reached.
        const REACH_ALL_ROWS: u64 = 5000;
        let seconds = time.as_secs_f64().max(0.001);
        println!(
            "fuzz: {} programs, {} events, in {seconds:.0} s ({:.0} programs a second), no difference",
            self.programs,
            self.events,
            self.programs as f64 / seconds,
        );
        println!(
            "fuzz: {} ran on both libraries, {} on rsasync, checked against the contract",
            self.on_both,
            self.programs - self.on_both,
        );
        println!("fuzz: programs that reached a row of the README's table:");
        for (row, tally) in &self.rows {
            let libcrypto = if row.is_only_a_leak() {
                "; libcrypto leaks, and differs in nothing else".to_owned()
            } else if agreed.contains(row) {
                "; this libcrypto does the same".to_owned()
            } else if tally.on_libcrypto > 0 {
                format!(
                    "; libcrypto differed in {} of {}",
                    tally.differed, tally.on_libcrypto
                )
            } else {
                String::new()
            };
            println!("{:8}  {}{libcrypto}", tally.programs, row.name());
        }
        let missed = self.rows.values().filter(|tally| tally.programs == 0);
        match missed.count() {
            missed if missed > 0 && self.programs >= REACH_ALL_ROWS && !bad_input => Err(format!(
                "{missed} rows were never reached: the random programs lack something"
            )),
            _ => Ok(()),
        }
    }
}

/// A line with the progress, on a terminal only.
pub struct Progress {
    terminal: bool,
    shown: Option<Instant>,
}

impl Progress {
    pub fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            shown: None,
        }
    }

    pub fn show(&mut self, tally: &Tally, time: Duration) {
        const INTERVAL: Duration = Duration::from_millis(200);
        if self.terminal && self.shown.is_none_or(|shown| shown.elapsed() > INTERVAL) {
            let rate = tally.programs as f64 / time.as_secs_f64().max(0.001);
            eprint!(
                "\r{} programs, {rate:.0} a second, {} s ",
                tally.programs,
                time.as_secs()
            );
            let _ = io::stderr().flush();
            self.shown = Some(Instant::now());
        }
    }

    pub fn clear(&mut self) {
        if self.shown.take().is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

pub fn print_difference(difference: &Difference, seed: u64) {
    print_program(&difference.steps);
    let [first, second] = &difference.traces;
    print_traces(difference.names, [first, second]);
    print_outcome(&difference.outcome);
    println!("fuzz: seed {seed}; save this output, and run the program again by --replay");
}

/// Prints a program so that `--replay` finds it.
pub fn print_program(steps: &[Step]) {
    print!("{}", text::to_text(steps));
}

/// Prints what two traces have in common, then the first events by which they differ.
pub fn print_traces(names: [&str; 2], traces: [&[String]; 2]) {
    const EVENTS_THAT_DIFFER: usize = 5;
    let [first, second] = traces;
    let common = common_length(first, second);
    println!("fuzz: the traces of {} and {}:", names[0], names[1]);
    for line in &first[..common] {
        println!("    {line}");
    }
    for (name, trace) in names.into_iter().zip(traces) {
        for line in trace.iter().skip(common).take(EVENTS_THAT_DIFFER) {
            println!("  {name}: {line}");
        }
        if trace.len() == common {
            println!("  {name}: nothing more");
        }
    }
}

pub fn print_outcome(outcome: &Outcome) {
    match outcome {
        Outcome::Same => {
            println!("fuzz: no difference between rsasync, libcrypto and the contract")
        }
        Outcome::RsasyncDiffers => println!("fuzz: rsasync differs from the contract"),
        Outcome::Listed(rows) => {
            println!(
                "fuzz: libcrypto differs from rsasync, which agrees with the contract; the program \
                 reaches rows of the README's table that say so:"
            );
            for row in rows {
                println!("  {}", row.name());
            }
        }
        Outcome::Unlisted => println!(
            "fuzz: libcrypto differs from rsasync, which agrees with the contract; no row of the \
             README's table says so"
        ),
    }
}
