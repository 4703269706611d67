//! What the packages are made of: the same bytes wherever they are built, the crates that are listed,
//! the interface that was promised.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use auditable_info::{Limits, audit_info_from_file};
use cyclonedx_bom::prelude::{Bom, Validate};
use libtest_mimic::Failed;
use serde_json::Value;

use harness::check::{Check, equal, expect};
use harness::stage::{BuiltOnce, ROOT, command, make, output_of, shell_line, stdout_of};

use crate::FOLDER;
use crate::kind::Kind;

pub fn checks(short: bool) -> Vec<Check> {
    let mut checks = vec![
        Check::new("library::is_the_same_from_two_folders", || {
            let build = |folder| thread::spawn(move || installed(folder));
            let (one, other) = (build("one"), build("another/with/a/longer/name"));
            let [one, other] = [one, other].map(|build| build.join().expect("it does not panic"));
            same_files(&one?, &other?)
        }),
        Check::new("library::has_the_recorded_abi", recorded_abi),
        Check::new("library::tells_its_crates", || {
            let library = format!("{}/librsasync.so.0", Kind::Deb.libraries());
            same_crates(&library, "librsasync0/librsasync.cdx.json")
        }),
        Check::new("command::tells_its_crates", || {
            same_crates("/usr/bin/rsasync", "rsasync/rsasync.cdx.json")
        }),
        Check::new("deb::cleaning_keeps_crates", cleaning),
        Check::new("deb::names_those_who_ask_for_it", notices),
    ];
    if !short {
        checks.push(Check::new("library::is_installed_by_cargo_c", by_cargo_c));
        checks.push(Check::new("deb::is_the_same_from_another_folder", || {
            same_files(&Kind::Deb.built(1)?, &packaged("of/its/own")?)
        }));
    }
    checks
}

/// A copy of the sources, with the crates that a packager may have put there.
pub fn sources(folder: &str) -> Result<PathBuf, Failed> {
    let copy = FOLDER.join("folders").join(folder);
    output_of(make().args(["sources", &format!("PACKAGED={}", copy.display())]))?;
    let crates = FOLDER.join("crates");
    fs::create_dir_all(copy.join(".cargo"))?;
    fs::copy(crates.join("config.toml"), copy.join(".cargo/config.toml"))?;
    Ok(copy)
}

/// The library, installed from a folder in which it was built.
fn installed(folder: &str) -> Result<PathBuf, Failed> {
    let sources = sources(folder)?;
    let destination = sources.join("installed");
    let mut make = make();
    make.current_dir(&sources).arg("install-library");
    make.arg("PREFIX=/opt/x")
        .arg(format!("DESTDIR={}", destination.display()));
    output_of(make.env("CARGO_TARGET_DIR", sources.join("target")))?;
    Ok(destination)
}

/// The packages, built in a folder.
fn packaged(folder: &str) -> Result<PathBuf, Failed> {
    let sources = sources(folder)?;
    let target = sources.join("target");
    Kind::Deb.make(&sources, &target, 1)?;
    Kind::Deb.keep(&target.join("packages"), &target.join("kept"))
}

/// The files that cargo-c knows of, and the same flags and functions.
fn by_cargo_c() -> Result<(), Failed> {
    let (sources, made) = (sources("cargo-c")?, installed("make")?);
    let destination = sources.join("installed");
    let mut cinstall = command(FOLDER.join("tools/bin/cargo-cinstall"), 600);
    cinstall.args(["cinstall", "--package", "rsasync", "--prefix", "/opt/x"]);
    cinstall
        .args(["--libdir", "/opt/x/lib", "--destdir"])
        .arg(&destination);
    output_of(cinstall.current_dir(&sources))?;
    let files = |of: &Path| -> Result<Vec<String>, Failed> {
        let mut find = command("find", 60);
        find.current_dir(of).args(["opt/x", "!", "-type", "d"]);
        let mut files: Vec<_> = stdout_of(&mut find)?.lines().map(str::to_owned).collect();
        files.retain(|file| !file.contains("/cmake/") && !file.starts_with("opt/x/share/"));
        files.sort();
        Ok(files)
    };
    equal(files(&destination)?, files(&made)?)?;
    let flags = |of: &Path| {
        let mut pkg_config = command("pkg-config", 60);
        pkg_config.env("PKG_CONFIG_PATH", of.join("opt/x/lib/pkgconfig"));
        stdout_of(pkg_config.args(["--cflags", "--libs", "--modversion", "rsasync"]))
    };
    equal(flags(&destination)?, flags(&made)?)?;
    let library = |of: &Path| of.join("opt/x/lib/librsasync.so.0");
    let mut diff = command("abidiff", 60);
    output_of(diff.arg(library(&made)).arg(library(&destination))).map(drop)
}

