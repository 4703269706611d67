//! The page of a function, from its comment and those of its types and macros.

use std::collections::BTreeSet;

use crate::comment::{CAVEATS, HISTORY, RETURNS, lower_first, mentions, words};
use crate::header::{Declaration, Kind};
use crate::page::{FUNCTIONS, Page};
use crate::roff::{bold, italic, roman};

pub fn page(it: &Declaration, all: &[Declaration], date: &str) -> Result<String, String> {
    let mut page = Page::new(&it.name, FUNCTIONS, &it.comment.summary(), date);
    page.section("LIBRARY");
    page.paragraph(&prose(it, "rsasync (librsasync, `-lrsasync`)"));
    page.paragraph(&prose(it, BUILDING));

    page.section("SYNOPSIS");
    let mut synopsis = format!("#include <{}>\n", it.header);
    let visible = types_of(it, all).filter(|it| !it.is_opaque());
    for declared in visible.chain([it]) {
        synopsis.push('\n');
        declared.lines().for_each(|line| synopsis += &(line + "\n"));
    }
    page.lines(&bold(synopsis.trim_end()));

    page.section("DESCRIPTION");
    for (n, paragraph) in it.comment.description().enumerate() {
        match n {
            0 => page.paragraph(&sentence(it, paragraph)),
            _ => page.paragraph(&prose(it, paragraph)),
        }
    }
    for (name, meaning) in it.comment.parameters() {
        page.entry(&italic(name), &[prose(it, meaning.trim_start())]);
    }
    describe_types(&mut page, it, all);
    describe_macros(&mut page, it, all);
    for returns in it.comment.part(RETURNS) {
        describe_return_value(&mut page, it, returns);
    }
    for caveats in it.comment.part(CAVEATS) {
        page.section("CAVEATS");
        page.paragraph(&prose(it, &format!("{CAVEATS}{caveats}")));
    }

    page.section("HISTORY");
    let is_of_openssl = it.name.starts_with("ASYNC_");
    let history = it.comment.part(HISTORY).next();
    page.paragraph(&match (history, is_of_openssl) {
        (Some(since), true) => {
            let since = format!("appeared in OpenSSL{since} rsasync has it with every version.");
            sentence(it, &since)
        }
        (None, false) => "OpenSSL has no such function.".to_owned(),
        _ => return Err(format!("{}: since which OpenSSL?", it.name)),
    });

    let related = all.iter().filter(|other| is_related(it, other, all));
    let mut pages: BTreeSet<_> = related.map(|other| (FUNCTIONS, &*other.name)).collect();
    pages.extend([("1", "rsasync"), ("7", "rsasync")]);
    let mut text = it.comment.text();
    if text.contains("_R_") {
        pages.insert((FUNCTIONS, "RSASYNC_last_error"));
        text += ERRORS;
    }
    let of_openssl = text.split(' ').filter_map(|it| it.split_once("(3ssl)"));
    pages.extend(of_openssl.map(|(name, _)| ("3ssl", name)));
    // Debian has no page of the functions since 3.2; these two tell of all.
    let subjects = [
        ("ASYNC_WAIT_CTX_", "ASYNC_WAIT_CTX_new"),
        ("ASYNC_", "ASYNC_start_job"),
    ];
    let subject = subjects
        .iter()
        .find(|(prefix, _)| it.name.starts_with(prefix));
    pages.extend(subject.map(|&(_, name)| ("3ssl", name)));
    Ok(page.see_also(pages))
}

const BUILDING: &str = "Compile with `pkg-config --cflags rsasync`; link before `-lcrypto`.";
const ERRORS: &str = " Where libcrypto is in the process, ERR_get_error(3ssl) gives the error, of \
    library ERR_LIB_ASYNC; the names are in `<openssl/err.h>` and `<openssl/asyncerr.h>`. \
    RSASYNC_last_error() tells it in words, always.";

/// Text of a comment: names with an underscore, and what is marked by backticks, in bold; parameters
/// in italics.
fn prose(it: &Declaration, text: &str) -> String {
    let font = |name: &str| {
        let bare = name.trim_start_matches('*');
        let is_parameter = it
            .comment
            .parameters()
            .any(|(parameter, _)| parameter == bare);
        match is_parameter || bare != name {
            true => italic(name),
            false => bold(name),
        }
    };
    let mut prose = String::new();
    for (n, part) in text.split('`').enumerate() {
        if n % 2 == 1 {
            prose += &font(part);
            continue;
        }
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        for piece in part.split_inclusive(|c| !is_name(c)) {
            let name = piece.trim_end_matches(|c| !is_name(c));
            let rest = &piece[name.len()..];
            prose += &if name.contains('_') {
                font(name)
            } else {
                roman(name)
            };
            prose += &roman(rest);
        }
    }
    prose
}

