//! A core file: the memory, threads and signal of a process that has ended.
//!
//! Code and constants are not in it, as a rule; they come from the files that were mapped, if those
//! are the same still.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Seek;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, ReadCache};

use crate::error::{Error, Result};
use crate::memory::{Mapping, Memory, Pages};

const ENDIAN: LittleEndian = LittleEndian;

pub struct Core {
    pub pid: i32,
    pub name: String,
    /// The one that the signal ended first.
    pub threads: Vec<Thread>,
    pub signal: Option<Signal>,
    file: File,
    segments: Vec<Segment>,
    mappings: Vec<Mapping>,
    /// Where segments and mappings begin and end, sorted.
    bounds: Vec<u64>,
    /// For each mapping its file, if that is what was mapped.
    files: Vec<Option<File>>,
    auxiliary: HashMap<u64, u64>,
}

#[derive(Clone, Copy)]
pub struct Thread {
    pub tid: i32,
    pub stack_pointer: u64,
}

/// What ended the process.
#[derive(Clone, Copy)]
pub struct Signal {
    pub number: i32,
    /// Of a fault: where.
    pub address: u64,
}

/// Memory in the core file. What was mapped and not written is not in it.
struct Segment {
    addresses: Range<u64>,
    offset: u64,
}

impl Core {
    /// Opens a core file of this program.
    pub fn open(core: &Path, exe: &Path) -> Result<Self> {
        let open = |path: &Path| {
            File::open(path).map_err(|error| Error::new(error.to_string()).about(path.display()))
        };
        let file = open(core)?;
        let exe_file = open(exe)?;
        Self::read(file, exe, exe_file).map_err(|error| error.about(core.display()))
    }

    fn read(file: File, exe: &Path, exe_file: File) -> Result<Self> {
        let broken = |_| Error::new("not a core file of a 64-bit program");
        let cache = ReadCache::new(&file);
        let header = FileHeader64::<LittleEndian>::parse(&cache).map_err(broken)?;
        if header.e_type.get(ENDIAN) != elf::ET_CORE {
            return Err(Error::new("not a core file"));
        }
        let mut core = Self {
            pid: 0,
            name: String::new(),
            threads: Vec::new(),
            signal: None,
            file: file
                .try_clone()
                .map_err(|error| Error::new(error.to_string()))?,
            segments: Vec::new(),
            mappings: Vec::new(),
            bounds: Vec::new(),
            files: Vec::new(),
            auxiliary: HashMap::new(),
        };
        for segment in header.program_headers(ENDIAN, &cache).map_err(broken)? {
            let start = segment.p_vaddr.get(ENDIAN);
            core.segments.push(Segment {
                addresses: start..start.saturating_add(segment.p_filesz.get(ENDIAN)),
                offset: segment.p_offset.get(ENDIAN),
            });
            let Some(mut notes) = segment.notes(ENDIAN, &cache).map_err(broken)? else {
                continue;
            };
            core.segments.pop();
            while let Some(note) = notes.next().map_err(broken)? {
                core.read_note(note.n_type(ENDIAN), note.desc());
            }
        }
        core.segments.sort_by_key(|segment| segment.addresses.start);
        core.mappings.sort_by_key(|mapping| mapping.addresses.start);
        let of_segments = core.segments.iter().map(|it| &it.addresses);
        let places = of_segments.chain(core.mappings.iter().map(|it| &it.addresses));
        core.bounds = places.flat_map(|it| [it.start, it.end]).collect();
        core.bounds.sort_unstable();
        core.find_files(exe, exe_file)?;
        Ok(core)
    }

    fn read_note(&mut self, kind: elf::NoteType, bytes: &[u8]) {
        match kind {
            elf::NT_PRSTATUS => self.threads.extend(thread(bytes)),
            elf::NT_PRPSINFO => {
                const PID: usize = 24;
                const NAME: Range<usize> = 40..56;
                self.pid = half(bytes, PID).unwrap_or(0) as i32;
                let name = bytes.get(NAME).unwrap_or_default();
                let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
                self.name = String::from_utf8_lossy(name).into_owned();
            }
            elf::NT_SIGINFO => {
                const ADDRESS: usize = 16;
                self.signal = half(bytes, 0)
                    .zip(word(bytes, ADDRESS))
                    .map(|(number, address)| Signal {
                        number: number as i32,
                        address,
                    });
            }
            elf::NT_AUXV => {
                let words: Vec<u64> = (0..bytes.len() / 8)
                    .filter_map(|index| word(bytes, index * 8))
                    .collect();
                let pairs = words.chunks_exact(2);
                self.auxiliary = pairs.map(|pair| (pair[0], pair[1])).collect();
            }
            elf::NT_FILE => self.mappings.extend(mapped_files(bytes)),
            _ => {}
        }
    }

