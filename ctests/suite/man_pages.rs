//! The man pages: one for each function, with what its comment says; rsasync(7), with the README's
//! tables; and two formatters that have nothing to say against them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use libtest_mimic::{Failed, Trial};

use crate::exports;
use harness::check::{equal, expect};
use harness::stage::{BUILT, BuiltOnce, ROOT, command, make, output_of};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("man_pages::each_function_has_one", each_function),
        Trial::test("man_pages::they_name_functions_that_exist", names),
        Trial::test("man_pages::refusals_are_told_in_errors", errors),
        Trial::test("man_pages::they_refer_to_pages_that_exist", references),
        Trial::test("man_pages::formatters_have_no_complaint", no_complaint),
        Trial::test("man_pages::formatters_take_the_commands", of_command),
        Trial::test("man_pages::start_job_tells_each_result", start_job),
        Trial::test("man_pages::get_stats_tells_each_member", get_stats),
        Trial::test("man_pages::overview_has_the_readmes_tables", tables),
    ]
}

/// A directory with the library's pages, as `make` writes them for a packager.
fn pages() -> Result<&'static Path, Failed> {
    static PAGES: BuiltOnce = BuiltOnce::new();
    PAGES.get_or_build(|| {
        let pages = BUILT.join("papers");
        let mut make = make();
        make.arg("papers")
            .arg(format!("PAPERS={}", pages.display()));
        output_of(make.env("SOURCE_DATE_EPOCH", DATE))?;
        Ok(pages)
    })
}

/// 2001-09-09.
const DATE: &str = "1000000000";

fn files() -> Result<BTreeSet<String>, Failed> {
    let mut files = BTreeSet::new();
    for file in fs::read_dir(pages()?)? {
        let name = file?.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".json") {
            files.insert(name);
        }
    }
    Ok(files)
}

/// A page as a terminal shows it, in ASCII where it has a sign for it. Warnings fail.
fn shown(file: &Path) -> Result<String, Failed> {
    let mut groff = command("groff", 60);
    groff.args(["-man", "-ww", "-Tutf8", "-rLL=78n"]);
    let shown = output_of(groff.args(["-P-c", "-P-b", "-P-u", "-P-o"]).arg(file))?;
    equal(String::from_utf8(shown.stderr)?, String::new())?;
    let is_hyphen = |c| matches!(c, '\u{2010}' | '\u{2212}');
    Ok(String::from_utf8(shown.stdout)?.replace(is_hyphen, "-"))
}

/// What stands below a heading, up to the next one.
fn section<'a>(page: &'a str, heading: &str) -> Result<&'a str, Failed> {
    let (_, rest) = page
        .split_once(&format!("\n{heading}\n"))
        .ok_or(format!("no {heading} in\n{page}"))?;
    let is_heading = |(at, _): &(usize, &str)| !rest[at + 1..].starts_with([' ', '\n']);
    let end = rest.match_indices('\n').find(is_heading);
    Ok(&rest[..end.map_or(rest.len(), |(at, _)| at)])
}

fn each_function() -> Result<(), Failed> {
    let file = |name: &String| format!("{name}.3rsasync");
    let mut wanted: BTreeSet<_> = exports::api().iter().map(file).collect();
    wanted.insert("rsasync.7".to_owned());
    equal(files()?, wanted)?;
    for name in exports::api() {
        let page = shown(&pages()?.join(file(&name)))?;
        let returns_nothing = section(&page, "SYNOPSIS")?.contains(&format!("void {name}("));
        let tells_result = page.contains("\nRETURN VALUE\n");
        let why = format!("{name}: a result without words, or words without a result");
        expect(tells_result != returns_nothing, why)?;
    }
    Ok(())
}

fn names() -> Result<(), Failed> {
    for file in files()? {
        let page = shown(&pages()?.join(&file))?;
        // The first and the last line have the title, in capitals.
        let (_, page) = page.split_once('\n').ok_or("a page of one line")?;
        let (page, _) = page.trim_end().rsplit_once('\n').ok_or("a page of two")?;
        let called = page.match_indices('(').map(|(at, _)| {
            let before = page[..at].rsplit(|c: char| !c.is_alphanumeric() && c != '_');
            before.take(1).collect::<String>()
        });
        let called: BTreeSet<_> = called.filter(|name| name.contains("ASYNC_")).collect();
        let unknown: Vec<_> = called.difference(&exports::api()).cloned().collect();
        let none = unknown.is_empty();
        expect(none, format!("{file} names no function: {unknown:?}"))?;
        let own = file.trim_end_matches(".3rsasync").to_owned();
        let names_itself = own == "rsasync.7" || called.contains(&own);
        expect(names_itself, format!("{file} is about another function"))?;
    }
    Ok(())
}

