//! The kinds of packages: how each is built, and how a system installs, upgrades and removes it.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libtest_mimic::Failed;

use harness::check::expect;
use harness::stage::{BuiltOnce, ROOT, TARGET, command, output_of, unaware_of_make, version};

use crate::FOLDER;
use crate::root::{Root, files_in};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Deb,
    Rpm,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
        }
    }

    /// Where a system that takes such packages has libraries.
    pub fn libraries(self) -> String {
        match self {
            Self::Deb => format!("/usr/lib/{}-linux-gnu", ARCH),
            Self::Rpm => "/usr/lib64".to_owned(),
        }
    }

    /// What a clean Debian's tools have to be told to look where such a system's do by themselves.
    pub fn searching(self) -> &'static str {
        match self {
            Self::Deb => "",
            Self::Rpm => {
                "export PKG_CONFIG_PATH=/usr/lib64/pkgconfig LIBRARY_PATH=/usr/lib64 \
                 rsasync_DIR=/usr/lib64/cmake/rsasync;"
            }
        }
    }

    pub fn documents(self) -> Result<String, Failed> {
        Ok(match self {
            Self::Deb => "/usr/share/doc/rsasync".to_owned(),
            Self::Rpm => format!("/usr/share/doc/rsasync-{}", version()?),
        })
    }

    /// The command that tells which version and revision is installed.
    pub fn installed(self) -> &'static str {
        match self {
            Self::Deb => "dpkg-query --show rsasync",
            Self::Rpm => "rpm --query rsasync",
        }
    }

    /// The command that removes all of them.
    pub fn removal(self) -> &'static str {
        match self {
            Self::Deb => "apt purge $(dpkg-query --show --showformat '${Package} ' '*rsasync*')",
            Self::Rpm => "rpm --erase $(rpm --query --all --queryformat '%{NAME} ' '*rsasync*')",
        }
    }

    /// The README's line that installs packages, without the `make` before it.
    pub fn installation(self) -> Result<String, Failed> {
        readme_line(&format!("`make {} && ", self.name()))
    }

    /// The folder below target/packages that this line installs from.
    fn folder(self) -> &'static str {
        match self {
            Self::Deb => "",
            Self::Rpm => ARCH,
        }
    }

    /// The folder with the packages of this tree, built as a packager does who has no network: from
    /// crates that were there before.
    pub fn built(self, revision: u32) -> Result<PathBuf, Failed> {
        static DEBS: [BuiltOnce; 2] = [BuiltOnce::new(), BuiltOnce::new()];
        static RPMS: [BuiltOnce; 2] = [BuiltOnce::new(), BuiltOnce::new()];
        // They are built in one place.
        static TURN: Mutex<()> = Mutex::new(());
        let built = match self {
            Self::Deb => &DEBS,
            Self::Rpm => &RPMS,
        };
        let once = &built[revision as usize - 1];
        let folder = once.get_or_build(|| {
            let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
            self.build(revision)
        })?;
        Ok(folder.to_owned())
    }

    fn build(self, revision: u32) -> Result<PathBuf, Failed> {
        self.make(&ROOT, &TARGET, revision)?;
        let kept = FOLDER.join(format!("{}-{revision}", self.name()));
        self.keep(&FOLDER.join(self.folder()), &kept)
    }

    /// Makes the packages from these sources.
    pub fn make(self, sources: &Path, target: &Path, revision: u32) -> Result<(), Failed> {
        let mut unshare = command("unshare", 900);
        unshare.args(["--net", "make", self.name()]);
        unshare
            .arg(format!("REVISION={revision}"))
            .current_dir(sources);
        unaware_of_make(&mut unshare);
        unshare.env("CARGO_TARGET_DIR", target);
        unshare.env("CARGO_HOME", FOLDER.join("crates"));
        unshare.env("PATH", path_with_tools());
        output_of(&mut unshare).map(drop)
    }

    /// Copies the packages of a folder to where no other build puts its own.
    pub fn keep(self, folder: &Path, kept: &Path) -> Result<PathBuf, Failed> {
        let _ = fs::remove_dir_all(kept);
        fs::create_dir_all(kept)?;
        for package in self.packages(folder)? {
            let name = package.file_name().ok_or("a package without a name")?;
            fs::copy(&package, kept.join(name))?;
        }
        Ok(kept.to_owned())
    }

    pub fn packages(self, folder: &Path) -> Result<Vec<PathBuf>, Failed> {
        let packages = files_in(folder, &format!(".{}", self.name()))?;
        let none = packages.is_empty();
        expect(!none, format!("no packages in {}", folder.display()))?;
        Ok(packages)
    }

    /// Puts the packages where the README's line finds them, as on the machine that made them.
    pub fn bring(self, root: &Root, revision: u32) -> Result<(), Failed> {
        let folder = format!("/root/target/packages/{}", self.folder());
        root.put(&self.packages(&self.built(revision)?)?, &folder)
    }

    /// What a system of this kind has that a clean Debian lacks. apt does not ask back. rpm knows what
    /// is installed, the loader looks in lib64, and the common folders are there.
    pub fn adapt(self, root: &Root) -> Result<(), Failed> {
        match self {
            Self::Deb => fs::write(
                root.path("/etc/apt/apt.conf.d/yes"),
                "APT::Get::Assume-Yes \"1\";\n",
            )?,
            Self::Rpm => {
                fs::write(root.path("/etc/ld.so.conf.d/lib64.conf"), "/usr/lib64\n")?;
                for folder in [
                    "/usr/lib64/pkgconfig",
                    "/usr/share/fish/vendor_completions.d",
                    "/usr/share/licenses",
                    "/usr/share/zsh/site-functions",
                ] {
                    fs::create_dir_all(root.path(folder))?;
                }
                let of_system = of_debian(root)?;
                root.put(&[of_system], "/root/system")?;
                root.run("rpm --install system/*.rpm")?;
            }
        }
        Ok(())
    }

    /// Fails if the linter has a complaint that has no answer in src/packaging.
    pub fn lint(self, folder: &Path) -> Result<(), Failed> {
        let packages = self.packages(folder)?;
        let (name, options) = match self {
            Self::Deb => {
                let options = "--no-cfg --allow-root --display-info --pedantic --tag-display-limit 0 \
                               --fail-on error,warning,info,pedantic";
                ("lintian", options.to_owned())
            }
            Self::Rpm => {
                let answers = ROOT.join("src/packaging/rpmlint.toml");
                let spec = FOLDER.join("rsasync.spec");
                let options = format!("--strict --config {} {}", answers.display(), spec.display());
                ("rpmlint", options)
            }
        };
        let mut linter = command(name, 120);
        output_of(linter.args(options.split_whitespace()).args(packages)).map(drop)
    }
}

