//! A program of calls, as data.
//!
//! A program is one list of steps for all its threads and jobs. Each step names a thread, and is
//! taken by what runs there: the thread's innermost running job, or the thread itself. So the step
//! after a `Pause` is taken by whoever started or resumed the job that paused. Any part of a
//! program is a program too, which makes programs easy to shrink.

use serde::{Deserialize, Serialize};

/// Number of variables for job handles.
pub const VARIABLES: u8 = 6;
/// Number of variables for wait contexts.
pub const CONTEXTS: u8 = 4;
pub const THREADS: u8 = 3;
/// Number of library contexts: the global one and two others.
pub const LIB_CTXS: u8 = 3;
pub const ROUNDING_MODES: u8 = 4;
/// How many children the threads of `ForkAtOnce` have in all.
pub const FORKS: i32 = 6;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub thread: u8,
    pub op: Op,
}

/// A call, or what a program does with a variable between calls. `var`, `from` and `to` are
/// variables for job handles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// `ASYNC_start_job`: starts a job if the variable is NULL, else resumes the one in it.
    Start {
        var: u8,
        ctx: CtxArg,
        args: Args,
        null: Null,
    },
    Pause,
    /// The job's function returns.
    Return(i32),
    Block,
    Unblock,
    IsCapable,
    InitThread {
        max: u64,
        init: u64,
    },
    CleanupThread,
    /// The thread ends; jobs may be paused on it.
    EndThread,

    Copy {
        from: u8,
        to: u8,
    },
    GetCurrentJob {
        to: u8,
    },
    /// The variable gets the handle of a job, by the number of its start in the program. The job
    /// may have finished, and its handle be stale.
    HandleOf {
        job: usize,
        to: u8,
    },
    SetNull {
        var: u8,
    },
    GetWaitCtx {
        var: u8,
    },
    /// A signal handler makes the five calls that it may make: it asks for the current job, for the
    /// wait context of the handle, for the callback of `ctx`, and sets and reads its status.
    InHandler {
        var: u8,
        ctx: u8,
        status: i32,
    },
    /// Two threads fork at once, each with a paused job, while a third one uses jobs.
    ForkAtOnce,
    /// An object is loaded and unloaded. Its constructor and its destructor start a job each, and
    /// wait for a thread that does.
    PlugIn,

    NewCtx(u8),
    FreeCtx(CtxArg),
    SetFd {
        ctx: CtxArg,
        key: u8,
        fd: i32,
        data: u8,
        cleanup: Cleanup,
    },
    /// Adds `count` descriptors under one key, counting up from `fd`.
    SetFds {
        ctx: CtxArg,
        key: u8,
        fd: i32,
        count: u16,
    },
    GetFd {
        ctx: CtxArg,
        key: u8,
        null: Null,
    },
    /// `list`: whether a list is passed, not NULL.
    GetAllFds {
        ctx: CtxArg,
        list: bool,
        null: Null,
    },
    /// `added`, `deleted`: whether these lists are passed, not NULL.
    GetChangedFds {
        ctx: CtxArg,
        added: bool,
        deleted: bool,
        null: Null,
    },
    ClearFd {
        ctx: CtxArg,
        key: u8,
    },
    SetCallback {
        ctx: CtxArg,
        function: bool,
        arg: u8,
    },
    /// Gets the callback and calls it.
    CallCallback {
        ctx: CtxArg,
        null: Null,
    },
    SetStatus {
        ctx: CtxArg,
        status: i32,
    },
    GetStatus {
        ctx: CtxArg,
    },

    /// Sets the thread's default library context: 0 for the global one, or one of two others.
    SetLibCtx(u8),
    GetLibCtx,
    SetRounding(u8),
    GetRounding,
    /// Blocks a signal if true, else unblocks it.
    SetMask(bool),
    GetMask,
    /// `OPENSSL_thread_stop`.
    ThreadStop,
}

/// A wait context as an argument: the one in a variable, which is NULL until one is made, or NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CtxArg {
    C(u8),
    Null,
}

/// The `args` and `size` of `ASYNC_start_job`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Args {
    Bytes(u16),
    /// NULL, with a size that must be ignored.
    Null(u16),
}

/// Which of a call's pointers is NULL although it must not be, by its place among these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Null {
    Nothing,
    First,
    Second,
    Third,
}

/// The cleanup routine of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cleanup {
    /// NULL.
    Nothing,
    Plain,
    /// Reads the context that is freed.
    Reads,
    /// Clears the descriptor that it is called for.
    Clears,
}
