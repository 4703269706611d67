//! Whole programs: the man page's example, static ones, the openssl command, our examples.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libtest_mimic::Failed;

use crate::check::Check;
use crate::openssl::{Openssl, SYSTEM};
use crate::stage::{
    BUILT, ROOT, command, compiler, headers, library_path, output_of, shared_library, stderr_of,
    stdout_of,
};

/// Those that no OpenSSL takes part in.
pub fn without_openssl() -> Vec<Check> {
    let mut checks = vec![
        Check::new("programs::man_page_example_alone", man_page_example_alone),
        Check::new("programs::wholly_static_program", wholly_static),
        Check::new(
            "programs::loaded_and_unloaded_at_run_time",
            loaded_at_run_time,
        ),
        Check::new(
            "programs::jobs_while_libraries_come_and_go",
            jobs_while_libraries_come_and_go,
        ),
        Check::new("programs::stats_are_printed_if_asked_for", stats),
    ];
    // Others can't give a program to somebody else.
    if stdout_of(command("id", 60).arg("-u")).is_ok_and(|id| id.trim() == "0") {
        checks.push(Check::new(
            "programs::set_uid_programs_ignore_the_environment",
            set_uid_programs_ignore_the_environment,
        ));
    }
    checks
}

pub fn with_openssl(openssl: &'static Openssl) -> Vec<Check> {
    let mut checks = vec![
        Check::new("programs::man_page_example_linked_beside_libcrypto", || {
            man_page_example_linked(openssl)
        }),
        Check::new("programs::man_page_example_preloaded", || {
            man_page_example_preloaded(openssl)
        }),
        Check::new("programs::static_program_that_uses_jobs", || {
            static_jobs(openssl, "static_jobs", &[])
        }),
        Check::new("programs::wholly_static_program_that_uses_jobs", || {
            static_jobs(openssl, "wholly_static_jobs", &["-static"])
        }),
        Check::new("programs::static_program_that_uses_libssl", || {
            static_ssl(openssl)
        }),
        Check::new("programs::openssl_speed_sha256_preloaded", || {
            speed(openssl, "64", &["-evp", "sha256"])
        }),
        Check::new("programs::openssl_speed_rsa2048_preloaded", || {
            speed(openssl, "8", &["rsa2048"])
        }),
    ];
    for protocol in ["tls1_2", "tls1_3"] {
        checks.push(Check::new(
            format!("programs::openssl_{protocol}_preloaded"),
            move || tls(openssl, protocol),
        ));
    }
    let mut examples = vec!["pipe", "epoll"];
    if openssl.major() >= 3 {
        examples.push("callback");
    }
    for example in examples {
        checks.push(Check::new(format!("examples::{example}"), move || {
            run_example(openssl, example)
        }));
    }
    checks
}

fn expect(condition: bool, what: impl Into<String>) -> Result<(), Failed> {
    if condition {
        Ok(())
    } else {
        Err(what.into().into())
    }
}

// ---- the man page's example ----------------------------------------------------------

struct ManPage {
    example: String,
    output: String,
}

/// The example and its output, as they stand in ASYNC_start_job(3ssl).
fn man_page() -> Result<ManPage, Failed> {
    let page = stdout_of(
        command("gzip", 60)
            .arg("-dc")
            .arg("/usr/share/man/man3/ASYNC_start_job.3ssl.gz"),
    )?;
    let examples = page
        .split_once(".SH \"EXAMPLES\"")
        .ok_or("the man page has no examples")?
        .1;
    // Verbatim text stands between .Vb and .Ve; each line begins with \& and a space, and
    // three characters are written otherwise.
    let mut verbatim = examples.split(".Vb ").skip(1).map(|block| {
        let lines = block.lines().skip(1).take_while(|line| *line != ".Ve");
        let text = lines.map(|line| {
            line.trim_start_matches("\\&")
                .strip_prefix(' ')
                .unwrap_or("")
                .to_owned()
                + "\n"
        });
        text.collect::<String>()
            .replace("\\*(Aq", "'")
            .replace("\\-", "-")
            .replace("\\e", "\\")
    });
    let mut next = || verbatim.next().ok_or("the man page has changed");
    Ok(ManPage {
        example: next()?,
        output: next()?,
    })
}

