//! The life of the packages in a clean system: installed by the README's line, used, upgraded under a
//! process, and removed. Each part is a check; one that fails keeps the later ones from beginning.

use std::fs;
use std::sync::{Arc, LazyLock};

use libtest_mimic::Failed;

use harness::check::{Check, equal, expect};
use harness::stage::version;

use crate::kind::Kind;
use crate::root::Root;

pub fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for kind in [Kind::Deb, Kind::Rpm] {
        let name = |part| format!("{}::{part}", kind.name());
        checks.push(Check::new(name("are_built_without_a_network"), move || {
            kind.built(1).map(drop)
        }));
        checks.push(Check::new(name("the_linter_has_no_complaint"), move || {
            kind.lint(&kind.built(1)?)
        }));
        let life = Arc::new(LazyLock::new(move || live(kind)));
        for (number, (part, _)) in PARTS.iter().enumerate() {
            let life = Arc::clone(&life);
            checks.push(Check::new(name(part), move || life[number].clone()));
        }
    }
    checks
}

type Part = fn(Kind, &Root) -> Result<(), Failed>;

const PARTS: [(&str, Part); 8] = [
    ("are_installed_by_the_readmes_line", are_installed),
    ("a_program_runs_on_the_library", a_program_runs),
    ("programs_are_built_by_hand", by_hand),
    ("programs_are_built_by_pkg_config", by_pkg_config),
    ("programs_are_built_by_cmake", by_cmake),
    ("pages_and_debug_symbols_are_found", papers),
    ("are_upgraded_under_a_process", are_upgraded),
    ("leave_nothing_when_they_go", are_removed),
];

/// How each part ended. The first failure is the end of all.
fn live(kind: Kind) -> Vec<Result<(), Failed>> {
    let root = clean(kind);
    let mut failed = None;
    let outcome = |(name, part): &(&'static str, Part)| {
        if let Some(earlier) = failed {
            return Err(format!("not reached: {earlier}").into());
        }
        let end = root.as_ref().map_err(Failed::clone);
        let end = end.and_then(|root| part(kind, root));
        if end.is_err() {
            failed = Some(*name);
        }
        end
    };
    PARTS.iter().map(outcome).collect()
}

/// A system with packages in a folder, and a list of its files.
fn clean(kind: Kind) -> Result<Root, Failed> {
    let root = Root::new(kind.name())?;
    kind.adapt(&root)?;
    kind.bring(&root, 1)?;
    fs::write(root.path(LIST), root.files()?)?;
    Ok(root)
}

const LIST: &str = "/root/files";

fn are_installed(kind: Kind, root: &Root) -> Result<(), Failed> {
    root.run("! command -v rsasync")?;
    root.run(&kind.installation()?)?;
    let version = format!("rsasync {}", version()?);
    equal(root.run("rsasync --version")?.trim(), version.as_str())
}

/// Preloaded by its name alone, and by the command, which finds it.
fn a_program_runs(_: Kind, root: &Root) -> Result<(), Failed> {
    const OPENSSL: &str = "openssl speed -seconds 1 -bytes 1024 -async_jobs 8 -evp sha256";
    for way in ["env LD_PRELOAD=librsasync.so.0", "rsasync run --"] {
        let said = root.run(&format!(
            "export RSASYNC_STATS=1; {way} {OPENSSL} & sleep 0.5; rsasync check $!; wait $!"
        ))?;
        for wanted in ["yes, its calls go to rsasync", "8 jobs made"] {
            expect(said.contains(wanted), format!("no \"{wanted}\" in\n{said}"))?;
        }
    }
    Ok(())
}

/// Builds an example by this command, which leaves it in `program`, and runs it on the library.
fn build(kind: Kind, root: &Root, command: &str) -> Result<(), Failed> {
    root.run(&format!(
        "cp {}/examples/pipe.c . && rm -f program",
        kind.documents()?
    ))?;
    root.run(command)?;
    let loaded = root.run("ldd ./program")?;
    // /lib may be a link to /usr/lib.
    let library = format!("{}/librsasync.so.0", kind.libraries());
    let library = library.trim_start_matches("/usr");
    expect(
        loaded.contains(library),
        format!("no {library} in\n{loaded}"),
    )?;
    root.run("./program").map(drop)
}

fn by_hand(kind: Kind, root: &Root) -> Result<(), Failed> {
    let cc = "cc pipe.c -pthread -I/usr/include/rsasync -lrsasync -o program";
    let cc = format!("{} {cc}", kind.searching());
    build(kind, root, &cc)
}