/// The functions that put an error on the queue, and where their pages say how to read it.
fn errors() -> Result<(), Failed> {
    let source = fs::read_to_string(ROOT.join("src/capi/async_h.rs"))?;
    let refusing = source.split("or_refuse(c\"").skip(1);
    let refusing: BTreeSet<_> = refusing.filter_map(|it| it.split('"').next()).collect();
    expect(refusing.len() > 10, format!("few refuse: {refusing:?}"))?;
    for name in exports::api() {
        let page = shown(&pages()?.join(format!("{name}.3rsasync")))?;
        let has_errors = page.contains("\nERRORS\n");
        let why = format!("{name}: refusals without ERRORS, or ERRORS without refusals");
        expect(has_errors == refusing.contains(&*name), why)?;
        if has_errors {
            expect(
                section(&page, "ERRORS")?.contains("_R_"),
                section(&page, "ERRORS")?,
            )?;
            let others = section(&page, "SEE ALSO")?;
            expect(others.contains("RSASYNC_last_error(3rsasync)"), others)?;
        }
    }
    Ok(())
}

/// Those of OpenSSL as Debian installs them, the others as we do.
fn references() -> Result<(), Failed> {
    let commands = ["", "-run", "-check", "-status", "-jobs"].map(|it| format!("rsasync{it}.1"));
    let ours: BTreeSet<_> = files()?.into_iter().chain(commands).collect();
    for file in files()? {
        let page = shown(&pages()?.join(&file))?;
        for other in section(&page, "SEE ALSO")?.split_whitespace() {
            let parts = other.trim_end_matches(',').split_once('(');
            let (name, number) = parts.ok_or(format!("{file}: {other} is no page"))?;
            let other = format!("{name}.{}", number.trim_end_matches(')'));
            let of_openssl = Path::new("/usr/share/man/man3").join(format!("{other}.gz"));
            let exists = ours.contains(&other) || other.ends_with("ssl") && of_openssl.exists();
            expect(exists, format!("{file} refers to {other}"))?;
        }
    }
    Ok(())
}

fn no_complaint() -> Result<(), Failed> {
    let paths = files()?.into_iter().map(|file| Ok(pages()?.join(file)));
    let paths: Vec<_> = paths.collect::<Result<_, Failed>>()?;
    let lint = output_of(command("mandoc", 60).args(["-Tlint", "-Wall"]).args(&paths))?;
    equal(String::from_utf8(lint.stdout)?, String::new())?;
    for path in paths {
        let first = fs::read_to_string(&path)?;
        let first = first.lines().next().unwrap_or_default().to_owned();
        let has_date = first.contains(" \"2001-09-09\" ");
        expect(has_date, format!("no date in {first}"))?;
    }
    Ok(())
}

/// The library that writes them has its own style, so only what it does wrong counts.
fn of_command() -> Result<(), Failed> {
    let pages = BUILT.join("of-command");
    let mut make = make();
    make.arg("command")
        .arg(format!("OF_COMMAND={}", pages.display()));
    output_of(make.env("SOURCE_DATE_EPOCH", DATE))?;
    for name in ["", "-run", "-check", "-status", "-jobs"] {
        let page = pages.join(format!("rsasync{name}.1"));
        let mut mandoc = command("mandoc", 60);
        let lint = output_of(mandoc.args(["-Tlint", "-Wwarning"]).arg(&page))?;
        equal(String::from_utf8(lint.stdout)?, String::new())?;
        let page = shown(&page)?;
        let others = section(&page, "SEE ALSO")?;
        expect(others.contains("rsasync(7)"), others)?;
        if !name.is_empty() {
            section(&page, "EXIT STATUS")?;
        }
    }
    Ok(())
}