/// Compiles the example with these flags, and checks what it prints and what it is bound to.
fn man_page_example(
    openssl: &Openssl,
    name: &str,
    flags: &[String],
    preload: bool,
) -> Result<(), Failed> {
    let ManPage { example, output } = man_page()?;
    let program = openssl.built().join(name);
    let source = program.with_extension("c");
    fs::write(&source, example)?;
    output_of(
        command("cc", 60)
            .arg(&source)
            .args(openssl.compile_flags())
            .args(flags)
            .arg("-o")
            .arg(&program),
    )?;

    let mut run = openssl.command("env", 60);
    if preload {
        run.arg(format!("LD_PRELOAD={}", shared_library().display()));
    }
    run.arg("LD_DEBUG=bindings").arg(&program);
    let run = output_of(&mut run)?;
    let printed = String::from_utf8_lossy(&run.stdout);
    expect(
        printed == output,
        format!("it printed\n{printed}and not\n{output}"),
    )?;

    // The loader's lines: binding file PROGRAM [0] to LIBRARY [0]: normal symbol `NAME' ...
    let bindings = String::from_utf8_lossy(&run.stderr);
    let from_program = format!("binding file {} ", program.display());
    let calls = bindings
        .lines()
        .filter(|line| line.contains(&from_program) && line.contains("symbol `ASYNC_"));
    let (mut count, library) = (0, shared_library().canonicalize()?);
    for call in calls {
        count += 1;
        let bound = call
            .split_once(" to ")
            .and_then(|(_, rest)| rest.split_once(" ["))
            .map(|(file, _)| file);
        let bound =
            Path::new(bound.ok_or("a line of LD_DEBUG that is not understood")?).canonicalize()?;
        expect(bound == library, format!("bound elsewhere: {call}"))?;
    }
    expect(
        count == 8,
        format!("it calls 8 functions, and {count} bindings were seen"),
    )
}

fn man_page_example_alone() -> Result<(), Failed> {
    let include = |path: PathBuf| format!("-I{}", path.display());
    let path = library_path();
    let flags = [
        include(headers()),
        include(headers().join("standalone")),
        path,
        "-lrsasync".to_owned(),
    ];
    man_page_example(&SYSTEM, "man-page-alone", &flags, false)?;
    let needed = stdout_of(
        command("readelf", 60)
            .arg("--dynamic")
            .arg(SYSTEM.built().join("man-page-alone")),
    )?;
    expect(
        !needed.contains("libcrypto"),
        "it was to be without libcrypto",
    )
}

fn man_page_example_linked(openssl: &Openssl) -> Result<(), Failed> {
    let path = library_path();
    man_page_example(
        openssl,
        "man-page-linked",
        &[path, "-lrsasync".to_owned(), "-lcrypto".to_owned()],
        false,
    )
}

fn man_page_example_preloaded(openssl: &Openssl) -> Result<(), Failed> {
    man_page_example(
        openssl,
        "man-page-preloaded",
        &["-lcrypto".to_owned()],
        true,
    )
}

// ---- static and dynamic loading ------------------------------------------------------

fn source(name: &str) -> PathBuf {
    ROOT.join("ctests/programs").join(name)
}

/// The line that the README gives for programs with a static OpenSSL, with these flags besides.
fn link_static(
    openssl: &Openssl,
    c: &str,
    name: &str,
    flags: &[&str],
) -> Result<(PathBuf, String), Failed> {
    let program = openssl.built().join(name);
    let map = program.with_extension("map");
    let mut compiler = compiler(&source(c));
    compiler
        .args(flags)
        .arg(format!("-I{}", headers().display()))
        .arg("-o")
        .arg(&program)
        .arg(library_path());
    compiler.args([
        "-Wl,--whole-archive",
        "-l:librsasync.a",
        "-Wl,--no-whole-archive",
    ]);
    compiler.args(openssl.compile_flags()).args([
        "-Wl,--allow-multiple-definition",
        "-l:libssl.a",
        "-l:libcrypto.a",
    ]);
    output_of(compiler.arg(format!("-Wl,-Map={}", map.display())))?;
    Ok((program, fs::read_to_string(map)?))
}

