//! How the shared library is linked: its soname, what the dynamic loader is told, the unwinder.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let soname = format!("-soname,librsasync.so.{}", env!("CARGO_PKG_VERSION_MAJOR"));
    for option in [
        soname.as_str(),
        // Thread-exit and fork handlers point into the library: it can never be unloaded.
        "-z,nodelete",
        "-z,now",
        "-z,relro",
    ] {
        println!("cargo::rustc-cdylib-link-arg=-Wl,{option}");
    }
    link_unwinder();
}

/// Links the unwinder that Rust's standard library shows backtraces with from its archive. Else each
/// process would load libgcc_s.so for it, which takes as long as all the rest of the loading.
fn link_unwinder() {
    println!("cargo::rerun-if-env-changed=CC");
    let cc = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut words = cc.split_whitespace();
    let mut ask = Command::new(words.next().unwrap_or("cc"));
    let answer = ask.args(words).arg("-print-file-name=libgcc_eh.a").output();
    let Ok(answer) = answer else { return };
    let archive = String::from_utf8_lossy(&answer.stdout);
    // A compiler that has no such archive prints the bare name.
    if let Some(directory) = Path::new(archive.trim()).parent()
        && directory.is_absolute()
    {
        println!("cargo::rustc-link-search=native={}", directory.display());
        println!("cargo::rustc-link-lib=static:-bundle=gcc_eh");
    }
}
