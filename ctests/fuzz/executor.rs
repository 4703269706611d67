//! Runs programs on one library, in a process of its own, each in a fork of that: a program
//! starts fresh, and a crash is an event like others.
//!
//! Reads programs from standard input, each ended by an empty line; answers with the trace,
//! ended by a line with a dot.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::ptr;
use std::sync::{Condvar, Mutex, OnceLock};
use std::thread::{self, JoinHandle};

use harness::functions::{CallbackFn, Callbacks, Pointer};

use crate::event::{Ctx, Event, Job, UNTOUCHED};
use crate::library::Functions;
use crate::program::{self, Args, CONTEXTS, Cleanup, Null, Op, Slot, Step, THREADS, VARIABLES};
use crate::trace::Trace;

/// A program that runs longer is ended by a signal.
const SECONDS: u32 = 5;

static FUNCTIONS: OnceLock<Functions> = OnceLock::new();
static RUN: Mutex<Option<Run>> = Mutex::new(None);
static TURN: Condvar = Condvar::new();

thread_local! {
    /// This thread's number in the program, and the step that it is at.
    static THREAD: Cell<u8> = const { Cell::new(0) };
    static STEP: Cell<usize> = const { Cell::new(0) };
}

/// What all threads of a program share. It is touched only between calls.
struct Run {
    steps: Vec<Step>,
    next: usize,
    trace: &'static Trace,
    variables: [usize; VARIABLES as usize],
    slots: [usize; CONTEXTS as usize],
    /// Not freed.
    live: [bool; CONTEXTS as usize],
    /// The handle of each job, in the order of their starts.
    jobs: Vec<usize>,
    /// The last job of each handle.
    names: HashMap<usize, usize>,
    /// What each thread is about to start.
    starting: [Option<Given>; THREADS as usize],
    /// How many descriptors there can be in a context.
    fds: usize,
    threads: HashMap<u8, JoinHandle<()>>,
    /// The thread that is taking a step, until it asks for the next.
    busy: Option<u8>,
    /// The thread that is about to end.
    ending: Option<u8>,
}

/// The arguments of a job.
#[derive(Clone, Copy)]
struct Given {
    step: usize,
    at: usize,
    size: usize,
}

fn functions() -> &'static Functions {
    FUNCTIONS.get().expect("they are found first of all")
}

fn with<R>(f: impl FnOnce(&mut Run) -> R) -> R {
    let mut run = RUN.lock().expect("a panic ends the process");
    f(run.as_mut().expect("a program runs"))
}

/// The main function of an executor.
pub fn serve(library: &Path, libcrypto: &Path) -> Result<(), String> {
    let functions = Functions::load(library, libcrypto).map_err(|error| error.to_string())?;
    let features = ron::to_string(&functions.features).expect("it is plain data");
    assert!(FUNCTIONS.set(functions).is_ok());
    let trace = Trace::new();
    let mut answers = io::stdout().lock();
    let mut answer = |text: &str| {
        answers
            .write_all(text.as_bytes())
            .and_then(|()| answers.flush())
    };
    answer(&format!("{features}\n")).map_err(|error| error.to_string())?;
    let mut text = String::new();
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|error| error.to_string())?;
        if !line.is_empty() {
            text += &line;
            text += "\n";
            continue;
        }
        let steps = program::from_text(&text)?;
        text.clear();
        let end = run_in_fork(steps, trace);
        answer(&format!("{}{end}.\n", trace.take())).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Runs a program; says how it ended, if not well.
fn run_in_fork(steps: Vec<Step>, trace: &'static Trace) -> String {
    // SAFETY: this process has only one thread, so that the child may do anything.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "can't fork: {}", io::Error::last_os_error());
    if child == 0 {
        std::panic::set_hook(Box::new(|panic| {
            eprintln!("{panic}");
            std::process::abort();
        }));
        // SAFETY: the process may end by this signal, and without more ado.
        unsafe {
            libc::alarm(SECONDS);
            run(steps, trace);
            libc::_exit(0);
        }
    }
    let mut status = 0;
    // SAFETY: the child is ours.
    unsafe { libc::waitpid(child, &mut status, 0) };
    if libc::WIFSIGNALED(status) {
        match libc::WTERMSIG(status) {
            libc::SIGALRM => "it hung\n".to_owned(),
            signal => format!("it was ended by signal {signal}\n"),
        }
    } else if libc::WEXITSTATUS(status) != 0 {
        format!("it ended with status {}\n", libc::WEXITSTATUS(status))
    } else {
        String::new()
    }
}

