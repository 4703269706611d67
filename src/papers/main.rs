//! Writes what tells about the library into a directory: a man page for each function, from the headers;
//! rsasync(7), from README.md as well; which crates are in it and in the command.

mod comment;
mod crates;
mod function;
mod header;
mod overview;
mod page;
mod readme;
mod roff;

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use crate::header::Kind;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let mut next = || {
        arguments
            .next()
            .ok_or("usage: papers DIRECTORY DATE [TARGET]")
    };
    let (directory, date) = (PathBuf::from(next()?), next()?);
    let target = arguments.next();
    fs::create_dir_all(&directory)?;
    let all = header::declarations()?;
    for it in all.iter().filter(|it| it.kind == Kind::Function) {
        let file = format!("{}.{}", it.name, page::FUNCTIONS);
        fs::write(directory.join(file), function::page(it, &all, &date)?)?;
    }
    fs::write(directory.join("rsasync.7"), overview::page(&all, &date)?)?;
    for (package, kind, file) in [
        ("rsasync", "library", "librsasync.cdx.json"),
        ("rsasync-command", "application", "rsasync.cdx.json"),
    ] {
        let list = crates::list(package, kind, target.as_deref())?;
        fs::write(directory.join(file), list)?;
    }
    Ok(())
}
