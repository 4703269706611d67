//! Compiles what is written in C: the benchmark's inner loops, and the fuzzer's plug-in.

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

    println!("cargo::rerun-if-changed=fuzz/plug_in.c");
    let out = std::env::var("OUT_DIR").expect("cargo sets it");
    let compiler = cc::Build::new().get_compiler();
    let status = compiler
        .to_command()
        .args(["-shared", "-fPIC", "fuzz/plug_in.c", "-o"])
        .arg(format!("{out}/plug_in.so"))
        .status();
    assert!(status.is_ok_and(|status| status.success()));
}
