//! `openssl s_server -async`: one process, one connection after the other.

use std::process::{Command, Stdio};
use std::thread;

use libtest_mimic::Failed;

use super::load::Key;
use super::process::Group;
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
        let mut command = site.command(self.0.tool(), drop_in)?;
        // It sends its input to each client. (A page, by -www, would take a second for each pause.)
        let mut page = Command::new("yes");
        let mut page = page.arg("HTTP/1.1 200 OK").stdout(Stdio::piped()).spawn()?;
        let stdin = page.stdout.take().ok_or("no pipe from yes")?;
        // It ends when nobody reads.
        thread::spawn(move || page.wait());
        command.args(["s_server", "-async", "-quiet", "-accept"]);
        command.arg(site.address.to_string());
        for (key, options) in [
            (Key::Ec, ["-cert", "-key"]),
            (Key::Rsa, ["-dcert", "-dkey"]),
        ] {
            if site.keys().contains(&key) {
                for option in options {
                    command.arg(option).arg(site.pem(key));
                }
            }
        }
        Group::start(command.stdin(stdin), &site.path("log"))
    }

    fn workers(&self, group: &Group) -> Vec<i32> {
        pids(group, "openssl")
    }

    fn process(&self) -> &'static str {
        "openssl"
    }
}
