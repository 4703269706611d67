//! An OpenSSL to test with: the system's, or one that is built here from its sources.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::{env, fs, thread};

use libtest_mimic::Failed;

use crate::stage::{self, ROOT, TARGET, library_directory, output_of, stdout_of};

pub struct Openssl {
    /// Its version: "3.0.13".
    pub version: String,
    /// The directory that it was built in, with headers in include/; None for the system's.
    tree: Option<PathBuf>,
}

/// The system's OpenSSL.
pub static SYSTEM: LazyLock<Openssl> = LazyLock::new(|| {
    let mut ask = stage::command("pkg-config", 60);
    let version = stdout_of(ask.args(["--modversion", "libcrypto"])).unwrap_or_default();
    Openssl {
        version: version.trim().to_owned(),
        tree: None,
    }
});

impl Openssl {
    /// OpenSSL 1.1.1. The sources in its crate are complete enough to build shared libraries.
    pub fn v1_1() -> Result<Self, Failed> {
        let version = openssl_src_111::version();
        build(
            version,
            &openssl_src_111::source_dir(),
            &["shared"],
            |tree| make(tree, &["build_libs", "build_programs"]),
        )
    }

    /// OpenSSL 4. Its crate lacks the scripts that link the shared libraries, but has the lists of
    /// exported functions, from which `link_shared` makes linker scripts.
    pub fn v4() -> Result<Self, Failed> {
        let version = openssl_src_400::version();
        let options = [
            "no-shared",
            "no-docs",
            "no-cmp",
            "no-legacy",
            "no-lms",
            "no-ml-dsa",
            "no-quic",
            "no-siv",
            "no-slh-dsa",
        ];
        build(version, &openssl_src_400::source_dir(), &options, |tree| {
            let targets = ["build_generated", "libcrypto.a", "libssl.a", "apps/openssl"];
            make(tree, &targets)?;
            link_shared(tree, "crypto", &[])?;
            // libssl uses internal functions of libcrypto, which only libcrypto.a has.
            link_shared(tree, "ssl", &["-L.", "-lcrypto", "libcrypto.a"])?;
            let link = "cc apps/openssl-bin-*.o apps/libapps.a -L. -lssl -lcrypto -o apps/openssl";
            run_in(tree, "sh", &["-c", link])
        })
    }

    pub fn major(&self) -> u32 {
        let major = self.version.split('.').next();
        major.and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// The directory for programs that are built against it.
    pub fn built(&self) -> PathBuf {
        let built = TARGET.join("ctests").join(&self.version);
        fs::create_dir_all(&built).expect("a directory in target/ctests can't be made");
        built
    }

    /// The compiler's options for its headers and libraries. The macro LIBCRYPTO has its soname, for
    /// programs that are built without it and load it.
    pub fn compile_flags(&self) -> Vec<String> {
        let major = self.major();
        let suffix = if major == 1 {
            "1.1".to_owned()
        } else {
            major.to_string()
        };
        let mut flags = vec![
            format!("-DLIBCRYPTO=\"libcrypto.so.{suffix}\""),
            format!("-DLIBCRYPTO_MAJOR={major}"),
        ];
        if let Some(tree) = &self.tree {
            flags.push(format!("-I{}", tree.join("include").display()));
            flags.push(format!("-L{}", tree.display()));
            // The static libraries need these, where the C library is older than 2.34.
            flags.extend(["-pthread", "-ldl"].map(str::to_owned));
        }
        flags
    }

    /// A command that finds this OpenSSL's libraries, with a time limit in seconds.
    pub fn command(&self, program: impl AsRef<OsStr>, timeout_s: u32) -> Command {
        let mut command = stage::command(program, timeout_s);
        if let Some(tree) = &self.tree {
            let rsasync = library_directory();
            command.env(
                "LD_LIBRARY_PATH",
                format!("{}:{}", rsasync.display(), tree.display()),
            );
        }
        command
    }

    /// Its `openssl` command.
    pub fn tool(&self) -> PathBuf {
        match &self.tree {
            Some(tree) => tree.join("apps/openssl"),
            None => "openssl".into(),
        }
    }

    /// The file of its shared libcrypto.
    pub fn libcrypto(&self) -> Result<PathBuf, Failed> {
        let directory = match &self.tree {
            Some(tree) => tree.clone(),
            None => {
                let mut ask = stage::command("pkg-config", 60);
                PathBuf::from(stdout_of(ask.args(["--variable=libdir", "libcrypto"]))?.trim())
            }
        };
        Ok(directory.join("libcrypto.so").canonicalize()?)
    }
}

/// Options that leave out what jobs, their tests and a TLS connection don't need.
const WITHOUT: [&str; 30] = [
    "no-tests",
    "no-aria",
    "no-bf",
    "no-blake2",
    "no-camellia",
    "no-cast",
    "no-cms",
    "no-comp",
    "no-ct",
    "no-dsa",
    "no-ec2m",
    "no-gost",
    "no-idea",
    "no-md4",
    "no-mdc2",
    "no-ocb",
    "no-ocsp",
    "no-rc2",
    "no-rc4",
    "no-rfc3779",
    "no-rmd160",
    "no-scrypt",
    "no-seed",
    "no-siphash",
    "no-sm2",
    "no-sm3",
    "no-sm4",
    "no-srp",
    "no-ts",
    "no-whirlpool",
];

/// Builds an OpenSSL in a copy of its sources in the target directory, once for each recipe.
fn build(
    crate_version: &str,
    source: &Path,
    options: &[&str],
    make: impl FnOnce(&Path) -> Result<(), Failed>,
) -> Result<Openssl, Failed> {
    let version = crate_version
        .split_once('+')
        .map_or(crate_version, |it| it.1);
    let tree = TARGET.join("openssl").join(version);
    let mut configure = vec!["./Configure", platform()];
    configure.extend(WITHOUT.iter().chain(options));
    // The system's configuration file is used; -O1 takes half the time of -O3.
    configure.extend(["--openssldir=/etc/ssl", "-O1", "-fPIC"]);
    let (stamp, recipe) = (tree.join("built"), configure.join(" "));
    if fs::read_to_string(&stamp).is_ok_and(|built| built == recipe) {
        return Ok(Openssl {
            version: version.to_owned(),
            tree: Some(tree),
        });
    }
    eprintln!("building OpenSSL {version} in {}, once", tree.display());
    let _ = fs::remove_dir_all(&tree);
    fs::create_dir_all(tree.parent().ok_or("the target directory has no parent")?)?;
    let from = source.to_str().ok_or("a path that is not UTF-8")?;
    let to = tree.to_str().ok_or("a path that is not UTF-8")?;
    run_in(&ROOT, "cp", &["-r", from, to])?;
    run_in(&tree, "perl", &configure)?;
    make(&tree)?;
    fs::write(stamp, recipe)?;
    Ok(Openssl {
        version: version.to_owned(),
        tree: Some(tree),
    })
}

/// OpenSSL's name for this machine.
fn platform() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "linux-aarch64"
    } else {
        "linux-x86_64"
    }
}

