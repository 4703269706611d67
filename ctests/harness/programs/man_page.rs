//! The example of OpenSSL's man page: built alone, linked beside libcrypto, and preloaded.

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Failed;

use crate::check::expect;
use crate::openssl::Openssl;
use crate::platform::CLibrary;
use crate::stage::{command, output_of, stdout_of};

pub struct ManPage {
    pub example: String,
    pub output: String,
}

/// The example and its output, as ASYNC_start_job(3ssl) has them.
pub fn man_page() -> Result<ManPage, Failed> {
    let page = stdout_of(
        command("gzip", 60)
            .arg("-dc")
            .arg("/usr/share/man/man3/ASYNC_start_job.3ssl.gz"),
    )?;
    let examples = page
        .split_once(".SH \"EXAMPLES\"")
        .ok_or("the man page has no examples")?
        .1;
    // Verbatim text stands between .Vb and .Ve; each line begins with \& and a space, and
    // three characters are escaped.
    let mut verbatim = examples.split(".Vb ").skip(1).map(|block| {
        let lines = block.lines().skip(1).take_while(|line| *line != ".Ve");
        let text = lines.map(|line| {
            line.trim_start_matches("\\&")
                .strip_prefix(' ')
                .unwrap_or("")
                .to_owned()
                + "\n"
        });
        text.collect::<String>()
            .replace("\\*(Aq", "'")
            .replace("\\-", "-")
            .replace("\\e", "\\")
    });
    let mut next = || verbatim.next().ok_or("the man page has changed");
    Ok(ManPage {
        example: next()?,
        output: next()?,
    })
}

/// Compiles the example with these flags, and checks what it prints and which library each of its
/// calls is bound to.
fn man_page_example(
    openssl: &Openssl,
    name: &str,
    flags: &[String],
    preload: bool,
) -> Result<(), Failed> {
    let ManPage { example, output } = man_page()?;
    let platform = openssl.platform;
    let program = openssl.built().join(name);
    let source = program.with_extension("c");
    fs::write(&source, example)?;
    let mut cc = command(&platform.cc[0], 60);
    cc.args(&platform.cc[1..]).arg(&source);
    if platform.c_library == CLibrary::Musl {
        cc.args(["-include", "sys/select.h"]); // of which glibc's <unistd.h> has what it needs
    }
    cc.args(flags);
    output_of(cc.arg("-o").arg(&program))?;

    let mut settings = vec!["LD_DEBUG=bindings".to_owned()];
    if preload {
        settings.push(platform.preloading());
    }
    let run = output_of(&mut openssl.run(&program, &settings, 60))?;
    let printed = String::from_utf8_lossy(&run.stdout);
    expect(
        printed == output,
        format!("it printed\n{printed}instead of\n{output}"),
    )?;
    if !platform.has_ucontext() {
        // Here nobody but rsasync could have run it. (musl's loader does not tell bindings.)
        let mut without = openssl.run(&program, &[], 60);
        return match preload {
            true => {
                let printed = without.output()?.stdout;
                let printed = String::from_utf8_lossy(&printed);
                expect(
                    printed != output,
                    format!("without rsasync as well it printed\n{printed}"),
                )
            }
            false => Ok(()),
        };
    }

    // The loader's lines: binding file PROGRAM [0] to LIBRARY [0]: normal symbol `NAME' ...
    let bindings = String::from_utf8_lossy(&run.stderr);
    let from_program = format!("binding file {} ", program.display());
    let calls = bindings
        .lines()
        .filter(|line| line.contains(&from_program) && line.contains("symbol `ASYNC_"));
    let (mut count, library) = (0, platform.shared_library().canonicalize()?);
    for call in calls {
        count += 1;
        let bound = call
            .split_once(" to ")
            .and_then(|(_, rest)| rest.split_once(" ["))
            .map(|(file, _)| file);
        let bound =
            Path::new(bound.ok_or("a line of LD_DEBUG that is not understood")?).canonicalize()?;
        expect(bound == library, format!("bound elsewhere: {call}"))?;
    }
    expect(
        count == 8,
        format!("the example calls 8 functions, and {count} bindings were seen"),
    )
}

pub fn alone(openssl: &Openssl) -> Result<(), Failed> {
    let include = |path: PathBuf| format!("-I{}", path.display());
    let headers = openssl.platform.headers();
    let flags = [
        include(headers.clone()),
        include(headers.join("standalone")),
        openssl.platform.library_path(),
        "-lrsasync".to_owned(),
    ];
    man_page_example(openssl, "man-page-alone", &flags, false)?;
    let needed = stdout_of(
        command("readelf", 60)
            .arg("--dynamic")
            .arg(openssl.built().join("man-page-alone")),
    )?;
    expect(
        !needed.contains("libcrypto"),
        "a program built without libcrypto needs libcrypto",
    )
}

pub fn linked(openssl: &Openssl) -> Result<(), Failed> {
    man_page_example(
        openssl,
        "man-page-linked",
        &[
            openssl.compile_flags(),
            vec![
                openssl.platform.library_path(),
                "-lrsasync".to_owned(),
                "-lcrypto".to_owned(),
            ],
        ]
        .concat(),
        false,
    )
}

pub fn preloaded(openssl: &Openssl) -> Result<(), Failed> {
    man_page_example(
        openssl,
        "man-page-preloaded",
        &[openssl.compile_flags(), vec!["-lcrypto".to_owned()]].concat(),
        true,
    )
}
