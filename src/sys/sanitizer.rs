//! AddressSanitizer and ThreadSanitizer learn of stacks and switches, if the program was built with
//! one: the first needs to know which stack is in use, the second which fiber. Their functions are
//! found by weak references; in other programs nothing here is called.
//!
//! Both are told by the side that leaves, AddressSanitizer also by the side that comes. What is
//! known of the suspended side is exchanged like the side itself:
//!
//! ```text
//!   dispatcher: start_switch  ->  job: finish_switch ... start_switch  ->  dispatcher: finish_switch
//! ```

use std::arch::global_asm;
use std::cell::Cell;
use std::ffi::{c_uint, c_void};
use std::ops::Range;
use std::ptr;

// A table of addresses, in the order of the struct below; NULL where nobody defines the name.
global_asm!(
    ".weak __sanitizer_start_switch_fiber, __sanitizer_finish_switch_fiber",
    ".weak __asan_unpoison_memory_region",
    ".weak __lsan_register_root_region, __lsan_unregister_root_region",
    ".weak __tsan_get_current_fiber, __tsan_create_fiber",
    ".weak __tsan_destroy_fiber, __tsan_switch_to_fiber",
    ".pushsection .data.rel.ro.rsasync_sanitizers, \"aw\", %progbits", // read-only once relocated
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

/// The types are those of sanitizer/common_interface_defs.h, asan_interface.h, lsan_interface.h
/// and tsan_interface.h.
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
    static FUNCTIONS: Functions;
}

fn functions() -> &'static Functions {
    // SAFETY: the linker or the loader filled the table in before any code of this library ran;
    // nobody writes it afterwards.
    unsafe { &FUNCTIONS }
}

/// Whether the program was built with one of them.
#[inline(always)]
pub fn is_present() -> bool {
    let functions = functions();
    functions.start_switch.is_some() | functions.switch_to_fiber.is_some()
}

/// What the sanitizers know of the suspended side of a fibre.
pub struct Suspended {
    bottom: Cell<*const c_void>,
    bytes: Cell<usize>,
    tsan_fiber: Cell<*mut c_void>,
}

/// AddressSanitizer's copies of a side's frames, kept while the side is suspended.
pub struct FakeStack(*mut c_void);

impl FakeStack {
    /// A side that has not run yet has none.
    pub const NONE: Self = Self(ptr::null_mut());
}

impl Suspended {
    pub const fn new() -> Self {
        Self {
            bottom: Cell::new(ptr::null()),
            bytes: Cell::new(0),
            tsan_fiber: Cell::new(ptr::null_mut()),
        }
    }

    /// The suspended side becomes a function that has not begun, on this stack. What is known of
    /// earlier frames there is forgotten.
    #[cold]
    pub fn begin(&self, stack: Range<usize>) {
        let (bottom, bytes) = (ptr::with_exposed_provenance(stack.start), stack.len());
        self.bottom.set(bottom);
        self.bytes.set(bytes);
        // SAFETY: the functions are the sanitizers'; the stack is mapped and nothing runs on it.
        unsafe {
            if let Some(unpoison) = functions().unpoison {
                unpoison(bottom, bytes);
            }
            add_root(bottom, bytes);
            if let Some(create) = functions().create_fiber
                && self.tsan_fiber.get().is_null()
            {
                self.tsan_fiber.set(create(0));
            }
        }
    }

    /// The running side is about to switch to the suspended one, for good or not.
    pub fn start_switch(&self, for_good: bool) -> FakeStack {
        let mut fake_stack = ptr::null_mut();
        // SAFETY: the functions are the sanitizers'; the suspended side's stack and fiber are
        // known since `begin`, and the caller switches next.
        unsafe {
            if let Some(start_switch) = functions().start_switch {
                let keep = match for_good {
                    true => ptr::null_mut(),
                    false => &raw mut fake_stack,
                };
                start_switch(keep, self.bottom.get(), self.bytes.get());
            }
            if let Some(switch_to) = functions().switch_to_fiber {
                switch_to(self.tsan_fiber.replace(current_fiber()), 0);
            }
        }
        FakeStack(fake_stack)
    }

    /// The running side has just come. The other one, now suspended, has ended or not.
    pub fn finish_switch(&self, fake_stack: FakeStack, other_has_ended: bool) {
        if let Some(finish_switch) = functions().finish_switch {
            let (own_bottom, own_bytes) = (self.bottom.get(), self.bytes.get());
            // SAFETY: the function is AddressSanitizer's, `fake_stack` what it kept of this side;
            // it writes where the other side's stack is.
            unsafe { finish_switch(fake_stack.0, self.bottom.as_ptr(), self.bytes.as_ptr()) };
            if !other_has_ended {
                add_root(self.bottom.get(), self.bytes.get());
            }
            remove_root(own_bottom, own_bytes);
        }
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        if let Some(destroy) = functions().destroy_fiber
            && !self.tsan_fiber.get().is_null()
        {
            // SAFETY: the function that ran as this fiber has ended.
            unsafe { destroy(self.tsan_fiber.get()) };
        }
    }
}

/// LeakSanitizer looks for pointers on the stacks in use. It has to be told of suspended ones, and
/// of other memory that is mapped.
pub fn add_root(bottom: *const c_void, bytes: usize) {
    if let Some(add_root) = functions().add_root {
        // SAFETY: the function is LeakSanitizer's, and reads only what is mapped.
        unsafe { add_root(bottom, bytes) };
    }
}

fn remove_root(bottom: *const c_void, bytes: usize) {
    if let Some(remove_root) = functions().remove_root {
        // SAFETY: the function is LeakSanitizer's, and `add_root` told it of that memory.
        unsafe { remove_root(bottom, bytes) };
    }
}

/// ThreadSanitizer's fiber that runs now; NULL without it.
pub fn current_fiber() -> *mut c_void {
    // SAFETY: the function is ThreadSanitizer's and has no conditions.
    functions()
        .current_fiber
        .map_or(ptr::null_mut(), |current| unsafe { current() })
}

/// `pthread_exit` has left a job for the end of its thread, whose own fiber is `thread_fiber`.
/// What is known of frames on the thread's own stack is forgotten.
pub fn leave_jobs(thread_fiber: *mut c_void) {
    // SAFETY: the functions are the sanitizers', the fiber and the stack the thread's own.
    unsafe {
        if let Some(switch_to) = functions().switch_to_fiber {
            switch_to(thread_fiber, 0);
        }
        if let (Some(start_switch), Some(finish_switch), Some(unpoison)) = (
            functions().start_switch,
            functions().finish_switch,
            functions().unpoison,
        ) {
            let (bottom, bytes) = thread_stack();
            start_switch(ptr::null_mut(), bottom, bytes);
            finish_switch(ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
            unpoison(bottom, bytes);
        }
    }
}

/// The lowest address of the calling thread's own stack, and its size in bytes.
fn thread_stack() -> (*const c_void, usize) {
    let (mut bottom, mut bytes) = (ptr::null_mut(), 0);
    // SAFETY: the first call fills in the attributes, the second reads them, the third frees
    // what they hold; all pointers are to local variables.
    unsafe {
        let mut attributes = std::mem::zeroed::<libc::pthread_attr_t>();
        if libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) == 0 {
            libc::pthread_attr_getstack(&attributes, &mut bottom, &mut bytes);
            libc::pthread_attr_destroy(&mut attributes);
        }
    }
    (bottom, bytes)
}
