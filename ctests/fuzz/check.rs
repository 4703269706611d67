//! Makes a program fit to run, and predicts its trace by the model of the contract.

use std::collections::BTreeMap;

use crate::library::Features;
use crate::model::Model;
use crate::program::{Args, CONTEXTS, CtxArg, Null, Op, Step, THREADS};
use crate::readme_table::Row;

/// A program as it runs: without the steps that no program may take, and with steps at its end
/// that finish its jobs and free what it made.
pub struct Checked {
    pub steps: Vec<Step>,
    /// How many steps of the given program were left out.
    pub left_out: usize,
    /// The trace that the contract wants.
    pub trace: Vec<String>,
    /// The rows of the README's table that the program reaches. From the event with this number
    /// on, libcrypto's trace may differ because of the row.
    pub rows: BTreeMap<Row, usize>,
}

/// Checks a program. Steps that reach a row for which `avoid` is true are left out, too.
pub fn check(steps: &[Step], features: &Features, avoid: impl Fn(Row) -> bool) -> Checked {
    let mut checker = Checker {
        model: Model::new(features),
        avoid,
        checked: Checked {
            steps: Vec::new(),
            left_out: 0,
            trace: Vec::new(),
            rows: BTreeMap::new(),
        },
    };
    for step in steps {
        if !checker.take(step.clone()) {
            checker.checked.left_out += 1;
        }
    }
    checker.end();
    checker.checked
}

struct Checker<'a, Avoid> {
    model: Model<'a>,
    avoid: Avoid,
    checked: Checked,
}

impl<Avoid: Fn(Row) -> bool> Checker<'_, Avoid> {
    /// Appends the step to the program if it may be taken; says whether it was.
    fn take(&mut self, step: Step) -> bool {
        let mut model = self.model.clone();
        let Some(outcome) = model.take(self.checked.steps.len(), &step) else {
            return false;
        };
        if outcome.rows.iter().any(|&row| (self.avoid)(row)) {
            return false;
        }
        for row in outcome.rows {
            let first = self.checked.trace.len();
            self.checked.rows.entry(row).or_insert(first);
        }
        self.checked.trace.extend(outcome.events);
        self.checked.steps.push(step);
        self.model = model;
        true
    }

    /// Lets every job finish, frees the wait contexts, and cleans up the threads.
    fn end(&mut self) {
        for thread in 0..THREADS {
            self.finish_running_jobs(thread);
            for job in 0..self.model.jobs_started() {
                if !self.model.is_paused(job, thread) {
                    continue;
                }
                let to = 0;
                self.take(Step {
                    thread,
                    op: Op::HandleOf { job, to },
                });
                let resume = Op::Start {
                    var: to,
                    ctx: CtxArg::Null,
                    args: Args::Null(0),
                    null: Null::Nothing,
                };
                self.take(Step { thread, op: resume });
                self.finish_running_jobs(thread);
            }
        }
        for ctx in 0..CONTEXTS {
            if self.model.holds_ctx(ctx) {
                self.take(Step {
                    thread: 0,
                    op: Op::FreeCtx(CtxArg::C(ctx)),
                });
            }
        }
        for thread in 0..THREADS {
            // A program that is replayed has been through here already.
            let mut steps = self.checked.steps.iter().rev();
            let last = steps.find(|step| step.thread == thread);
            if last.is_some_and(|step| step.op != Op::CleanupThread) {
                self.take(Step {
                    thread,
                    op: Op::CleanupThread,
                });
            }
        }
    }

    /// Lets the running jobs of a thread return, innermost first. Before each returns, it undoes
    /// what would make its end reach a row of the table.
    fn finish_running_jobs(&mut self, thread: u8) {
        while let Some(open) = self.model.left_open(thread) {
            for _ in 0..open.blocks {
                self.take(Step {
                    thread,
                    op: Op::Unblock,
                });
            }
            if let Some(mode) = open.rounding_to_restore {
                self.take(Step {
                    thread,
                    op: Op::SetRounding(mode),
                });
            }
            let op = Op::Return(0);
            if !self.take(Step { thread, op }) {
                return;
            }
        }
    }
}
