//! What the suite, the matrix, the fuzzer, the benchmark and `make servers` share: the checks, the
//! library as it is staged for them, the OpenSSLs that they run on, and the libraries' functions.

pub mod chapters;
pub mod check;
pub mod columns;
pub mod functions;
pub mod observed;
pub mod openssl;
pub mod platform;
pub mod programs;
pub mod sanitizer;
#[path = "../servers/mod.rs"]
pub mod servers;
pub mod stage;
pub mod table;
