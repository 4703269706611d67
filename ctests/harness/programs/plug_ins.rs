//! Objects that a program loads: plug-ins that start jobs while they are loaded, libcryptos of odd
//! forms, and objects that have nothing to do with libcrypto.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Failed;

use crate::check::{Check, expect};
use crate::openssl::Openssl;
use crate::platform::HOST;
use crate::stage::{
    BUILT, BuiltOnce, build_program, command, compiler, headers, library_path, output_of,
    program_source, stderr_of,
};

/// Builds programs/plug_in.c as a shared object of this name.
fn plug_in(directory: &Path, name: &str, flags: &[&str]) -> Result<PathBuf, Failed> {
    let object = directory.join(name);
    let mut cc = compiler(&program_source("plug_in.c"));
    cc.args(["-shared", "-fPIC"]).args(flags);
    output_of(cc.arg("-o").arg(&object))?;
    Ok(object)
}

// ---- constructors and destructors ----------------------------------------------------

/// The cases of programs/plug_ins.c on rsasync, and on this libcrypto itself.
pub fn constructors(openssl: &'static Openssl) -> Vec<Check> {
    let cases = [
        "a_constructor_may_wait_for_a_job",
        "a_destructor_may_wait_for_a_job",
        "a_constructor_may_fork",
        "a_resolver_may_wait_for_a_job",
        "a_callback_of_the_loader_may_wait_for_a_job",
        "a_slow_callback_of_the_loader_delays_few",
        "a_slow_constructor_delays_nobody",
        "a_message_of_dlerror_stays",
    ];
    let check = |library: &'static str, case: &'static str| {
        Check::new(format!("plug_ins_on_{library}::{case}"), move || {
            run_with_plug_ins(openssl, library, case)
        })
    };
    let both = |case| [check("rsasync", case), check("libcrypto", case)];
    cases.into_iter().flat_map(both).collect()
}

fn run_with_plug_ins(openssl: &Openssl, library: &str, case: &str) -> Result<(), Failed> {
    // Each check builds its own: checks run at the same time.
    let directory = openssl.built().join(format!("plug_ins_{library}_{case}"));
    fs::create_dir_all(&directory)?;
    let flags = openssl.compile_flags();
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["-Wl,--no-as-needed", "-lcrypto"]);
    let plug_ins = [
        plug_in(&directory, "plain.so", &[])?,
        plug_in(&directory, "needs_libcrypto.so", &flags)?,
        plug_in(&directory, "fake_libcrypto.so", &["-DFAKE_LIBCRYPTO"])?,
    ];
    let plug_ins = plug_ins.map(|it| it.display().to_string()).join(":");
    let resolver = plug_in(&directory, "resolver.so", &["-DRESOLVER"])?;

    let program = directory.join("program");
    let mut cc = compiler(&program_source("plug_ins.c"));
    cc.arg("-rdynamic").arg("-o").arg(&program);
    match library {
        "rsasync" => {
            let headers = format!("-I{}", headers().display());
            cc.args([headers, library_path(), "-lrsasync".to_owned()])
        }
        _ => {
            cc.args(["-DON_LIBCRYPTO", "-DWITH_LIBCRYPTO"]);
            cc.args(openssl.compile_flags()).arg("-lcrypto")
        }
    };
    output_of(&mut cc)?;
    let mut run = openssl.command("env", 120);
    run.arg(format!("PLUG_IN={plug_ins}"));
    run.arg(format!("RESOLVER={}", resolver.display()));
    output_of(run.arg(program).arg(case)).map(drop)
}

// ---- libcryptos of odd forms ---------------------------------------------------------

fn objects() -> Result<&'static Path, Failed> {
    static PROGRAM: BuiltOnce = BuiltOnce::new();
    PROGRAM.get_or_build(|| build_program("objects", &[]))
}

fn run_objects(case: &str, settings: &[String]) -> Result<(), Failed> {
    let mut run = command("env", 60);
    output_of(run.args(settings).arg(objects()?).arg(case)).map(drop)
}

