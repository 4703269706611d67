//! `make platforms`: runs the checks on musl, on 64-bit ARM, and with pages of 64 KiB, and shows a table
//! of how many passed on each. What builds and runs other platforms' programs has been put in place by
//! ctests/platforms/prepare.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, OnceLock};

use clap::Parser;
use harness::chapters::{self, Program, Way};
use harness::check::{Check, expect};
use harness::columns;
use harness::observed::{self, Observed};
use harness::openssl::Openssl;
use harness::platform::{CLibrary, Platform};
use harness::programs;
use harness::servers;
use harness::stage::{
    ROOT, STAGE, TARGET, command, compiler, output_of, program_source, stdout_of,
};
use libtest_mimic::Failed;

/// Runs the checks on other platforms.
#[derive(Parser)]
struct Options {
    /// Leaves out OpenSSL 4, chapters beside OpenSSL on 64-bit ARM, and the refusal of other processors:
    /// some minutes less.
    #[arg(long)]
    short: bool,
    /// Only the checks whose names contain this; a name begins with the platform's.
    #[arg(default_value = "")]
    wanted: String,
}

fn main() -> ExitCode {
    let Options { short, wanted } = Options::parse();
    let columns = match columns(&TARGET.join("platforms"), short) {
        Ok(columns) => columns,
        Err(why) => {
            eprintln!("{}", why.message().unwrap_or("a platform can't be had"));
            return ExitCode::FAILURE;
        }
    };
    let (mut names, mut checks) = (Vec::new(), Vec::new());
    for (number, (name, of_column)) in columns.into_iter().enumerate() {
        let of_column = of_column.into_iter();
        let is_wanted = |check: &Check| format!("{name}: {}", check.name).contains(&wanted);
        checks.extend(of_column.filter(is_wanted).map(|check| (number, check)));
        names.push(name);
    }
    columns::run("platform", &names, checks)
}

/// The columns of the table: for each its name and checks.
fn columns(tools: &Path, short: bool) -> Result<Vec<(String, Vec<Check>)>, Failed> {
    const ALL: &[Way] = &[Way::Alone, Way::Linked, Way::Preloaded];
    let (musl, aarch64) = (leak(musl(tools)), leak(aarch64(tools)));
    let mut on = vec![(Openssl::v3(musl)?, ALL)];
    if !short {
        on.push((Openssl::v4(musl)?, &[Way::Preloaded]));
    }
    let debians = Openssl::unpacked(aarch64, &tools.join("root"), "aarch64-linux-gnu")?;
    on.push((debians, if short { &[Way::Alone] } else { ALL }));
    let mut columns = Vec::new();
    for (openssl, ways) in on {
        let openssl = leak(openssl);
        let programs = chapters::programs(openssl, ways);
        let mut checks = chapters::checks(&programs, ways);
        checks.extend(programs::on_platform(openssl));
        if !openssl.platform.has_ucontext() {
            checks.extend(servers::where_libcrypto_has_none(openssl));
            let platform = openssl.platform;
            checks.push(Check::new("command::jobs_tells_where_each_paused", || {
                jobs_tells_where(platform)
            }));
        }
        if openssl.platform.is_emulated {
            checks.extend(where_jumps_are_checked(&programs, openssl.platform));
        }
        let name = format!("{} {}", openssl.platform.name, openssl.version);
        columns.push((name, checks));
    }
    let large_pages = leak(large_pages(tools)?);
    columns.push((large_pages.name.to_owned(), with_large_pages(large_pages)));
    if !short {
        let variables = variables(tools, "i686-unknown-linux-gnu", "cc", "");
        let refused = Check::new("build::is_refused_in_a_sentence", || is_refused(variables));
        columns.push(("i686".to_owned(), vec![refused]));
    }
    Ok(columns)
}

fn leak<T>(it: T) -> &'static T {
    Box::leak(Box::new(it))
}

/// musl on this machine's processor.
fn musl(tools: &Path) -> Platform {
    let cc = format!(
        "musl-gcc -B{0} -idirafter {0}/include -idirafter {0}/builtin -Wl,--eh-frame-hdr",
        tools.join("musl").display()
    );
    let mut variables = variables(tools, "x86_64-unknown-linux-musl", &cc, "");
    // The standard library is built as well, and linked with a shared musl, as on Alpine.
    variables.extend(build_std());
    let flags = "-C target-feature=-crt-static -C link-self-contained=no";
    variables.push((
        "CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS",
        flags.to_owned(),
    ));
    Platform {
        name: "musl",
        c_library: CLibrary::Musl,
        cc: words(&cc),
        cxx: Vec::new(), // Debian has no C++ library for it
        runner: Vec::new(),
        is_emulated: false,
        install: "install-library",
        variables,
        directory: tools.join("x86-64-musl"),
        stage: OnceLock::new(),
    }
}

/// 64-bit ARM, by qemu. Programs sign their return addresses and mark where they may be jumped to.
fn aarch64(tools: &Path) -> Platform {
    let cc = "aarch64-linux-gnu-gcc";
    Platform {
        name: "aarch64",
        c_library: CLibrary::Glibc,
        cc: words("aarch64-linux-gnu-gcc -mbranch-protection=standard"),
        cxx: words("aarch64-linux-gnu-g++ -mbranch-protection=standard"),
        runner: words("qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu"),
        is_emulated: true,
        install: "install-library",
        variables: variables(tools, "aarch64-unknown-linux-gnu", cc, "aarch64-linux-gnu-"),
        directory: tools.join("aarch64"),
        stage: OnceLock::new(),
    }
}

