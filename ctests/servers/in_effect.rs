//! Whether a process's calls of `ASYNC_` functions go to rsasync.

use std::fs;
use std::path::Path;

use libtest_mimic::Failed;
use object::{Object, ObjectSymbol, ObjectSymbolTable, RelocationTarget};
use procfs::process::{MMapPath, MemoryMap, Process};

use crate::check::expect;

/// Fails, and says why, unless libssl's call of `ASYNC_start_job` goes to rsasync.
pub fn is_in_effect(pid: i32) -> Result<(), Failed> {
    let process = Process::new(pid)?;
    let maps = process.maps()?;
    let of_object = |name: &str| {
        let is_it = |path: &MMapPath| match path {
            MMapPath::Path(path) => path
                .file_name()
                .is_some_and(|file| file.to_string_lossy().starts_with(name)),
            _ => false,
        };
        let maps: Vec<_> = maps.iter().filter(|map| is_it(&map.pathname)).collect();
        match maps.is_empty() {
            true => Err(Failed::from(format!("process {pid} has no {name}"))),
            false => Ok(maps),
        }
    };
    let rsasync = of_object("librsasync.so")?;
    let libssl = of_object("libssl.so")?;
    let (start, file) = first_byte(&libssl)?;
    let slot = start + slot_of_start_job(file)?;
    let function = read_word(pid, slot)?;
    let is_ours = |(start, end): (u64, u64)| (start..end).contains(&function);
    expect(
        rsasync.iter().any(|map| is_ours(map.address)),
        format!("libssl in process {pid} calls ASYNC_start_job at {function:#x}, not in rsasync"),
    )
}

/// Where an object begins in memory, and its file.
fn first_byte<'maps>(maps: &[&'maps MemoryMap]) -> Result<(u64, &'maps Path), Failed> {
    let first = maps.iter().find(|map| map.offset == 0);
    let first = first.ok_or("an object whose beginning is not mapped")?;
    match &first.pathname {
        MMapPath::Path(file) => Ok((first.address.0, file)),
        _ => Err("an object without a file".into()),
    }
}

/// The address in a libssl, relative to its first byte, of the pointer by which it calls that.
fn slot_of_start_job(file: &Path) -> Result<u64, Failed> {
    let data = fs::read(file)?;
    let elf = object::File::parse(&*data)?;
    let symbols = elf.dynamic_symbol_table().ok_or("no dynamic symbols")?;
    let is_it = |target| match target {
        RelocationTarget::Symbol(index) => symbols
            .symbol_by_index(index)
            .is_ok_and(|symbol| symbol.name() == Ok("ASYNC_start_job")),
        _ => false,
    };
    let mut relocations = elf.dynamic_relocations().ok_or("no relocations")?;
    let slot = relocations.find(|(_, relocation)| is_it(relocation.target()));
    Ok(slot.ok_or("libssl does not call ASYNC_start_job")?.0)
}

fn read_word(pid: i32, address: u64) -> Result<u64, Failed> {
    use std::os::unix::fs::FileExt;
    let mut word = [0; 8];
    fs::File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut word, address)?;
    Ok(u64::from_ne_bytes(word))
}
