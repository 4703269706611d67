//! clang's sanitizers: how a program is built with one, and which options it runs with.

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

    /// The compiler for a program in which every finding ends the process with a status other than
    /// 0.
    pub fn compiler(self, source: &Path) -> Command {
        let mut compiler = compiler_of(&["clang".to_owned()], &["clang++".to_owned()], source);
        compiler.args(["-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]);
        compiler.arg(match self {
            Self::Address => "-fsanitize=address,undefined",
            Self::Thread => "-fsanitize=thread",
        });
        compiler
    }

    /// Sets the options that all programs need, followed by `more`, which may override them.
    pub fn set_options(self, command: &mut Command, more: &str) {
        // Cases handle SIGSEGV themselves, and let allocations fail.
        let both = "handle_segv=0:allocator_may_return_null=1";
        match self {
            Self::Address => command
                .env("ASAN_OPTIONS", format!("{both}:detect_leaks=1:{more}"))
                .env("UBSAN_OPTIONS", "print_stacktrace=1"),
            // Cases fork while other threads run, and need no second's wait for reports at exit.
            Self::Thread => command.env(
                "TSAN_OPTIONS",
                format!("{both}:die_after_fork=0:atexit_sleep_ms=0:{more}"),
            ),
        };
    }
}
