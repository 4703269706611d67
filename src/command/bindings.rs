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
    /// How many functions go to each goal; 0 for calls inside, which can't be counted.
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

/// The function that all depends on.
const START: &str = "ASYNC_start_job";

fn is_async(name: &str) -> bool {
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
        let mut goals = BTreeMap::new();
        let mut starts_by_slot = false;
        for slot in object.elf.slots(memory) {
            let mut its = symbols[index].iter();
            let Some(symbol) = its.find(|it| it.index == slot.symbol && is_async(&it.name)) else {
                continue;
            };
            starts_by_slot |= symbol.name == START;
            let Some(value) = memory.word(slot.address).filter(|&value| value != 0) else {
                continue; // a weak reference that nothing fulfils
            };
            let holder = objects.iter().position(|it| it.elf.contains(value));
            let is_function = |holder: usize| {
                let mut its = symbols[holder].iter();
                its.any(|it| it.is_defined && it.address == value)
            };
            let goal = match holder {
                Some(holder) if is_function(holder) => Goal::Object(holder),
                // The address of a stub, which looks the function up at the first call.
                Some(_) => match first_with(&symbol.name, object.namespace) {
                    Some(first) => Goal::NotYet(first),
                    None => Goal::Unknown(value),
                },
                None => Goal::Unknown(value),
            };
            *goals.entry(goal).or_insert(0) += 1;
        }
        let is_ours = ours.contains(&index);
        let is_program = index == 0;
        // rsasync's own references to its functions are no calls of the process.
        if !goals.is_empty() && (is_program || !is_ours) {
            callers.push(Caller {
                object: index,
                goals,
                how: How::Slots,
            });
        }
        // A libssl that was linked together with its libcrypto, or a program with rsasync, calls
        // the functions directly.
        let has_libssl = defines(index, START) && defines(index, "SSL_do_handshake");
        if !starts_by_slot && (has_libssl || is_ours && is_program) {
            callers.push(Caller {
                object: index,
                goals: BTreeMap::from([(Goal::Object(index), 0)]),
                how: How::Inside,
            });
        }
    }
    callers
}

/// Whether an object hides a static OpenSSL: it has its jobs, and shows no symbol of them.
pub fn is_hiding(memory: &dyn Memory, object: &Loaded) -> bool {
    let symbols = object.elf.symbols(memory, is_async);
    !symbols.iter().any(|symbol| symbol.is_defined) && object.elf.has_text(memory, SOURCE_FILE)
}
