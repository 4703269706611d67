//! What the command writes about itself: its man pages, and the completions of shells.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use roff::{Inline, Roff, bold, roman};

/// Writes all of them into a directory. `date`: of the pages.
pub fn write(command: &mut Command, directory: &Path, date: &str) -> io::Result<()> {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, command, "rsasync", directory)?;
    }
    command.build();
    let subcommands = command.get_subcommands().filter(|it| !it.is_hide_set());
    let all: Vec<&Command> = [&*command].into_iter().chain(subcommands).collect();
    for it in &all {
        fs::write(
            directory.join(format!("{}.1", name(it))),
            page(it, &all, date)?,
        )?;
    }
    Ok(())
}

fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

fn page(command: &Command, all: &[&Command], date: &str) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    let title = name(command).to_uppercase();
    let source = concat!("rsasync ", env!("CARGO_PKG_VERSION"));
    page.extend(format!(".TH {title} 1 \"{date}\" \"{source}\"\n").bytes());
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    let mut description = Roff::new();
    description.control("SH", ["DESCRIPTION"]);
    let about = command.get_long_about().or(command.get_about());
    write_notes(&mut description, &about.unwrap_or_default().to_string());
    page.extend(description.to_roff().bytes());
    man.render_options_section(&mut page)?;
    if command.get_subcommands().any(|it| !it.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    let mut last = Roff::new();
    if let Some(notes) = command.get_after_long_help() {
        let notes = notes.to_string();
        let (notes, exit_status) = notes.split_once("Exit status: ").unwrap_or((&notes, ""));
        if !exit_status.is_empty() {
            last.control("SH", ["EXIT STATUS"]);
            write_notes(&mut last, exit_status);
        }
        if !notes.is_empty() {
            last.control("SH", ["NOTES"]);
            write_notes(&mut last, notes);
        }
    }
    last.control("SH", ["SEE ALSO"]);
    let others = all.iter().filter(|it| name(it) != name(command));
    for other in others {
        last.control("BR", [name(other), "(1),"]);
    }
    last.control("BR", ["rsasync", "(7)"]);
    page.extend(last.to_roff().bytes());
    Ok(page)
}

/// Paragraphs, and members of lists: lines that are indented, `NAMES: MEANING`.
fn write_notes(page: &mut Roff, notes: &str) {
    let lines = notes.lines().filter(|line| !line.is_empty());
    for (number, line) in lines.enumerate() {
        match line.strip_prefix("  ").and_then(|it| it.split_once(": ")) {
            Some((names, meaning)) => {
                page.control("TP", [])
                    .text([bold(names)])
                    .text([roman(meaning)]);
            }
            None => {
                if number > 0 {
                    page.control("PP", []);
                }
                page.text(with_code_in_bold(line));
            }
        }
    }
}

fn with_code_in_bold(text: &str) -> Vec<Inline> {
    let parts = text.split('`').enumerate();
    let font = |(n, part)| if n % 2 == 0 { roman(part) } else { bold(part) };
    parts.map(font).collect()
}
