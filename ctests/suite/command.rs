//! The rsasync command, installed: on programs that it observes, and on core files.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use harness::check::{equal, expect};
use harness::stage::{
    BUILT, BuiltOnce, ROOT, STAGE, command, compiler, compiler_of, headers, library_path,
    output_of, program_source, shared_library, stdout_of,
};

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("command::run_preloads_before_others", run_preloads),
        Trial::test("command::run_passes_arguments_and_status", run_passes_on),
        Trial::test("command::run_finds_the_library", run_finds),
        Trial::test("command::run_says_what_it_cant_preload", run_refuses),
        Trial::test("command::check_says_yes_for_libssl", yes_for_libssl),
        Trial::test(
            "command::check_says_yes_before_the_first_call",
            yes_before_calls,
        ),
        Trial::test(
            "command::check_says_yes_if_linked_statically",
            yes_if_static,
        ),
        Trial::test("command::check_says_no_without_preload", no_without_preload),
        Trial::test(
            "command::check_says_no_for_a_static_openssl",
            no_for_static_openssl,
        ),
        Trial::test("command::check_says_no_if_bound_inside", no_if_bound_inside),
        Trial::test(
            "command::check_says_no_if_nothing_calls",
            no_if_nothing_calls,
        ),
        Trial::test("command::check_sees_a_replaced_file", check_sees_replaced),
        Trial::test(
            "command::check_covers_workers_and_all",
            check_covers_workers,
        ),
        Trial::test("command::check_cant_tell_of_no_process", check_cant_tell),
        Trial::test("command::status_counts_all_states", status_counts),
        Trial::test(
            "command::status_is_what_get_stats_says",
            status_is_get_stats,
        ),
        Trial::test("command::core_of_gcore", core_of_gcore),
        Trial::test("command::status_is_one_line_of_words", status_words),
        Trial::test("command::status_for_prometheus", status_for_prometheus),
        Trial::test("command::status_watches_until_the_end", status_watches),
        Trial::test("command::status_covers_workers", status_covers_workers),
        Trial::test("command::jobs_are_one_a_line", jobs_lines),
        Trial::test("command::jobs_tells_what_moves", jobs_moves),
        Trial::test("command::jobs_in_a_stripped_static_program", jobs_static),
        Trial::test("command::jobs_with_an_address_space_limit", jobs_limited),
        Trial::test(
            "command::jobs_on_stacks_of_the_programs_own",
            jobs_own_stack,
        ),
        Trial::test("command::jobs_with_address_sanitizer", jobs_asan),
        Trial::test(
            "command::looks_while_everything_changes",
            looks_while_changing,
        ),
        Trial::test("command::a_crowd_is_read_quickly", crowd),
        Trial::test("command::errors_are_one_line", errors),
        Trial::test("command::colours_only_on_a_terminal", colours),
        Trial::test("command::man_pages_and_completions", papers),
        Trial::test("command::json_is_documented", json_is_documented),
        Trial::test(
            "command::library_does_not_depend_on_its_crates",
            tree_of_library,
        ),
    ];
    let has_no_cores = !kernel_writes_cores();
    for (name, trial) in [
        (
            "command::core_names_the_overflowed_job",
            core_overflow as fn() -> _,
        ),
        ("command::core_shows_all_jobs", core_jobs),
        (
            "command::core_of_another_version_or_program",
            core_of_others,
        ),
        ("command::broken_cores_do_no_harm", broken_cores),
    ] {
        trials.push(Trial::test(name, trial).with_ignored_flag(has_no_cores));
    }
    // Not in a container, as a rule.
    if output_of(command("unshare", 60).args(["--mount", "true"])).is_ok() {
        trials.push(Trial::test("command::reads_a_container", container));
    }
    // Only root can become others.
    if stdout_of(command("id", 60).arg("-u")).is_ok_and(|id| id.trim() == "0") {
        trials.push(Trial::test(
            "command::reads_a_server_that_closed_itself_in",
            closed,
        ));
        trials.push(Trial::test("command::errors_name_the_user", permission));
    }
    trials
}