fn run(steps: Vec<Step>, trace: &'static Trace) {
    let others = (1..THREADS).filter(|&thread| steps.iter().any(|step| step.thread == thread));
    let others = others.collect::<Vec<_>>();
    *RUN.lock().expect("nobody else is there") = Some(Run {
        steps,
        next: 0,
        trace,
        variables: Default::default(),
        slots: Default::default(),
        live: Default::default(),
        jobs: Vec::new(),
        names: HashMap::new(),
        starting: Default::default(),
        fds: 0,
        threads: HashMap::new(),
        busy: None,
        ending: None,
    });
    with(|run| {
        for other in others {
            let handle = thread::spawn(move || {
                THREAD.set(other);
                interpret(None);
            });
            run.threads.insert(other, handle);
        }
    });
    interpret(None);
    let handles = with(|run| std::mem::take(&mut run.threads));
    for handle in handles.into_values() {
        handle.join().expect("a panic ends the process");
    }
}

/// Waits until the next step is this thread's, and takes it; `None` at the program's end.
fn take_turn() -> Option<Op> {
    let me = THREAD.get();
    let mut lock = RUN.lock().expect("a panic ends the process");
    let run = lock.as_mut().expect("a program runs");
    if run.busy == Some(me) {
        run.busy = None;
        TURN.notify_all();
    }
    loop {
        let run = lock.as_mut().expect("a program runs");
        let step = run.steps.get(run.next)?;
        if step.thread == me
            && let Some(handle) = run
                .ending
                .take()
                .and_then(|ended| run.threads.remove(&ended))
        {
            // What a thread does at its end is over before the next step.
            drop(lock);
            handle.join().expect("a panic ends the process");
            lock = RUN.lock().expect("a panic ends the process");
            lock.as_mut().expect("a program runs").busy = None;
        } else if step.thread == me && run.busy.is_none() {
            let op = step.op.clone();
            STEP.set(run.next);
            run.next += 1;
            run.busy = Some(me);
            if op == Op::EndThread {
                run.ending = Some(me);
                TURN.notify_all();
            }
            return Some(op);
        } else {
            lock = TURN.wait(lock).expect("a panic ends the process");
        }
    }
}

/// Takes steps until the job returns or the thread ends.
fn interpret(job: Option<Given>) -> i32 {
    while let Some(op) = take_turn() {
        let step = STEP.get();
        match op {
            Op::Return(result) => {
                if job.is_some() {
                    return result;
                }
            }
            Op::EndThread => return 0,
            op => take(step, op),
        }
        emit_errors(step);
    }
    0
}

fn emit(step: usize, event: &Event) {
    with(|run| run.trace.push(&event.line(step)));
}

fn code(step: usize, code: i32) {
    emit(step, &Event::Code(code));
}

