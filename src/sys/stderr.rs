//! A line for the operator on standard error.

use std::fmt::{self, Write};

/// Room for a line, in bytes. It is on the stack: there may be no memory on the heap.
const LINE_BYTES: usize = 512;

struct Line {
    text: [u8; LINE_BYTES],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.text[self.length..];
        let taken = text.len().min(room.len());
        room[..taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        Ok(())
    }
}

/// Writes a line in one piece. A closed standard error is no reason to fail.
pub fn print(line: fmt::Arguments) {
    let mut buffer = Line {
        text: [0; LINE_BYTES],
        length: 0,
    };
    let _ = buffer.write_fmt(line); // it can't fail
    // SAFETY: the pointer and the length are those of the buffer's beginning.
    unsafe {
        libc::write(
            libc::STDERR_FILENO,
            buffer.text.as_ptr().cast(),
            buffer.length,
        )
    };
}
