//! nginx: a daemon's master and its workers, which a reload replaces; and its replacement by another
//! binary, which gets only the environment that nginx.conf names.

use std::path::{Path, PathBuf};

use libtest_mimic::Failed;

use super::in_effect::is_in_effect;
use super::load::{Key, wait_until_served};
use super::process::{Group, read_pid, signal, wait_until};
use super::server::{Server, pids, signal_first};
use super::site::{Library, Site, example};
use crate::check::expect;
use crate::openssl::SYSTEM;
use crate::stage::{command, output_of, stderr_of};

pub struct Nginx {
    /// Whether the configuration names LD_PRELOAD, as the one in examples/ does.
    pub names_preload: bool,
}

const PROGRAM: &str = "/usr/sbin/nginx";
const CONFIGURATION: &str = "nginx/nginx.conf";

impl Server for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn version(&self) -> Result<String, Failed> {
        // nginx version: nginx/1.22.1
        let said = stderr_of(command(PROGRAM, 60).arg("-v"))?;
        Ok(said.trim().rsplit('/').next().unwrap_or("?").to_owned())
    }

    fn start(&self, site: &Site) -> Result<Group, Failed> {
        let path = |file: &str| site.path(file).display().to_string();
        let (bind, pem) = (format!("listen {} ssl", site.address), path("site.pem"));
        let (log, pid) = (path("log"), path("pid"));
        let mut replacements = vec![
            ("listen 443 ssl", bind.as_str()),
            ("/etc/nginx/site.pem", &pem),
            ("/var/log/nginx/error.log", &log),
            ("/run/nginx.pid", &pid),
            // Its workers may stay who they are: the tests' directories need not be open to others.
            ("user www-data;", "user root root;"),
        ];
        if !self.names_preload {
            replacements.push(("env LD_PRELOAD;\n", ""));
        }
        let configuration = site.write_example(CONFIGURATION, "nginx.conf", &replacements)?;
        let drop_in = "systemd/nginx.service.d/rsasync.conf";
        let mut command = site.command(Path::new(PROGRAM), drop_in)?;
        // It becomes a daemon: as somebody's child it ignores the signal to replace its binary.
        command.arg("-p").arg(&site.directory);
        output_of(command.arg("-c").arg(configuration))?;
        Group::of_daemon(&site.path("pid"))
    }

    fn workers(&self, group: &Group) -> Vec<i32> {
        let mut all = pids(group, "nginx");
        all.retain(|pid| *pid != group.first());
        all
    }

    fn reload(&self, group: &Group, _: &Site, _: bool) -> Result<(), Failed> {
        let before = self.workers(group);
        signal(group.first(), libc::SIGHUP)?;
        wait_until("new workers", || {
            let now = self.workers(group);
            now.len() == before.len() && !now.iter().any(|pid| before.contains(pid))
        })
    }

    fn process(&self) -> &'static str {
        "nginx"
    }

    fn stop(&self, group: &Group) -> Result<(), Failed> {
        signal_first(group, self.process(), libc::SIGQUIT)?;
        group.wait_until_empty()
    }

    fn logs(&self, site: &Site) -> Vec<PathBuf> {
        vec![site.path("log")]
    }
}

/// Replaces nginx's binary by itself, with rsasync preloaded: is that so in the new one?
pub fn upgrade(names_preload: bool) -> Result<(), Failed> {
    let nginx = Nginx { names_preload };
    let name = format!("nginx-upgrade-{names_preload}");
    let site = Site::new(&name, &SYSTEM, Library::Rsasync, None)?;
    let group = nginx.start(&site)?;
    wait_until_served(site.address, Key::Ec)?;
    let old = pids(&group, "nginx");
    old.iter().try_for_each(|pid| is_in_effect(*pid))?;

    signal(group.first(), libc::SIGUSR2)?;
    let old_pid = site.path("pid.oldbin");
    wait_until("a second master", || old_pid.exists())?;
    let master = read_pid(&site.path("pid"))?;
    signal(group.first(), libc::SIGQUIT)?;
    wait_until("the old binary to end", || {
        let now = pids(&group, "nginx");
        !now.iter().any(|pid| old.contains(pid)) && now.len() == old.len()
    })?;
    wait_until_served(site.address, Key::Ec)?;
    for pid in pids(&group, "nginx") {
        match (names_preload, is_in_effect(pid)) {
            (true, in_effect) => in_effect?,
            (false, Ok(())) => {
                let why = "the new binary has rsasync though nginx.conf does not name LD_PRELOAD";
                return Err(format!("{why}: the comment there is wrong").into());
            }
            (false, Err(_)) => {}
        }
    }
    signal(master, libc::SIGQUIT)?;
    group.wait_until_empty()
}

/// nginx.conf passes on every variable that rsasync reads.
pub fn names_all_variables() -> Result<(), Failed> {
    let text = example(CONFIGURATION, &[])?;
    let source = crate::stage::ROOT.join("README.md");
    let readme = std::fs::read_to_string(source)?;
    let variables = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| `RSASYNC_")?.split('`').next());
    for variable in variables {
        let line = format!("env RSASYNC_{variable};");
        expect(
            text.contains(&line),
            format!("no \"{line}\" in {CONFIGURATION}"),
        )?;
    }
    Ok(())
}
