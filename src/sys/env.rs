//! The environment variables, read once: when the library is loaded.
//!
//! Later they may be gone: nginx clears the environment of its workers before their first job.
//! A set-uid program ignores all of them (`secure_getenv`).

use std::ffi::{CStr, c_char};
use std::ops::RangeInclusive;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::sys::stderr;

/// Usable bytes of a stack of our own where `RSASYNC_STACK_SIZE` is not set.
const DEFAULT_STACK_BYTES: usize = 128 << 10;
/// What `RSASYNC_STACK_SIZE` may ask for, in bytes: enough for a function that does some work,
/// and no typing error.
const STACK_BYTES: RangeInclusive<usize> = 16 << 10..=1 << 30;

/// How much of a value that makes no sense is kept to be shown, in bytes.
const NONSENSE_BYTES: usize = 32;

/// What the environment said.
pub struct Options {
    /// `RSASYNC_STACK_SIZE` in bytes, if it is set to something sensible.
    pub stack_bytes_set: Option<usize>,
    /// Whether `RSASYNC_STATS` asks for a line of statistics when the process exits.
    pub stats: bool,
    /// The beginning of an `RSASYNC_STACK_SIZE` that makes no sense, and its length in bytes.
    nonsense: Option<([u8; NONSENSE_BYTES], usize)>,
}

impl Options {
    /// Usable bytes of a stack of our own.
    pub fn stack_bytes(&self) -> usize {
        self.stack_bytes_set.unwrap_or(DEFAULT_STACK_BYTES)
    }
}

static OPTIONS: OnceLock<Options> = OnceLock::new();

/// Reads the variables. Called when the library is loaded.
pub fn read() {
    options();
}

pub fn options() -> &'static Options {
    OPTIONS.get_or_init(|| {
        let mut nonsense = None;
        let stack_bytes_set = variable(c"RSASYNC_STACK_SIZE", |text| {
            let bytes = parse_size(text);
            if bytes.is_none() {
                let mut beginning = [0; NONSENSE_BYTES];
                let length = text.count_bytes().min(NONSENSE_BYTES);
                beginning[..length].copy_from_slice(&text.to_bytes()[..length]);
                nonsense = Some((beginning, length));
            }
            bytes
        });
        let stats = variable(c"RSASYNC_STATS", |text| {
            !matches!(text.to_bytes(), b"" | b"0")
        });
        Options {
            stack_bytes_set: stack_bytes_set.flatten(),
            stats: stats.unwrap_or(false),
            nonsense,
        }
    })
}

/// Says once on standard error that `RSASYNC_STACK_SIZE` makes no sense. Called before the first
/// stack is made, so that helper processes without jobs stay silent.
pub fn report_nonsense() {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if let Some((text, length)) = &options().nonsense
        && !REPORTED.swap(true, Relaxed)
    {
        stderr::print(format_args!(
            "rsasync: RSASYNC_STACK_SIZE={} is ignored: give bytes, or a number with K or M, \
             from {}K to {}M; the default stands\n",
            text[..*length].escape_ascii(),
            STACK_BYTES.start() >> 10,
            STACK_BYTES.end() >> 20,
        ));
    }
}

unsafe extern "C" {
    fn secure_getenv(name: *const c_char) -> *const c_char;
}

/// What `read` makes of a variable; None if it is not set.
fn variable<T>(name: &CStr, read: impl FnOnce(&CStr) -> T) -> Option<T> {
    // SAFETY: `name` is a C string. While the library is loaded no other thread changes the
    // environment, unless the program breaks the rules of setenv(3).
    unsafe {
        let value = secure_getenv(name.as_ptr());
        (!value.is_null()).then(|| read(CStr::from_ptr(value)))
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
    STACK_BYTES.contains(&size).then_some(size)
}
