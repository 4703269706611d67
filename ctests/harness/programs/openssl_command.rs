//! The openssl command, unchanged, with the library preloaded: its benchmark, and TLS.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use libtest_mimic::Failed;

use super::environment::stacks_made;
use crate::check::expect;
use crate::openssl::Openssl;
use crate::stage::{command, output_of, stderr_of};

/// The openssl command with the library preloaded, which prints its statistics at the end.
fn preloaded(openssl: &Openssl, timeout_s: u32) -> Command {
    let settings = ["RSASYNC_STATS=1".to_owned(), openssl.platform.preloading()];
    openssl.run(openssl.tool(), &settings, timeout_s)
}

pub fn speed(openssl: &Openssl, jobs: &str, what: &[&str]) -> Result<(), Failed> {
    let arguments = ["speed", "-seconds", "1", "-async_jobs", jobs];
    if !openssl.platform.has_ucontext() {
        let mut without = openssl.run(openssl.tool(), &[], 120);
        let said = without.args(arguments).args(what).output()?.stderr;
        let said = String::from_utf8_lossy(&said);
        expect(
            said.contains("async"),
            format!("libcrypto has jobs: {said}"),
        )?;
    }
    let stderr = stderr_of(preloaded(openssl, 120).args(arguments).args(what))?;
    let made = stacks_made(&stderr)?;
    expect(
        made == jobs.parse()?,
        format!("{made} stacks were made, not {jobs}:\n{stderr}"),
    )
}

/// A TLS connection between s_server and s_client, both asynchronous.
pub fn tls(openssl: &Openssl, protocol: &str) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let (key, certificate) = (
        directory.path().join("key.pem"),
        directory.path().join("certificate.pem"),
    );
    let mut request = openssl.run(openssl.tool(), &[], 60);
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

    // A free port: the kernel chose it, and the listener is closed at once.
    let port = TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port()
        .to_string();
    let mut server = preloaded(openssl, 60);
    server.args([
        "s_server", "-async", "-naccept", "1", "-www", "-accept", &port,
    ]);
    server.arg("-key").arg(&key).arg("-cert").arg(&certificate);
    let server = server
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // A connection made to see whether the server listens would be the only one it accepts, so the
    // kernel's table of sockets is asked: state 0A is LISTEN.
    let ready = "until grep -q \":$(printf %04X \"$0\") .* 0A \" /proc/net/tcp /proc/net/tcp6; do sleep 0.02; done";
    output_of(command("sh", 30).args(["-c", ready, &port]))?;

    let mut client = preloaded(openssl, 60);
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
    // With -ign_eof s_client goes on after the end of its input, until the server closes.
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
            format!("the {side} started no job of rsasync"),
        )?;
    }
    Ok(())
}
