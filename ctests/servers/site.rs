//! What a server is started with: a directory, a port, keys, the accelerator's configuration, and the
//! environment; all of it from the files of examples/, with other paths.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Failed;

use super::accelerator::Accelerator;
use super::load::Key;
use crate::check::expect;
use crate::openssl::Openssl;
use crate::stage::{ROOT, command, output_of};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    Libcrypto,
    Rsasync,
}

impl Library {
    pub fn name(self) -> &'static str {
        match self {
            Self::Libcrypto => "libcrypto",
            Self::Rsasync => "rsasync",
        }
    }
}

pub struct Site {
    pub directory: PathBuf,
    pub address: SocketAddr,
    pub openssl: &'static Openssl,
    pub library: Library,
    /// None for a server that starts no jobs.
    pub accelerator: Option<Accelerator>,
    /// Settings besides those of the systemd drop-in.
    pub settings: &'static [&'static str],
}

impl Site {
    /// An empty directory of this name, a free port, and what the accelerator needs.
    pub fn new(
        name: &str,
        openssl: &'static Openssl,
        library: Library,
        accelerator: Option<Accelerator>,
    ) -> Result<Self, Failed> {
        let directory = openssl
            .platform
            .directory
            .join("servers")
            .join(&openssl.version)
            .join(name)
            .join(library.name());
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)?;
        // A free port: the kernel chose it, and the listener is closed at once.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let site = Self {
            directory,
            address,
            openssl,
            library,
            accelerator,
            settings: &[],
        };
        if let Some(accelerator) = accelerator {
            accelerator.prepare(&site)?;
        }
        for key in site.keys() {
            site.make_key(*key)?;
        }
        Ok(site)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// An engine that pauses must not serve an RSA key: libcrypto's lock of the key would be held
    /// while the job is paused.
    pub fn keys(&self) -> &'static [Key] {
        match self.accelerator {
            Some(Accelerator::Provider) => &[Key::Ec, Key::Rsa],
            _ => &[Key::Ec],
        }
    }

    /// The file of a key and its certificate. A server that is given `site.pem` and does not find it
    /// takes both of these.
    pub fn pem(&self, key: Key) -> PathBuf {
        self.path(match (key, self.keys()) {
            (_, [_]) => "site.pem",
            (Key::Ec, _) => "site.pem.ecdsa",
            (Key::Rsa, _) => "site.pem.rsa",
        })
    }

    fn make_key(&self, key: Key) -> Result<(), Failed> {
        let file = self.pem(key);
        let mut request = command("openssl", 60);
        request.args(["req", "-x509", "-nodes", "-days", "30"]);
        request.args(["-subj", "/CN=localhost", "-newkey"]);
        match key {
            Key::Ec => request.args(["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]),
            Key::Rsa => request.arg("rsa:2048"),
        };
        // With one file for both, the certificate would replace the key.
        let certificate = output_of(request.arg("-keyout").arg(&file))?.stdout;
        let mut pem = fs::read(&file)?;
        pem.extend(certificate);
        Ok(fs::write(&file, pem)?)
    }

    /// A program, with the environment that systemd would give it by this drop-in of examples/.
    pub fn command(&self, program: &Path, drop_in: &str) -> Result<Command, Failed> {
        /// Seconds that a server may run, should nobody end it.
        const MOST: u32 = 900;
        let mut command = self.openssl.command("env", MOST);
        for line in example(drop_in, &[])?.lines() {
            let Some((name, _)) = line
                .strip_prefix("Environment=")
                .and_then(|setting| setting.split_once('='))
            else {
                continue;
            };
            match name {
                "LD_PRELOAD" if self.library == Library::Libcrypto => {}
                "LD_PRELOAD" => {
                    command.arg(self.openssl.platform.preloading());
                }
                "OPENSSL_CONF" if self.accelerator.is_none() => {}
                "OPENSSL_CONF" => {
                    command.arg(format!(
                        "OPENSSL_CONF={}",
                        self.path("openssl.cnf").display()
                    ));
                }
                _ => return Err(format!("{drop_in}: nothing known about {name}").into()),
            }
        }
        command.args(self.settings);
        if let Some(accelerator) = &self.accelerator {
            command.args(accelerator.environment(self));
        }
        command.arg(program).current_dir(&self.directory);
        Ok(command)
    }

    /// Writes a file of examples/ into the directory, with these replacements.
    pub fn write_example(
        &self,
        file: &str,
        to: &str,
        replacements: &[(&str, &str)],
    ) -> Result<PathBuf, Failed> {
        let path = self.path(to);
        fs::write(&path, example(file, replacements)?)?;
        Ok(path)
    }
}

/// The text of a file of examples/, in which each of these words is replaced.
pub fn example(file: &str, replacements: &[(&str, &str)]) -> Result<String, Failed> {
    let mut text = fs::read_to_string(ROOT.join("examples").join(file))?;
    for (from, to) in replacements {
        expect(text.contains(from), format!("no \"{from}\" in {file}"))?;
        text = text.replace(from, to);
    }
    Ok(text)
}
