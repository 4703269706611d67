//! The C headers: generated from the source, and accepted by compilers in C and C++, alone and
//! beside OpenSSL's.

use std::fs;

use libtest_mimic::{Failed, Trial};

use harness::stage::{BUILT, ROOT, command, headers, output_of};

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test(
            "surface::headers_are_what_the_source_gives",
            headers_are_current,
        ),
        Trial::test(
            "surface::header_compiles_after_openssl_1_1",
            header_after_1_1,
        ),
    ];
    for standard in ["c99", "c11", "c++17"] {
        trials.push(Trial::test(
            format!("surface::header_compiles_alone_as_{standard}"),
            move || compiles(standard, "#include <openssl/async.h>\n", &[]),
        ));
        trials.push(Trial::test(
            format!("surface::header_compiles_after_openssl_3_as_{standard}"),
            move || compiles(standard, &after("/usr/include/openssl/async.h"), &[]),
        ));
        trials.push(Trial::test(
            format!("surface::header_suits_openssl_3_programs_as_{standard}"),
            move || {
                compiles(
                    standard,
                    "#include <openssl/ssl.h>\n#include <openssl/async.h>\n",
                    &[],
                )
            },
        ));
    }
    trials
}

/// Uses everything that the header declares: a file with this text compiles only if each function,
/// type and macro is there and has the right type.
const USES: &str = r#"
#ifndef OSSL_ASYNC_FD
# error "a macro that programs ask for"
#endif
#ifndef HEADER_ASYNC_H
# error "1.1's guard, which programs ask for"
#endif
#ifndef OPENSSL_ASYNC_H
# error "3.0's guard, which programs ask for"
#endif
static int constants[] = {
    ASYNC_ERR == 0 ? 1 : -1, ASYNC_NO_JOBS == 1 ? 1 : -1, ASYNC_PAUSE == 2 ? 1 : -1,
    ASYNC_FINISH == 3 ? 1 : -1, OSSL_BAD_ASYNC_FD == -1 ? 1 : -1,
    ASYNC_R_FAILED_TO_SET_POOL, ASYNC_R_FAILED_TO_SWAP_CONTEXT, ASYNC_R_INVALID_POOL_SIZE,
    ASYNC_R_INIT_FAILED,
};
static void cleanup(ASYNC_WAIT_CTX *ctx, const void *key, OSSL_ASYNC_FD fd, void *data)
{
    (void)ctx; (void)key; (void)fd; (void)data;
}
static int func(void *args) { return args != NULL; }
int use(struct async_job_st *job, struct async_wait_ctx_st *ctx);
int use(struct async_job_st *job, struct async_wait_ctx_st *ctx)
{
    ASYNC_JOB *same = job;
    ASYNC_WAIT_CTX *its = ASYNC_get_wait_ctx(same);
    OSSL_ASYNC_FD fd = OSSL_BAD_ASYNC_FD;
    size_t n;
    void *data;
    int ret;
    if (its != ctx || ASYNC_init_thread((size_t)4, (size_t)2) == 0)
        abort();
    ASYNC_WAIT_CTX_set_wait_fd(ctx, &ret, fd, &fd, cleanup);
    ASYNC_WAIT_CTX_get_fd(ctx, &ret, &fd, &data);
    ASYNC_WAIT_CTX_get_all_fds(ctx, &fd, &n);
    ASYNC_WAIT_CTX_get_changed_fds(ctx, &fd, &n, &fd, &n);
    ASYNC_WAIT_CTX_clear_fd(ctx, &ret);
    ASYNC_block_pause();
    ASYNC_unblock_pause();
    ASYNC_cleanup_thread();
    ASYNC_WAIT_CTX_free(ASYNC_WAIT_CTX_new());
    return ASYNC_start_job(&same, ctx, &ret, func, NULL, (size_t)0) + ASYNC_pause_job()
        + ASYNC_is_capable() + (ASYNC_get_current_job() == NULL) + constants[0];
}
"#;

/// Includes rsasync's header after another of the same name.
fn after(other: &str) -> String {
    let ours = headers().join("openssl/async.h");
    format!("#include \"{other}\"\n#include \"{}\"\n", ours.display())
}

fn compiles(standard: &str, includes: &str, flags: &[&str]) -> Result<(), Failed> {
    let (compiler, language) = if standard.starts_with("c++") {
        ("c++", "c++")
    } else {
        ("cc", "c")
    };
    let source = tempfile::Builder::new().suffix(".h").tempfile_in(&*BUILT)?;
    fs::write(source.path(), format!("{includes}{USES}"))?;
    let standard = format!("-std={standard}");
    let mut compiler = command(compiler, 60);
    compiler.args([
        &standard,
        "-pedantic-errors",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fsyntax-only",
        "-x",
        language,
    ]);
    compiler
        .args(flags)
        .arg("-I")
        .arg(headers())
        .arg(source.path());
    output_of(&mut compiler).map(drop)
}

/// C99 is left out: it forbids repeated typedefs, and 1.1's header and rsasync's have the same ones.
fn header_after_1_1() -> Result<(), Failed> {
    // opensslconf.h is generated, and not among 1.1's sources; the system's serves.
    let source = openssl_src_111::source_dir().join("include");
    let flags = [
        "-idirafter",
        source.to_str().ok_or("a path that is no text")?,
    ];
    let header = source.join("openssl/async.h");
    for standard in ["c11", "c++17"] {
        compiles(standard, &after(&header.display().to_string()), &flags)?;
    }
    Ok(())
}

fn headers_are_current() -> Result<(), Failed> {
    let fresh = tempfile::tempdir()?;
    output_of(command(env!("CARGO_BIN_EXE_headers"), 60).arg(fresh.path()))?;
    for name in ["openssl/async.h", "openssl/asyncerr.h", "rsasync.h"] {
        let ours = fs::read_to_string(ROOT.join("include").join(name))?;
        if ours != fs::read_to_string(fresh.path().join(name))? {
            return Err(
                format!("include/{name} is not what the source gives: run `make headers`").into(),
            );
        }
    }
    Ok(())
}
