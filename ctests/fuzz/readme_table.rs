//! The intended differences: rows of the README's table "Differences from libcrypto".

/// A row that a program can reach. The other rows are about the end of memory, data races, stacks
/// and the end of the process; the chapters test these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    Nested,
    OtherThread,
    NotPaused,
    Nulls,
    NoContext,
    FreedContext,
    CallsBack,
    FreedTwice,
    StaleHandle,
    WaitCtxOfNull,
    CleanupWithJobs,
    InitAgain,
    EndWithJobs,
    EmptyArgs,
    HugeLimit,
    BlockLeftOpen,
    Rounding,
    SignalMask,
    Fork,
    ThreadStop,
    PauseFirst,
}

pub const ROWS: [Row; 21] = [
    Row::Nested,
    Row::OtherThread,
    Row::NotPaused,
    Row::Nulls,
    Row::NoContext,
    Row::FreedContext,
    Row::CallsBack,
    Row::FreedTwice,
    Row::StaleHandle,
    Row::WaitCtxOfNull,
    Row::CleanupWithJobs,
    Row::InitAgain,
    Row::EndWithJobs,
    Row::EmptyArgs,
    Row::HugeLimit,
    Row::BlockLeftOpen,
    Row::Rounding,
    Row::SignalMask,
    Row::Fork,
    Row::ThreadStop,
    Row::PauseFirst,
];

impl Row {
    /// The row's first column in the README.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nested => "a job starts or resumes another job",
            Self::OtherThread => "a job is resumed on another thread",
            Self::NotPaused => {
                "a job is resumed that runs, waits for one it started, or has finished"
            }
            Self::Nulls => "`job`, `ret`, `func` NULL; a wait context or an output NULL",
            Self::NoContext => "a job without a wait context pauses",
            Self::FreedContext => "a wait context is freed, its job is paused",
            Self::CallsBack => "a cleanup routine calls back into the context that is freed",
            Self::FreedTwice => "a wait context is freed twice",
            Self::StaleHandle => "the handle of a job that has finished",
            Self::WaitCtxOfNull => "`ASYNC_get_wait_ctx(NULL)`",
            Self::CleanupWithJobs => "`ASYNC_cleanup_thread()` in a job, or with jobs paused",
            Self::InitAgain => "`ASYNC_init_thread()` again",
            Self::EndWithJobs => "a thread ends with jobs paused",
            Self::EmptyArgs => "`args` with `size` 0",
            Self::HugeLimit => "`max_size` above `INT_MAX`",
            Self::BlockLeftOpen => "`ASYNC_block_pause()` left open when a job ends",
            Self::Rounding => "rounding mode, exception masks (x87, MXCSR, FPCR)",
            Self::SignalMask => "signal mask",
            Self::Fork => "`fork` while other threads use jobs",
            Self::ThreadStop => "`OPENSSL_thread_stop`",
            Self::PauseFirst => "`ASYNC_pause_job()` before any job was started",
        }
    }

    /// Whether libcrypto leaks there, and does nothing else that a program can observe.
    pub fn is_only_a_leak(self) -> bool {
        matches!(self, Self::InitAgain | Self::EndWithJobs)
    }
}

/// The rows that are not in the README.
pub fn missing() -> Vec<Row> {
    let readme = include_str!("../../README.md");
    let has = |row: &Row| {
        let start = format!("| {} |", row.name());
        readme.lines().any(|line| line.starts_with(&start))
    };
    ROWS.into_iter().filter(|row| !has(row)).collect()
}
