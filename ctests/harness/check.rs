//! One check: what it is called and what it does.

use libtest_mimic::{Failed, Trial};

pub struct Check {
    /// Its parts, from the group to the case, are divided by `::`.
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
