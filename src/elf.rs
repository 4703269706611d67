//! The shared objects in this process and the symbols that they define, read from memory.
//!
//! `dlopen` and `dlsym` would tell the same, but they take locks that a forked child may find
//! locked, allocate, and overwrite what `dlerror` has for the program.

use std::ffi::{CStr, c_int, c_void};
use std::ops::{ControlFlow, Range};
use std::ptr;
use std::slice;

/// An object, as long as the loader shows it.
pub struct Object<'a> {
    info: &'a libc::dl_phdr_info,
}

/// A symbol as it lies in an object's table, `Elf64_Sym`.
#[repr(C)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: usize,
    size: u64,
}

/// What an object's dynamic section tells of its symbols: addresses, 0 for none.
#[derive(Default)]
struct Tables {
    symbols: usize,
    strings: usize,
    gnu_hash: usize,
    never_unloaded: bool,
}

/// Shows the objects to `each`, in the order of loading, until it breaks.
pub fn for_each_object<F: FnMut(Object) -> ControlFlow<()>>(mut each: F) {
    unsafe extern "C" fn show<F: FnMut(Object) -> ControlFlow<()>>(
        info: *mut libc::dl_phdr_info,
        _: usize,
        each: *mut c_void,
    ) -> c_int {
        // SAFETY: `each` is the one below; `info` is the loader's and stands during the call.
        unsafe {
            (*each.cast::<F>())(Object { info: &*info })
                .is_break()
                .into()
        }
    }
    // SAFETY: the callback gets the pointer that belongs to it.
    unsafe { libc::dl_iterate_phdr(Some(show::<F>), (&raw mut each).cast()) };
}

/// How many objects the loader has ever loaded.
pub fn objects_ever_loaded() -> u64 {
    let mut count = 0;
    for_each_object(|object| {
        count = object.info.dlpi_adds;
        ControlFlow::Break(())
    });
    count
}

impl Object<'_> {
    pub fn contains(&self, address: usize) -> bool {
        self.addresses().contains(&address)
    }

    /// Whether it asks never to be unloaded.
    pub fn is_never_unloaded(&self) -> bool {
        self.tables().is_some_and(|tables| tables.never_unloaded)
    }

    /// The address of a function that it defines itself; NULL if it defines none.
    pub fn function(&self, name: &CStr) -> *mut c_void {
        let found = self.tables().and_then(|tables| self.find(&tables, name));
        found.map_or(ptr::null_mut(), ptr::with_exposed_provenance_mut)
    }

    fn headers(&self) -> &[libc::Elf64_Phdr] {
        // SAFETY: the loader's table.
        unsafe { slice::from_raw_parts(self.info.dlpi_phdr, self.info.dlpi_phnum.into()) }
    }

    fn bias(&self) -> usize {
        self.info.dlpi_addr as usize
    }

    fn addresses(&self) -> Range<usize> {
        let loaded = self
            .headers()
            .iter()
            .filter(|header| header.p_type == libc::PT_LOAD);
        let start = loaded
            .clone()
            .map(|header| header.p_vaddr as usize)
            .min()
            .unwrap_or(0);
        let end = loaded
            .map(|header| (header.p_vaddr + header.p_memsz) as usize)
            .max();
        self.bias().wrapping_add(start)..self.bias().wrapping_add(end.unwrap_or(0))
    }

    fn tables(&self) -> Option<Tables> {
        // From the ELF specification, and elf.h.
        const DT_STRTAB: usize = 5;
        const DT_SYMTAB: usize = 6;
        const DT_GNU_HASH: usize = 0x6fff_fef5;
        const DT_FLAGS_1: usize = 0x6fff_fffb;
        const DF_1_NODELETE: usize = 8;
        let dynamic = self
            .headers()
            .iter()
            .find(|header| header.p_type == libc::PT_DYNAMIC)?;
        let dynamic = self.bias().wrapping_add(dynamic.p_vaddr as usize);
        let mut entry = ptr::with_exposed_provenance::<[usize; 2]>(dynamic);
        let mut tables = Tables::default();
        // The loader writes addresses into the section, but not into that of the vDSO.
        let address = |value| {
            if value < self.bias() {
                self.bias() + value
            } else {
                value
            }
        };
        loop {
            // SAFETY: the section lies in the object's memory and ends with a null entry.
            let [tag, value] = unsafe { *entry };
            match tag {
                0 => return Some(tables),
                DT_STRTAB => tables.strings = address(value),
                DT_SYMTAB => tables.symbols = address(value),
                DT_GNU_HASH => tables.gnu_hash = address(value),
                DT_FLAGS_1 => tables.never_unloaded = value & DF_1_NODELETE != 0,
                _ => {}
            }
            // SAFETY: the section goes on.
            entry = unsafe { entry.add(1) };
        }
    }

    /// Looks a name up in the GNU hash table, which is four words, a Bloom filter, the buckets
    /// with the index of their first symbol, and a chain of hashes for each bucket, of which
    /// the last is odd.
    fn find(&self, tables: &Tables, name: &CStr) -> Option<usize> {
        const FUNCTION: u8 = 2;
        if tables.symbols == 0 || tables.strings == 0 || tables.gnu_hash == 0 {
            return None;
        }
        let hash = name.to_bytes().iter().fold(5381, |hash: u32, &byte| {
            hash.wrapping_mul(33).wrapping_add(byte.into())
        });
        let word = ptr::with_exposed_provenance::<u32>(tables.gnu_hash);
        let symbols = ptr::with_exposed_provenance::<Symbol>(tables.symbols);
        let strings = ptr::with_exposed_provenance::<libc::c_char>(tables.strings);
        // SAFETY: the tables are those of a loaded object, laid out as the format says.
        unsafe {
            let [buckets, first, filters, shift] = *word.cast::<[u32; 4]>();
            let filter = word.add(4).cast::<u64>();
            let bits = 1 << (hash % 64) | 1_u64 << ((hash >> shift) % 64);
            if *filter.add((hash / 64 % filters) as usize) & bits != bits {
                return None;
            }
            let bucket = filter.add(filters as usize).cast::<u32>();
            let chain = bucket.add(buckets as usize);
            let mut index = *bucket.add((hash % buckets) as usize);
            if index < first {
                return None;
            }
            loop {
                let of_symbol = *chain.add((index - first) as usize);
                let symbol = &*symbols.add(index as usize);
                if of_symbol | 1 == hash | 1
                    && symbol.section != 0
                    && symbol.info & 0xf == FUNCTION
                    && CStr::from_ptr(strings.add(symbol.name as usize)) == name
                {
                    return Some(self.bias().wrapping_add(symbol.value));
                }
                if of_symbol & 1 == 1 {
                    return None;
                }
                index += 1;
            }
        }
    }
}
