//! The README's table "Differences from libcrypto" and the cases behind it: differences.txt lists
//! them row by row, and every case that libcrypto can't run stands there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};

use harness::chapters::{Program, flagged_ours};
use harness::check::{equal, expect};
use harness::stage::ROOT;

/// The trial may name the other trials, which are given.
pub fn trials(programs: &[Arc<Program>], others: &[Trial]) -> Vec<Trial> {
    let programs = programs.to_vec();
    let others: BTreeSet<String> = others.iter().map(|it| it.name().to_owned()).collect();
    vec![
        Trial::test("differences::each_case_of_ours_has_its_row", move || {
            let readme = fs::read_to_string(ROOT.join("README.md"))?;
            let list = fs::read_to_string(ROOT.join("ctests/suite/differences.txt"))?;
            let faults = faults(&readme, &list, &flagged_ours(&programs)?, &others);
            expect(faults.is_empty(), faults.join("\n"))
        }),
        Trial::test(
            "differences::a_wrong_table_is_found",
            a_wrong_table_is_found,
        ),
    ]
}

/// A row of the README's table: what stands in its first column, and the cases of its last.
struct Row<'a> {
    key: &'a str,
    cases: Vec<&'a str>,
}

fn rows(readme: &str) -> Vec<Row<'_>> {
    let (_, section) = readme
        .split_once("## Differences from libcrypto")
        .unwrap_or_default();
    let lines = section.lines().skip_while(|line| !line.starts_with('|'));
    // The first two lines are the heads of the columns and the rule below them.
    let rows = lines.take_while(|line| line.starts_with('|')).skip(2);
    rows.filter_map(row).collect()
}

fn row(line: &str) -> Option<Row<'_>> {
    let (key, rest) = line.trim_matches(['|', ' ']).split_once(" | ")?;
    let (_, cases) = rest.rsplit_once(" | ")?;
    // Every second piece stands between backquotes.
    let cases = cases.split('`').skip(1).step_by(2).collect();
    Some(Row { key, cases })
}

/// An entry of differences.txt: `    chapter::case` or `    chapter::case -- reason`.
struct Entry<'a> {
    row: &'a str,
    case: &'a str,
    has_reason: bool,
}

/// The rows and the entries of differences.txt.
fn entries(list: &str) -> (Vec<&str>, Vec<Entry<'_>>) {
    let (mut rows, mut entries) = (Vec::new(), Vec::new());
    let lines = list
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        let Some(entry) = line.strip_prefix("    ") else {
            rows.push(line);
            continue;
        };
        let (case, reason) = entry.split_once(" -- ").unwrap_or((entry, ""));
        entries.push(Entry {
            row: rows.last().copied().unwrap_or_default(),
            case,
            has_reason: !reason.is_empty(),
        });
    }
    (rows, entries)
}

/// What is wrong, one sentence each. `ours` has all cases, and whether they are flagged OURS;
/// `trials` are the names of the suite's other trials.
fn faults(
    readme: &str,
    list: &str,
    ours: &BTreeMap<String, bool>,
    trials: &BTreeSet<String>,
) -> Vec<String> {
    let mut faults = Vec::new();
    let table = rows(readme);
    let (listed_rows, entries) = entries(list);
    let keys: Vec<&str> = table.iter().map(|row| row.key).collect();
    if let Err(why) = equal(listed_rows, keys) {
        let why = why.message().unwrap_or_default();
        faults.push(format!(
            "the rows of differences.txt and of README.md differ:\n{why}"
        ));
    }

    for Row { key, cases } in &table {
        if cases.is_empty() {
            faults.push(format!("README.md: the row \"{key}\" names no case"));
        }
        for case in cases {
            if !entries
                .iter()
                .any(|entry| entry.row == *key && entry.case == *case)
            {
                faults.push(format!(
                    "README.md: {case} is not in differences.txt under \"{key}\""
                ));
            }
        }
    }

    let mut seen = BTreeSet::new();
    for entry in &entries {
        let case = entry.case;
        if !seen.insert(case) {
            faults.push(format!("differences.txt: {case} stands there twice"));
        }
        match (ours.get(case), entry.has_reason) {
            (Some(true), false) => {}
            (Some(true), true) => {
                faults.push(format!(
                    "differences.txt: {case} is OURS and needs no reason"
                ));
            }
            (Some(false), true) => {}
            (None, true) if trials.contains(case) => {}
            (Some(false), false) => {
                faults.push(format!(
                    "differences.txt: {case} is not OURS and has no reason"
                ));
            }
            (None, _) => faults.push(format!("differences.txt: there is no {case}")),
        }
    }
    let unlisted = ours
        .iter()
        .filter(|(case, ours)| **ours && !seen.contains(case.as_str()));
    faults.extend(
        unlisted.map(|(case, _)| {
            format!("{case} is OURS, and differences.txt does not say of which row")
        }),
    );
    faults
}

/// Right input gives no fault, and each wrong one the fault that it has.
fn a_wrong_table_is_found() -> Result<(), Failed> {
    const README: &str = "\
| not | this | table |
## Differences from libcrypto
Text.

| where | rsasync | libcrypto | tested by |
| --- | --- | --- | --- |
| `a` NULL | works | crashes | `one::first` |
| b; more | works | since 3.2 | `one::second`, `other::trial` |

| not | this | either |
";
    const LIST: &str = "\
# a comment
`a` NULL
    one::first
    two::third

b; more
    one::second -- libcrypto passes it since 3.2
    other::trial -- a trial of the suite
";
    let cases = [
        ("one::first", true),
        ("one::second", false),
        ("two::third", true),
        ("two::common", false),
    ];
    let ours = cases.map(|(case, ours)| (case.to_owned(), ours)).into();
    let trials = ["other::trial".to_owned()].into();
    let faults = |readme: &str, list: &str| faults(readme, list, &ours, &trials).join("\n");
    equal(faults(README, LIST).as_str(), "")?;

    for (from, to, fault) in [
        ("`one::first`", "", "the row \"`a` NULL\" names no case"),
        (
            "`one::first`",
            "`one::fist`",
            "one::fist is not in differences.txt",
        ),
        (
            "`one::first`",
            "`one::second`",
            "one::second is not in differences.txt under \"`a`",
        ),
        (
            "| b; more |",
            "| b |",
            "the rows of differences.txt and of README.md differ",
        ),
    ] {
        let found = faults(&README.replace(from, to), LIST);
        expect(found.contains(fault), format!("no \"{fault}\" in: {found}"))?;
    }
    for (from, to, fault) in [
        (
            "    two::third\n",
            "",
            "two::third is OURS, and differences.txt",
        ),
        ("two::third", "one::first", "one::first stands there twice"),
        ("two::third", "two::thirt", "there is no two::thirt"),
        (
            "two::third",
            "two::third -- why",
            "two::third is OURS and needs no reason",
        ),
        (
            " -- libcrypto passes it since 3.2",
            "",
            "one::second is not OURS and has no reason",
        ),
        ("other::trial", "other::trail", "there is no other::trail"),
        (
            "b; more",
            "b",
            "the rows of differences.txt and of README.md differ",
        ),
    ] {
        let found = faults(README, &LIST.replace(from, to));
        expect(found.contains(fault), format!("no \"{fault}\" in: {found}"))?;
    }
    Ok(())
}
