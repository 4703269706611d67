//! A stack for a job, whoever gave its memory.

use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::stack::guarded::{FOR_JOBS, GuardedStack};
use crate::stack::mem_functions::{self, FreeFn, MemFunctions};
use crate::stack::valgrind;
use crate::sys::env;
use crate::sys::slots::{Content, Slot, SlotPool};
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
static OWNERS: SlotPool = SlotPool::new(Content::Objects);

static MADE: AtomicU64 = AtomicU64::new(0);
static FREED: AtomicU64 = AtomicU64::new(0);
static UNGUARDED: AtomicU64 = AtomicU64::new(0);

/// How many stacks there were and are in the process.
pub struct Counts {
    pub made: u64,
    pub in_use: u64,
    /// Those in use that ought to have a guard and have none.
    pub unguarded: u64,
}

pub fn counts() -> Counts {
    let freed = FREED.load(Acquire); // before MADE: no more can be freed than were made
    let made = MADE.load(Relaxed);
    Counts {
        made,
        in_use: made - freed,
        unguarded: UNGUARDED.load(Relaxed),
    }
}

impl Stack {
    /// A stack from the functions in place; None if they have no memory.
    pub fn new() -> Option<Self> {
        let _guard = SyscallGuard::new();
        env::report_nonsense();
        let functions = mem_functions::freeze();
        let stack = match functions.is_builtin() {
            true => Self::builtin(),
            false => Self::from_program(functions),
        }?;
        MADE.fetch_add(1, Relaxed);
        UNGUARDED.fetch_add(stack.is_unguarded().into(), Relaxed);
        Some(stack)
    }

    fn builtin() -> Option<Self> {
        let stack = GuardedStack::new(&FOR_JOBS, env::options().stack_bytes())?;
        let owner = match stack.slot().is_temporary() {
            true => match OWNERS.take(OWNER_BYTES) {
                None => {
                    stack.free();
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

    /// Memory that held frames before is going to be written.
    #[inline]
    pub fn allow_writing(&self, addresses: Range<usize>) {
        self.valgrind.allow_writing(addresses);
    }

    /// Gives back the whole pages below the owner's, if the memory is ours and not locked.
    pub fn trim(&self) {
        let _guard = SyscallGuard::new();
        if let Memory::Guarded { stack, .. } = &self.memory {
            stack.discard_below(self.frames.end);
        }
    }

    /// Gives the memory back; false if it is ours, but locked, and stays.
    pub fn free(self) -> bool {
        let _guard = SyscallGuard::new();
        UNGUARDED.fetch_sub(self.is_unguarded().into(), Relaxed);
        let (went_back, owner) = match self.memory {
            Memory::Guarded { stack, owner } => (stack.free(), owner),
            Memory::Users { free, owner } => {
                // SAFETY: it goes with the function that gave this memory; by owning the Stack
                // the caller knows that nobody uses it.
                unsafe { free(ptr::with_exposed_provenance_mut(self.frames.start)) };
                (true, Some(owner))
            }
        };
        if let Some(owner) = owner {
            owner.free();
        }
        FREED.fetch_add(1, Release);
        went_back
    }

    /// Frees it; says how many bytes the system got, or the program's own function.
    pub fn free_counted(self) -> usize {
        let _guard = SyscallGuard::new();
        let bytes = match &self.memory {
            Memory::Users { .. } => self.frames.len(),
            Memory::Guarded { stack, .. } => stack.resident_bytes(),
        };
        if self.free() { bytes } else { 0 }
    }
}
