//! What a person sees: tables.

use std::io;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, LineStyle, Table};

use crate::measure::{Bar, Row, Section, Side};

/// Rounded, with commas between the thousands.
pub fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value <= -0.5 {
        format!("-{text}")
    } else {
        text
    }
}

/// As many digits as mean something.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => thousands(value),
    }
}

const NOTHING: &str = "";

fn cell(row: &Row, side: Side) -> String {
    row.summary(side).map_or(NOTHING.to_owned(), |summary| {
        format!(
            "{} ±{:2.0} %",
            number(summary.median),
            summary.spread() / 2.0
        )
    })
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
        format!("{}, {}", row.name, row.unit),
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

/// A table of each section, and how many bars hold.
pub fn print(sections: &[Section]) {
    for section in sections {
        println!("\n{}\n{}", section.title, table(section));
    }
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
    println!("\n{held} of {} bars hold", bars.len());
    for (section, row, _) in bars.iter().filter(|(.., holds)| !holds) {
        println!("not held: {}: {}", section.title, row.name);
    }
}

/// Without the columns in which there is nothing.
fn table(section: &Section) -> Table {
    let rows: Vec<_> = section.rows.iter().map(cells).collect();
    let used = |&column: &usize| rows.iter().any(|row| row[column] != NOTHING);
    let columns: Vec<_> = (0..HEADER.len()).filter(used).collect();
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_header(columns.iter().map(|&column| HEADER[column]));
    for row in &rows {
        table.add_row(columns.iter().map(|&column| &row[column]));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

pub fn write(_sections: &[Section]) -> io::Result<()> {
    Ok(())
}
