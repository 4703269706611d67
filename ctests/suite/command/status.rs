//! `rsasync status`.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use libtest_mimic::Failed;
use serde_json::Value;

use harness::check::{equal, expect};
use harness::observed::Observed;
use harness::stage::command;

use super::check::workers;
use super::observed::{ask, build_static, plain, rsasync, start_case};

pub fn status_of(process: &Observed) -> Result<Value, Failed> {
    let said = ask(&["status", "--json", &process.pid()])?.expect(0, &[])?;
    Ok(said.json()?["processes"][0].take())
}

pub fn status_counts() -> Result<(), Failed> {
    let process = start_case("all_states")?;
    let status = status_of(&process)?;
    let number = |path: &str| status.pointer(path).and_then(Value::as_u64);
    for (path, wanted) in [
        ("/jobs/running", 1),
        ("/jobs/paused", 5),
        ("/jobs/idle", 1),
        ("/jobs/orphaned", 1),
        ("/jobs/abandoned", 1),
        ("/starts", 9),
        ("/pauses", 7),
        ("/resumes", 2),
        ("/finishes", 3),
        ("/refusals/pool_size", 1),
        ("/refusals/null", 1),
        ("/refusals/state", 0),
        ("/no_jobs/limit", 2),
        ("/no_jobs/memory", 0),
        ("/stacks/existing", 7),
        ("/stacks/peak", 7),
        ("/stacks/unguarded", 0),
        ("/stacks/bytes", 128 << 10),
        ("/threads/0/jobs/paused", 4),
        ("/threads/0/starts", 8),
        ("/ended_threads/jobs/abandoned", 1),
        ("/ended_threads/starts", 1),
    ] {
        equal((path, number(path)), (path, Some(wanted)))?;
    }
    equal(number("/threads/0/tid"), Some(process.child.id().into()))?;
    // Each paused job has written 20,000 bytes of its stack; pages are whole, and there is more.
    let deepest = number("/stacks/deepest_bytes").unwrap_or(0);
    expect(
        (20_000..60_000).contains(&deepest),
        format!("deepest: {deepest}"),
    )?;
    let resident = number("/stacks/resident_bytes").unwrap_or(0);
    expect(
        (5 * 20_000..7 * 60_000).contains(&resident),
        format!("resident: {resident}"),
    )?;
    let said = ask(&["status", &process.pid()])?;
    let parts = [
        "orphaned: paused, and",
        "abandoned: their thread has ended",
        "limit 2",
        "ended",
    ];
    said.expect(0, &parts).map(drop)
}

/// The same numbers as the program itself gets by RSASYNC_get_stats, which one with rsasync's header
/// prints.
pub fn status_is_get_stats() -> Result<(), Failed> {
    let program = build_static("observed-stats", &[])?;
    let mut process = plain(&program);
    process
        .arg("all_states")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = process.stderr(Stdio::null()).spawn()?;
    let out = BufReader::new(child.stdout.take().ok_or("it has no output")?);
    let mut process = Observed { child, out };
    let mut told = Vec::new();
    loop {
        let mut line = String::new();
        expect(process.out.read_line(&mut line)? > 0, "it has ended")?;
        match line.trim_end().split_once(' ') {
            Some((name, number)) => told.push((name.to_owned(), number.parse::<u64>()?)),
            None => break,
        }
    }
    let status = status_of(&process)?;
    let paths = [
        ("stacks_in_use", "/stacks/existing"),
        ("stacks_unguarded", "/stacks/unguarded"),
        ("jobs_running", "/jobs/running"),
        ("jobs_paused", "/jobs/paused"),
        ("jobs_orphaned", "/jobs/orphaned"),
        ("jobs_abandoned", "/jobs/abandoned"),
        ("jobs_idle", "/jobs/idle"),
        ("refused_pool_size", "/refusals/pool_size"),
        ("refused_null", "/refusals/null"),
        ("refused_memory", "/refusals/memory"),
        ("refused_state", "/refusals/state"),
        ("no_jobs_limit", "/no_jobs/limit"),
        ("no_jobs_memory", "/no_jobs/memory"),
        ("stacks_made", "/stacks/made"),
        ("stacks_peak", "/stacks/peak"),
        ("stack_bytes", "/stacks/bytes"),
        ("stack_deepest_bytes", "/stacks/deepest_bytes"),
    ];
    equal(told.len(), 22)?;
    for (name, number) in &told {
        let path = paths.iter().find(|(it, _)| it == name);
        let path = path.map_or(format!("/{name}"), |(_, path)| (*path).to_owned());
        let seen = status.pointer(&path).and_then(Value::as_u64);
        equal((name, seen), (name, Some(*number)))?;
    }
    Ok(())
}

