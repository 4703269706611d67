//! What the environment sets: two variables, read once, never by a set-uid program.

use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicBool, Ordering};

use once_cell::race::OnceNonZeroUsize;

/// Usable bytes of a stack of ours, unless the environment says otherwise.
const DEFAULT_STACK_SIZE: usize = 128 << 10;
/// What can be asked for: room for a function that does some work, and no typing error.
const STACK_SIZES: std::ops::RangeInclusive<usize> = 16 << 10..=1 << 30;

/// `RSASYNC_STACK_SIZE` in bytes, if it is set to something sensible.
pub fn stack_size_set() -> Option<usize> {
    // The outer value is what is cached: 1 stands for "not set".
    const UNSET: usize = 1;
    static CACHED: OnceNonZeroUsize = OnceNonZeroUsize::new();
    let read = || {
        let size = variable(c"RSASYNC_STACK_SIZE").and_then(|text| {
            let size = parse_size(text);
            if size.is_none() {
                report_stack_size(text);
            }
            size
        });
        size.unwrap_or(UNSET)
            .try_into()
            .unwrap_or(std::num::NonZero::<usize>::MIN)
    };
    Some(CACHED.get_or_init(read).get()).filter(|&size| size != UNSET)
}

/// Usable bytes of a stack that is not a user's.
pub fn stack_size() -> usize {
    stack_size_set().unwrap_or(DEFAULT_STACK_SIZE)
}

/// Whether `RSASYNC_STATS` asks for a line of statistics at the end of the process.
pub fn stats_at_exit() -> bool {
    variable(c"RSASYNC_STATS").is_some_and(|text| !text.is_empty() && text != c"0")
}

unsafe extern "C" {
    fn secure_getenv(name: *const c_char) -> *const c_char;
}

fn variable(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: `name` is a C string. The result stands as long as the program leaves this
    // variable alone, as with every use of the environment.
    unsafe {
        let value = secure_getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value))
    }
}

fn parse_size(text: &CStr) -> Option<usize> {
    let text = text.to_str().ok()?;
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1 << 10),
        None => match text.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 1 << 20),
            None => (text, 1),
        },
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None; // usize's own parser would take a sign
    }
    let size = digits.parse::<usize>().ok()?.checked_mul(unit)?;
    STACK_SIZES.contains(&size).then_some(size)
}

#[cold]
fn report_stack_size(text: &CStr) {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if !REPORTED.swap(true, Ordering::Relaxed) {
        print(&format!(
            "rsasync: RSASYNC_STACK_SIZE={} is ignored: give bytes, or a number with K or M, \
             from {}K to {}M; stacks have {}K\n",
            text.to_string_lossy(),
            STACK_SIZES.start() >> 10,
            STACK_SIZES.end() >> 20,
            DEFAULT_STACK_SIZE >> 10,
        ));
    }
}

/// Writes to standard error; a closed one is no reason to fail.
pub fn print(line: &str) {
    // SAFETY: the buffer is `line`'s.
    unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
}
