//! The names of functions, from an object's file or from a separate file of its symbols.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::PathBuf;

use object::{Object as _, ObjectSymbol, SymbolKind};

use crate::memory::Memory;
use crate::objects::Loaded;

/// The functions of the objects of a process; a file is read when it is first needed.
pub struct Symbols<'a> {
    memory: &'a dyn Memory,
    objects: &'a [Loaded],
    functions: RefCell<HashMap<usize, Vec<Function>>>,
}

struct Function {
    /// As in the file.
    address: u64,
    bytes: u64,
    name: String,
}

impl<'a> Symbols<'a> {
    pub fn new(memory: &'a dyn Memory, objects: &'a [Loaded]) -> Self {
        Self {
            memory,
            objects,
            functions: RefCell::default(),
        }
    }

    /// The object that an address is in.
    pub fn object_at(&self, address: u64) -> Option<usize> {
        self.objects.iter().position(|it| it.elf.contains(address))
    }

    /// The function that an address is in, if there is a symbol of it.
    pub fn function_at(&self, address: u64) -> Option<String> {
        let index = self.object_at(address)?;
        let object = &self.objects[index];
        let mut known = self.functions.borrow_mut();
        let functions = known
            .entry(index)
            .or_insert_with(|| functions(self.memory, object));
        let address = address.wrapping_sub(object.elf.bias);
        let after = functions.partition_point(|function| function.address <= address);
        let function = functions.get(after.checked_sub(1)?)?;
        // Functions that are written in assembly may lack a size.
        let is_inside = function.bytes == 0 || address < function.address + function.bytes;
        is_inside.then(|| function.name.clone())
    }

    /// "function (object)", as well as it is known.
    pub fn describe(&self, address: u64) -> String {
        let function = self.function_at(address);
        let function = function.unwrap_or_else(|| format!("{address:#x}"));
        match self.object_at(address) {
            Some(object) => format!("{function} ({})", self.objects[object].name()),
            None => function,
        }
    }
}

fn functions(memory: &dyn Memory, object: &Loaded) -> Vec<Function> {
    let mut functions = Vec::new();
    let file = object.mapping.as_ref().and_then(|it| memory.open(it));
    let mut bytes = Vec::new();
    let is_read = file.is_some_and(|mut file| file.read_to_end(&mut bytes).is_ok());
    if is_read && let Ok(file) = object::File::parse(&*bytes) {
        add_functions(&file, &mut functions);
    }
    if let Some(bytes) = separate_file(memory, object).and_then(|path| fs::read(path).ok())
        && let Ok(file) = object::File::parse(&*bytes)
    {
        add_functions(&file, &mut functions);
    }
    if functions.is_empty() {
        let symbols = object.elf.symbols(memory, |_| true);
        functions.extend(
            symbols
                .into_iter()
                .filter(|it| it.is_defined)
                .map(|it| Function {
                    address: it.address.wrapping_sub(object.elf.bias),
                    bytes: 0,
                    name: it.name,
                }),
        );
    }
    // Of several names the one that hides least; a stable sort keeps those of the object's own.
    functions.sort_by_key(|function| (function.address, function.bytes));
    functions
}

fn add_functions(file: &object::File, functions: &mut Vec<Function>) {
    let symbols = file.symbols().chain(file.dynamic_symbols());
    let of_code = symbols.filter(|it| it.kind() == SymbolKind::Text && it.is_definition());
    functions.extend(of_code.filter_map(|symbol| {
        let name = rustc_demangle::demangle(symbol.name().ok()?);
        Some(Function {
            address: symbol.address(),
            bytes: symbol.size(),
            name: format!("{name:#}"),
        })
    }));
}

/// Where distributions put the symbols that they have removed.
fn separate_file(memory: &dyn Memory, object: &Loaded) -> Option<PathBuf> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let (_, id) = object.elf.note(memory, "GNU", NT_GNU_BUILD_ID)?;
    let (first, rest) = id.split_first()?;
    let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("/usr/lib/debug/.build-id/{first:02x}/{rest}.debug").into())
}
