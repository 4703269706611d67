//! What the libraries show to linkers: exported functions, needed libraries, dynamic flags.

use std::collections::BTreeSet;

use libtest_mimic::{Failed, Trial};

use harness::check::{equal, expect};
use harness::stage::{command, library_directory, shared_library, stdout_of};

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
    vec![
        Trial::test(
            "surface::shared_library_exports_the_api_unversioned_and_nothing_else",
            shared_library_exports,
        ),
        Trial::test(
            "surface::static_library_shows_the_api_and_nothing_else",
            static_library_globals,
        ),
        Trial::test(
            "surface::shared_library_needs_libc_and_libgcc_only",
            needed_libraries,
        ),
        Trial::test("surface::shared_library_uses_no_ucontext", no_ucontext),
        Trial::test("surface::shared_library_loads_on_glibc_2_34", oldest_glibc),
        Trial::test(
            "surface::no_library_claims_to_know_shadow_stacks",
            no_shadow_stacks,
        ),
        Trial::test(
            "surface::shared_library_stays_loaded_and_has_its_soname",
            dynamic_flags,
        ),
    ]
}

pub fn api() -> BTreeSet<String> {
    FUNCTIONS
        .iter()
        .chain(&EXTENSIONS)
        .map(|&name| name.to_owned())
        .collect()
}

/// The functions in the output of `nm`, each with its version if it has one.
fn names(nm: &str) -> BTreeSet<String> {
    nm.lines()
        .filter_map(|line| line.split_once(" T ").map(|(_, name)| name.to_owned()))
        .collect()
}

fn shared_library_exports() -> Result<(), Failed> {
    let nm = stdout_of(
        command("nm", 60)
            .args(["-D", "--defined-only"])
            .arg(shared_library()),
    )?;
    equal(nm.lines().count(), names(&nm).len())?;
    equal(names(&nm), api())
}

fn static_library_globals() -> Result<(), Failed> {
    let archive = library_directory().join("librsasync.a");
    let nm = stdout_of(
        command("nm", 60)
            .args(["--extern-only", "--defined-only", "--quiet"])
            .arg(archive),
    )?;
    // The base of probes is one in a program, so all objects with probes show it.
    let is_symbol = |line: &&str| line.contains(' ') && !line.ends_with(" W _.stapsdt.base");
    equal(nm.lines().filter(is_symbol).count(), names(&nm).len())?;
    equal(names(&nm), api())
}

fn dynamic_section() -> Result<String, Failed> {
    stdout_of(
        command("readelf", 60)
            .args(["--dynamic", "--wide"])
            .arg(shared_library()),
    )
}

fn needed_libraries() -> Result<(), Failed> {
    for line in dynamic_section()?
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
    {
        let known = [
            "[libc.so.6]",
            "[ld-linux-x86-64.so.2]",
            "[ld-linux-aarch64.so.1]",
        ];
        if !known.iter().any(|library| line.contains(library)) {
            return Err(format!("it needs more: {line}").into());
        }
    }
    Ok(())
}

fn no_ucontext() -> Result<(), Failed> {
    let mut nm = command("nm", 60);
    let imports = stdout_of(nm.args(["-D", "--undefined-only"]).arg(shared_library()))?;
    expect(imports.contains(" U malloc"), "nm shows no imports")?;
    for function in ["getcontext", "makecontext", "setcontext", "swapcontext"] {
        let is_imported = imports.contains(function);
        expect(!is_imported, format!("the library imports {function}"))?;
    }
    Ok(())
}

/// What the README says. gcc's unwinder, which is linked into the library, asks for one function more
/// where it is that of gcc 12 or later.
fn oldest_glibc() -> Result<(), Failed> {
    let mut nm = command("nm", 60);
    let imports = stdout_of(nm.args(["-D", "--undefined-only"]).arg(shared_library()))?;
    let versions = imports.lines().filter_map(|line| {
        let (name, version) = line.split_once("@GLIBC_2.")?;
        let is_unwinders = name.ends_with(" _dl_find_object");
        let minor = version.split('.').next()?.parse::<u32>().ok()?;
        (!is_unwinders).then_some(minor)
    });
    equal(versions.max(), Some(34))
}

/// A switch to another stack ends a process that has one. Without the note glibc turns it off.
fn no_shadow_stacks() -> Result<(), Failed> {
    for library in [shared_library(), library_directory().join("librsasync.a")] {
        let mut readelf = command("readelf", 60);
        let notes = stdout_of(readelf.args(["--notes", "--wide"]).arg(library))?;
        expect(notes.contains("stapsdt"), "readelf shows no notes")?;
        expect(!notes.contains("SHSTK"), notes)?;
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
