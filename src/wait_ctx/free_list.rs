//! Making and freeing wait contexts. Freed ones are kept for new ones.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::error::{Error, Reason};
use crate::wait_ctx::wait_ctx::WaitCtx;

/// Freed contexts that a thread keeps for itself, so that making one takes no lock. Zeroed memory
/// is a list that is not open yet.
pub struct FreeList {
    first: Cell<Option<&'static WaitCtx>>,
    /// How many more it takes. It is bounded because a thread may free what others make; it is 0
    /// when the thread has exited, as nobody would use the list again.
    room: Cell<usize>,
    /// The last number that this thread has given; at first the last one of a block.
    last_generation: Cell<u64>,
}

/// How many generations a thread draws at once.
const GENERATION_BLOCK: u64 = 1 << 16;

impl FreeList {
    /// The most contexts that a thread keeps.
    const ROOM: usize = 64;

    /// Takes contexts from now on.
    pub fn open(&self) {
        self.room.set(Self::ROOM);
        self.last_generation.set(GENERATION_BLOCK - 1);
    }

    pub fn make_context(&self) -> Result<&'static WaitCtx, Error> {
        let ctx = self.pop().or_else(WaitCtx::allocate).ok_or(Error {
            reason: Reason::NoMemory,
            text: c"no memory for another wait context; free some",
        })?;
        ctx.begin_life(self.next_generation());
        Ok(ctx)
    }

    /// Frees a context after its cleanups; does nothing if it was freed before.
    pub fn free_context(&self, ctx: &'static WaitCtx) {
        if ctx.end_life() {
            self.push(ctx);
        }
    }

    /// Gives all contexts back, and from now on each one at once: the thread exits.
    pub fn close(&self) {
        while let Some(ctx) = self.pop() {
            ctx.deallocate();
        }
        self.room.set(0);
    }

    fn pop(&self) -> Option<&'static WaitCtx> {
        let ctx = self.first.get()?;
        self.first.set(ctx.next_free.take());
        self.room.set(self.room.get() + 1);
        Some(ctx)
    }

    fn push(&self, ctx: &'static WaitCtx) {
        if self.room.get() == 0 {
            return ctx.deallocate();
        }
        ctx.next_free.set(self.first.replace(Some(ctx)));
        self.room.set(self.room.get() - 1);
    }

    /// A number that no other context's life has. Threads draw them in blocks.
    fn next_generation(&self) -> u64 {
        static NEXT_BLOCK: AtomicU64 = AtomicU64::new(0);
        let mut last = self.last_generation.get();
        if last % GENERATION_BLOCK == GENERATION_BLOCK - 1 {
            last = NEXT_BLOCK.fetch_add(GENERATION_BLOCK, Relaxed);
        }
        self.last_generation.set(last + 1);
        last + 1
    }
}
