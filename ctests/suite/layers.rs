//! The floors of src/: a file imports from lower floors or from its own folder, never in a circle,
//! and the map in lib.rs shows every file on its floor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use libtest_mimic::{Failed, Trial};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use harness::check::{equal, expect};
use harness::stage::ROOT;

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("layers::imports_go_down", || {
            no_faults(&Source::read(&ROOT.join("src"))?.faults_of_imports())
        }),
        Trial::test("layers::map_in_lib_rs_shows_every_file", || {
            no_faults(&Source::read(&ROOT.join("src"))?.faults_of_map())
        }),
        Trial::test("layers::wrong_imports_are_found", wrong_imports_are_found),
        Trial::test("layers::a_wrong_map_is_found", a_wrong_map_is_found),
    ]
}

fn no_faults(faults: &[String]) -> Result<(), Failed> {
    expect(faults.is_empty(), faults.join("\n"))
}

/// A path of modules from the root of the crate: `["job", "pool"]`.
type Module = Vec<String>;

struct Source {
    /// Each file's module and its path below src/.
    files: BTreeMap<Module, String>,
    /// For each file, the modules and items that it names, as paths from the root.
    names: BTreeMap<String, BTreeSet<Module>>,
    /// The floor of each file, as the map in lib.rs has it.
    floors: BTreeMap<String, u32>,
}

const LIB: &str = "lib.rs";

impl Source {
    fn read(src: &Path) -> Result<Self, Failed> {
        let mut texts = BTreeMap::new();
        read_below(src, "", &mut texts)?;
        let lib = texts.get(LIB).ok_or("there is no lib.rs")?;
        let floors = floors_of_map(lib);
        let files = texts.keys().map(|file| (module_of(file), file.clone()));
        let files: BTreeMap<_, _> = files.collect();
        let mut names = BTreeMap::new();
        for (file, text) in &texts {
            let tokens: TokenStream = text
                .parse()
                .map_err(|error| format!("{file} can't be parsed: {error}"))?;
            let mut found = BTreeSet::new();
            collect_names(tokens, &module_of(file), &mut found);
            names.insert(file.clone(), found);
        }
        Ok(Self {
            files,
            names,
            floors,
        })
    }

    /// The file that has what a path names: that of the longest module in it. A folder without a
    /// file of its own has nothing, and gives None.
    fn file_of(&self, name: &[String]) -> Option<&str> {
        let is_in_folder = |module: &Module| module.len() > 1 && module[..1] == name[..1];
        let longest = (0..=name.len())
            .rev()
            .find_map(|length| self.files.get(&name[..length]));
        let file = longest.map(String::as_str)?;
        let is_folder = file == LIB && !name.is_empty() && self.files.keys().any(is_in_folder);
        (!is_folder).then_some(file)
    }

    /// Each file with the other files that it uses.
    fn imports(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let imports = self.names.iter().map(|(file, names)| {
            let used = names.iter().filter_map(|name| self.file_of(name));
            (file.as_str(), used.filter(|used| used != file).collect())
        });
        imports.collect()
    }

    fn faults_of_imports(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (file, names) in &self.names {
            for name in names.iter().filter(|name| self.file_of(name).is_none()) {
                let name = name.join("::");
                faults.push(format!(
                    "{file} uses crate::{name}: name the file that has it"
                ));
            }
        }
        let imports = self.imports();
        for circle in circles(&imports) {
            faults.push(format!("a circle of imports: {}", circle.join(", ")));
        }
        // lib.rs stands above all floors.
        let floor = |file: &str| match file {
            LIB => u32::MAX,
            _ => self.floors.get(file).copied().unwrap_or(0),
        };
        for (file, used) in &imports {
            for used in used {
                if room(file) != room(used) && floor(file) <= floor(used) {
                    faults.push(format!("{file} uses {used}, which is not on a lower floor"));
                }
            }
        }
        faults
    }

    fn faults_of_map(&self) -> Vec<String> {
        let files: BTreeSet<_> = self.files.values().filter(|file| *file != LIB).collect();
        let mapped: BTreeSet<_> = self.floors.keys().collect();
        let missing = files.difference(&mapped);
        let missing = missing.map(|file| format!("the map in lib.rs does not show {file}"));
        let gone = mapped.difference(&files);
        let gone = gone.map(|file| format!("the map in lib.rs shows {file}, which does not exist"));
        missing.chain(gone).collect()
    }
}

/// The folder of a file below src/; for a file that lies in src/ itself, the file.
fn room(file: &str) -> &str {
    file.split('/').next().unwrap_or(file)
}

