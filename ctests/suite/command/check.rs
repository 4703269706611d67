//! `rsasync check`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use libtest_mimic::Failed;
use serde_json::Value;

use harness::check::{equal, expect};
use harness::observed::Observed;
use harness::stage::{BUILT, command, output_of, shared_library};

use super::observed::{
    ON_LIBCRYPTO, ask, build, build_static, observed, plain, start_case, start_preloaded,
};

/// The line of an object's calls in the output of `check`.
fn goal_of<'a>(out: &'a str, object: &str) -> &'a str {
    let line = out
        .lines()
        .find(|line| line.trim_start().starts_with(object));
    let goal = line.and_then(|line| line.split_once("-> "));
    goal.map_or("", |(_, goal)| goal)
}

pub fn yes_for_libssl() -> Result<(), Failed> {
    let flags = [&ON_LIBCRYPTO[..], &["-DWITH_SSL"]].concat();
    let program = build("observed-ssl", &flags, &["-lssl", "-lcrypto"])?;
    let process = start_preloaded(&program, "ssl")?;
    let said = ask(&["check", &process.pid()])?.expect(0, &["yes", "rsasync 0."])?;
    equal(goal_of(&said.out, "libssl.so"), "librsasync.so.0.1.0")?;
    // And that is what the process does.
    let status = ask(&["status", "--json", &process.pid()])?.json()?;
    equal(&status["processes"][0]["starts"], &Value::from(1))
}

pub fn yes_before_calls() -> Result<(), Failed> {
    let process = start_case("nothing")?;
    let said = ask(&["check", &process.pid()])?.expect(0, &["yes"])?;
    let goal = "librsasync.so.0.1.0 (by the loader's order; not called yet)";
    equal(goal_of(&said.out, "observed"), goal)?;
    // The same of a library that has the function itself, as libcrypto has.
    let c = "int ASYNC_start_job(void) { return 0; }\nint f(void) { return ASYNC_start_job(); }\n";
    let library = library_of("libcalls-itself.so", c, &["-fPIC", "-Wl,-z,lazy"])?;
    let calls = "#include <stdio.h>\nint f(void);\nint main(int argc, char **argv)\n{\n    \
                 (void)argv;\n    puts(\"ready\");\n    fflush(stdout);\n    \
                 return argc > 9 ? f() : getchar();\n}\n";
    let process = start_preloaded(&program_with("calls-itself", calls, &library)?, "")?;
    let said = ask(&["check", &process.pid()])?.expect(0, &["yes"])?;
    equal(goal_of(&said.out, "libcalls-itself.so"), goal)
}

/// A shared library of this source.
fn library_of(name: &str, c: &str, flags: &[&str]) -> Result<PathBuf, Failed> {
    let (source, library) = (BUILT.join(name).with_extension("c"), BUILT.join(name));
    fs::write(&source, c)?;
    let mut cc = command("cc", 120);
    cc.arg("-shared")
        .arg(&source)
        .args(flags)
        .arg("-o")
        .arg(&library);
    output_of(&mut cc)?;
    Ok(library)
}

/// A program of this source that uses a library.
fn program_with(name: &str, c: &str, library: &Path) -> Result<PathBuf, Failed> {
    let (source, program) = (BUILT.join(name).with_extension("c"), BUILT.join(name));
    fs::write(&source, c)?;
    let mut cc = command("cc", 120);
    cc.arg(&source).arg(library).arg("-Wl,-rpath,$ORIGIN");
    output_of(cc.arg("-o").arg(&program))?;
    Ok(program)
}

pub fn yes_if_static() -> Result<(), Failed> {
    for (name, flags) in [
        ("observed-static", &["-s"][..]),
        ("observed-wholly-static", &["-static", "-s"]),
    ] {
        let program = build_static(name, flags)?;
        let process = Observed::start(plain(&program).arg("one_paused"))?;
        let parts = ["yes", "rsasync 0.1.0", "linked statically into the program"];
        ask(&["check", &process.pid()])?.expect(0, &parts)?;
    }
    Ok(())
}

pub fn no_without_preload() -> Result<(), Failed> {
    let program = observed()?;
    let stays = |command: &mut Command| Observed::start(command.arg("nothing"));
    let process = stays(&mut plain(program))?;
    let said = ask(&["check", &process.pid()])?;
    let said = said.expect(1, &["no", "LD_PRELOAD is not in its environment"])?;
    expect(
        goal_of(&said.out, "observed").starts_with("libcrypto.so"),
        said.out,
    )?;

    let process = stays(plain(program).env("LD_PRELOAD", "/nowhere/librsasync.so"))?;
    let parts = ["no", "/nowhere/librsasync.so, which is not there"];
    ask(&["check", &process.pid()])?.expect(1, &parts)?;

    let process = stays(plain(program).env("LD_PRELOAD", "libc.so.6"))?;
    let parts = ["no", "LD_PRELOAD is \"libc.so.6\", without it"];
    ask(&["check", &process.pid()])?.expect(1, &parts)?;

    // A shell that has it, and starts the program without.
    let line = "exec 3<&0; env -u LD_PRELOAD \"$0\" nothing <&3 & echo $!; wait";
    let mut shell = plain(Path::new("sh"));
    shell
        .args(["-c", line])
        .arg(program)
        .env("LD_PRELOAD", shared_library());
    shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = shell.spawn()?;
    let out = BufReader::new(child.stdout.take().ok_or("no output")?);
    let mut shell = Observed { child, out };
    let (mut lines, mut pid) = ([String::new(), String::new()], String::new());
    for line in &mut lines {
        shell.out.read_line(line)?;
        if line.trim_end() != "ready" {
            pid.clone_from(line);
        }
    }
    let parts = ["no", "its parent", "LD_PRELOAD was lost between them"];
    let said = ask(&["check", pid.trim()]);
    let _ = command("kill", 10).arg(pid.trim()).status();
    said?.expect(1, &parts).map(drop)
}