// ---- what is observed ------------------------------------------------------------------

fn rsasync() -> PathBuf {
    STAGE.join("usr/bin/rsasync")
}

/// The program that is observed, which has libcrypto's functions when it is not preloaded.
fn observed() -> Result<&'static Path, Failed> {
    static BUILT_ONCE: BuiltOnce = BuiltOnce::new();
    BUILT_ONCE.get_or_build(|| build("observed", &ON_LIBCRYPTO, &["-Wl,-z,lazy", "-lcrypto"]))
}

/// For programs that are built with OpenSSL's header.
const ON_LIBCRYPTO: [&str; 2] = ["-DON_LIBCRYPTO", "-DWITH_LIBCRYPTO"];

/// The linker's words that put all of rsasync into a program.
const RSASYNC_INSIDE: [&str; 3] = [
    "-Wl,--whole-archive",
    "-l:librsasync.a",
    "-Wl,--no-whole-archive",
];

fn build(name: &str, flags: &[&str], libraries: &[&str]) -> Result<PathBuf, Failed> {
    let program = BUILT.join(name);
    let mut compiler = compiler(&program_source("observed.c"));
    // GCC takes the recursion for a mistake.
    compiler.args(["-Wno-infinite-recursion", "-fno-optimize-sibling-calls"]);
    compiler.args(flags).args(libraries).arg("-o").arg(&program);
    output_of(&mut compiler)?;
    Ok(program)
}

/// The same with rsasync linked into it, by these flags of the linker besides.
fn build_static(name: &str, flags: &[&str]) -> Result<PathBuf, Failed> {
    let (include, path) = (format!("-I{}", headers().display()), library_path());
    let libraries = [&[path.as_str()][..], &RSASYNC_INSIDE, flags].concat();
    build(name, &[&include], &libraries)
}

/// A process that is as its case says, until it is dropped.
struct Observed {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Observed {
    /// The case of a program, with the library preloaded.
    fn preloaded(program: &Path, case: &str) -> Result<Self, Failed> {
        Self::start(plain(program).arg(case).env("LD_PRELOAD", shared_library()))
    }

    fn case(case: &str) -> Result<Self, Failed> {
        Self::preloaded(observed()?, case)
    }

    fn start(command: &mut Command) -> Result<Self, Failed> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn()?;
        let out = BufReader::new(child.stdout.take().ok_or("it has no output")?);
        let mut it = Self { child, out };
        it.wait_for("ready")?;
        Ok(it)
    }