fn start_job() -> Result<(), Failed> {
    let page = shown(&pages()?.join("ASYNC_start_job.3rsasync"))?;
    let tags = |heading| {
        let lines = section(&page, heading)?.lines();
        let tags = lines.filter_map(|line| line.strip_prefix("       "));
        let tags = tags.filter(|tag| !tag.is_empty() && !tag.starts_with(' '));
        Ok::<Vec<_>, Failed>(tags.collect())
    };
    let results = [
        "ASYNC_start_job() returns one of these.",
        "ASYNC_FINISH",
        "ASYNC_PAUSE",
        "ASYNC_NO_JOBS",
        "ASYNC_ERR",
    ];
    equal(tags("RETURN VALUE")?, results.to_vec())?;
    let errors = [
        "ERR_R_PASSED_NULL_PARAMETER",
        "ERR_R_MALLOC_FAILURE",
        "ERR_R_SHOULD_NOT_HAVE_BEEN_CALLED",
    ];
    let mut tags = tags("ERRORS")?;
    tags.retain(|tag| tag.starts_with("ERR_R_"));
    equal(tags, errors.to_vec())?;
    for (heading, words) in [
        ("NAME", "ASYNC_start_job - starts a job, or resumes one"),
        ("SYNOPSIS", "int (*func)(void *args),"),
        (
            "DESCRIPTION",
            "With *job NULL it starts func on a stack of its own.",
        ),
        (
            "CAVEATS",
            "What the caller must see to: The pointers are valid as described",
        ),
        ("HISTORY", "ASYNC_start_job() appeared in OpenSSL 1.1.0."),
        ("SEE ALSO", "ASYNC_start_job(3ssl)"),
    ] {
        let section = section(&page, heading)?;
        let has_words = section.contains(words);
        expect(has_words, format!("no \"{words}\" in {heading}:{section}"))?;
    }
    Ok(())
}

fn get_stats() -> Result<(), Failed> {
    let page = shown(&pages()?.join("RSASYNC_get_stats.3rsasync"))?;
    let description = section(&page, "DESCRIPTION")?;
    let header = fs::read_to_string(ROOT.join("include/rsasync.h"))?;
    let members = header
        .lines()
        .filter_map(|line| line.strip_prefix("    uint64_t "));
    let members: Vec<_> = members.map(|line| line.trim_end_matches(';')).collect();
    expect(members.len() > 20, format!("few members: {members:?}"))?;
    for member in members {
        let tag = format!("\n       {member}");
        let has_tag = description.contains(&tag);
        expect(has_tag, format!("no {member} in{description}"))?;
    }
    Ok(())
}

/// Each cell of the tables that the page is made of, but for the names of tests.
fn tables() -> Result<(), Failed> {
    let readme = fs::read_to_string(ROOT.join("README.md"))?;
    let page = shown(&pages()?.join("rsasync.7"))?;
    for folder in ["ctests/", "examples/"] {
        let has_folder = page.contains(folder);
        expect(!has_folder, format!("{folder} is not installed as such"))?;
    }
    expect(section(&page, "NOTES")?.contains("seccomp"), "few notes")?;
    for (of_readme, of_page, rows_at_least) in [
        ("Environment", "ENVIRONMENT", 5),
        (
            "Differences from libcrypto",
            "DIFFERENCES FROM LIBCRYPTO",
            40,
        ),
    ] {
        let words = section(&page, of_page)?.split_whitespace();
        let text = words.collect::<Vec<_>>().join(" ");
        let (_, table) = readme
            .split_once(&format!("\n## {of_readme}\n"))
            .ok_or(format!("README.md has no section {of_readme}"))?;
        let table = table.lines().skip_while(|line| !line.starts_with('|'));
        let rows: Vec<_> = table
            .take_while(|line| line.starts_with('|'))
            .skip(2)
            .collect();
        expect(rows.len() >= rows_at_least, format!("few rows: {rows:?}"))?;
        for cell in rows.iter().flat_map(|row| row.split('|').skip(1).take(3)) {
            let cell = cell.trim().replace('`', "");
            let has_cell = text.contains(&cell);
            expect(has_cell, format!("no \"{cell}\" in {of_page}:\n{text}"))?;
        }
    }
    Ok(())
}