/// A sentence whose subject is the function.
fn sentence(it: &Declaration, predicate: &str) -> String {
    format!(
        "{}() {}",
        bold(&it.name),
        prose(it, &lower_first(predicate))
    )
}

/// What its declaration needs.
fn types_of<'a>(
    it: &'a Declaration,
    all: &'a [Declaration],
) -> impl Iterator<Item = &'a Declaration> {
    let is_used = |other: &&Declaration| mentions(&it.code, &other.name);
    let types = all.iter().filter(|other| other.kind == Kind::Type);
    types.filter(is_used)
}

fn describe_types(page: &mut Page, it: &Declaration, all: &[Declaration]) {
    // The comment of a type that stands in no synopsis may say no more than where to read on.
    let is_told = |it: &&Declaration| !it.is_opaque() || it.comment.text().contains(". ");
    for it in types_of(it, all).filter(is_told) {
        page.subsection(&it.name);
        let description: Vec<_> = it.comment.description().collect();
        page.paragraph(&prose(it, &description.join(" ")));
        for (name, comment) in it.members() {
            page.entry(&bold(name), &[prose(it, &comment.text())]);
        }
    }
}

/// The macros that its declaration needs, and those that its parameters and its result name, also as
/// `PREFIX_...`, but do not explain.
fn describe_macros(page: &mut Page, it: &Declaration, all: &[Declaration]) {
    let meanings = it.comment.parameters().map(|(_, meaning)| meaning);
    let parts: Vec<_> = meanings.chain(it.comment.part(RETURNS)).collect();
    let text = parts.join(" ") + " " + &it.code;
    let is_named = |name: &str| {
        words(&text).any(|word| word == name || word.ends_with('_') && name.starts_with(word))
            && !text.contains(&format!("{name}: "))
    };
    let macros = all
        .iter()
        .filter(|it| it.kind == Kind::Macro && is_named(&it.name));
    for (n, it) in macros.enumerate() {
        if n == 0 {
            page.subsection("Macros");
        }
        let value = it.code.rsplit(' ').next().unwrap_or_default();
        let tag = format!("{} is {}", bold(&it.name), roman(value));
        page.entry(&tag, &[prose(it, &it.comment.text())]);
    }
}

/// A sentence, and a list such as `ASYNC_PAUSE: it paused. ERR_R_MALLOC_FAILURE: no memory.`
fn describe_return_value(page: &mut Page, it: &Declaration, returns: &str) {
    page.section("RETURN VALUE");
    let mut entries: Vec<(&str, String)> = Vec::new();
    for word in returns.split(' ') {
        let name = word.strip_suffix(':').filter(|name| name.contains('_'));
        match (name, entries.last_mut()) {
            (Some(name), _) => entries.push((name, String::new())),
            (None, Some((_, meaning))) => *meaning += &format!(" {word}"),
            (None, None) => entries.push(("", format!("returns {word}"))),
        }
    }
    let mut has_errors = false;
    for (name, meaning) in entries {
        let meaning = format!("{}.", meaning.trim_matches([' ', '.']));
        if name.contains("_R_") && !has_errors {
            has_errors = true;
            page.section("ERRORS");
            page.paragraph(&prose(it, ERRORS.trim_start()));
        }
        match name {
            "" => page.paragraph(&sentence(it, &meaning)),
            _ => page.entry(&bold(name), &[prose(it, &meaning)]),
        }
    }
}

/// Whether one's comment, or that of one of its types, names the other, or they have the same subject.
fn is_related(it: &Declaration, other: &Declaration, all: &[Declaration]) -> bool {
    let names = |it: &Declaration, other: &Declaration| {
        let mut sources = types_of(it, all).chain([it]);
        sources.any(|source| mentions(&source.comment.text(), &other.name))
    };
    // The last word, such as `fd` or `fds`.
    let subject = |it: &Declaration| {
        let last = it.name.rsplit('_').next().unwrap_or_default();
        last.trim_end_matches('s').to_owned()
    };
    other.kind == Kind::Function
        && other.name != it.name
        && (names(it, other) || names(other, it) || subject(it) == subject(other))
}
