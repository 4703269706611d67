//! Orphans: paused jobs whose wait context has been freed. Most likely nobody will resume them, as a
//! server's connection and its wait context end together.
//!
//! Nobody tells a job that its context was freed. So a thread that makes or finishes jobs passes by
//! all jobs, a few at a time, and looks after its own. An orphan's stack gives back the pages in
//! which nothing is; where RSASYNC_RECLAIM_ORPHANS is set, the whole job goes after that time.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::job::job::{JobRef, State, ThreadId};
use crate::job::pool::Pool;
use crate::stack::stack::Walk;
use crate::sys::clock;
use crate::sys::env;

/// A thread begins no pass before this time has gone since the last one began, in milliseconds.
const PERIOD_MS: u64 = 1_000;
/// How many jobs a step looks at for each millisecond since the last step, and at most: so a busy
/// thread has no call that takes much longer than others, and a quiet one gets on.
const JOBS_PER_MS: u64 = 16;
const MOST_JOBS: u64 = 1_024;

/// How many orphans were destroyed.
pub static RECLAIMED: AtomicU64 = AtomicU64::new(0);

/// The passes of a thread; zeroed memory is a valid value.
pub struct Orphans {
    walk: Walk,
    is_passing: Cell<bool>,
    began_ms: Cell<u64>,
    last_step_ms: Cell<u64>,
}

impl Orphans {
    /// Begins a pass if it is time for one.
    pub fn begin_pass(&self) {
        if self.is_passing.get() {
            return;
        }
        let now_ms = clock::now_ms();
        if now_ms.wrapping_sub(self.began_ms.get()) >= PERIOD_MS {
            self.began_ms.set(now_ms);
            self.is_passing.set(true);
        }
    }

    /// Looks at the next jobs, as long as there is a pass.
    pub fn step(&self, thread: ThreadId, pool: &Pool) {
        if !self.is_passing.get() {
            return;
        }
        let now_ms = clock::now_ms();
        let past_ms = now_ms.saturating_sub(self.last_step_ms.replace(now_ms));
        let most = (JOBS_PER_MS * (past_ms + 1)).min(MOST_JOBS) as usize;
        let (mut passed_by, mut goes_on) = (0, true);
        while goes_on && passed_by < most {
            goes_on = self.walk.step(most - passed_by, |passed| {
                passed_by += 1;
                let job = JobRef::of_thread(thread, passed.owner);
                let orphan = job.filter(|job| job.state.get() == State::Paused);
                if let Some(orphan) = orphan.filter(|job| job.wait_ctx.is_orphaned()) {
                    self.look_after(orphan, pool);
                }
            });
        }
        self.is_passing.set(goes_on);
    }

    fn look_after(&self, orphan: JobRef, pool: &Pool) {
        let now_ms = self.began_ms.get();
        let seen_ms = orphan.orphan_seen_ms.get();
        if seen_ms == 0 {
            orphan.orphan_seen_ms.set(now_ms);
            return orphan.trim_paused();
        }
        let limit_ms = env::options().reclaim_orphans_ms;
        if limit_ms.is_some_and(|limit_ms| now_ms.saturating_sub(seen_ms) >= limit_ms) {
            orphan.finish();
            pool.destroy(orphan).free();
            RECLAIMED.fetch_add(1, Relaxed);
        }
    }
}
