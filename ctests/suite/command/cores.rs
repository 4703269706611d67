//! `rsasync jobs` of core files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use libtest_mimic::Failed;

use harness::check::{equal, expect};
use harness::observed::Observed;
use harness::stage::{command, output_of, shared_library};

use super::jobs::{check_all_states, one_line_with};
use super::observed::{Said, observed, plain, rsasync, say, start_case};

/// Whether the kernel writes core files where the process is.
pub fn kernel_writes_cores() -> bool {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    !pattern.is_empty() && !pattern.starts_with(['|', '/'])
}

/// Runs a case that ends with a core file, in this directory.
fn core_of(case: &str, directory: &Path) -> Result<PathBuf, Failed> {
    let mut shell = plain(Path::new("sh"));
    let line = "ulimit -c unlimited; exec \"$0\" \"$1\"";
    shell
        .args(["-c", line])
        .arg(observed()?)
        .arg(case)
        .current_dir(directory);
    shell.env("LD_PRELOAD", shared_library());
    if case == "overflow" {
        let said = say(shell.stdin(Stdio::null()))?;
        expect(said.code.is_none(), "it ended without a signal")?;
    } else {
        let mut process = Observed::start(&mut shell)?;
        // (A shell has SIGQUIT ignored in what it runs in the background.)
        output_of(command("kill", 10).args(["-ABRT", &process.pid()]))?;
        process.child.wait()?;
    }
    let mut files = fs::read_dir(directory)?;
    let core = files.next().ok_or("the kernel wrote no core file")??;
    Ok(core.path())
}

fn ask_of_core(core: &Path, exe: &Path) -> Result<Said, Failed> {
    let mut ask = command(rsasync(), 60);
    ask.args(["jobs", "--core"]).arg(core).arg("--exe").arg(exe);
    say(&mut ask)
}

pub fn core_jobs() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let core = core_of("all_states", directory.path())?;
    let said = ask_of_core(&core, observed()?)?.expect(0, &["observed, a core file"])?;
    let pid = said.out.split(' ').next().unwrap_or_default().to_owned();
    let lines: Vec<_> = said.out.lines().skip(2).map(str::to_owned).collect();
    expect(!said.out.contains("overflowed"), &said.out)?;
    check_all_states(&lines, &pid)
}

pub fn core_overflow() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let core = core_of("overflow", directory.path())?;
    let said = ask_of_core(&core, observed()?)?.expect(0, &[])?;
    let lines: Vec<_> = said.out.lines().map(str::to_owned).collect();
    one_line_with(&lines, &["paused", "pauses_here (observed)"])?;
    one_line_with(&lines, &["running"])?;
    let words = [
        "overflowed its stack of 128 KiB",
        "overflow_job (observed)",
        "RSASYNC_STACK_SIZE=256K",
    ];
    one_line_with(&lines, &words)?;
    // It is the one that runs.
    let handle_of = |word: &str| {
        let line = lines.iter().find(|line| line.contains(word));
        line.and_then(|line| line.split_whitespace().find(|it| it.starts_with("0x")))
    };
    equal(handle_of("overflowed"), handle_of("running"))
}

/// gdb leaves out memory that it can't read whole: stacks with guard markers.
pub fn core_of_gcore() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let process = start_case("one_paused")?;
    let core = directory.path().join("core");
    let mut gdb = command("gdb", 120);
    gdb.args([
        "-nx",
        "-batch",
        "-iex",
        "set debuginfod enabled off",
        "-p",
        &process.pid(),
    ]);
    output_of(gdb.args(["-ex", &format!("generate-core-file {}", core.display())]))?;
    let said = ask_of_core(&core, observed()?)?.expect(0, &["observed, a core file"])?;
    let lacks_stacks = said
        .out
        .contains("the core file lacks the stacks: gcore leaves out");
    expect(
        lacks_stacks || said.out.contains("pauses_here (observed)"),
        said.out,
    )
}

/// The place of the state in a core file.
fn state_in(core: &[u8]) -> Result<usize, Failed> {
    let magic = b"rsasync\0\x01\0\0\0\0\0\0\0";
    let place = core.windows(magic.len()).position(|bytes| bytes == magic);
    Ok(place.ok_or("the core file has no state")?)
}

pub fn core_of_others() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let core = core_of("one_paused", directory.path())?;
    let sh = fs::canonicalize("/bin/sh")?;
    let parts = ["not the program of this core file", "--exe"];
    ask_of_core(&core, &sh)?.expect(2, &parts)?;
    ask_of_core(&sh, &sh)?.expect(2, &["not a core file"])?;
    let mut bytes = fs::read(&core)?;
    let version = state_in(&bytes)? + 8;
    bytes[version] = 3;
    fs::write(&core, &bytes)?;
    ask_of_core(&core, observed()?)?
        .expect(2, &["state of version 3, this command knows 1: "])
        .map(drop)
}

/// Core files with wrong words in the library's state, its slots and jobs, and cut ones.
pub fn broken_cores() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let core = core_of("all_states", directory.path())?;
    let whole = fs::read(&core)?;
    let state = state_in(&whole)?;
    let mut seed: u64 = 88172645463325252;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..60 {
        let mut bytes = whole.clone();
        match round % 3 {
            0 => bytes.truncate(random() as usize % whole.len()),
            // A word of the state becomes another one's value, or anything.
            1 => {
                let place = state + 16 + 8 * (random() % 55) as usize;
                let value = [random(), random() % 4096, u64::MAX, 0][random() as usize % 4];
                bytes[place..place + 8].copy_from_slice(&value.to_le_bytes());
            }
            // Many words of the memory that is written: jobs, slots, the loader's lists.
            _ => {
                for _ in 0..2000 {
                    let place = 65_536 + random() as usize % (whole.len() - 65_544);
                    bytes[place..place + 8].copy_from_slice(&random().to_le_bytes());
                }
            }
        }
        fs::write(&core, &bytes)?;
        let said = ask_of_core(&core, observed()?)?;
        let is_orderly = matches!(said.code, Some(0 | 2)) && !said.err.contains("panicked");
        expect(
            is_orderly,
            format!("round {round}: {:?}\n{}", said.code, said.err),
        )?;
    }
    Ok(())
}
