//! Whether a process's calls of `ASYNC_` functions go to rsasync.

use libtest_mimic::Failed;

use crate::stage::{STAGE, command, output_of};

/// Fails, and says why, unless `rsasync check` says yes.
pub fn is_in_effect(pid: i32) -> Result<(), Failed> {
    let mut check = command(STAGE.join("usr/bin/rsasync"), 60);
    output_of(check.arg("check").arg(pid.to_string())).map(drop)
}
