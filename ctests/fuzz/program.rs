//! A random program of calls, as data: how it is made up, written down and read back.
//!
//! A program is one list of steps. Whoever runs takes the next one: the thread that a step
//! names, in the job that runs there. So a `Pause` hands the list back to the starter of the
//! job, and any part of a program is a program, which makes it easy to shrink.

use std::fmt::Write;

use proptest::collection::vec;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// How many variables for handles, wait contexts and threads a program has.
pub const VARIABLES: u8 = 6;
pub const CONTEXTS: u8 = 4;
pub const THREADS: u8 = 3;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub thread: u8,
    pub op: Op,
}

/// A call, or what a program does with a variable between calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Starts a job if the variable is NULL, else resumes the one in it.
    Start {
        var: u8,
        ctx: Slot,
        args: Args,
        null: Null,
    },
    Pause,
    /// The job's function returns.
    Return(i32),
    Block,
    Unblock,
    Capable,
    InitThread {
        max: u64,
        init: u64,
    },
    CleanupThread,
    /// The thread ends, with whatever is paused on it.
    EndThread,

    Copy {
        from: u8,
        to: u8,
    },
    /// The variable gets what `ASYNC_get_current_job` returns.
    CurrentJob {
        to: u8,
    },
    /// The variable gets the handle of the so-manieth job of the program.
    Handle {
        job: usize,
        to: u8,
    },
    Forget {
        var: u8,
    },
    WaitCtxOf {
        var: u8,
    },

    New(u8),
    Free(Slot),
    SetFd {
        ctx: Slot,
        key: u8,
        fd: i32,
        data: u8,
        cleanup: Cleanup,
    },
    /// Adds so many descriptors, counting up from `fd`.
    SetFds {
        ctx: Slot,
        key: u8,
        fd: i32,
        count: u16,
    },
    GetFd {
        ctx: Slot,
        key: u8,
        null: Null,
    },
    AllFds {
        ctx: Slot,
        list: bool,
        null: Null,
    },
    ChangedFds {
        ctx: Slot,
        added: bool,
        deleted: bool,
        null: Null,
    },
    ClearFd {
        ctx: Slot,
        key: u8,
    },
    SetCallback {
        ctx: Slot,
        function: bool,
        arg: u8,
    },
    /// Gets the callback and calls it.
    Callback {
        ctx: Slot,
        null: Null,
    },
    SetStatus {
        ctx: Slot,
        status: i32,
    },
    Status {
        ctx: Slot,
    },

    /// Sets the default library context: 0 for the global one, or one of two others.
    SetDefault(u8),
    Default,
    /// Sets the rounding mode, of four.
    SetRounding(u8),
    Rounding,
    /// Blocks a signal, or unblocks it.
    SetMask(bool),
    Mask,
    /// `OPENSSL_thread_stop`.
    ThreadStop,
}

/// A variable for a wait context; NULL until one is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slot {
    C(u8),
    Null,
}

/// What a job is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Args {
    Bytes(u16),
    /// NULL, with a size that must be ignored.
    Null(u16),
}

/// Which pointer is NULL that must not be: the first, second, third of those a call has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Null {
    Nothing,
    First,
    Second,
    Third,
}

/// What a cleanup routine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cleanup {
    Nothing,
    Plain,
    /// Calls back: reads the context.
    Reads,
    /// Calls back: clears the descriptor that it is called for.
    Clears,
}

/// A program, one step to a line.
pub fn to_text(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        let op = ron::to_string(&step.op).expect("it is plain data");
        writeln!(text, "{} {op}", step.thread).expect("a string takes all");
    }
    text
}

/// Reads it back, also out of all that was printed with it.
pub fn from_text(text: &str) -> Result<Vec<Step>, String> {
    let line = |line: &str| {
        let (thread, op) = line.split_once(' ').ok_or("a thread and a step")?;
        let thread = thread.parse::<u8>().map_err(|error| error.to_string())?;
        if thread >= THREADS {
            return Err(format!("thread {thread}: there are {THREADS}"));
        }
        let op = ron::from_str(op).map_err(|error| error.to_string())?;
        Ok(Step { thread, op })
    };
    text.lines()
        .filter(|text| text.starts_with(|first: char| first.is_ascii_digit()))
        .map(|text| line(text).map_err(|why: String| format!("{text}: {why}")))
        .collect()
}

/// What programs are made for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Taste {
    /// What correct programs do.
    Sound,
    /// Any argument anywhere.
    Bad,
}

pub fn programs(taste: Taste) -> BoxedStrategy<Vec<Step>> {
    // Threads alternate seldom, or little would happen on each.
    let turn = prop_oneof![12 => Just(None), 2 => (0..THREADS).prop_map(Some)];
    let several = prop_oneof![2 => Just(false), 1 => Just(true)];
    let step = (turn, op(taste)).boxed();
    let steps = prop_oneof![
        1 => vec(step.clone(), 0..12),
        3 => vec(step.clone(), 0..70),
        1 => vec(step, 0..200),
    ];
    (several, steps)
        .prop_map(|(several, steps)| {
            let mut thread = 0;
            let step = |(turn, op): (Option<u8>, Op)| {
                thread = if several { turn.unwrap_or(thread) } else { 0 };
                Step { thread, op }
            };
            steps.into_iter().map(step).collect()
        })
        .boxed()
}

