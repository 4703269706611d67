//! Jobs and threads in the model.

use super::{Allowed, Model, Reason, func};
use crate::event::{Ctx, ERR, Event, FINISH, Job, NO_JOBS, PAUSE, UNTOUCHED};
use crate::program::{Args, CtxArg, Null};
use crate::readme_table::Row;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In a pool.
    Idle,
    /// Entered, and not paused; it may have started another job that runs.
    Running,
    Paused,
    Freed,
}

/// An `ASYNC_JOB`, for which a handle stands. It serves one job after another.
#[derive(Clone)]
pub struct JobObject {
    pub state: State,
    /// The thread that made it.
    pub owner: usize,
    /// The job that it serves, or served last.
    pub last_job: usize,
    ctx: Option<usize>,
    /// Depth of `ASYNC_block_pause`.
    pub blocks: u32,
    /// The job's own, while it is paused.
    lib_ctx: u8,
    rounding: u8,
    /// Those of the caller of the last start or resume, while the job runs.
    callers_lib_ctx: u8,
    pub callers_rounding: u8,
    /// The thread's state when the object was made, until its first job starts: libcrypto enters
    /// that job with it.
    made_with: Option<MadeWith>,
    /// The variable and the step of the `ASYNC_start_job` that started or resumed it last.
    var: u8,
    start_step: usize,
    /// The step of the `ASYNC_pause_job` that it is paused in.
    pause_step: usize,
}

#[derive(Clone)]
struct MadeWith {
    signal_blocked: bool,
    rounding: u8,
}

#[derive(Clone, Default)]
pub struct Thread {
    pub ended: bool,
    pub has_pool: bool,
    pool: Vec<usize>,
    /// The pool's limit; 0 for none.
    limit: u64,
    /// How many objects count against the limit.
    made: u64,
    /// The jobs that run, the innermost last.
    pub running: Vec<usize>,
    pub lib_ctx: u8,
    pub rounding: u8,
    pub signal_blocked: bool,
}

