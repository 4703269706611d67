//! HAProxy: a master, and a worker with threads, which a reload replaces.

use std::path::Path;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use super::process::{Group, wait_until};
use super::server::{Server, pids, signal_first};
use super::site::Site;
use crate::stage::{command, stdout_of};

pub struct Haproxy;

const PROGRAM: &str = "/usr/sbin/haproxy";

impl Server for Haproxy {
    fn name(&self) -> &'static str {
        "HAProxy"
    }

    fn version(&self) -> Result<String, Failed> {
        // HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/
        let said = stdout_of(command(PROGRAM, 60).arg("-v"))?;
        Ok(said.split_whitespace().nth(2).unwrap_or("?").to_owned())
    }

    fn start(&self, site: &Site) -> Result<Group, Failed> {
        let socket = site.path("admin.sock");
        let pem = site.path("site.pem");
        let bind = format!("bind {} ", site.address);
        let configuration = site.write_example(
            "haproxy/haproxy.cfg",
            "haproxy.cfg",
            &[
                ("bind :443 ", &bind),
                ("/etc/haproxy/site.pem", &pem.display().to_string()),
                ("/run/haproxy/admin.sock", &socket.display().to_string()),
            ],
        )?;
        let drop_in = "systemd/haproxy.service.d/rsasync.conf";
        let mut command = site.command(Path::new(PROGRAM), drop_in)?;
        Group::start(
            command.arg("-W").arg("-f").arg(configuration),
            &site.path("log"),
        )
    }

    /// The last one: an old worker may still serve the connections that it has.
    fn workers(&self, group: &Group) -> Vec<i32> {
        let all = pids(group, "haproxy");
        all.iter().skip(1).last().copied().into_iter().collect()
    }

    fn reload(&self, group: &Group, _: &Site, _: bool) -> Result<(), Failed> {
        let before = self.workers(group);
        let mut asked: Option<Instant> = None;
        wait_until("a new worker", || {
            // A master that has just started may miss the signal.
            if asked.is_none_or(|since| since.elapsed() > Duration::from_secs(10)) {
                let _ = signal_first(group, self.process(), libc::SIGUSR2);
                asked = Some(Instant::now());
            }
            let now = self.workers(group);
            !now.is_empty() && now != before
        })
    }

    fn process(&self) -> &'static str {
        "haproxy"
    }
}
