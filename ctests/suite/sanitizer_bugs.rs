//! The sanitizers find bugs in jobs, and name the functions: a trial for each of
//! programs/bugs.c.

use std::path::PathBuf;
use std::sync::LazyLock;

use libtest_mimic::{Failed, Trial};

use harness::sanitizer::Sanitizer;
use harness::stage::{BUILT, ROOT, command, headers, library_path, output_of};

/// A case, what it is run with, and what must be in the report.
struct Bug {
    case: &'static str,
    sanitizer: Sanitizer,
    options: &'static str,
    reported: &'static [&'static str],
}

/// A job's array: with frames where they are, on the job's stack, and with what
/// AddressSanitizer takes for them to see uses after return, which it must keep for each job.
const ON_THE_STACK: &str = "detect_stack_use_after_return=0";
const ELSEWHERE: &str = "detect_stack_use_after_return=1";

const fn asan(case: &'static str, options: &'static str, reported: &'static [&'static str]) -> Bug {
    Bug {
        case,
        sanitizer: Sanitizer::Address,
        options,
        reported,
    }
}

const fn tsan(case: &'static str, reported: &'static [&'static str]) -> Bug {
    Bug {
        case,
        sanitizer: Sanitizer::Thread,
        options: "halt_on_error=1",
        reported,
    }
}

const BUGS: [Bug; 13] = [
    asan("array", ON_THE_STACK, ARRAY),
    asan("array", ELSEWHERE, ARRAY),
    asan("array_after_a_pause", ON_THE_STACK, ARRAY_AFTER_A_PAUSE),
    asan("array_after_a_pause", ELSEWHERE, ARRAY_AFTER_A_PAUSE),
    asan("array_in_a_nested_job", ON_THE_STACK, ARRAY_AFTER_A_PAUSE),
    asan("array_in_a_nested_job", ELSEWHERE, ARRAY_AFTER_A_PAUSE),
    asan(
        "returned",
        ELSEWHERE,
        &[
            "ERROR: AddressSanitizer: stack-use-after-return",
            " in use_after_return ",
            " in after_a_pause ",
            " in give_local ",
            "'local'",
        ],
    ),
    asan(
        "freed",
        ON_THE_STACK,
        &[
            "ERROR: AddressSanitizer: heap-use-after-free",
            " in use_after_free ",
            " in after_a_pause ",
        ],
    ),
    asan(
        "leak",
        ON_THE_STACK,
        &[
            "ERROR: LeakSanitizer",
            " in lose_memory ",
            " in after_a_pause ",
        ],
    ),
    asan(
        "recursion",
        "handle_segv=1",
        &[
            "ERROR: AddressSanitizer: stack-overflow",
            " in recurse_without_end ",
        ],
    ),
    asan(
        "overflow",
        ON_THE_STACK,
        &[
            "runtime error: signed integer overflow",
            " in overflow_an_int ",
            " in after_a_pause ",
        ],
    ),
    tsan(
        "race_with_a_thread",
        &[
            "ThreadSanitizer: data race",
            " increment_unlocked ",
            " after_a_pause ",
            " increments ",
            A_FIBRE,
        ],
    ),
    tsan(
        "race_of_two_jobs",
        &[
            "ThreadSanitizer: data race",
            " increment_unlocked ",
            " after_a_pause ",
            A_FIBRE,
        ],
    ),
];

const ARRAY: &[&str] = &[
    "ERROR: AddressSanitizer: stack-buffer-overflow",
    " in write_past_the_end ",
    " in at_once ",
    "is located in stack of thread",
    "'letters'",
];
const ARRAY_AFTER_A_PAUSE: &[&str] = &[
    "ERROR: AddressSanitizer: stack-buffer-overflow",
    " in write_past_the_end ",
    " in after_a_pause ",
    "is located in stack of thread",
    "'letters'",
];
/// How ThreadSanitizer shows where a fibre was made.
const A_FIBRE: &str = "(tid=0, ";

pub fn trials() -> Vec<Trial> {
    let trial = |bug: &'static Bug| {
        let kind = match bug.options {
            ELSEWHERE => "_with_frames_elsewhere",
            _ => "",
        };
        let name = format!("{}::bugs::{}{kind}", bug.sanitizer.name(), bug.case);
        Trial::test(name, || is_reported(bug))
    };
    BUGS.iter().map(trial).collect()
}

fn is_reported(bug: &Bug) -> Result<(), Failed> {
    static WITH_ASAN: LazyLock<PathBuf> = LazyLock::new(|| build(Sanitizer::Address));
    static WITH_TSAN: LazyLock<PathBuf> = LazyLock::new(|| build(Sanitizer::Thread));
    let program = match bug.sanitizer {
        Sanitizer::Address => &*WITH_ASAN,
        Sanitizer::Thread => &*WITH_TSAN,
    };
    let mut run = command(program, 60);
    bug.sanitizer.set_options(&mut run, bug.options);
    let output = run.arg(bug.case).output()?;
    let report = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Err(format!("the bug was not found:\n{report}").into());
    }
    for wanted in bug.reported {
        if !report.contains(wanted) {
            return Err(format!("no \"{wanted}\" in the report:\n{report}").into());
        }
    }
    Ok(())
}

fn build(sanitizer: Sanitizer) -> PathBuf {
    let program = BUILT.join(format!("bugs-{}", sanitizer.name()));
    let mut compiler = sanitizer.compiler(&ROOT.join("ctests/programs/bugs.c"));
    compiler.arg("-I").arg(headers()).arg(library_path());
    let built = output_of(compiler.arg("-lrsasync").arg("-o").arg(&program));
    built.expect("bugs.c can't be built");
    program
}
