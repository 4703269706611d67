//! The probes of src/sys/probes.rs: their notes, and what tracers find at them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;
use std::{fs, iter};

use libtest_mimic::{Failed, Trial};

use harness::check::{equal, expect};
use harness::stage::{BuiltOnce, ROOT, build_program, command, output_of, stdout_of};

use crate::gdb::gdb;
use crate::gdb_jobs::{static_program, stripped};

pub fn trials() -> Vec<Trial> {
    // SAFETY: the call has no conditions.
    let is_root = unsafe { libc::geteuid() } == 0;
    let bpftrace = |name: &str, run: fn() -> Result<(), Failed>| {
        Trial::test(format!("probes::bpftrace::{name}"), run).with_ignored_flag(!is_root)
    };
    vec![
        Trial::test("probes::notes_of_the_library", || notes(stripped()?)),
        Trial::test("probes::notes_of_a_static_program", || {
            notes(static_program()?)
        }),
        Trial::test("probes::gdb_finds_what_the_program_knows", in_gdb),
        bpftrace("pause_times", || in_bpftrace("pause_times")),
        bpftrace("paused_now", || in_bpftrace("paused_now")),
    ]
}

/// programs/probes.c, built.
fn program() -> Result<&'static Path, Failed> {
    static PROGRAM: BuiltOnce = BuiltOnce::new();
    PROGRAM.get_or_build(|| build_program("probes", &[]))
}

/// A probe, and what its arguments are.
const PROBES: [(&str, Arguments); 7] = [
    ("start", Arguments::ThreeWords),
    ("pause", Arguments::ThreeWords),
    ("resume", Arguments::ThreeWords),
    ("finish", Arguments::ThreeWords),
    ("refuse", Arguments::TwoRegisters),
    ("stack_made", Arguments::TwoRegisters),
    ("stack_freed", Arguments::TwoRegisters),
];

#[derive(Clone, Copy)]
enum Arguments {
    /// In memory, at constant offsets from a register.
    ThreeWords,
    TwoRegisters,
}

/// The notes name the probes and their arguments, no semaphores, and places where a `nop` is.
fn notes(object: &Path) -> Result<(), Failed> {
    let notes = stdout_of(command("readelf", 60).arg("-nW").arg(object))?;
    let mut found: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for note in notes.split("Provider: ").skip(1) {
        let mut lines = note.lines().map(str::trim);
        equal(lines.next(), Some("rsasync"))?;
        let mut field = |name: &str| lines.next().and_then(|line| line.strip_prefix(name));
        let (name, place) = (field("Name: "), field("Location: "));
        let (Some(name), Some(place), Some(arguments)) = (name, place, field("Arguments: ")) else {
            return Err(format!("a note is not understood:\n{note}").into());
        };
        found.entry(name).or_default().push((place, arguments));
    }
    equal(found.len(), PROBES.len())?;
    for (name, kind) in PROBES {
        let places = found.get(name).ok_or_else(|| format!("no probe {name}"))?;
        for (place, arguments) in places {
            check_place(object, place)?;
            let in_memory = |argument: &str| argument.contains(['(', '[']);
            let arguments: Vec<_> = arguments.split("8@").skip(1).collect();
            let is_right = match kind {
                Arguments::ThreeWords => {
                    arguments.len() == 3 && arguments.iter().all(|word| in_memory(word))
                }
                Arguments::TwoRegisters => {
                    arguments.len() == 2 && !arguments.iter().any(|word| in_memory(word))
                }
            };
            expect(is_right, format!("{name} has the arguments {arguments:?}"))?;
        }
    }
    Ok(())
}

/// `place` is "ADDRESS, Base: ADDRESS, Semaphore: ADDRESS".
fn check_place(object: &Path, place: &str) -> Result<(), Failed> {
    let not_understood = || format!("a place is not understood: {place}");
    let (address, rest) = place.split_once(", Base: ").ok_or_else(not_understood)?;
    let (base, semaphore) = rest
        .split_once(", Semaphore: ")
        .ok_or_else(not_understood)?;
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16);
    expect(number(base)? != 0, "the note has no base")?;
    equal(number(semaphore)?, 0)?;
    let mut objdump = command("objdump", 60);
    objdump.arg("-d").arg(object);
    objdump.arg(format!("--start-address={address}"));
    objdump.arg(format!("--stop-address={:#x}", number(address)? + 1));
    let code = stdout_of(&mut objdump)?;
    expect(code.trim_end().ends_with("nop"), format!("no nop: {code}"))
}

