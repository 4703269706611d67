//! The tables of the report, one for each section, and which targets are met.

use harness::table::Table;

use crate::measure::{Row, Section, Subject, Target};
use crate::number::number;

/// An empty cell.
const NOTHING: &str = "";

fn cell(row: &Row, subject: Subject) -> String {
    let Some(summary) = row.summary(subject) else {
        return NOTHING.to_owned();
    };
    let median = number(summary.median);
    match summary.quartiles {
        [lower, upper] if lower == upper || summary.median == 0.0 => median,
        _ => format!("{median} ±{:2.0} %", summary.spread() / 2.0),
    }
}

fn target(target: Target) -> String {
    match target {
        Target::Ratio(least) => format!("{least:.2}x"),
        Target::AtMost(most) => format!("≤ {}", number(most)),
        Target::AtLeast(least) => format!("≥ {}", number(least)),
    }
}

const HEADER: [&str; 10] = [
    "",
    "libcrypto",
    "rsasync",
    "ratio",
    "target",
    "met",
    "without libcrypto",
    "wiping stacks",
    "corosensei",
    "bare jump",
];

fn cells(row: &Row) -> [String; 10] {
    [
        format!("{}, {}", row.name, row.unit.name()),
        cell(row, Subject::Libcrypto),
        cell(row, Subject::Rsasync),
        row.ratio()
            .map_or(NOTHING.to_owned(), |ratio| format!("{ratio:.2}x")),
        row.target.map_or(NOTHING.to_owned(), target),
        row.is_met()
            .map_or(NOTHING, |met| if met { "yes" } else { "NO" })
            .to_owned(),
        cell(row, Subject::RsasyncAlone),
        cell(row, Subject::RsasyncWiping),
        cell(row, Subject::Corosensei),
        cell(row, Subject::BareJump),
    ]
}

/// A section's rows, without empty columns.
pub fn table(section: &Section) -> Table {
    let rows: Vec<_> = section.rows.iter().map(cells).collect();
    let used = |&column: &usize| rows.iter().any(|row| row[column] != NOTHING);
    let columns: Vec<_> = (0..HEADER.len()).filter(used).collect();
    let pick = |row: &[String]| columns.iter().map(|&column| row[column].clone()).collect();
    let header = HEADER.map(str::to_owned);
    Table(
        [&header]
            .into_iter()
            .chain(&rows)
            .map(|row| pick(row))
            .collect(),
    )
}

/// How many targets are met, and which are not.
pub fn verdict(sections: &[&Section]) -> String {
    let targets: Vec<_> = sections
        .iter()
        .flat_map(|section| {
            section
                .rows
                .iter()
                .map(move |row| (section, row, row.is_met()))
        })
        .filter_map(|(section, row, met)| Some((section, row, met?)))
        .collect();
    let met = targets.iter().filter(|(.., met)| *met).count();
    let mut text = format!("{met} of {} targets are met", targets.len());
    for (section, row, _) in targets.iter().filter(|(.., met)| !met) {
        text += &format!("\nnot met: {}: {}", section.title, row.name);
    }
    text
}