impl Model<'_> {
    pub fn start(&mut self, var: u8, ctx: CtxArg, args: Args, null: Null) -> Allowed<()> {
        let handle = self.job_vars[usize::from(var)];
        let refusal = Event::Start {
            code: ERR,
            result: UNTOUCHED,
            handle: handle.map_or(Job::None, Job::J),
            current: self.current(),
        };
        if matches!(null, Null::First | Null::Second) {
            self.refuse_null(func::START_JOB, refusal);
            return Some(());
        }
        let Some(job) = handle else {
            if null == Null::Third {
                self.refuse_null(func::START_JOB, refusal);
                return Some(());
            }
            let ctx = self.ctx(ctx)?;
            self.start_new(var, ctx, args);
            return Some(());
        };
        let row = match self.live(job).map(|object| &self.objects[object]) {
            None => Row::StaleHandle,
            Some(object) if object.owner != self.thread => Row::OtherThread,
            Some(object) if object.state != State::Paused => Row::NotPaused,
            Some(_) => {
                self.resume(var, self.jobs[job]);
                return Some(());
            }
        };
        self.reaches(row);
        self.event(refusal);
        self.error(Reason::ShouldNotHaveBeenCalled, func::START_JOB);
        Some(())
    }

    fn start_new(&mut self, var: u8, ctx: Option<usize>, args: Args) {
        self.reach_nested();
        if args == Args::Bytes(0) {
            self.reaches(Row::EmptyArgs);
        }
        let Some(object) = self.take_idle() else {
            self.event(Event::Start {
                code: NO_JOBS,
                result: UNTOUCHED,
                handle: Job::None,
                current: self.current(),
            });
            return;
        };
        let job = self.jobs.len();
        self.jobs.push(object);
        self.objects[object].last_job = job;
        self.objects[object].ctx = ctx;
        self.enter(var, object);
        let args = match args {
            Args::Bytes(0) | Args::Null(_) => "none",
            Args::Bytes(_) => "copied",
        };
        self.event(Event::Enter {
            job: Job::J(job),
            args,
        });
    }

    /// An object for a job to start: from the pool, or a new one. `None` at the limit.
    fn take_idle(&mut self) -> Option<usize> {
        self.this_thread().has_pool = true;
        let taken = self.this_thread().pool.pop();
        let object = taken.or_else(|| {
            let this = &self.threads[self.thread];
            (this.limit == 0 || this.made < this.limit).then(|| self.make())
        })?;
        if let Some(made_with) = self.objects[object].made_with.take() {
            let this = &self.threads[self.thread];
            let (signal_blocked, rounding) = (this.signal_blocked, this.rounding);
            if made_with.signal_blocked != signal_blocked {
                self.reaches(Row::SignalMask);
            }
            if made_with.rounding != rounding {
                self.reaches(Row::Rounding);
            }
        }
        Some(object)
    }

    /// A constructor and a destructor start a job each, and a thread does that has finished when
    /// they return. These jobs have no handles.
    pub fn plug_in(&mut self) {
        self.reach_nested();
        for _ in 0..2 {
            let code = match self.take_idle() {
                Some(object) => {
                    self.this_thread().pool.push(object);
                    FINISH
                }
                None => NO_JOBS,
            };
            self.code(code);
            self.code(1);
        }
    }

    /// Makes an idle job object.
    fn make(&mut self) -> usize {
        let this = self.this_thread();
        this.made += 1;
        let made_with = MadeWith {
            signal_blocked: this.signal_blocked,
            rounding: this.rounding,
        };
        self.objects.push(JobObject {
            state: State::Idle,
            owner: self.thread,
            last_job: 0,
            ctx: None,
            blocks: 0,
            lib_ctx: 0,
            rounding: 0,
            callers_lib_ctx: 0,
            callers_rounding: 0,
            made_with: Some(made_with),
            var: 0,
            start_step: 0,
            pause_step: 0,
        });
        self.objects.len() - 1
    }

    fn reach_nested(&mut self) {
        if self.running().is_some() {
            self.reaches(Row::Nested);
        }
    }

    fn resume(&mut self, var: u8, object: usize) {
        self.reach_nested();
        match self.objects[object].ctx {
            None => self.reaches(Row::NoContext),
            Some(ctx) if self.contexts[ctx].freed => self.reaches(Row::FreedContext),
            Some(ctx) => self.contexts[ctx].clear_marks(),
        }
        self.enter(var, object);
        if self.objects[object].rounding != self.threads[self.thread].rounding {
            self.reaches(Row::Rounding);
        }
        self.this_thread().rounding = self.objects[object].rounding;
        self.this_thread().lib_ctx = self.objects[object].lib_ctx;
        let step = self.objects[object].pause_step;
        let current = self.current();
        self.event_of(step, Event::Pause { code: 1, current });
    }

    /// Switches into a job.
    fn enter(&mut self, var: u8, object: usize) {
        let this = &mut self.threads[self.thread];
        this.running.push(object);
        let object = &mut self.objects[object];
        object.state = State::Running;
        object.callers_lib_ctx = this.lib_ctx;
        object.callers_rounding = this.rounding;
        object.var = var;
        object.start_step = self.step;
    }

    pub fn pause(&mut self) {
        let object = self.running();
        let Some(object) = object.filter(|&object| self.objects[object].blocks == 0) else {
            let current = self.current();
            return self.event(Event::Pause { code: 1, current });
        };
        self.objects[object].pause_step = self.step;
        self.objects[object].state = State::Paused;
        self.leave(object);
        self.returned(object, PAUSE, UNTOUCHED, Some(object));
    }

    pub fn finish(&mut self, result: i32) -> Allowed<()> {
        let object = self.running()?;
        self.leave(object);
        let ended = &mut self.objects[object];
        ended.state = State::Idle;
        ended.ctx = None;
        if std::mem::take(&mut ended.blocks) > 0 {
            self.reaches(Row::BlockLeftOpen);
        }
        self.threads[self.thread].pool.push(object);
        self.returned(object, FINISH, result, None);
        Some(())
    }

    /// Switches out of a job, back to whoever started or resumed it.
    fn leave(&mut self, object: usize) {
        let this = &mut self.threads[self.thread];
        let object = &mut self.objects[object];
        this.running.pop();
        object.lib_ctx = std::mem::replace(&mut this.lib_ctx, object.callers_lib_ctx);
        object.rounding = std::mem::replace(&mut this.rounding, object.callers_rounding);
        if object.rounding != this.rounding {
            self.reaches(Row::Rounding);
        }
    }

    /// The `ASYNC_start_job` returns that started or resumed the job.
    fn returned(&mut self, object: usize, code: i32, result: i32, handle: Option<usize>) {
        let JobObject {
            var, start_step, ..
        } = self.objects[object];
        self.job_vars[usize::from(var)] = handle.map(|object| self.objects[object].last_job);
        let event = Event::Start {
            code,
            result,
            handle: self.name_of(handle),
            current: self.current(),
        };
        self.event_of(start_step, event);
    }

    pub fn init_thread(&mut self, max: u64, init: u64) -> Allowed<()> {
        /// More jobs than this are not made at once: for huge numbers memory decides the outcome.
        const MOST_JOBS: u64 = 64;
        if init > max {
            self.code(0);
            self.error(Reason::InvalidPoolSize, func::INIT_THREAD);
            return Some(());
        }
        if init > MOST_JOBS {
            return None;
        }
        if max > i32::MAX as u64 {
            self.reaches(Row::HugeLimit);
        }
        if self.threads[self.thread].has_pool {
            self.reaches(Row::InitAgain);
        }
        self.free_pool();
        self.this_thread().has_pool = true;
        self.this_thread().limit = max;
        for _ in 0..init {
            let object = self.make();
            self.this_thread().pool.push(object);
        }
        self.code(1);
        Some(())
    }

    pub fn cleanup_thread(&mut self) {
        if self.has_live_jobs() {
            self.reaches(Row::CleanupWithJobs);
        }
        self.free_pool();
    }

    /// The first thread is the program's main thread, which goes on; others end outside jobs.
    pub fn end_thread(&mut self) -> Allowed<()> {
        if self.thread == 0 || self.running().is_some() {
            return None;
        }
        if self.has_live_jobs() {
            self.reaches(Row::EndWithJobs);
        }
        self.free_pool();
        self.this_thread().ended = true;
        Some(())
    }

    fn free_pool(&mut self) {
        let this = &mut self.threads[self.thread];
        for object in this.pool.drain(..) {
            self.objects[object].state = State::Freed;
        }
        this.has_pool = false;
        this.limit = 0;
        this.made = 0;
    }

    fn has_live_jobs(&self) -> bool {
        self.objects.iter().any(|object| {
            object.owner == self.thread && matches!(object.state, State::Running | State::Paused)
        })
    }

    /// What `ASYNC_get_wait_ctx` returns for the handle in a variable.
    pub fn wait_ctx_of(&mut self, var: u8) -> Ctx {
        let Some(job) = self.job_vars[usize::from(var)] else {
            self.reaches(Row::WaitCtxOfNull);
            return Ctx::None;
        };
        let Some(object) = self.live(job) else {
            // libcrypto's object has none, either, until it is freed or serves another job.
            let JobObject {
                state, last_job, ..
            } = self.objects[self.jobs[job]];
            if state == State::Freed || last_job != job {
                self.reaches(Row::StaleHandle);
            }
            return Ctx::None;
        };
        match self.objects[object].ctx {
            Some(ctx) if self.contexts[ctx].freed => {
                self.reaches(Row::FreedContext);
                Ctx::None
            }
            Some(ctx) => Ctx::C(self.contexts[ctx].variable),
            None => Ctx::None,
        }
    }

    /// A handler may use a context that exists; it is refused nothing, as a refusal queues an error.
    pub fn in_handler(&mut self, var: u8, ctx: u8, status: i32) -> Allowed<()> {
        self.features.callbacks.then_some(())?;
        let ctx = self.ctx(CtxArg::C(ctx))??;
        let wait_ctx = self.wait_ctx_of(var);
        let callback = self.contexts[ctx].callback;
        self.contexts[ctx].status = status;
        self.event(Event::Handler {
            current: self.current(),
            wait_ctx,
            callback: (callback.is_some().into(), callback.map(usize::from)),
            status,
        });
        Some(())
    }
}
