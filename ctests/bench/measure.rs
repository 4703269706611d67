//! Rounds: all that is compared is measured for a moment each, in turn, many times.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Libcrypto,
    Rsasync,
    /// In a process without libcrypto.
    Alone,
    Corosensei,
    /// The `context` crate.
    Context,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Self::Libcrypto => "libcrypto",
            Self::Rsasync => "rsasync",
            Self::Alone => "without libcrypto",
            Self::Corosensei => "corosensei",
            Self::Context => "bare jump",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Nanoseconds,
    Bytes,
    Jobs,
    Times,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Bytes => "bytes",
            Self::Jobs => "jobs",
            Self::Times => "times",
        }
    }
}

/// What is asked of rsasync.
#[derive(Clone, Copy)]
pub enum Bar {
    /// libcrypto's value is so many times rsasync's.
    Ratio(f64),
    /// rsasync's own value.
    AtMost(f64),
    AtLeast(f64),
}

/// A line of the report: its values are of each round.
pub struct Row {
    pub name: String,
    pub unit: Unit,
    pub bar: Option<Bar>,
    pub values: BTreeMap<Side, Vec<f64>>,
}

/// Rows that belong together.
pub struct Section {
    pub title: String,
    pub rows: Vec<Row>,
}

impl Row {
    pub fn new(name: impl Into<String>, unit: Unit, bar: Option<Bar>) -> Self {
        Self {
            name: name.into(),
            unit,
            bar,
            values: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, side: Side, value: f64) {
        self.values.entry(side).or_default().push(value);
    }

    pub fn summary(&self, side: Side) -> Option<Summary> {
        Summary::of(self.values.get(&side)?)
    }

    /// libcrypto's median by rsasync's, of what is a cost.
    pub fn ratio(&self) -> Option<f64> {
        if !matches!(self.unit, Unit::Nanoseconds | Unit::Bytes) {
            return None;
        }
        Some(self.summary(Side::Libcrypto)?.median / self.summary(Side::Rsasync)?.median)
    }

    /// Whether the bar holds; None without one.
    pub fn holds(&self) -> Option<bool> {
        let rsasync = self.summary(Side::Rsasync).map(|summary| summary.median);
        Some(match self.bar? {
            Bar::Ratio(bar) => self.ratio().is_some_and(|ratio| ratio >= bar),
            Bar::AtMost(bar) => rsasync.is_some_and(|value| value <= bar),
            Bar::AtLeast(bar) => rsasync.is_some_and(|value| value >= bar),
        })
    }
}

/// The middle of many values, and where half of them lie.
#[derive(Clone, Copy)]
pub struct Summary {
    pub median: f64,
    pub quartiles: [f64; 2],
}

impl Summary {
    fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |part: f64| {
            let place = part * last as f64;
            let (below, above) = (
                sorted[place.floor() as usize],
                sorted[place.ceil() as usize],
            );
            below + (above - below) * place.fract()
        };
        Some(Self {
            median: at(0.5),
            quartiles: [at(0.25), at(0.75)],
        })
    }

    /// The distance of the quartiles, in percent of the median.
    pub fn spread(&self) -> f64 {
        let [lower, upper] = self.quartiles;
        (upper - lower) / self.median * 100.0
    }
}

/// Measures so many turns.
pub type Measure<'a> = Box<dyn FnMut(usize) -> f64 + 'a>;

/// A row, and those who are measured for it.
pub struct Contest<'a> {
    pub row: Row,
    pub entrants: Vec<(Side, Measure<'a>)>,
}

/// Measures all in turn for a moment, round by round, each second time in the opposite order.
pub fn rounds(
    contests: Vec<Contest>,
    rounds: u64,
    moment: Duration,
    progress: &ProgressBar,
) -> Vec<Row> {
    let mut contests: Vec<_> = contests
        .into_iter()
        .map(|Contest { row, mut entrants }| {
            let counts: Vec<_> = entrants
                .iter_mut()
                .map(|(_, run)| calibrate(run, moment))
                .collect();
            (row, entrants, counts)
        })
        .collect();
    progress.set_length(rounds * contests.len() as u64);
    for round in 0..rounds {
        for (row, entrants, counts) in &mut contests {
            progress.set_message(row.name.clone());
            let mut order: Vec<_> = (0..entrants.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for which in order {
                let (side, measure) = &mut entrants[which];
                row.add(*side, measure(counts[which]));
            }
            progress.inc(1);
        }
    }
    contests.into_iter().map(|(row, ..)| row).collect()
}

/// How many turns take a moment; also warms up.
fn calibrate(measure: &mut Measure, moment: Duration) -> usize {
    let mut count = 256;
    loop {
        let began = Instant::now();
        measure(count);
        let took = began.elapsed();
        if took > moment / 4 {
            let turns = count as f64 * moment.as_secs_f64() / took.as_secs_f64();
            return (turns as usize).max(1);
        }
        count *= 2;
    }
}
