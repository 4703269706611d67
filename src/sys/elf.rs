//! The symbols of a loaded ELF object, read from memory.
//!
//! `dlsym` would tell the same, but waits for the loader's lock and overwrites the message that
//! `dlerror` has for the program.

use std::ffi::{CStr, c_char};
use std::ops::Range;
use std::ptr;
use std::slice;

/// A loaded object: the program, a shared library, the vDSO.
pub struct Object {
    /// What is added to the addresses in the file; wraps around where it is loaded lower.
    bias: usize,
    /// The name of its file; NULL if it is not known.
    file_name: *const c_char,
    /// From its first segment to the end of its last one.
    addresses: Range<usize>,
    /// Its dynamic section, `Elf64_Dyn`s that end with a null one; NULL if it has none.
    dynamic: *const [usize; 2],
}

/// `Elf64_Sym`.
#[repr(C)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: usize,
    size: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SymbolType {
    Object = 1,
    Function = 2,
}

/// What the dynamic section says about symbols: addresses, 0 where there is no such table.
#[derive(Default)]
struct Tables {
    symbols: usize,
    strings: usize,
    gnu_hash: usize,
    sysv_hash: usize,
    no_delete: bool,
}

impl Object {
    /// # Safety
    /// The program headers describe an object that is loaded at `bias`; the name is a C string
    /// that lives as long as this description.
    pub unsafe fn new(bias: usize, file_name: *const c_char, headers: &[libc::Elf64_Phdr]) -> Self {
        let segments = headers.iter().filter(|h| h.p_type == libc::PT_LOAD);
        let start = segments.clone().map(|h| h.p_vaddr as usize).min();
        let end = segments.map(|h| (h.p_vaddr + h.p_memsz) as usize).max();
        let dynamic = headers.iter().find(|h| h.p_type == libc::PT_DYNAMIC);
        Self {
            bias,
            file_name,
            addresses: bias.wrapping_add(start.unwrap_or(0))..bias.wrapping_add(end.unwrap_or(0)),
            dynamic: dynamic.map_or(ptr::null(), |header| {
                ptr::with_exposed_provenance(bias.wrapping_add(header.p_vaddr as usize))
            }),
        }
    }

    /// # Safety
    /// `dynamic` is the dynamic section of an object that is loaded at `bias`, in these addresses.
    pub unsafe fn from_parts(
        bias: usize,
        addresses: Range<usize>,
        dynamic: *const [usize; 2],
    ) -> Self {
        Self {
            bias,
            file_name: ptr::null(),
            addresses,
            dynamic,
        }
    }

    pub fn file_name(&self) -> Option<&CStr> {
        // SAFETY: it lives as long as this description.
        (!self.file_name.is_null()).then(|| unsafe { CStr::from_ptr(self.file_name) })
    }

    pub fn contains(&self, address: usize) -> bool {
        self.addresses.contains(&address)
    }

    /// Whether it asks never to be unloaded.
    pub fn is_no_delete(&self) -> bool {
        self.tables().is_some_and(|tables| tables.no_delete)
    }

    /// The address and size in bytes of a symbol that the object defines itself.
    pub fn symbol(&self, name: &CStr, wanted: SymbolType) -> Option<(usize, usize)> {
        let tables = self.tables()?;
        if tables.symbols == 0 || tables.strings == 0 {
            return None;
        }
        let is_it = |symbol: &Symbol| {
            let strings = ptr::with_exposed_provenance::<c_char>(tables.strings);
            symbol.section != 0
                && symbol.info & 0xf == wanted as u8
                // SAFETY: the name of a symbol is an offset in the table of strings.
                && unsafe { CStr::from_ptr(strings.add(symbol.name as usize)) } == name
        };
        let symbols = ptr::with_exposed_provenance::<Symbol>(tables.symbols);
        // SAFETY: the tables are those of a loaded object, in the formats that these two expect.
        let symbol = unsafe {
            match (tables.gnu_hash, tables.sysv_hash) {
                (0, 0) => None,
                (0, hash) => find_sysv(hash, symbols, name, is_it),
                (hash, _) => find_gnu(hash, symbols, name, is_it),
            }
        }?;
        Some((self.bias.wrapping_add(symbol.value), symbol.size))
    }

