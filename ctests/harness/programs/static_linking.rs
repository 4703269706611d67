//! Programs linked with the static library, as the README says.

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Failed;

use super::environment::stacks_made;
use crate::check::expect;
use crate::openssl::Openssl;
use crate::platform::Platform;
use crate::stage::{ROOT, command, output_of, program_source, stderr_of, stdout_of};

/// Builds a program by the README's line for a static OpenSSL, with these flags besides; the program
/// and its link map.
fn link_static(
    openssl: &Openssl,
    c: &str,
    name: &str,
    flags: &[&str],
) -> Result<(PathBuf, String), Failed> {
    let program = openssl.built().join(name);
    let map = program.with_extension("map");
    let mut compiler = openssl.platform.compiler(&program_source(c));
    compiler
        .args(flags)
        .arg(format!("-I{}", openssl.platform.headers().display()))
        .arg("-o")
        .arg(&program)
        .arg(openssl.platform.library_path());
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

/// Checks that every ASYNC_ function of the program comes from librsasync.a, by the link map.
fn all_are_from_rsasync(program: &Path, map: &str) -> Result<(), Failed> {
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    // " .text.NAME  0xADDRESS  0xSIZE FILE", where a long name has a line of its own.
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
                format!("{name} is not from librsasync.a"),
            )?;
            count += 1;
        }
    }
    expect(count == 22, format!("{count} functions are there, not 22"))
}

pub fn jobs(openssl: &Openssl, name: &str, flags: &[&str]) -> Result<(), Failed> {
    let (program, map) = link_static(openssl, "static_jobs.c", name, flags)?;
    all_are_from_rsasync(&program, &map)?;
    output_of(&mut openssl.run(&program, &[], 60)).map(drop)
}

pub fn ssl(openssl: &Openssl) -> Result<(), Failed> {
    let (program, map) = link_static(openssl, "static_ssl.c", "static_ssl", &[])?;
    all_are_from_rsasync(&program, &map)?;
    let stats = stderr_of(&mut openssl.run(&program, &["RSASYNC_STATS=1".to_owned()], 60))?;
    expect(
        stacks_made(&stats)? == 1,
        format!("libssl started no job of rsasync: {stats}"),
    )
}

/// A program without any shared library, not even the C library's.
pub fn without_shared_libraries(platform: &Platform) -> Result<(), Failed> {
    let program = platform.built().join("wholly-static");
    let mut compiler = platform.compiler(&ROOT.join("examples/pipe.c"));
    compiler
        .arg("-static")
        .arg(format!("-I{}", platform.headers().display()));
    output_of(
        compiler
            .arg(platform.library_path())
            .arg("-l:librsasync.a")
            .arg("-o")
            .arg(&program),
    )?;
    output_of(&mut platform.run(&program, &[], 60)).map(drop)
}
