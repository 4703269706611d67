//! Sections of README.md, by their headings, and Markdown as parts of a page.

use std::mem::take;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use crate::page::Page;
use crate::roff::{bold, italic, roman};

const README: &str = include_str!("../../README.md");

/// A column that says nothing to those who have no source at hand.
const OF_TESTS: &str = "tested by";
/// One whose name says nothing.
const OF_MEANINGS: &str = "meaning";
/// How a paragraph on the sources begins.
const OF_SOURCES: [&str; 2] = [r"\fBexamples/", r"\fBctests/"];

/// What stands between a heading and the next one.
pub fn section(heading: &str) -> Result<&'static str, String> {
    let mut sections = README.split("\n#").filter_map(|it| it.split_once("\n\n"));
    let found = sections.find(|(title, _)| title.trim_start_matches(['#', ' ']) == heading);
    let (_, text) = found.ok_or(format!("README.md has no section \"{heading}\""))?;
    Ok(text)
}

/// A paragraph that begins with a folder of the sources is left out, as who reads the page may not have
/// them. A row of a table becomes an entry of a list, the names of its columns before their texts.
pub fn write(page: &mut Page, markdown: &str) {
    let (mut text, mut columns, mut cells) = (String::new(), Vec::new(), Vec::new());
    let mut font: fn(&str) -> String = roman;
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Strong) => font = bold,
            Event::End(TagEnd::Strong) => font = roman,
            Event::Text(it) => text += &font(&it),
            Event::Code(it) => text += &bold(&it),
            Event::SoftBreak => text.push(' '),
            Event::End(TagEnd::Paragraph) => match take(&mut text) {
                it if OF_SOURCES.iter().any(|folder| it.starts_with(folder)) => {}
                it => page.paragraph(&it),
            },
            Event::End(TagEnd::Item) => page.item(&take(&mut text)),
            Event::End(TagEnd::CodeBlock) => page.example(&take(&mut text)),
            Event::End(TagEnd::TableCell) => cells.push(take(&mut text)),
            Event::End(TagEnd::TableHead) => columns = take(&mut cells),
            Event::End(TagEnd::TableRow) => {
                let named = columns.iter().zip(&cells).skip(1);
                let texts = named.filter_map(|(column, cell)| match column.as_str() {
                    OF_TESTS => None,
                    OF_MEANINGS => Some(cell.clone()),
                    _ => Some(format!("{}: {cell}", italic(column))),
                });
                page.entry(&cells[0], &texts.collect::<Vec<_>>());
                cells.clear();
            }
            _ => {}
        }
    }
}