/// Shows what is on the error queue.
fn emit_errors(step: usize) {
    loop {
        // SAFETY: it has no conditions.
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

fn name(handle: Pointer) -> Job {
    match handle.addr() {
        0 => Job::None,
        handle => with(|run| {
            run.names
                .get(&handle)
                .map_or(Job::Unknown, |&job| Job::J(job))
        }),
    }
}

fn ctx_name(ctx: Pointer) -> Ctx {
    if ctx.is_null() {
        return Ctx::None;
    }
    with(|run| {
        let is_it = |&at: &usize| run.live[at] && run.slots[at] == ctx.addr();
        let at = (0..CONTEXTS.into()).find(is_it);
        at.map_or(Ctx::Unknown, |at| Ctx::C(at as u8))
    })
}

fn current() -> Job {
    // SAFETY: it has no conditions.
    name(unsafe { (functions().jobs.current_job)() })
}

fn pointer(address: usize) -> Pointer {
    ptr::with_exposed_provenance_mut(address)
}

/// A key, or data, which are never followed.
fn token(number: u8) -> Pointer {
    ptr::without_provenance_mut(number.into())
}

fn variable(var: u8) -> Pointer {
    pointer(with(|run| run.variables[usize::from(var)]))
}

fn set_variable(var: u8, handle: Pointer) {
    with(|run| run.variables[usize::from(var)] = handle.expose_provenance());
}

fn slot(slot: Slot) -> Pointer {
    match slot {
        Slot::C(slot) => pointer(with(|run| run.slots[usize::from(slot)])),
        Slot::Null => ptr::null_mut(),
    }
}

/// The address of a place, or NULL where that is asked for.
fn unless<T>(null: bool, place: &mut T) -> *mut T {
    if null { ptr::null_mut() } else { place }
}

fn take(step: usize, op: Op) {
    let Functions { jobs, .. } = functions();
    // SAFETY: the model lets through only what a library can bear, or what rsasync promises to.
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
                emit(
                    step,
                    &Event::Pause {
                        code,
                        current: current(),
                    },
                );
            }
            Op::Block => (jobs.block_pause)(),
            Op::Unblock => (jobs.unblock_pause)(),
            Op::Capable => code(step, (jobs.is_capable)()),
            Op::InitThread { max, init } => {
                code(step, (jobs.init_thread)(max as usize, init as usize));
            }
            Op::CleanupThread => (jobs.cleanup_thread)(),
            Op::Copy { from, to } => set_variable(to, variable(from)),
            Op::CurrentJob { to } => {
                let handle = (jobs.current_job)();
                emit(step, &Event::Current(name(handle)));
                set_variable(to, handle);
            }
            Op::Handle { job, to } => {
                let handle = with(|run| run.jobs.get(job).copied());
                set_variable(to, pointer(handle.unwrap_or(0)));
            }
            Op::Forget { var } => set_variable(var, ptr::null_mut()),
            Op::WaitCtxOf { var } => {
                let ctx = (jobs.wait_ctx)(variable(var));
                emit(step, &Event::WaitCtx(ctx_name(ctx)));
            }
            Op::SetDefault(default) => {
                set_default(step, functions().contexts[usize::from(default)]);
            }
            Op::Default => set_default(step, 0),
            Op::SetRounding(mode) => crate::machine::set_rounding(mode),
            Op::Rounding => code(step, crate::machine::rounding()),
            Op::SetMask(mask) => crate::machine::set_mask(mask),
            Op::Mask => code(step, crate::machine::mask().into()),
            Op::ThreadStop => (functions().libcrypto.thread_stop)(),
            op => take_with_context(step, op),
        }
    }
}

/// # Safety
/// The job's handle and the context are valid for the library.
unsafe fn start(step: usize, var: u8, ctx: Slot, args: Args, null: Null) {
    let (mut bytes, size) = match args {
        Args::Bytes(size) => ((0..size).map(|at| pattern(step, at.into())).collect(), size),
        Args::Null(size) => (Vec::new(), size),
    };
    let mut handle = variable(var);
    let mut result = UNTOUCHED;
    let args: Pointer = match args {
        Args::Bytes(_) => bytes.as_mut_ptr().cast(),
        Args::Null(_) => ptr::null_mut(),
    };
    let given = Given {
        step,
        at: args.addr(),
        size: bytes.len(),
    };
    with(|run| run.starting[usize::from(THREAD.get())] = Some(given));
    // SAFETY: the caller's promise.
    let code = unsafe {
        (functions().jobs.start_job)(
            unless(null == Null::First, &mut handle),
            slot(ctx),
            unless(null == Null::Second, &mut result),
            (null != Null::Third).then_some(job),
            args,
            size.into(),
        )
    };
    set_variable(var, handle);
    emit(
        step,
        &Event::Start {
            code,
            result,
            handle: name(handle),
            current: current(),
        },
    );
    emit_errors(step);
}

/// What is handed over at a step: the byte at this place.
fn pattern(step: usize, at: usize) -> u8 {
    (step * 31 + at * 7 + 1) as u8
}

/// What every job runs.
extern "C" fn job(args: Pointer) -> c_int {
    // SAFETY: it has no conditions.
    let handle = unsafe { (functions().jobs.current_job)() }.expose_provenance();
    let (given, job) = with(|run| {
        let given = run.starting[usize::from(THREAD.get())].take();
        let job = run.jobs.len();
        run.jobs.push(handle);
        if handle != 0 {
            run.names.insert(handle, job);
        }
        (given, job)
    });
    let Some(given) = given else {
        emit(
            STEP.get(),
            &Event::Enter {
                job: Job::Unknown,
                args: "started out of turn",
            },
        );
        return 0;
    };
    // SAFETY: a job gets as many bytes as its starter gave, and keeps them until it returns.
    let see = || unsafe { arguments(args, given) };
    emit(
        given.step,
        &Event::Enter {
            job: Job::J(job),
            args: see(),
        },
    );
    let at_first = see();
    let result = interpret(Some(given));
    if see() != at_first {
        emit(
            STEP.get(),
            &Event::Enter {
                job: Job::J(job),
                args: "changed later",
            },
        );
    }
    result
}

