//! The sanitizers find bugs in jobs and name the functions: a trial for each bug in
//! programs/bugs.c.

use std::path::PathBuf;

use libtest_mimic::{Failed, Trial};

use harness::check::expect;
use harness::sanitizer::Sanitizer;
use harness::stage::{
    BUILT, BuiltOnce, command, headers, library_path, output_of, program_source, shell_line,
};

/// A case of programs/bugs.c, the sanitizer and its options, and what the report must contain.
struct Bug {
    case: &'static str,
    sanitizer: Sanitizer,
    options: &'static str,
    reported: &'static [&'static str],
}

/// Where AddressSanitizer keeps the local variables of functions: in the frames on the job's stack,
/// or, to find uses after return, in a "fake stack" of its own, which every job has to have.
const ON_THE_STACK: &str = "detect_stack_use_after_return=0";
const ON_A_FAKE_STACK: &str = "detect_stack_use_after_return=1";

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
    asan("array", ON_A_FAKE_STACK, ARRAY),
    asan("array_after_a_pause", ON_THE_STACK, ARRAY_AFTER_A_PAUSE),
    asan("array_after_a_pause", ON_A_FAKE_STACK, ARRAY_AFTER_A_PAUSE),
    asan("array_in_a_nested_job", ON_THE_STACK, ARRAY_AFTER_A_PAUSE),
    asan(
        "array_in_a_nested_job",
        ON_A_FAKE_STACK,
        ARRAY_AFTER_A_PAUSE,
    ),
    asan(
        "returned",
        ON_A_FAKE_STACK,
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
/// ThreadSanitizer's report of where a fibre was made: a fibre is a thread without an id.
const A_FIBRE: &str = "(tid=0, ";

pub fn trials() -> Vec<Trial> {
    let trial = |bug: &'static Bug| {
        let kind = match bug.options {
            ON_A_FAKE_STACK => "_with_frames_elsewhere",
            _ => "",
        };
        let name = format!("{}::bugs::{}{kind}", bug.sanitizer.name(), bug.case);
        Trial::test(name, || is_reported(bug))
    };
    BUGS.iter().map(trial).collect()
}

fn is_reported(bug: &Bug) -> Result<(), Failed> {
    static WITH_ASAN: BuiltOnce = BuiltOnce::new();
    static WITH_TSAN: BuiltOnce = BuiltOnce::new();
    let built = match bug.sanitizer {
        Sanitizer::Address => &WITH_ASAN,
        Sanitizer::Thread => &WITH_TSAN,
    };
    let mut run = command(built.get_or_build(|| build(bug.sanitizer))?, 60);
    bug.sanitizer.set_options(&mut run, bug.options);
    let line = shell_line(run.arg(bug.case));
    let output = run.output()?;
    let report = String::from_utf8_lossy(&output.stderr);
    expect(
        !output.status.success(),
        format!("the bug was not found:\n{report}{line}"),
    )?;
    for wanted in bug.reported {
        expect(
            report.contains(wanted),
            format!("no \"{wanted}\" in the report:\n{report}{line}"),
        )?;
    }
    Ok(())
}

fn build(sanitizer: Sanitizer) -> Result<PathBuf, Failed> {
    let program = BUILT.join(format!("bugs-{}", sanitizer.name()));
    let mut compiler = sanitizer.compiler(&program_source("bugs.c"));
    compiler.arg("-I").arg(headers()).arg(library_path());
    output_of(compiler.arg("-lrsasync").arg("-o").arg(&program))?;
    Ok(program)
}
