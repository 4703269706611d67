//! The contract as a model: what each step of a program must do, and which steps none may take.
//!
//! It has nothing to do with how the library works: jobs are records, and whoever runs on a
//! thread is the top of a stack of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{self, ERR, Event, FINISH, Job, NO_JOBS, PAUSE, UNTOUCHED};
use crate::expected::Row;
use crate::program::{Args, CONTEXTS, Cleanup, Null, Op, Slot, Step, THREADS, VARIABLES};

/// What the libcrypto has that takes part.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Features {
    pub version: String,
    /// Error codes have function codes, as in 1.1.
    pub function_codes: bool,
    pub callbacks: bool,
    pub default_context: bool,
}

/// A program as it is run: without the steps that no program may take, and ended in order.
pub struct Checked {
    pub steps: Vec<Step>,
    /// What the contract wants.
    pub trace: Vec<String>,
    /// How often it came where libcrypto differs.
    pub rows: BTreeMap<Row, usize>,
}

/// Makes a program fit to be run, and tells what comes of it. Steps that reach a row for which
/// `avoid` is true are left out, too.
pub fn check(steps: &[Step], features: &Features, avoid: impl Fn(Row) -> bool) -> Checked {
    let mut run = Run {
        model: Model::new(features),
        avoid,
        checked: Checked {
            steps: Vec::new(),
            trace: Vec::new(),
            rows: BTreeMap::new(),
        },
    };
    for step in steps {
        run.take(step.clone());
    }
    run.end();
    run.checked
}

struct Run<'a, Avoid> {
    model: Model<'a>,
    avoid: Avoid,
    checked: Checked,
}