/// Each form: its name, the linker's options, what is changed in the file then, and whether
/// `dlsym` finds its symbols.
pub fn odd_forms() -> Vec<Check> {
    const HIGH: &str = "-Wl,--hash-style=gnu,-Ttext-segment=0x800000000000";
    const HIDDEN: &str = "-fvisibility=hidden";
    let forms: [(&str, &str, Option<Change>, bool); 8] = [
        ("gnu_hash", "-Wl,--hash-style=gnu", None, true),
        ("sysv_hash", "-Wl,--hash-style=sysv", None, true),
        ("both_hashes", "-Wl,--hash-style=both", None, true),
        ("loaded_below_its_address", HIGH, None, true),
        (
            "without_section_headers",
            "-Wl,--hash-style=gnu",
            Some(remove_section_headers),
            true,
        ),
        (
            "empty_gnu_hash",
            "-Wl,--hash-style=gnu",
            Some(empty_gnu_hash),
            false,
        ),
        (
            "empty_gnu_hash_beside_sysv",
            "-Wl,--hash-style=both",
            Some(empty_gnu_hash),
            false,
        ),
        ("without_dynamic_symbols", HIDDEN, None, false),
    ];
    let check =
        |(name, flag, change, is_seen): (&'static str, &'static str, Option<Change>, bool)| {
            Check::new(format!("objects::{name}"), move || {
                let flags = ["-DFAKE_LIBCRYPTO", "-Wl,-Bsymbolic", flag];
                let object = plug_in(&BUILT, &format!("{name}.so"), &flags)?;
                if let Some(change) = change {
                    change(&object)?;
                }
                let mut settings = vec![format!("OBJECT={}", object.display())];
                settings.extend(is_seen.then(|| "SEEN=1".to_owned()));
                if flag == HIGH {
                    settings.push("LOADED_BELOW_ITS_ADDRESS=1".to_owned());
                }
                run_objects("an_object_is_seen_as_dlsym_sees_it", &settings)
            })
        };
    forms.map(check).into()
}

type Change = fn(&Path) -> Result<(), Failed>;

/// No loader reads them; `e_shoff`, `e_shentsize`, `e_shnum` and `e_shstrndx` in the file's header.
fn remove_section_headers(object: &Path) -> Result<(), Failed> {
    let mut file = fs::read(object)?;
    file[40..48].fill(0);
    file[58..64].fill(0);
    Ok(fs::write(object, file)?)
}

/// The number of its buckets becomes 0, as in an object that another linker has made.
fn empty_gnu_hash(object: &Path) -> Result<(), Failed> {
    let table = object.with_extension("gnu_hash");
    let mut objcopy = command("objcopy", 60);
    objcopy.arg(format!("--dump-section=.gnu.hash={}", table.display()));
    output_of(objcopy.arg(object).arg("/dev/null"))?;
    let (mut file, table) = (fs::read(object)?, fs::read(table)?);
    let place = file.windows(table.len()).position(|it| it == table);
    let place = place.ok_or("the table is not in the file")?;
    file[place..place + 4].fill(0);
    Ok(fs::write(object, file)?)
}

/// Jobs start while another thread loads and unloads libcryptos that may be unloaded. Several runs,
/// as each one pins them in the end; and one on valgrind, which reports reads of what is unloaded.
pub fn libcryptos_come_and_go() -> Result<(), Failed> {
    const RUNS: u32 = 10;
    let names = ["1", "2", "3", "4", "5", "6"].map(|it| format!("coming_and_going_{it}.so"));
    let mut paths = Vec::new();
    for name in names {
        paths.push(
            plug_in(&BUILT, &name, &["-DFAKE_LIBCRYPTO"])?
                .display()
                .to_string(),
        );
    }
    let run = |rounds: u32, tool: &[&str]| {
        let mut run = command("env", 120);
        run.arg(format!("OBJECTS={}", paths.join(":")));
        run.arg(format!("ROUNDS={rounds}")).args(tool);
        output_of(run.arg(objects()?).arg("objects_come_and_go")).map(drop)
    };
    (0..RUNS).try_for_each(|_| run(300, &[]))?;
    let valgrind = [
        "valgrind",
        "--fair-sched=try",
        "--quiet",
        "--error-exitcode=9",
    ];
    run(15, &valgrind)
}

// ---- objects that have nothing to do with libcrypto ----------------------------------

/// Objects that are loaded, and may be unloaded again, cost later jobs no instruction.
pub fn unrelated_objects_cost_nothing() -> Result<(), Failed> {
    /// What the loading itself may differ by, in a hundred instructions of a job.
    const TOLERANCE_PERCENT: u64 = 5;
    let (without, with) = (
        instructions_of_a_job("")?,
        instructions_of_a_job("libm.so.6:libnss_dns.so.2:libanl.so.1")?,
    );
    expect(
        with <= without + without * TOLERANCE_PERCENT / 100,
        format!("a job costs {without} instructions, and {with} after an unrelated dlopen"),
    )
}

