//! A server of the tests: how it is started, how it reloads, and which of its processes serve.

use std::path::PathBuf;

use libtest_mimic::Failed;

use super::process::Group;
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

    /// Ends it in an orderly way.
    fn stop(&self, group: &Group) -> Result<(), Failed>;

    /// The files that it logs to.
    fn logs(&self, site: &Site) -> Vec<PathBuf> {
        vec![site.path("log")]
    }
}

/// The numbers of a group's processes of this name, the oldest first.
pub fn pids(group: &Group, name: &str) -> Vec<i32> {
    let processes = group.processes(name);
    processes.iter().map(|process| process.pid).collect()
}
