//! A trace in memory that a forked process shares with its parent, so that it outlives a crash.

use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const SIZE_BYTES: usize = 8 << 20;

/// A length, and behind it a text of that length.
pub struct Trace {
    length: &'static AtomicUsize,
    text: NonNull<u8>,
}

// SAFETY: the text is written only under the lock of the run, and read by the parent only when
// the child has ended.
unsafe impl Sync for Trace {}
// SAFETY: the memory belongs to no thread, and is never unmapped.
unsafe impl Send for Trace {}

impl Trace {
    pub fn new() -> &'static Self {
        // SAFETY: the mapping is new, zeroed, aligned to a page and never unmapped.
        let (length, text) = unsafe {
            let memory = libc::mmap(
                ptr::null_mut(),
                SIZE_BYTES,
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
            text: NonNull::new(text).expect("it lies behind the start of a mapping"),
        }))
    }

    pub fn push(&self, line: &str) {
        let length = self.length.load(SeqCst);
        let end = length + line.len() + 1;
        assert!(
            end + size_of::<AtomicUsize>() <= SIZE_BYTES,
            "too long a trace"
        );
        // SAFETY: the assertion has shown that line and newline end inside the mapping.
        unsafe {
            let text = self.text.add(length);
            text.copy_from_nonoverlapping(NonNull::from(line.as_bytes()).cast(), line.len());
            text.add(line.len()).write(b'\n');
        }
        self.length.store(end, SeqCst);
    }

    /// The whole text; the trace is empty afterwards. The process that wrote it must have ended.
    pub fn take(&self) -> String {
        let length = self.length.swap(0, SeqCst);
        // SAFETY: `push` has written this many bytes before it set the length.
        let text = unsafe { slice::from_raw_parts(self.text.as_ptr(), length) };
        String::from_utf8_lossy(text).into_owned()
    }
}
