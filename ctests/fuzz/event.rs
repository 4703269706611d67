//! What a program can observe, one event to a line of its trace.

use std::fmt;

/// Codes of `ASYNC_start_job`.
pub const ERR: i32 = 0;
pub const NO_JOBS: i32 = 1;
pub const PAUSE: i32 = 2;
pub const FINISH: i32 = 3;

/// What outputs hold before a call, so that it shows whether they were written.
pub const UNTOUCHED: i32 = -77;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A job's function was called; whether it found its arguments.
    Enter {
        job: Job,
        args: &'static str,
    },
    /// `ASYNC_start_job` returned; which job is current then.
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
    /// What a cleanup routine that called back got: its own descriptor, how many there are.
    CalledBack {
        code: i32,
        fds: Vec<i32>,
    },
    Cleared(i32),
    /// Something was on the error queue.
    Error {
        lib: u32,
        func: u32,
        reason: u32,
    },
    /// A descriptor list was written past its end.
    Overrun,
}

/// A job, by the order of starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    None,
    J(usize),
    Unknown,
}

/// A wait context, by its variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ctx {
    None,
    C(u8),
    Unknown,
}

impl Event {
    /// As a line of a trace: the number of the step, and what happened.
    pub fn line(&self, step: usize) -> String {
        format!("{step} {self}")
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
