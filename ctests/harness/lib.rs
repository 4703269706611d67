//! What the test runner, the matrix, the fuzzer and the benchmark share: the checks, what they
//! are made on, and the libraries' functions.

pub mod chapters;
pub mod check;
pub mod functions;
pub mod openssl;
pub mod programs;
pub mod sanitizer;
pub mod stage;
