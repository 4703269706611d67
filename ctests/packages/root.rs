//! A system of its own to install packages into: a clean Debian in a folder, without a network.

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Failed;

use harness::stage::{command, output_of};

use crate::FOLDER;

pub struct Root {
    directory: PathBuf,
    /// Folders of this machine that it has as well, at the same places.
    lent: Vec<PathBuf>,
}

impl Root {
    /// A new one, of what ctests/packages/prepare made.
    pub fn new(name: &str) -> Result<Self, Failed> {
        let directory = FOLDER.join("roots").join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)?;
        let mut tar = command("tar", 120);
        tar.arg("--extract")
            .arg("--file")
            .arg(FOLDER.join("clean.tar"));
        output_of(tar.arg("--directory").arg(&directory))?;
        Ok(Self {
            directory,
            lent: Vec::new(),
        })
    }

    /// Has a folder of this machine as well, at the same place, to read.
    pub fn lend(&mut self, folder: PathBuf) -> Result<(), Failed> {
        fs::create_dir_all(self.path(&folder.to_string_lossy()))?;
        self.lent.push(folder);
        Ok(())
    }

    /// A path of the system's, from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        self.directory.join(path.trim_start_matches('/'))
    }

    /// Copies these files into one of its folders, which then has no others.
    pub fn put(&self, files: &[PathBuf], folder: &str) -> Result<(), Failed> {
        let folder = self.path(folder);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        for file in files {
            let name = file.file_name().ok_or("a file without a name")?;
            fs::copy(file, folder.join(name))?;
        }
        Ok(())
    }

    /// What a script prints there, on both outputs; a command in it that fails ends it, and fails.
    /// Each script is in namespaces of its own, so that none of its processes outlives it.
    pub fn run(&self, script: &str) -> Result<String, Failed> {
        let mut unshare = command("unshare", 300);
        unshare.args(["--mount", "--pid", "--net", "--fork", "--kill-child"]);
        unshare.args(["sh", "-c"]);
        let mut mounts = "mount -t proc proc \"$0/proc\"".to_owned();
        for folder in &self.lent {
            let folder = folder.display();
            mounts.push_str(&format!(" && mount -o bind,ro {folder} \"$0{folder}\""));
        }
        unshare.arg(format!("{mounts} && exec chroot \"$0\" sh -eu -c \"$1\""));
        unshare
            .arg(&self.directory)
            .arg(format!("exec 2>&1; cd /root; {script}"));
        unshare
            .env("LC_ALL", "C.UTF-8")
            .env_remove("LD_LIBRARY_PATH");
        let output = output_of(&mut unshare)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// All files, but those in which a system keeps what it did.
    pub fn files(&self) -> Result<String, Failed> {
        self.run(
            "find / -xdev \\( -path /proc -o -path /var/lib/dpkg -o -path /var/lib/rpm \
             -o -path /var/lib/apt -o -path /var/log -o -path /var/cache -o -path /root \
             -o -path /tmp -o -path /etc/ld.so.cache \\) -prune -o -print | sort",
        )
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The files of a folder whose names end so.
pub fn files_in(folder: &Path, end: &str) -> Result<Vec<PathBuf>, Failed> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(end) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
