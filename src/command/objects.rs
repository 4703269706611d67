//! The objects of a process in the order in which the loader searches them.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::elf::{self, Object};
use crate::error::Result;
use crate::memory::{Mapping, Memory};

/// An object that the loader, or the kernel, has loaded.
pub struct Loaded {
    pub elf: Object,
    pub path: PathBuf,
    /// The first mapping of its file.
    pub mapping: Option<Mapping>,
    /// The loader keeps lists apart for `dlmopen`: objects see the symbols of their own.
    pub namespace: usize,
}

impl Loaded {
    /// The file's name, for a table.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        name.to_string_lossy().into_owned()
    }
}

/// More objects, or lists of them, than a process has: the list is torn.
const MOST_OBJECTS: usize = 65_536;
const MOST_NAMESPACES: usize = 64;

/// The program first. Only the program where there is no loader, or it has not begun.
pub fn objects(memory: &dyn Memory) -> Result<Vec<Loaded>> {
    let program = Object::of_program(memory)?;
    let (start, debug) = (program.start(), program.dynamic.debug);
    let of_program = program.dynamic.address;
    let mut all = vec![loaded(memory, program, start, 0)];
    for (namespace, list) in lists(memory, debug).into_iter().enumerate() {
        for dynamic in list {
            let is_known = of_program == Some(dynamic);
            let header = memory
                .mapping_at(dynamic)
                .and_then(|mapping| elf::header_of(memory, mapping));
            if let Some(header) = header.filter(|_| !is_known)
                && let Ok(object) = Object::at(memory, header)
            {
                all.push(loaded(memory, object, header, namespace));
            }
        }
    }
    Ok(all)
}

fn loaded(memory: &dyn Memory, elf: Object, start: u64, namespace: usize) -> Loaded {
    let mapping = memory.mapping_at(start).cloned();
    let path = mapping.as_ref().map(|it| it.path.clone());
    Loaded {
        elf,
        path: path.unwrap_or_default(),
        mapping,
        namespace,
    }
}

/// The dynamic sections of the objects in each of the loader's lists (`struct r_debug` and
/// `struct link_map` in link.h).
fn lists(memory: &dyn Memory, mut debug: u64) -> Vec<Vec<u64>> {
    const R_MAP: u64 = 8;
    const R_NEXT: u64 = 40; // since version 2
    const L_DYNAMIC: u64 = 16;
    const L_NEXT: u64 = 24;
    let mut lists = Vec::new();
    let mut seen = HashSet::new();
    while debug != 0 && lists.len() < MOST_NAMESPACES && seen.insert(debug) {
        let mut list = Vec::new();
        let mut at = memory.word(debug + R_MAP).unwrap_or(0);
        while at != 0 && seen.len() < MOST_OBJECTS && seen.insert(at) {
            list.extend(memory.word(at.wrapping_add(L_DYNAMIC)));
            at = memory.word(at.wrapping_add(L_NEXT)).unwrap_or(0);
        }
        lists.push(list);
        debug = match memory.half(debug) {
            Some(version) if version >= 2 => memory.word(debug + R_NEXT).unwrap_or(0),
            _ => 0,
        };
    }
    lists
}
