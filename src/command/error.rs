//! What goes wrong, in one line that says what to do.

use std::fmt;

use procfs::ProcError;

/// A line for the user, without the command's name before it.
#[derive(Debug)]
pub struct Error(String);

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(line: impl Into<String>) -> Self {
        Self(line.into())
    }

    /// The same about this process or file.
    pub fn about(self, what: impl fmt::Display) -> Self {
        Self(format!("{what}: {}", self.0))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        to.write_str(&self.0)
    }
}

impl From<ProcError> for Error {
    fn from(error: ProcError) -> Self {
        Self(match error {
            ProcError::PermissionDenied(_) => "no permission: run as root".to_owned(),
            ProcError::NotFound(_) => "not a process".to_owned(),
            ProcError::Io(error, _) => match error.raw_os_error() {
                Some(nix::libc::ESRCH) => "not a process".to_owned(),
                _ => error.to_string(),
            },
            other => other.to_string(),
        })
    }
}
