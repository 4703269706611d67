//! `make matrix`: runs the checks on OpenSSL 1.1.1, the system's and 4, and shows a table of how many
//! passed on each. `make matrix FLAGS=NAME` runs those whose names contain NAME.

use std::collections::BTreeMap;
use std::env;
use std::io::{IsTerminal, Write, stderr};
use std::process::exit;
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::Instant;

use harness::chapters;
use harness::check::Check;
use harness::openssl::{Openssl, SYSTEM};
use harness::programs;
use harness::servers::{self, Size};
use harness::stage::{STAGE, command, output_of, shared_library};
use libtest_mimic::Failed;

/// The random programs that the fuzzer runs on each OpenSSL.
const FUZZ_CASES: u32 = 300;

fn main() {
    let wanted = env::args().nth(1).unwrap_or_default();
    let built = [Openssl::v1_1(), Openssl::v4()].map(|built| {
        built.unwrap_or_else(|why| {
            eprintln!("{}", why.message().unwrap_or("OpenSSL can't be built"));
            exit(1);
        })
    });
    let [first, last]: &'static [Openssl; 2] = Box::leak(Box::new(built));
    let versions = [first, &*SYSTEM, last];

    LazyLock::force(&STAGE);
    let start = Instant::now();
    let mut checks = Vec::new();
    for (version, openssl) in versions.into_iter().enumerate() {
        let programs = chapters::programs(openssl, &chapters::NATIVE);
        let mut of_version = chapters::checks(&programs, &chapters::NATIVE);
        of_version.extend(programs::with_openssl(openssl));
        for other in versions {
            if other.version != openssl.version {
                of_version.push(programs::two_libcryptos(openssl, other));
            }
        }
        of_version.extend(servers::of_openssl(openssl, Size::Short));
        of_version.push(fuzz(openssl));
        checks.extend(of_version.into_iter().map(|check| (version, check)));
    }
    checks.retain(|(_, check)| check.name.contains(&wanted));

    let results = run(checks, &versions);
    show(&results, &versions);
    let failed = results.iter().filter(|result| result.end.is_err()).count();
    println!(
        "{} passed, {failed} failed, in {} s",
        results.len() - failed,
        start.elapsed().as_secs()
    );
    exit(if failed == 0 { 0 } else { 1 });
}

/// The fuzzer, whose program is in the directory of this one, comparing rsasync with this libcrypto.
fn fuzz(openssl: &'static Openssl) -> Check {
    Check::new(format!("fuzz::{FUZZ_CASES}_random_programs"), || {
        let fuzzer = env::current_exe()?.with_file_name("fuzz");
        let mut command = command(fuzzer, 600);
        command.arg("--libcrypto").arg(openssl.libcrypto()?);
        command.arg("--rsasync").arg(shared_library());
        output_of(command.arg("--cases").arg(FUZZ_CASES.to_string())).map(drop)
    })
}

struct Outcome {
    /// The version, as an index into the table's columns.
    version: usize,
    name: String,
    end: Result<(), Failed>,
}

/// Runs the checks, as many at a time as there are processors.
fn run(checks: Vec<(usize, Check)>, versions: &[&Openssl]) -> Vec<Outcome> {
    let all = checks.len();
    let (waiting, done) = (Mutex::new(checks.into_iter()), Mutex::new(Vec::new()));
    let next = || waiting.lock().expect("nobody panics").next();
    let work = || {
        while let Some((version, check)) = next() {
            let name = check.name.clone();
            let end = check.run();
            let mut done = done.lock().expect("nobody panics");
            let title = format!("OpenSSL {}: {name}", versions[version].version);
            done.push(Outcome { version, name, end });
            progress(&format!("{} of {all}  {title}", done.len()));
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    progress("");
    done.into_inner().expect("nobody panics")
}

/// Prints the table, versions across and groups of checks down, and the failures below it.
fn show(results: &[Outcome], versions: &[&Openssl]) {
    let mut rows: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
    for Outcome { version, name, end } in results {
        let group = name
            .rsplit_once("::")
            .map_or(name.as_str(), |(group, _)| group);
        let cells = rows
            .entry(group)
            .or_insert_with(|| vec![(0, 0); versions.len()]);
        match end {
            Ok(()) => cells[*version].0 += 1,
            Err(_) => cells[*version].1 += 1,
        }
    }
    let title = "passed/failed on OpenSSL";
    let groups = rows.keys().map(|group| group.len());
    let width = groups.chain([title.len()]).max().unwrap_or(0);
    print!("{title:width$}");
    for openssl in versions {
        print!("{:>10}", openssl.version);
    }
    println!();
    for (group, cells) in rows {
        print!("{:width$}", group.replace("::", " "));
        for (passed, failed) in cells {
            match passed + failed {
                0 => print!("{:>10}", "-"),
                _ => print!("{:>10}", format!("{passed}/{failed}")),
            }
        }
        println!();
    }
    for Outcome { version, name, end } in results {
        if let Err(why) = end {
            let why = why.message().unwrap_or_default();
            println!("\nOpenSSL {}: {name}\n{why}", versions[*version].version);
        }
    }
}

/// Shows the line in place of the last one, if standard error is a terminal.
fn progress(line: &str) {
    let mut terminal = stderr();
    if terminal.is_terminal() {
        let _ = write!(terminal, "\r\x1b[K{line}");
        let _ = terminal.flush();
    }
}
