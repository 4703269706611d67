//! How the shared library is linked: its soname, and what the dynamic loader is told.

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
}
