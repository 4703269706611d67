//! What all subcommands have in common: whom they can read, errors, colours, man pages.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use libtest_mimic::Failed;
use serde_json::Value;

use harness::check::{equal, expect};
use harness::observed::Observed;
use harness::stage::{ROOT, STAGE, command, shared_library, stdout_of};

use super::jobs::{jobs_of, one_line_with};
use super::observed::{ask, observed, plain, rsasync, say, start_case};
use super::status::status_of;

pub fn closed() -> Result<(), Failed> {
    let process = start_case("closed")?;
    ask(&["check", &process.pid()])?.expect(0, &["yes"])?;
    equal(&status_of(&process)?["jobs"]["paused"], &Value::from(1))?;
    one_line_with(&jobs_of(&process)?, &["paused", "pauses_here (observed)"])
}

/// A process whose files lie where nobody else sees them.
pub fn container() -> Result<(), Failed> {
    let line = "mount -t tmpfs none /mnt && cp \"$0\" /mnt/observed && cp \"$1\" /mnt/librsasync.so && \
                LD_PRELOAD=/mnt/librsasync.so exec /mnt/observed one_paused";
    let mut unshare = plain(Path::new("unshare"));
    unshare
        .args(["--mount", "sh", "-c", line])
        .arg(observed()?)
        .arg(shared_library());
    let process = Observed::start(&mut unshare)?;
    let said = ask(&["check", &process.pid()])?.expect(0, &["yes", "/mnt/librsasync.so"])?;
    expect(!said.out.contains("replaced"), said.out)?;
    one_line_with(&jobs_of(&process)?, &["paused", "pauses_here (observed)"])
}

pub fn permission() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let copy = directory.path().join("rsasync");
    fs::copy(rsasync(), &copy)?;
    let as_nobody = |what: &str, pid: &str| {
        let mut ask = command("setpriv", 60);
        ask.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
        say(ask.arg(&copy).args([what, pid]))
    };
    let sleep = |user: &str| {
        let mut sleep = plain(Path::new("setpriv"));
        sleep.args([
            &format!("--reuid={user}"),
            "--regid=nogroup",
            "--clear-groups",
            "sh",
            "-c",
            "echo ready; read line",
        ]);
        Observed::start(&mut sleep)
    };
    // Its own processes a user may read, unless the system forbids that.
    let of_nobody = sleep("nobody")?;
    let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match yama.trim() {
        "" | "0" => as_nobody("check", &of_nobody.pid())?.expect(1, &["rsasync is not loaded"])?,
        _ => {
            as_nobody("check", &of_nobody.pid())?.expect(2, &["as kernel.yama.ptrace_scope is"])?
        }
    };
    let of_daemon = sleep("daemon")?;
    let line = "no permission: run as root or as the user daemon\n";
    as_nobody("check", &of_daemon.pid())?.expect(2, &["can't tell", line])?;
    let said = as_nobody("status", &of_daemon.pid())?;
    let said = said.expect(2, &[])?;
    equal(said.err, format!("rsasync: {}: {line}", of_daemon.pid()))?;
    let said = as_nobody("jobs", &of_daemon.pid())?.expect(2, &[])?;
    equal(said.err, format!("rsasync: {}: {line}", of_daemon.pid()))
}

pub fn errors() -> Result<(), Failed> {
    let mut shell = plain(Path::new("sh"));
    let without = Observed::start(shell.args(["-c", "echo ready; read line"]))?;
    let pid = without.pid();
    for (arguments, line) in [
        (
            &["status", "999999999"][..],
            "rsasync: 999999999: not a process\n",
        ),
        (
            &["jobs", "999999999"],
            "rsasync: 999999999: not a process\n",
        ),
        (
            &["status", &pid],
            &format!("rsasync: {pid}: rsasync is not in it; `rsasync check` says why\n"),
        ),
        (
            &["jobs", &pid],
            &format!("rsasync: {pid}: rsasync is not in it; `rsasync check` says why\n"),
        ),
    ] {
        let said = ask(arguments)?.expect(2, &[])?;
        equal(said.err.as_str(), line)?;
        equal(said.out.as_str(), "")?;
    }
    // Of several processes the others are shown.
    let process = start_case("one_paused")?;
    ask(&["status", "999999999", &process.pid()])?.expect(2, &["observed", "not a process"])?;
    ask(&["status", "nginx"])?
        .expect(2, &["invalid value 'nginx'"])
        .map(drop)
}

