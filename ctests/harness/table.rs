//! Tables as the benchmark and the servers show them: on a terminal, and in a page.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, LineStyle};
use maud::{Markup, html};

/// The cells of all rows, the header first.
pub struct Table(pub Vec<Vec<String>>);

impl Table {
    /// Prints the table for a terminal.
    pub fn print(&self) {
        let mut table = comfy_table::Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
        table.set_header(&self.0[0]).add_rows(&self.0[1..]);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}");
    }

    pub fn html(&self) -> Markup {
        html! {
            table {
                @for (number, row) in self.0.iter().enumerate() {
                    tr {
                        @for cell in row {
                            @if number == 0 { th { (cell) } }
                            @else { td.no[cell == "NO"] { (cell) } }
                        }
                    }
                }
            }
        }
    }
}

/// The style of a page with tables.
pub const STYLE: &str = "
body { font: 15px/1.5 sans-serif; color: #1e293b; max-width: 1100px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.6em } h2 { font-size: 1.15em; margin-top: 2em }
pre { background: #f1f5f9; padding: .8em 1em; white-space: pre-wrap }
svg { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .25em .8em; border-bottom: 1px solid #e2e8f0; white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
td.no { color: #b91c1c; font-weight: bold }
";
