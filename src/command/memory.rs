//! Memory that is looked at from outside, of a process or of a core file.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

/// What is read at once at most, in bytes: a torn or wild size must not exhaust the reader.
const MOST_BYTES: usize = 1 << 28;

/// A part of an address space that shows a file.
#[derive(Clone, Debug)]
pub struct Mapping {
    pub addresses: Range<u64>,
    /// Where in the file it begins.
    pub offset: u64,
    pub path: PathBuf,
    /// 0 where it is not known, in core files.
    pub inode: u64,
    /// The file has no name any more.
    pub is_deleted: bool,
}

/// What of some addresses has been touched.
pub struct Pages {
    pub resident_bytes: u64,
    /// The lowest page that is in memory, or was swapped out.
    pub lowest: Option<u64>,
}

pub trait Memory {
    /// Fills `to`; None if some of it can't be read.
    fn read(&self, address: u64, to: &mut [u8]) -> Option<()>;

    /// Those of files, by address.
    fn mappings(&self) -> &[Mapping];

    /// What the kernel told the program at its start, such as `AT_PHDR`.
    fn auxiliary(&self, key: u64) -> Option<u64>;

    /// The pages in these addresses; None if that is not known.
    fn pages(&self, addresses: Range<u64>) -> Option<Pages>;

    /// The file that a mapping shows, if it is still to be had.
    fn open(&self, mapping: &Mapping) -> Option<File>;
}

impl dyn Memory + '_ {
    pub fn bytes(&self, address: u64, count: u64) -> Option<Vec<u8>> {
        let count = usize::try_from(count).ok().filter(|&it| it <= MOST_BYTES)?;
        let mut bytes = vec![0; count];
        self.read(address, &mut bytes)?;
        Some(bytes)
    }

    pub fn word(&self, address: u64) -> Option<u64> {
        let mut word = [0; 8];
        self.read(address, &mut word)?;
        Some(u64::from_le_bytes(word))
    }

    pub fn half(&self, address: u64) -> Option<u32> {
        let mut half = [0; 4];
        self.read(address, &mut half)?;
        Some(u32::from_le_bytes(half))
    }

    pub fn mapping_at(&self, address: u64) -> Option<&Mapping> {
        let all = self.mappings();
        let at = all.partition_point(|mapping| mapping.addresses.end <= address);
        all.get(at).filter(|it| it.addresses.contains(&address))
    }
}
