//! What is printed, and shown in the report: a table for each section, and the bars.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, LineStyle};

use crate::measure::{Bar, Row, Section, Side};
use crate::number::number;

const NOTHING: &str = "";

fn cell(row: &Row, side: Side) -> String {
    let Some(summary) = row.summary(side) else {
        return NOTHING.to_owned();
    };
    let median = number(summary.median);
    match summary.quartiles {
        [lower, upper] if lower == upper => median,
        _ => format!("{median} ±{:2.0} %", summary.spread() / 2.0),
    }
}

fn bar(bar: Bar) -> String {
    match bar {
        Bar::Ratio(bar) => format!("{bar:.1}x"),
        Bar::AtMost(bar) => format!("≤ {}", number(bar)),
        Bar::AtLeast(bar) => format!("≥ {}", number(bar)),
    }
}

const HEADER: [&str; 9] = [
    "",
    "libcrypto",
    "rsasync",
    "ratio",
    "bar",
    "held",
    "without libcrypto",
    "corosensei",
    "bare jump",
];

fn cells(row: &Row) -> [String; 9] {
    [
        format!("{}, {}", row.name, row.unit.name()),
        cell(row, Side::Libcrypto),
        cell(row, Side::Rsasync),
        row.ratio()
            .map_or(NOTHING.to_owned(), |ratio| format!("{ratio:.2}x")),
        row.bar.map_or(NOTHING.to_owned(), bar),
        row.holds()
            .map_or(NOTHING, |holds| if holds { "yes" } else { "NO" })
            .to_owned(),
        cell(row, Side::Alone),
        cell(row, Side::Corosensei),
        cell(row, Side::Context),
    ]
}

/// The cells of a section, its header first, without the columns in which there is nothing.
pub struct Table(pub Vec<Vec<String>>);

impl Table {
    pub fn of(section: &Section) -> Self {
        let rows: Vec<_> = section.rows.iter().map(cells).collect();
        let used = |&column: &usize| rows.iter().any(|row| row[column] != NOTHING);
        let columns: Vec<_> = (0..HEADER.len()).filter(used).collect();
        let pick = |row: &[String]| columns.iter().map(|&column| row[column].clone()).collect();
        let header = HEADER.map(str::to_owned);
        Self(
            [&header]
                .into_iter()
                .chain(&rows)
                .map(|row| pick(row))
                .collect(),
        )
    }

    /// For a terminal.
    pub fn print(&self) {
        let mut table = comfy_table::Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
        table.set_header(&self.0[0]).add_rows(&self.0[1..]);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}");
    }
}

/// How many bars hold, and which don't.
pub fn verdict(sections: &[&Section]) -> String {
    let bars: Vec<_> = sections
        .iter()
        .flat_map(|section| {
            section
                .rows
                .iter()
                .map(move |row| (section, row, row.holds()))
        })
        .filter_map(|(section, row, holds)| Some((section, row, holds?)))
        .collect();
    let held = bars.iter().filter(|(.., holds)| *holds).count();
    let mut text = format!("{held} of {} bars hold", bars.len());
    for (section, row, _) in bars.iter().filter(|(.., holds)| !holds) {
        text += &format!("\nnot held: {}: {}", section.title, row.name);
    }
    text
}
