//! The programs of examples/.

use libtest_mimic::Failed;

use crate::check::expect;
use crate::openssl::Openssl;
use crate::stage::{
    ROOT, command, compiler, headers, library_path, output_of, shared_library, stdout_of,
};

/// An example prints the same on libcrypto, on rsasync, with rsasync preloaded, and on valgrind.
pub fn run(openssl: &Openssl, name: &str) -> Result<(), Failed> {
    let c = ROOT.join("examples").join(name).with_extension("c");
    let built = openssl.built();
    let (on_libcrypto, on_rsasync) = (built.join(format!("{name}-libcrypto")), built.join(name));
    let mut compiler_with_libcrypto = compiler(&c);
    compiler_with_libcrypto
        .args(openssl.compile_flags())
        .arg("-lcrypto");
    output_of(compiler_with_libcrypto.arg("-o").arg(&on_libcrypto))?;
    let mut compiler = compiler(&c);
    compiler
        .arg(format!("-I{}", headers().display()))
        .arg(library_path())
        .arg("-lrsasync");
    output_of(compiler.arg("-o").arg(&on_rsasync))?;
    let wanted = stdout_of(&mut openssl.command(&on_libcrypto, 60))?;
    expect(!wanted.is_empty(), "it prints nothing")?;
    let printed = stdout_of(&mut command(&on_rsasync, 60))?;
    expect(
        printed == wanted,
        format!("it printed\n{printed}and on libcrypto\n{wanted}"),
    )?;
    let mut preloaded = openssl.command("env", 60);
    preloaded.arg(format!("LD_PRELOAD={}", shared_library().display()));
    let printed = stdout_of(preloaded.arg(&on_libcrypto))?;
    expect(
        printed == wanted,
        format!("preloaded it printed\n{printed}and on libcrypto\n{wanted}"),
    )?;
    let mut valgrind = command("valgrind", 300);
    valgrind.args([
        "--quiet",
        "--error-exitcode=9",
        "--leak-check=full",
        "--errors-for-leak-kinds=definite",
    ]);
    let printed = stdout_of(valgrind.arg(&on_rsasync))?;
    expect(
        printed == wanted,
        format!("under valgrind it printed\n{printed}"),
    )?;
    Ok(())
}
