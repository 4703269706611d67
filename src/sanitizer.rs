//! Tells the sanitizers of switches, if the program was built with one: AddressSanitizer needs
//! to know which stack is in use, ThreadSanitizer which fibre. Their functions are found by
//! weak references; without them nothing of this is called.
//!
//! Both want to hear of a switch on the side that leaves, AddressSanitizer also on the one that
//! arrives. What is kept of the far side goes over to the other like the side itself:
//!
//! ```text
//!   dispatcher: leave   ->   job: arrive   ...   job: leave   ->   dispatcher: arrive
//! ```

use std::arch::global_asm;
use std::cell::Cell;
use std::ffi::{c_uint, c_void};
use std::ptr;

global_asm!(
    ".weak __sanitizer_start_switch_fiber, __sanitizer_finish_switch_fiber",
    ".weak __asan_unpoison_memory_region",
    ".weak __lsan_register_root_region, __lsan_unregister_root_region",
    ".weak __tsan_get_current_fiber, __tsan_create_fiber",
    ".weak __tsan_destroy_fiber, __tsan_switch_to_fiber",
    ".pushsection .data.rel.ro.rsasync_sanitizers, \"aw\", %progbits",
    ".balign 8",
    ".globl rsasync_sanitizers",
    ".hidden rsasync_sanitizers",
    "rsasync_sanitizers:",
    ".8byte __sanitizer_start_switch_fiber, __sanitizer_finish_switch_fiber",
    ".8byte __asan_unpoison_memory_region",
    ".8byte __lsan_register_root_region, __lsan_unregister_root_region",
    ".8byte __tsan_get_current_fiber, __tsan_create_fiber",
    ".8byte __tsan_destroy_fiber, __tsan_switch_to_fiber",
    ".popsection",
);

/// The functions' types are those of sanitizer/common_interface_defs.h, asan_interface.h,
/// lsan_interface.h and tsan_interface.h.
#[repr(C)]
struct Functions {
    start_switch: Option<unsafe extern "C" fn(*mut *mut c_void, *const c_void, usize)>,
    finish_switch: Option<unsafe extern "C" fn(*mut c_void, *mut *const c_void, *mut usize)>,
    unpoison: Option<unsafe extern "C" fn(*const c_void, usize)>,
    add_root: Option<unsafe extern "C" fn(*const c_void, usize)>,
    remove_root: Option<unsafe extern "C" fn(*const c_void, usize)>,
    current_fiber: Option<unsafe extern "C" fn() -> *mut c_void>,
    create_fiber: Option<unsafe extern "C" fn(c_uint) -> *mut c_void>,
    destroy_fiber: Option<unsafe extern "C" fn(*mut c_void)>,
    switch_to_fiber: Option<unsafe extern "C" fn(*mut c_void, c_uint)>,
}

unsafe extern "C" {
    #[link_name = "rsasync_sanitizers"]
    static FOUND: Functions;
}

fn found() -> &'static Functions {
    // SAFETY: the linker or the loader filled it in before this library ran; nobody writes it.
    unsafe { &FOUND }
}

/// Whether there is anybody to tell.
#[inline(always)]
pub fn is_present() -> bool {
    let found = found();
    found.start_switch.is_some() | found.switch_to_fiber.is_some()
}

/// What the sanitizers know of the side of a fibre that is not running.
pub struct FarSide {
    bottom: Cell<*const c_void>,
    size: Cell<usize>,
    /// ThreadSanitizer's fibre.
    fibre: Cell<*mut c_void>,
}

/// What AddressSanitizer keeps of a side while it is away.
pub struct Away(*mut c_void);

impl Away {
    /// For a side that arrives and was never there.
    pub const FIRST_TIME: Self = Self(ptr::null_mut());
}

impl FarSide {
    pub const fn new() -> Self {
        Self {
            bottom: Cell::new(ptr::null()),
            size: Cell::new(0),
            fibre: Cell::new(ptr::null_mut()),
        }
    }

