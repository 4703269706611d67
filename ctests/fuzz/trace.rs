//! A trace in memory that a forked process shares with its parent, so that it outlives a crash.

use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const SIZE: usize = 8 << 20;

pub struct Trace {
    length: &'static AtomicUsize,
    text: NonNull<u8>,
}

// SAFETY: only the thread whose turn it is writes, under the lock of the run.
unsafe impl Sync for Trace {}
// SAFETY: as above.
unsafe impl Send for Trace {}

impl Trace {
    pub fn new() -> &'static Self {
        // SAFETY: new memory, zeroed, never given back; the length lies in front of the text.
        let (length, text) = unsafe {
            let memory = libc::mmap(
                ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert!(memory != libc::MAP_FAILED, "no memory for a trace");
            let text = memory.cast::<u8>().add(size_of::<AtomicUsize>());
            (&*memory.cast::<AtomicUsize>(), text)
        };
        Box::leak(Box::new(Self {
            length,
            text: NonNull::new(text).expect("memory is nowhere at NULL"),
        }))
    }

    pub fn push(&self, line: &str) {
        let length = self.length.load(SeqCst);
        let end = length + line.len() + 1;
        assert!(end + size_of::<AtomicUsize>() <= SIZE, "too long a trace");
        // SAFETY: inside the memory, as was just seen.
        unsafe {
            let text = self.text.add(length);
            text.copy_from_nonoverlapping(NonNull::from(line.as_bytes()).cast(), line.len());
            text.add(line.len()).write(b'\n');
        }
        self.length.store(end, SeqCst);
    }

    /// All of it; it is empty then. The one who writes has ended.
    pub fn take(&self) -> String {
        let length = self.length.swap(0, SeqCst);
        // SAFETY: as much was written.
        let text = unsafe { slice::from_raw_parts(self.text.as_ptr(), length) };
        String::from_utf8_lossy(text).into_owned()
    }
}
