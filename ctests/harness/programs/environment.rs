//! The environment variables RSASYNC_STATS and RSASYNC_STACK_SIZE, which are read when the library is
//! loaded, and which set-uid programs ignore.

use std::fs;
use std::path::Path;

use libtest_mimic::Failed;

use super::man_page::man_page;
use crate::check::expect;
use crate::platform::HOST;
use crate::stage::{
    BUILT, ROOT, command, compiler, headers, library_path, output_of, program_source, stderr_of,
};

/// The number of stacks in the line that RSASYNC_STATS asks for.
pub fn stacks_made(stderr: &str) -> Result<u64, Failed> {
    let line = stderr
        .lines()
        .find(|line| line.starts_with("rsasync 0"))
        .ok_or(format!("no stats in:\n{stderr}"))?;
    let number = line
        .split(": ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|n| n.parse().ok());
    Ok(number.ok_or(format!("no number in: {line}"))?)
}

/// A set-uid program of another user runs with rights that its caller lacks, so that the caller's
/// environment must not control it. Only root can make one.
pub fn set_uid() -> Result<(), Failed> {
    let program = BUILT.join("set-uid");
    let mut compiler = compiler(&ROOT.join("examples/pipe.c"));
    compiler.arg("-I").arg(headers()).arg(library_path());
    output_of(compiler.arg("-l:librsasync.a").arg("-o").arg(&program))?;
    let run = || {
        let mut env = command("env", 60);
        env.args(["RSASYNC_STACK_SIZE=nonsense", "RSASYNC_STATS=1"]);
        stderr_of(env.arg(&program))
    };
    let printed = run()?;
    let both = printed.contains("RSASYNC_STACK_SIZE=nonsense") && printed.contains(" jobs made");
    expect(
        both,
        format!("before it is set-uid it should read the environment: {printed}"),
    )?;
    output_of(command("chown", 60).arg("nobody").arg(&program))?;
    output_of(command("chmod", 60).arg("u+s").arg(&program))?;
    let printed = run()?;
    expect(
        printed.is_empty(),
        format!("it read its caller's environment: {printed}"),
    )
}

/// It asks for a line, or does not; also of a program that empties its environment before it starts
/// a job.
pub fn stats() -> Result<(), Failed> {
    let example = BUILT.join("man-page-stats.c");
    fs::write(&example, man_page()?.example)?;
    let emptied = program_source("empty_environment.c");
    for (name, sources) in [
        ("man-page-stats", &[&example][..]),
        ("man-page-stats-emptied", &[&example, &emptied]),
    ] {
        let program = BUILT.join(name);
        let mut cc = command("cc", 60);
        output_of(cc.args(sources).arg("-lcrypto").arg("-o").arg(&program))?;
        expect_stats(&program).map_err(|why| format!("{name}: {}", why.message().unwrap_or("")))?;
    }
    Ok(())
}

fn expect_stats(program: &Path) -> Result<(), Failed> {
    let run = |variable: &str| {
        let mut env = command("env", 60);
        stderr_of(env.arg(variable).arg(HOST.preloading()).arg(program))
    };
    expect(
        stacks_made(&run("RSASYNC_STATS=1")?)? == 1,
        "one stack should have been made",
    )?;
    expect(
        run("RSASYNC_STATS=0")?.is_empty(),
        "RSASYNC_STATS=0 should print nothing",
    )?;
    expect(
        run("RSASYNC_STATS=")?.is_empty(),
        "an empty RSASYNC_STATS should print nothing",
    )?;
    expect(
        run("NOTHING=1")?.is_empty(),
        "without RSASYNC_STATS it should print nothing",
    )
}