fn instructions_of_a_job(objects_to_load: &str) -> Result<u64, Failed> {
    /// The program does it three times: before, after, and on another thread.
    const ROUNDS: u64 = 3;
    const TIMES: u64 = 2000;
    let count = |times: u64| -> Result<u64, Failed> {
        let mut valgrind = command("env", 120);
        valgrind.arg(format!("TIMES={times}"));
        valgrind.arg(format!("OBJECTS={objects_to_load}"));
        valgrind.args(["valgrind", "--tool=callgrind"]);
        valgrind.arg("--callgrind-out-file=/dev/null");
        let said = stderr_of(valgrind.arg(objects()?).arg("unrelated_objects"))?;
        let total = said
            .split_once("Collected : ")
            .ok_or("callgrind printed no count")?
            .1;
        Ok(total
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .parse()?)
    };
    Ok((count(2 * TIMES)? - count(TIMES)?) / TIMES / ROUNDS)
}

// ---- beside libcrypto's own jobs -----------------------------------------------------

/// How programs/beside_libcrypto.c reaches libcrypto's own functions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Handle,
    DeepBind,
}

/// Jobs of rsasync and of this libcrypto side by side. The program is linked with both, or has
/// rsasync preloaded.
pub fn beside_libcrypto(openssl: &Openssl, preload: bool, reach: Reach) -> Result<(), Failed> {
    let directory = openssl
        .built()
        .join(format!("beside_{preload}_{}", reach as u8));
    fs::create_dir_all(&directory)?;
    let source = program_source("beside_libcrypto.c");
    let build = |output: &Path, flags: &[&str], libraries: &[&str]| {
        let mut cc = compiler(&source);
        cc.args(flags).args(openssl.compile_flags()).args(libraries);
        output_of(cc.arg("-o").arg(output)).map(drop)
    };
    let (program, object) = (directory.join("program"), directory.join("deepbind.so"));
    let (ours, path) = (format!("-I{}", headers().display()), library_path());
    match preload {
        true => build(&program, &[], &["-lcrypto"])?,
        false => build(
            &program,
            &[&ours, &path],
            &["-lrsasync", "-Wl,--no-as-needed", "-lcrypto"],
        )?,
    }
    let mut run = openssl.command("env", 60);
    if preload {
        run.arg(HOST.preloading());
    }
    run.arg(program).arg(openssl.libcrypto()?);
    if reach == Reach::DeepBind {
        build(&object, &["-shared", "-fPIC", "-DPLUG_IN"], &["-lcrypto"])?;
        run.arg(object);
    }
    output_of(&mut run).map(drop)
}

/// The same from Python, if there is one: its ctypes finds functions by a handle. The job's function
/// is libcrypto's own ASYNC_pause_job, which pauses, and returns 1 when it is resumed.
pub fn beside_libcrypto_in_python(openssl: &Openssl) -> Result<(), Failed> {
    const SCRIPT: &str = "
import ctypes, sys
crypto = ctypes.CDLL(sys.argv[1])
crypto.ASYNC_WAIT_CTX_new.restype = ctypes.c_void_p
job, ret, ctx = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_void_p(crypto.ASYNC_WAIT_CTX_new())
for status in [2, 3]:
    pause = crypto.ASYNC_pause_job
    assert status == crypto.ASYNC_start_job(ctypes.byref(job), ctx, ctypes.byref(ret), pause, None, 0)
assert ret.value == 1 and job.value is None
";
    let has_python = |mut command: Command| command.output().is_ok_and(|it| it.status.success());
    let mut try_it = command("python3", 60);
    try_it.args(["-c", "import ctypes"]);
    if openssl.major() < 3 || !has_python(try_it) {
        return Ok(()); // 1.1 starts no job without arguments
    }
    let mut run = openssl.command("env", 60);
    run.arg(HOST.preloading()).args(["python3", "-c", SCRIPT]);
    output_of(run.arg(openssl.libcrypto()?)).map(drop)
}

/// A library that wraps ASYNC_init_thread, and finds rsasync's behind it.
pub fn wrapped() -> Result<(), Failed> {
    let wrapper = BUILT.join("wrapper.so");
    let mut cc = compiler(&program_source("wrapper.c"));
    cc.args(["-shared", "-fPIC"]).arg("-I").arg(headers());
    output_of(cc.arg("-o").arg(&wrapper))?;
    let mut run = command("env", 60);
    run.arg(format!("LD_PRELOAD={}", wrapper.display()));
    output_of(run.arg(objects()?).arg("wrapped_functions")).map(drop)
}