/// Packages are cleaned before they are built; crates that lie among the sources must stay whole.
fn cleaning() -> Result<(), Failed> {
    let sources = sources("cleaned")?;
    let of_crate = sources.join("vendor/crate/Cargo.toml.orig");
    fs::create_dir_all(sources.join("vendor/crate"))?;
    fs::write(&of_crate, "")?;
    let (leftover, debian) = (sources.join("Makefile.orig"), sources.join("debian"));
    fs::write(&leftover, "")?;
    let packaging = sources.join("src/packaging/debian");
    output_of(command("cp", 60).arg("-r").arg(packaging).arg(&debian))?;
    let changelog = "rsasync (1-1) unstable; urgency=medium\n\n  * Trial.\n\n\
                     -- Nobody <nobody@localhost>  Thu, 01 Jan 1970 00:00:00 +0000\n";
    fs::write(debian.join("changelog"), changelog)?;
    output_of(
        command("debian/rules", 60)
            .arg("clean")
            .current_dir(&sources),
    )?;
    expect(!leftover.exists(), "nothing was cleaned")?;
    expect(of_crate.exists(), "a crate has lost a file")
}

/// Whose license asks for a notice in binaries, and offers no other, has it in the packages.
fn notices() -> Result<(), Failed> {
    let folder = unpacked()?.join("usr/share/doc/rsasync");
    let copyright = fs::read_to_string(folder.join("copyright"))?;
    let list: Value = serde_json::from_slice(&fs::read(folder.join("rsasync.cdx.json"))?)?;
    let mut missing = Vec::new();
    for it in list["components"].as_array().ok_or("no components")? {
        let license = it["licenses"][0]["expression"].as_str().unwrap_or_default();
        let asks = !["Apache-2.0", "Unlicense"]
            .iter()
            .any(|free| license.contains(free));
        let stanza = format!(
            "Files: vendor/{}-*\n",
            it["name"].as_str().unwrap_or_default()
        );
        if it["scope"] == "required" && asks && !copyright.contains(&stanza) {
            missing.push(format!("{stanza}License: {license}"));
        }
    }
    expect(missing.is_empty(), missing.join("\n"))?;
    expect(copyright.contains("Files: vendor/"), "nobody asks")
}

fn same_files(one: &Path, other: &Path) -> Result<(), Failed> {
    let mut diff = command("diff", 60);
    diff.args(["--recursive", "--no-dereference", "--brief"]);
    output_of(diff.arg(one).arg(other)).map(drop)
}

/// The packages of the library, its debug symbols and the command, unpacked.
fn unpacked() -> Result<&'static Path, Failed> {
    static ONCE: BuiltOnce = BuiltOnce::new();
    ONCE.get_or_build(|| {
        let folder = FOLDER.join("unpacked");
        let _ = fs::remove_dir_all(&folder);
        for package in Kind::Deb.packages(&Kind::Deb.built(1)?)? {
            let mut dpkg = command("dpkg-deb", 60);
            output_of(dpkg.arg("--extract").arg(package).arg(&folder))?;
        }
        Ok(folder)
    })
}

