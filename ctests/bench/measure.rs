//! Measurements in rounds: in each round every subject of a comparison is measured for a short
//! time, one after the other, so that disturbances of the machine meet all of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Libcrypto,
    Rsasync,
    /// rsasync in a process without libcrypto.
    RsasyncAlone,
    /// The same with RSASYNC_WIPE_STACKS=1.
    RsasyncWiping,
    Corosensei,
    /// The `context` crate's switch.
    BareJump,
}

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Self::Libcrypto => "libcrypto",
            Self::Rsasync => "rsasync",
            Self::RsasyncAlone => "without libcrypto",
            Self::RsasyncWiping => "wiping stacks",
            Self::Corosensei => "corosensei",
            Self::BareJump => "bare jump",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Nanoseconds,
    Microseconds,
    Bytes,
    Faults,
    Jobs,
    Times,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "µs",
            Self::Faults => "faults",
            Self::Bytes => "bytes",
            Self::Jobs => "jobs",
            Self::Times => "times",
        }
    }
}

/// What rsasync must reach.
#[derive(Clone, Copy)]
pub enum Target {
    /// libcrypto's value divided by rsasync's, at least.
    Ratio(f64),
    /// rsasync's own value, at most or at least.
    AtMost(f64),
    AtLeast(f64),
}

/// A line of the report.
pub struct Row {
    pub name: String,
    pub unit: Unit,
    pub target: Option<Target>,
    /// A value of each round.
    pub values: BTreeMap<Subject, Vec<f64>>,
}

/// Rows that belong together.
pub struct Section {
    pub title: String,
    pub rows: Vec<Row>,
}

impl Row {
    pub fn new(name: impl Into<String>, unit: Unit, target: Option<Target>) -> Self {
        Self {
            name: name.into(),
            unit,
            target,
            values: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, subject: Subject, value: f64) {
        self.values.entry(subject).or_default().push(value);
    }

    pub fn summary(&self, subject: Subject) -> Option<Summary> {
        Summary::of(self.values.get(&subject)?)
    }

    /// libcrypto's median divided by rsasync's, if the row is a cost.
    pub fn ratio(&self) -> Option<f64> {
        if matches!(self.unit, Unit::Jobs | Unit::Times) {
            return None;
        }
        let ratio =
            self.summary(Subject::Libcrypto)?.median / self.summary(Subject::Rsasync)?.median;
        ratio.is_finite().then_some(ratio)
    }

    /// Whether rsasync reaches its target; `None` without one.
    pub fn is_met(&self) -> Option<bool> {
        let rsasync = self.summary(Subject::Rsasync).map(|summary| summary.median);
        Some(match self.target? {
            Target::Ratio(target) => self.ratio().is_some_and(|ratio| ratio >= target),
            Target::AtMost(target) => rsasync.is_some_and(|value| value <= target),
            Target::AtLeast(target) => rsasync.is_some_and(|value| value >= target),
        })
    }
}

/// The median of many values, and the lower and upper quartile.
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
        let quantile = |part: f64| {
            let place = part * last as f64;
            let (below, above) = (
                sorted[place.floor() as usize],
                sorted[place.ceil() as usize],
            );
            below + (above - below) * place.fract()
        };
        Some(Self {
            median: quantile(0.5),
            quartiles: [quantile(0.25), quantile(0.75)],
        })
    }

    /// The distance of the quartiles, in percent of the median.
    pub fn spread(&self) -> f64 {
        let [lower, upper] = self.quartiles;
        (upper - lower) / self.median * 100.0
    }
}

/// Makes this many iterations; returns the row's value.
pub type Measure<'a> = Box<dyn FnMut(usize) -> f64 + 'a>;

/// A row, and the subjects that are measured for it.
pub struct Comparison<'a> {
    pub row: Row,
    pub subjects: Vec<(Subject, Measure<'a>)>,
}

/// Measures each subject for this long in each round; every second round has the opposite order.
pub fn rounds(
    comparisons: Vec<Comparison>,
    rounds: u64,
    duration: Duration,
    progress: &ProgressBar,
) -> Vec<Row> {
    let mut comparisons: Vec<_> = comparisons
        .into_iter()
        .map(|Comparison { row, mut subjects }| {
            let counts: Vec<_> = subjects
                .iter_mut()
                .map(|(_, run)| calibrate(run, duration))
                .collect();
            (row, subjects, counts)
        })
        .collect();
    progress.set_length(rounds * comparisons.len() as u64);
    for round in 0..rounds {
        for (row, subjects, counts) in &mut comparisons {
            progress.set_message(row.name.clone());
            let mut order: Vec<_> = (0..subjects.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for place in order {
                let (subject, measure) = &mut subjects[place];
                row.add(*subject, measure(counts[place]));
            }
            progress.inc(1);
        }
    }
    comparisons.into_iter().map(|(row, ..)| row).collect()
}

/// How many iterations take this long. Warms up caches and pools, too.
fn calibrate(measure: &mut Measure, duration: Duration) -> usize {
    const FIRST_COUNT: usize = 256;
    let mut count = FIRST_COUNT;
    loop {
        let began = Instant::now();
        measure(count);
        let took = began.elapsed();
        if took > duration / 4 {
            let fitting = count as f64 * duration.as_secs_f64() / took.as_secs_f64();
            return (fitting as usize).max(1);
        }
        count *= 2;
    }
}
