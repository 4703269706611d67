//! RSASYNC_REPORT_OVERFLOW: a job that overflows its stack is named before the process ends.
//!
//! The process ends as it would have: the handler here puts back the action for SIGSEGV that was in
//! place before, and lets the fault happen again. It needs a stack of its own, as the job's is full;
//! a thread that has none gets one with its first job.

use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr;
use std::sync::OnceLock;

use crate::job::thread::Thread;
use crate::sys::env;
use crate::sys::stderr;

/// The action that the handler has replaced.
static FORMER: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the handler if the environment asks for it. A program that installs one of its own
/// later replaces it.
pub fn on_load() {
    if !env::options().report_overflow {
        return;
    }
    // SAFETY: zeros are a valid action; the handler has the type that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        if libc::sigaction(libc::SIGSEGV, ptr::null(), &mut action) != 0 {
            return;
        }
        FORMER.get_or_init(|| action);
        let handler: unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_fault;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(libc::SIGSEGV, &action, ptr::null_mut());
    }
}

unsafe extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel gives a description of the signal.
    let (address, code) = unsafe { ((*info).si_addr().addr(), (*info).si_code) };
    // Else somebody sent the signal; or, with SI_KERNEL, the job's stack had no room for the frame of
    // another signal's handler. Then nothing will fault again.
    const SI_KERNEL: c_int = 0x80;
    let is_fault = code > 0 && code != SI_KERNEL;
    if is_fault
        && let Some(job) = Thread::with(|thread| thread.current.get())
        && job.stack().guard_contains(address)
    {
        let kib = env::options().stack_bytes() >> 10;
        stderr::print(format_args!(
            "rsasync: job {:p} overflowed its stack of {} KiB in thread {}; its function is {:#x}; \
             RSASYNC_STACK_SIZE={}K gives jobs more\n",
            job.handle().as_ptr(),
            kib,
            // SAFETY: the call has no conditions.
            unsafe { libc::gettid() },
            job.fibre.func_address(),
            2 * kib,
        ));
    }
    // SAFETY: the action was this signal's before; `raise` takes effect when this function returns.
    unsafe {
        if let Some(former) = FORMER.get() {
            libc::sigaction(signal, former, ptr::null_mut());
        }
        if !is_fault {
            libc::raise(signal);
        }
    }
}