/// Makes one target after the other: 1.1.1 starts a make for each target, and two at the same time
/// would write the same files.
fn make(tree: &Path, targets: &[&str]) -> Result<(), Failed> {
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let jobs = format!("-j{jobs}");
    let mut targets = targets.iter();
    targets.try_for_each(|target| run_in(tree, "make", &["-s", &jobs, target]))
}

/// Links lib`name`.so from lib`name`.a as OpenSSL's own build does, exporting the functions in its
/// list only.
fn link_shared(tree: &Path, name: &str, libraries: &[&str]) -> Result<(), Failed> {
    let major = "4";
    let numbers = fs::read_to_string(tree.join(format!("util/lib{name}.num")))?;
    let mut script = format!("OPENSSL_{major}.0.0 {{ global:\n");
    for line in numbers.lines() {
        // NAME NUMBER VERSION EXIST:CONDITIONS, or NOEXIST for a function that is gone.
        let fields: Vec<_> = line.split_whitespace().collect();
        if let [function, _, _, state] = fields[..]
            && state.starts_with("EXIST:")
        {
            writeln!(script, "{function};")?;
        }
    }
    script.push_str("local: *; };\n");
    fs::write(tree.join(format!("lib{name}.ld")), script)?;
    let (shared, archive) = (format!("lib{name}.so.{major}"), format!("lib{name}.a"));
    let (soname, script) = (
        format!("-Wl,-soname={shared}"),
        format!("-Wl,--version-script=lib{name}.ld"),
    );
    let mut arguments = vec!["-shared", "-pthread", "-Wl,-Bsymbolic,-z,nodelete,-z,defs"];
    arguments.extend([soname.as_str(), &script, "-o", &shared]);
    arguments.extend(["-Wl,--whole-archive", &archive, "-Wl,--no-whole-archive"]);
    arguments.extend(libraries);
    run_in(tree, "cc", &arguments)?;
    run_in(tree, "ln", &["-sf", &shared, &format!("lib{name}.so")])
}

fn run_in(directory: &Path, program: &str, arguments: &[&str]) -> Result<(), Failed> {
    let mut command = stage::command(program, 3600);
    command.current_dir(directory).args(arguments);
    // The variables of the make that runs the tests are not for this build.
    for variable in env::vars_os().map(|(name, _)| name) {
        if variable.to_str().is_some_and(|name| name.contains("MAKE")) {
            command.env_remove(variable);
        }
    }
    output_of(&mut command).map(drop)
}