/// Functions may come and structures may grow at their ends, but that is to be seen in the record.
fn recorded_abi() -> Result<(), Failed> {
    let folder = unpacked()?;
    let library = folder.join(format!("{}/librsasync.so.0", &Kind::Deb.libraries()[1..]));
    let (symbols, record) = (
        folder.join("usr/lib/debug"),
        ROOT.join("src/packaging/librsasync.abi"),
    );
    debug_symbols(&library)?; // else only names would be compared
    let mut diff = command("abidiff", 60);
    diff.arg("--debug-info-dir2")
        .arg(&symbols)
        .arg(&record)
        .arg(&library);
    let mut write = command("abidw", 60);
    write.args(["--no-show-locs", "--no-corpus-path", "--no-comp-dir-path"]);
    write
        .arg("--debug-info-dir")
        .arg(&symbols)
        .arg("--out-file")
        .arg(&record)
        .arg(&library);
    output_of(&mut diff).map(drop).map_err(|why| {
        let why = why.message().unwrap_or_default();
        let write = shell_line(&write);
        format!("{why}\nif programs still run: to record it\n{write}\nelse raise the soname").into()
    })
}

/// The list of crates that is installed with a binary is valid. It has all that left code in the
/// binary, and none that cargo-auditable does not name there, which also names what only other packages
/// of the workspace ask for.
fn same_crates(binary: &str, list: &str) -> Result<(), Failed> {
    let folder = unpacked()?;
    let binary = folder.join(&binary[1..]);
    let list = folder.join("usr/share/doc").join(list);
    let text = fs::read(&list).map_err(|why| format!("{}: {why}", list.display()))?;
    let bom = Bom::parse_from_json(&*text).map_err(|why| why.to_string())?;
    let complaints = bom.validate();
    expect(complaints.passed(), format!("{complaints:?}"))?;
    let components = bom.components.map(|it| it.0).unwrap_or_default();
    let listed = components.into_iter().map(|it| {
        let version = it.version.map(|it| it.to_string());
        format!("{}-{}", it.name, version.unwrap_or_default())
    });
    let of_compiler = |it: &String| it.starts_with("rust-std-");
    let listed: BTreeSet<_> = listed.filter(|it| !of_compiler(it)).collect();

    let auditable = audit_info_from_file(&binary, Limits::default());
    let auditable = auditable.map_err(|why| format!("{}: {why}", binary.display()))?;
    let auditable = auditable.packages.iter();
    let auditable = auditable.map(|it| format!("{}-{}", it.name, it.version));
    let unknown: Vec<_> = listed.difference(&auditable.collect()).cloned().collect();
    equal(unknown, Vec::new())?;
    let left_code = that_left_code(&binary)?;
    expect(!left_code.is_empty(), "no crate left any code")?;
    let missing: Vec<_> = left_code.difference(&listed).cloned().collect();
    equal(missing, Vec::new())
}

/// The crates whose files the binary's debug symbols name.
fn that_left_code(binary: &Path) -> Result<BTreeSet<String>, Failed> {
    let mut readelf = command("readelf", 60);
    readelf.args(["--decompress", "-p", ".debug_str", "-p", ".debug_line_str"]);
    let texts = stdout_of(readelf.arg(debug_symbols(binary)?))?;
    let paths = texts.split("/usr/share/cargo/vendor/").skip(1);
    let crates = paths.filter_map(|path| path.split(['/', '\n']).next());
    Ok(crates.map(str::to_owned).collect())
}

/// The file with a binary's debug symbols, which its build id names.
fn debug_symbols(binary: &Path) -> Result<PathBuf, Failed> {
    let notes = stdout_of(command("readelf", 60).arg("--notes").arg(binary))?;
    let (_, id) = notes.split_once("Build ID: ").ok_or("no build id")?;
    let id = id.split_whitespace().next().unwrap_or_default();
    let (first, rest) = id.split_at_checked(2).ok_or("no build id")?;
    let file = unpacked()?.join(format!("usr/lib/debug/.build-id/{first}/{rest}.debug"));
    expect(file.exists(), format!("there is no {}", file.display()))?;
    Ok(file)
}
