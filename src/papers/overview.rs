//! rsasync(7): what README.md says to those who use the library, and the list of functions.

use crate::header::{Declaration, Kind};
use crate::page::{FUNCTIONS, Page};
use crate::readme::{section, write};
use crate::roff::{bold, roman};

pub fn page(all: &[Declaration], date: &str) -> Result<String, String> {
    let summary = "OpenSSL's asynchronous jobs, as a shared library of their own";
    let mut page = Page::new("rsasync", "7", summary, date);
    page.section("DESCRIPTION");
    let introduction = section("rsasync")?.split("\n\n").next();
    write(&mut page, introduction.unwrap_or_default());
    page.section("USE");
    write(&mut page, section("Use")?);
    page.section("FUNCTIONS");
    for it in all.iter().filter(|it| it.kind == Kind::Function) {
        let tag = format!("{}({FUNCTIONS})", bold(&it.name));
        page.entry(&tag, &[roman(&it.comment.summary())]);
    }
    page.section("ENVIRONMENT");
    write(&mut page, section("Environment")?);
    page.section("DIFFERENCES FROM LIBCRYPTO");
    write(&mut page, section("Differences from libcrypto")?);
    page.section("NOTES");
    write(&mut page, section("Notes")?);
    let commands = ["", "-run", "-check", "-status", "-jobs"].map(|it| format!("rsasync{it}"));
    let commands = commands.iter().map(|name| ("1", &**name));
    let of_openssl = ["ASYNC_start_job", "ASYNC_WAIT_CTX_new"].map(|name| ("3ssl", name));
    Ok(page.see_also(commands.chain(of_openssl)))
}
