//! The fuzzer for a limited time, with a fresh seed, which it prints if it fails.

use std::env;

use libtest_mimic::{Failed, Trial};

use harness::stage::{command, shared_library, stdout_of};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("fuzz::same_as_libcrypto_and_as_the_contract_says", || {
            fuzz(seconds()?, &[])
        }),
        Trial::test("fuzz::bad_input_is_answered_as_the_contract_says", || {
            fuzz(seconds()?.div_ceil(5), &["--bad-input"])
        }),
    ]
}

/// The fuzzer's time: RSASYNC_FUZZ_SECONDS, or 100 seconds.
fn seconds() -> Result<u32, Failed> {
    match env::var("RSASYNC_FUZZ_SECONDS") {
        Ok(seconds) => Ok(seconds.parse()?),
        Err(_) => Ok(100),
    }
}

fn fuzz(seconds: u32, flags: &[&str]) -> Result<(), Failed> {
    // A program that fails is shrunk before it is reported.
    const SHRINKING_S: u32 = 180;
    let mut fuzz = command(env!("CARGO_BIN_EXE_fuzz"), seconds + SHRINKING_S);
    fuzz.args(["--seconds", &seconds.to_string()]).args(flags);
    fuzz.arg("--rsasync").arg(shared_library());
    let summary = stdout_of(&mut fuzz)?;
    for line in summary.lines().take(3) {
        eprintln!("{line}");
    }
    Ok(())
}
