//! What `make install` puts where, and that pkg-config finds it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use libtest_mimic::{Failed, Trial};

use crate::exports;
use harness::check::equal;
use harness::stage::{
    STAGE, command, library_directory, output_of, shared_library, stdout_of, version,
};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("surface::install_puts_everything_in_place", install),
        Trial::test("surface::pkg_config_builds_a_program", pkg_config),
    ]
}

fn install() -> Result<(), Failed> {
    let link = |path: &Path| fs::read_link(path).map(|target| target.display().to_string());
    let version = version()?;
    equal(link(&shared_library())?, "librsasync.so.0".to_owned())?;
    equal(
        link(&library_directory().join("librsasync.so.0"))?,
        format!("librsasync.so.{version}"),
    )?;
    let headers = [
        "rsasync.h",
        "openssl/async.h",
        "openssl/asyncerr.h",
        "standalone/openssl/crypto.h",
    ];
    let headers = headers.map(|header| format!("usr/include/rsasync/{header}"));
    let libraries = [
        "usr/lib/librsasync.a".to_owned(),
        "usr/lib/pkgconfig/rsasync.pc".to_owned(),
        "usr/lib/cmake/rsasync/rsasync-config.cmake".to_owned(),
        "usr/lib/cmake/rsasync/rsasync-config-version.cmake".to_owned(),
    ];
    let library = format!("usr/lib/librsasync.so.{version}");
    let of_command = [
        "bin/rsasync",
        "share/doc/rsasync/librsasync.cdx.json",
        "share/doc/rsasync/rsasync.cdx.json",
        "share/man/man1/rsasync.1",
        "share/man/man1/rsasync-run.1",
        "share/man/man1/rsasync-check.1",
        "share/man/man1/rsasync-status.1",
        "share/man/man1/rsasync-jobs.1",
        "share/bash-completion/completions/rsasync",
        "share/zsh/site-functions/_rsasync",
        "share/fish/vendor_completions.d/rsasync.fish",
    ];
    let of_command = of_command.map(|file| format!("usr/{file}"));
    let pages = exports::api().into_iter();
    let pages = pages.map(|name| format!("usr/share/man/man3/{name}.3rsasync"));
    let pages: Vec<_> = pages
        .chain(["usr/share/man/man7/rsasync.7".to_owned()])
        .collect();
    let debugger = format!("usr/share/gdb/auto-load/{library}-gdb.py");
    let wanted = headers
        .iter()
        .chain(&libraries)
        .chain([&library, &debugger])
        .chain(&of_command)
        .chain(&pages)
        .cloned()
        .collect::<BTreeSet<_>>();
    let installed = stdout_of(
        command("find", 60)
            .current_dir(&*STAGE)
            .args(["usr", "-type", "f"]),
    )?;
    equal(installed.lines().map(str::to_owned).collect(), wanted)
}

/// Builds a program with the flags of pkg-config alone, and asks it for the version.
fn pkg_config() -> Result<(), Failed> {
    let ask = |what: &[&str]| {
        let mut pkg_config = command("pkg-config", 60);
        pkg_config.env("PKG_CONFIG_PATH", library_directory().join("pkgconfig"));
        pkg_config.env("PKG_CONFIG_SYSROOT_DIR", &*STAGE);
        pkg_config
            .env("PKG_CONFIG_ALLOW_SYSTEM_LIBS", "1")
            .args(what)
            .arg("rsasync");
        stdout_of(&mut pkg_config)
    };
    equal(ask(&["--modversion"])?.trim(), &version()?)?;
    let source =
        "#include <rsasync.h>\n#include <stdio.h>\nint main(void) { puts(RSASYNC_version()); }\n";
    let directory = tempfile::tempdir()?;
    let (c, program) = (
        directory.path().join("version.c"),
        directory.path().join("version"),
    );
    fs::write(&c, source)?;
    let flags = ask(&["--cflags", "--libs"])?;
    output_of(
        command("cc", 60)
            .arg(&c)
            .args(flags.split_whitespace())
            .arg("-o")
            .arg(&program),
    )?;
    equal(stdout_of(&mut command(&program, 60))?.trim(), &version()?)
}
