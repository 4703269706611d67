//! Other stack switches for comparison: the bare switch of the `context` crate, which rsasync is
//! built on and can't be faster than, and coroutines of the crate `corosensei`.

use std::ffi::{c_long, c_void};
use std::mem;

use context::stack::ProtectedFixedSizeStack;
use context::{Context, Transfer};
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult};

use crate::clock;
use crate::loops::{behind_two, ten_deep};

/// Nanoseconds for each of `count` calls.
fn timed(count: usize, mut call: impl FnMut()) -> f64 {
    clock::nanoseconds_each(count, || (0..count).for_each(|_| call()))
}

/// A switch to another stack and one back.
pub fn jump(count: usize) -> f64 {
    extern "C" fn echo(first: Transfer) -> ! {
        let mut back = first.context;
        loop {
            // SAFETY: each Context that a switch passes is resumed once.
            back = unsafe { back.resume(0) }.context;
        }
    }
    let stack = ProtectedFixedSizeStack::default();
    // SAFETY: the stack outlives its contexts; each context is resumed once.
    unsafe {
        let mut there = Some(Context::new(&stack, echo));
        timed(count, || {
            there = there.take().map(|there| there.resume(0).context);
        })
    }
}

/// The same, where each side calls the switch through two C functions.
pub fn jump_behind_two(count: usize) -> f64 {
    extern "C" fn jump(to: *mut c_void) -> *mut c_void {
        // SAFETY: a Context is nothing but a pointer, as its `repr(C)` promises.
        unsafe {
            let to = mem::transmute::<*mut c_void, Context>(to);
            mem::transmute::<Context, *mut c_void>(to.resume(0).context)
        }
    }
    extern "C" fn echo(first: Transfer) -> ! {
        // SAFETY: the first switch passes a Context, and each is resumed once.
        unsafe {
            let mut back = mem::transmute::<Context, *mut c_void>(first.context);
            loop {
                back = behind_two(jump, back);
            }
        }
    }
    let stack = ProtectedFixedSizeStack::default();
    // SAFETY: the stack outlives its contexts; each context is resumed once.
    unsafe {
        let mut there = mem::transmute::<Context, *mut c_void>(Context::new(&stack, echo));
        timed(count, || there = behind_two(jump, there))
    }
}

/// Runs a coroutine from start to end on the stack, and puts the stack back.
fn start_corosensei(stack: &mut Option<DefaultStack>) {
    let mut coroutine = Coroutine::with_stack(stack.take().expect("it is put back"), |_, ()| ());
    let CoroutineResult::<(), ()>::Return(()) = coroutine.resume(()) else {
        unreachable!()
    };
    *stack = Some(coroutine.into_stack());
}

pub fn corosensei_start_finish(count: usize) -> f64 {
    let mut stack = Some(DefaultStack::default());
    timed(count, || start_corosensei(&mut stack))
}

pub fn corosensei_start_finish_ten_deep(count: usize) -> f64 {
    extern "C" fn start(stack: *mut c_void) -> c_long {
        // SAFETY: the pointer is to the stack of the enclosing function, which waits meanwhile.
        start_corosensei(unsafe { &mut *stack.cast() });
        1
    }
    let mut stack = Some(DefaultStack::default());
    let stack = (&raw mut stack).cast();
    timed(count, || {
        // SAFETY: the function is passed the pointer that it expects.
        unsafe { ten_deep(start, stack) };
    })
}

/// A coroutine that is resumed with `true` to finish, with `false` to suspend again.
type Resumed = Coroutine<bool, (), ()>;
type Yielder = corosensei::Yielder<bool, ()>;

pub fn corosensei_resume_suspend(count: usize) -> f64 {
    let mut coroutine = Resumed::new(|yielder, _| while !yielder.suspend(()) {});
    coroutine.resume(false);
    let took = timed(count, || {
        coroutine.resume(false);
    });
    coroutine.resume(true);
    took
}

pub fn corosensei_resume_suspend_ten_deep(count: usize) -> f64 {
    extern "C" fn resume(coroutine: *mut c_void) -> c_long {
        // SAFETY: the pointer is to the coroutine of the enclosing function, which waits meanwhile.
        let coroutine = unsafe { &mut *coroutine.cast::<Resumed>() };
        coroutine.resume(false);
        1
    }
    extern "C" fn suspend(yielder: *mut c_void) -> c_long {
        // SAFETY: the pointer is to the running coroutine's own yielder.
        let yielder = unsafe { &*yielder.cast::<Yielder>() };
        yielder.suspend(()).into()
    }
    let mut coroutine = Resumed::new(|yielder: &Yielder, _| {
        let yielder = (&raw const *yielder).cast_mut().cast();
        // SAFETY: `suspend` is passed the pointer to a yielder that it expects.
        let suspend = || unsafe { ten_deep(suspend, yielder) };
        let not_the_last = suspend();
        while suspend() == not_the_last {}
    });
    coroutine.resume(false);
    let this = (&raw mut coroutine).cast();
    let took = timed(count, || {
        // SAFETY: the function is passed the pointer that it expects.
        unsafe { ten_deep(resume, this) };
    });
    coroutine.resume(true);
    took
}
