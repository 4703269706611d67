//! What the test runner and the matrix share: the checks, and what they are made on.

pub mod chapters;
pub mod check;
pub mod openssl;
pub mod programs;
pub mod sanitizer;
pub mod stage;
