//! The functions that an executor calls, and the features of the libcrypto that has a part in it.

use std::error::Error;
use std::ffi::CStr;
use std::path::Path;

use harness::functions::{Async, Callbacks, Defaults, Libcrypto, Pointer};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use serde::{Deserialize, Serialize};

use crate::program::LIB_CTXS;

pub struct Functions {
    pub jobs: Async,
    /// Since 3.0.
    pub callbacks: Option<Callbacks>,
    pub libcrypto: Libcrypto,
    /// `OSSL_LIB_CTX_set0_default`, since 3.0.
    pub set_lib_ctx: Option<unsafe extern "C" fn(Pointer) -> Pointer>,
    /// Addresses of the global library context and two others; zeros before 3.0.
    pub lib_ctxs: [usize; LIB_CTXS as usize],
    pub features: Features,
    pub is_rsasync: bool,
}

/// What depends on the version of libcrypto.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Features {
    pub version: String,
    /// Error codes contain function codes, as in 1.1.
    pub function_codes: bool,
    pub callbacks: bool,
    pub lib_ctxs: bool,
}

impl Functions {
    /// Loads a library and the libcrypto beside it. These may be the same.
    pub fn load(library: &Path, libcrypto: &Path) -> Result<Self, String> {
        Self::find(library, libcrypto).map_err(|error| match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })
    }

    fn find(library: &Path, libcrypto: &Path) -> Result<Self, libloading::Error> {
        const OPENSSL_INIT_LOAD_CRYPTO_STRINGS: u64 = 2;
        // SAFETY: the libraries' constructors have no conditions, and their functions have the
        // types of their headers, which the tables repeat.
        unsafe {
            let crypto = Library::open(Some(libcrypto), RTLD_NOW | RTLD_LOCAL)?;
            let library = Library::open(Some(library), RTLD_NOW | RTLD_LOCAL)?;
            let libcrypto = Libcrypto::find(&crypto)?;
            // libcrypto initialises itself once in each process: done here, before the forks, it
            // costs the programs no time. Most of it is the strings.
            (libcrypto.init)(OPENSSL_INIT_LOAD_CRYPTO_STRINGS, std::ptr::null_mut());
            (libcrypto.get_error)();
            let callbacks = Callbacks::find(&library).ok();
            let defaults = Defaults::find(&crypto).ok();
            let lib_ctxs = defaults.as_ref().map_or([0; _], |defaults| {
                let global = (defaults.set)(std::ptr::null_mut());
                [global, (defaults.new)(), (defaults.new)()].map(|ctx| ctx.expose_provenance())
            });
            let version = CStr::from_ptr((libcrypto.version)(0));
            let features = Features {
                version: version.to_string_lossy().into_owned(),
                function_codes: crypto.get::<Pointer>("ERR_new").is_err(),
                callbacks: callbacks.is_some(),
                lib_ctxs: defaults.is_some(),
            };
            let is_rsasync = library.get::<Pointer>(b"RSASYNC_version").is_ok();
            let functions = Self {
                jobs: Async::find(&library)?,
                callbacks,
                libcrypto,
                set_lib_ctx: defaults.map(|defaults| defaults.set),
                lib_ctxs,
                features,
                is_rsasync,
            };
            // The functions are used until the process ends: the libraries stay loaded.
            std::mem::forget((crypto, library));
            Ok(functions)
        }
    }
}
