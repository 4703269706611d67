//! `rsasync check`: whether a process's calls go to rsasync, and why not.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;

use anstream::println;
use anstyle::{AnsiColor, Style};

use crate::bindings::{self, Caller, Goal, How};
use crate::error::{Error, Kind, Result};
use crate::library::{self, Library};
use crate::memory::Memory;
use crate::objects::{self, Loaded};
use crate::process::{self, Process, printable};

/// The answer, and the command's exit status.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Yes = 0,
    No = 1,
    CantTell = 2,
}

struct Report {
    verdict: Verdict,
    /// Why, or whom the calls go to.
    because: String,
    details: Vec<String>,
}

/// Checks these processes, or all that have something to do with jobs.
pub fn check(pids: &[i32], all: bool, tree: bool) -> Result<ExitCode> {
    let pids = match (all, tree) {
        (true, _) => process::all()?.iter().map(|entry| entry.pid).collect(),
        (false, true) => process::with_descendants(pids)?,
        (false, false) => pids.to_vec(),
    };
    let mut verdicts = Vec::new();
    let mut refused = 0;
    for pid in pids {
        let opened = Process::open(pid);
        let report = match &opened {
            Ok(process) if all && !is_concerned(process) => continue,
            Err(error) if all => {
                refused += usize::from(error.kind == Kind::NoPermission);
                continue;
            }
            Ok(process) => {
                report(process).unwrap_or_else(|error| cant_tell(process.or_ended(error)))
            }
            Err(error) => cant_tell(Error::new(error.to_string())),
        };
        print(pid, &process::name(pid).unwrap_or_default(), &report);
        verdicts.push(report.verdict);
    }
    if refused > 0 {
        println!("{refused} more processes can't be read: run as root");
    }
    if verdicts.is_empty() {
        println!("no process has libssl, libcrypto or rsasync");
    }
    // The worst of all: a script that checks several wants to know of any that is not in order.
    let has = |verdict| verdicts.contains(&verdict);
    let worst = match () {
        () if has(Verdict::No) => Verdict::No,
        () if has(Verdict::CantTell) || verdicts.is_empty() || refused > 0 => Verdict::CantTell,
        () => Verdict::Yes,
    };
    Ok(ExitCode::from(worst as u8))
}

/// Whether `--all` lists it.
fn is_concerned(process: &Process) -> bool {
    let has_library = process.mappings().iter().any(|mapping| {
        let name = mapping.path.file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        ["libssl", "libcrypto", "librsasync"]
            .iter()
            .any(|library| name.starts_with(library))
    });
    has_library
        || objects::objects(process)
            .is_ok_and(|objects| !library::all(process, &objects).is_empty())
}

fn cant_tell(why: Error) -> Report {
    Report {
        verdict: Verdict::CantTell,
        because: why.to_string(),
        details: Vec::new(),
    }
}

fn print(pid: i32, name: &str, report: &Report) {
    let (word, colour) = match report.verdict {
        Verdict::Yes => ("yes", AnsiColor::Green),
        Verdict::No => ("no", AnsiColor::Red),
        Verdict::CantTell => ("can't tell", AnsiColor::Yellow),
    };
    let style = Style::new().bold().fg_color(Some(colour.into()));
    let name = match name {
        "" => String::new(),
        name => format!(" {name}"),
    };
    let because = printable(&report.because);
    println!("{pid}{name}: {style}{word}{style:#}, {because}");
    for line in &report.details {
        println!("  {}", printable(line));
    }
}

fn report(process: &Process) -> Result<Report> {
    let objects = objects::objects(process)?;
    let libraries = library::all(process, &objects);
    let ours: Vec<usize> = libraries.iter().map(|library| library.object).collect();
    let callers = bindings::callers(process, &objects, &ours);
    // The program, and, if nobody is known to call, everything: it takes a while.
    let find_hidden = || {
        let suspects = match callers.is_empty() {
            true => objects.len(),
            false => 1,
        };
        let mut suspects = (0..suspects).filter(|object| !ours.contains(object));
        suspects.find(|&object| bindings::is_hiding(process, &objects[object]))
    };
    let goes_to_us = |goal: &Goal| match goal {
        Goal::Object(object) | Goal::NotYet(object) => ours.contains(object),
        Goal::Unknown(_) => false,
    };
    let goals = || callers.iter().flat_map(|caller| caller.goals.keys());
    let (any_to_us, all_to_us) = (goals().any(goes_to_us), goals().all(goes_to_us));
    let (verdict, because) = if libraries.is_empty() {
        (Verdict::No, why_not_loaded(process, &objects))
    } else if let Some(hidden) = find_hidden() {
        let holder = objects[hidden].name();
        let why = format!(
            "rsasync is loaded, but {holder} has an OpenSSL linked into it, whose calls no library \
             can take over: link it with librsasync.a"
        );
        (Verdict::No, why)
    } else if callers.is_empty() {
        let why = "rsasync is loaded, but nothing here calls ASYNC_ functions: neither the program \
                   nor a library has any that it imports";
        (Verdict::No, why.to_owned())
    } else if !any_to_us {
        let why = "rsasync is loaded, but the calls go elsewhere";
        (Verdict::No, format!("{why}{}", advice(&callers, &objects)))
    } else if !all_to_us {
        let why = "rsasync is loaded, but some of the calls go elsewhere";
        (Verdict::No, format!("{why}{}", advice(&callers, &objects)))
    } else {
        let versions: BTreeSet<_> = libraries.iter().map(|it| it.version.as_str()).collect();
        let versions: Vec<_> = versions.into_iter().collect();
        let why = format!("its calls go to rsasync {}", versions.join(" and "));
        (Verdict::Yes, why)
    };
    let mut details = describe_callers(&callers, &objects);
    details.extend(
        libraries
            .iter()
            .map(|it| describe_library(process, it, &objects)),
    );
    Ok(Report {
        verdict,
        because,
        details,
    })
}