impl<Avoid: Fn(Row) -> bool> Run<'_, Avoid> {
    /// Takes the step if it may be taken.
    fn take(&mut self, step: Step) -> bool {
        let mut model = self.model.clone();
        model.step = self.checked.steps.len();
        model.thread = step.thread.into();
        if model.apply(&step.op).is_none() || model.rows.iter().any(|&row| (self.avoid)(row)) {
            return false;
        }
        for row in model.rows.drain(..) {
            *self.checked.rows.entry(row).or_default() += 1;
        }
        self.checked.trace.append(&mut model.trace);
        self.checked.steps.push(step);
        self.model = model;
        true
    }

    /// Lets every job come to its end, then frees what there is.
    fn end(&mut self) {
        for thread in 0..THREADS {
            self.return_all(thread);
            for job in 0..self.model.jobs.len() {
                let body = self.model.jobs[job];
                let body = &self.model.bodies[body];
                if body.job != job || body.state != State::Paused || body.owner != thread.into() {
                    continue;
                }
                let op = |op| Step { thread, op };
                self.take(op(Op::Handle { job, to: 0 }));
                self.take(op(Op::Start {
                    var: 0,
                    ctx: Slot::Null,
                    args: Args::Null(0),
                    null: Null::Nothing,
                }));
                self.return_all(thread);
            }
        }
        for ctx in 0..CONTEXTS {
            let made = self.model.slots[usize::from(ctx)];
            if made.is_some_and(|made| !self.model.contexts[made].freed) {
                self.take(Step {
                    thread: 0,
                    op: Op::Free(Slot::C(ctx)),
                });
            }
        }
        for thread in 0..THREADS {
            if self.checked.steps.iter().any(|step| step.thread == thread) {
                self.take(Step {
                    thread,
                    op: Op::CleanupThread,
                });
            }
        }
    }

    fn return_all(&mut self, thread: u8) {
        while let Some(&body) = self.model.threads[usize::from(thread)].stack.last() {
            let op = |op| Step { thread, op };
            // In such an order that no row of the table is reached by it.
            let Body {
                blocked,
                callers_rounding,
                ..
            } = self.model.bodies[body];
            for _ in 0..blocked {
                self.take(op(Op::Unblock));
            }
            if self.model.threads[usize::from(thread)].rounding != callers_rounding {
                self.take(op(Op::SetRounding(callers_rounding)));
            }
            if !self.take(op(Op::Return(0))) {
                return;
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Running,
    Paused,
    Freed,
}

/// What a handle denotes.
#[derive(Clone)]
struct Body {
    state: State,
    owner: usize,
    /// The last job that it was.
    job: usize,
    ctx: Option<usize>,
    blocked: u32,
    default: u8,
    rounding: u8,
    /// Of whoever started or resumed it last.
    callers_default: u8,
    callers_rounding: u8,
    /// The signal mask and the rounding mode of when it was made, until it is entered.
    made_with: Option<(bool, u8)>,
    /// The variable and the step of the `ASYNC_start_job` that runs it.
    var: u8,
    start: usize,
    /// The step of the `ASYNC_pause_job` that it is in.
    pause: usize,
}

#[derive(Clone, Default)]
struct Thread {
    ended: bool,
    has_pool: bool,
    pool: Vec<usize>,
    limit: u64,
    made: u64,
    stack: Vec<usize>,
    default: u8,
    rounding: u8,
    mask: bool,
}

#[derive(Clone)]
struct Context {
    freed: bool,
    /// Another was made since it was freed.
    stale: bool,
    /// The newest last.
    entries: Vec<Entry>,
    callback: Option<u8>,
    status: i32,
    variable: u8,
}

#[derive(Clone)]
struct Entry {
    key: u8,
    fd: i32,
    data: u8,
    cleanup: Cleanup,
    mark: Mark,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    Added,
    Deleted,
}

#[derive(Clone)]
struct Model<'a> {
    features: &'a Features,
    threads: [Thread; THREADS as usize],
    bodies: Vec<Body>,
    /// The body of each job, in the order of their starts.
    jobs: Vec<usize>,
    variables: [Option<usize>; VARIABLES as usize],
    contexts: Vec<Context>,
    slots: [Option<usize>; CONTEXTS as usize],
    /// A call was made by which libcrypto sets up what it needs for jobs.
    set_up: bool,
    // Of the step at hand.
    step: usize,
    thread: usize,
    trace: Vec<String>,
    rows: Vec<Row>,
}

enum Reason {
    InvalidPoolSize,
    Null,
    ShouldNotHaveBeenCalled,
}

/// A step that no program may take is `None`.
type Valid<T> = Option<T>;

impl<'a> Model<'a> {
    fn new(features: &'a Features) -> Self {
        Self {
            features,
            threads: Default::default(),
            bodies: Vec::new(),
            jobs: Vec::new(),
            variables: Default::default(),
            contexts: Vec::new(),
            slots: Default::default(),
            set_up: false,
            step: 0,
            thread: 0,
            trace: Vec::new(),
            rows: Vec::new(),
        }
    }

    fn me(&mut self) -> &mut Thread {
        &mut self.threads[self.thread]
    }

    fn running(&self) -> Option<usize> {
        self.threads[self.thread].stack.last().copied()
    }

    fn current(&self) -> Job {
        self.running().map_or(Job::None, |body| self.name(body))
    }

    fn name(&self, body: usize) -> Job {
        Job::J(self.bodies[body].job)
    }

    fn name_of(&self, handle: Option<usize>) -> Job {
        handle.map_or(Job::None, |body| self.name(body))
    }

    fn event(&mut self, event: Event) {
        self.event_of(self.step, event);
    }

    fn event_of(&mut self, step: usize, event: Event) {
        self.trace.push(event.line(step));
    }

    fn code(&mut self, code: i32) {
        self.event(Event::Code(code));
    }

    fn error(&mut self, reason: Reason, func: u32) {
        let old = self.features.function_codes;
        let reason = match reason {
            Reason::InvalidPoolSize => 103,
            Reason::Null => [786_690, 67][usize::from(old)],
            Reason::ShouldNotHaveBeenCalled => [786_689, 66][usize::from(old)],
        };
        let func = if old { func } else { 0 };
        self.event(Event::Error {
            lib: 51,
            func,
            reason,
        });
    }

    /// The context in the variable; an inner `None` is NULL.
    fn context(&self, slot: Slot) -> Valid<Option<usize>> {
        let Slot::C(variable) = slot else {
            return Some(None);
        };
        let ctx = self.slots[usize::from(variable)];
        match ctx {
            Some(ctx) if self.contexts[ctx].freed => None,
            ctx => Some(ctx),
        }
    }

    /// The same for a call that refuses NULL.
    fn context_or_refusal(
        &mut self,
        slot: Slot,
        func: u32,
        refusal: Event,
    ) -> Valid<Option<usize>> {
        let ctx = self.context(slot)?;
        if ctx.is_none() {
            self.refuse_null(func, refusal);
        }
        Some(ctx)
    }

    fn refuse_null(&mut self, func: u32, refusal: Event) {
        self.rows.push(Row::Nulls);
        self.event(refusal);
        self.error(Reason::Null, func);
    }

    fn handle(&self, var: u8) -> Valid<Option<usize>> {
        match self.variables[usize::from(var)] {
            Some(body) if self.bodies[body].state == State::Freed => None,
            handle => Some(handle),
        }
    }

    fn apply(&mut self, op: &Op) -> Valid<()> {
        if self.threads[self.thread].ended {
            return None;
        }
        if *op == Op::Pause && !self.set_up {
            self.rows.push(Row::PauseFirst);
        }
        self.set_up |= matches!(
            op,
            // After a pause the trace tells which job is current, for which it is asked.
            Op::Start { .. } | Op::CleanupThread | Op::CurrentJob { .. } | Op::Block | Op::Pause
        );
        match *op {
            Op::Start {
                var,
                ctx,
                args,
                null,
            } => self.start(var, ctx, args, null)?,
            Op::Pause => self.pause(),
            Op::Return(result) => self.end_job(result)?,
            Op::Block => {
                if let Some(body) = self.running() {
                    self.bodies[body].blocked += 1;
                }
            }
            Op::Unblock => {
                if let Some(body) = self.running() {
                    let blocked = &mut self.bodies[body].blocked;
                    *blocked = blocked.saturating_sub(1);
                }
            }
            Op::Capable => self.code(1),
            Op::InitThread { max, init } => self.init_thread(max, init)?,
            Op::CleanupThread => {
                if self.has_live_jobs() {
                    self.rows.push(Row::CleanupWithJobs);
                }
                self.free_pool();
            }
            Op::EndThread => {
                if self.thread == 0 || self.running().is_some() {
                    return None;
                }
                if self.has_live_jobs() {
                    self.rows.push(Row::EndWithJobs);
                }
                self.free_pool();
                self.me().ended = true;
            }
            Op::Copy { from, to } => {
                self.variables[usize::from(to)] = self.variables[usize::from(from)];
            }
            Op::CurrentJob { to } => {
                self.event(Event::Current(self.current()));
                self.variables[usize::from(to)] = self.running();
            }
            Op::Handle { job, to } => {
                self.variables[usize::from(to)] = Some(*self.jobs.get(job)?);
            }
            Op::Forget { var } => self.variables[usize::from(var)] = None,
            Op::WaitCtxOf { var } => self.wait_ctx_of(var)?,
            Op::New(variable) => self.new_context(variable)?,
            Op::Free(slot) => self.free_context(slot)?,
            Op::SetFd {
                ctx,
                key,
                fd,
                data,
                cleanup,
            } => {
                let Some(ctx) = self.context_or_refusal(ctx, 106, Event::Code(0))? else {
                    return Some(());
                };
                self.add(ctx, key, fd, data, cleanup);
                self.code(1);
            }
            Op::SetFds {
                ctx,
                key,
                fd,
                count,
            } => {
                let ctx = self.context(ctx)??;
                for at in 0..count {
                    self.add(ctx, key, fd + i32::from(at), 0, Cleanup::Nothing);
                }
                self.code(count.into());
            }
            Op::GetFd { ctx, key, null } => self.fd(ctx, key, null)?,
            Op::AllFds { ctx, list, null } => self.all_fds(ctx, list, null)?,
            Op::ChangedFds {
                ctx,
                added,
                deleted,
                null,
            } => self.changed_fds(ctx, added, deleted, null)?,
            Op::ClearFd { ctx, key } => {
                let Some(ctx) = self.context_or_refusal(ctx, 0, Event::Code(0))? else {
                    return Some(());
                };
                let cleared = self.contexts[ctx].clear(key);
                self.code(cleared.into());
            }
            Op::SetCallback { ctx, function, arg } => {
                if !self.features.callbacks {
                    return None;
                }
                // The one refusal of NULL that libcrypto has; it queues nothing.
                let ctx = self.context(ctx)?;
                if let Some(ctx) = ctx {
                    self.contexts[ctx].callback = function.then_some(arg);
                }
                self.code(ctx.is_some().into());
            }
            Op::Callback { ctx, null } => self.callback(ctx, null)?,
            Op::SetStatus { ctx, status } => {
                if !self.features.callbacks {
                    return None;
                }
                let Some(ctx) = self.context_or_refusal(ctx, 0, Event::Code(0))? else {
                    return Some(());
                };
                self.contexts[ctx].status = status;
                self.code(1);
            }
            Op::Status { ctx } => {
                if !self.features.callbacks {
                    return None;
                }
                let Some(ctx) = self.context_or_refusal(ctx, 0, Event::Code(0))? else {
                    return Some(());
                };
                self.code(self.contexts[ctx].status);
            }
            Op::SetDefault(default) => {
                if !self.features.default_context {
                    return None;
                }
                let before = std::mem::replace(&mut self.me().default, default);
                self.code(before.into());
            }
            Op::Default => {
                if !self.features.default_context {
                    return None;
                }
                self.code(self.threads[self.thread].default.into());
            }
            Op::SetRounding(mode) => self.me().rounding = mode,
            Op::Rounding => self.code(self.threads[self.thread].rounding.into()),
            Op::SetMask(mask) => self.me().mask = mask,
            Op::Mask => self.code(self.threads[self.thread].mask.into()),
            Op::ThreadStop => {
                if self.threads[self.thread].has_pool {
                    self.rows.push(Row::ThreadStop);
                }
            }
        }
        Some(())
    }

    // ---- jobs ------------------------------------------------------------------------

    fn start(&mut self, var: u8, ctx: Slot, args: Args, null: Null) -> Valid<()> {
        let handle = self.handle(var)?;
        let refusal = Event::Start {
            code: ERR,
            result: UNTOUCHED,
            handle: self.name_of(handle),
            current: self.current(),
        };
        if matches!(null, Null::First | Null::Second) {
            self.refuse_null(105, refusal);
            return Some(());
        }
        let Some(body) = handle else {
            if null == Null::Third {
                self.refuse_null(105, refusal);
                return Some(());
            }
            let ctx = self.context(ctx)?;
            self.start_new(var, ctx, args);
            return Some(());
        };
        let owner = self.bodies[body].owner;
        if owner != self.thread || self.bodies[body].state != State::Paused {
            self.rows.push(if owner == self.thread {
                Row::NotPaused
            } else {
                Row::OtherThread
            });
            self.event(refusal);
            self.error(Reason::ShouldNotHaveBeenCalled, 105);
            return Some(());
        }
        self.resume(var, body);
        Some(())
    }

    fn start_new(&mut self, var: u8, ctx: Option<usize>, args: Args) {
        self.note_nested();
        if args == Args::Bytes(0) {
            self.rows.push(Row::EmptyArgs);
        }
        self.me().has_pool = true;
        let taken = self.me().pool.pop();
        let Some(body) = taken.or_else(|| {
            let me = &self.threads[self.thread];
            (me.limit == 0 || me.made < me.limit).then(|| self.make())
        }) else {
            self.event(Event::Start {
                code: NO_JOBS,
                result: UNTOUCHED,
                handle: Job::None,
                current: self.current(),
            });
            return;
        };
        let job = self.jobs.len();
        self.jobs.push(body);
        self.bodies[body].job = job;
        self.bodies[body].ctx = ctx;
        let Thread { mask, rounding, .. } = self.threads[self.thread];
        if let Some(made_with) = self.bodies[body].made_with.take() {
            if made_with.0 != mask {
                self.rows.push(Row::SignalMask);
            }
            if made_with.1 != rounding {
                self.rows.push(Row::Rounding);
            }
        }
        self.enter(var, body);
        let args = match args {
            Args::Bytes(0) | Args::Null(_) => "none",
            Args::Bytes(_) => "copied",
        };
        self.event(Event::Enter {
            job: Job::J(job),
            args,
        });
    }

    fn make(&mut self) -> usize {
        self.me().made += 1;
        let Thread { mask, rounding, .. } = self.threads[self.thread];
        self.bodies.push(Body {
            state: State::Idle,
            owner: self.thread,
            job: 0,
            ctx: None,
            blocked: 0,
            default: 0,
            rounding: 0,
            callers_default: 0,
            callers_rounding: 0,
            made_with: Some((mask, rounding)),
            var: 0,
            start: 0,
            pause: 0,
        });
        self.bodies.len() - 1
    }

    fn note_nested(&mut self) {
        if self.running().is_some() {
            self.rows.push(Row::Nested);
        }
    }

    fn resume(&mut self, var: u8, body: usize) {
        self.note_nested();
        match self.bodies[body].ctx {
            None => self.rows.push(Row::NoContext),
            Some(ctx) if self.contexts[ctx].freed => self.rows.push(Row::FreedContext),
            Some(ctx) => self.contexts[ctx].forget_changes(),
        }
        self.enter(var, body);
        if self.bodies[body].rounding != self.threads[self.thread].rounding {
            self.rows.push(Row::Rounding);
        }
        self.me().rounding = self.bodies[body].rounding;
        self.me().default = self.bodies[body].default;
        let step = self.bodies[body].pause;
        let current = self.current();
        self.event_of(step, Event::Pause { code: 1, current });
    }

    fn enter(&mut self, var: u8, body: usize) {
        let me = &mut self.threads[self.thread];
        me.stack.push(body);
        let body = &mut self.bodies[body];
        body.state = State::Running;
        body.callers_default = me.default;
        body.callers_rounding = me.rounding;
        body.var = var;
        body.start = self.step;
    }

    fn pause(&mut self) {
        let body = self.running();
        let Some(body) = body.filter(|&body| self.bodies[body].blocked == 0) else {
            let current = self.current();
            return self.event(Event::Pause { code: 1, current });
        };
        self.bodies[body].pause = self.step;
        self.bodies[body].state = State::Paused;
        self.leave(body);
        self.returned(body, PAUSE, UNTOUCHED, Some(body));
    }

    fn end_job(&mut self, result: i32) -> Valid<()> {
        let body = self.running()?;
        self.leave(body);
        let ended = &mut self.bodies[body];
        if ended.blocked > 0 {
            self.rows.push(Row::BlockLeftOpen);
        }
        ended.state = State::Idle;
        ended.blocked = 0;
        ended.ctx = None;
        self.threads[self.thread].pool.push(body);
        self.returned(body, FINISH, result, None);
        Some(())
    }

    /// Back to whoever started or resumed it.
    fn leave(&mut self, body: usize) {
        let me = &mut self.threads[self.thread];
        let body = &mut self.bodies[body];
        me.stack.pop();
        body.default = std::mem::replace(&mut me.default, body.callers_default);
        body.rounding = std::mem::replace(&mut me.rounding, body.callers_rounding);
        if body.rounding != me.rounding {
            self.rows.push(Row::Rounding);
        }
    }

    /// The `ASYNC_start_job` that ran the body returns.
    fn returned(&mut self, body: usize, code: i32, result: i32, handle: Option<usize>) {
        let Body { var, start, .. } = self.bodies[body];
        self.variables[usize::from(var)] = handle;
        let event = Event::Start {
            code,
            result,
            handle: self.name_of(handle),
            current: self.current(),
        };
        self.event_of(start, event);
    }

    fn init_thread(&mut self, max: u64, init: u64) -> Valid<()> {
        const MANY: u64 = 64;
        if init > max {
            self.code(0);
            self.error(Reason::InvalidPoolSize, 101);
            return Some(());
        }
        if init > MANY {
            return None; // it would work for as long as there is memory
        }
        if max > i32::MAX as u64 {
            self.rows.push(Row::HugeLimit);
        }
        if self.threads[self.thread].has_pool {
            self.rows.push(Row::InitAgain);
        }
        self.free_pool();
        self.me().has_pool = true;
        self.me().limit = max;
        for _ in 0..init {
            let body = self.make();
            self.me().pool.push(body);
        }
        self.code(1);
        Some(())
    }

    fn free_pool(&mut self) {
        let me = &mut self.threads[self.thread];
        for body in me.pool.drain(..) {
            self.bodies[body].state = State::Freed;
        }
        me.has_pool = false;
        me.limit = 0;
        me.made = 0;
    }

    fn has_live_jobs(&self) -> bool {
        self.bodies.iter().any(|body| {
            body.owner == self.thread && matches!(body.state, State::Running | State::Paused)
        })
    }

    fn wait_ctx_of(&mut self, var: u8) -> Valid<()> {
        let handle = self.handle(var)?;
        if handle.is_none() {
            self.rows.push(Row::WaitCtxOfNull);
        }
        let ctx = handle.and_then(|body| self.bodies[body].ctx);
        let name = match ctx {
            Some(ctx) if self.contexts[ctx].freed => {
                self.rows.push(Row::FreedContext);
                event::Ctx::None
            }
            Some(ctx) => event::Ctx::C(self.contexts[ctx].variable),
            None => event::Ctx::None,
        };
        self.event(Event::WaitCtx(name));
        Some(())
    }

    // ---- wait contexts ---------------------------------------------------------------

    fn new_context(&mut self, variable: u8) -> Valid<()> {
        let slot = self.slots[usize::from(variable)];
        if slot.is_some_and(|ctx| !self.contexts[ctx].freed) {
            return None; // the program would lose it
        }
        for ctx in &mut self.contexts {
            ctx.stale |= ctx.freed;
        }
        self.slots[usize::from(variable)] = Some(self.contexts.len());
        self.contexts.push(Context {
            freed: false,
            stale: false,
            entries: Vec::new(),
            callback: None,
            status: 0,
            variable,
        });
        self.code(1);
        Some(())
    }

    fn free_context(&mut self, slot: Slot) -> Valid<()> {
        let Slot::C(variable) = slot else {
            return Some(());
        };
        let Some(ctx) = self.slots[usize::from(variable)] else {
            return Some(());
        };
        if self.contexts[ctx].freed {
            self.rows.push(Row::FreedTwice);
            return (!self.contexts[ctx].stale).then_some(());
        }
        while let Some(at) = self.contexts[ctx].newest(|_| true) {
            let entry = self.contexts[ctx].entries[at].clone();
            if entry.cleanup != Cleanup::Nothing {
                self.event(Event::Cleanup {
                    ctx: event::Ctx::C(variable),
                    key: entry.key.into(),
                    fd: entry.fd,
                    data: entry.data.into(),
                });
            }
            match entry.cleanup {
                Cleanup::Nothing | Cleanup::Plain => {}
                Cleanup::Reads => {
                    self.rows.push(Row::CallsBack);
                    let fds = self.contexts[ctx].fds(|mark| mark != Mark::Deleted);
                    self.event(Event::CalledBack {
                        code: entry.fd,
                        fds,
                    });
                }
                Cleanup::Clears => {
                    self.rows.push(Row::CallsBack);
                    self.event(Event::Cleared(1));
                }
            }
            self.contexts[ctx].entries.remove(at);
        }
        self.contexts[ctx].freed = true;
        Some(())
    }

    fn add(&mut self, ctx: usize, key: u8, fd: i32, data: u8, cleanup: Cleanup) {
        self.contexts[ctx].entries.push(Entry {
            key,
            fd,
            data,
            cleanup,
            mark: Mark::Added,
        });
    }

    fn fd(&mut self, slot: Slot, key: u8, null: Null) -> Valid<()> {
        let event = |code, fd, data| Event::Fd { code, fd, data };
        let refusal = event(0, UNTOUCHED, UNTOUCHED as usize);
        let Some(ctx) = self.context_or_refusal(slot, 0, refusal.clone())? else {
            return Some(());
        };
        if null == Null::First {
            self.refuse_null(0, refusal);
            return Some(());
        }
        let found = self.contexts[ctx].newest(|entry| entry.key == key);
        let Some(at) = found else {
            self.event(refusal);
            return Some(());
        };
        let Entry { fd, data, .. } = self.contexts[ctx].entries[at];
        if null == Null::Second {
            self.rows.push(Row::Nulls);
            self.event(event(1, fd, UNTOUCHED as usize));
        } else {
            self.event(event(1, fd, data.into()));
        }
        Some(())
    }

    fn all_fds(&mut self, slot: Slot, list: bool, null: Null) -> Valid<()> {
        let refusal = Event::Fds {
            code: 0,
            count: UNTOUCHED as usize,
            fds: Vec::new(),
        };
        let Some(ctx) = self.context_or_refusal(slot, 0, refusal.clone())? else {
            return Some(());
        };
        if null == Null::First {
            self.refuse_null(0, refusal);
            return Some(());
        }
        let fds = self.contexts[ctx].fds(|mark| mark != Mark::Deleted);
        self.event(Event::Fds {
            code: 1,
            count: fds.len(),
            fds: if list { fds } else { Vec::new() },
        });
        Some(())
    }

    fn changed_fds(&mut self, slot: Slot, added: bool, deleted: bool, null: Null) -> Valid<()> {
        let nothing = (UNTOUCHED as usize, Vec::new());
        let refusal = Event::Changed {
            code: 0,
            added: nothing.clone(),
            deleted: nothing,
        };
        let Some(ctx) = self.context_or_refusal(slot, 0, refusal.clone())? else {
            return Some(());
        };
        if matches!(null, Null::First | Null::Second) {
            self.refuse_null(0, refusal);
            return Some(());
        }
        let list = |wanted, list: bool| {
            let fds = self.contexts[ctx].fds(|mark| mark == wanted);
            (fds.len(), if list { fds } else { Vec::new() })
        };
        let event = Event::Changed {
            code: 1,
            added: list(Mark::Added, added),
            deleted: list(Mark::Deleted, deleted),
        };
        self.event(event);
        Some(())
    }

    fn callback(&mut self, slot: Slot, null: Null) -> Valid<()> {
        if !self.features.callbacks {
            return None;
        }
        let refusal = Event::Callback {
            code: 0,
            called_with: None,
        };
        let Some(ctx) = self.context_or_refusal(slot, 0, refusal.clone())? else {
            return Some(());
        };
        if matches!(null, Null::First | Null::Second) {
            self.refuse_null(0, refusal);
            return Some(());
        }
        let callback = self.contexts[ctx].callback;
        self.event(Event::Callback {
            code: callback.is_some().into(),
            called_with: callback.map(usize::from),
        });
        Some(())
    }
}

impl Context {
    /// The newest entry of that kind that is not marked deleted.
    fn newest(&self, wanted: impl Fn(&Entry) -> bool) -> Option<usize> {
        self.entries
            .iter()
            .rposition(|entry| entry.mark != Mark::Deleted && wanted(entry))
    }

    fn fds(&self, wanted: impl Fn(Mark) -> bool) -> Vec<i32> {
        let entries = self.entries.iter().rev();
        let wanted = entries.filter(|entry| wanted(entry.mark));
        wanted.map(|entry| entry.fd).collect()
    }

    fn clear(&mut self, key: u8) -> bool {
        let Some(at) = self.newest(|entry| entry.key == key) else {
            return false;
        };
        if self.entries[at].mark == Mark::Added {
            self.entries.remove(at);
        } else {
            self.entries[at].mark = Mark::Deleted;
        }
        true
    }

    fn forget_changes(&mut self) {
        self.entries.retain(|entry| entry.mark != Mark::Deleted);
        for entry in &mut self.entries {
            entry.mark = Mark::None;
        }
    }
}