/// What a job got.
///
/// # Safety
/// `args` is NULL or has as many bytes as were given.
unsafe fn arguments(args: Pointer, given: Given) -> &'static str {
    if args.is_null() {
        return "none";
    }
    if args.addr() == given.at {
        return "not copied";
    }
    if !args.addr().is_multiple_of(16) {
        return "not aligned";
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(args.cast::<u8>(), given.size) };
    let right = bytes
        .iter()
        .enumerate()
        .all(|(at, &byte)| byte == pattern(given.step, at));
    if right { "copied" } else { "wrong" }
}

/// # Safety
/// As for [`take`].
unsafe fn take_with_context(step: usize, op: Op) {
    let Functions { jobs, .. } = functions();
    // SAFETY: the caller's promise; outputs are places of ours, lists have room for all.
    unsafe {
        match op {
            Op::New(at) => {
                let ctx = (jobs.new)();
                with(|run| {
                    run.slots[usize::from(at)] = ctx.expose_provenance();
                    run.live[usize::from(at)] = true;
                });
                code(step, (!ctx.is_null()).into());
            }
            Op::Free(ctx) => {
                (jobs.free)(slot(ctx));
                if let Slot::C(at) = ctx {
                    with(|run| run.live[usize::from(at)] = false);
                }
            }
            Op::SetFd {
                ctx,
                key,
                fd,
                data,
                cleanup,
            } => {
                with(|run| run.fds += 1);
                let cleanup = match cleanup {
                    Cleanup::Nothing => None,
                    Cleanup::Plain => Some(cleaned_up as _),
                    Cleanup::Reads => Some(cleanup_that_reads as _),
                    Cleanup::Clears => Some(cleanup_that_clears as _),
                };
                let set = (jobs.set_wait_fd)(slot(ctx), token(key), fd, token(data), cleanup);
                code(step, set);
            }
            Op::SetFds {
                ctx,
                key,
                fd,
                count,
            } => {
                with(|run| run.fds += usize::from(count));
                let (ctx, key) = (slot(ctx), token(key));
                let set =
                    |at| (jobs.set_wait_fd)(ctx, key, fd + i32::from(at), ptr::null_mut(), None);
                code(step, (0..count).map(set).sum());
            }
            Op::GetFd { ctx, key, null } => {
                let (mut fd, mut data) = (UNTOUCHED, pointer(UNTOUCHED as usize));
                let code = (jobs.fd)(
                    slot(ctx),
                    token(key),
                    unless(null == Null::First, &mut fd),
                    unless(null == Null::Second, &mut data),
                );
                emit(
                    step,
                    &Event::Fd {
                        code,
                        fd,
                        data: data.addr(),
                    },
                );
            }
            Op::AllFds { ctx, list, null } => {
                let mut fds = List::new(list);
                let count = unless(null == Null::First, &mut fds.count);
                let code = (jobs.all_fds)(slot(ctx), fds.list.as_mut_ptr_or_null(), count);
                let (count, fds) = fds.take(step);
                emit(step, &Event::Fds { code, count, fds });
            }
            Op::ChangedFds {
                ctx,
                added,
                deleted,
                null,
            } => {
                let (mut added, mut deleted) = (List::new(added), List::new(deleted));
                let code = (jobs.changed_fds)(
                    slot(ctx),
                    added.list.as_mut_ptr_or_null(),
                    unless(null == Null::First, &mut added.count),
                    deleted.list.as_mut_ptr_or_null(),
                    unless(null == Null::Second, &mut deleted.count),
                );
                let (added, deleted) = (added.take(step), deleted.take(step));
                emit(
                    step,
                    &Event::Changed {
                        code,
                        added,
                        deleted,
                    },
                );
            }
            Op::ClearFd { ctx, key } => code(step, (jobs.clear_fd)(slot(ctx), token(key))),
            op => {
                if let Some(callbacks) = &functions().callbacks {
                    take_with_callbacks(step, op, callbacks);
                }
            }
        }
    }
}