/// That every ASYNC_ function of the program lies in our archive's sections of the link map.
fn all_are_ours(program: &Path, map: &str) -> Result<(), Failed> {
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    // " .text.NAME  0xADDRESS  0xSIZE FILE", where a long name has a line of its own; the lines
    // of its symbols follow.
    let joined = map.replace("\n                0x", " 0x");
    let section = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [name, address, size, file, ..] = words[..] else {
            return None;
        };
        let ours = name.starts_with(".text") && file.contains("librsasync.a");
        let start = number(address)?;
        ours.then_some(start..start + number(size)?)
    };
    let ours: Vec<_> = joined.lines().filter_map(section).collect();
    expect(
        !ours.is_empty(),
        "the link map shows nothing of librsasync.a",
    )?;
    let nm = stdout_of(command("nm", 60).arg("--defined-only").arg(program))?;
    let mut count = 0;
    for (address, name) in nm.lines().filter_map(|line| line.split_once(" T ")) {
        if name.starts_with("ASYNC_") {
            let address = number(address).ok_or("nm's addresses are not understood")?;
            expect(
                ours.iter().any(|section| section.contains(&address)),
                format!("{name} is not ours"),
            )?;
            count += 1;
        }
    }
    expect(count == 22, format!("{count} functions are there, not 22"))
}

fn static_jobs(openssl: &Openssl, name: &str, flags: &[&str]) -> Result<(), Failed> {
    let (program, map) = link_static(openssl, "static_jobs.c", name, flags)?;
    all_are_ours(&program, &map)?;
    output_of(&mut command(&program, 60)).map(drop)
}

fn static_ssl(openssl: &Openssl) -> Result<(), Failed> {
    let (program, map) = link_static(openssl, "static_ssl.c", "static_ssl", &[])?;
    all_are_ours(&program, &map)?;
    let stats = stderr_of(command("env", 60).arg("RSASYNC_STATS=1").arg(&program))?;
    expect(
        stacks_made(&stats)? == 1,
        format!("libssl ran no job of ours: {stats}"),
    )
}

/// Without any shared library, the C library's neither.
fn wholly_static() -> Result<(), Failed> {
    let program = BUILT.join("wholly-static");
    let mut compiler = command("cc", 120);
    compiler
        .arg("-static")
        .arg(ROOT.join("examples/pipe.c"))
        .arg(format!("-I{}", headers().display()));
    output_of(
        compiler
            .arg(library_path())
            .arg("-l:librsasync.a")
            .arg("-o")
            .arg(&program),
    )?;
    output_of(&mut command(&program, 60)).map(drop)
}

fn loaded_at_run_time() -> Result<(), Failed> {
    let program = BUILT.join("dlopen");
    let mut compiler = compiler(&source("dlopen.c"));
    output_of(
        compiler
            .arg(format!("-I{}", headers().display()))
            .arg("-o")
            .arg(&program),
    )?;
    output_of(command(&program, 60).arg(shared_library())).map(drop)
}

/// With a library that has a function of that name and is none, and one that asks never to be
/// unloaded and can't be loaded. More than once, for what is loaded half-way is not seen each
/// time; on valgrind, which sees what is read of a library that is gone.
fn jobs_while_libraries_come_and_go() -> Result<(), Failed> {
    const TIMES: u32 = 20;
    let program = BUILT.join("loading");
    let mut compiler = compiler(&source("loading.c"));
    compiler.arg("-I").arg(headers()).arg(library_path());
    output_of(compiler.arg("-lrsasync").arg("-o").arg(&program))?;

    let library = |name: &str, code: &str, flags: &[&str]| {
        let c = BUILT.join(name).with_extension("c");
        fs::write(&c, code)?;
        let mut cc = command("cc", 60);
        cc.args(["-shared", "-fPIC"]).arg(&c).args(flags).arg("-o");
        output_of(cc.arg(BUILT.join(name))).map(drop)
    };
    library(
        "lookalike.so",
        "int ASYNC_start_job(void) { return 0; }",
        &[],
    )?;
    library("libmissing.so", "int missing(void) { return 0; }", &[])?;
    let built = format!("-L{}", BUILT.display());
    let needs_it = [
        "-Wl,-z,nodelete,--no-as-needed",
        &built,
        "-lm",
        "-lresolv",
        "-lanl",
        "-lmissing",
    ];
    library("failing.so", "int failing;", &needs_it)?;
    fs::remove_file(BUILT.join("libmissing.so"))?;

    let run = |tool: &[&str]| {
        let mut run = command("env", 120);
        run.arg(format!(
            "LOOKALIKE={}",
            BUILT.join("lookalike.so").display()
        ));
        run.arg(format!("FAILING={}", BUILT.join("failing.so").display()));
        output_of(run.args(tool).arg(&program).arg("loading")).map(drop)
    };
    (0..TIMES).try_for_each(|_| run(&[]))?;
    run(&[
        "valgrind",
        "--fair-sched=try",
        "--quiet",
        "--error-exitcode=9",
    ])
}