/// `rsasync jobs` of this machine, on a process of the platform: its library is linked by GNU's linker,
/// which makes no table of its unwind information.
fn jobs_tells_where(platform: &Platform) -> Result<(), Failed> {
    let program = platform.built().join("observed");
    let mut cc = platform.compiler(&program_source("observed.c"));
    cc.args(observed::FLAGS).arg("-I");
    cc.arg(platform.headers()).arg(platform.library_path());
    output_of(cc.args(["-lrsasync", "-o"]).arg(&program))?;
    let process = Observed::start(
        Command::new(&program)
            .arg("all_states")
            .env("LD_LIBRARY_PATH", platform.library_directory()),
    )?;
    let mut jobs = command(STAGE.join("usr/bin/rsasync"), 60);
    let said = stdout_of(jobs.args(["jobs", &process.pid()]))?;
    let places = said.matches("pauses_here (observed)").count();
    expect(places == 5, format!("{places} places in\n{said}"))
}

/// Chapters in programs that may only be jumped into where they say so (BTI). No other program is one,
/// as the C library's beginning is not.
fn where_jumps_are_checked(programs: &[Arc<Program>], platform: &'static Platform) -> Vec<Check> {
    const CHAPTERS: [&str; 4] = ["jobs", "frames", "nesting", "switching"];
    let is_one = |it: &&Arc<Program>| it.is_alone() && CHAPTERS.contains(&&*it.chapter());
    let checks = programs.iter().filter(is_one).map(|alone| {
        let (alone, chapter) = (Arc::clone(alone), alone.chapter());
        Check::new(format!("bti::{chapter}"), move || {
            let program = platform.built().join(format!("{chapter}.bti"));
            let source = ROOT.join("ctests/chapters").join(format!("{chapter}.c"));
            let mut cc = platform.compiler(&source);
            cc.arg(ROOT.join("ctests/platforms/start_with_bti.S"));
            cc.args(["-nostartfiles", "-Wl,-z,force-bti", "-I"]);
            cc.arg(platform.headers()).arg(platform.library_path());
            output_of(cc.args(["-lrsasync", "-o"]).arg(&program))?;
            for case in alone.cases(Way::Alone)? {
                output_of(platform.run(&program, &[], 60).arg(case))?;
            }
            let notes = stdout_of(command("readelf", 60).arg("-n").arg(&program))?;
            expect(notes.contains("BTI"), "jumps into it are not checked")
        })
    });
    checks.collect()
}

/// This machine with pages of 64 KiB, simulated.
fn large_pages(tools: &Path) -> Result<Platform, Failed> {
    let object = tools.join("pages_of_64_kib.so");
    let mut cc = compiler(&ROOT.join("ctests/platforms/pages_of_64_kib.c"));
    output_of(cc.args(["-shared", "-fPIC", "-o"]).arg(&object))?;
    Ok(Platform {
        name: "64 KiB pages",
        c_library: CLibrary::Glibc,
        cc: words("cc"),
        cxx: words("c++"),
        runner: words(&format!("env LD_PRELOAD={}", object.display())),
        is_emulated: false,
        install: "install-library",
        variables: Vec::new(),
        directory: tools.join("pages-of-64-kib"),
        stage: OnceLock::new(),
    })
}

/// The compiler's first error for a processor with 32 bits says which ones there are.
fn is_refused(variables: Vec<(&'static str, String)>) -> Result<(), Failed> {
    let mut cargo = command("cargo", 300);
    cargo
        .current_dir(&*ROOT)
        .args(["check", "--quiet", "-p", "rsasync", "--lib"])
        .envs(variables.into_iter().chain(build_std()));
    let output = cargo.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let error = said.lines().find(|line| line.starts_with("error"));
    expect(
        !output.status.success() && error.is_some_and(|it| it.contains("64-bit ARM")),
        said,
    )
}

/// All cases but those of chapters that have an `mmap` of their own.
fn with_large_pages(platform: &'static Platform) -> Vec<Check> {
    let openssl = leak(Openssl::of_system(platform));
    let mut programs = chapters::programs(openssl, &[Way::Alone]);
    programs.retain(|program| !["fork", "limits"].contains(&&*program.chapter()));
    chapters::checks(&programs, &[Way::Alone])
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Has cargo build the standard library as well.
fn build_std() -> [(&'static str, String); 2] {
    [
        ("RUSTC_BOOTSTRAP", "1".to_owned()),
        ("CARGO_UNSTABLE_BUILD_STD", "std,panic_abort".to_owned()),
    ]
}

/// What `make` needs to know to build for this target of the compiler.
fn variables(
    tools: &Path,
    target: &str,
    cc: &str,
    binutils_prefix: &str,
) -> Vec<(&'static str, String)> {
    let path = |name: &str| tools.join(name).display().to_string();
    let binutil = |name: &str| format!("{binutils_prefix}{name}");
    vec![
        ("CARGO_BUILD_TARGET", target.to_owned()),
        ("CARGO_TARGET_DIR", path("cargo")),
        ("RUSTC", path("rustc")),
        ("CC", cc.to_owned()),
        ("LD", binutil("ld")),
        ("AR", binutil("ar")),
        ("OBJCOPY", binutil("objcopy")),
    ]
}
