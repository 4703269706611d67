//! Traffic Server: a manager, and a server with threads, which the manager can replace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Failed;

use super::process::{Group, wait_until};
use super::server::{Server, pids};
use super::site::Site;
use crate::stage::{command, output_of, stdout_of};

pub struct TrafficServer;

/// Debian's directory of configuration files; examples/trafficserver has what differs.
const ETC: &str = "/etc/trafficserver";

impl Server for TrafficServer {
    fn name(&self) -> &'static str {
        "Traffic Server"
    }

    fn version(&self) -> Result<String, Failed> {
        // Traffic Server 9.2.9 Apr  4 2026 14:52:39 localhost
        let said = stdout_of(command("traffic_server", 60).arg("--version"))?;
        Ok(said.split_whitespace().nth(2).unwrap_or("?").to_owned())
    }

    fn start(&self, site: &Site) -> Result<Group, Failed> {
        let mut copy = command("cp", 60);
        output_of(copy.arg("-r").arg(ETC).arg(site.path("etc")))?;
        for directory in ["run", "log", "cache", "var"] {
            fs::create_dir(site.path(directory))?;
        }
        let of_site = site.directory.display().to_string();
        let port = format!("{}:ssl:ip-in=127.0.0.1", site.address.port());
        let records = "etc/records.config";
        site.write_example(
            "trafficserver/records.config",
            records,
            &[("443:ssl", &port), ("/etc/trafficserver/ssl", &of_site)],
        )?;
        // It may stay who it is: the tests' directories need not be open to others.
        let records = fs::OpenOptions::new()
            .append(true)
            .open(site.path(records))?;
        write_line(records, "CONFIG proxy.config.admin.user_id STRING #-1")?;
        let certificates = "trafficserver/ssl_multicert.config";
        site.write_example(certificates, "etc/ssl_multicert.config", &[])?;
        let cache = File::create(site.path("etc/storage.config"))?;
        write_line(cache, &format!("{of_site}/cache 32M"))?;
        let mut directories = String::new();
        for (name, path) in [
            ("prefix", "/usr"),
            ("exec_prefix", "/usr"),
            ("bindir", "/usr/bin"),
            ("sbindir", "/usr/sbin"),
            ("datadir", "/usr/share"),
            ("includedir", "/usr/include"),
            ("libdir", "/usr/lib"),
            ("libexecdir", "/usr/lib/trafficserver/modules"),
            ("mandir", "/usr/share/man"),
            ("infodir", "/usr/share/info"),
            ("sysconfdir", &format!("{of_site}/etc")),
            ("localstatedir", &format!("{of_site}/var")),
            ("runtimedir", &format!("{of_site}/run")),
            ("logdir", &format!("{of_site}/log")),
            ("cachedir", &format!("{of_site}/cache")),
        ] {
            directories += &format!("{name}: {path}\n");
        }
        fs::write(site.path("runroot.yaml"), directories)?;
        let drop_in = "systemd/trafficserver.service.d/rsasync.conf";
        let mut command = site.command(Path::new("traffic_manager"), drop_in)?;
        Group::start(command.arg(run_root(site)), &site.path("log/output"))
    }

    fn workers(&self, group: &Group) -> Vec<i32> {
        pids(group, "[TS_MAIN]")
    }

    /// A restart ends connections, so that it is tried while there are none.
    fn reload(&self, group: &Group, site: &Site, is_loaded: bool) -> Result<(), Failed> {
        if is_loaded {
            return reload_certificates(site);
        }
        let before = self.workers(group);
        output_of(control(site).args(["server", "restart"]))?;
        wait_until("a new server", || {
            let now = self.workers(group);
            !now.is_empty() && now != before
        })
    }

    fn process(&self) -> &'static str {
        "traffic_manager"
    }

    fn logs(&self, site: &Site) -> Vec<PathBuf> {
        ["output", "diags.log", "manager.log", "error.log"]
            .map(|file| site.path("log").join(file))
            .to_vec()
    }
}

fn reload_certificates(site: &Site) -> Result<(), Failed> {
    let log = site.path("log/diags.log");
    let times = || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.matches("ssl_multicert.config finished loading").count()
    };
    let before = times();
    let file = File::options()
        .append(true)
        .open(site.path("etc/ssl_multicert.config"))?;
    write_line(file, "# changed")?;
    output_of(control(site).args(["config", "reload"]))?;
    wait_until("the certificates to be read", || times() > before)
}

fn write_line(mut file: File, line: &str) -> Result<(), Failed> {
    use std::io::Write;
    Ok(writeln!(file, "{line}")?)
}

fn run_root(site: &Site) -> String {
    format!("--run-root={}", site.path("runroot.yaml").display())
}

fn control(site: &Site) -> Command {
    let mut control = command("traffic_ctl", 60);
    control.arg(run_root(site));
    control
}
