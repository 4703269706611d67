//! What a binary is made of: its crates in CycloneDX's JSON, which scanners read. Cargo tells which
//! they are on the processor that is built for.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::error::Error;
use std::process::Command;

use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The crates of a package of this workspace, on this target or this machine's. `kind`: what
/// CycloneDX calls such a thing.
pub fn list(package: &str, kind: &str, target: Option<&str>) -> Result<String> {
    let all = crates(package, target, "normal,build")?;
    let linked = crates(package, target, "normal,no-proc-macro")?;
    let (root, others): (Vec<_>, Vec<_>) = all.iter().partition(|(_, krate)| krate.is_root);
    let root = root.first().ok_or("cargo tree names no package")?;
    let components = others.iter().map(|(purl, krate)| {
        let mut it = krate.component(purl, "library");
        // What takes part in the build alone is not in the binary.
        it["scope"] = match linked.contains_key(*purl) {
            true => "required".into(),
            false => "excluded".into(),
        };
        it
    });
    let components = components.chain([standard_library()?]);
    let dependencies = all
        .iter()
        .map(|(purl, krate)| json!({ "ref": purl, "dependsOn": krate.dependencies }));
    let bom = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": root.1.component(root.0, kind),
        },
        "components": components.collect::<Vec<_>>(),
        "dependencies": dependencies.collect::<Vec<_>>(),
    });
    Ok(format!("{bom:#}\n"))
}

struct Crate {
    name: String,
    version: String,
    license: String,
    is_root: bool,
    /// The package URLs of those that it uses itself.
    dependencies: BTreeSet<String>,
}

impl Crate {
    fn component(&self, purl: &str, kind: &str) -> Value {
        json!({
            "type": kind,
            "bom-ref": purl,
            "name": self.name,
            "version": self.version,
            "licenses": [{ "expression": self.license }],
            "purl": purl,
        })
    }
}

/// The crates by their package URLs, found by these edges of cargo's.
fn crates(package: &str, target: Option<&str>, edges: &str) -> Result<BTreeMap<String, Crate>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut tree = Command::new(cargo);
    tree.args([
        "tree", "--locked", "--prefix", "depth", "--format", "|{p}|{l}",
    ]);
    tree.args(["--package", package, "--edges", edges]);
    if let Some(target) = target {
        tree.args(["--target", target]);
    }
    let mut all = BTreeMap::new();
    let mut path: Vec<String> = Vec::new();
    for line in output(&mut tree)?.lines() {
        // `DEPTH|NAME vVERSION ...|LICENSE ...`
        let [depth, package, license] = line.split('|').collect::<Vec<_>>()[..] else {
            return Err(format!("cargo tree prints a line of another form: {line}").into());
        };
        let (name, version) = package
            .split_once(" v")
            .ok_or("a package without version")?;
        let version = version.split(' ').next().unwrap_or(version);
        let purl = format!("pkg:cargo/{name}@{version}");
        path.truncate(depth.parse()?);
        if let Some(user) = path.last().and_then(|user: &String| all.get_mut(user)) {
            let user: &mut Crate = user;
            user.dependencies.insert(purl.clone());
        }
        all.entry(purl.clone()).or_insert_with(|| Crate {
            name: name.to_owned(),
            version: version.to_owned(),
            // Old manifests have a slash; `(*)` says that the crate was shown before.
            license: license.trim_end_matches(" (*)").replace('/', " OR "),
            is_root: path.is_empty(),
            dependencies: BTreeSet::new(),
        });
        path.push(purl);
    }
    Ok(all)
}

/// What comes with the compiler, and is in each binary.
fn standard_library() -> Result<Value> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = output(Command::new(rustc).arg("--version"))?;
    let version = said.split(' ').nth(1).ok_or("rustc tells no version")?;
    let standard_library = Crate {
        name: "rust-std".to_owned(),
        version: version.to_owned(),
        license: "MIT OR Apache-2.0".to_owned(),
        is_root: false,
        dependencies: BTreeSet::new(),
    };
    Ok(standard_library.component(&format!("pkg:generic/rust-std@{version}"), "library"))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
