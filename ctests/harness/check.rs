//! A check: a named function that the suite or the matrix runs; and comparisons that fail one.

use std::fmt::Debug;

use libtest_mimic::{Failed, Trial};

pub struct Check {
    /// Its parts, from the group to the case, separated by `::`.
    pub name: String,
    run: Box<dyn FnOnce() -> Result<(), Failed> + Send>,
}

impl Check {
    pub fn new(
        name: impl Into<String>,
        run: impl FnOnce() -> Result<(), Failed> + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
        }
    }

    pub fn run(self) -> Result<(), Failed> {
        (self.run)()
    }
}

impl From<Check> for Trial {
    fn from(check: Check) -> Self {
        Self::test(check.name, check.run)
    }
}

/// Fails, showing both values, if they differ.
pub fn equal<T: PartialEq + Debug>(got: T, wanted: T) -> Result<(), Failed> {
    if got == wanted {
        Ok(())
    } else {
        Err(format!("got    {got:?}\nwanted {wanted:?}").into())
    }
}

pub fn expect(condition: bool, otherwise: impl Into<String>) -> Result<(), Failed> {
    if condition {
        Ok(())
    } else {
        Err(otherwise.into().into())
    }
}
