//! Real servers under some load, of which `make servers` takes more; and what examples/README.md
//! says to type.

use std::env;
use std::fs;
use std::net::TcpListener;

use harness::check::expect;
use harness::servers::{Size, checks};
use harness::stage::{ROOT, STAGE, command, stdout_of};
use libtest_mimic::{Failed, Trial};

pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<_> = checks(Size::Short).into_iter().map(Trial::from).collect();
    let name = "servers::examples::haproxy_in_a_minute";
    trials.push(Trial::test(name, haproxy_in_a_minute));
    trials
}

/// The lines of "Try it with HAProxy", as they stand there but for the folder and the port.
fn haproxy_in_a_minute() -> Result<(), Failed> {
    let text = fs::read_to_string(ROOT.join("examples/README.md"))?;
    let (_, section) = text
        .split_once("## Try it with HAProxy")
        .ok_or("examples/README.md has no such section")?;
    let (section, _) = section.split_once("\n## ").unwrap_or((section, ""));
    let lines = section.lines().filter_map(|line| line.strip_prefix("    "));
    let script = lines.collect::<Vec<_>>().join("\n");

    let folder = tempfile::tempdir()?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let script = script
        .replace("/tmp/rsasync-try", &folder.path().display().to_string())
        .replace("8443", &port.to_string());
    let path = env::var("PATH").unwrap_or_default();
    let mut shell = command("sh", 60);
    shell.env(
        "PATH",
        format!("{}:{path}", STAGE.join("usr/bin").display()),
    );
    let said = stdout_of(shell.current_dir(&*ROOT).args(["-c", &script]))?;
    for wanted in [
        "haproxy: yes, its calls go to rsasync",
        "accelerator.so",
        "orphaned: paused, and their wait context was freed",
        "wait_for (accelerator.so)",
    ] {
        expect(said.contains(wanted), format!("no \"{wanted}\" in\n{said}"))?;
    }
    Ok(())
}
