//! The calls of jobs, and what a job does.

use std::ffi::c_int;
use std::ptr;

use harness::functions::Pointer;

use super::run::{Passed, STEP, THREAD, Where, emit, interpret, with_run};
use super::{ctx_name, emit_code, functions, handlers, job_name, null_if, others};
use super::{pointer, thread_state, wait_ctxs};
use crate::event::{Event, Job, UNTOUCHED};
use crate::library::Functions;
use crate::program::{Args, CtxArg, Null, Op};

/// Takes a step other than `Return` and `EndThread`.
pub fn call(step: usize, op: Op) {
    let Functions { jobs, .. } = functions();
    // SAFETY: the model has left out the steps that no library can take. Where libcrypto can't
    // take one that rsasync can, a crash is what the comparison wants to see.
    unsafe {
        match op {
            Op::Start {
                var,
                ctx,
                args,
                null,
            } => start(step, var, ctx, args, null),
            Op::Pause => {
                let code = (jobs.pause_job)();
                let current = current_job();
                emit(step, &Event::Pause { code, current });
            }
            Op::Block => (jobs.block_pause)(),
            Op::Unblock => (jobs.unblock_pause)(),
            Op::IsCapable => emit_code(step, (jobs.is_capable)()),
            Op::InitThread { max, init } => {
                emit_code(step, (jobs.init_thread)(max as usize, init as usize));
            }
            Op::CleanupThread => (jobs.cleanup_thread)(),
            Op::Copy { from, to } => set_job_var(to, job_var(from)),
            Op::GetCurrentJob { to } => {
                let handle = (jobs.current_job)();
                emit(step, &Event::Current(job_name(handle)));
                set_job_var(to, handle);
            }
            Op::HandleOf { job, to } => {
                let handle = with_run(|run| run.handles.get(job).copied());
                set_job_var(to, pointer(handle.unwrap_or(0)));
            }
            Op::SetNull { var } => set_job_var(var, ptr::null_mut()),
            Op::GetWaitCtx { var } => {
                let ctx = (jobs.wait_ctx)(job_var(var));
                emit(step, &Event::WaitCtx(ctx_name(ctx)));
            }
            Op::InHandler { var, ctx, status } => handlers::in_handler(step, var, ctx, status),
            Op::ForkAtOnce => emit_code(step, others::fork_at_once()),
            Op::PlugIn => others::load_plug_in(step),
            Op::SetLibCtx(lib_ctx) => {
                set_lib_ctx(step, functions().lib_ctxs[usize::from(lib_ctx)]);
            }
            // To set NULL changes nothing, and returns the one that is set.
            Op::GetLibCtx => set_lib_ctx(step, 0),
            Op::SetRounding(mode) => thread_state::set_rounding(mode),
            Op::GetRounding => emit_code(step, thread_state::rounding()),
            Op::SetMask(blocked) => thread_state::set_signal_blocked(blocked),
            Op::GetMask => emit_code(step, thread_state::signal_blocked().into()),
            Op::ThreadStop => (functions().libcrypto.thread_stop)(),
            op => wait_ctxs::call(step, op),
        }
    }
}

/// Shows the errors on libcrypto's queue, and empties it.
pub fn emit_errors(step: usize) {
    loop {
        // SAFETY: ERR_get_error has no conditions.
        let error = unsafe { (functions().libcrypto.get_error)() };
        if error == 0 {
            return;
        }
        let part = |shift: u32, mask: u64| (error >> shift & mask) as u32;
        let event = if functions().features.function_codes {
            Event::Error {
                lib: part(24, 0xff),
                func: part(12, 0xfff),
                reason: part(0, 0xfff),
            }
        } else {
            Event::Error {
                lib: part(23, 0xff),
                func: 0,
                reason: part(0, 0x7f_ffff),
            }
        };
        emit(step, &event);
    }
}

