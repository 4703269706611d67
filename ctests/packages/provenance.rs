//! What the packages are made of.

use harness::check::Check;

pub fn checks(_short: bool) -> Vec<Check> {
    Vec::new()
}
