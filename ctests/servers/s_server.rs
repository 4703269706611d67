//! `openssl s_server -async`: one process, one connection after the other.

use libtest_mimic::Failed;

use super::load::Key;
use super::process::{Group, signal};
use super::server::{Server, pids};
use super::site::Site;
use crate::openssl::Openssl;

pub struct SServer(pub &'static Openssl);

impl Server for SServer {
    fn name(&self) -> &'static str {
        "s_server"
    }

    fn version(&self) -> Result<String, Failed> {
        Ok(self.0.version.clone())
    }

    fn start(&self, site: &Site) -> Result<Group, Failed> {
        let drop_in = "systemd/haproxy.service.d/rsasync.conf";
        let mut command = site.command(&self.0.tool(), drop_in)?;
        command.args(["s_server", "-async", "-www", "-accept"]);
        command.arg(site.address.to_string());
        for (key, options) in [(Key::Ec, ["-cert", "-key"]), (Key::Rsa, ["-dcert", "-dkey"])] {
            if site.keys().contains(&key) {
                for option in options {
                    command.arg(option).arg(site.pem(key));
                }
            }
        }
        Group::start(&mut command, &site.path("log"))
    }

    fn workers(&self, group: &Group) -> Vec<i32> {
        pids(group, "openssl")
    }

    fn stop(&self, group: &Group) -> Result<(), Failed> {
        signal(self.workers(group)[0], libc::SIGTERM)?;
        group.wait_until_empty()
    }
}