fn op(taste: Taste) -> BoxedStrategy<Op> {
    let bad = taste == Taste::Bad;
    let var = || 0..VARIABLES;
    let key = || 0..4_u8;
    let slot = move || {
        let nulls = if bad { 4 } else { 1 };
        prop_oneof![20 => (0..CONTEXTS).prop_map(Slot::C), nulls => Just(Slot::Null)]
    };
    let null = move || {
        let nulls = if bad { 3 } else { 1 };
        prop_oneof![
            25 => Just(Null::Nothing), nulls => Just(Null::First),
            nulls => Just(Null::Second), nulls => Just(Null::Third),
        ]
    };
    let args = prop_oneof![
        4 => (1..64_u16).prop_map(Args::Bytes),
        3 => (64..6000_u16).prop_map(Args::Bytes),
        1 => Just(Args::Bytes(0)),
        4 => (0..64_u16).prop_map(Args::Null),
    ];
    let cleanup = prop_oneof![
        2 => Just(Cleanup::Nothing), 6 => Just(Cleanup::Plain),
        1 => Just(Cleanup::Reads), 1 => Just(Cleanup::Clears),
    ];
    let max = prop_oneof![
        8 => 0..6_u64, 1 => 6..40_u64, 1 => Just(i32::MAX as u64),
        1 => Just(i32::MAX as u64 + 1), 1 => Just(u64::MAX),
    ];
    let init = prop_oneof![20 => 0..5_u64, 2 => 5..40_u64, 1 => Just(u64::MAX)];
    let status = prop_oneof![4 => -1..5_i32, 1 => any::<i32>()];
    let many = if bad { 300..700_u16 } else { 4..40_u16 };

    let jobs = prop_oneof![
        30 => (var(), slot(), args, null())
            .prop_map(|(var, ctx, args, null)| Op::Start { var, ctx, args, null }),
        24 => Just(Op::Pause),
        10 => any::<i8>().prop_map(|result| Op::Return(result.into())),
        3 => Just(Op::Block),
        5 => Just(Op::Unblock),
        1 => Just(Op::Capable),
        3 => (max, init).prop_map(|(max, init)| Op::InitThread { max, init }),
        2 => Just(Op::CleanupThread),
        1 => Just(Op::EndThread),
        3 => (var(), var()).prop_map(|(from, to)| Op::Copy { from, to }),
        4 => var().prop_map(|to| Op::CurrentJob { to }),
        2 => (0..12_usize, var()).prop_map(|(job, to)| Op::Handle { job, to }),
        2 => var().prop_map(|var| Op::Forget { var }),
        4 => var().prop_map(|var| Op::WaitCtxOf { var }),
    ];
    let contexts = prop_oneof![
        10 => (0..CONTEXTS).prop_map(Op::New),
        4 => slot().prop_map(Op::Free),
        18 => (slot(), key(), any::<i32>(), 0..4_u8, cleanup).prop_map(
            |(ctx, key, fd, data, cleanup)| Op::SetFd { ctx, key, fd, data, cleanup }),
        1 => (slot(), key(), 0..1000_i32, many).prop_map(
            |(ctx, key, fd, count)| Op::SetFds { ctx, key, fd, count }),
        8 => (slot(), key(), null()).prop_map(|(ctx, key, null)| Op::GetFd { ctx, key, null }),
        8 => (slot(), any::<bool>(), null())
            .prop_map(|(ctx, list, null)| Op::AllFds { ctx, list, null }),
        12 => (slot(), any::<bool>(), any::<bool>(), null()).prop_map(
            |(ctx, added, deleted, null)| Op::ChangedFds { ctx, added, deleted, null }),
        10 => (slot(), key()).prop_map(|(ctx, key)| Op::ClearFd { ctx, key }),
        3 => (slot(), any::<bool>(), 0..4_u8).prop_map(
            |(ctx, function, arg)| Op::SetCallback { ctx, function, arg }),
        4 => (slot(), null()).prop_map(|(ctx, null)| Op::Callback { ctx, null }),
        3 => (slot(), status).prop_map(|(ctx, status)| Op::SetStatus { ctx, status }),
        3 => slot().prop_map(|ctx| Op::Status { ctx }),
    ];
    let others = prop_oneof![
        4 => (0..3_u8).prop_map(Op::SetDefault),
        6 => Just(Op::Default),
        2 => (0..4_u8).prop_map(Op::SetRounding),
        3 => Just(Op::Rounding),
        3 => any::<bool>().prop_map(Op::SetMask),
        3 => Just(Op::Mask),
        1 => Just(Op::ThreadStop),
    ];
    prop_oneof![10 => jobs, 9 => contexts, 2 => others].boxed()
}
