//! What each promise costs a call: the instructions that each file of `src/` has in it, whose first
//! sentence says what it is for.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use harness::stage::{ROOT, compiler, output_of, program_source};
use harness::table::Table;
use serde::Deserialize;
use tempfile::TempDir;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Rows of programs/cost.c, and what they are called here.
const CALLS: [(&str, &str); 2] = [
    ("start_finish", "start + finish"),
    ("resume_pause", "resume + pause"),
];

/// An instruction: the file that it is in, and its address there.
type Place = (String, u64);

/// A table of the instructions of each call, by file, the dearest first. The library has line
/// tables. libcrypto is in the process.
pub fn table(library: &Path) -> Outcome<Table> {
    let directory = TempDir::new()?;
    let program = directory.path().join("cost");
    let mut cc = compiler(&program_source("cost.c"));
    cc.args(["-DWITH_LIBCRYPTO", "-DON_LIBCRYPTO", "-DLIBCRYPTO_MAJOR=3"]);
    cc.arg("-lcrypto").arg("-o").arg(&program);
    output_of(&mut cc).map_err(|failed| failed.message().unwrap_or_default().to_owned())?;

    let mut by_file: BTreeMap<String, [u64; CALLS.len()]> = BTreeMap::new();
    for (call, (row, _)) in CALLS.into_iter().enumerate() {
        for (file, count) in each(&program, library, row)? {
            by_file.entry(file).or_default()[call] += count;
        }
    }
    let mut by_file: Vec<_> = by_file.into_iter().collect();
    by_file.sort_by_key(|(_, counts)| std::cmp::Reverse(counts[0]));
    let total = [0, 1].map(|call| by_file.iter().map(|(_, counts)| counts[call]).sum());
    by_file.push(("all".to_owned(), total));
    let mut rows = vec![vec!["instructions of".to_owned()]];
    rows[0].extend(CALLS.map(|(_, name)| name.to_owned()));
    for (file, counts) in by_file {
        let mut row = vec![match purpose(&file) {
            Some(purpose) => format!("{file}: {purpose}"),
            None => file,
        }];
        row.extend(counts.map(|count| count.to_string()));
        rows.push(row);
    }
    Ok(Table(rows))
}

/// What a file of `src/` is for: the beginning of its comment.
fn purpose(file: &str) -> Option<String> {
    let text = fs::read_to_string(ROOT.join(file)).ok()?;
    let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
    let comment: Vec<_> = lines.map(str::trim).collect();
    let comment = comment.join(" ");
    let end = [". ", ": "]
        .iter()
        .filter_map(|end| comment.find(end))
        .min();
    let beginning = &comment[..end.unwrap_or(comment.len())];
    Some(beginning.trim_end_matches('.').to_owned())
}

/// The instructions of one call, by file.
fn each(program: &Path, library: &Path, row: &str) -> Outcome<HashMap<String, u64>> {
    const TIMES: u64 = 2000;
    let once = count(program, library, row, TIMES)?;
    let twice = count(program, library, row, 2 * TIMES)?;
    let calls = twice.into_iter().filter_map(|(place, count)| {
        let count = count - once.get(&place).copied().unwrap_or(0).min(count);
        // What happens now and then is left out.
        (count >= TIMES / 2).then_some((place, (count + TIMES / 2) / TIMES))
    });
    let (ours, others): (Vec<_>, Vec<_>) =
        calls.partition(|((object, _), _)| Path::new(object) == library);
    let mut by_file = HashMap::new();
    let addresses: Vec<_> = ours.iter().map(|((_, address), _)| *address).collect();
    let files = files_of(library, &addresses)?;
    for (file, (_, count)) in files.into_iter().zip(ours) {
        *by_file.entry(file).or_default() += count;
    }
    for ((object, _), count) in others {
        if Path::new(&object) != program {
            let name = Path::new(&object).file_name().unwrap_or_default();
            *by_file.entry(name.display().to_string()).or_default() += count;
        }
    }
    Ok(by_file)
}

/// How often each instruction runs in a process that makes a row's calls `times` times.
fn count(program: &Path, library: &Path, row: &str, times: u64) -> Outcome<HashMap<Place, u64>> {
    let file = program.with_extension("callgrind");
    let mut valgrind = Command::new("valgrind");
    valgrind
        .env("TIMES", times.to_string())
        .env("LD_PRELOAD", library);
    valgrind.args(["--tool=callgrind", "--dump-instr=yes"]);
    valgrind.args(["--compress-pos=no", "--compress-strings=no"]);
    valgrind.arg(format!("--callgrind-out-file={}", file.display()));
    let output = valgrind.arg(program).arg(row).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let text = fs::read_to_string(&file)?;
    let (mut object, mut counts) = (String::new(), HashMap::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("ob=") {
            object = name.to_owned();
        } else if line.starts_with("calls=") {
            lines.next(); // what the callee costs is counted there
        } else if let Some(rest) = line.strip_prefix("0x") {
            // Address, line of the source, how often.
            let mut numbers = rest.split(' ');
            let address = u64::from_str_radix(numbers.next().unwrap_or_default(), 16)?;
            let times: u64 = numbers.nth(1).ok_or("a line without a count")?.parse()?;
            *counts.entry((object.clone(), address)).or_default() += times;
        }
    }
    Ok(counts)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Symbolized {
    /// The innermost inlined function first.
    symbol: Vec<Frame>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Frame {
    file_name: String,
    function_name: String,
}

/// The file of `src/` that each instruction of the library comes from, relative to the project; or the
/// function, if it comes from elsewhere.
fn files_of(library: &Path, addresses: &[u64]) -> Outcome<Vec<String>> {
    let mut symbolizer = Command::new("llvm-symbolizer");
    symbolizer.arg(format!("--obj={}", library.display()));
    symbolizer.args(["--inlines", "--output-style=JSON"]);
    let output = symbolizer
        .args(addresses.iter().map(|address| format!("{address:#x}")))
        .output()?;
    let src = ROOT.join("src").display().to_string();
    let symbolized: Vec<Symbolized> = serde_json::from_slice(&output.stdout)?;
    let file = |Symbolized { symbol }: Symbolized| {
        let ours = symbol
            .iter()
            .find(|frame| frame.file_name.starts_with(&src));
        match (ours, symbol.last()) {
            (Some(frame), _) => format!("src{}", &frame.file_name[src.len()..]),
            // Assembly has no lines: rsasync::fibre::fibre::trampoline, or the context crate's switch.
            (None, Some(frame)) => {
                match frame.function_name.splitn(4, "::").collect::<Vec<_>>()[..] {
                    ["rsasync", floor, module, _] => format!("src/{floor}/{module}.rs"),
                    _ => frame.function_name.clone(),
                }
            }
            (None, None) => "?".to_owned(),
        }
    };
    Ok(symbolized.into_iter().map(file).collect())
}
