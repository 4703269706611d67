//! The environment variables, read once: when the library is loaded.
//!
//! Later they may be gone: nginx clears the environment of its workers before their first job.
//! A set-uid program ignores all of them (`secure_getenv`).

use std::ffi::{CStr, c_char};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::sys::stderr;

/// Usable bytes of a stack of our own where `RSASYNC_STACK_SIZE` is not set.
const DEFAULT_STACK_BYTES: usize = 128 << 10;
/// What `RSASYNC_STACK_SIZE` may ask for, in bytes: enough for a function that does some work,
/// and no typing error.
const STACK_BYTES: RangeInclusive<usize> = 32 << 10..=1 << 30;

/// What `RSASYNC_RECLAIM_ORPHANS` may ask for, in seconds: up to ten days.
const RECLAIM_SECONDS: RangeInclusive<u64> = 1..=864_000;

/// What the environment said.
pub struct Options {
    /// `RSASYNC_STACK_SIZE` in bytes, if it is set to something sensible.
    pub stack_bytes_set: Option<usize>,
    /// `RSASYNC_RECLAIM_ORPHANS`, in milliseconds; None: orphans stay.
    pub reclaim_orphans_ms: Option<u64>,
    /// Whether `RSASYNC_STATS` asks for a line of statistics when the process exits.
    pub stats: bool,
    /// Whether `RSASYNC_WIPE_STACKS` asks for zeros over what a finished job has left.
    pub wipe_stacks: bool,
    /// Whether `RSASYNC_REPORT_OVERFLOW` asks for a line when a job overflows its stack.
    pub report_overflow: bool,
    nonsense: [Option<Nonsense>; 2],
}

impl Options {
    /// Usable bytes of a stack of our own.
    pub fn stack_bytes(&self) -> usize {
        self.stack_bytes_set.unwrap_or(DEFAULT_STACK_BYTES)
    }
}

/// The beginning of a value that makes no sense, to be shown.
struct Nonsense {
    beginning: [u8; 32],
    bytes: usize,
    /// What is ignored, and why.
    variable: &'static str,
    advice: &'static str,
}

static OPTIONS: OnceLock<Options> = OnceLock::new();

/// Reads the variables. Called when the library is loaded.
pub fn read() {
    options();
}

pub fn options() -> &'static Options {
    OPTIONS.get_or_init(|| {
        let (stack_bytes_set, no_size) = number(
            c"RSASYNC_STACK_SIZE",
            parse_size,
            "give bytes, or a number with K or M, from 32K to 1024M; the default stands",
        );
        let (reclaim_orphans_ms, no_time) = number(
            c"RSASYNC_RECLAIM_ORPHANS",
            parse_seconds,
            "give seconds, from 1 to 864000, or 0 for never; orphans stay",
        );
        Options {
            stack_bytes_set,
            reclaim_orphans_ms: reclaim_orphans_ms.filter(|&ms| ms > 0),
            stats: is_set(c"RSASYNC_STATS"),
            wipe_stacks: is_set(c"RSASYNC_WIPE_STACKS"),
            report_overflow: is_set(c"RSASYNC_REPORT_OVERFLOW"),
            nonsense: [no_size, no_time],
        }
    })
}

/// Says once on standard error which variables make no sense. Called before the first stack is
/// made, so that helper processes without jobs stay silent.
pub fn report_nonsense() {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if REPORTED.load(Relaxed) || REPORTED.swap(true, Relaxed) {
        return;
    }
    for nonsense in options().nonsense.iter().flatten() {
        stderr::print(format_args!(
            "rsasync: {}={} is ignored: {}\n",
            nonsense.variable,
            nonsense.beginning[..nonsense.bytes].escape_ascii(),
            nonsense.advice,
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

/// Whether a variable that is a switch is on.
fn is_set(name: &CStr) -> bool {
    variable(name, |text| !matches!(text.to_bytes(), b"" | b"0")).unwrap_or(false)
}

/// What `parse` makes of a variable that is a number; the advice if that is nonsense.
fn number<T>(
    name: &'static CStr,
    parse: fn(&str) -> Option<T>,
    advice: &'static str,
) -> (Option<T>, Option<Nonsense>) {
    let read = |text: &CStr| {
        let value = text.to_str().ok().and_then(parse);
        let nonsense = value.is_none().then(|| {
            let mut beginning = [0; 32];
            let bytes = text.count_bytes().min(beginning.len());
            beginning[..bytes].copy_from_slice(&text.to_bytes()[..bytes]);
            Nonsense {
                beginning,
                bytes,
                variable: name.to_str().expect("it is ASCII"),
                advice,
            }
        });
        (value, nonsense)
    };
    variable(name, read).unwrap_or((None, None))
}

fn parse_digits<T: FromStr>(text: &str) -> Option<T> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None; // the integers' own parser would take a sign
    }
    text.parse().ok()
}

fn parse_seconds(text: &str) -> Option<u64> {
    let seconds = parse_digits(text)?;
    (seconds == 0 || RECLAIM_SECONDS.contains(&seconds)).then_some(seconds * 1_000)
}

fn parse_size(text: &str) -> Option<usize> {
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1 << 10),
        None => match text.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 1 << 20),
            None => (text, 1),
        },
    };
    let size = parse_digits::<usize>(digits)?.checked_mul(unit)?;
    STACK_BYTES.contains(&size).then_some(size)
}
