//! `make depth`: how many bytes of a job's stack OpenSSL needs, by version and operation, as a
//! table.

use std::path::PathBuf;
use std::process::exit;
use std::sync::LazyLock;

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use harness::openssl::{Openssl, SYSTEM};
use harness::platform::HOST;
use harness::stage::{
    STAGE, compiler, headers, library_path, output_of, program_source, stdout_of,
};
use libtest_mimic::Failed;

/// An operation, and the arguments for it of programs/depth.c.
const OPERATIONS: [(&str, &[&str]); 10] = [
    ("signature, RSA 2048", &["sign", "rsa:2048"]),
    ("signature, RSA 4096", &["sign", "rsa:4096"]),
    ("signature, P-256", &["sign", "ec:prime256v1"]),
    ("signature, Ed25519", &["sign", "ed25519"]),
    (
        "TLS 1.2, RSA 2048",
        &["handshake", "rsa:2048", "tls1.2", "X25519", "one"],
    ),
    (
        "TLS 1.3, RSA 2048",
        &["handshake", "rsa:2048", "tls1.3", "X25519", "one"],
    ),
    (
        "TLS 1.3, RSA 4096, certificates of both",
        &["handshake", "rsa:4096", "tls1.3", "X25519", "both"],
    ),
    (
        "TLS 1.3, P-256, certificates of both",
        &["handshake", "ec:prime256v1", "tls1.3", "P-256", "both"],
    ),
    (
        "TLS 1.3, RSA 2048, X25519MLKEM768",
        &["handshake", "rsa:2048", "tls1.3", "X25519MLKEM768", "one"],
    ),
    (
        "the same, certificates of both",
        &["handshake", "rsa:2048", "tls1.3", "X25519MLKEM768", "both"],
    ),
];

/// The first version with ML-KEM.
const ML_KEM_SINCE: u32 = 4;

fn main() {
    match table() {
        Ok(table) => println!("{table}"),
        Err(why) => {
            eprintln!("{}", why.message().unwrap_or("the depth can't be measured"));
            exit(1);
        }
    }
}

fn table() -> Result<Table, Failed> {
    let (first, last) = (Openssl::v1_1()?, Openssl::v4(&HOST)?);
    let versions = [&first, &*SYSTEM, &last];
    LazyLock::force(&STAGE);
    let programs = versions
        .iter()
        .map(|openssl| build(openssl))
        .collect::<Result<Vec<_>, _>>()?;

    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    let mut header = vec!["bytes of stack, with OpenSSL".to_owned()];
    header.extend(versions.iter().map(|openssl| openssl.version.clone()));
    table.set_header(header);
    for (name, args) in OPERATIONS {
        let mut row = vec![name.to_owned()];
        for (openssl, program) in versions.iter().zip(&programs) {
            let needs_ml_kem = args.iter().any(|arg| arg.contains("MLKEM"));
            row.push(match needs_ml_kem && openssl.major() < ML_KEM_SINCE {
                true => "-".to_owned(),
                false => stdout_of(openssl.command(program, 60).args(args))?
                    .trim()
                    .to_owned(),
            });
        }
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    Ok(table)
}

fn build(openssl: &Openssl) -> Result<PathBuf, Failed> {
    let program = openssl.built().join("depth");
    let mut cc = compiler(&program_source("depth.c"));
    let include = format!("-I{}", headers().display());
    cc.args([library_path(), "-lrsasync".to_owned()]);
    cc.args(openssl.compile_flags()).args(["-lssl", "-lcrypto"]);
    output_of(cc.arg(include).arg("-o").arg(&program))?;
    Ok(program)
}
