//! `rsasync jobs` of processes.

use std::path::Path;

use libtest_mimic::Failed;
use serde_json::Value;

use harness::check::{equal, expect};
use harness::observed::Observed;
use harness::stage::{
    BUILT, compiler_of, headers, library_path, output_of, program_source, shared_library,
};

use super::observed::{RSASYNC_INSIDE, ask, build_static, observed, plain, start_case};
use super::status::status_of;

/// The lines of `jobs` without the heading.
pub fn jobs_of(process: &Observed) -> Result<Vec<String>, Failed> {
    let pid = process.pid();
    let said = ask(&["jobs", "--interval", "0.2", &pid])?.expect(0, &["thread"])?;
    Ok(said.out.lines().skip(1).map(str::to_owned).collect())
}

/// Fails unless one line has all of these words.
pub fn one_line_with(lines: &[String], words: &[&str]) -> Result<(), Failed> {
    let has_all = |line: &&String| words.iter().all(|word| line.contains(word));
    let count = lines.iter().filter(has_all).count();
    let all = lines.join("\n");
    expect(
        count == 1,
        format!("{count} lines have all of {words:?}:\n{all}"),
    )
}

/// Lines of the case `all_states`.
pub fn check_all_states(lines: &[String], tid: &str) -> Result<(), Failed> {
    equal(lines.len(), 7)?;
    let place = "pauses_here (observed)";
    one_line_with(lines, &[tid, "paused", "fd 72, fd 71", "of 128 KiB", place])?;
    one_line_with(lines, &[tid, "paused", "callback", place])?;
    one_line_with(lines, &[tid, "orphaned", "nothing", place])?;
    one_line_with(lines, &["ended", "abandoned", "nothing", place])?;
    one_line_with(lines, &[tid, "running"])?;
    one_line_with(lines, &[tid, "idle"])?;
    // Paused below a frame of 20,000 bytes: 19.5 KiB, and the frames of a few calls.
    for line in lines.iter().filter(|line| line.contains(place)) {
        let used = line
            .split(" KiB of")
            .next()
            .and_then(|before| before.split(' ').next_back());
        let used: f64 = used.unwrap_or_default().parse()?;
        expect((19.5..21.0).contains(&used), line.as_str())?;
    }
    Ok(())
}

pub fn jobs_lines() -> Result<(), Failed> {
    let process = start_case("all_states")?;
    let lines = jobs_of(&process)?;
    check_all_states(&lines, &process.pid())?;
    let still = lines.iter().filter(|line| line.contains("0.2 s")).count();
    equal(still, 6) // all but the idle one
}

pub fn jobs_moves() -> Result<(), Failed> {
    let process = start_case("moves")?;
    // The moving one is seen running or paused, or in between; it may not run on a busy machine.
    let has_seen = (0..50).any(|_| {
        jobs_of(&process).is_ok_and(|lines| {
            one_line_with(&lines, &["moves"]).is_ok()
                && one_line_with(&lines, &["0.2 s", "pauses_here (observed)"]).is_ok()
        })
    });
    expect(has_seen, jobs_of(&process)?.join("\n"))
}

pub fn jobs_static() -> Result<(), Failed> {
    for (name, more, place) in [
        (
            "observed-static-jobs",
            "-g",
            "pauses_here (observed-static-jobs)",
        ),
        (
            "observed-static-stripped",
            "-s",
            "(observed-static-stripped)",
        ),
    ] {
        let program = build_static(name, &["-static", more])?;
        let process = Observed::start(plain(&program).arg("one_paused"))?;
        let lines = jobs_of(&process)?;
        one_line_with(&lines, &["paused", "nothing", place])?;
    }
    Ok(())
}

/// There the switch is a function of its own.
pub fn jobs_asan() -> Result<(), Failed> {
    let program = BUILT.join("observed-asan");
    let mut clang = compiler_of(&["clang".to_owned()], &[], &program_source("observed.c"));
    clang.args(["-Wno-infinite-recursion", "-fsanitize=address"]);
    clang.arg("-I").arg(headers()).arg(library_path());
    output_of(clang.args(RSASYNC_INSIDE).arg("-o").arg(&program))?;
    let process = Observed::start(plain(&program).arg("one_paused"))?;
    one_line_with(
        &jobs_of(&process)?,
        &["paused", "pauses_here (observed-asan)"],
    )
}

/// Under such a limit jobs lie apart from their stacks.
pub fn jobs_limited() -> Result<(), Failed> {
    let mut shell = plain(Path::new("sh"));
    let line = "ulimit -v 4000000; exec \"$0\" one_paused";
    shell
        .args(["-c", line])
        .arg(observed()?)
        .env("LD_PRELOAD", shared_library());
    let process = Observed::start(&mut shell)?;
    one_line_with(
        &jobs_of(&process)?,
        &["paused", "of 128 KiB", "pauses_here (observed)"],
    )?;
    equal(&status_of(&process)?["jobs"]["paused"], &Value::from(1))
}

pub fn jobs_own_stack() -> Result<(), Failed> {
    let process = start_case("own_stack")?;
    one_line_with(
        &jobs_of(&process)?,
        &["paused", "of 1.0 MiB", "pauses_here (observed)"],
    )
}

/// Looks at what is torn: no panic, no nonsense, no end that does not come.
pub fn looks_while_changing() -> Result<(), Failed> {
    let process = start_case("changes")?;
    for _ in 0..30 {
        let status = status_of(&process)?;
        let jobs = &status["jobs"];
        for state in ["running", "paused", "idle", "orphaned", "abandoned"] {
            let count = jobs[state].as_u64().unwrap_or(u64::MAX);
            expect(count <= 8, format!("{status}"))?;
        }
        expect(
            status["threads"].as_array().is_some_and(|it| it.len() <= 8),
            "threads",
        )?;
        ask(&["jobs", "--interval", "0.01", &process.pid()])?.expect(0, &[])?;
        ask(&["check", &process.pid()])?.expect(0, &[])?;
    }
    Ok(())
}

pub fn crowd() -> Result<(), Failed> {
    let process = start_case("crowd")?;
    equal(&status_of(&process)?["jobs"]["paused"], &Value::from(5000))?;
    equal(jobs_of(&process)?.len(), 5000)
}
