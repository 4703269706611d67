//! The accelerator of the tests, an engine and a provider, which pause jobs (accelerator/ has their
//! source).

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use libtest_mimic::Failed;

use super::site::Site;
use crate::openssl::Openssl;
use crate::stage::{ROOT, output_of};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    Engine,
    Provider,
}

/// Microseconds that an operation takes.
const DELAY_US: u32 = 200;

impl Accelerator {
    pub fn name(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Provider => "provider",
        }
    }

    /// Builds it, and writes the configuration by which OpenSSL finds it, and the file that counts
    /// pauses.
    pub fn prepare(self, site: &Site) -> Result<(), Failed> {
        let object = self.build(site.openssl)?.display().to_string();
        let replacements = match self {
            Self::Engine => [
                ("/usr/lib/x86_64-linux-gnu/engines-3/qatengine.so", &*object),
                ("qatengine", "accelerator"),
            ],
            Self::Provider => [
                (
                    "/usr/lib/x86_64-linux-gnu/ossl-modules/qatprovider.so",
                    &*object,
                ),
                ("qatprovider", "accelerator"),
            ],
        };
        let example = format!("openssl/{}.cnf", self.name());
        site.write_example(&example, "openssl.cnf", &replacements)?;
        Ok(fs::write(pauses_file(site), 0_u64.to_ne_bytes())?)
    }

    fn build(self, openssl: &Openssl) -> Result<PathBuf, Failed> {
        /// Trials that run at the same time build the same files.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock();
        let object = openssl
            .built()
            .join(format!("accelerator-{}.so", self.name()));
        let sources = ROOT.join("ctests/servers/accelerator");
        let source = sources.join(format!("{}.c", self.name()));
        let mut cc = openssl.platform.compiler(&source);
        cc.arg(sources.join("pause.c"));
        // Its thread runs until the process ends, also after libcrypto has closed the object.
        cc.args(["-shared", "-fPIC", "-Wl,-z,nodelete"]);
        cc.args(openssl.compile_flags()).arg("-lcrypto");
        output_of(cc.arg("-o").arg(&object))?;
        Ok(object)
    }

    /// Settings for a server's environment.
    pub fn environment(self, site: &Site) -> [String; 2] {
        [
            format!("ACCELERATOR_DELAY_US={DELAY_US}"),
            format!("ACCELERATOR_PAUSES={}", pauses_file(site).display()),
        ]
    }
}

fn pauses_file(site: &Site) -> PathBuf {
    site.path("pauses")
}

/// How many times jobs have paused so far.
pub fn pauses(site: &Site) -> u64 {
    let bytes = fs::read(pauses_file(site)).unwrap_or_default();
    bytes.try_into().map_or(0, u64::from_ne_bytes)
}