/// The number in RSASYNC_STATS's line.
fn stacks_made(stderr: &str) -> Result<u64, Failed> {
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

/// Run by root, a program that belongs to nobody and is set-uid runs with other rights than its
/// caller's, who must not steer it.
fn set_uid_programs_ignore_the_environment() -> Result<(), Failed> {
    let program = BUILT.join("set-uid");
    let mut compiler = compiler(&ROOT.join("examples/pipe.c"));
    compiler.arg("-I").arg(headers()).arg(library_path());
    output_of(compiler.arg("-l:librsasync.a").arg("-o").arg(&program))?;
    let run = || {
        let mut env = command("env", 60);
        env.args(["RSASYNC_STACK_SIZE=nonsense", "RSASYNC_STATS=1"]);
        stderr_of(env.arg(&program))
    };
    let said = run()?;
    let both = said.contains("RSASYNC_STACK_SIZE=nonsense") && said.contains("stacks made");
    expect(both, format!("it should obey its own caller: {said}"))?;
    output_of(command("chown", 60).arg("nobody").arg(&program))?;
    output_of(command("chmod", 60).arg("u+s").arg(&program))?;
    let said = run()?;
    expect(said.is_empty(), format!("it obeyed a stranger: {said}"))
}

fn stats() -> Result<(), Failed> {
    let program = BUILT.join("man-page-stats");
    let c = program.with_extension("c");
    fs::write(&c, man_page()?.example)?;
    output_of(
        command("cc", 60)
            .arg(&c)
            .arg("-lcrypto")
            .arg("-o")
            .arg(&program),
    )?;
    let run = |variable: &str| {
        let mut env = command("env", 60);
        stderr_of(
            env.arg(variable)
                .arg(format!("LD_PRELOAD={}", shared_library().display()))
                .arg(&program),
        )
    };
    expect(
        stacks_made(&run("RSASYNC_STATS=1")?)? == 1,
        "one stack should have been made",
    )?;
    expect(run("RSASYNC_STATS=0")?.is_empty(), "0 asks for nothing")?;
    expect(
        run("RSASYNC_STATS=")?.is_empty(),
        "an empty variable asks for nothing",
    )?;
    expect(
        run("NOTHING=1")?.is_empty(),
        "it must be silent unless asked",
    )
}

/// A process that loads first one libcrypto and then another.
pub fn beside(first: &'static Openssl, second: &'static Openssl) -> Check {
    Check::new(
        format!("two_libcryptos::{}_after_it", second.version),
        || {
            let program = first
                .built()
                .join(format!("two_libcryptos_{}", second.version));
            let mut compiler = compiler(&source("two_libcryptos.c"));
            compiler.arg(format!("-I{}", headers().display()));
            compiler.arg(library_path()).arg("-lrsasync");
            output_of(compiler.arg("-o").arg(&program))?;
            let mut run = command(&program, 60);
            output_of(run.arg(first.libcrypto()?).arg(second.libcrypto()?)).map(drop)
        },
    )
}

// ---- the openssl command -------------------------------------------------------------

/// openssl with the library preloaded, which tells at its end that it was used.
fn tool(openssl: &Openssl, seconds: u32) -> Command {
    let mut command = openssl.command("env", seconds);
    command
        .arg("RSASYNC_STATS=1")
        .arg(format!("LD_PRELOAD={}", shared_library().display()))
        .arg(openssl.tool());
    command
}

fn speed(openssl: &Openssl, jobs: &str, what: &[&str]) -> Result<(), Failed> {
    let stderr = stderr_of(
        tool(openssl, 120)
            .args(["speed", "-seconds", "1", "-async_jobs", jobs])
            .args(what),
    )?;
    let made = stacks_made(&stderr)?;
    expect(
        made == jobs.parse()?,
        format!("{made} stacks were made, not {jobs}:\n{stderr}"),
    )
}

fn tls(openssl: &Openssl, protocol: &str) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let (key, certificate) = (
        directory.path().join("key.pem"),
        directory.path().join("certificate.pem"),
    );
    let mut request = openssl.command(openssl.tool(), 60);
    request.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
    ]);
    output_of(
        request
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    )?;

    // A port that is free: it was given to us, and we close it.
    let port = TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port()
        .to_string();
    let mut server = tool(openssl, 60);
    server.args([
        "s_server", "-async", "-naccept", "1", "-www", "-accept", &port,
    ]);
    server.arg("-key").arg(&key).arg("-cert").arg(&certificate);
    let server = server
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // It accepts a single connection, so only the handshake itself can show that it listens.
    let ready = "until grep -q \":$(printf %04X \"$0\") .* 0A \" /proc/net/tcp /proc/net/tcp6; do sleep 0.02; done";
    output_of(command("sh", 30).args(["-c", ready, &port]))?;

    let mut client = tool(openssl, 60);
    client.args([
        "s_client",
        "-async",
        "-brief",
        &format!("-{protocol}"),
        "-connect",
    ]);
    client.arg(format!("127.0.0.1:{port}"));
    let get = directory.path().join("request");
    fs::write(&get, "GET / HTTP/1.0\r\n\r\n")?;
    // s_client stops at the end of its input unless told otherwise; the server closes.
    let client = output_of(client.arg("-ign_eof").stdin(fs::File::open(get)?))?;
    let server = server.wait_with_output()?;

    let version = if protocol == "tls1_2" {
        "Protocol version: TLSv1.2"
    } else {
        "Protocol version: TLSv1.3"
    };
    let client_stderr = String::from_utf8_lossy(&client.stderr);
    expect(
        client_stderr.contains(version),
        format!("not {version}:\n{client_stderr}"),
    )?;
    expect(
        String::from_utf8_lossy(&client.stdout).contains("s_server -async"),
        "the server's page did not arrive",
    )?;
    for (side, stderr) in [("client", &client.stderr), ("server", &server.stderr)] {
        expect(
            stacks_made(&String::from_utf8_lossy(stderr))? > 0,
            format!("the {side} ran no job of ours"),
        )?;
    }
    Ok(())
}

