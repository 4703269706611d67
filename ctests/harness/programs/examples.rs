//! The programs of examples/.

use libtest_mimic::Failed;

use crate::check::expect;
use crate::openssl::{Openssl, SYSTEM};
use crate::stage::{ROOT, command, output_of, stdout_of};

/// An example prints the same on libcrypto, on rsasync, with rsasync preloaded, and on valgrind.
pub fn run(openssl: &Openssl, name: &str) -> Result<(), Failed> {
    let platform = openssl.platform;
    let c = ROOT.join("examples").join(name).with_extension("c");
    let built = openssl.built();
    let (on_libcrypto, on_rsasync) = (built.join(format!("{name}-libcrypto")), built.join(name));
    let mut compiler_with_libcrypto = platform.compiler(&c);
    compiler_with_libcrypto
        .args(openssl.compile_flags())
        .arg("-lcrypto");
    output_of(compiler_with_libcrypto.arg("-o").arg(&on_libcrypto))?;
    let mut compiler = platform.compiler(&c);
    compiler
        .arg(format!("-I{}", platform.headers().display()))
        .arg(platform.library_path())
        .arg("-lrsasync");
    output_of(compiler.arg("-o").arg(&on_rsasync))?;
    let mut libcryptos = openssl.run(&on_libcrypto, &[], 60);
    let wanted = match platform.has_ucontext() {
        true => stdout_of(&mut libcryptos)?,
        false => {
            expect(
                !libcryptos.output()?.status.success(),
                "libcrypto has jobs here",
            )?;
            output_on_this_machine(name)?
        }
    };
    expect(!wanted.is_empty(), "it prints nothing")?;
    let printed = stdout_of(&mut platform.run(&on_rsasync, &[], 60))?;
    expect(
        printed == wanted,
        format!("it printed\n{printed}and on libcrypto\n{wanted}"),
    )?;
    let printed = stdout_of(&mut openssl.run(&on_libcrypto, &[platform.preloading()], 60))?;
    expect(
        printed == wanted,
        format!("preloaded it printed\n{printed}and on libcrypto\n{wanted}"),
    )?;
    if !platform.is_host() {
        return Ok(()); // valgrind is this machine's
    }
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

/// What an example prints on this machine's libcrypto.
fn output_on_this_machine(name: &str) -> Result<String, Failed> {
    let program = SYSTEM.built().join(format!("{name}-wanted"));
    let mut compiler =
        crate::stage::compiler(&ROOT.join("examples").join(name).with_extension("c"));
    compiler.args(SYSTEM.compile_flags()).arg("-lcrypto");
    output_of(compiler.arg("-o").arg(&program))?;
    stdout_of(&mut SYSTEM.run(&program, &[], 60))
}