    /// It is a function that has not begun, on this stack. What an earlier one left of its
    /// frames there is forgotten.
    #[cold]
    pub fn begin(&self, bottom: *const c_void, size: usize) {
        self.bottom.set(bottom);
        self.size.set(size);
        // SAFETY: the functions are the sanitizers', the stack is whole and not in use.
        unsafe {
            if let Some(unpoison) = found().unpoison {
                unpoison(bottom, size);
            }
            add_root(bottom, size);
            if let Some(create) = found().create_fiber
                && self.fibre.get().is_null()
            {
                self.fibre.set(create(0));
            }
        }
    }

    /// The side that runs is about to go there, for good or not.
    pub fn leave(&self, for_good: bool) -> Away {
        let mut away = ptr::null_mut();
        // SAFETY: the functions are the sanitizers'; far side's stack and fibre are known, and
        // the next thing to happen is the switch.
        unsafe {
            if let Some(start_switch) = found().start_switch {
                let keep = if for_good {
                    ptr::null_mut()
                } else {
                    &raw mut away
                };
                start_switch(keep, self.bottom.get(), self.size.get());
            }
            if let Some(switch_to) = found().switch_to_fiber {
                switch_to(self.fibre.replace(current_fibre()), 0);
            }
        }
        Away(away)
    }

    /// The side that runs has just come; the far side is where it came from, and has ended or
    /// not.
    pub fn arrive(&self, away: Away, far_side_ended: bool) {
        if let Some(finish_switch) = found().finish_switch {
            let (own_bottom, own_size) = (self.bottom.get(), self.size.get());
            // SAFETY: the function is AddressSanitizer's, `away` what it kept of this side.
            unsafe { finish_switch(away.0, self.bottom.as_ptr(), self.size.as_ptr()) };
            if !far_side_ended {
                add_root(self.bottom.get(), self.size.get());
            }
            remove_root(own_bottom, own_size);
        }
    }
}

/// LeakSanitizer looks for pointers on the stacks that threads are on. Those on which nothing
/// runs it must be told of.
fn add_root(bottom: *const c_void, size: usize) {
    if let Some(add_root) = found().add_root {
        // SAFETY: the function is LeakSanitizer's, and reads only what is mapped.
        unsafe { add_root(bottom, size) };
    }
}

fn remove_root(bottom: *const c_void, size: usize) {
    if let Some(remove_root) = found().remove_root {
        // SAFETY: the function is LeakSanitizer's, and was told of that by `add_root`.
        unsafe { remove_root(bottom, size) };
    }
}

/// ThreadSanitizer's fibre that runs now, if it watches.
pub fn current_fibre() -> *mut c_void {
    // SAFETY: the function is ThreadSanitizer's.
    found()
        .current_fiber
        .map_or(ptr::null_mut(), |current| unsafe { current() })
}

/// `pthread_exit` goes from a job to the end of its thread, whose fibre this is. What frames
/// are left on the thread's stack is forgotten.
pub fn leave_jobs(fibre: *mut c_void) {
    // SAFETY: the functions are the sanitizers', the fibre and the stack the thread's own.
    unsafe {
        if let Some(switch_to) = found().switch_to_fiber {
            switch_to(fibre, 0);
        }
        if let (Some(start_switch), Some(finish_switch), Some(unpoison)) = (
            found().start_switch,
            found().finish_switch,
            found().unpoison,
        ) {
            let (bottom, size) = stack_of_thread();
            start_switch(ptr::null_mut(), bottom, size);
            finish_switch(ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
            unpoison(bottom, size);
        }
    }
}

/// Where the calling thread's own stack is, and its size.
fn stack_of_thread() -> (*const c_void, usize) {
    let (mut bottom, mut size) = (ptr::null_mut(), 0);
    // SAFETY: the attributes are written by the first call, read by the second, and freed.
    unsafe {
        let mut attributes = std::mem::zeroed::<libc::pthread_attr_t>();
        if libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) == 0 {
            libc::pthread_attr_getstack(&attributes, &mut bottom, &mut size);
            libc::pthread_attr_destroy(&mut attributes);
        }
    }
    (bottom, size)
}

impl Drop for FarSide {
    fn drop(&mut self) {
        if let Some(destroy) = found().destroy_fiber
            && !self.fibre.get().is_null()
        {
            // SAFETY: the function that ran on it has ended.
            unsafe { destroy(self.fibre.get()) };
        }
    }
}
