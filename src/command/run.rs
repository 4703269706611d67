//! `rsasync run`: a program with rsasync preloaded.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, elf};

use crate::error::{Error, Result};

const SONAME: &str = "librsasync.so.0";

/// Becomes the program; returns only why it could not.
pub fn run(
    library: Option<&Path>,
    stack_size: Option<&str>,
    program: &OsStr,
    arguments: &[OsString],
) -> Result<Error> {
    let library = match library {
        Some(library) => fs::canonicalize(library)
            .map_err(|error| Error::new(error.to_string()).about(library.display()))?,
        None => find_library()?,
    };
    let separators = |byte: &u8| b": ".contains(byte);
    if library.as_os_str().as_bytes().iter().any(separators) {
        let why = "a space or a colon in the path, at which LD_PRELOAD would end; put it elsewhere";
        return Err(Error::new(why).about(library.display()));
    }
    let path = find_program(program)?;
    may_be_preloaded(&path, &library).map_err(|error| error.about(path.display()))?;

    let mut preload = library.into_os_string();
    if let Some(others) = env::var_os("LD_PRELOAD").filter(|it| !it.is_empty()) {
        preload.push(":");
        preload.push(others);
    }
    let mut command = Command::new(&path);
    command
        .arg0(program)
        .args(arguments)
        .env("LD_PRELOAD", preload);
    if let Some(size) = stack_size {
        command.env("RSASYNC_STACK_SIZE", size);
    }
    Ok(Error::new(command.exec().to_string()).about(path.display()))
}

/// The library that was installed with this command, or built with it, or that the loader finds.
fn find_library() -> Result<PathBuf> {
    let command = env::current_exe().map_err(|error| Error::new(error.to_string()))?;
    let directory = command.parent().unwrap_or(Path::new("/"));
    let beside = [
        directory.join("../lib").join(SONAME),
        directory.join("librsasync.so"),
    ];
    let beside = beside.iter().find_map(|path| fs::canonicalize(path).ok());
    beside.or_else(find_by_loader).ok_or_else(|| {
        Error::new(format!(
            "no {SONAME} beside the command or where the loader looks: say --library PATH, or run \
             ldconfig after make install"
        ))
    })
}

/// Where the loader finds it: this process loads it, and looks what that was.
fn find_by_loader() -> Option<PathBuf> {
    // SAFETY: rsasync's own code runs when it is loaded; it changes nothing that anything here
    // uses.
    let _loaded = unsafe { libloading::os::unix::Library::new(SONAME) }.ok()?;
    let mut maps = procfs::process::Process::myself()
        .ok()?
        .maps()
        .ok()?
        .into_iter();
    maps.find_map(|map| match map.pathname {
        procfs::process::MMapPath::Path(path)
            if path.file_name()?.as_bytes().starts_with(SONAME.as_bytes()) =>
        {
            Some(path)
        }
        _ => None,
    })
}

/// The file that the system would run for this name.
fn find_program(name: &OsStr) -> Result<PathBuf> {
    let is_program = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
    };
    if name.as_bytes().contains(&b'/') {
        return Ok(PathBuf::from(name));
    }
    let path = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut places = env::split_paths(&path).map(|directory| directory.join(name));
    let not_found = || Error::new("no such program in PATH").about(name.display());
    places.find(is_program).ok_or_else(not_found)
}

/// Fails if the loader would not load the library into this program.
fn may_be_preloaded(program: &Path, library: &Path) -> Result<()> {
    const SET_ID: u32 = 0o6000;
    let io = |error: std::io::Error| Error::new(error.to_string());
    let metadata = fs::metadata(program).map_err(io)?;
    if metadata.permissions().mode() & SET_ID != 0 {
        let why = "set-uid or set-gid: the loader ignores LD_PRELOAD for it; start it as that user, \
                   without the bit";
        return Err(Error::new(why));
    }
    let Some(of_program) = header(program) else {
        return Ok(()); // a script, whose interpreter inherits the environment, or unreadable
    };
    let of_library = header(library).ok_or_else(|| {
        Error::new("no library of 64 bits: say --library PATH").about(library.display())
    })?;
    if of_program.machine != of_library.machine || !of_program.is_64_bit {
        let why = "a program for another processor than the library's: preloading it does nothing";
        return Err(Error::new(why));
    }
    if !of_program.has_interpreter {
        let why = "a static program: nothing can be preloaded into it; link it with librsasync.a";
        return Err(Error::new(why));
    }
    Ok(())
}

struct Header {
    machine: elf::Machine,
    is_64_bit: bool,
    has_interpreter: bool,
}

/// What an ELF file says of itself in its first bytes.
fn header(path: &Path) -> Option<Header> {
    const FIRST_BYTES: u64 = 64 << 10; // its program headers are among them
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(FIRST_BYTES)
        .read_to_end(&mut bytes)
        .ok()?;
    let of_32_bits = |bytes: &[u8]| {
        let file = elf::FileHeader32::<LittleEndian>::parse(bytes).ok()?;
        Some(Header {
            machine: file.e_machine.get(LittleEndian),
            is_64_bit: false,
            has_interpreter: true,
        })
    };
    let Ok(file) = elf::FileHeader64::<LittleEndian>::parse(&*bytes) else {
        return of_32_bits(&bytes);
    };
    let headers = file.program_headers(LittleEndian, &*bytes).ok()?;
    let has_interpreter = headers
        .iter()
        .any(|it| it.p_type(LittleEndian) == elf::PT_INTERP);
    Some(Header {
        machine: file.e_machine.get(LittleEndian),
        is_64_bit: true,
        has_interpreter,
    })
}
