//! Programs as text. A report prints a program in this form, `--replay` finds it in a whole log,
//! and an executor gets its programs in it:
//!
//! ```text
//! fuzz program begins
//! fuzz step 0, thread 0: NewCtx(0)
//! fuzz step 1, thread 2: Pause
//! fuzz program ends
//! ```
//!
//! A step's number is for the reader, who finds it in the traces; it is not read back, so that a
//! person can delete steps. Lines of another form between these are other output of the same log.
//! What stands to the left of a line, such as a time stamp, is ignored.

use std::fmt::Write;

use crate::program::{CONTEXTS, CtxArg, LIB_CTXS, Op, ROUNDING_MODES, Step, THREADS, VARIABLES};

const BEGIN: &str = "fuzz program begins";
const STEP: &str = "fuzz step ";
const END: &str = "fuzz program ends";

/// What a file for `--replay` must have, for messages.
pub const EXPECTED: &str = "expected a log with the program of an earlier run in it: a line \
    `fuzz program begins`, lines such as `fuzz step 0, thread 0: Pause`, and a line \
    `fuzz program ends`";

pub fn to_text(steps: &[Step]) -> String {
    let mut text = format!("{BEGIN}\n");
    for (number, Step { thread, op }) in steps.iter().enumerate() {
        let op = ron::to_string(op).expect("a step is plain data");
        writeln!(text, "{STEP}{number}, thread {thread}: {op}").expect("a string takes any text");
    }
    text + END + "\n"
}

/// Whether a program ends with this line.
pub fn is_end(line: &str) -> bool {
    line.trim_end().ends_with(END)
}

/// All programs in a log, in their order.
pub fn programs_in(log: &str) -> Result<Vec<Vec<Step>>, String> {
    let mut programs = Vec::new();
    let mut unfinished: Option<Vec<Step>> = None;
    for (line, number) in log.lines().zip(1..) {
        if line.trim_end().ends_with(BEGIN) {
            if unfinished.replace(Vec::new()).is_some() {
                return Err(format!("line {number}: the program before it has no end"));
            }
        } else if is_end(line) {
            programs.extend(unfinished.take());
        } else if let Some(steps) = &mut unfinished
            && let Some((_, text)) = line.split_once(STEP)
        {
            let step = step(text).map_err(|why| format!("line {number}: {why}: {line}"))?;
            steps.push(step);
        }
    }
    match unfinished {
        None => Ok(programs),
        Some(_) => Err("the last program has no end".to_owned()),
    }
}

fn step(text: &str) -> Result<Step, String> {
    let parts = text.split_once(", thread ").and_then(|(number, rest)| {
        number.parse::<usize>().ok()?;
        let (thread, op) = rest.split_once(": ")?;
        Some((thread.parse().ok()?, op))
    });
    let (thread, op) = parts.ok_or("not a step")?;
    let op = ron::from_str(op).map_err(|error| error.to_string())?;
    if thread >= THREADS || !is_in_range(&op) {
        return Err("there is no such thread or variable".to_owned());
    }
    Ok(Step { thread, op })
}

/// Whether the variables and modes that a step names exist.
fn is_in_range(op: &Op) -> bool {
    let in_range = |ctx| match ctx {
        CtxArg::C(ctx) => ctx < CONTEXTS,
        CtxArg::Null => true,
    };
    match *op {
        Op::Start { var, ctx, .. } => var < VARIABLES && in_range(ctx),
        Op::Copy { from, to } => from < VARIABLES && to < VARIABLES,
        Op::GetCurrentJob { to } | Op::HandleOf { to, .. } => to < VARIABLES,
        Op::SetNull { var } | Op::GetWaitCtx { var } => var < VARIABLES,
        Op::InHandler { var, ctx, .. } => var < VARIABLES && ctx < CONTEXTS,
        Op::NewCtx(ctx) => ctx < CONTEXTS,
        Op::FreeCtx(ctx)
        | Op::SetFd { ctx, .. }
        | Op::SetFds { ctx, .. }
        | Op::GetFd { ctx, .. }
        | Op::GetAllFds { ctx, .. }
        | Op::GetChangedFds { ctx, .. }
        | Op::ClearFd { ctx, .. }
        | Op::SetCallback { ctx, .. }
        | Op::CallCallback { ctx, .. }
        | Op::SetStatus { ctx, .. }
        | Op::GetStatus { ctx } => in_range(ctx),
        Op::SetLibCtx(lib_ctx) => lib_ctx < LIB_CTXS,
        Op::SetRounding(mode) => mode < ROUNDING_MODES,
        Op::Pause
        | Op::Return(_)
        | Op::Block
        | Op::Unblock
        | Op::IsCapable
        | Op::InitThread { .. }
        | Op::CleanupThread
        | Op::EndThread
        | Op::ForkAtOnce
        | Op::PlugIn
        | Op::GetLibCtx
        | Op::GetRounding
        | Op::SetMask(_)
        | Op::GetMask
        | Op::ThreadStop => true,
    }
}
