//! gdb's commands for jobs, of src/debugger/librsasync-gdb.py: in a process and in a core file, with
//! libraries and programs that have no symbols.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Failed, Trial};

use harness::check::{equal, expect};
use harness::stage::{
    BUILT, BuiltOnce, ROOT, build_program, command, compiler, headers, library_path, make,
    output_of, program_source, shared_library, stdout_of,
};

use crate::gdb::{function_of_frame, gdb, program as backtraces_program};
use crate::plain_switch;

pub fn trials() -> Vec<Trial> {
    let trial = |name: &str, run: fn() -> Result<(), Failed>| {
        Trial::test(format!("gdb::jobs::{name}"), run)
    };
    let live = |name: &str, library: Library, case: &'static str| {
        let run = move || check_jobs(&in_process(library()?, program()?, case)?);
        Trial::test(format!("gdb::jobs::{name}"), run)
    };
    vec![
        live("of_a_stripped_library", stripped, "jobs"),
        live(
            "on_stacks_of_the_programs",
            stripped,
            "jobs_on_stacks_of_the_programs",
        ),
        live("of_the_plain_switch", plain_switch::library, "jobs"),
        trial("of_a_static_program", || {
            check_jobs(&in_process(stripped()?, static_program()?, "jobs")?)
        }),
        trial("of_a_stripped_static_program", without_names),
        trial("in_a_core_file_of_gcore", || {
            let case = "jobs_above_protected_guards";
            check_jobs(&in_core_file(&mut gcore(case, &IN_STOP_HERE)?)?)
        }),
        trial("in_a_core_file_of_the_kernel", || {
            let mut sh = command("sh", 120);
            sh.args(["-c", "ulimit -c unlimited; \"$@\"; true", "sh"]);
            check_jobs(&in_core_file(sh.arg(program()?).arg("jobs_and_a_trap"))?)
        })
        .with_ignored_flag(!kernel_writes_core_files()),
        trial("that_gcore_leaves_out_are_explained", || {
            let said = in_core_file(&mut gcore("jobs", &IN_STOP_HERE)?)?;
            let is_explained = said.contains("The core file lacks the stacks of jobs");
            if is_explained {
                Ok(())
            } else {
                check_jobs(&said)
            }
        }),
        trial("in_a_core_file_in_the_middle_of_a_switch", in_switch),
        trial("at_each_instruction_of_a_switch", || {
            at_each_instruction(stripped()?)
        }),
        trial("at_each_instruction_of_the_plain_switch", || {
            at_each_instruction(plain_switch::library()?)
        }),
        trial("are_left_for_threads_and_steps", jobs_are_left),
        trial("by_a_script_that_gdb_finds", script_is_found),
    ]
}

type Library = fn() -> Result<&'static Path, Failed>;

/// The staged library without symbols, under the name that programs look for.
pub fn stripped() -> Result<&'static Path, Failed> {
    static LIBRARY: BuiltOnce = BuiltOnce::new();
    LIBRARY.get_or_build(|| {
        let library = BUILT.join("stripped/librsasync.so.0");
        fs::create_dir_all(BUILT.join("stripped"))?;
        strip(&shared_library(), &library)?;
        Ok(library)
    })
}

fn strip(from: &Path, to: &Path) -> Result<(), Failed> {
    output_of(command("strip", 60).arg(from).arg("-o").arg(to)).map(drop)
}

/// programs/debugged.c, built.
fn program() -> Result<&'static Path, Failed> {
    static PROGRAM: BuiltOnce = BuiltOnce::new();
    PROGRAM.get_or_build(|| build_program("debugged", &[]))
}

/// The same without any shared library.
pub fn static_program() -> Result<&'static Path, Failed> {
    static PROGRAM: BuiltOnce = BuiltOnce::new();
    PROGRAM.get_or_build(|| {
        let program = BUILT.join("debugged-static");
        let mut compiler = compiler(&program_source("debugged.c"));
        compiler.arg("-static").arg("-I").arg(headers());
        compiler.arg(library_path()).arg("-l:librsasync.a");
        output_of(compiler.arg("-o").arg(&program))?;
        Ok(program)
    })
}

fn script() -> PathBuf {
    ROOT.join("src/debugger/librsasync-gdb.py")
}

