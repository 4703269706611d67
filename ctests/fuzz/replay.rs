//! Runs programs that an earlier run printed.

use std::path::Path;

use crate::check::check;
use crate::fuzzer::Fuzzer;
use crate::outcome::Outcome;
use crate::program::Step;
use crate::report;
use crate::text;

impl Fuzzer {
    /// Runs each program in the file on both libraries. Returns the worst outcome.
    pub fn replay(&mut self, file: &Path) -> Result<Outcome, String> {
        let name = file.display();
        let log = std::fs::read(file).map_err(|error| format!("{name}: {error}"))?;
        let programs = text::programs_in(&String::from_utf8_lossy(&log));
        let programs = programs.map_err(|why| format!("{name}: {why}; {}", text::EXPECTED))?;
        let count = programs.len();
        if count == 0 {
            return Err(format!("{name}: no program in it; {}", text::EXPECTED));
        }
        let version = &self.libcrypto.features.version;
        println!("fuzz: programs in {name}: {count}; rsasync against {version}");
        let outcomes = programs.iter().map(|steps| self.replay_program(steps));
        Ok(outcomes.max().expect("there is a program"))
    }

    fn replay_program(&mut self, steps: &[Step]) -> Outcome {
        let checked = check(steps, &self.libcrypto.features, |_| false);
        self.rsasync.send(&checked.steps);
        let libcrypto = self.libcrypto.run(&checked.steps);
        let rsasync = self.rsasync.trace();
        let outcome = Outcome::of(&checked, &rsasync, &libcrypto, &self.agreed);
        report::print_program(&checked.steps);
        if checked.left_out > 0 {
            println!(
                "fuzz: left out {} steps, which no program may take on this libcrypto",
                checked.left_out
            );
        }
        if rsasync != checked.trace {
            report::print_traces(["contract", "rsasync"], [&checked.trace, &rsasync]);
        }
        if libcrypto != rsasync {
            report::print_traces(["libcrypto", "rsasync"], [&libcrypto, &rsasync]);
        }
        report::print_outcome(&outcome);
        outcome
    }
}
