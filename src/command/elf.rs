//! An ELF object as it lies in memory: its segments, dynamic symbols, relocations and notes.
//!
//! Everything is read from memory, so that stripped objects, and ones whose files are gone or
//! belong to another file system, are read too.

use std::ops::Range;

use object::elf::{
    self, Dyn64, FileHeader64, ProgramFlags, ProgramHeader64, ProgramType, Rela64, Sym64,
};
use object::pod::{from_bytes, slice_from_bytes};
use object::read::elf::{GnuHashTable, HashTable};
use object::{LittleEndian, pod::Pod};

use crate::error::{Error, Kind, Result};
use crate::memory::{Mapping, Memory};

/// Of the processors that rsasync runs on.
const ENDIAN: LittleEndian = LittleEndian;

pub struct Object {
    /// What is added to an address in the file.
    pub bias: u64,
    segments: Vec<Segment>,
    /// Whether another program, the loader, starts it.
    pub has_interpreter: bool,
    pub dynamic: Dynamic,
}

struct Segment {
    kind: ProgramType,
    flags: ProgramFlags,
    addresses: Range<u64>,
}

/// What of the dynamic section matters here; addresses are those in memory.
#[derive(Default)]
pub struct Dynamic {
    pub address: Option<u64>,
    symbols: u64,
    strings: u64,
    gnu_hash: u64,
    hash: u64,
    relocations: [Range<u64>; 2],
    /// Where the loader has put the address of its list of objects, in a program.
    pub debug: u64,
}

/// A dynamic symbol.
pub struct Symbol {
    pub index: u32,
    pub name: String,
    pub is_defined: bool,
    /// Its address in memory, if it is defined.
    pub address: u64,
}

/// A place where the loader puts the address of a function, for calls.
pub struct Slot {
    /// The index of the function's symbol.
    pub symbol: u32,
    pub address: u64,
}

impl Object {
    /// The object whose header is at this address.
    pub fn at(memory: &dyn Memory, header: u64) -> Result<Self> {
        let broken = || Error::new("its ELF headers can't be read");
        let bytes = memory.bytes(header, 64).ok_or_else(broken)?;
        let (file, _) = from_bytes::<FileHeader64<LittleEndian>>(&bytes).map_err(|()| broken())?;
        if file.e_ident.magic != elf::ELFMAG {
            return Err(broken());
        }
        if file.e_ident.class != elf::ELFCLASS64 || file.e_ident.data != elf::ELFDATA2LSB {
            let line = "not of 64 bits: rsasync does not run there";
            return Err(Error::of_kind(Kind::NotOf64Bits, line));
        }
        let place = header + file.e_phoff.get(ENDIAN);
        let count = file.e_phnum.get(ENDIAN).into();
        Self::from_program_headers(memory, place, count, Some(header)).ok_or_else(broken)
    }

    /// The program itself, by what the kernel told it at its start.
    pub fn of_program(memory: &dyn Memory) -> Result<Self> {
        const AT_PHDR: u64 = 3;
        const AT_PHNUM: u64 = 5;
        let broken = || Error::new("the headers of its program can't be read");
        let place = memory.auxiliary(AT_PHDR).ok_or_else(broken)?;
        let count = memory.auxiliary(AT_PHNUM).ok_or_else(broken)?;
        let header = memory.mapping_at(place).map(|it| it.addresses.start);
        if let Some(header) = header
            && let Err(error) = Self::at(memory, header)
            && error.kind == Kind::NotOf64Bits
        {
            return Err(error);
        }
        Self::from_program_headers(memory, place, count, header).ok_or_else(broken)
    }

    fn from_program_headers(
        memory: &dyn Memory,
        place: u64,
        count: u64,
        header: Option<u64>,
    ) -> Option<Self> {
        let headers: Vec<ProgramHeader64<LittleEndian>> = table(memory, place, count)?;
        let of_kind = |kind| headers.iter().find(move |it| it.p_type.get(ENDIAN) == kind);
        let first_load = of_kind(elf::PT_LOAD)?;
        let bias = match (of_kind(elf::PT_PHDR), header) {
            (Some(itself), _) => place.wrapping_sub(itself.p_vaddr.get(ENDIAN)),
            // The first segment begins with the header, which its page's beginning shows.
            (None, Some(header)) => {
                header.wrapping_sub(first_load.p_vaddr.get(ENDIAN) & !(PAGE - 1))
            }
            (None, None) => return None,
        };
        let segments: Vec<Segment> = headers
            .iter()
            .filter_map(|it| {
                let start = bias.wrapping_add(it.p_vaddr.get(ENDIAN));
                Some(Segment {
                    kind: it.p_type.get(ENDIAN),
                    flags: it.p_flags.get(ENDIAN),
                    addresses: start..start.checked_add(it.p_memsz.get(ENDIAN))?,
                })
            })
            .collect();
        let mut object = Self {
            bias,
            has_interpreter: of_kind(elf::PT_INTERP).is_some(),
            segments,
            dynamic: Dynamic::default(),
        };
        let dynamic = object.segments_of(elf::PT_DYNAMIC).next();
        if let Some(place) = dynamic.map(|it| it.addresses.clone()) {
            object.dynamic = object.read_dynamic(memory, place);
        }
        Some(object)
    }

