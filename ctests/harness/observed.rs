//! The processes of `observed.c`, which stay as they are to be looked at.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use libtest_mimic::Failed;

use crate::check::expect;

/// For the compiler: GCC takes the recursion for a mistake.
pub const FLAGS: [&str; 2] = ["-Wno-infinite-recursion", "-fno-optimize-sibling-calls"];

/// A process that is as its case says, until it is dropped.
pub struct Observed {
    pub child: Child,
    pub out: BufReader<ChildStdout>,
}

impl Observed {
    pub fn start(command: &mut Command) -> Result<Self, Failed> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn()?;
        let out = BufReader::new(child.stdout.take().ok_or("it has no output")?);
        let mut it = Self { child, out };
        it.wait_for("ready")?;
        Ok(it)
    }

    pub fn wait_for(&mut self, wanted: &str) -> Result<(), Failed> {
        let mut line = String::new();
        while line.trim_end() != wanted {
            line.clear();
            let bytes = self.out.read_line(&mut line)?;
            expect(bytes > 0, format!("it has ended before it was {wanted}"))?;
        }
        Ok(())
    }

    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
