//! Random programs.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::program::{
    Args, CONTEXTS, Cleanup, CtxArg, LIB_CTXS, Null, Op, ROUNDING_MODES, Step, THREADS, VARIABLES,
};

/// How often the arguments of calls are bad.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Inputs {
    /// As in correct programs, with some exceptions.
    MostlyValid,
    /// NULL is passed several times as often, and a context gets many more descriptors at once.
    OftenBad,
}

pub fn programs(inputs: Inputs) -> BoxedStrategy<Vec<Step>> {
    // A step seldom changes the thread: else the jobs of each thread would get few steps.
    let switch_to = prop_oneof![12 => Just(None), 2 => (0..THREADS).prop_map(Some)];
    let several_threads = prop_oneof![2 => Just(false), 1 => Just(true)];
    let step = (switch_to, op(inputs)).boxed();
    let steps = prop_oneof![
        1 => vec(step.clone(), 0..12),
        3 => vec(step.clone(), 0..70),
        1 => vec(step, 0..200),
    ];
    (several_threads, steps)
        .prop_map(|(several_threads, steps)| {
            let mut thread = 0;
            let step = |(switch_to, op): (Option<u8>, Op)| {
                thread = if several_threads {
                    switch_to.unwrap_or(thread)
                } else {
                    0
                };
                Step { thread, op }
            };
            steps.into_iter().map(step).collect()
        })
        .boxed()
}

fn op(inputs: Inputs) -> BoxedStrategy<Op> {
    let bad = inputs == Inputs::OftenBad;
    let var = || 0..VARIABLES;
    let key = || 0..4_u8;
    let ctx = move || {
        let nulls = if bad { 4 } else { 1 };
        prop_oneof![20 => (0..CONTEXTS).prop_map(CtxArg::C), nulls => Just(CtxArg::Null)]
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
        30 => (var(), ctx(), args, null())
            .prop_map(|(var, ctx, args, null)| Op::Start { var, ctx, args, null }),
        24 => Just(Op::Pause),
        10 => any::<i8>().prop_map(|result| Op::Return(result.into())),
        3 => Just(Op::Block),
        5 => Just(Op::Unblock),
        1 => Just(Op::IsCapable),
        3 => (max, init).prop_map(|(max, init)| Op::InitThread { max, init }),
        2 => Just(Op::CleanupThread),
        1 => Just(Op::EndThread),
        3 => (var(), var()).prop_map(|(from, to)| Op::Copy { from, to }),
        4 => var().prop_map(|to| Op::GetCurrentJob { to }),
        4 => (0..12_usize, var()).prop_map(|(job, to)| Op::HandleOf { job, to }),
        2 => var().prop_map(|var| Op::SetNull { var }),
        6 => var().prop_map(|var| Op::GetWaitCtx { var }),
        3 => (var(), 0..CONTEXTS, -1..5_i32).prop_map(
            |(var, ctx, status)| Op::InHandler { var, ctx, status }),
    ];
    let contexts = prop_oneof![
        10 => (0..CONTEXTS).prop_map(Op::NewCtx),
        4 => ctx().prop_map(Op::FreeCtx),
        18 => (ctx(), key(), any::<i32>(), 0..4_u8, cleanup).prop_map(
            |(ctx, key, fd, data, cleanup)| Op::SetFd { ctx, key, fd, data, cleanup }),
        1 => (ctx(), key(), 0..1000_i32, many).prop_map(
            |(ctx, key, fd, count)| Op::SetFds { ctx, key, fd, count }),
        8 => (ctx(), key(), null()).prop_map(|(ctx, key, null)| Op::GetFd { ctx, key, null }),
        8 => (ctx(), any::<bool>(), null())
            .prop_map(|(ctx, list, null)| Op::GetAllFds { ctx, list, null }),
        12 => (ctx(), any::<bool>(), any::<bool>(), null()).prop_map(
            |(ctx, added, deleted, null)| Op::GetChangedFds { ctx, added, deleted, null }),
        10 => (ctx(), key()).prop_map(|(ctx, key)| Op::ClearFd { ctx, key }),
        3 => (ctx(), any::<bool>(), 0..4_u8).prop_map(
            |(ctx, function, arg)| Op::SetCallback { ctx, function, arg }),
        4 => (ctx(), null()).prop_map(|(ctx, null)| Op::CallCallback { ctx, null }),
        3 => (ctx(), status).prop_map(|(ctx, status)| Op::SetStatus { ctx, status }),
        3 => ctx().prop_map(|ctx| Op::GetStatus { ctx }),
    ];
    let others = prop_oneof![
        4 => (0..LIB_CTXS).prop_map(Op::SetLibCtx),
        6 => Just(Op::GetLibCtx),
        2 => (0..ROUNDING_MODES).prop_map(Op::SetRounding),
        3 => Just(Op::GetRounding),
        3 => any::<bool>().prop_map(Op::SetMask),
        3 => Just(Op::GetMask),
        1 => Just(Op::ThreadStop),
    ];
    // These take thousands of times as long as other steps.
    let slow = prop_oneof![1 => Just(Op::ForkAtOnce), 3 => Just(Op::PlugIn)];
    prop_oneof![1000 => jobs, 900 => contexts, 200 => others, 4 => slow].boxed()
}
