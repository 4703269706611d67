//! What a program can observe: one event is one line of its trace.

// Codes of `ASYNC_start_job`.
pub const ERR: i32 = 0;
pub const NO_JOBS: i32 = 1;
pub const PAUSE: i32 = 2;
pub const FINISH: i32 = 3;

/// The value of outputs before a call, which shows whether the call wrote them.
pub const UNTOUCHED: i32 = -77;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A job's function was called; `args` says how it found its arguments.
    Enter {
        job: Job,
        args: &'static str,
    },
    /// `ASYNC_start_job` returned; `current` is what `ASYNC_get_current_job` returns then.
    Start {
        code: i32,
        result: i32,
        handle: Job,
        current: Job,
    },
    /// `ASYNC_pause_job` returned.
    Pause {
        code: i32,
        current: Job,
    },
    /// A call that returns a number.
    Code(i32),
    Current(Job),
    WaitCtx(Ctx),
    Fd {
        code: i32,
        fd: i32,
        data: usize,
    },
    Fds {
        code: i32,
        count: usize,
        fds: Vec<i32>,
    },
    Changed {
        code: i32,
        added: (usize, Vec<i32>),
        deleted: (usize, Vec<i32>),
    },
    Callback {
        code: i32,
        called_with: Option<usize>,
    },
    Cleanup {
        ctx: Ctx,
        key: usize,
        fd: i32,
        data: usize,
    },
    /// What a signal handler was told. The callback is there if its code is 1, with its argument.
    Handler {
        current: Job,
        wait_ctx: Ctx,
        callback: (i32, Option<usize>),
        status: i32,
    },
    /// What a cleanup routine read in its context: the descriptor that it is called for, and all.
    CalledBack {
        code: i32,
        fds: Vec<i32>,
    },
    /// What `ASYNC_WAIT_CTX_clear_fd` returned to a cleanup routine.
    Cleared(i32),
    /// An entry of libcrypto's error queue.
    Error {
        lib: u32,
        func: u32,
        reason: u32,
    },
    /// A call wrote past the descriptors that it counted.
    Overrun,
}

/// A job, by the number of its start in the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    None,
    J(usize),
    Unknown,
}

/// A wait context, by the variable that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ctx {
    None,
    C(u8),
    Unknown,
}

impl Event {
    /// A line of a trace.
    pub fn line(&self, step: usize) -> String {
        format!("step {step}: {self:?}")
    }
}
