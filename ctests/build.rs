//! Compiles the benchmark's inner loops, which are written in C.

fn main() {
    println!("cargo::rerun-if-changed=bench/loops.c");
    cc::Build::new()
        .file("bench/loops.c")
        .include("../include")
        .std("gnu11")
        .opt_level(2)
        .warnings_into_errors(true)
        .extra_warnings(true)
        .compile("loops");
}
