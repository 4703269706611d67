//! A server that runs: its processes, what they use, and their end.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use procfs::process::{Process, all_processes};

use crate::check::expect;

/// How long a server may take to start, to reload, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process group, which is killed when this is dropped.
pub struct Group(i32);

impl Group {
    /// Starts a program as the first of a group. What it prints goes to a file.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self, Failed> {
        let log = File::create(log)?;
        command
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        // SAFETY: the closure makes one system call, and uses no memory but its own.
        unsafe { command.pre_exec(end_with_this_thread) };
        let mut child = command.spawn()?;
        let group = Self(child.id().cast_signed());
        // Nobody else would ask for its status.
        thread::spawn(move || child.wait());
        Ok(group)
    }

    /// The group of a daemon that has written its number into a file.
    pub fn of_daemon(pid_file: &Path) -> Result<Self, Failed> {
        read_pid(pid_file).map(Self)
    }

    /// The process that it began with.
    pub fn first(&self) -> i32 {
        self.0
    }

    /// Its processes of this name, the oldest first, without those that have ended.
    pub fn processes(&self, name: &str) -> Vec<Process> {
        let all = all_processes().into_iter().flatten().flatten();
        let mut found: Vec<_> = all
            .filter_map(|process| Some((process.stat().ok()?, process)))
            .filter(|(stat, _)| stat.pgrp == self.0 && stat.comm == name && stat.state != 'Z')
            .collect();
        found.sort_by_key(|(stat, _)| (stat.starttime, stat.pid));
        found.into_iter().map(|(_, process)| process).collect()
    }

    fn is_empty(&self) -> bool {
        let all = all_processes().into_iter().flatten().flatten();
        let mut stats = all.filter_map(|process| process.stat().ok());
        !stats.any(|stat| stat.pgrp == self.0 && stat.state != 'Z')
    }

    pub fn wait_until_empty(&self) -> Result<(), Failed> {
        wait_until("the server to end", || self.is_empty())
    }
}

/// Should the tests be killed, `timeout` ends, and with it the server; this thread is the one that
/// would have dropped the group.
fn end_with_this_thread() -> io::Result<()> {
    // SAFETY: plain system call.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: plain system call; the group is one that was started here.
        unsafe { libc::kill(-self.0, libc::SIGKILL) };
    }
}

pub fn signal(pid: i32, signal: i32) -> Result<(), Failed> {
    // SAFETY: plain system call, to a process of a group that was started here.
    let sent = unsafe { libc::kill(pid, signal) };
    expect(sent == 0, format!("process {pid} is gone"))
}

pub fn read_pid(file: &Path) -> Result<i32, Failed> {
    wait_until("a pid file", || pid_in(file).is_some())?;
    Ok(pid_in(file).ok_or("the pid file is gone")?)
}

fn pid_in(file: &Path) -> Option<i32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Bytes in memory of these processes in all.
pub fn resident_bytes(pids: &[i32]) -> u64 {
    let kib = pids.iter().filter_map(|pid| {
        let status = Process::new(*pid).and_then(|process| process.status());
        status.ok()?.vmrss
    });
    kib.sum::<u64>() << 10
}

pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), Failed> {
    let start = Instant::now();
    while !is_so() {
        expect(
            start.elapsed() < PATIENCE,
            format!("waited in vain for {what}"),
        )?;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// All files of a server's log, one after the other.
pub fn read_logs(files: &[PathBuf]) -> String {
    let texts = files.iter().filter_map(|file| fs::read(file).ok());
    let texts = texts.map(|text| String::from_utf8_lossy(&text).into_owned());
    texts.collect()
}
