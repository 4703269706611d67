//! Writes the C headers, as the Rust source has them, into the directory given (`include`).

use std::path::{Path, PathBuf};
use std::{env, fs};

struct Header {
    name: &'static str,
    sources: &'static [&'static str],
    guard: &'static str,
    about: &'static str,
    /// What stands before the declarations and can't come from the source.
    preamble: &'static str,
}

const HEADERS: [Header; 3] = [
    Header {
        name: "openssl/async.h",
        sources: &["src/c_types.rs", "src/capi/async_h.rs"],
        guard: "OPENSSL_ASYNC_H",
        about: "OpenSSL's asynchronous jobs, as rsasync has them. It may follow OpenSSL's own header.",
        // 1.1's guard, which programs ask for; stdlib.h, which the man page's example counts on.
        preamble: "#define HEADER_ASYNC_H\n\n\
                   #include <stdlib.h>\n\
                   #include <openssl/asyncerr.h>\n\n\
                   /** A file descriptor to wait for. */\n\
                   #define OSSL_ASYNC_FD int\n\n\
                   /** What is no such descriptor. */\n\
                   #define OSSL_BAD_ASYNC_FD -1",
    },
    Header {
        name: "openssl/asyncerr.h",
        sources: &["src/error.rs"],
        guard: "OPENSSL_ASYNCERR_H",
        about: "Reasons of errors of library ASYNC, number 51.",
        preamble: "",
    },
    Header {
        name: "rsasync.h",
        sources: &["src/capi/rsasync_h.rs"],
        guard: "RSASYNC_H",
        about: "What rsasync has beyond OpenSSL's asynchronous jobs.",
        preamble: "#include <stddef.h>\n#include <stdint.h>",
    },
];

fn main() {
    let target = PathBuf::from(env::args_os().nth(1).expect("usage: headers DIRECTORY"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("it is in the repository");
    for header in HEADERS {
        let path = target.join(header.name);
        fs::create_dir_all(path.parent().expect("it has a directory"))
            .expect("can't make the directory");
        fs::write(&path, header.text(root)).expect("can't write the header");
    }
}

impl Header {
    fn text(&self, root: &Path) -> String {
        let mut config = cbindgen::Config::from_root_or_default(root);
        config.header = Some(format!(
            "/* {}\n *\n * Made by cbindgen from {}; see `make headers`. */",
            self.about,
            self.sources.join(" and ")
        ));
        config.include_guard = Some(self.guard.to_owned());
        config.after_includes = (!self.preamble.is_empty()).then(|| self.preamble.to_owned());
        let mut builder = cbindgen::Builder::new().with_config(config);
        for source in self.sources {
            builder = builder.with_src(root.join(source));
        }
        let bindings = builder.generate();
        let mut text = Vec::new();
        bindings.expect("cbindgen failed").write(&mut text);
        // A heading that only Rust has.
        String::from_utf8(text)
            .expect("it is text")
            .replace("# Safety", "What the caller must see to:")
    }
}