pub fn status_words() -> Result<(), Failed> {
    for (case, words) in [
        ("nothing", "no job was started"),
        (
            "never_pauses",
            "no job has paused: this server is not asynchronous",
        ),
    ] {
        let process = start_case(case)?;
        ask(&["status", &process.pid()])?.expect(0, &[words])?;
        equal(&status_of(&process)?["remarks"][0], &Value::from(words))?;
    }
    let process = start_case("one_paused")?;
    equal(&status_of(&process)?["remarks"], &Value::Array(Vec::new()))
}

pub fn status_for_prometheus() -> Result<(), Failed> {
    let process = start_case("all_states")?;
    let said = ask(&["status", "--prometheus", &process.pid()])?.expect(0, &[])?;
    let labels = format!("pid=\"{}\",program=\"observed\"", process.pid());
    for line in [
        "# TYPE rsasync_jobs gauge".to_owned(),
        format!("rsasync_jobs{{{labels},state=\"paused\"}} 5"),
        format!("rsasync_jobs_orphaned{{{labels}}} 1"),
        "# TYPE rsasync_starts_total counter".to_owned(),
        format!("rsasync_starts_total{{{labels}}} 9"),
        format!("rsasync_no_jobs_total{{{labels},reason=\"limit\"}} 2"),
    ] {
        let is_there = said.out.lines().any(|it| it == line);
        expect(is_there, format!("no line {line} in\n{}", said.out))?;
    }
    // Each metric has its help and its type before its samples, and each sample a number.
    for line in said.out.lines().filter(|line| !line.starts_with('#')) {
        let (name, _) = line.split_once('{').ok_or(line)?;
        let (before, _) = said.out.split_once(line).ok_or(line)?;
        let is_known = before.contains(&format!("# HELP {name} "))
            && before.contains(&format!("# TYPE {name} "));
        let is_number = line
            .rsplit(' ')
            .next()
            .is_some_and(|it| it.parse::<u64>().is_ok());
        expect(is_known && is_number, line)?;
    }
    Ok(())
}

pub fn status_watches() -> Result<(), Failed> {
    let process = start_case("one_paused")?;
    let mut watch = command(rsasync(), 60);
    watch.args(["status", "--json", "--watch", "0.1", &process.pid()]);
    let mut watch = watch
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().ok_or("no output")?).lines();
    for _ in 0..3 {
        let line = lines.next().ok_or("it watches no more")??;
        let document: Value = serde_json::from_str(&line)?;
        equal(&document["processes"][0]["pauses"], &Value::from(1))?;
    }
    drop(process);
    lines.for_each(drop);
    equal(watch.wait()?.code(), Some(2))
}

pub fn status_covers_workers() -> Result<(), Failed> {
    let parent = workers()?;
    let status = ask(&["status", "--tree", "--json", &parent.pid()])?.json()?;
    let processes = status["processes"].as_array().ok_or("no list")?;
    equal(processes.len(), 3)?;
    for process in processes {
        equal(&process["jobs"]["paused"], &Value::from(1))?;
        equal(process["threads"].as_array().map(Vec::len), Some(1))?;
        equal(&process["threads"][0]["tid"], &process["pid"])?;
    }
    Ok(())
}
