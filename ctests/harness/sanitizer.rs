//! The sanitizers of clang: how a program is built with one, and what it is told.

use std::path::Path;
use std::process::Command;

use crate::stage::compiler_of;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sanitizer {
    /// AddressSanitizer, with LeakSanitizer, and UBSan beside it.
    Address,
    /// ThreadSanitizer.
    Thread,
}

impl Sanitizer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Address => "asan",
            Self::Thread => "tsan",
        }
    }

    /// Whatever it finds ends the program, with a status that is not 0.
    pub fn compiler(self, source: &Path) -> Command {
        let mut compiler = compiler_of("clang", "clang++", source);
        compiler.args(["-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]);
        compiler.arg(match self {
            Self::Address => "-fsanitize=address,undefined",
            Self::Thread => "-fsanitize=thread",
        });
        compiler
    }

    /// Ours, and more, which may say otherwise.
    pub fn set_options(self, command: &mut Command, more: &str) {
        // A fault is the program's own business, and memory may end.
        let both = "handle_segv=0:allocator_may_return_null=1";
        match self {
            Self::Address => command
                .env("ASAN_OPTIONS", format!("{both}:detect_leaks=1:{more}"))
                .env("UBSAN_OPTIONS", "print_stacktrace=1"),
            // A process with threads may fork, and ends at once.
            Self::Thread => command.env(
                "TSAN_OPTIONS",
                format!("{both}:die_after_fork=0:atexit_sleep_ms=0:{more}"),
            ),
        };
    }
}