/// # Safety
/// The library can take the handle in the variable, and the wait context.
unsafe fn start(step: usize, var: u8, ctx: CtxArg, args: Args, null: Null) {
    let (mut bytes, size) = match args {
        Args::Bytes(size) => (
            (0..size).map(|nth| arg_byte(step, nth.into())).collect(),
            size,
        ),
        Args::Null(size) => (Vec::new(), size),
    };
    let mut handle = job_var(var);
    let mut result = UNTOUCHED;
    let args: Pointer = match args {
        Args::Bytes(_) => bytes.as_mut_ptr().cast(),
        Args::Null(_) => ptr::null_mut(),
    };
    let passed = Passed {
        step,
        address: args.addr(),
        size: bytes.len(),
    };
    with_run(|run| run.passed[usize::from(THREAD.get())] = Some(passed));
    // SAFETY: the outputs are variables of this function, `args` has `size` bytes or is NULL; the
    // caller vouches for the handle and the context.
    let code = unsafe {
        (functions().jobs.start_job)(
            null_if(null == Null::First, &mut handle),
            wait_ctxs::ctx_arg(ctx),
            null_if(null == Null::Second, &mut result),
            (null != Null::Third).then_some(job),
            args,
            size.into(),
        )
    };
    set_job_var(var, handle);
    emit(
        step,
        &Event::Start {
            code,
            result,
            handle: job_name(handle),
            current: current_job(),
        },
    );
    emit_errors(step);
}

/// The function of every job.
extern "C" fn job(args: Pointer) -> c_int {
    // SAFETY: ASYNC_get_current_job has no conditions.
    let handle = unsafe { (functions().jobs.current_job)() }.expose_provenance();
    let (passed, number) = with_run(|run| {
        let passed = run.passed[usize::from(THREAD.get())].take();
        let number = run.handles.len();
        run.handles.push(handle);
        handlers::publish(handle);
        if handle != 0 {
            run.last_jobs.insert(handle, number);
        }
        (passed, number)
    });
    let enter = |step, job, args| emit(step, &Event::Enter { job, args });
    let Some(passed) = passed else {
        enter(STEP.get(), Job::Unknown, "started out of turn");
        return 0;
    };
    let job = Job::J(number);
    // SAFETY: a library gives the job a copy of the arguments, or NULL, and keeps the copy until
    // the job's function returns.
    let args_seen = || unsafe { describe_args(args, passed) };
    let args_at_entry = args_seen();
    enter(passed.step, job, args_at_entry);
    let result = interpret(Where::InJob);
    if args_seen() != args_at_entry {
        enter(STEP.get(), job, "changed later");
    }
    result
}

/// The byte at a place of the arguments that a step passes.
fn arg_byte(step: usize, place: usize) -> u8 {
    (step * 31 + place * 7 + 1) as u8
}

/// How a job finds its arguments.
///
/// # Safety
/// `args` is NULL, or has as many bytes as were passed.
unsafe fn describe_args(args: Pointer, passed: Passed) -> &'static str {
    if args.is_null() {
        return "none";
    }
    if args.addr() == passed.address {
        return "not copied";
    }
    if !args.addr().is_multiple_of(16) {
        return "not aligned";
    }
    // SAFETY: the function's own condition; the job's copy is written by nobody.
    let bytes = unsafe { std::slice::from_raw_parts(args.cast::<u8>(), passed.size) };
    let right = bytes
        .iter()
        .enumerate()
        .all(|(place, &byte)| byte == arg_byte(passed.step, place));
    if right { "copied" } else { "wrong" }
}

fn current_job() -> Job {
    // SAFETY: ASYNC_get_current_job has no conditions.
    job_name(unsafe { (functions().jobs.current_job)() })
}

pub fn job_var(var: u8) -> Pointer {
    pointer(with_run(|run| run.job_vars[usize::from(var)]))
}

fn set_job_var(var: u8, handle: Pointer) {
    with_run(|run| run.job_vars[usize::from(var)] = handle.expose_provenance());
}

/// Sets the default library context, and shows the number of the one before.
fn set_lib_ctx(step: usize, lib_ctx: usize) {
    let Some(set) = functions().set_lib_ctx else {
        return;
    };
    // SAFETY: NULL, or a library context that is never freed.
    let before = unsafe { set(pointer(lib_ctx)) }.addr();
    let number = functions().lib_ctxs.iter().position(|&ctx| ctx == before);
    emit_code(step, number.map_or(-1, |number| number as i32));
}