/// What the trials look at: the table, all backtraces, and a variable of a frame of the first job.
const LOOK: [&str; 6] = [
    "info async-jobs",
    "async-job apply all bt",
    "async-job 1",
    "up 2",
    "print left",
    "echo", // so that gdb succeeds
];

/// What gdb says of a case of a program that has stopped in `stop_here`.
fn in_process(library: &Path, program: &Path, case: &str) -> Result<String, Failed> {
    let mut gdb = gdb();
    gdb.env("LD_LIBRARY_PATH", library.parent().ok_or("no folder")?);
    gdb.args(["-ex", "break stop_here", "-ex", "run", "-x"]);
    gdb.arg(script());
    commands(&mut gdb, &LOOK);
    stdout_of(gdb.arg("--args").arg(program).arg(case))
}

fn commands(gdb: &mut Command, commands: &[&str]) {
    for command in commands {
        gdb.args(["-ex", command]);
    }
}

const IN_STOP_HERE: [&str; 2] = ["break stop_here", "run"];

/// Makes a core file of a case of the program, after these commands.
fn gcore(case: &str, before: &[&str]) -> Result<Command, Failed> {
    let mut gdb = gdb();
    commands(&mut gdb, before);
    gdb.args(["-ex", "gcore core", "--args"]);
    gdb.arg(program()?).arg(case);
    Ok(gdb)
}

/// What gdb says of the core file that a command makes, in a folder of its own.
fn in_core_file(maker: &mut Command) -> Result<String, Failed> {
    let folder = tempfile::tempdir()?;
    let folder_of_library = stripped()?.parent().ok_or("no folder")?;
    maker.current_dir(folder.path());
    let made = stdout_of(maker.env("LD_LIBRARY_PATH", folder_of_library))?;
    let core = fs::read_dir(folder.path())?.next();
    let core = core.ok_or_else(|| format!("no core file:\n{made}"))??;
    let mut gdb = gdb();
    gdb.arg(program()?).arg(core.path()).arg("-x").arg(script());
    commands(&mut gdb, &LOOK);
    let said = output_of(gdb.env("LD_LIBRARY_PATH", folder_of_library))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(text(&said.stdout) + &text(&said.stderr))
}

/// Whether the kernel writes core files where the process is.
fn kernel_writes_core_files() -> bool {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    !pattern.trim().is_empty() && !pattern.contains(['|', '/', '@'])
}

/// A job of programs/debugged.c: its state, its thread, its function, and its innermost frames.
type Job = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

const JOBS: [Job; 6] = [
    (
        "paused",
        "1",
        "paused_func",
        &[
            "ASYNC_pause_job",
            "pause_below",
            "pause_below",
            "pause_below",
        ],
    ),
    (
        "orphaned",
        "1",
        "paused_func",
        &["ASYNC_pause_job", "pause_below"],
    ),
    (
        "paused",
        "2",
        "paused_func",
        &["ASYNC_pause_job", "pause_below"],
    ),
    (
        "paused",
        "exited",
        "paused_func",
        &["ASYNC_pause_job", "pause_below"],
    ),
    ("running", "1", "outer_func", &["ASYNC_start_job"]),
    ("running", "1", "inner_func", &["stop_here"]),
];

/// All jobs are in the table, each with its frames and what is behind them: at most the trampoline.
fn check_jobs(said: &str) -> Result<(), Failed> {
    let in_context = |what: String| Failed::from(format!("{what} in\n{said}"));
    let rows: Vec<_> = said.lines().filter(|line| line.contains(" 0x")).collect();
    let backtraces = backtraces(said);
    for (index, (state, thread, function, innermost)) in JOBS.iter().enumerate() {
        let number = (index + 1).to_string();
        let is_its_row = |row: &&&str| {
            let words: Vec<_> = row.trim_start_matches('*').split_whitespace().collect();
            matches!(words[..], [first, its_state, its_thread, _, its_function, ..]
                if [first, its_state, its_thread, its_function] == [number.as_str(), state, thread, function])
        };
        let row = rows.iter().find(is_its_row);
        let row = row.ok_or_else(|| in_context(format!("no row of job {number}")))?;
        let place = "ctests/programs/debugged.c:";
        expect(row.contains(place), format!("no place in {row}"))?;
        let title = format!("Job {number} ({state}, thread {thread}):");
        let found = backtraces.iter().find(|(its_title, _)| *its_title == title);
        let (_, frames) = found.ok_or_else(|| in_context(format!("no frames of {title}")))?;
        let named = [innermost, &[*function][..]].concat();
        if !frames.starts_with(&named) || frames.len() > named.len() + 1 {
            return Err(in_context(format!("{title} {frames:?}")));
        }
    }
    let is_current = |row: &&str| row.starts_with('*');
    equal(rows.iter().filter(|row| is_current(row)).count(), 1)?;
    equal(backtraces.len(), JOBS.len())?;
    expect(
        said.lines().any(|line| line == "$1 = 1"),
        format!("the variable of a frame is not 1 in\n{said}"),
    )
}