    fn segments_of(&self, kind: ProgramType) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(move |it| it.kind == kind)
    }

    /// Whether an address lies in it.
    pub fn contains(&self, address: u64) -> bool {
        self.segments_of(elf::PT_LOAD)
            .any(|it| it.addresses.contains(&address))
    }

    /// Where it begins, a page's beginning.
    pub fn start(&self) -> u64 {
        let starts = self.segments_of(elf::PT_LOAD).map(|it| it.addresses.start);
        starts.min().unwrap_or(0) & !(PAGE - 1)
    }

    /// The memory of it that holds code or constants.
    pub fn read_only(&self) -> impl Iterator<Item = Range<u64>> {
        let loads = self.segments_of(elf::PT_LOAD);
        let read_only = loads.filter(|it| !it.flags.contains(elf::PF_W));
        read_only.map(|it| it.addresses.clone())
    }

    /// From the lowest address to the highest.
    pub fn addresses(&self) -> Range<u64> {
        let ends = self.segments_of(elf::PT_LOAD).map(|it| it.addresses.end);
        self.start()..ends.max().unwrap_or(0)
    }

    /// The index of the unwind information.
    pub fn unwind_index(&self) -> Option<Range<u64>> {
        let index = self.segments_of(elf::PT_GNU_EH_FRAME).next()?;
        Some(index.addresses.clone())
    }

    /// From this address to the end of its segment.
    pub fn rest_of_segment(&self, address: u64) -> Option<Range<u64>> {
        let mut loads = self.segments_of(elf::PT_LOAD);
        let segment = loads.find(|it| it.addresses.contains(&address))?;
        Some(address..segment.addresses.end)
    }

    /// The description of the first note with this name and type, and where that lies.
    pub fn note(&self, memory: &dyn Memory, name: &str, kind: u32) -> Option<(u64, Vec<u8>)> {
        const HEADER_BYTES: u64 = 12;
        for segment in self.segments_of(elf::PT_NOTE) {
            let Range { mut start, end } = segment.addresses;
            while start.checked_add(HEADER_BYTES)? <= end {
                let header: Vec<object::U32<LittleEndian>> = table(memory, start, 3)?;
                let [name_bytes, bytes, found] = [0, 1, 2].map(|it| header[it].get(ENDIAN));
                let name_at = start + HEADER_BYTES;
                let at = name_at + u64::from(name_bytes).next_multiple_of(4);
                start = at + u64::from(bytes).next_multiple_of(4);
                if start > end {
                    break;
                }
                if found == kind && name_bytes as usize == name.len() + 1 {
                    let its = memory.bytes(name_at, name.len() as u64)?;
                    if its == name.as_bytes() {
                        return Some((at, memory.bytes(at, bytes.into())?));
                    }
                }
            }
        }
        None
    }

    fn read_dynamic(&self, memory: &dyn Memory, place: Range<u64>) -> Dynamic {
        let mut it = Dynamic {
            address: Some(place.start),
            ..Dynamic::default()
        };
        // glibc has added the bias to the addresses in here, other loaders have not.
        let absolute = |value: u64| match self.contains(value) {
            true => value,
            false => self.bias.wrapping_add(value),
        };
        let entry_bytes = size_of::<Dyn64<LittleEndian>>() as u64;
        let entries: Vec<Dyn64<LittleEndian>> =
            table(memory, place.start, (place.end - place.start) / entry_bytes).unwrap_or_default();
        let (mut starts, mut sizes) = ([0; 2], [0; 2]);
        for entry in &entries {
            let value = entry.d_val.get(ENDIAN);
            match entry.d_tag.get(ENDIAN) {
                elf::DT_NULL => break,
                elf::DT_SYMTAB => it.symbols = absolute(value),
                elf::DT_STRTAB => it.strings = absolute(value),
                elf::DT_GNU_HASH => it.gnu_hash = absolute(value),
                elf::DT_HASH => it.hash = absolute(value),
                elf::DT_DEBUG => it.debug = value,
                elf::DT_RELA => starts[0] = absolute(value),
                elf::DT_RELASZ => sizes[0] = value,
                elf::DT_JMPREL => starts[1] = absolute(value),
                elf::DT_PLTRELSZ => sizes[1] = value,
                _ => {}
            }
        }
        it.relocations =
            [0, 1].map(|which| starts[which]..starts[which].saturating_add(sizes[which]));
        it
    }

    /// The dynamic symbols that other objects may see, of these names.
    pub fn symbols(&self, memory: &dyn Memory, is_wanted: impl Fn(&str) -> bool) -> Vec<Symbol> {
        self.try_symbols(memory, is_wanted).unwrap_or_default()
    }

    fn try_symbols(
        &self,
        memory: &dyn Memory,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Option<Vec<Symbol>> {
        let count = self.symbol_count(memory)?;
        let symbols: Vec<Sym64<LittleEndian>> = table(memory, self.dynamic.symbols, count.into())?;
        let strings = self.rest_of_segment(self.dynamic.strings)?;
        let strings = memory.bytes(strings.start, strings.end - strings.start)?;
        let found = symbols.iter().enumerate().filter_map(|(index, symbol)| {
            let name = strings.get(symbol.st_name.get(ENDIAN) as usize..)?;
            let name = name.split(|&byte| byte == 0).next()?;
            let name = std::str::from_utf8(name).ok()?;
            let is_visible = symbol.st_bind() != elf::STB_LOCAL;
            (is_visible && is_wanted(name)).then(|| Symbol {
                index: index as u32,
                name: name.to_owned(),
                is_defined: symbol.st_shndx.get(ENDIAN) != elf::SHN_UNDEF,
                address: self.bias.wrapping_add(symbol.st_value.get(ENDIAN)),
            })
        });
        Some(found.collect())
    }

    /// How many symbols there are: only the hash tables know. Imports come before what the GNU
    /// table has; an object without exports has an empty one, and its relocations tell.
    fn symbol_count(&self, memory: &dyn Memory) -> Option<u32> {
        let read_rest = |address: u64| {
            let Range { start, end } = self.rest_of_segment(address)?;
            memory.bytes(start, end - start)
        };
        type File = FileHeader64<LittleEndian>;
        let by_gnu_hash = || {
            let bytes = read_rest(self.dynamic.gnu_hash)?;
            let hash = GnuHashTable::<File>::parse(ENDIAN, &bytes).ok()?;
            hash.symbol_table_length(ENDIAN)
        };
        let by_hash = || {
            let bytes = read_rest(self.dynamic.hash)?;
            let hash = HashTable::<File>::parse(ENDIAN, &bytes).ok()?;
            Some(hash.symbol_table_length())
        };
        let used = || {
            let all = self.relocations(memory);
            let used = all.iter().map(|it| it.r_sym(ENDIAN, false) + 1);
            used.max()
        };
        let by_tables = by_gnu_hash().or_else(by_hash);
        by_tables.max(used())
    }

    fn relocations(&self, memory: &dyn Memory) -> Vec<Rela64<LittleEndian>> {
        let entry_bytes = size_of::<Rela64<LittleEndian>>() as u64;
        let tables = self.dynamic.relocations.iter().map(|places| {
            let count = (places.end - places.start) / entry_bytes;
            table(memory, places.start, count).unwrap_or_default()
        });
        tables.flatten().collect()
    }

    /// Where the addresses of functions are, of all that this object calls through the loader.
    pub fn slots(&self, memory: &dyn Memory) -> Vec<Slot> {
        let all = self.relocations(memory);
        let slots = all.iter().filter(|it| {
            let kind = it.r_type(ENDIAN, false);
            let in_data = [elf::R_X86_64_64, elf::R_AARCH64_ABS64].contains(&kind); // a table, say
            let in_got = [
                elf::R_X86_64_JUMP_SLOT,
                elf::R_X86_64_GLOB_DAT,
                elf::R_AARCH64_JUMP_SLOT,
                elf::R_AARCH64_GLOB_DAT,
            ]
            .contains(&kind);
            in_got || in_data && it.r_addend.get(ENDIAN) == 0
        });
        let slots = slots.map(|it| Slot {
            symbol: it.r_sym(ENDIAN, false),
            address: self.bias.wrapping_add(it.r_offset.get(ENDIAN)),
        });
        slots.collect()
    }

    /// Whether its code or constants have this text.
    pub fn has_text(&self, memory: &dyn Memory, text: &[u8]) -> bool {
        const CHUNK_BYTES: u64 = 4 << 20;
        self.read_only().any(|Range { start, end }| {
            let places = (start..end).step_by(CHUNK_BYTES as usize);
            let mut chunks = places.map_while(|at| {
                // A chunk reaches into the next one, which may have the text's end.
                let count = (CHUNK_BYTES + text.len() as u64).min(end - at);
                memory.bytes(at, count)
            });
            chunks.any(|bytes| memchr::memmem::find(&bytes, text).is_some())
        })
    }
}

/// The smallest that a page is.
const PAGE: u64 = 4096;

/// A table of the target's structures.
fn table<T: Pod + Copy>(memory: &dyn Memory, start: u64, count: u64) -> Option<Vec<T>> {
    let bytes = memory.bytes(start, count.checked_mul(size_of::<T>() as u64)?)?;
    let (entries, _) = slice_from_bytes::<T>(&bytes, count as usize).ok()?;
    Some(entries.to_vec())
}

/// The object that a mapping of a file's beginning shows, or None.
pub fn header_of(memory: &dyn Memory, inside: &Mapping) -> Option<u64> {
    let before = memory.mappings().iter().rev();
    let mut of_file = before.filter(|it| {
        it.inode == inside.inode
            && it.path == inside.path
            && it.addresses.start <= inside.addresses.start
    });
    Some(of_file.find(|it| it.offset == 0)?.addresses.start)
}
