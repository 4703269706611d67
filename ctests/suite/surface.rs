//! What the library shows to linkers, compilers and packagers.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use libtest_mimic::{Failed, Trial};

use harness::stage::{
    BUILT, ROOT, STAGE, command, headers, library_directory, output_of, shared_library, stdout_of,
};

const FUNCTIONS: [&str; 22] = [
    "ASYNC_WAIT_CTX_clear_fd",
    "ASYNC_WAIT_CTX_free",
    "ASYNC_WAIT_CTX_get_all_fds",
    "ASYNC_WAIT_CTX_get_callback",
    "ASYNC_WAIT_CTX_get_changed_fds",
    "ASYNC_WAIT_CTX_get_fd",
    "ASYNC_WAIT_CTX_get_status",
    "ASYNC_WAIT_CTX_new",
    "ASYNC_WAIT_CTX_set_callback",
    "ASYNC_WAIT_CTX_set_status",
    "ASYNC_WAIT_CTX_set_wait_fd",
    "ASYNC_block_pause",
    "ASYNC_cleanup_thread",
    "ASYNC_get_current_job",
    "ASYNC_get_mem_functions",
    "ASYNC_get_wait_ctx",
    "ASYNC_init_thread",
    "ASYNC_is_capable",
    "ASYNC_pause_job",
    "ASYNC_set_mem_functions",
    "ASYNC_start_job",
    "ASYNC_unblock_pause",
];

const EXTENSIONS: [&str; 4] = [
    "RSASYNC_get_stats",
    "RSASYNC_last_error",
    "RSASYNC_trim_thread",
    "RSASYNC_version",
];

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test(
            "surface::shared_library_exports_the_api_unversioned_and_nothing_else",
            exports,
        ),
        Trial::test(
            "surface::static_library_shows_the_api_and_nothing_else",
            static_globals,
        ),
        Trial::test("surface::shared_library_needs_libc_and_libgcc_only", needs),
        Trial::test(
            "surface::shared_library_stays_loaded_and_has_its_soname",
            dynamic_flags,
        ),
        Trial::test(
            "surface::headers_are_what_the_source_gives",
            headers_are_current,
        ),
        Trial::test(
            "surface::header_compiles_after_openssl_1_1",
            header_after_1_1,
        ),
        Trial::test("surface::install_puts_everything_in_place", install),
        Trial::test("surface::pkg_config_builds_a_program", pkg_config),
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

/// All that a program may ask of the header, so that a file with it compiles only if it is
/// there and of the right type.
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

/// Our header after another of the same name.
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

