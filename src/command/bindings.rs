//! Which object's calls of `ASYNC_` functions go where.

use std::collections::BTreeMap;

use crate::memory::Memory;
use crate::objects::Loaded;

/// Where calls go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Goal {
    /// To this object, an index.
    Object(usize),
    /// They will when they are first made, by the loader's order.
    NotYet(usize),
    /// To this address, which is in no object that the loader lists.
    Unknown(u64),
}

/// An object that calls such functions.
pub struct Caller {
    pub object: usize,
    /// How many functions go to each goal.
    pub goals: BTreeMap<Goal, usize>,
    pub how: How,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Through slots, which the loader fills in.
    Slots,
    /// It has the functions, and what calls them, in itself.
    Inside,
}

/// The text that OpenSSL's own jobs leave in a program even if nothing else tells of them: the
/// name of their source file.
const SOURCE_FILE: &[u8] = b"crypto/async/async.c";

pub fn is_async(name: &str) -> bool {
    name.starts_with("ASYNC_")
}

/// Each object with calls, and where those go.
pub fn callers(memory: &dyn Memory, objects: &[Loaded], ours: &[usize]) -> Vec<Caller> {
    let wanted = |name: &str| is_async(name) || name == "SSL_do_handshake";
    let symbols: Vec<_> = objects
        .iter()
        .map(|object| object.elf.symbols(memory, wanted))
        .collect();
    let defines = |object: usize, name: &str| {
        let mut its = symbols[object].iter();
        its.any(|symbol| symbol.is_defined && symbol.name == name)
    };
    let first_with = |name: &str, namespace: usize| {
        let mut all = objects.iter().enumerate();
        let found = all.find(|(index, it)| it.namespace == namespace && defines(*index, name));
        found.map(|(index, _)| index)
    };
    let mut callers = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        let is_ours = ours.contains(&index);
        let mut goals = BTreeMap::new();
        for slot in object.elf.slots(memory) {
            let mut its = symbols[index].iter();
            let Some(symbol) = its.find(|it| it.index == slot.symbol && is_async(&it.name)) else {
                continue;
            };
            let Some(value) = memory.word(slot.address).filter(|&value| value != 0) else {
                continue; // a weak reference that nothing fulfils
            };
            let holder = objects.iter().position(|it| it.elf.contains(value));
            let goal = match holder {
                // The address of a stub, which looks the function up at the first call.
                Some(holder) if !defines(holder, &symbol.name) && !ours.contains(&holder) => {
                    match first_with(&symbol.name, object.namespace) {
                        Some(first) => Goal::NotYet(first),
                        None => Goal::Unknown(value),
                    }
                }
                Some(holder) => Goal::Object(holder),
                None => Goal::Unknown(value),
            };
            *goals.entry(goal).or_insert(0) += 1;
        }
        // A libssl that was linked together with its libcrypto calls that directly.
        let has_own = defines(index, "ASYNC_start_job") && defines(index, "SSL_do_handshake");
        let is_program = index == 0;
        let how = match goals.is_empty() {
            false => How::Slots,
            true => How::Inside,
        };
        let is_inside = has_own || is_ours && is_program;
        if how == How::Inside && is_inside {
            let its = symbols[index].iter();
            let count = its.filter(|it| it.is_defined && is_async(&it.name)).count();
            goals.insert(Goal::Object(index), count);
        }
        if !goals.is_empty() && !(is_ours && how == How::Slots && !is_program) {
            callers.push(Caller {
                object: index,
                goals,
                how,
            });
        }
    }
    callers
}

/// Objects that hide a static OpenSSL: they have its jobs, and show no symbol of them.
pub fn hidden(memory: &dyn Memory, objects: &[Loaded], ours: &[usize]) -> Vec<usize> {
    let is_hiding = |index: &usize| {
        let elf = &objects[*index].elf;
        !ours.contains(index)
            && elf.symbols(memory, is_async).is_empty()
            && elf.has_text(memory, SOURCE_FILE)
    };
    (0..objects.len()).filter(is_hiding).collect()
}
