//! A stack for a job, whoever gave its memory.

use std::cell::Cell;
use std::mem;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{
    AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::stack::guarded::{self, FOR_JOBS, GuardedStack, Usage};
use crate::stack::mem_functions::{self, FreeFn, MemFunctions};
use crate::stack::valgrind;
use crate::sys::env;
use crate::sys::probes::probe;
use crate::sys::slots::{Content, Slot, SlotPool, SpareSlots};
use crate::sys::syscall_guard::SyscallGuard;

/// What libcrypto asks for, and so what a program's own function is asked for, in bytes.
const LIBCRYPTO_STACK_BYTES: usize = 32 << 10;
/// A stack with fewer bytes holds no job.
const SMALLEST_STACK_BYTES: usize = 2 << 10;
/// Bytes that a stack's owner has beside its frames. They are aligned to 256, and can be read for
/// ever.
pub const OWNER_BYTES: usize = 256;

/// The memory of a stack. It is given back by [`Stack::free`], not when it is dropped.
pub struct Stack {
    frames: Range<usize>,
    memory: Memory,
    valgrind: valgrind::Registration,
}

enum Memory {
    /// A slot of our own; the owner's bytes are at the top, or in a slot apart if it may be unmapped.
    Guarded {
        stack: GuardedStack,
        owner: Option<Slot>,
    },
    /// From the program's functions, which may unmap it.
    Users { free: FreeFn, owner: Slot },
}

/// Owners' bytes that are not at the top of their stacks.
pub static OWNERS: SlotPool = SlotPool::new(Content::Objects);

pub static MADE: AtomicU64 = AtomicU64::new(0);
pub static FREED: AtomicU64 = AtomicU64::new(0);
pub static UNGUARDED: AtomicU64 = AtomicU64::new(0);
/// See [`Counts::peak`].
pub static PEAK: AtomicU64 = AtomicU64::new(0);
/// See [`Counts::deepest_bytes`].
pub static DEEPEST: AtomicUsize = AtomicUsize::new(0);

/// How many stacks there were and are in the process.
pub struct Counts {
    pub made: u64,
    pub in_use: u64,
    /// The most that were in use together.
    pub peak: u64,
    /// What frames took of the deepest one of those that were freed or have given memory back, in bytes.
    pub deepest_bytes: u64,
    /// Those in use that ought to have a guard and have none.
    pub unguarded: u64,
}

pub fn counts() -> Counts {
    let freed = FREED.load(Acquire); // before MADE: no more can be freed than were made
    let made = MADE.load(Relaxed);
    Counts {
        made,
        in_use: made - freed,
        peak: PEAK.load(Relaxed),
        deepest_bytes: DEEPEST.load(Relaxed) as u64,
        unguarded: UNGUARDED.load(Relaxed),
    }
}

impl Stack {
    pub const FRAMES_START_OFFSET: usize =
        mem::offset_of!(Self, frames) + mem::offset_of!(Range<usize>, start);
    pub const FRAMES_END_OFFSET: usize =
        mem::offset_of!(Self, frames) + mem::offset_of!(Range<usize>, end);

    /// A stack from the functions in place; None if they have no memory. `spare` is for who makes many.
    pub fn new(spare: Option<&SpareSlots>) -> Option<Self> {
        let _guard = SyscallGuard::new();
        env::report_nonsense();
        let functions = mem_functions::freeze();
        let stack = match functions.is_builtin() {
            true => Self::builtin(spare),
            false => Self::from_program(functions),
        }?;
        let made = MADE.fetch_add(1, Relaxed) + 1;
        // Meanwhile other threads may have freed stacks that they made later.
        PEAK.fetch_max(made.saturating_sub(FREED.load(Relaxed)), Relaxed);
        UNGUARDED.fetch_add(stack.is_unguarded().into(), Relaxed);
        probe!("stack_made", stack.frames.start, stack.frames.len());
        Some(stack)
    }

    fn builtin(spare: Option<&SpareSlots>) -> Option<Self> {
        let stack = GuardedStack::new(&FOR_JOBS, env::options().stack_bytes(), spare)?;
        let owner = match stack.slot().is_temporary() {
            true => match OWNERS.take(OWNER_BYTES) {
                None => {
                    stack.give_back();
                    return None;
                }
                owner => owner,
            },
            false => None,
        };
        let Range { start, end } = stack.addresses();
        let above = if owner.is_none() { OWNER_BYTES } else { 0 };
        Some(Self {
            frames: start..end - above,
            valgrind: valgrind::Registration::new(start..end),
            memory: Memory::Guarded { stack, owner },
        })
    }

    #[cold]
    fn from_program(functions: MemFunctions) -> Option<Self> {
        let MemFunctions { alloc, free } = functions;
        let owner = OWNERS.take(OWNER_BYTES)?;
        let set = env::options().stack_bytes_set;
        let mut bytes = set.unwrap_or(LIBCRYPTO_STACK_BYTES);
        // SAFETY: the function came through ASYNC_set_mem_functions, whose caller vouches for
        // it; `bytes` is a local variable.
        let start = unsafe { alloc(&mut bytes) };
        if start.is_null() || bytes < SMALLEST_STACK_BYTES {
            if !start.is_null() {
                // SAFETY: `alloc` has just given it, and nobody has it.
                unsafe { free(start) };
            }
            owner.free();
            return None;
        }
        let frames = start.expose_provenance()..start.addr().saturating_add(bytes);
        Some(Self {
            valgrind: valgrind::Registration::new(frames.clone()),
            frames,
            memory: Memory::Users { free, owner },
        })
    }

    /// Where frames can be.
    #[inline]
    pub fn frames(&self) -> Range<usize> {
        self.frames.clone()
    }

    /// The same with what lies above them.
    #[cold]
    pub fn whole(&self) -> Range<usize> {
        match &self.memory {
            Memory::Guarded { stack, .. } => stack.addresses(),
            Memory::Users { .. } => self.frames(),
        }
    }

    /// [`OWNER_BYTES`] bytes for the stack's owner. They can be read for ever; until another
    /// stack's owner writes there they are zeros, or what this one left.
    pub fn owner_bytes(&self) -> NonNull<u8> {
        let start = match &self.memory {
            Memory::Guarded { owner: None, .. } => self.frames.end,
            Memory::Guarded {
                owner: Some(owner), ..
            }
            | Memory::Users { owner, .. } => owner.addresses().start,
        };
        NonNull::new(ptr::with_exposed_provenance_mut(start)).expect("it is no NULL")
    }

    /// A number that stays when the stack is freed, for the next owner in the same place; 0 for
    /// the first.
    pub fn generation(&self) -> &'static AtomicU32 {
        match &self.memory {
            Memory::Guarded { stack, owner: None } => stack.slot().generation(),
            Memory::Guarded {
                owner: Some(owner), ..
            }
            | Memory::Users { owner, .. } => owner.generation(),
        }
    }

    fn is_unguarded(&self) -> bool {
        matches!(&self.memory, Memory::Guarded { stack, .. } if !stack.is_guarded)
    }

    /// Whether an address lies in the guard of a stack of our own.
    #[cold]
    pub fn guard_contains(&self, address: usize) -> bool {
        matches!(&self.memory, Memory::Guarded { stack, .. } if stack.guard().contains(&address))
    }

    /// Memory that held frames before is going to be written.
    #[inline]
    pub fn allow_writing(&self, addresses: Range<usize>) {
        self.valgrind.allow_writing(addresses);
    }

    /// Gives back the whole pages below this address, if the memory is ours and not locked. There
    /// is nothing below.
    pub fn trim_below(&self, address: usize) {
        let _guard = SyscallGuard::new();
        if let Memory::Guarded { stack, .. } = &self.memory {
            self.measure(stack);
            stack.discard_below(address);
        }
    }

    /// Writes zeros over what frames have left.
    pub fn wipe(&self) {
        let _guard = SyscallGuard::new();
        let Range { start, end } = self.frames();
        let end = end / 8 * 8;
        let lowest = match &self.memory {
            Memory::Guarded { stack, .. } => {
                let lowest = self.measure(stack).lowest;
                if let Some(lowest) = lowest {
                    stack.discard_below(lowest); // what was swapped out is not seen
                }
                lowest
            }
            // The program may have put a guard at the bottom.
            Memory::Users { .. } => Some(guarded::lowest_readable(start..end)),
        };
        let start = lowest.unwrap_or(start).next_multiple_of(8);
        self.allow_writing(start..end);
        for address in (start..end).step_by(8) {
            // SAFETY: the words are the stack's, on which nothing is. Each is written by itself:
            // memset is intercepted by sanitizers, which know of frames that were there.
            unsafe { ptr::with_exposed_provenance_mut::<u64>(address).write_volatile(0) };
        }
    }

    /// Frees a stack. The memory of a few stays, for those that are made next: a thread that makes and
    /// frees one job again and again has no page faults.
    pub fn free(self) {
        self.end(true);
    }

    /// Frees a stack and gives its memory back; says how many bytes the system got, or the program's
    /// own function.
    pub fn give_back(self) -> usize {
        self.end(false)
    }

    fn end(self, may_keep_memory: bool) -> usize {
        let _guard = SyscallGuard::new();
        UNGUARDED.fetch_sub(self.is_unguarded().into(), Relaxed);
        probe!("stack_freed", self.frames.start, self.frames.len());
        let usage = match &self.memory {
            Memory::Guarded { stack, .. } => self.measure(stack),
            Memory::Users { .. } => Usage::default(),
        };
        let (bytes, owner) = match self.memory {
            Memory::Guarded { stack, owner } => {
                let kept = match may_keep_memory {
                    true => stack.free_warm(&usage),
                    false => Err(stack),
                };
                let went_back = kept.is_err_and(GuardedStack::give_back);
                (if went_back { usage.resident_bytes } else { 0 }, owner)
            }
            Memory::Users { free, owner } => {
                // SAFETY: it goes with the function that gave this memory; by owning the Stack
                // the caller knows that nobody uses it.
                unsafe { free(ptr::with_exposed_provenance_mut(self.frames.start)) };
                (self.frames.len(), Some(owner))
            }
        };
        if let Some(owner) = owner {
            owner.free();
        }
        FREED.fetch_add(1, Release);
        bytes
    }

    /// Looks how much was used, before that can no longer be seen.
    fn measure(&self, stack: &GuardedStack) -> Usage {
        let usage = Usage::of(stack.addresses());
        DEEPEST.fetch_max(usage.depth_below(self.frames.end), Relaxed);
        usage
    }
}

