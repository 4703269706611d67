//! The contract as a model: the events of each step of a program, and which steps no program may
//! take, because even rsasync promises nothing there (such as the use of a freed wait context).
//!
//! The model shares nothing with the library's implementation: jobs are records, and the jobs that
//! run on a thread, each started or resumed by the one below, are a list.

mod jobs;
mod wait_ctxs;

use crate::event::{Event, Job};
use crate::library::Features;
use crate::program::{CONTEXTS, CtxArg, FORKS, Op, Step, THREADS, VARIABLES};
use crate::readme_table::Row;
use jobs::{JobObject, State, Thread};
use wait_ctxs::WaitCtx;

/// The function codes of 1.1, `ASYNC_F_*`; 0 where it has none.
mod func {
    pub const INIT_THREAD: u32 = 101;
    pub const START_JOB: u32 = 105;
    pub const SET_WAIT_FD: u32 = 106;
    pub const NONE: u32 = 0;
}

#[derive(Clone)]
pub struct Model<'a> {
    features: &'a Features,
    threads: [Thread; THREADS as usize],
    objects: Vec<JobObject>,
    /// The object of each job, in the order of their starts.
    jobs: Vec<usize>,
    /// The variables for job handles: NULL, or a job.
    job_vars: [Option<usize>; VARIABLES as usize],
    contexts: Vec<WaitCtx>,
    /// The variables for wait contexts: NULL, or a place in `contexts`.
    ctx_vars: [Option<usize>; CONTEXTS as usize],
    /// A call was made by which libcrypto sets up what it needs for jobs.
    set_up: bool,

    /// The step at hand, its thread, and its outcome as far as it is known.
    step: usize,
    thread: usize,
    outcome: Outcome,
}

/// The effects of a step that can be seen.
#[derive(Clone, Default)]
pub struct Outcome {
    /// Lines of the trace.
    pub events: Vec<String>,
    /// Rows of the README's table that the step reaches.
    pub rows: Vec<Row>,
}

/// What a running job must undo, so that no row of the table is reached by its return.
pub struct LeftOpen {
    pub blocks: u32,
    pub rounding_to_restore: Option<u8>,
}

enum Reason {
    InvalidPoolSize,
    Null,
    ShouldNotHaveBeenCalled,
}

/// `None` for a step that no program may take.
type Allowed<T> = Option<T>;

impl<'a> Model<'a> {
    pub fn new(features: &'a Features) -> Self {
        Self {
            features,
            threads: Default::default(),
            objects: Vec::new(),
            jobs: Vec::new(),
            job_vars: Default::default(),
            contexts: Vec::new(),
            ctx_vars: Default::default(),
            set_up: false,
            step: 0,
            thread: 0,
            outcome: Outcome::default(),
        }
    }

    /// Takes a step, the program's step of this number.
    pub fn take(&mut self, number: usize, step: &Step) -> Allowed<Outcome> {
        self.step = number;
        self.thread = step.thread.into();
        self.apply(&step.op)?;
        Some(std::mem::take(&mut self.outcome))
    }

    pub fn jobs_started(&self) -> usize {
        self.jobs.len()
    }

    /// Whether the job is paused, and this thread can resume it.
    pub fn is_paused(&self, job: usize, thread: u8) -> bool {
        let object = &self.objects[self.jobs[job]];
        object.last_job == job && object.state == State::Paused && object.owner == thread.into()
    }

    /// Whether the variable has a wait context that is not freed.
    pub fn holds_ctx(&self, variable: u8) -> bool {
        let ctx = self.ctx_vars[usize::from(variable)];
        ctx.is_some_and(|ctx| !self.contexts[ctx].freed)
    }

    /// What the innermost running job of the thread must undo; `None` outside jobs.
    pub fn left_open(&self, thread: u8) -> Option<LeftOpen> {
        let thread = &self.threads[usize::from(thread)];
        let object = &self.objects[*thread.running.last()?];
        let callers = object.callers_rounding;
        Some(LeftOpen {
            blocks: object.blocks,
            rounding_to_restore: (thread.rounding != callers).then_some(callers),
        })
    }

    // Shared by the submodules.

    fn this_thread(&mut self) -> &mut Thread {
        &mut self.threads[self.thread]
    }

    /// The innermost running job of the thread.
    fn running(&self) -> Option<usize> {
        self.threads[self.thread].running.last().copied()
    }

    fn current(&self) -> Job {
        self.name_of(self.running())
    }

    fn name_of(&self, handle: Option<usize>) -> Job {
        handle.map_or(Job::None, |object| Job::J(self.objects[object].last_job))
    }

    fn reaches(&mut self, row: Row) {
        self.outcome.rows.push(row);
    }

    fn event(&mut self, event: Event) {
        self.event_of(self.step, event);
    }

    /// An event of an earlier step, whose call returns only now.
    fn event_of(&mut self, step: usize, event: Event) {
        self.outcome.events.push(event.line(step));
    }

    fn code(&mut self, code: i32) {
        self.event(Event::Code(code));
    }