// ---- our examples --------------------------------------------------------------------

/// On libcrypto, on rsasync, and there under valgrind: the same output each time.
fn run_example(openssl: &Openssl, name: &str) -> Result<(), Failed> {
    let c = ROOT.join("examples").join(name).with_extension("c");
    let built = openssl.built();
    let (on_libcrypto, ours) = (built.join(format!("{name}-libcrypto")), built.join(name));
    let mut compiler_of_theirs = compiler(&c);
    compiler_of_theirs
        .args(openssl.compile_flags())
        .arg("-lcrypto");
    output_of(compiler_of_theirs.arg("-o").arg(&on_libcrypto))?;
    let mut compiler = compiler(&c);
    compiler
        .arg(format!("-I{}", headers().display()))
        .arg(library_path())
        .arg("-lrsasync");
    output_of(compiler.arg("-o").arg(&ours))?;
    let wanted = stdout_of(&mut openssl.command(&on_libcrypto, 60))?;
    expect(!wanted.is_empty(), "it shows nothing")?;
    let printed = stdout_of(&mut command(&ours, 60))?;
    expect(
        printed == wanted,
        format!("it printed\n{printed}and on libcrypto\n{wanted}"),
    )?;
    let mut preloaded = openssl.command("env", 60);
    preloaded.arg(format!("LD_PRELOAD={}", shared_library().display()));
    let printed = stdout_of(preloaded.arg(&on_libcrypto))?;
    expect(
        printed == wanted,
        format!("preloaded it printed\n{printed}and on libcrypto\n{wanted}"),
    )?;
    let mut valgrind = command("valgrind", 300);
    valgrind.args([
        "--quiet",
        "--error-exitcode=9",
        "--leak-check=full",
        "--errors-for-leak-kinds=definite",
    ]);
    let printed = stdout_of(valgrind.arg(&ours))?;
    expect(
        printed == wanted,
        format!("under valgrind it printed\n{printed}"),
    )?;
    Ok(())
}
