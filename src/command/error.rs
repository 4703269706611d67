//! What goes wrong, in one line that says what to do.

use std::fmt;

use procfs::ProcError;

/// A line for the user, without the command's name before it.
#[derive(Debug)]
pub struct Error {
    line: String,
    pub kind: Kind,
}

/// The errors that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    NoPermission,
    /// The program is for another kind of processor.
    NotOf64Bits,
    Other,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(line: impl Into<String>) -> Self {
        Self::of_kind(Kind::Other, line)
    }

    pub fn of_kind(kind: Kind, line: impl Into<String>) -> Self {
        let line = line.into();
        Self { line, kind }
    }

    /// The same about this process or file.
    pub fn about(self, what: impl fmt::Display) -> Self {
        Self::of_kind(self.kind, format!("{what}: {}", self.line))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        to.write_str(&self.line)
    }
}

impl From<ProcError> for Error {
    fn from(error: ProcError) -> Self {
        const NOT_A_PROCESS: &str = "not a process";
        match error {
            ProcError::PermissionDenied(_) => {
                Self::of_kind(Kind::NoPermission, "no permission: run as root")
            }
            ProcError::NotFound(_) => Self::new(NOT_A_PROCESS),
            ProcError::Io(error, _) => match error.raw_os_error() {
                Some(nix::libc::ESRCH) => Self::new(NOT_A_PROCESS),
                _ => Self::new(error.to_string()),
            },
            other => Self::new(other.to_string()),
        }
    }
}