pub fn colours() -> Result<(), Failed> {
    const ESCAPE: char = '\x1b';
    let process = start_case("one_paused")?;
    let said = ask(&["check", &process.pid()])?;
    expect(!said.out.contains(ESCAPE), "colours in a pipe")?;
    let mut terminal = command("script", 60);
    terminal.env("TERM", "xterm").env_remove("NO_COLOR");
    let line = format!("{} check {}", rsasync().display(), process.pid());
    let said = say(terminal
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .stdin(Stdio::null()))?;
    expect(
        said.out.contains(ESCAPE),
        format!("no colours on a terminal: {}", said.out),
    )
}

pub fn papers() -> Result<(), Failed> {
    let share = STAGE.join("usr/share");
    for (page, words) in [
        ("rsasync.1", "rsasync\\-check"),
        ("rsasync-run.1", "LD_PRELOAD"),
        ("rsasync-check.1", "EXIT STATUS"),
        ("rsasync-status.1", "prometheus"),
        ("rsasync-jobs.1", "core"),
    ] {
        let text = fs::read_to_string(share.join("man/man1").join(page))?;
        expect(
            text.contains(".TH RSASYNC") && text.contains(words),
            format!("{page}:\n{text}"),
        )?;
    }
    let bash = share.join("bash-completion/completions/rsasync");
    // What a user gets who types `rsasync st` and a tab.
    let line = "source \"$0\"; COMP_WORDS=(rsasync st); COMP_CWORD=1; _rsasync rsasync st rsasync; \
                echo \"${COMPREPLY[@]}\"";
    let completed = stdout_of(command("bash", 60).args(["-c", line]).arg(&bash))?;
    equal(completed.trim(), "status")?;
    for (file, words) in [
        ("zsh/site-functions/_rsasync", "#compdef rsasync"),
        ("fish/vendor_completions.d/rsasync.fish", "-l prometheus"),
    ] {
        let text = fs::read_to_string(share.join(file))?;
        expect(text.contains(words), format!("{file}:\n{text}"))?;
    }
    Ok(())
}

/// Every member of the JSON stands in the man page.
pub fn json_is_documented() -> Result<(), Failed> {
    let page = fs::read_to_string(STAGE.join("usr/share/man/man1/rsasync-status.1"))?;
    let process = start_case("all_states")?;
    let document = ask(&["status", "--json", &process.pid()])?.json()?;
    equal(&document["schema"], &Value::from(1))?;
    let mut waiting = vec![&document];
    while let Some(value) = waiting.pop() {
        match value {
            Value::Array(values) => waiting.extend(values),
            Value::Object(members) => {
                for (name, value) in members {
                    expect(
                        page.contains(name),
                        format!("{name} is not in the man page"),
                    )?;
                    waiting.push(value);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The shared library's own tree stays small.
pub fn tree_of_library() -> Result<(), Failed> {
    let mut cargo = command(std::env::var("CARGO").unwrap_or("cargo".to_owned()), 60);
    cargo.current_dir(&*ROOT);
    cargo.args([
        "tree",
        "--offline",
        "-p",
        "rsasync",
        "--edges",
        "normal",
        "--prefix",
        "none",
    ]);
    let tree = stdout_of(&mut cargo)?;
    let crates = tree.lines().filter_map(|line| line.split(' ').next());
    let mut crates: Vec<_> = crates.collect();
    crates.sort_unstable();
    crates.dedup();
    equal(crates, vec!["context", "libc", "once_cell", "rsasync"])
}
