//! What a person sees: progress, a summary, a difference.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::Difference;
use crate::expected::{ROWS, Row};
use crate::model::Checked;
use crate::program;

/// What was done so far.
pub struct Tally {
    pub programs: u64,
    compared: u64,
    events: usize,
    rows: BTreeMap<Row, RowTally>,
}

/// How many programs reached a row, and in how many libcrypto was seen to differ.
#[derive(Clone, Copy, Default)]
struct RowTally {
    programs: u64,
    tried: u64,
    differed: u64,
}

impl Tally {
    pub fn new() -> Self {
        Self {
            programs: 0,
            compared: 0,
            events: 0,
            rows: ROWS.map(|row| (row, RowTally::default())).into(),
        }
    }

    pub fn count(&mut self, checked: &Checked, compared: bool, differs: Option<(Row, bool)>) {
        self.programs += 1;
        self.compared += u64::from(compared);
        self.events += checked.trace.len();
        for row in checked.rows.keys() {
            self.rows.entry(*row).or_default().programs += 1;
        }
        if let Some((row, differed)) = differs {
            let row = self.rows.entry(row).or_default();
            row.tried += 1;
            row.differed += u64::from(differed);
        }
    }

    /// Prints it; false if so many programs should have reached every row, and did not.
    pub fn summary(&self, time: Duration, agreed: &[Row], bad_input: bool) -> bool {
        const MANY: u64 = 5000;
        let seconds = time.as_secs_f64().max(0.001);
        println!(
            "fuzz: {} programs, {} events, in {seconds:.0} s ({:.0} programs a second), no difference",
            self.programs,
            self.events,
            self.programs as f64 / seconds,
        );
        println!(
            "fuzz: {} ran on both libraries, {} on rsasync, checked against the contract",
            self.compared,
            self.programs - self.compared,
        );
        println!("fuzz: programs that reached a row of the README's table:");
        for (row, tally) in &self.rows {
            let libcrypto = if row.is_silent() {
                "; libcrypto leaks, which does not show".to_owned()
            } else if agreed.contains(row) {
                "; this libcrypto does the same".to_owned()
            } else if tally.tried > 0 {
                format!(
                    "; libcrypto differed in {} of {}",
                    tally.differed, tally.tried
                )
            } else {
                String::new()
            };
            println!("{:8}  {}{libcrypto}", tally.programs, row.name());
        }
        let never = self
            .rows
            .iter()
            .filter(|(_, tally)| tally.programs == 0)
            .count();
        if never > 0 && self.programs >= MANY && !bad_input {
            println!("fuzz: {never} rows were never reached: the programs miss something");
            return false;
        }
        true
    }
}

/// A line that tells how far it is, on a terminal only.
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
        const OFTEN: Duration = Duration::from_millis(200);
        if self.terminal && self.shown.is_none_or(|shown| shown.elapsed() > OFTEN) {
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

pub fn print(difference: &Difference, seed: u64) {
    print_traces(difference);
    println!("fuzz: a difference, with seed {seed}; save this and give it to --replay");
}

/// The program, then both traces up to where they part and a little further.
pub fn print_traces(difference: &Difference) {
    const FURTHER: usize = 5;
    let [first, second] = &difference.traces;
    let same = first
        .iter()
        .zip(second)
        .take_while(|(one, other)| one == other)
        .count();
    println!("# the program; the number in front of a step is its thread");
    print!("{}", program::to_text(&difference.steps));
    println!("# the traces; the number in front of an event is its step, from 0");
    for line in &first[..same] {
        println!("#   {line}");
    }
    for (name, trace) in difference.names.iter().zip(&difference.traces) {
        for line in trace.iter().skip(same).take(FURTHER) {
            println!("# {name}: {line}");
        }
        if trace.len() == same && same < first.len().max(second.len()) {
            println!("# {name}: nothing more");
        }
    }
}
