//! `ASYNC_set_mem_functions`: the functions that give and take back memory for stacks.

use std::ffi::c_void;
use std::ptr;

use crate::stack::guarded::{FOR_PROGRAM, GuardedStack};
use crate::sys::env;
use crate::sys::mutex::ForkSafeMutex;
use crate::sys::syscall_guard::SyscallGuard;

/// Gives memory: takes the bytes wanted in `*num`, leaves there the bytes given.
pub type AllocFn = unsafe extern "C" fn(num: *mut usize) -> *mut c_void;
/// Takes that memory back.
pub type FreeFn = unsafe extern "C" fn(addr: *mut c_void);

/// A pair of functions.
#[derive(Clone, Copy)]
pub struct MemFunctions {
    pub alloc: AllocFn,
    pub free: FreeFn,
}

impl MemFunctions {
    const BUILTIN: Self = Self {
        alloc: guarded_alloc,
        free: guarded_free,
    };

    /// Whether the program has replaced neither.
    pub fn is_builtin(self) -> bool {
        ptr::fn_addr_eq(self.alloc, Self::BUILTIN.alloc)
            && ptr::fn_addr_eq(self.free, Self::BUILTIN.free)
    }
}

struct Installed {
    functions: MemFunctions,
    /// A stack was asked for: memory of two pairs must not mix.
    is_frozen: bool,
}

static INSTALLED: ForkSafeMutex<Installed> = ForkSafeMutex::new(Installed {
    functions: MemFunctions::BUILTIN,
    is_frozen: false,
});

/// Installs the functions given, for the whole process; false once a stack was asked for.
///
/// A program with a function of its own that only takes memory back expects it from `malloc`, as
/// libcrypto's default gives it, and gets it from there. The other way round, [`guarded_free`]
/// takes both.
pub fn install(alloc: Option<AllocFn>, free: Option<FreeFn>) -> bool {
    let mut installed = INSTALLED.lock();
    if installed.is_frozen {
        return false;
    }
    let now = installed.functions;
    let alloc = alloc.unwrap_or(match free {
        Some(free)
            if ptr::fn_addr_eq(now.alloc, guarded_alloc as AllocFn)
                && !ptr::fn_addr_eq(free, guarded_free as FreeFn) =>
        {
            malloc_alloc
        }
        _ => now.alloc,
    });
    let free = free.unwrap_or(now.free);
    installed.functions = MemFunctions { alloc, free };
    true
}

pub fn installed() -> MemFunctions {
    INSTALLED.lock().functions
}

/// The same for a stack that is going to be made: from now on nothing can be installed.
pub fn freeze() -> MemFunctions {
    let mut installed = INSTALLED.lock();
    installed.is_frozen = true;
    installed.functions
}

/// The default `ASYNC_stack_alloc_fn`: at least `*num` bytes, and not less than
/// `RSASYNC_STACK_SIZE`, page-aligned, above a guard. NULL if there is no memory.
///
/// # Safety
/// `num` points to a `size_t`, which is read and written.
unsafe extern "C" fn guarded_alloc(num: *mut usize) -> *mut c_void {
    let _guard = SyscallGuard::new();
    // SAFETY: the caller's promise above.
    let bytes = unsafe { &mut *num };
    let wanted = (*bytes).max(env::options().stack_bytes());
    let Some(stack) = GuardedStack::new(&FOR_PROGRAM, wanted, None) else {
        return ptr::null_mut();
    };
    *bytes = stack.addresses().len();
    ptr::with_exposed_provenance_mut(stack.addresses().start)
}

/// The default `ASYNC_stack_free_fn`.
///
/// # Safety
/// `addr` is NULL, or came from [`guarded_alloc`], or from `malloc`, which the program's own
/// function may use; nobody uses that memory any more.
unsafe extern "C" fn guarded_free(addr: *mut c_void) {
    if addr.is_null() {
        return;
    }
    let _guard = SyscallGuard::new();
    // SAFETY: nobody uses the memory, by the caller's promise; what is in no slot is malloc's.
    unsafe {
        match GuardedStack::find(&FOR_PROGRAM, addr.addr()) {
            Some(stack) => drop(stack.give_back()),
            None => libc::free(addr),
        }
    }
}

/// # Safety
/// `num` points to a `size_t` that can be read.
unsafe extern "C" fn malloc_alloc(num: *mut usize) -> *mut c_void {
    // SAFETY: the caller's promise above.
    unsafe { libc::malloc(*num) }
}
