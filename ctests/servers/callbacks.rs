//! A TLS server of our own that asks for callbacks instead of descriptors (callback_server.c): no
//! server that Debian has does.

use std::path::PathBuf;
use std::sync::Mutex;

use libtest_mimic::Failed;

use super::load::Key;
use super::process::Group;
use super::server::{Server, pids};
use super::site::Site;
use crate::openssl::Openssl;
use crate::stage::{ROOT, output_of};

pub struct CallbackServer(pub &'static Openssl);

const NAME: &str = "callback_server";

impl CallbackServer {
    fn build(&self) -> Result<PathBuf, Failed> {
        /// Trials that run at the same time build the same file.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock();
        let program = self.0.built().join(NAME);
        let source = ROOT.join("ctests/servers").join(NAME).with_extension("c");
        let mut cc = self.0.platform.compiler(&source);
        cc.args(self.0.compile_flags()).args(["-lssl", "-lcrypto"]);
        output_of(cc.arg("-o").arg(&program))?;
        Ok(program)
    }
}

impl Server for CallbackServer {
    fn name(&self) -> &'static str {
        "callbacks"
    }

    fn version(&self) -> Result<String, Failed> {
        Ok(self.0.version.clone())
    }

    fn start(&self, site: &Site) -> Result<Group, Failed> {
        let drop_in = "systemd/haproxy.service.d/rsasync.conf";
        let mut command = site.command(&self.build()?, drop_in)?;
        command.arg(site.address.port().to_string());
        command.args(
            [Key::Ec, Key::Rsa]
                .iter()
                .filter(|key| site.keys().contains(key))
                .map(|key| site.pem(*key)),
        );
        Group::start(&mut command, &site.path("log"))
    }

    fn workers(&self, group: &Group) -> Vec<i32> {
        pids(group, NAME)
    }

    fn process(&self) -> &'static str {
        NAME
    }
}
