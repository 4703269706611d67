//! `rsasync run`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use libtest_mimic::Failed;

use harness::check::{equal, expect};
use harness::observed::Observed;
use harness::stage::{command, output_of, shared_library};

use super::observed::{ask, observed, plain, rsasync, say};

pub fn run_preloads() -> Result<(), Failed> {
    let print = "echo $LD_PRELOAD $RSASYNC_STACK_SIZE";
    let library = fs::canonicalize(shared_library())?;
    let library = library.display();
    let mut run = command(rsasync(), 60);
    run.env("LD_PRELOAD", "libc.so.6");
    let said = say(run.args(["run", "--stack-size", "256K", "sh", "-c", print]))?;
    equal(said.out, format!("{library}:libc.so.6 256K\n"))?;
    let said = ask(&["run", "--", "sh", "-c", print])?;
    equal(said.out, format!("{library}\n"))?;
    // And it takes effect.
    let program = observed()?;
    let of_case = Observed::start(plain(&rsasync()).arg("run").arg(program).arg("one_paused"))?;
    ask(&["check", &of_case.pid()])?
        .expect(0, &["yes"])
        .map(drop)
}

pub fn run_passes_on() -> Result<(), Failed> {
    let said = ask(&[
        "run",
        "sh",
        "-c",
        "echo \"$0 $*\"; exit 7",
        "name",
        "--all",
        "-x",
    ])?;
    said.expect(7, &["name --all -x\n"])?;
    let said = ask(&["run", "no-such-program-of-rsasync"])?;
    said.expect(
        2,
        &["rsasync: no-such-program-of-rsasync: no such program in PATH\n"],
    )
    .map(drop)
}

pub fn run_finds() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let bin = directory.path().join("prefix/bin"); // so that ../lib is the trial's own
    fs::create_dir_all(&bin)?;
    let alone = bin.join("rsasync");
    fs::copy(rsasync(), &alone)?;
    let run = |command: &mut Command| say(command.args(["run", "sh", "-c", "echo $LD_PRELOAD"]));
    // By the loader, here by LD_LIBRARY_PATH.
    let found = run(&mut command(&alone, 60))?.expect(0, &["librsasync.so.0"])?;
    let directory_of_it = harness::stage::library_directory();
    expect(
        found
            .out
            .starts_with(&directory_of_it.display().to_string()),
        format!("it found {}", found.out),
    )?;
    run(command(&alone, 60).env_remove("LD_LIBRARY_PATH"))?.expect(2, &["say --library PATH"])?;
    // Beside the command.
    let beside = bin.join("librsasync.so");
    fs::copy(shared_library(), &beside)?;
    run(command(&alone, 60).env_remove("LD_LIBRARY_PATH"))?
        .expect(0, &[&beside.display().to_string()])?;
    // Where the user says.
    let elsewhere = directory.path().join("mine.so");
    fs::rename(&beside, &elsewhere)?;
    let elsewhere = elsewhere.display().to_string();
    let mut named = command(&alone, 60);
    named.args([
        "run",
        "--library",
        &elsewhere,
        "sh",
        "-c",
        "echo $LD_PRELOAD",
    ]);
    say(&mut named)?.expect(0, &[&elsewhere]).map(drop)
}

pub fn run_refuses() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let c = directory.path().join("empty.c");
    fs::write(&c, "int main(void) { return 0; }\n")?;
    let program = directory.path().join("static");
    output_of(
        command("cc", 60)
            .arg("-static")
            .arg(&c)
            .arg("-o")
            .arg(&program),
    )?;
    let path = program.display().to_string();
    ask(&["run", &path])?.expect(2, &["a static program", "link it with librsasync.a"])?;
    let set_uid = directory.path().join("set-uid");
    output_of(command("cc", 60).arg(&c).arg("-o").arg(&set_uid))?;
    let path = set_uid.display().to_string();
    ask(&["run", &path])?.expect(0, &[])?;
    fs::set_permissions(&set_uid, fs::Permissions::from_mode(0o4755))?;
    ask(&["run", &path])?
        .expect(2, &["set-uid", "ignores LD_PRELOAD"])
        .map(drop)
}
