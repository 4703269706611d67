//! A server of the tests: how it is started, how it reloads, and which of its processes serve.

use std::path::PathBuf;

use libtest_mimic::Failed;

use super::process::{Group, signal};
use super::site::Site;

pub trait Server: Send + Sync {
    fn name(&self) -> &'static str;

    fn version(&self) -> Result<String, Failed>;

    /// Starts it; it may serve only some time later.
    fn start(&self, site: &Site) -> Result<Group, Failed>;

    /// The processes that serve new connections.
    fn workers(&self, group: &Group) -> Vec<i32>;

    /// Reloads, and returns when the new configuration or worker serves. `is_loaded`: some
    /// connections are served meanwhile.
    fn reload(&self, _group: &Group, _site: &Site, _is_loaded: bool) -> Result<(), Failed> {
        Ok(())
    }

    /// The name of the process that a signal to the server goes to.
    fn process(&self) -> &'static str;

    /// Ends it in an orderly way.
    fn stop(&self, group: &Group) -> Result<(), Failed> {
        signal_first(group, self.process(), libc::SIGTERM)?;
        group.wait_until_empty()
    }

    /// The files that it logs to.
    fn logs(&self, site: &Site) -> Vec<PathBuf> {
        vec![site.path("log")]
    }
}

/// Sends a signal to the oldest process of this name.
pub fn signal_first(group: &Group, name: &str, number: i32) -> Result<(), Failed> {
    let pid = pids(group, name).first().copied();
    signal(pid.ok_or(format!("{name} has ended"))?, number)
}

/// The numbers of a group's processes of this name, the oldest first.
pub fn pids(group: &Group, name: &str) -> Vec<i32> {
    let processes = group.processes(name);
    processes.iter().map(|process| process.pid).collect()
}