fn by_pkg_config(kind: Kind, root: &Root) -> Result<(), Failed> {
    let flags = "$(pkg-config --cflags --libs rsasync)";
    let cc = format!("{} cc pipe.c -pthread {flags} -o program", kind.searching());
    build(kind, root, &cc)
}

/// On the shared library; on the archive; and on that beside OpenSSL's, whose jobs must lose.
fn by_cmake(kind: Kind, root: &Root) -> Result<(), Failed> {
    const LISTS: &str = "cmake_minimum_required(VERSION 3.16)
        project(trial C)
        find_package(rsasync 0.1 REQUIRED)
        find_package(Threads REQUIRED)
        set(OPENSSL_USE_STATIC_LIBS ON)
        find_package(OpenSSL REQUIRED)
        add_executable(program pipe.c)
        target_link_libraries(program rsasync::rsasync Threads::Threads)
        add_executable(static pipe.c)
        target_link_libraries(static rsasync::static Threads::Threads)
        add_executable(beside beside.c)
        target_link_libraries(beside rsasync::static OpenSSL::Crypto)
        target_link_options(beside PRIVATE LINKER:-u,ASYNC_start_job
            LINKER:--allow-multiple-definition)";
    const BESIDE: &str = "#include <openssl/crypto.h>
        #include <rsasync.h>
        #include <openssl/async.h>
        #include <stdio.h>
        static int nothing(void *arg) { (void)arg; return 7; }
        int main(void)
        {
            ASYNC_JOB *job = NULL;
            struct rsasync_stats stats;
            int ret = 0, end = ASYNC_start_job(&job, NULL, &ret, nothing, NULL, 0);
            RSASYNC_get_stats(&stats, sizeof(stats));
            printf(\"%s: %d %d %d\\n\", OpenSSL_version(0), end, ret, (int)stats.finishes);
        }";
    fs::write(root.path("/root/CMakeLists.txt"), LISTS)?;
    fs::write(root.path("/root/beside.c"), BESIDE)?;
    let configure = format!("{} cmake -B built .", kind.searching());
    build(
        kind,
        root,
        &format!("{configure} && cmake --build built && cp built/program ."),
    )?;
    root.run("! ldd built/static | grep rsasync && built/static")?;
    let said = root.run("! ldd built/beside | grep crypto && built/beside")?;
    expect(
        said.starts_with("OpenSSL 3") && said.ends_with(": 3 7 1\n"),
        said.as_str(),
    )
}

/// A page of each section, and for a function of the library the line where it is.
fn papers(kind: Kind, root: &Root) -> Result<(), Failed> {
    for page in ["rsasync.1", "ASYNC_start_job.3rsasync", "rsasync.7"] {
        let said = root.run(&format!(
            "mandoc $(find /usr/share/man -name '{page}*') | sed 's/.\\x08//g'"
        ))?;
        expect(said.lines().any(|line| line == "NAME"), said)?;
    }
    let said = root.run(&format!(
        "library={}/librsasync.so.0
         id=$(readelf --notes $library | sed -n 's/.*Build ID: \\(..\\)/\\1\\//p')
         address=$(nm -D $library | sed -n 's/ T ASYNC_start_job$//p')
         addr2line -e /usr/lib/debug/.build-id/$id.debug $address",
        kind.libraries()
    ))?;
    let path = "/usr/src/rsasync/src/capi/async_h.rs:";
    expect(said.starts_with(path), format!("no {path} in\n{said}"))
}

/// The process goes on with the library that it has, and the new command knows that.
fn are_upgraded(kind: Kind, root: &Root) -> Result<(), Failed> {
    kind.bring(root, 2)?;
    let said = root.run(&format!(
        "rsasync run -- openssl speed -seconds 6 -bytes 1024 -async_jobs 8 -evp sha256 & sleep 0.5
         {}
         rsasync check $!
         wait $!
         {}",
        kind.installation()?,
        kind.installed()
    ))?;
    for wanted in [
        "yes, its calls go to rsasync",
        "sha256",
        &format!("{}-2", version()?),
    ] {
        expect(said.contains(wanted), format!("no \"{wanted}\" in\n{said}"))?;
    }
    Ok(())
}

fn are_removed(kind: Kind, root: &Root) -> Result<(), Failed> {
    root.run(kind.removal())?;
    let (before, after) = (fs::read_to_string(root.path(LIST))?, root.files()?);
    let new = after
        .lines()
        .filter(|file| !before.lines().any(|old| old == *file));
    equal(new.collect::<Vec<_>>(), Vec::new())?;
    equal(after.lines().count(), before.lines().count())
}
