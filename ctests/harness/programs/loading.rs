//! Libraries that are loaded and unloaded at run time: rsasync, and others beside it.

use std::fs;
use std::path::Path;

use libtest_mimic::Failed;

use crate::check::Check;
use crate::openssl::Openssl;
use crate::platform::Platform;
use crate::stage::{
    BUILT, build_program, command, compiler, headers, library_path, output_of, program_source,
};

/// rsasync itself, by dlopen and dlclose.
pub fn at_run_time(platform: &Platform) -> Result<(), Failed> {
    let program = platform.built().join("dlopen");
    let mut compiler = platform.compiler(&program_source("dlopen.c"));
    output_of(
        compiler
            .arg(format!("-I{}", platform.headers().display()))
            .arg("-o")
            .arg(&program),
    )?;
    output_of(
        platform
            .run(&program, &[], 60)
            .arg(platform.shared_library()),
    )
    .map(drop)
}

/// Something is loaded while a process forks; the child then loads this libcrypto.
pub fn beside_a_fork(openssl: &Openssl) -> Result<(), Failed> {
    let platform = openssl.platform;
    let source = program_source("fork_beside_dlopen.c");
    let build = |output: &Path, flags: &[&str]| {
        let mut compiler = platform.compiler(&source);
        compiler.arg(format!("-I{}", platform.headers().display()));
        compiler.args(openssl.compile_flags()).args(flags);
        output_of(compiler.arg("-o").arg(output)).map(drop)
    };
    let program = openssl.built().join("fork_beside_dlopen");
    let object = program.with_extension("so");
    build(&object, &["-DOBJECT", "-shared", "-fPIC"])?;
    build(&program, &[])?;
    let mut run = openssl.run(&program, &[], 60);
    output_of(run.arg(platform.shared_library()).arg(object)).map(drop)
}

/// Jobs start while another thread loads and unloads two libraries: one that defines
/// ASYNC_start_job and is no libcrypto, and one that asks never to be unloaded and fails to load,
/// as a library that it needs is missing. Several runs, as not every run meets a half-loaded
/// library; and one on valgrind, which reports reads of an unloaded library.
pub fn jobs_meanwhile() -> Result<(), Failed> {
    const RUNS: u32 = 20;
    let program = build_program("loading", &[])?;
    let library = |name: &str, code: &str, flags: &[&str]| {
        let c = BUILT.join(name).with_extension("c");
        fs::write(&c, code)?;
        let mut cc = command("cc", 60);
        cc.args(["-shared", "-fPIC"]).arg(&c).args(flags).arg("-o");
        output_of(cc.arg(BUILT.join(name))).map(drop)
    };
    library(
        "lookalike.so",
        "int ASYNC_start_job(void) { return 0; }",
        &[],
    )?;
    library("libmissing.so", "int missing(void) { return 0; }", &[])?;
    let built = format!("-L{}", BUILT.display());
    let needs_missing = [
        "-Wl,-z,nodelete,--no-as-needed",
        &built,
        "-lm",
        "-lresolv",
        "-lanl",
        "-lmissing",
    ];
    library("failing.so", "int failing;", &needs_missing)?;
    fs::remove_file(BUILT.join("libmissing.so"))?;

    let run = |tool: &[&str]| {
        let mut run = command("env", 120);
        run.arg(format!(
            "LOOKALIKE={}",
            BUILT.join("lookalike.so").display()
        ));
        run.arg(format!("FAILING={}", BUILT.join("failing.so").display()));
        output_of(run.args(tool).arg(&program).arg("loading")).map(drop)
    };
    (0..RUNS).try_for_each(|_| run(&[]))?;
    run(&[
        "valgrind",
        "--fair-sched=try",
        "--quiet",
        "--error-exitcode=9",
    ])
}

/// A process that loads one libcrypto, and another when jobs have run.
pub fn two_libcryptos(first: &'static Openssl, second: &'static Openssl) -> Check {
    Check::new(
        format!("two_libcryptos::{}_after_it", second.version),
        || {
            let program = first
                .built()
                .join(format!("two_libcryptos_{}", second.version));
            let mut compiler = compiler(&program_source("two_libcryptos.c"));
            compiler.arg(format!("-I{}", headers().display()));
            compiler.arg(library_path()).arg("-lrsasync");
            output_of(compiler.arg("-o").arg(&program))?;
            let mut run = command(&program, 60);
            output_of(run.arg(first.libcrypto()?).arg(second.libcrypto()?)).map(drop)
        },
    )
}
