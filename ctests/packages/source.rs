//! The README's line for systems that have no packages, in a clean system that has only a compiler of
//! Rust besides.

use std::env;
use std::path::PathBuf;

use libtest_mimic::Failed;

use harness::check::{Check, expect};
use harness::stage::{command, output_of};

use crate::FOLDER;
use crate::kind::readme_line;
use crate::provenance::sources;
use crate::root::Root;

pub fn checks(short: bool) -> Vec<Check> {
    match short {
        true => Vec::new(), // it builds all, once more
        false => vec![Check::new("source::is_installed_by_the_readmes_line", line)],
    }
}

fn line() -> Result<(), Failed> {
    let mut root = Root::new("source")?;
    let home = PathBuf::from(env::var("HOME")?);
    let of_cargo = env::var("CARGO_HOME").map_or_else(|_| home.join(".cargo"), PathBuf::from);
    let of_rustup = env::var("RUSTUP_HOME").map_or_else(|_| home.join(".rustup"), PathBuf::from);
    let settings = format!(
        "export PATH={}:$PATH RUSTUP_HOME={} CARGO_HOME=/root/cargo",
        of_cargo.join("bin").display(),
        of_rustup.display()
    );
    for folder in [of_cargo, of_rustup, FOLDER.join("crates")] {
        root.lend(folder)?;
    }
    let copy = sources("source")?;
    output_of(
        command("cp", 60)
            .arg("-r")
            .arg(&copy)
            .arg(root.path("/root/rsasync")),
    )?;
    let line = readme_line("| others | `")?;
    root.run(&format!("{settings}; cd rsasync && {line}"))?;

    let flags = "$(pkg-config --cflags --libs rsasync)";
    let said = root.run(&format!(
        "cc rsasync/examples/pipe.c -pthread {flags} -o pipe && ldd pipe && ./pipe
         rsasync run -- openssl version && man_page=$(find /usr/local -name rsasync.7) && mandoc $man_page | sed 's/.\\x08//g'"
    ))?;
    for wanted in ["/usr/local/lib/librsasync.so.0", "OpenSSL 3", "ENVIRONMENT"] {
        expect(said.contains(wanted), format!("no {wanted} in\n{said}"))?;
    }
    Ok(())
}