/// The titles of `async-job apply`, and the functions of the frames that follow each.
fn backtraces(said: &str) -> Vec<(&str, Vec<&str>)> {
    let mut backtraces: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in said.lines() {
        if line.starts_with("Job ") && line.ends_with("):") {
            backtraces.push((line, Vec::new()));
        } else if let Some((_, frames)) = backtraces.last_mut() {
            if line.starts_with('[') {
                break; // the next command has begun
            }
            frames.extend(function_of_frame(line));
        }
    }
    backtraces
}

/// A program that has no symbols at all stops when the last of four jobs is about to pause. The
/// number of each job's frames is right.
fn without_names() -> Result<(), Failed> {
    let program = static_program()?.with_extension("stripped");
    strip(static_program()?, &program)?;
    let mut gdb = gdb();
    commands(
        &mut gdb,
        &["break -probe-stap rsasync:pause", "ignore 1 3", "run"],
    );
    gdb.arg("-x").arg(script());
    commands(&mut gdb, &LOOK[..2]);
    let said = stdout_of(gdb.arg("--args").arg(program).arg("jobs"))?;
    let found: Vec<_> = backtraces(&said)
        .into_iter()
        .map(|(title, frames)| (title, frames.len()))
        .collect();
    let wanted = [
        ("Job 1 (paused, thread 1):", 6),
        ("Job 2 (orphaned, thread 1):", 4),
        ("Job 3 (paused, thread 2):", 4),
        ("Job 4 (running, thread 3):", 4),
    ];
    expect(found == wanted, format!("{found:?} in\n{said}"))
}

/// The first job's thread has left the job's stack, and has not stored yet where the job goes on.
fn in_switch() -> Result<(), Failed> {
    let case = "jobs_above_protected_guards";
    let in_switch = [
        "break main",
        "run",
        "break -probe-stap rsasync:pause",
        "continue",
        "stepi 31", // as the next trial sees, the stacks are switched 25 instructions after the probe
    ];
    let said = in_core_file(&mut gcore(case, &in_switch)?)?;
    let found = backtraces(&said);
    let [("Job 1 (running, thread 1):", frames)] = &found[..] else {
        return Err(format!("{found:?} in\n{said}").into());
    };
    let is_elsewhere = said.lines().all(|line| !line.starts_with("* 1 "));
    let (.., innermost) = JOBS[0];
    expect(
        is_elsewhere && frames.starts_with(innermost) && said.contains("$1 = 1"),
        format!("{frames:?} in\n{said}"),
    )
}