/// A walk past the owners of all stacks, in steps; zeroed memory is one that has not begun. It
/// leaves out nobody who owns his stack from the walk's beginning to its end.
pub struct Walk {
    is_past_stacks: Cell<bool>,
    /// The address where the next step begins.
    next: Cell<usize>,
}

/// What a walk comes past.
pub struct Passed {
    /// The address of [`OWNER_BYTES`] bytes, which can be read for ever.
    pub owner: usize,
    /// The stack, if it can be read for ever, too.
    pub stack: Option<Range<usize>>,
}

impl Walk {
    pub const fn new() -> Self {
        Self {
            is_past_stacks: Cell::new(false),
            next: Cell::new(0),
        }
    }

    /// Goes past the next owners, at most this many. False at the end: the next step begins anew.
    pub fn step(&self, most: usize, mut pass: impl FnMut(Passed)) -> bool {
        let is_past_stacks = self.is_past_stacks.get();
        let pool = if is_past_stacks { &OWNERS } else { &FOR_JOBS };
        let Some(slots) = pool.taken_from(self.next.get()) else {
            self.next.set(0);
            self.is_past_stacks.set(!is_past_stacks);
            return !is_past_stacks;
        };
        for slot in slots.take(most) {
            self.next.set(slot.end);
            pass(match is_past_stacks {
                true => Passed {
                    owner: slot.start,
                    stack: None,
                },
                false => Passed {
                    owner: slot.end - OWNER_BYTES,
                    stack: Some(guarded::stack_in(slot)),
                },
            });
        }
        true
    }
}
