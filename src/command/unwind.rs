//! Where a paused job is: its frames, from the context that the switch has saved.

use std::cell::RefCell;
use std::io::Read;
use std::ops::Range;

use framehop::{
    CacheNative, ExplicitModuleSectionInfo, MayAllocateDuringUnwind, Module, UnwindRegsNative,
    Unwinder as _, UnwinderNative,
};

use object::{Object as _, ObjectSection};

use crate::memory::Memory;
use crate::objects::Loaded;

/// More than a stack that can be read has.
const MOST_FRAMES: usize = 256;

pub struct Unwinder<'a> {
    memory: &'a dyn Memory,
    frames: UnwinderNative<Vec<u8>, MayAllocateDuringUnwind>,
    cache: RefCell<CacheNative<MayAllocateDuringUnwind>>,
}

impl<'a> Unwinder<'a> {
    pub fn new(memory: &'a dyn Memory, objects: &[Loaded]) -> Self {
        let mut frames = UnwinderNative::new();
        for object in objects {
            if let Some(module) = module(memory, object) {
                frames.add_module(module);
            }
        }
        Self {
            memory,
            frames,
            cache: RefCell::new(CacheNative::new()),
        }
    }

    /// The addresses of the frames, innermost first; of a call, an address in it.
    pub fn frames(&self, context: u64) -> Vec<u64> {
        let Some(saved) = saved(self.memory, context) else {
            return Vec::new();
        };
        let mut cache = self.cache.borrow_mut();
        let mut read = |address| self.memory.word(address).ok_or(());
        let mut frames =
            self.frames
                .iter_frames(saved.instruction, saved.registers, &mut cache, &mut read);
        let next = || frames.next().ok().flatten();
        let addresses = std::iter::from_fn(next).map(|frame| frame.address_for_lookup());
        addresses.take(MOST_FRAMES).collect()
    }
}

struct Saved {
    instruction: u64,
    registers: UnwindRegsNative,
}

/// What `jump_fcontext` has left at a context's address.
#[cfg(target_arch = "x86_64")]
fn saved(memory: &dyn Memory, context: u64) -> Option<Saved> {
    const RBP: u64 = 0x30;
    const RIP: u64 = 0x38;
    const BYTES: u64 = 0x40;
    let instruction = memory.word(context.checked_add(RIP)?)?;
    let frame = memory.word(context + RBP)?;
    Some(Saved {
        instruction,
        registers: UnwindRegsNative::new(instruction, context + BYTES, frame),
    })
}

#[cfg(target_arch = "aarch64")]
fn saved(memory: &dyn Memory, context: u64) -> Option<Saved> {
    const FP: u64 = 0x90;
    const LR: u64 = 0x98;
    const PC: u64 = 0xa0;
    const BYTES: u64 = 0xb0;
    let instruction = memory.word(context.checked_add(PC)?)?;
    let (link, frame) = (memory.word(context + LR)?, memory.word(context + FP)?);
    Some(Saved {
        instruction,
        registers: UnwindRegsNative::new(link, context + BYTES, frame),
    })
}

type Sections = ExplicitModuleSectionInfo<Vec<u8>>;

fn module(memory: &dyn Memory, object: &Loaded) -> Option<Module<Vec<u8>>> {
    let elf = &object.elf;
    let sections = by_index(memory, object).or_else(|| by_file(memory, object))?;
    let name = object.name();
    Some(Module::new(name, elf.addresses(), elf.bias, sections))
}

/// An object's unwind information as its index shows it, which says where that begins, and nothing
/// where it ends. GNU's linker makes an index without a table where a piece of the information is
/// of a function in another object file, as in the library itself.
fn by_index(memory: &dyn Memory, object: &Loaded) -> Option<Sections> {
    const POINTER_AT: u64 = 4;
    const RELATIVE_4_BYTES: u8 = 0x1b; // DW_EH_PE_pcrel | DW_EH_PE_sdata4, as all linkers write
    const OMITTED: u8 = 0xff; // DW_EH_PE_omit
    let elf = &object.elf;
    let index = elf.unwind_index()?;
    let header = memory.bytes(index.start, 8)?;
    if header[1] != RELATIVE_4_BYTES {
        return None;
    }
    let offset = memory.half(index.start + POINTER_AT)? as i32;
    let at = index.start.checked_add(POINTER_AT)?;
    let information = elf.rest_of_segment(at.checked_add_signed(offset.into())?)?;
    let in_file = |addresses: Range<u64>| {
        addresses.start.wrapping_sub(elf.bias)..addresses.end.wrapping_sub(elf.bias)
    };
    let data =
        |addresses: &Range<u64>| memory.bytes(addresses.start, addresses.end - addresses.start);
    let mut sections = Sections {
        eh_frame: Some(data(&information)?),
        eh_frame_svma: Some(in_file(information)),
        ..Default::default()
    };
    if header[2] != OMITTED {
        sections.eh_frame_hdr = Some(data(&index)?);
        sections.eh_frame_hdr_svma = Some(in_file(index));
    }
    Some(sections)
}

/// The same of a wholly static program, which has no index.
fn by_file(memory: &dyn Memory, object: &Loaded) -> Option<Sections> {
    let mut bytes = Vec::new();
    let mut file = memory.open(object.mapping.as_ref()?)?;
    file.read_to_end(&mut bytes).ok()?;
    let file = object::File::parse(&*bytes).ok()?;
    let section = file.section_by_name(".eh_frame")?;
    let start = section.address();
    Some(Sections {
        eh_frame: Some(section.data().ok()?.to_vec()),
        eh_frame_svma: Some(start..start.checked_add(section.size())?),
        ..Default::default()
    })
}
