//! A process that runs: what /proc tells of it, and its memory.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};
use procfs::process::{self, MMapPath};

use crate::error::{Error, Kind, Result};
use crate::memory::{Mapping, Memory, Pages};

pub struct Process {
    pub pid: i32,
    /// The name of its program, as `ps` shows it.
    pub name: String,
    proc: process::Process,
    memory: File,
    /// None where the kernel has none.
    pagemap: Option<File>,
    mappings: Vec<Mapping>,
    auxiliary: HashMap<u64, u64>,
}

/// A line of the process table.
pub struct Entry {
    pub pid: i32,
    pub parent: i32,
}

/// All processes of the system, as far as this one sees them.
pub fn all() -> Result<Vec<Entry>> {
    let all = process::all_processes()?.flatten();
    let entries = all.filter_map(|process| {
        let stat = process.stat().ok()?;
        let (pid, parent) = (stat.pid, stat.ppid);
        Some(Entry { pid, parent })
    });
    Ok(entries.collect())
}

/// These processes, each followed by its children and theirs.
pub fn with_descendants(pids: &[i32]) -> Result<Vec<i32>> {
    let all = all()?;
    let mut waiting: Vec<i32> = pids.iter().rev().copied().collect();
    let mut tree = Vec::new();
    while let Some(pid) = waiting.pop() {
        if tree.contains(&pid) {
            continue;
        }
        tree.push(pid);
        let mut children: Vec<_> = all.iter().filter(|it| it.parent == pid).collect();
        children.sort_by_key(|child| std::cmp::Reverse(child.pid));
        waiting.extend(children.iter().map(|child| child.pid));
    }
    Ok(tree)
}

/// The name of a process's program, which everybody may see.
pub fn name(pid: i32) -> Option<String> {
    Some(printable(
        &process::Process::new(pid).ok()?.stat().ok()?.comm,
    ))
}

impl Process {
    pub fn open(pid: i32) -> Result<Self> {
        let proc = process::Process::new(pid)?;
        let stat = proc.stat()?;
        if stat.state == 'Z' {
            return Err(Error::new("has ended, and waits for its parent to notice"));
        }
        const KERNEL_THREAD: u32 = 0x0020_0000; // PF_KTHREAD in the kernel's sched.h
        if stat.flags & KERNEL_THREAD != 0 {
            return Err(Error::new("not a process of a program: a kernel thread"));
        }
        // One call of each kind that needs permission, before anything is read.
        let memory = proc.mem().map_err(|error| why_not(&proc, error.into()))?;
        let maps = proc.maps().map_err(|error| why_not(&proc, error.into()))?;
        let mappings = maps.into_iter().filter_map(|map| {
            let MMapPath::Path(path) = map.pathname else {
                return None;
            };
            let text = path.to_string_lossy();
            let (path, is_deleted) = match text.strip_suffix(" (deleted)") {
                Some(path) => (PathBuf::from(path), true),
                None => (path, false),
            };
            Some(Mapping {
                addresses: map.address.0..map.address.1,
                offset: map.offset,
                path,
                inode: map.inode,
                is_deleted,
            })
        });
        Ok(Self {
            pid,
            name: printable(&stat.comm),
            memory,
            pagemap: File::open(format!("/proc/{pid}/pagemap")).ok(),
            mappings: mappings.collect(),
            auxiliary: proc.auxv().unwrap_or_default(),
            proc,
        })
    }

    /// What went wrong in reading it, or that it has ended meanwhile.
    pub fn or_ended(&self, error: Error) -> Error {
        let state = self.proc.stat().map(|stat| stat.state);
        match state {
            Ok(state) if state != 'Z' && state != 'X' => error,
            _ => Error::new("has ended"),
        }
    }

    /// The environment that it was started with, unless it has written over it.
    pub fn environment(&self) -> HashMap<OsString, OsString> {
        self.proc.environ().unwrap_or_default()
    }

    pub fn parent(&self) -> Option<i32> {
        Some(self.proc.stat().ok()?.ppid)
    }

    /// A file of its file system, by a path as the process itself would use it.
    pub fn in_its_root(&self, path: &Path) -> PathBuf {
        let proc = PathBuf::from(format!("/proc/{}", self.pid));
        match path.strip_prefix("/") {
            Ok(path) => proc.join("root").join(path),
            Err(_) => proc.join("cwd").join(path),
        }
    }

    /// Whether the path of an object names another file by now, or none.
    pub fn is_replaced(&self, first: &Mapping) -> bool {
        let places = [self.in_its_root(&first.path), first.path.clone()];
        first.is_deleted || !places.iter().any(|path| self.is_shown_by(first, path))
    }