fn describe_callers(callers: &[Caller], objects: &[Loaded]) -> Vec<String> {
    let mut lines = Vec::new();
    let width = callers
        .iter()
        .map(|it| objects[it.object].name().len())
        .max();
    for caller in callers {
        let name = objects[caller.object].name();
        for (goal, &count) in &caller.goals {
            let functions = match (caller.how, count) {
                (How::Inside, _) => "calls inside".to_owned(),
                (How::Slots, 1) => "1 function".to_owned(),
                (How::Slots, count) => format!("{count} functions"),
            };
            let goal = match *goal {
                Goal::Object(object) => objects[object].name(),
                Goal::NotYet(object) => {
                    format!(
                        "{} (by the loader's order; not called yet)",
                        objects[object].name()
                    )
                }
                Goal::Unknown(address) => format!("{address:#x}, in no object"),
            };
            let width = width.unwrap_or(0);
            lines.push(format!("{name:width$}  {functions:>12} -> {goal}"));
        }
    }
    lines
}

fn describe_library(process: &Process, library: &Library, objects: &[Loaded]) -> String {
    let object = &objects[library.object];
    let kind = if library.object == 0 {
        ", linked statically into the program"
    } else {
        ""
    };
    let is_replaced = object
        .mapping
        .as_ref()
        .is_some_and(|mapping| process.is_replaced(mapping));
    let replaced = if is_replaced {
        "; this file was replaced on disk since it was loaded: restart the program to use the new one"
    } else {
        ""
    };
    let path = object.path.display();
    format!("rsasync {}: {path}{kind}{replaced}", library.version)
}

/// What makes calls pass by a library that is loaded.
fn advice(callers: &[Caller], objects: &[Loaded]) -> String {
    let inside = callers.iter().find(|it| it.how == How::Inside);
    match inside {
        Some(caller) => {
            let name = objects[caller.object].name();
            format!(
                ": {name} has an OpenSSL linked into it, whose calls no library can take over; link \
                 it with librsasync.a"
            )
        }
        None => {
            ": rsasync must come before libcrypto; start the program with `rsasync run`".to_owned()
        }
    }
}

fn why_not_loaded(process: &Process, objects: &[Loaded]) -> String {
    const AT_SECURE: u64 = 23;
    let program = &objects[0];
    if !program.elf.has_interpreter {
        return "rsasync is not loaded: a static program, into which nothing can be preloaded; link \
                it with librsasync.a"
            .to_owned();
    }
    if process.auxiliary(AT_SECURE).is_some_and(|it| it != 0) {
        return "rsasync is not loaded: the program got rights that its caller lacks (set-uid, \
                capabilities), so the loader ignores LD_PRELOAD"
            .to_owned();
    }
    let environment = process.environment();
    let preload = environment.get(OsStr::new("LD_PRELOAD"));
    let preload = preload.map(|it| it.to_string_lossy().into_owned());
    let Some(preload) = preload else {
        return match parent_with_library(process) {
            Some(parent) => format!(
                "rsasync is not loaded: its parent {} {} has it, but LD_PRELOAD was lost between them; \
                 find what empties the environment (in nginx.conf: `env LD_PRELOAD;`)",
                parent.pid, parent.name
            ),
            None => "rsasync is not loaded: LD_PRELOAD is not in its environment; start it with \
                     `rsasync run`, and see that nothing empties the environment before its exec"
                .to_owned(),
        };
    };
    let files = preload.split([':', ' ']);
    match files.into_iter().find(|file| file.contains("rsasync")) {
        None => format!("rsasync is not loaded: LD_PRELOAD is \"{preload}\", without it"),
        Some(file) => format!(
            "rsasync is not loaded: LD_PRELOAD names {file}, {}",
            why_not_opened(process, file)
        ),
    }
}

/// Why the loader left out a file that it was told to load, as well as that can be told later.
fn why_not_opened(process: &Process, file: &str) -> &'static str {
    let otherwise = "which the loader could not load when the program started: it has said why on \
                     standard error";
    if !file.contains('/') {
        return otherwise;
    }
    let path = process.in_its_root(Path::new(file));
    // The process names the file: it may be anything.
    match fs::metadata(&path) {
        Err(_) => return "which is not there, seen from its root directory",
        Ok(found) if !found.is_file() => return "which is no file",
        Ok(_) => {}
    }
    let mut magic = [0; 4];
    match File::open(&path).and_then(|file| file.read_exact_at(&mut magic, 0)) {
        Ok(()) if magic == *b"\x7fELF" => otherwise,
        _ => "which is no library",
    }
}

fn parent_with_library(process: &Process) -> Option<Process> {
    let parent = Process::open(process.parent()?).ok()?;
    let objects = objects::objects(&parent).ok()?;
    let has_it = !library::all(&parent, &objects).is_empty();
    has_it.then_some(parent)
}