/// 1.1's header repeats typedefs, which C99 does not allow.
fn header_after_1_1() -> Result<(), Failed> {
    // What 1.1's own configuration would make; the system's serves.
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

fn api() -> BTreeSet<String> {
    FUNCTIONS
        .iter()
        .chain(&EXTENSIONS)
        .map(|&name| name.to_owned())
        .collect()
}

/// The names in the output of `nm`: what follows the type, with a version if there is one.
fn names(nm: &str) -> BTreeSet<String> {
    nm.lines()
        .filter_map(|line| line.split_once(" T ").map(|(_, name)| name.to_owned()))
        .collect()
}

fn equal<T: PartialEq + std::fmt::Debug>(got: T, wanted: T) -> Result<(), Failed> {
    if got == wanted {
        Ok(())
    } else {
        Err(format!("got    {got:?}\nwanted {wanted:?}").into())
    }
}

fn exports() -> Result<(), Failed> {
    let nm = stdout_of(
        command("nm", 60)
            .args(["-D", "--defined-only"])
            .arg(shared_library()),
    )?;
    equal(nm.lines().count(), names(&nm).len())?;
    equal(names(&nm), api())
}

fn static_globals() -> Result<(), Failed> {
    let archive = library_directory().join("librsasync.a");
    let nm = stdout_of(
        command("nm", 60)
            .args(["--extern-only", "--defined-only", "--quiet"])
            .arg(archive),
    )?;
    equal(
        nm.lines().filter(|line| line.contains(' ')).count(),
        names(&nm).len(),
    )?;
    equal(names(&nm), api())
}

fn dynamic_section() -> Result<String, Failed> {
    stdout_of(
        command("readelf", 60)
            .args(["--dynamic", "--wide"])
            .arg(shared_library()),
    )
}

fn needs() -> Result<(), Failed> {
    for line in dynamic_section()?
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
    {
        let known = [
            "[libc.so.6]",
            "[libgcc_s.so.1]",
            "[ld-linux-x86-64.so.2]",
            "[ld-linux-aarch64.so.1]",
        ];
        if !known.iter().any(|library| line.contains(library)) {
            return Err(format!("it needs more: {line}").into());
        }
    }
    Ok(())
}

fn dynamic_flags() -> Result<(), Failed> {
    let section = dynamic_section()?;
    for wanted in ["soname: [librsasync.so.0]", "NOW NODELETE"] {
        if !section.contains(wanted) {
            return Err(format!("no {wanted} in\n{section}").into());
        }
    }
    let headers = stdout_of(
        command("readelf", 60)
            .args(["--segments", "--wide"])
            .arg(shared_library()),
    )?;
    if headers.contains("GNU_RELRO") {
        Ok(())
    } else {
        Err("it has no relro segment".into())
    }
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

fn install() -> Result<(), Failed> {
    let link = |path: &Path| fs::read_link(path).map(|target| target.display().to_string());
    let version = version()?;
    equal(link(&shared_library())?, "librsasync.so.0".to_owned())?;
    equal(
        link(&library_directory().join("librsasync.so.0"))?,
        format!("librsasync.so.{version}"),
    )?;
    let headers = [
        "rsasync.h",
        "openssl/async.h",
        "openssl/asyncerr.h",
        "standalone/openssl/crypto.h",
    ];
    let headers = headers.map(|header| format!("usr/include/rsasync/{header}"));
    let libraries = [
        "usr/lib/librsasync.a".to_owned(),
        "usr/lib/pkgconfig/rsasync.pc".to_owned(),
    ];
    let library = format!("usr/lib/librsasync.so.{version}");
    let wanted = headers
        .iter()
        .chain(&libraries)
        .chain([&library])
        .cloned()
        .collect::<BTreeSet<_>>();
    let installed = stdout_of(
        command("find", 60)
            .current_dir(&*STAGE)
            .args(["usr", "-type", "f"]),
    )?;
    equal(installed.lines().map(str::to_owned).collect(), wanted)
}

/// The library's version, as its manifest has it.
fn version() -> Result<String, Failed> {
    let manifest = fs::read_to_string(ROOT.join("Cargo.toml"))?;
    let line = manifest
        .lines()
        .find_map(|line| line.strip_prefix("version = \""));
    Ok(line
        .ok_or("the manifest has no version")?
        .trim_end_matches('"')
        .to_owned())
}

/// Builds a program with nothing but what pkg-config tells, and asks it for the version.
fn pkg_config() -> Result<(), Failed> {
    let ask = |what: &[&str]| {
        let mut pkg_config = command("pkg-config", 60);
        pkg_config.env("PKG_CONFIG_PATH", library_directory().join("pkgconfig"));
        pkg_config.env("PKG_CONFIG_SYSROOT_DIR", &*STAGE);
        pkg_config
            .env("PKG_CONFIG_ALLOW_SYSTEM_LIBS", "1")
            .args(what)
            .arg("rsasync");
        stdout_of(&mut pkg_config)
    };
    equal(ask(&["--modversion"])?.trim(), &version()?)?;
    let source =
        "#include <rsasync.h>\n#include <stdio.h>\nint main(void) { puts(RSASYNC_version()); }\n";
    let directory = tempfile::tempdir()?;
    let (c, program) = (
        directory.path().join("version.c"),
        directory.path().join("version"),
    );
    fs::write(&c, source)?;
    let flags = ask(&["--cflags", "--libs"])?;
    output_of(
        command("cc", 60)
            .arg(&c)
            .args(flags.split_whitespace())
            .arg("-o")
            .arg(&program),
    )?;
    equal(stdout_of(&mut command(&program, 60))?.trim(), &version()?)
}