/// # Safety
/// As for [`take`].
unsafe fn take_with_callbacks(step: usize, op: Op, callbacks: &Callbacks) {
    // SAFETY: the caller's promise; outputs are places of ours.
    unsafe {
        match op {
            Op::SetCallback { ctx, function, arg } => {
                let function = function.then_some(callback as CallbackFn);
                code(step, (callbacks.set)(slot(ctx), function, token(arg)));
            }
            Op::Callback { ctx, null } => {
                let (mut function, mut arg) = (None, ptr::null_mut());
                let code = (callbacks.get)(
                    slot(ctx),
                    unless(null == Null::First, &mut function),
                    unless(null == Null::Second, &mut arg),
                );
                let called_with = function.map(|function: CallbackFn| function(arg) as usize);
                emit(step, &Event::Callback { code, called_with });
            }
            Op::SetStatus { ctx, status } => code(step, (callbacks.set_status)(slot(ctx), status)),
            Op::Status { ctx } => code(step, (callbacks.status)(slot(ctx))),
            op => unreachable!("{op:?} is taken elsewhere"),
        }
    }
}

/// Returns its argument.
extern "C" fn callback(arg: Pointer) -> c_int {
    arg.addr() as c_int
}

extern "C" fn cleaned_up(ctx: Pointer, key: *const c_void, fd: c_int, data: Pointer) {
    let ctx = ctx_name(ctx);
    let (key, data) = (key.addr(), data.addr());
    emit(STEP.get(), &Event::Cleanup { ctx, key, fd, data });
}

extern "C" fn cleanup_that_reads(ctx: Pointer, key: *const c_void, fd: c_int, data: Pointer) {
    cleaned_up(ctx, key, fd, data);
    let Functions { jobs, .. } = functions();
    let (mut fd, mut fds) = (UNTOUCHED, List::new(true));
    // SAFETY: the context is readable still; the list has room for all.
    unsafe {
        (jobs.fd)(ctx, key, &mut fd, ptr::null_mut());
        (jobs.all_fds)(ctx, fds.list.as_mut_ptr_or_null(), &mut fds.count);
    }
    let (_, fds) = fds.take(STEP.get());
    emit(STEP.get(), &Event::CalledBack { code: fd, fds });
}

extern "C" fn cleanup_that_clears(ctx: Pointer, key: *const c_void, fd: c_int, data: Pointer) {
    cleaned_up(ctx, key, fd, data);
    // SAFETY: the context can still be used.
    let cleared = unsafe { (functions().jobs.clear_fd)(ctx, key) };
    emit(STEP.get(), &Event::Cleared(cleared));
}

/// A list of descriptors to be filled in, or NULL, and their number.
struct List {
    list: Option<Vec<c_int>>,
    count: usize,
}

impl List {
    fn new(wanted: bool) -> Self {
        const MORE: usize = 8;
        let room = with(|run| run.fds) + MORE;
        Self {
            list: wanted.then(|| vec![UNTOUCHED; room]),
            count: UNTOUCHED as usize,
        }
    }

    fn take(mut self, step: usize) -> (usize, Vec<c_int>) {
        let mut fds = self.list.take().unwrap_or_default();
        let filled = if self.count == UNTOUCHED as usize {
            0
        } else {
            self.count
        };
        if fds.iter().skip(filled).any(|&fd| fd != UNTOUCHED) {
            emit(step, &Event::Overrun);
        }
        fds.truncate(filled);
        (self.count, fds)
    }
}

trait OrNull {
    fn as_mut_ptr_or_null(&mut self) -> *mut c_int;
}

impl OrNull for Option<Vec<c_int>> {
    fn as_mut_ptr_or_null(&mut self) -> *mut c_int {
        self.as_mut().map_or(ptr::null_mut(), Vec::as_mut_ptr)
    }
}

fn set_default(step: usize, ctx: usize) {
    let Some(set) = functions().set_default else {
        return;
    };
    // SAFETY: NULL, which changes nothing, or a context that is never freed.
    let before = unsafe { set(pointer(ctx)) }.addr();
    let number = functions().contexts.iter().position(|&ctx| ctx == before);
    code(step, number.map_or(-1, |number| number as i32));
}