/// A line of the README's, after these words of it, as root types it.
pub fn readme_line(words: &str) -> Result<String, Failed> {
    let readme = fs::read_to_string(ROOT.join("README.md"))?;
    let line = readme.split_once(words).map(|(_, line)| line);
    let line = line.ok_or_else(|| format!("the README does not have {words}"))?;
    let end = line.find('`').ok_or("the README's line has no end")?;
    Ok(line[..end].replace("sudo ", ""))
}

/// A package that provides what Debian's own packages of the clean system have, as rpm would name it.
fn of_debian(root: &Root) -> Result<PathBuf, Failed> {
    let provided = root.run(
        "find -L /lib/*-linux-gnu -maxdepth 1 -name 'lib*.so.*' -o -name 'ld-linux*' | \
         /usr/lib/rpm/rpmdeps --provides",
    )?;
    let mut spec = "Name: debian\nVersion: 1\nRelease: 1\nSummary: What dpkg has installed\n\
                    License: none\n"
        .to_owned();
    for name in provided.lines().chain([
        "rtld(GNU_HASH)",
        "/bin/sh",
        "/sbin/ldconfig",
        "/usr/bin/pkg-config",
    ]) {
        spec.push_str(&format!("Provides: {name}\n"));
    }
    spec.push_str("%description\nWhat dpkg has installed.\n%files\n");
    let file = FOLDER.join("debian.spec");
    fs::write(&file, spec)?;
    let mut rpmbuild = command("rpmbuild", 60);
    rpmbuild.args(["-bb", "--define"]);
    rpmbuild.arg(format!("_rpmdir {}", FOLDER.join("system").display()));
    output_of(rpmbuild.arg(file))?;
    let built = files_in(&FOLDER.join("system").join(ARCH), ".rpm")?;
    built
        .into_iter()
        .next()
        .ok_or_else(|| "rpmbuild made nothing".into())
}

/// PATH with what ctests/packages/prepare installed.
fn path_with_tools() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", FOLDER.join("tools/bin").display())
}
