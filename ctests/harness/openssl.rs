//! An OpenSSL to test with: the system's, a Debian package's, or one that is built from its sources.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::{env, fs, thread};

use libtest_mimic::Failed;

use crate::platform::{HOST, Platform};
use crate::stage::{self, ROOT, output_of, stdout_of};

pub struct Openssl {
    /// Its version: "3.0.13".
    pub version: String,
    pub platform: &'static Platform,
    /// Where it is; None for the system's, which compilers and the loader find.
    place: Option<Place>,
    tool: PathBuf,
}

struct Place {
    headers: Vec<PathBuf>,
    libraries: PathBuf,
}

/// The system's OpenSSL.
pub static SYSTEM: LazyLock<Openssl> = LazyLock::new(|| Openssl::of_system(&HOST));

impl Openssl {
    /// The system's, for a platform that is this machine in another guise.
    pub fn of_system(platform: &'static Platform) -> Self {
        let mut ask = stage::command("pkg-config", 60);
        let version = stdout_of(ask.args(["--modversion", "libcrypto"])).unwrap_or_default();
        Self {
            version: version.trim().to_owned(),
            platform,
            place: None,
            tool: "openssl".into(),
        }
    }

    /// OpenSSL 1.1.1. The sources in its crate are complete enough to build shared libraries.
    pub fn v1_1() -> Result<Self, Failed> {
        let version = openssl_src_111::version();
        let source = openssl_src_111::source_dir();
        build(&HOST, version, &source, &["shared"], |tree| {
            make(tree, &["build_libs", "build_programs"])
        })
    }

    /// The last OpenSSL 3.
    pub fn v3(platform: &'static Platform) -> Result<Self, Failed> {
        let version = openssl_src_300::version();
        build_static(platform, version, &openssl_src_300::source_dir())
    }

    /// OpenSSL 4.
    pub fn v4(platform: &'static Platform) -> Result<Self, Failed> {
        let version = openssl_src_400::version();
        build_static(platform, version, &openssl_src_400::source_dir())
    }

    /// The one of Debian's packages of another processor, which were unpacked in this folder.
    pub fn unpacked(
        platform: &'static Platform,
        root: &Path,
        triplet: &str,
    ) -> Result<Self, Failed> {
        let libraries = root.join("usr/lib").join(triplet);
        let mut ask = stage::command("pkg-config", 60);
        ask.env("PKG_CONFIG_PATH", libraries.join("pkgconfig"));
        let version = stdout_of(ask.args(["--modversion", "libcrypto"]))?;
        let headers = root.join("usr/include");
        Ok(Self {
            version: version.trim().to_owned(),
            platform,
            place: Some(Place {
                headers: vec![headers.clone(), headers.join(triplet)],
                libraries,
            }),
            tool: root.join("usr/bin/openssl"),
        })
    }

    pub fn major(&self) -> u32 {
        let major = self.version.split('.').next();
        major.and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// The directory for programs that are built against it.
    pub fn built(&self) -> PathBuf {
        let built = self.platform.built().join(&self.version);
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
        if let Some(Place { headers, libraries }) = &self.place {
            flags.extend(headers.iter().map(|it| format!("-I{}", it.display())));
            flags.push(format!("-L{}", libraries.display()));
            // The static libraries need these, where the C library is older than 2.34.
            flags.extend(["-pthread", "-ldl"].map(str::to_owned));
        }
        flags
    }

    /// A command of this machine which runs programs that find this OpenSSL's libraries, with a time
    /// limit in seconds.
    pub fn command(&self, program: impl AsRef<OsStr>, timeout_s: u32) -> Command {
        let mut command = stage::command(program, timeout_s);
        command.env(
            "LD_LIBRARY_PATH",
            self.platform.search_path(self.libraries()),
        );
        command
    }

    /// A program that is built on it, with these settings in its environment, `NAME=VALUE`.
    pub fn run(&self, program: impl AsRef<OsStr>, settings: &[String], timeout_s: u32) -> Command {
        let mut run = self.platform.run(program, settings, timeout_s);
        run.env(
            "LD_LIBRARY_PATH",
            self.platform.search_path(self.libraries()),
        );
        run
    }

    fn libraries(&self) -> Option<&Path> {
        self.place.as_ref().map(|place| &*place.libraries)
    }

    /// Its `openssl` command.
    pub fn tool(&self) -> &Path {
        &self.tool
    }

    /// The file of its shared libcrypto.
    pub fn libcrypto(&self) -> Result<PathBuf, Failed> {
        let directory = match self.libraries() {
            Some(libraries) => libraries.to_owned(),
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
    platform: &'static Platform,
    crate_version: &str,
    source: &Path,
    options: &[&str],
    make: impl FnOnce(&Path) -> Result<(), Failed>,
) -> Result<Openssl, Failed> {
    let version = crate_version
        .split_once('+')
        .map_or(crate_version, |it| it.1);
    let tree = platform.directory.join("openssl").join(version);
    let cc = format!("CC={}", platform.cc.join(" "));
    let mut configure = vec!["./Configure", name_of_machine(), &cc];
    configure.extend(WITHOUT.iter().chain(options));
    // The system's configuration file is used; -O1 takes half the time of -O3.
    configure.extend(["--openssldir=/etc/ssl", "-O1", "-fPIC"]);
    let openssl = Openssl {
        version: version.to_owned(),
        platform,
        place: Some(Place {
            headers: vec![tree.join("include")],
            libraries: tree.clone(),
        }),
        tool: tree.join("apps/openssl"),
    };
    let (stamp, recipe) = (tree.join("built"), configure.join(" "));
    if fs::read_to_string(&stamp).is_ok_and(|built| built == recipe) {
        return Ok(openssl);
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
    Ok(openssl)
}

/// The same for a version whose crate lacks the scripts that link the shared libraries, but has the
/// lists of exported functions, from which `link_shared` makes linker scripts.
fn build_static(
    platform: &'static Platform,
    crate_version: &str,
    source: &Path,
) -> Result<Openssl, Failed> {
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
    build(platform, crate_version, source, &options, |tree| {
        make(
            tree,
            &["build_generated", "libcrypto.a", "libssl.a", "apps/openssl"],
        )?;
        link_shared(platform, tree, "crypto", &[])?;
        // libssl uses internal functions of libcrypto, which only libcrypto.a has.
        link_shared(platform, tree, "ssl", &["-L.", "-lcrypto", "libcrypto.a"])?;
        let cc = platform.cc.join(" ");
        let objects = "apps/openssl-bin-*.o apps/libapps.a -L. -lssl -lcrypto";
        let link = format!("{cc} {objects} -o apps/openssl");
        run_in(tree, "sh", &["-c", &link])
    })
}

/// OpenSSL's name for this machine.
fn name_of_machine() -> &'static str {
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
fn link_shared(
    platform: &Platform,
    tree: &Path,
    name: &str,
    libraries: &[&str],
) -> Result<(), Failed> {
    let numbers = fs::read_to_string(tree.join("VERSION.dat"))?;
    let major = numbers.lines().find_map(|line| line.strip_prefix("MAJOR="));
    let major = major.ok_or("OpenSSL's VERSION.dat has no MAJOR")?;
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
    let (cc, options) = platform.cc.split_first().ok_or("no compiler")?;
    arguments.extend(options.iter().map(|it| &**it));
    run_in(tree, cc, &arguments)?;
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
