//! A job's weak pointer to its wait context.

use std::mem;
use std::ptr;
use std::sync::atomic::{
    AtomicPtr, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::wait_ctx::wait_ctx::WaitCtx;

/// A pointer to a wait context that may be freed at any time. The job's thread writes it, other
/// threads and signal handlers may read it.
pub struct WeakWaitCtx {
    ctx: AtomicPtr<WaitCtx>,
    generation: AtomicU64,
}

impl WeakWaitCtx {
    pub const CTX_OFFSET: usize = mem::offset_of!(Self, ctx);
    pub const GENERATION_OFFSET: usize = mem::offset_of!(Self, generation);

    #[inline]
    pub fn set(&self, ctx: Option<&'static WaitCtx>) {
        let Some(ctx) = ctx else { return self.clear() };
        self.generation.store(ctx.generation(), Release);
        self.ctx.store(ctx.as_ptr(), Release);
    }

    #[inline]
    pub fn clear(&self) {
        self.ctx.store(ptr::null_mut(), Relaxed);
    }

    /// Whether there was a context, and it has been freed.
    pub fn is_orphaned(&self) -> bool {
        !self.ctx.load(Acquire).is_null() && self.get().is_none()
    }

    /// The context, if there is one and it has not been freed.
    #[inline]
    pub fn get(&self) -> Option<&'static WaitCtx> {
        // SAFETY: the memory of a context is never anything else and can always be read. A
        // reader that finds the address of one context and the generation of another sees that
        // they don't match.
        let ctx = unsafe { self.ctx.load(Acquire).as_ref() }?;
        let generation = self.generation.load(Acquire);
        (generation != 0 && ctx.generation() == generation).then_some(ctx)
    }
}