fn read_below(
    directory: &Path,
    prefix: &str,
    texts: &mut BTreeMap<String, String>,
) -> Result<(), Failed> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().ok_or("a path without a name")?;
        let name = format!("{prefix}{}", name.display());
        if path.join("Cargo.toml").exists() {
            continue; // the command, a package of its own
        }
        if path.is_dir() {
            read_below(&path, &format!("{name}/"), texts)?;
        } else if name.ends_with(".rs") {
            texts.insert(name, fs::read_to_string(path)?);
        }
    }
    Ok(())
}

/// The module that a file below src/ is: `job/pool.rs` is `["job", "pool"]`.
fn module_of(file: &str) -> Module {
    let mut module: Module = file
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    if file == LIB || module.last().is_some_and(|name| name == "mod") {
        module.pop();
    }
    module
}

/// The floors in the map of lib.rs, a drawing in its documentation between "```text" and "```":
/// ```text
///   6  capi/       async_h          one file of the folder, and what it is
///                  rsasync_h        another one
///      fork                         a file that lies in src/ itself, on the same floor
///   1  sys/        clock, stderr    two files
/// ```
fn floors_of_map(lib: &str) -> BTreeMap<String, u32> {
    let documentation = lib.lines().filter_map(|line| line.strip_prefix("//!"));
    let map = documentation
        .skip_while(|line| line.trim() != "```text")
        .skip(1)
        .take_while(|line| line.trim() != "```");
    let mut floors = BTreeMap::new();
    let (mut floor, mut folder, mut column_of_rooms) = (0, "", None);
    for line in map {
        let mut rest = line.trim_start();
        if let Some((number, after)) = rest.split_once(' ')
            && let Ok(number) = number.parse()
        {
            floor = number;
            rest = after.trim_start();
        }
        let column = line.len() - rest.len();
        if column == *column_of_rooms.get_or_insert(column) {
            folder = "";
            if let Some((name, after)) = rest.split_once("/ ") {
                folder = name;
                rest = after.trim_start();
            }
        }
        let (files, _) = rest.split_once("  ").unwrap_or((rest, ""));
        for file in files.split(", ").filter(|file| !file.is_empty()) {
            let path = Path::new(folder).join(file).with_extension("rs");
            floors.insert(path.display().to_string(), floor);
        }
    }
    floors
}

/// Collects the paths in a file that begin with `crate`, `super`, `self`, or with any other name,
/// which may be a module of this one. Macros are read like everything else.
fn collect_names(tokens: TokenStream, module: &[String], names: &mut BTreeSet<Module>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at..] {
            // `pub(in crate::job)` imports nothing.
            [TokenTree::Ident(word), TokenTree::Group(group), ..]
                if word == "pub" && group.delimiter() == Delimiter::Parenthesis =>
            {
                at += 2;
            }
            [
                TokenTree::Ident(word),
                TokenTree::Ident(name),
                TokenTree::Group(body),
                ..,
            ] if word == "mod" => {
                let inner = [module, &[name.to_string()]].concat();
                collect_names(body.stream(), &inner, names);
                at += 3;
            }
            [TokenTree::Ident(_), rest @ ..] if starts_with_colons(rest) => {
                let (paths, length) = paths_of(&tokens[at..]);
                names.extend(paths.into_iter().map(|path| from_root(path, module)));
                at += length;
            }
            [TokenTree::Group(group), ..] => {
                collect_names(group.stream(), module, names);
                at += 1;
            }
            _ => at += 1,
        }
    }
}

fn starts_with_colons(tokens: &[TokenTree]) -> bool {
    let is_colon = |token: &TokenTree| matches!(token, TokenTree::Punct(it) if it.as_char() == ':');
    tokens.len() >= 2 && tokens[..2].iter().all(is_colon)
}

/// The paths that begin with the first token, several for `a::{b, c::d}`, and how many tokens they
/// take.
fn paths_of(tokens: &[TokenTree]) -> (Vec<Module>, usize) {
    let mut path = Module::new();
    let mut at = 0;
    let mut goes_on = true;
    while goes_on && let Some(TokenTree::Ident(name)) = tokens.get(at) {
        path.push(name.to_string());
        goes_on = starts_with_colons(&tokens[at + 1..]);
        at += if goes_on { 3 } else { 1 };
    }
    let group = match tokens.get(at) {
        Some(TokenTree::Group(group)) if goes_on && group.delimiter() == Delimiter::Brace => group,
        _ => return (vec![path], at),
    };
    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
    let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(it) if it.as_char() == ',');
    let parts = inner.split(is_comma).filter(|part| !part.is_empty());
    let paths = parts.flat_map(|part| paths_of(part).0).map(|mut part| {
        part.retain(|name| name != "self");
        [path.clone(), part].concat()
    });
    (paths.collect(), at + 1)
}