    /// The event of an error that is queued by the function with this code.
    fn error(&mut self, reason: Reason, func: u32) {
        const ERR_LIB_ASYNC: u32 = 51;
        let old = self.features.function_codes;
        let reason = match reason {
            Reason::InvalidPoolSize => 103,
            Reason::Null => [786_690, 67][usize::from(old)],
            Reason::ShouldNotHaveBeenCalled => [786_689, 66][usize::from(old)],
        };
        let func = if old { func } else { func::NONE };
        let lib = ERR_LIB_ASYNC;
        self.event(Event::Error { lib, func, reason });
    }

    /// A pointer is NULL that must not be: the event of the refusal, and the error.
    fn refuse_null(&mut self, func: u32, refusal: Event) {
        self.reaches(Row::Nulls);
        self.event(refusal);
        self.error(Reason::Null, func);
    }

    /// The wait context that is passed; an inner `None` is NULL.
    fn ctx(&self, ctx: CtxArg) -> Allowed<Option<usize>> {
        let CtxArg::C(variable) = ctx else {
            return Some(None);
        };
        match self.ctx_vars[usize::from(variable)] {
            Some(ctx) if self.contexts[ctx].freed => None,
            ctx => Some(ctx),
        }
    }

    /// The same for a call that refuses NULL: an inner `None` has been refused.
    fn ctx_or_refusal(&mut self, ctx: CtxArg, func: u32, refusal: Event) -> Allowed<Option<usize>> {
        let ctx = self.ctx(ctx)?;
        if ctx.is_none() {
            self.refuse_null(func, refusal);
        }
        Some(ctx)
    }

    /// The object of a job that has been started and has not finished; for others the handle is
    /// stale.
    fn live(&self, job: usize) -> Option<usize> {
        let object = self.jobs[job];
        let JobObject {
            state, last_job, ..
        } = self.objects[object];
        let is_live = last_job == job && matches!(state, State::Running | State::Paused);
        is_live.then_some(object)
    }

    fn apply(&mut self, op: &Op) -> Allowed<()> {
        if self.threads[self.thread].ended {
            return None;
        }
        if *op == Op::Pause && !self.set_up {
            self.reaches(Row::PauseFirst);
        }
        self.set_up |= matches!(
            op,
            // After a pause the executor asks for the current job, which sets libcrypto up.
            Op::Start { .. }
                | Op::CleanupThread
                | Op::GetCurrentJob { .. }
                | Op::InHandler { .. }
                | Op::PlugIn
                | Op::Block
                | Op::Pause
        );
        match *op {
            Op::Start {
                var,
                ctx,
                args,
                null,
            } => self.start(var, ctx, args, null)?,
            Op::Pause => self.pause(),
            Op::Return(result) => self.finish(result)?,
            Op::Block => {
                if let Some(object) = self.running() {
                    self.objects[object].blocks += 1;
                }
            }
            Op::Unblock => {
                if let Some(object) = self.running() {
                    let blocks = &mut self.objects[object].blocks;
                    *blocks = blocks.saturating_sub(1);
                }
            }
            Op::IsCapable => self.code(1),
            Op::InitThread { max, init } => self.init_thread(max, init)?,
            Op::CleanupThread => self.cleanup_thread(),
            Op::EndThread => self.end_thread()?,
            Op::Copy { from, to } => {
                self.job_vars[usize::from(to)] = self.job_vars[usize::from(from)];
            }
            Op::GetCurrentJob { to } => {
                self.event(Event::Current(self.current()));
                let running = self.running();
                self.job_vars[usize::from(to)] =
                    running.map(|object| self.objects[object].last_job);
            }
            Op::HandleOf { job, to } => {
                (job < self.jobs.len()).then_some(())?;
                self.job_vars[usize::from(to)] = Some(job);
            }
            Op::SetNull { var } => self.job_vars[usize::from(var)] = None,
            Op::GetWaitCtx { var } => {
                let ctx = self.wait_ctx_of(var);
                self.event(Event::WaitCtx(ctx));
            }
            Op::InHandler { var, ctx, status } => self.in_handler(var, ctx, status)?,
            Op::ForkAtOnce => {
                self.reaches(Row::Fork);
                self.code(FORKS);
            }
            Op::PlugIn => self.plug_in(),
            Op::SetLibCtx(lib_ctx) => {
                self.features.lib_ctxs.then_some(())?;
                let before = std::mem::replace(&mut self.this_thread().lib_ctx, lib_ctx);
                self.code(before.into());
            }
            Op::GetLibCtx => {
                self.features.lib_ctxs.then_some(())?;
                self.code(self.threads[self.thread].lib_ctx.into());
            }
            Op::SetRounding(mode) => self.this_thread().rounding = mode,
            Op::GetRounding => self.code(self.threads[self.thread].rounding.into()),
            Op::SetMask(blocked) => self.this_thread().signal_blocked = blocked,
            Op::GetMask => self.code(self.threads[self.thread].signal_blocked.into()),
            Op::ThreadStop => {
                if self.threads[self.thread].has_pool {
                    self.reaches(Row::ThreadStop);
                }
            }
            ref op => self.apply_to_ctx(op)?,
        }
        Some(())
    }
}
