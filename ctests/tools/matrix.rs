//! `make matrix`: runs the checks on OpenSSL 1.1.1, the system's and 4, and shows a table of how many
//! passed on each. `make matrix FLAGS=NAME` runs those whose names contain NAME.

use std::env;
use std::process::ExitCode;
use std::sync::LazyLock;

use harness::chapters;
use harness::check::Check;
use harness::columns;
use harness::openssl::{Openssl, SYSTEM};
use harness::platform::HOST;
use harness::programs;
use harness::servers::{self, Size};
use harness::stage::{STAGE, command, output_of, shared_library};

/// The random programs that the fuzzer runs on each OpenSSL.
const FUZZ_CASES: u32 = 300;

fn main() -> ExitCode {
    let wanted = env::args().nth(1).unwrap_or_default();
    let built = [Openssl::v1_1(), Openssl::v4(&HOST)].map(|built| {
        built.unwrap_or_else(|why| panic!("{}", why.message().unwrap_or("OpenSSL can't be built")))
    });
    let [first, last]: &'static [Openssl; 2] = Box::leak(Box::new(built));
    let versions = [first, &*SYSTEM, last];

    LazyLock::force(&STAGE);
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
    let versions = versions.map(|openssl| openssl.version.clone());
    columns::run("OpenSSL", &versions, checks)
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