    fn tables(&self) -> Option<Tables> {
        // From the ELF specification, and elf.h.
        const DT_NULL: usize = 0;
        const DT_HASH: usize = 4;
        const DT_STRTAB: usize = 5;
        const DT_SYMTAB: usize = 6;
        const DT_GNU_HASH: usize = 0x6fff_fef5;
        const DT_FLAGS_1: usize = 0x6fff_fffb;
        const DF_1_NODELETE: usize = 8;
        if self.dynamic.is_null() {
            return None;
        }
        // glibc replaces the file's addresses by those in memory, but not in the vDSO's
        // section; musl leaves all as they are.
        let in_memory = |address| match self.contains(address) {
            true => address,
            false => self.bias.wrapping_add(address),
        };
        let mut tables = Tables::default();
        let mut entry = self.dynamic;
        loop {
            // SAFETY: the section lies in the object's memory and ends with a null entry.
            let [tag, value] = unsafe { *entry };
            match tag {
                DT_NULL => return Some(tables),
                DT_STRTAB => tables.strings = in_memory(value),
                DT_SYMTAB => tables.symbols = in_memory(value),
                DT_HASH => tables.sysv_hash = in_memory(value),
                DT_GNU_HASH => tables.gnu_hash = in_memory(value),
                DT_FLAGS_1 => tables.no_delete = value & DF_1_NODELETE != 0,
                _ => {}
            }
            // SAFETY: this entry was not the last one.
            entry = unsafe { entry.add(1) };
        }
    }
}

/// Looks a name up in a GNU hash table, where the symbols of one bucket follow one another:
///
/// ```text
///   buckets | first symbol | filter words | shift | filter: u64... | buckets: u32... | hashes: u32...
/// ```
///
/// A bucket holds the index of its first symbol, 0 if it has none. The hashes stand for the
/// symbols from `first symbol` on; an odd one ends its bucket. A table may have no buckets.
///
/// # Safety
/// `table` is the address of such a table, for the symbols from `symbols` on.
unsafe fn find_gnu<'a>(
    table: usize,
    symbols: *const Symbol,
    name: &CStr,
    is_it: impl Fn(&Symbol) -> bool,
) -> Option<&'a Symbol> {
    let hash = name.to_bytes().iter().fold(5381, |hash: u32, &byte| {
        hash.wrapping_mul(33).wrapping_add(byte.into())
    });
    let header = ptr::with_exposed_provenance::<[u32; 4]>(table);
    // SAFETY: the caller vouches for the table; every index below comes from it.
    unsafe {
        let [bucket_count, first, filter_words, shift] = *header;
        if bucket_count == 0 || filter_words == 0 {
            return None;
        }
        let filter = header.add(1).cast::<u64>();
        let bits = 1 << (hash % 64) | 1_u64 << (hash.wrapping_shr(shift) % 64);
        if *filter.add((hash / 64 % filter_words) as usize) & bits != bits {
            return None;
        }
        let buckets = filter.add(filter_words as usize).cast::<u32>();
        let hashes = buckets.add(bucket_count as usize);
        let mut index = *buckets.add((hash % bucket_count) as usize);
        if index < first {
            return None;
        }
        loop {
            let its_hash = *hashes.add((index - first) as usize);
            let symbol = &*symbols.add(index as usize);
            if its_hash | 1 == hash | 1 && is_it(symbol) {
                return Some(symbol);
            }
            if its_hash & 1 == 1 {
                return None;
            }
            index += 1;
        }
    }
}

/// Looks a name up in a System V hash table, where the symbols of one bucket are chained:
///
/// ```text
///   bucket count | chain count | buckets: u32... | chains: u32...
/// ```
///
/// A bucket holds the index of its first symbol, the chain at that index the next one; 0 ends it.
///
/// # Safety
/// `table` is the address of such a table, for the symbols from `symbols` on.
unsafe fn find_sysv<'a>(
    table: usize,
    symbols: *const Symbol,
    name: &CStr,
    is_it: impl Fn(&Symbol) -> bool,
) -> Option<&'a Symbol> {
    let hash = name.to_bytes().iter().fold(0_u32, |hash, &byte| {
        let hash = (hash << 4).wrapping_add(byte.into());
        let top = hash & 0xf000_0000;
        (hash ^ top >> 24) & !top
    });
    let header = ptr::with_exposed_provenance::<[u32; 2]>(table);
    // SAFETY: the caller vouches for the table; every index below comes from it.
    unsafe {
        let [bucket_count, chain_count] = *header;
        if bucket_count == 0 {
            return None;
        }
        let (buckets, chains) = {
            let words = slice::from_raw_parts(
                header.add(1).cast::<u32>(),
                bucket_count as usize + chain_count as usize,
            );
            words.split_at(bucket_count as usize)
        };
        let mut index = buckets[(hash % bucket_count) as usize];
        while index != 0 {
            let symbol = &*symbols.add(index as usize);
            if is_it(symbol) {
                return Some(symbol);
            }
            index = *chains.get(index as usize)?;
        }
        None
    }
}