    /// Whether an object's first mapping shows this file. Some file systems, as those of containers,
    /// give a file another inode there than here; its first page has the ELF headers and mostly the
    /// build's number.
    fn is_shown_by(&self, first: &Mapping, path: &Path) -> bool {
        const PAGE_BYTES: usize = 4096;
        let Some(found) = fs::metadata(path).ok().filter(|found| found.is_file()) else {
            return false; // a pipe, say, which would be waited for
        };
        let is_same_inode = found.ino() == first.inode;
        let (mut here, mut there) = (vec![0; PAGE_BYTES], vec![0; PAGE_BYTES]);
        let is_read = File::open(path).is_ok_and(|it| it.read_exact_at(&mut here, 0).is_ok());
        let mut is_same_page =
            || is_read && self.read(first.addresses.start, &mut there).is_some() && here == there;
        is_same_inode || is_same_page()
    }
}

impl Memory for Process {
    fn read(&self, address: u64, to: &mut [u8]) -> Option<()> {
        self.memory.read_exact_at(to, address).ok()
    }

    fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    fn auxiliary(&self, key: u64) -> Option<u64> {
        self.auxiliary.get(&key).copied()
    }

    fn pages(&self, addresses: Range<u64>) -> Option<Pages> {
        // Bits of an entry of /proc/PID/pagemap.
        const PRESENT: u64 = 1 << 63;
        const SWAPPED: u64 = 1 << 62;
        const ENTRY_BYTES: u64 = 8;
        let page_bytes = procfs::page_size();
        let first = addresses.start / page_bytes;
        let count = addresses.end.div_ceil(page_bytes).checked_sub(first)?;
        let mut entries = vec![0; usize::try_from(count * ENTRY_BYTES).ok()?];
        let pagemap = self.pagemap.as_ref()?;
        pagemap
            .read_exact_at(&mut entries, first * ENTRY_BYTES)
            .ok()?;
        let entries = entries.chunks_exact(ENTRY_BYTES as usize);
        let entries = entries.map(|it| u64::from_le_bytes(it.try_into().expect("eight bytes")));
        let (mut resident, mut lowest) = (0, None);
        for (page, entry) in (first..).zip(entries) {
            resident += u64::from(entry & PRESENT != 0);
            if entry & (PRESENT | SWAPPED) != 0 {
                lowest = lowest.or(Some(page * page_bytes));
            }
        }
        Some(Pages {
            resident_bytes: resident * page_bytes,
            lowest,
        })
    }

    fn open(&self, mapping: &Mapping) -> Option<File> {
        let range = &mapping.addresses;
        let (pid, start, end) = (self.pid, range.start, range.end);
        let places = [
            format!("/proc/{pid}/map_files/{start:x}-{end:x}").into(),
            format!("/proc/{pid}/exe").into(),
            self.in_its_root(&mapping.path),
            mapping.path.clone(),
        ];
        let mut shown = places.iter().filter(|path| self.is_shown_by(mapping, path));
        shown.find_map(|path| File::open(path).ok())
    }
}

/// Says as whom a refused look can be taken.
fn why_not(proc: &process::Process, error: Error) -> Error {
    if error.kind != Kind::NoPermission {
        return error;
    }
    let me = nix::unistd::geteuid();
    let user = proc.status().ok().map(|status| Uid::from_raw(status.euid));
    // The files in /proc belong to root if the process has changed its user or must not be dumped.
    let is_closed = proc.uid().ok().map(Uid::from_raw) != user;
    let users_name = user.and_then(|user| Some(User::from_uid(user).ok()??.name));
    let as_whom = match users_name {
        Some(name) if user != Some(me) && !is_closed => {
            format!("run as root or as the user {name}")
        }
        _ if me.is_root() => "root needs the capability CAP_SYS_PTRACE".to_owned(),
        _ if !is_closed && is_restricted() => {
            "run as root, as kernel.yama.ptrace_scope is not 0".to_owned()
        }
        _ => "run as root".to_owned(),
    };
    Error::of_kind(Kind::NoPermission, format!("no permission: {as_whom}"))
}

/// Whether the system keeps users from reading even their own processes.
fn is_restricted() -> bool {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    scope.is_ok_and(|scope| scope.trim() != "0")
}

/// Text that a process has chosen, without what would command a terminal or forge a line.
pub fn printable(text: &str) -> String {
    let shown = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    text.chars().map(shown).collect()
}