/// gdb stops at each probe of a stripped library, and finds there the handle, the wait context and
/// the function that the program knows.
fn in_gdb() -> Result<(), Failed> {
    let mut script = String::from("break main\nrun\n");
    for (name, kind) in PROBES {
        let print = match (name, kind) {
            (_, Arguments::ThreeWords) => {
                "%#lx %#lx %#lx\\n\", $_probe_arg0, $_probe_arg1, $_probe_arg2"
            }
            ("refuse", _) => "%s %s\\n\", (char *)$_probe_arg0, (char *)$_probe_arg1",
            _ => "%#lx %#lx\\n\", $_probe_arg0, $_probe_arg1",
        };
        script += &format!(
            "break -probe-stap rsasync:{name}
             commands
             silent
             printf \"found: {name} {print}
             continue
             end\n"
        );
    }
    script += "continue\n";
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("script");
    fs::write(&file, script)?;
    let mut gdb = gdb();
    gdb.env("LD_LIBRARY_PATH", stripped()?.parent().ok_or("no folder")?);
    gdb.arg("-x").arg(&file).arg("--args");
    let said = stdout_of(gdb.arg(program()?).arg("events"))?;
    let lines_of = |mark: &str| -> Vec<String> {
        let lines = said.lines().filter_map(|line| line.strip_prefix(mark));
        lines.map(|line| line.trim().to_owned()).collect()
    };
    let (wanted, found) = (lines_of("wanted:"), lines_of("found:"));
    let (of_stacks, of_jobs): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|line| line.starts_with("stack_"));
    expect(of_jobs == wanted, format!("{of_jobs:#?} in\n{said}"))?;
    expect(wanted.len() == 6, format!("too few events in\n{said}"))?;
    let stack = of_stacks[0].strip_prefix("stack_made ");
    let stack = stack.ok_or_else(|| format!("{of_stacks:?}"))?;
    let both = [
        format!("stack_made {stack}"),
        format!("stack_freed {stack}"),
    ];
    equal(of_stacks, both.to_vec())
}

/// What an example for bpftrace says of a job that pauses for 10 ms, again and again. Where the
/// kernel allows no bpftrace the example is only compiled.
fn in_bpftrace(example: &str) -> Result<(), Failed> {
    let compile = output_of(bpftrace(example)?.arg("-d"));
    compile.map(drop)?;
    let mut probe = command("bpftrace", 60);
    if output_of(probe.args(["-e", "BEGIN { exit(); }"])).is_err() {
        return Ok(());
    }
    let mut job = Started::new(command(program()?, 120).arg("many_pauses"))?;
    let said = job.line_that_begins("job: ")?;
    let words: Vec<_> = said.split_whitespace().collect();
    let [_, pid, handle] = words[..] else {
        return Err(format!("the program printed {said}").into());
    };
    let mut said = String::new();
    // bpftrace does not tell when it has begun.
    for seconds in iter::successors(Some(1), |seconds| Some(seconds * 3)).take(4) {
        let mut tracer = Started::new(&mut bpftrace(example)?)?;
        tracer.line_that_begins("Attaching ")?;
        sleep(Duration::from_secs(seconds));
        said = tracer.interrupt()?;
        let is_right = match example {
            "pause_times" => said.contains("@microseconds[probes]") && has_about_10_ms(&said),
            _ => said.contains(&format!("@paused[probes, {pid}, {pid}, {handle}, 0, ")),
        };
        if is_right {
            return Ok(());
        }
    }
    Err(format!("no job of {pid} with the handle {handle} in\n{said}").into())
}

/// A row of the histogram from 8,192 microseconds on (the machine may be slow) has jobs.
fn has_about_10_ms(histogram: &str) -> bool {
    let rows = histogram.lines().filter(|line| line.starts_with('['));
    rows.filter(|row| row.contains("K,")).any(|row| {
        let start = row[1..]
            .split('K')
            .next()
            .and_then(|start| start.parse().ok());
        start.is_some_and(|start: u32| start >= 8)
    })
}

/// An example with the library as its argument.
fn bpftrace(example: &str) -> Result<Command, Failed> {
    let mut bpftrace = command("bpftrace", 120);
    bpftrace.args(["-B", "line"]);
    bpftrace.arg(ROOT.join("examples").join(example).with_extension("bt"));
    bpftrace.arg(fs::canonicalize(stripped()?)?);
    Ok(bpftrace)
}

/// A process that is ended when this is dropped.
struct Started {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Started {
    fn new(command: &mut Command) -> Result<Self, Failed> {
        command.env("LD_LIBRARY_PATH", stripped()?.parent().ok_or("no folder")?);
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = process.stdout.take().ok_or("no output")?;
        Ok(Self {
            process,
            output: BufReader::new(output),
        })
    }

    fn line_that_begins(&mut self, beginning: &str) -> Result<String, Failed> {
        let mut line = String::new();
        while !line.starts_with(beginning) {
            line.clear();
            if self.output.read_line(&mut line)? == 0 {
                return Err(format!("no line that begins with {beginning}").into());
            }
        }
        Ok(line)
    }

    /// Ends it as Ctrl-C does; what it has printed since.
    fn interrupt(&mut self) -> Result<String, Failed> {
        self.signal(libc::SIGINT);
        let mut output = String::new();
        self.output.read_to_string(&mut output)?;
        Ok(output)
    }

    fn signal(&self, signal: i32) {
        let pid = self.process.id().cast_signed();
        // SAFETY: the process is a child that nobody has waited for. (`timeout` passes it on.)
        unsafe { libc::kill(pid, signal) };
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.signal(libc::SIGTERM);
        let _ = self.process.wait();
    }
}
