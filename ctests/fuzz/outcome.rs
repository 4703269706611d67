//! What a run of the fuzzer found.

use crate::check::Checked;
use crate::program::Step;
use crate::readme_table::Row;

/// The result of a run, from the best to the worst.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Same,
    /// Only libcrypto differs from the contract, and may do so by these rows of the table.
    Listed(Vec<Row>),
    /// Only libcrypto differs from the contract, and no row of the table says so.
    Unlisted,
    /// rsasync differs from the contract.
    RsasyncDiffers,
}

/// The status for a run that could not be made; clap exits with it, too.
pub const STATUS_CANT_RUN: u8 = 2;

impl Outcome {
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Same => 0,
            Self::RsasyncDiffers => 1,
            Self::Listed(_) => 3,
            Self::Unlisted => 4,
        }
    }

    /// Compares what the libraries make of a program that was checked. `agreed` are rows where
    /// this libcrypto does the same as rsasync.
    pub fn of(checked: &Checked, rsasync: &[String], libcrypto: &[String], agreed: &[Row]) -> Self {
        if rsasync != checked.trace {
            return Self::RsasyncDiffers;
        }
        if libcrypto == rsasync {
            return Self::Same;
        }
        // A row that is reached later explains nothing.
        let parting = common_length(rsasync, libcrypto);
        let reached = checked.rows.iter().filter(|&(row, &first)| {
            first <= parting && !row.is_only_a_leak() && !agreed.contains(row)
        });
        let rows: Vec<_> = reached.map(|(&row, _)| row).collect();
        if rows.is_empty() {
            Self::Unlisted
        } else {
            Self::Listed(rows)
        }
    }
}

/// Two traces of a program that should be the same.
pub struct Difference {
    pub steps: Vec<Step>,
    pub outcome: Outcome,
    pub names: [&'static str; 2],
    pub traces: [Vec<String>; 2],
}

/// How many events are the same from the beginning.
pub fn common_length(one: &[String], other: &[String]) -> usize {
    let pairs = one.iter().zip(other);
    pairs.take_while(|(one, other)| one == other).count()
}
