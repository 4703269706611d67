//! A process that runs programs on one library, as seen by the fuzzer.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::library::Features;
use crate::program::Step;
use crate::text;

pub struct ExecutorProcess {
    process: Child,
    /// Its standard input; `None` once it is closed, which ends the process.
    programs: Option<ChildStdin>,
    traces: BufReader<ChildStdout>,
    pub features: Features,
    library: PathBuf,
}

/// What becomes of the process's standard error.
pub enum Stderr {
    Shown,
    /// The library is expected to crash, and its last words tell nothing.
    Discarded,
}

impl ExecutorProcess {
    pub fn new(library: &Path, libcrypto: &Path, stderr: Stderr) -> Result<Self, String> {
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut process = Command::new(this)
            .arg("execute")
            .args([library, libcrypto])
            .env_remove("LD_PRELOAD")
            .env_remove("RSASYNC_STACK_SIZE")
            .env_remove("RSASYNC_STATS")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(match stderr {
                Stderr::Shown => Stdio::inherit(),
                Stderr::Discarded => Stdio::null(),
            })
            .spawn()
            .map_err(|error| error.to_string())?;
        let programs = process.stdin.take();
        let mut traces = BufReader::new(process.stdout.take().expect("it is a pipe"));
        let mut line = String::new();
        let features = traces
            .read_line(&mut line)
            .map_err(|error| error.to_string())
            .and_then(|_| {
                ron::from_str::<Result<Features, String>>(&line)
                    .map_err(|_| "its executor ended".to_owned())?
            });
        let features =
            features.map_err(|why| format!("{} can't be used: {why}", library.display()))?;
        Ok(Self {
            process,
            programs,
            traces,
            features,
            library: library.to_owned(),
        })
    }

    /// Has a program run; [`Self::trace`] waits for its trace.
    pub fn send(&mut self, steps: &[Step]) {
        let programs = self.programs.as_mut().expect("it is open until the end");
        programs
            .write_all(text::to_text(steps).as_bytes())
            .and_then(|()| programs.flush())
            .unwrap_or_else(|error| panic!("{}: {error}", self.library.display()));
    }

    pub fn trace(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.traces.read_line(&mut line).unwrap_or(0);
            assert!(read > 0, "{}: its executor ended", self.library.display());
            match line.trim_end() {
                "." => return lines,
                line => lines.push(line.to_owned()),
            }
        }
    }

    pub fn run(&mut self, steps: &[Step]) -> Vec<String> {
        self.send(steps);
        self.trace()
    }
}

impl Drop for ExecutorProcess {
    fn drop(&mut self) {
        drop(self.programs.take());
        let _ = self.process.wait();
    }
}
