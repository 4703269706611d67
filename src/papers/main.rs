//! Writes the man pages of the library into a directory: one for each function, from the headers, and
//! rsasync(7), from README.md as well.

mod comment;
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
    let directory = PathBuf::from(env::args_os().nth(1).ok_or("usage: papers DIRECTORY")?);
    fs::create_dir_all(&directory)?;
    let all = header::declarations()?;
    for it in all.iter().filter(|it| it.kind == Kind::Function) {
        let file = format!("{}.{}", it.name, page::FUNCTIONS);
        fs::write(directory.join(file), function::page(it, &all)?)?;
    }
    fs::write(directory.join("rsasync.7"), overview::page(&all)?)?;
    Ok(())
}
