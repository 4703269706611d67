//! The switch: Boost.Context's, from the `context` crate, behind a safe face.
//!
//! A fibre has two sides, the job's and that of whoever started or resumed it, its
//! dispatcher. One of them runs; the [`Fibre`] holds the other, and [`Fibre::switch`]
//! exchanges them, the same way from both sides:
//!
//! ```text
//!   dispatcher            Fibre holds          job
//!   prepare               job's entry
//!   switch  ----------->  dispatcher  ------>  entry
//!                         job         <------  switch   (a pause, or the end)
//!   switch  ----------->  dispatcher  ------>  ... goes on after its switch
//! ```

use std::cell::Cell;
use std::ptr::NonNull;

use context::stack::Stack;
use context::{Context, Transfer};

/// The side of a fibre that is not running, if it can be gone to.
pub struct Fibre {
    far_side: Cell<Option<Context>>,
}

/// What a job's stack begins with: gets the pointer that the first `switch` was given, and
/// returns when the job has ended, by a last `switch`, and so never.
pub type Main = extern "C-unwind" fn(first: FirstSwitch) -> !;

/// What arrives in [`Main`].
#[repr(transparent)]
pub struct FirstSwitch(Transfer);

impl FirstSwitch {
    /// The pointer handed over, and the dispatcher, which belongs into the job's [`Fibre`].
    pub fn into_parts(self) -> (*mut (), Fibre) {
        let data = std::ptr::with_exposed_provenance_mut(self.0.data);
        (data, Fibre { far_side: Cell::new(Some(self.0.context)) })
    }
}

impl Fibre {
    pub const fn new() -> Self {
        Self { far_side: Cell::new(None) }
    }

    /// Makes a new far side, which will run `main` on the memory from `bottom` to `top`, with
    /// the rounding modes and exception masks that the caller has now.
    ///
    /// # Safety
    /// The memory is writable, large enough for `main`, and used for nothing else until the
    /// fibre has come back for the last time.
    #[inline]
    pub unsafe fn prepare(&self, bottom: NonNull<u8>, top: NonNull<u8>, main: Main) {
        // SAFETY: the memory is the caller's promise. A `Main` takes a `Transfer`; its ABI
        // differs from `ContextFn`'s in name only: it may be unwound, by `pthread_exit`.
        let far_side = unsafe {
            let main = std::mem::transmute::<Main, context::ContextFn>(main);
            Context::new(&Stack::new(top.as_ptr().cast(), bottom.as_ptr().cast()), main)
        };
        self.far_side.set(Some(far_side));
    }

    /// Takes over the dispatcher that `main` found in its [`FirstSwitch`].
    pub fn arrive(&self, first: Fibre) {
        self.far_side.set(first.far_side.into_inner());
    }

    /// Goes to the far side; returns when that comes back. Callee-saved registers, the x87
    /// control word and MXCSR stay with their side.
    ///
    /// # Safety
    /// There is a far side, it belongs to this thread, and its stack still exists.
    #[inline(always)]
    pub unsafe fn switch(&self, data: *mut ()) {
        let Some(to) = self.far_side.take() else { std::process::abort() };
        // SAFETY: the caller's promise; a context is used once, as it was taken.
        let came_back = unsafe { to.resume(data.expose_provenance()) };
        self.far_side.set(Some(came_back.context));
    }
}