pub fn no_for_static_openssl() -> Result<(), Failed> {
    let flags = [&ON_LIBCRYPTO[..], &["-DWITH_SSL"]].concat();
    // As node does, and without a symbol of it.
    for (name, flag) in [("observed-exports", "-rdynamic"), ("observed-hides", "-s")] {
        let program = build(name, &flags, &["-l:libssl.a", "-l:libcrypto.a", flag])?;
        let process = start_preloaded(&program, "ssl")?;
        let parts = ["no", "rsasync is loaded", "has an OpenSSL linked into it"];
        ask(&["check", &process.pid()])?.expect(1, &parts)?;
    }
    Ok(())
}

/// A library that has libssl and libcrypto in it and calls the latter directly.
pub fn no_if_bound_inside() -> Result<(), Failed> {
    let archives = [
        "-Wl,-Bsymbolic",
        "-Wl,--whole-archive",
        "-l:libssl.a",
        "-l:libcrypto.a",
        "-Wl,--no-whole-archive",
    ];
    let library = library_of("libboth.so", "", &archives)?;
    let c = "#include <stdio.h>\n#include <openssl/ssl.h>\nint main(void)\n{\n    \
             SSL_CTX_new(TLS_client_method());\n    puts(\"ready\");\n    fflush(stdout);\n    \
             return getchar();\n}\n";
    let program = program_with("both", c, &library)?;
    let process = start_preloaded(&program, "")?;
    let parts = [
        "no",
        "rsasync is loaded, but the calls go elsewhere",
        "libboth.so",
    ];
    let said = ask(&["check", &process.pid()])?.expect(1, &parts)?;
    equal(goal_of(&said.out, "libboth.so"), "libboth.so")
}

pub fn no_if_nothing_calls() -> Result<(), Failed> {
    let mut shell = plain(Path::new("sh"));
    shell
        .args(["-c", "echo ready; read line"])
        .env("LD_PRELOAD", shared_library());
    let process = Observed::start(&mut shell)?;
    let parts = ["no", "nothing here calls ASYNC_ functions"];
    ask(&["check", &process.pid()])?.expect(1, &parts).map(drop)
}

pub fn check_sees_replaced() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let library = directory.path().join("librsasync.so");
    fs::copy(shared_library(), &library)?;
    let start = || {
        Observed::start(
            plain(observed()?)
                .arg("one_paused")
                .env("LD_PRELOAD", &library),
        )
    };
    let process = start()?;
    let path = library.display().to_string();
    let said = ask(&["check", &process.pid()])?.expect(0, &["yes", &path])?;
    expect(!said.out.contains("replaced"), said.out)?;
    let new = directory.path().join("new");
    fs::copy(shared_library(), &new)?;
    fs::rename(&new, &library)?;
    let parts = ["yes", &path, "was replaced on disk since"];
    ask(&["check", &process.pid()])?.expect(0, &parts)?;
    fs::remove_file(&library)?;
    let parts = ["yes", &path, "was replaced on disk since"];
    ask(&["check", &process.pid()])?.expect(0, &parts).map(drop)
}

pub fn workers() -> Result<Observed, Failed> {
    let mut processes = Observed::start(
        plain(observed()?)
            .arg("workers")
            .env("LD_PRELOAD", shared_library()),
    );
    // The parent may be ready before its children.
    if let Ok(parent) = &mut processes {
        let began = Instant::now();
        let count = |parent: &Observed| {
            let status = ask(&["status", "--tree", "--json", &parent.pid()])?.json()?;
            let processes = status["processes"].as_array().cloned().unwrap_or_default();
            let paused = processes.iter().filter(|it| it["pauses"] == 1);
            Ok::<_, Failed>(paused.count())
        };
        while count(parent)? < 3 && began.elapsed() < Duration::from_secs(30) {
            thread::sleep(Duration::from_millis(20));
        }
    }
    processes
}

pub fn check_covers_workers() -> Result<(), Failed> {
    let parent = workers()?;
    let said = ask(&["check", "--tree", &parent.pid()])?.expect(0, &[])?;
    let yes = said
        .out
        .lines()
        .filter(|line| line.contains(" observed: yes"))
        .count();
    equal(yes, 3)?;
    let without = Observed::start(plain(observed()?).arg("nothing"))?;
    let said = ask(&["check", "--all"])?;
    let line = |start: String| said.out.lines().any(|line| line.starts_with(&start));
    expect(line(format!("{} observed: yes", parent.pid())), &said.out)?;
    expect(line(format!("{} observed: no", without.pid())), &said.out)?;
    equal(said.code, Some(1))
}

pub fn check_cant_tell() -> Result<(), Failed> {
    ask(&["check", "999999999"])?.expect(2, &["999999999: can't tell, not a process\n"])?;
    // The worst of several counts: a no.
    let without = Observed::start(plain(observed()?).arg("nothing"))?;
    ask(&["check", "999999999", &without.pid()])?
        .expect(1, &["can't tell", "no, "])
        .map(drop)
}