/// Stops at each instruction of programs/backtraces.c's way out of a job and back into it: each
/// time the job has its frames.
fn at_each_instruction(library: &Path) -> Result<(), Failed> {
    const INSTRUCTIONS: usize = 100; // more than a switch, from the probe to the other side
    let mut script_of_steps = format!(
        "break main\nrun\ndelete\nset pagination off\nsource {}\n",
        script().display()
    );
    for probe in ["pause", "resume"] {
        script_of_steps += &format!(
            "tbreak -probe-stap rsasync:{probe}
             continue
             set $left = {INSTRUCTIONS}
             while $left > 0
               stepi
               async-job apply all bt
               set $left = $left - 1
             end\n"
        );
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("script");
    fs::write(&file, script_of_steps)?;
    let mut gdb = gdb();
    gdb.env("LD_LIBRARY_PATH", library.parent().ok_or("no folder")?);
    gdb.arg("-x").arg(&file).arg("--args");
    let said = stdout_of(gdb.arg(backtraces_program()?).arg("backtraces"))?;
    let mut in_states = [0, 0];
    for block in said.split("\nJob ").skip(1) {
        in_states[usize::from(block.starts_with("1 (paused, thread 1):"))] += 1;
        let frames: Vec<_> = block.lines().filter_map(function_of_frame).collect();
        let of_job = frames
            .windows(2)
            .position(|pair| pair == ["middle", "job_func"]);
        let beyond = of_job.map(|position| frames.len() - (position + 2));
        if beyond.is_none_or(|beyond| beyond > 1) {
            return Err(format!("{frames:?} in\nJob {block}").into());
        }
    }
    equal(in_states[0] + in_states[1], 2 * INSTRUCTIONS)?;
    expect(
        in_states[0] > INSTRUCTIONS / 2 && in_states[1] > 0,
        format!("{in_states:?} blocks of a running and of a paused job"),
    )
}

/// A thread that is selected, frame 0, and a step show the thread's own frames again; a call of a
/// function of the program leaves the job selected.
fn jobs_are_left() -> Result<(), Failed> {
    let session = [
        ("async-job 1", "[Switching to job 1 (paused, thread 1)]"),
        ("backtrace 1", "#1 "),
        ("thread 1", "#0 "),
        ("backtrace 1", "#0 "),
        ("async-job 2", "[Switching to job 2 (orphaned, thread 1)]"),
        ("up", "#2 "),
        ("async-job", "[Current job is job 2 (orphaned, thread 1)]"),
        ("frame 0", "#0 "),
        ("async-job", "[Current job is job 6 (running, thread 1)]"),
        ("async-job 3", "[Switching to job 3 (paused, thread 2)]"),
        ("thread 1", "#0 "),
        ("backtrace 1", "#0 "),
        ("async-job 1", "[Switching to job 1 (paused, thread 1)]"),
        ("next", ""),
        ("backtrace 1", "#0 "),
        ("async-job 7", "There is no job 7"),
    ];
    let mut input = String::new();
    for (command, _) in session {
        input += &format!("echo \\n=={command}\\n\n{command}\n");
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("input");
    fs::write(&file, input)?;
    // (Standard input is no terminal, but gdb takes it for one user: it shows a prompt.)
    let mut gdb = gdb();
    gdb.args([
        "-ex",
        "set prompt",
        "-ex",
        "break stop_here",
        "-ex",
        "run",
        "-x",
    ]);
    gdb.arg(script()).arg("--args").arg(program()?).arg("jobs");
    let mut words = gdb.get_args().filter(|word| *word != "-batch");
    let mut interactive = command("sh", 120);
    interactive.args(["-c", "input=$1; shift; exec \"$@\" < \"$input\" 2>&1", "sh"]);
    interactive
        .arg(&file)
        .arg(gdb.get_program())
        .args(&mut words);
    let said = stdout_of(&mut interactive)?;
    let mut answers = said.split("\n==").skip(1);
    for (command, wanted) in session {
        let answer = answers.next().unwrap_or_default();
        let is_right = answer.starts_with(command) && answer.contains(wanted);
        expect(is_right, format!("{command}: no \"{wanted}\" in\n{said}"))?;
    }
    Ok(())
}

/// `make install` puts the script where gdb looks for that of the library, or, if there is no such
/// place, beside it.
fn script_is_found() -> Result<(), Failed> {
    for place in ["auto-load", ""] {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        let scripts = if place.is_empty() {
            String::new()
        } else {
            path(place)
        };
        let mut make = make();
        make.args(["install", "DESTDIR="]);
        make.arg(format!("PREFIX={}", path("")));
        make.arg(format!("LIBDIR={}", path("lib")));
        output_of(make.arg(format!("GDB_AUTO_LOAD={scripts}")))?;
        let mut gdb = gdb();
        gdb.env("LD_LIBRARY_PATH", path("lib"));
        commands(
            &mut gdb,
            &[
                &format!("set auto-load scripts-directory {}", path("auto-load")),
                &format!("add-auto-load-safe-path {}", folder.path().display()),
                "break stop_here",
                "run",
                LOOK[0],
            ],
        );
        let said = stdout_of(gdb.arg("--args").arg(program()?).arg("jobs"))?;
        expect(said.contains("orphaned"), format!("{place}: {said}"))?;
    }
    Ok(())
}
