//! Real servers under some load; `make servers` takes more of it.

use harness::servers::{Size, checks};
use libtest_mimic::Trial;

pub fn trials() -> Vec<Trial> {
    checks(Size::Short).into_iter().map(Trial::from).collect()
}
