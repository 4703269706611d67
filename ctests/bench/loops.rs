//! The loops of loops.c, and the libraries whose calls they measure.

use std::ffi::{CStr, c_long, c_void};
use std::path::Path;
use std::ptr;

use harness::functions::{Async, Libcrypto, Pointer};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// Makes `count` iterations; returns nanoseconds for each.
pub type Loop = unsafe extern "C" fn(&Async, usize) -> f64;

unsafe extern "C" {
    pub fn start_finish_no_args(lib: &Async, count: usize) -> f64;
    pub fn start_finish_64(lib: &Async, count: usize) -> f64;
    pub fn start_finish_4096(lib: &Async, count: usize) -> f64;
    pub fn start_finish_ten_deep(lib: &Async, count: usize) -> f64;
    pub fn resume_pause(lib: &Async, count: usize) -> f64;
    pub fn resume_pause_ten_deep(lib: &Async, count: usize) -> f64;
    pub fn current_job(lib: &Async, count: usize) -> f64;
    pub fn current_job_in_job(lib: &Async, count: usize) -> f64;
    pub fn pause_outside(lib: &Async, count: usize) -> f64;
    pub fn wait_ctx_life(lib: &Async, count: usize) -> f64;
    pub fn job_and_cleanup(lib: &Async, count: usize) -> f64;
    pub fn thread_with_a_job(lib: &Async, count: usize) -> f64;
    pub fn fork_once() -> f64;
    pub fn crowd_start(lib: &Async, ctx: Pointer, jobs: *mut Pointer, count: usize);
    pub fn crowd_finish(lib: &Async, ctx: Pointer, jobs: *mut Pointer, count: usize);

    pub fn ten_deep(call: extern "C" fn(*mut c_void) -> c_long, arg: *mut c_void) -> c_long;
    pub fn behind_two(
        jump: extern "C" fn(*mut c_void) -> *mut c_void,
        to: *mut c_void,
    ) -> *mut c_void;
}

/// `rsasync_stats` of rsasync.h.
#[repr(C)]
#[derive(Default)]
pub struct Stats {
    pub stacks_in_use: u64,
    pub stacks_unguarded: u64,
    pub jobs_abandoned: u64,
}

/// A library, which stays loaded until the process ends.
pub struct Loaded {
    pub jobs: Async,
    get_stats: Option<unsafe extern "C" fn(*mut Stats, usize)>,
    /// The version of OpenSSL, if the library is libcrypto.
    pub version: Option<String>,
}

impl Loaded {
    pub fn load(path: &Path) -> Result<Self, libloading::Error> {
        // SAFETY: the constructors of rsasync and libcrypto have no conditions, and their functions
        // have the types of their headers, which the tables repeat.
        unsafe {
            let library = Library::open(Some(path), RTLD_NOW | RTLD_LOCAL)?;
            let loaded = Self {
                jobs: Async::find(&library)?,
                get_stats: library.get(b"RSASYNC_get_stats").ok().map(|get| *get),
                version: Libcrypto::find(&library).ok().map(|libcrypto| {
                    (libcrypto.init)(0, ptr::null_mut());
                    let version = CStr::from_ptr((libcrypto.version)(0));
                    version.to_string_lossy().into_owned()
                }),
            };
            std::mem::forget(library);
            Ok(loaded)
        }
    }

    /// The counts of rsasync; libcrypto has none.
    pub fn stats(&self) -> Option<Stats> {
        let mut stats = Stats::default();
        // SAFETY: the function writes no more bytes than the size that it is passed.
        unsafe { self.get_stats?(&mut stats, size_of::<Stats>()) };
        Some(stats)
    }
}