/// A path in a module, from the root of the crate.
fn from_root(path: Module, module: &[String]) -> Module {
    let mut base = match path[0].as_str() {
        "crate" => Module::new(),
        _ => module.to_vec(),
    };
    for name in path {
        match name.as_str() {
            "crate" | "self" => {}
            "super" => drop(base.pop()),
            _ => base.push(name),
        }
    }
    base
}

/// The largest sets of files in which each uses each other, by whatever chain.
fn circles<'a>(imports: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<Vec<&'a str>> {
    let reached_from = |file: &'a str| {
        let (mut reached, mut waiting) = (BTreeSet::new(), vec![file]);
        while let Some(next) = waiting.pop() {
            let new = imports.get(next).into_iter().flatten();
            waiting.extend(new.filter(|file| reached.insert(**file)));
        }
        reached
    };
    let reached: BTreeMap<_, _> = imports
        .keys()
        .map(|file| (*file, reached_from(file)))
        .collect();
    let in_circles = reached
        .keys()
        .filter(|file| reached[**file].contains(**file));
    let circle_of = |file: &&'a str| {
        let others = reached[file].iter().copied();
        others
            .filter(|other| reached[other].contains(file))
            .collect()
    };
    in_circles.map(circle_of).collect()
}

// ---- the trial of the trial ------------------------------------------------------------

const MAP: &str = "\
//! A comment.
//! ```text
//!   2  upper/      first            a file
//!                  second, third    two files
//!      beside                       a file outside of folders, see a/b
//!   1  lower/      base             a file
//! ```
mod upper { pub mod first; pub mod second; pub mod third; }
mod beside;
mod lower { pub mod base; }
fn all() { upper::first::f(); }
";

/// Writes a tree of files, and reads it.
fn source_of(files: &[(&str, &str)]) -> Result<Source, Failed> {
    let directory = tempfile::tempdir()?;
    for (file, text) in [(LIB, MAP), ("upper/third.rs", ""), ("beside.rs", "")]
        .iter()
        .chain(files)
    {
        let path = directory.path().join(file);
        fs::create_dir_all(path.parent().ok_or("a file without a folder")?)?;
        fs::write(path, text)?;
    }
    Source::read(directory.path())
}

fn wrong_imports_are_found() -> Result<(), Failed> {
    let faults = |first: &str, second: &str, base: &str| -> Result<Vec<String>, Failed> {
        let files = [
            ("upper/first.rs", first),
            ("upper/second.rs", second),
            ("lower/base.rs", base),
        ];
        Ok(source_of(&files)?.faults_of_imports())
    };
    let good = "use crate::lower::base::f; /* use crate::upper::second; */";
    equal(faults(good, good, "")?, vec![])?;
    equal(faults("use super::second::g;", good, "")?, vec![])?;

    let circle = ["a circle of imports: upper/first.rs, upper/second.rs"];
    for import in [
        "use crate::upper::second::g;",
        "pub use super::second;",
        "use crate::{lower::base, upper::{second::{self, g}, third},};",
        "fn f() { crate::upper::second::g::<u8>() }",
        "macro_rules! m { () => { $crate::upper::second::g() } }",
        "mod inner { use super::super::second::g; }",
    ] {
        equal(
            faults(import, "use crate::upper::first::*;", "")?,
            circle.map(str::to_owned).into(),
        )?;
    }
    let by_a_chain = faults(
        "use super::second;",
        good,
        "fn f() { crate::upper::first::f() }",
    )?;
    equal(
        by_a_chain,
        vec![
            "a circle of imports: lower/base.rs, upper/first.rs, upper/second.rs".to_owned(),
            "lower/base.rs uses upper/first.rs, which is not on a lower floor".to_owned(),
        ],
    )?;

    for (first, fault) in [
        (
            "use crate::beside::h;",
            "upper/first.rs uses beside.rs, which is not on a lower floor",
        ),
        (
            "use crate::all;",
            "a circle of imports: lib.rs, upper/first.rs\n\
             upper/first.rs uses lib.rs, which is not on a lower floor",
        ),
        (
            "use crate::lower;",
            "upper/first.rs uses crate::lower: name the file that has it",
        ),
    ] {
        equal(faults(first, good, "")?.join("\n").as_str(), fault)?;
    }
    Ok(())
}

fn a_wrong_map_is_found() -> Result<(), Failed> {
    let (first, second) = (("upper/first.rs", ""), ("upper/second.rs", ""));
    let base = ("lower/base.rs", "");
    equal(source_of(&[first, second, base])?.faults_of_map(), vec![])?;
    equal(
        source_of(&[first, second, base, ("lower/new.rs", "")])?.faults_of_map(),
        vec!["the map in lib.rs does not show lower/new.rs".to_owned()],
    )?;
    equal(
        source_of(&[first, base])?.faults_of_map(),
        vec!["the map in lib.rs shows upper/second.rs, which does not exist".to_owned()],
    )
}