    fn wait_for(&mut self, wanted: &str) -> Result<(), Failed> {
        let mut line = String::new();
        while line.trim_end() != wanted {
            line.clear();
            let bytes = self.out.read_line(&mut line)?;
            expect(bytes > 0, format!("it has ended before it was {wanted}"))?;
        }
        Ok(())
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command whose process is the program itself, without what the tester has set.
fn plain(program: &Path) -> Command {
    let mut command = Command::new(program);
    for variable in ["LD_PRELOAD", "RSASYNC_STACK_SIZE", "RSASYNC_STATS"] {
        command.env_remove(variable);
    }
    command.env("LD_LIBRARY_PATH", harness::stage::library_directory());
    command
}

/// What the command says: its exit status, standard output and standard error.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn say(command: &mut Command) -> Result<Said, Failed> {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output()?;
    Ok(Said {
        code: status.code(),
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

fn ask(arguments: &[&str]) -> Result<Said, Failed> {
    say(command(rsasync(), 60).args(arguments))
}

impl Said {
    /// Fails unless the exit status is this and the output has all of these.
    fn expect(self, code: i32, parts: &[&str]) -> Result<Self, Failed> {
        let Self { out, err, .. } = &self;
        let text = format!("{out}{err}");
        let has_all = parts.iter().all(|part| text.contains(part));
        expect(
            self.code == Some(code) && has_all,
            format!(
                "wanted status {code} and {parts:?}, got {:?}:\n{text}",
                self.code
            ),
        )?;
        Ok(self)
    }

    fn json(&self) -> Result<Value, Failed> {
        Ok(serde_json::from_str(&self.out)?)
    }
}

// ---- run -------------------------------------------------------------------------------

fn run_preloads() -> Result<(), Failed> {
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

fn run_passes_on() -> Result<(), Failed> {
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

fn run_finds() -> Result<(), Failed> {
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

fn run_refuses() -> Result<(), Failed> {
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

// ---- check -----------------------------------------------------------------------------

/// The line of an object's calls in the output of `check`.
fn goal_of<'a>(out: &'a str, object: &str) -> &'a str {
    let line = out
        .lines()
        .find(|line| line.trim_start().starts_with(object));
    let goal = line.and_then(|line| line.split_once("-> "));
    goal.map_or("", |(_, goal)| goal)
}

fn yes_for_libssl() -> Result<(), Failed> {
    let flags = [&ON_LIBCRYPTO[..], &["-DWITH_SSL"]].concat();
    let program = build("observed-ssl", &flags, &["-lssl", "-lcrypto"])?;
    let process = Observed::preloaded(&program, "ssl")?;
    let said = ask(&["check", &process.pid()])?.expect(0, &["yes", "rsasync 0."])?;
    equal(goal_of(&said.out, "libssl.so"), "librsasync.so.0.1.0")?;
    // And that is what the process does.
    let status = ask(&["status", "--json", &process.pid()])?.json()?;
    equal(&status["processes"][0]["starts"], &Value::from(1))
}

fn yes_before_calls() -> Result<(), Failed> {
    let process = Observed::case("nothing")?;
    let said = ask(&["check", &process.pid()])?.expect(0, &["yes"])?;
    let goal = "librsasync.so.0.1.0 (by the loader's order; not called yet)";
    equal(goal_of(&said.out, "observed"), goal)?;
    // The same of a library that has the function itself, as libcrypto has.
    let c = "int ASYNC_start_job(void) { return 0; }\nint f(void) { return ASYNC_start_job(); }\n";
    let library = library_of("libcalls-itself.so", c, &["-fPIC", "-Wl,-z,lazy"])?;
    let calls = "#include <stdio.h>\nint f(void);\nint main(int argc, char **argv)\n{\n    \
                 (void)argv;\n    puts(\"ready\");\n    fflush(stdout);\n    \
                 return argc > 9 ? f() : getchar();\n}\n";
    let process = Observed::preloaded(&program_with("calls-itself", calls, &library)?, "")?;
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

fn yes_if_static() -> Result<(), Failed> {
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

fn no_without_preload() -> Result<(), Failed> {
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

fn no_for_static_openssl() -> Result<(), Failed> {
    let flags = [&ON_LIBCRYPTO[..], &["-DWITH_SSL"]].concat();
    // As node does, and without a symbol of it.
    for (name, flag) in [("observed-exports", "-rdynamic"), ("observed-hides", "-s")] {
        let program = build(name, &flags, &["-l:libssl.a", "-l:libcrypto.a", flag])?;
        let process = Observed::preloaded(&program, "ssl")?;
        let parts = ["no", "rsasync is loaded", "has an OpenSSL linked into it"];
        ask(&["check", &process.pid()])?.expect(1, &parts)?;
    }
    Ok(())
}

/// A library that has libssl and libcrypto in it and calls the latter directly.
fn no_if_bound_inside() -> Result<(), Failed> {
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
    let process = Observed::preloaded(&program, "")?;
    let parts = [
        "no",
        "rsasync is loaded, but the calls go elsewhere",
        "libboth.so",
    ];
    let said = ask(&["check", &process.pid()])?.expect(1, &parts)?;
    equal(goal_of(&said.out, "libboth.so"), "libboth.so")
}

fn no_if_nothing_calls() -> Result<(), Failed> {
    let mut shell = plain(Path::new("sh"));
    shell
        .args(["-c", "echo ready; read line"])
        .env("LD_PRELOAD", shared_library());
    let process = Observed::start(&mut shell)?;
    let parts = ["no", "nothing here calls ASYNC_ functions"];
    ask(&["check", &process.pid()])?.expect(1, &parts).map(drop)
}

fn check_sees_replaced() -> Result<(), Failed> {
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

fn workers() -> Result<Observed, Failed> {
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

fn check_covers_workers() -> Result<(), Failed> {
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

fn check_cant_tell() -> Result<(), Failed> {
    ask(&["check", "999999999"])?.expect(2, &["999999999: can't tell, not a process\n"])?;
    // The worst of several counts: a no.
    let without = Observed::start(plain(observed()?).arg("nothing"))?;
    ask(&["check", "999999999", &without.pid()])?
        .expect(1, &["can't tell", "no, "])
        .map(drop)
}

// ---- status ----------------------------------------------------------------------------

fn status_of(process: &Observed) -> Result<Value, Failed> {
    let said = ask(&["status", "--json", &process.pid()])?.expect(0, &[])?;
    Ok(said.json()?["processes"][0].take())
}

fn status_counts() -> Result<(), Failed> {
    let process = Observed::case("all_states")?;
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
fn status_is_get_stats() -> Result<(), Failed> {
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

fn status_words() -> Result<(), Failed> {
    for (case, words) in [
        ("nothing", "no job was started"),
        (
            "never_pauses",
            "no job has paused: this server is not asynchronous",
        ),
    ] {
        let process = Observed::case(case)?;
        ask(&["status", &process.pid()])?.expect(0, &[words])?;
        equal(&status_of(&process)?["remarks"][0], &Value::from(words))?;
    }
    let process = Observed::case("one_paused")?;
    equal(&status_of(&process)?["remarks"], &Value::Array(Vec::new()))
}

fn status_for_prometheus() -> Result<(), Failed> {
    let process = Observed::case("all_states")?;
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

fn status_watches() -> Result<(), Failed> {
    let process = Observed::case("one_paused")?;
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

fn status_covers_workers() -> Result<(), Failed> {
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

// ---- jobs ------------------------------------------------------------------------------

/// The lines of `jobs` without the heading.
fn jobs_of(process: &Observed) -> Result<Vec<String>, Failed> {
    let pid = process.pid();
    let said = ask(&["jobs", "--interval", "0.2", &pid])?.expect(0, &["thread"])?;
    Ok(said.out.lines().skip(1).map(str::to_owned).collect())
}

/// Fails unless one line has all of these words.
fn one_line_with(lines: &[String], words: &[&str]) -> Result<(), Failed> {
    let has_all = |line: &&String| words.iter().all(|word| line.contains(word));
    let count = lines.iter().filter(has_all).count();
    let all = lines.join("\n");
    expect(
        count == 1,
        format!("{count} lines have all of {words:?}:\n{all}"),
    )
}

/// Lines of the case `all_states`.
fn check_all_states(lines: &[String], tid: &str) -> Result<(), Failed> {
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

fn jobs_lines() -> Result<(), Failed> {
    let process = Observed::case("all_states")?;
    let lines = jobs_of(&process)?;
    check_all_states(&lines, &process.pid())?;
    let still = lines.iter().filter(|line| line.contains("0.2 s")).count();
    equal(still, 6) // all but the idle one
}

fn jobs_moves() -> Result<(), Failed> {
    let process = Observed::case("moves")?;
    // The moving one is seen running or paused, or in between; it may not run on a busy machine.
    let has_seen = (0..50).any(|_| {
        jobs_of(&process).is_ok_and(|lines| {
            one_line_with(&lines, &["moves"]).is_ok()
                && one_line_with(&lines, &["0.2 s", "pauses_here (observed)"]).is_ok()
        })
    });
    expect(has_seen, jobs_of(&process)?.join("\n"))
}

fn jobs_static() -> Result<(), Failed> {
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
fn jobs_asan() -> Result<(), Failed> {
    let program = BUILT.join("observed-asan");
    let mut clang = compiler_of("clang", "clang++", &program_source("observed.c"));
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
fn jobs_limited() -> Result<(), Failed> {
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

fn jobs_own_stack() -> Result<(), Failed> {
    let process = Observed::case("own_stack")?;
    one_line_with(
        &jobs_of(&process)?,
        &["paused", "of 1.0 MiB", "pauses_here (observed)"],
    )
}

/// Looks at what is torn: no panic, no nonsense, no end that does not come.
fn looks_while_changing() -> Result<(), Failed> {
    let process = Observed::case("changes")?;
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

fn crowd() -> Result<(), Failed> {
    let process = Observed::case("crowd")?;
    equal(&status_of(&process)?["jobs"]["paused"], &Value::from(5000))?;
    equal(jobs_of(&process)?.len(), 5000)
}

// ---- core files ------------------------------------------------------------------------

/// Whether the kernel writes core files where the process is.
fn kernel_writes_cores() -> bool {
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
        output_of(command("kill", 10).args(["-QUIT", &process.pid()]))?;
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

fn core_jobs() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let core = core_of("all_states", directory.path())?;
    let said = ask_of_core(&core, observed()?)?.expect(0, &["observed, a core file"])?;
    let pid = said.out.split(' ').next().unwrap_or_default().to_owned();
    let lines: Vec<_> = said.out.lines().skip(2).map(str::to_owned).collect();
    expect(!said.out.contains("overflowed"), &said.out)?;
    check_all_states(&lines, &pid)
}

fn core_overflow() -> Result<(), Failed> {
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
fn core_of_gcore() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let process = Observed::case("one_paused")?;
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

fn core_of_others() -> Result<(), Failed> {
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
fn broken_cores() -> Result<(), Failed> {
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

// ---- the rest --------------------------------------------------------------------------

fn closed() -> Result<(), Failed> {
    let process = Observed::case("closed")?;
    ask(&["check", &process.pid()])?.expect(0, &["yes"])?;
    equal(&status_of(&process)?["jobs"]["paused"], &Value::from(1))?;
    one_line_with(&jobs_of(&process)?, &["paused", "pauses_here (observed)"])
}

/// A process whose files lie where nobody else sees them.
fn container() -> Result<(), Failed> {
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

fn permission() -> Result<(), Failed> {
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

fn errors() -> Result<(), Failed> {
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
    let process = Observed::case("one_paused")?;
    ask(&["status", "999999999", &process.pid()])?.expect(2, &["observed", "not a process"])?;
    ask(&["status", "nginx"])?
        .expect(2, &["invalid value 'nginx'"])
        .map(drop)
}

fn colours() -> Result<(), Failed> {
    const ESCAPE: char = '\x1b';
    let process = Observed::case("one_paused")?;
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

fn papers() -> Result<(), Failed> {
    let share = STAGE.join("usr/share");
    for (page, words) in [
        ("rsasync.1", "rsasync\\-check"),
        ("rsasync-run.1", "LD_PRELOAD"),
        ("rsasync-check.1", "exit status"),
        ("rsasync-status.1", "prometheus"),
        ("rsasync-jobs.1", "core"),
    ] {
        let text = fs::read_to_string(share.join("man/man1").join(page))?;
        expect(
            text.contains(".TH rsasync") && text.contains(words),
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
fn json_is_documented() -> Result<(), Failed> {
    let page = fs::read_to_string(STAGE.join("usr/share/man/man1/rsasync-status.1"))?;
    let process = Observed::case("all_states")?;
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
fn tree_of_library() -> Result<(), Failed> {
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
