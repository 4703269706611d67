//! rsasync among a process's objects: the note by which it is known, and where its state lies.

use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::objects::Loaded;
use crate::state::State;

/// An object that has rsasync in it: the shared library, or a program that it was linked into.
pub struct Library {
    /// The object's index.
    pub object: usize,
    pub version: String,
    /// Where the table is that describes its state.
    state: u64,
}

impl Library {
    pub fn state(&self, memory: &dyn Memory) -> Result<State> {
        State::read(memory, self.state)
    }
}

/// All of them; an error if there is none.
pub fn required(memory: &dyn Memory, objects: &[Loaded]) -> Result<Vec<Library>> {
    let libraries = all(memory, objects);
    match libraries.is_empty() {
        true => Err(Error::new("rsasync is not in it; `rsasync check` says why")),
        false => Ok(libraries),
    }
}

/// All of them; a process has one, unless somebody loads a second.
pub fn all(memory: &dyn Memory, objects: &[Loaded]) -> Vec<Library> {
    const NAME: &str = "rsasync";
    const KIND: u32 = 1;
    let with_note = objects.iter().enumerate().filter_map(|(index, object)| {
        let (place, description) = object.elf.note(memory, NAME, KIND)?;
        let offset: [u8; 8] = description.get(..8)?.try_into().ok()?;
        let state = place.wrapping_add_signed(i64::from_le_bytes(offset));
        Some(Library {
            object: index,
            version: State::library_version(memory, state)
                .unwrap_or("of no known version".to_owned()),
            state,
        })
    });
    with_note.collect()
}
