//! Random programs: some time of the fuzzer, with a fresh seed, which it prints if it fails.

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

/// How long the fuzzer may take, unless the environment says otherwise.
fn seconds() -> Result<u32, Failed> {
    match env::var("RSASYNC_FUZZ_SECONDS") {
        Ok(seconds) => Ok(seconds.parse()?),
        Err(_) => Ok(100),
    }
}

fn fuzz(seconds: u32, flags: &[&str]) -> Result<(), Failed> {
    const TO_SHRINK: u32 = 180;
    let mut fuzz = command(env!("CARGO_BIN_EXE_fuzz"), seconds + TO_SHRINK);
    fuzz.args(["--seconds", &seconds.to_string()]).args(flags);
    fuzz.arg("--rsasync").arg(shared_library());
    let summary = stdout_of(&mut fuzz)?;
    for line in summary.lines().take(3) {
        eprintln!("{line}");
    }
    Ok(())
}
