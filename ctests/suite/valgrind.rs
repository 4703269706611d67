//! valgrind knows jobs' stacks: it takes no switch between jobs for a jump of the stack pointer.

use libtest_mimic::{Failed, Trial};

use harness::stage::{build_program, command, output_of};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("valgrind::switches_of_many_jobs", || {
            no_warnings("guarded_stacks")
        }),
        Trial::test("valgrind::switches_between_stacks_of_the_programs", || {
            no_warnings("stacks_of_the_programs_own")
        }),
    ]
}

fn no_warnings(case: &str) -> Result<(), Failed> {
    let mut valgrind = command("valgrind", 300);
    let output = output_of(valgrind.arg(build_program("crowd", &[])?).arg(case))?;
    let report = String::from_utf8_lossy(&output.stderr);
    if report.contains("Warning:") || !report.contains("ERROR SUMMARY: 0 errors") {
        return Err(report.into_owned().into());
    }
    Ok(())
}