    /// Opens the files that were mapped, as far as they are the same.
    fn find_files(&mut self, exe: &Path, exe_file: File) -> Result<()> {
        const AT_PHDR: u64 = 3;
        let program = self.auxiliary(AT_PHDR).and_then(|headers| {
            let mapping = (self as &dyn Memory).mapping_at(headers)?;
            Some(mapping.path.clone())
        });
        let program = program.ok_or_else(|| {
            Error::new("it does not tell what was mapped (no note NT_FILE or NT_AUXV)")
        })?;
        let mut opened: HashMap<PathBuf, Option<File>> = HashMap::new();
        for mapping in self.mappings.clone() {
            if mapping.offset == 0 && !opened.contains_key(&mapping.path) {
                let is_program = mapping.path == program;
                let file = match is_program {
                    true => exe_file.try_clone().ok(),
                    false => File::open(&mapping.path).ok(),
                };
                let same = file.filter(|file| self.is_shown_by(&mapping, file));
                if same.is_none() && is_program {
                    let why = "not the program of this core file; say the right one with --exe";
                    return Err(Error::new(why).about(exe.display()));
                }
                opened.insert(mapping.path.clone(), same);
            }
        }
        let files = self.mappings.iter().map(|mapping| {
            let file = opened.get(&mapping.path)?.as_ref()?;
            file.try_clone().ok()
        });
        self.files = files.collect();
        Ok(())
    }

    /// Whether the first page of a mapping, which core files have of an ELF object, is the file's.
    fn is_shown_by(&self, mapping: &Mapping, file: &File) -> bool {
        const PAGE_BYTES: usize = 4096;
        let (mut of_core, mut of_file) = (vec![0; PAGE_BYTES], vec![0; PAGE_BYTES]);
        self.read_dumped(mapping.addresses.start, &mut of_core)
            .is_some()
            && file.read_exact_at(&mut of_file, 0).is_ok()
            && of_core == of_file
    }

    /// Reads what the core file itself has.
    fn read_dumped(&self, address: u64, to: &mut [u8]) -> Option<()> {
        let after = self
            .segments
            .partition_point(|segment| segment.addresses.start <= address);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        let end = address.checked_add(to.len() as u64)?;
        if end > segment.addresses.end {
            return None;
        }
        let offset = segment.offset + (address - segment.addresses.start);
        self.file.read_exact_at(to, offset).ok()
    }

    fn read_mapped(&self, address: u64, to: &mut [u8]) -> Option<()> {
        let at = self
            .mappings
            .partition_point(|mapping| mapping.addresses.end <= address);
        let mapping = self.mappings.get(at)?;
        if !mapping.addresses.contains(&address) {
            return None;
        }
        let offset = mapping.offset + (address - mapping.addresses.start);
        self.files.get(at)?.as_ref()?.read_exact_at(to, offset).ok()
    }

    /// How many bytes from this address on come from one place.
    fn piece(&self, address: u64) -> u64 {
        let next = self.bounds.partition_point(|&bound| bound <= address);
        let end = self.bounds.get(next);
        end.map_or(u64::MAX, |end| end - address)
    }
}

impl Memory for Core {
    fn read(&self, address: u64, to: &mut [u8]) -> Option<()> {
        if self.read_dumped(address, to).is_some() {
            return Some(());
        }
        let mut done = 0;
        while done < to.len() {
            let at = address.checked_add(done as u64)?;
            let count = self.piece(at).min((to.len() - done) as u64) as usize;
            let part = &mut to[done..done + count];
            self.read_dumped(at, part)
                .or_else(|| self.read_mapped(at, part))?;
            done += count;
        }
        Some(())
    }

    fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    fn auxiliary(&self, key: u64) -> Option<u64> {
        self.auxiliary.get(&key).copied()
    }

    fn pages(&self, _addresses: Range<u64>) -> Option<Pages> {
        None
    }

    fn open(&self, mapping: &Mapping) -> Option<File> {
        let at = self
            .mappings
            .iter()
            .position(|it| it.addresses == mapping.addresses)?;
        let mut file = self.files.get(at)?.as_ref()?.try_clone().ok()?;
        file.rewind().ok()?; // clones share their place
        Some(file)
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// A thread's state (`struct elf_prstatus`).
fn thread(bytes: &[u8]) -> Option<Thread> {
    const TID: usize = 32;
    const REGISTERS: usize = 112;
    #[cfg(target_arch = "x86_64")]
    const STACK_POINTER: usize = 19;
    #[cfg(target_arch = "aarch64")]
    const STACK_POINTER: usize = 31;
    Some(Thread {
        tid: half(bytes, TID)? as i32,
        stack_pointer: word(bytes, REGISTERS + 8 * STACK_POINTER)?,
    })
}

/// The note NT_FILE: the number of mappings, the size of a page, a start, an end and an offset in
/// pages for each, and then their names.
fn mapped_files(bytes: &[u8]) -> Vec<Mapping> {
    const HEADER_BYTES: usize = 16;
    const ENTRY_BYTES: usize = 24;
    let count = word(bytes, 0).map_or(0, |count| count as usize);
    let Some(names) = count
        .checked_mul(ENTRY_BYTES)
        .and_then(|entries| bytes.get(HEADER_BYTES + entries..))
    else {
        return Vec::new();
    };
    let page_bytes = word(bytes, 8).unwrap_or(1);
    let names = names.split(|&byte| byte == 0);
    let mappings = names.take(count).enumerate().filter_map(|(index, name)| {
        let at = HEADER_BYTES + index * ENTRY_BYTES;
        Some(Mapping {
            addresses: word(bytes, at)?..word(bytes, at + 8)?,
            offset: word(bytes, at + 16)?.checked_mul(page_bytes)?,
            path: OsStr::from_bytes(name).into(),
            inode: 0,
            is_deleted: false,
        })
    });
    mappings.collect()
}
