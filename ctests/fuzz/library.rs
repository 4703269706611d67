//! What the fuzzer's programs call: a library's functions, and what is known of the libcrypto.

use std::ffi::CStr;
use std::path::Path;

use harness::functions::{Async, Callbacks, Defaults, Libcrypto, Pointer};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::model::Features;

/// `OPENSSL_INIT_LOAD_CRYPTO_STRINGS`.
const LOAD_CRYPTO_STRINGS: u64 = 2;

pub struct Functions {
    pub jobs: Async,
    /// Since 3.0.
    pub callbacks: Option<Callbacks>,
    pub libcrypto: Libcrypto,
    /// `OSSL_LIB_CTX_set0_default`, since 3.0.
    pub set_default: Option<unsafe extern "C" fn(Pointer) -> Pointer>,
    /// The global default context and two others.
    pub contexts: [usize; 3],
    pub features: Features,
}

impl Functions {
    /// Those of a library, beside a libcrypto, which may be the same.
    pub fn load(library: &Path, libcrypto: &Path) -> Result<Self, libloading::Error> {
        // SAFETY: the libraries are what a program would link with, so that what runs when
        // they are loaded is harmless, and their functions have the types of their headers.
        unsafe {
            let crypto = Library::open(Some(libcrypto), RTLD_NOW | RTLD_LOCAL)?;
            let library = Library::open(Some(library), RTLD_NOW | RTLD_LOCAL)?;
            let libcrypto = Libcrypto::find(&crypto)?;
            // What libcrypto does once in a process is done before the forks: its strings are
            // most of it.
            (libcrypto.init)(LOAD_CRYPTO_STRINGS, std::ptr::null_mut());
            (libcrypto.get_error)();
            let callbacks = Callbacks::find(&library).ok();
            let defaults = Defaults::find(&crypto).ok();
            let contexts = defaults.as_ref().map_or([0; 3], |defaults| {
                let global = (defaults.set)(std::ptr::null_mut());
                [global, (defaults.new)(), (defaults.new)()].map(|ctx| ctx.addr())
            });
            let version = CStr::from_ptr((libcrypto.version)(0));
            let features = Features {
                version: version.to_string_lossy().into_owned(),
                function_codes: crypto.get::<Pointer>("ERR_new").is_err(),
                callbacks: callbacks.is_some(),
                default_context: defaults.is_some(),
            };
            let functions = Self {
                jobs: Async::find(&library)?,
                callbacks,
                libcrypto,
                set_default: defaults.map(|defaults| defaults.set),
                contexts,
                features,
            };
            // They are used to the end of the process.
            std::mem::forget((crypto, library));
            Ok(functions)
        }
    }
}
