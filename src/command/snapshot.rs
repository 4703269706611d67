//! What a process's rsasync does at one moment: the numbers of `rsasync status`.
//!
//! The types here are also the JSON of `status --json`: members are added, never changed.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::Serialize;

use crate::library::Library;
use crate::memory::Memory;
use crate::objects::Loaded;
use crate::state::{self, Counts, Job, JobState, State, WaitCtx};

/// A process; one that has two rsasyncs in it, twice.
#[derive(Serialize)]
pub struct Snapshot {
    pub pid: i32,
    pub program: String,
    pub library: LibraryInfo,
    /// What the numbers mean, in words; empty if there is nothing to say.
    pub remarks: Vec<String>,
    /// All threads together.
    #[serde(flatten)]
    pub all: Activity,
    pub refusals: Refusals,
    pub no_jobs: NoJobs,
    pub stacks: Stacks,
    pub orphans_reclaimed: u64,
    pub threads: Vec<ThreadInfo>,
    /// What threads did that have ended.
    pub ended_threads: Activity,
}

#[derive(Serialize)]
pub struct LibraryInfo {
    pub version: String,
    pub file: String,
}

#[derive(Serialize)]
pub struct ThreadInfo {
    pub tid: i32,
    #[serde(flatten)]
    pub activity: Activity,
}

#[derive(Clone, Copy, Default, Serialize)]
pub struct Activity {
    pub jobs: Jobs,
    pub starts: u64,
    pub pauses: u64,
    pub resumes: u64,
    pub finishes: u64,
}

#[derive(Clone, Copy, Default, Serialize)]
pub struct Jobs {
    /// They run, or wait for one that they started.
    pub running: u64,
    /// Orphaned and abandoned ones included.
    pub paused: u64,
    pub idle: u64,
    /// Paused, and their wait context was freed.
    pub orphaned: u64,
    /// Paused or running, and their thread has ended.
    pub abandoned: u64,
}

#[derive(Serialize)]
pub struct Refusals {
    pub pool_size: u64,
    pub null: u64,
    pub memory: u64,
    pub state: u64,
}

/// Starts that got ASYNC_NO_JOBS.
#[derive(Serialize)]
pub struct NoJobs {
    pub limit: u64,
    pub memory: u64,
}

#[derive(Serialize)]
pub struct Stacks {
    pub existing: u64,
    pub made: u64,
    pub peak: u64,
    pub unguarded: u64,
    /// Usable bytes of each.
    pub bytes: u64,
    /// The most that was used of one, as far as that can still be seen.
    pub deepest_bytes: u64,
    /// Bytes of all that are in memory; null where the kernel does not tell.
    pub resident_bytes: Option<u64>,
}

impl Snapshot {
    pub fn take(
        memory: &dyn Memory,
        pid: i32,
        program: &str,
        library: &Library,
        objects: &[Loaded],
        state: &State,
    ) -> Self {
        // The counters first: a pause between the two looks as one that is not yet counted.
        let threads = state.threads(memory);
        let others = state.other_threads(memory);
        let numbers = state.numbers(memory);
        let jobs = state.jobs(memory);

        let known = state::by_id(&threads);
        let mut of_threads: BTreeMap<i32, Activity> = BTreeMap::new();
        for thread in &threads {
            let activity = of_threads.entry(thread.tid).or_default();
            activity.add_counts(&thread.counts);
        }
        let mut ended_threads = Activity::default();
        ended_threads.add_counts(&others);
        let (mut resident_bytes, mut deepest_bytes) = (Some(0), numbers.deepest_bytes);
        for job in &jobs {
            let owner = known.get(&job.owner);
            let activity = match owner {
                Some(thread) => of_threads.entry(thread.tid).or_default(),
                None => &mut ended_threads,
            };
            activity.jobs.add(job, owner.is_some());
            let depth = Depth::of(memory, job);
            deepest_bytes = deepest_bytes.max(depth.deepest_bytes.unwrap_or(0));
            resident_bytes = resident_bytes
                .zip(depth.resident_bytes)
                .map(|(all, its)| all + its);
        }
        let mut all = ended_threads;
        of_threads.values().for_each(|activity| all += *activity);
        let threads = of_threads.into_iter();
        let [pool_size, null, of_memory, of_state] = numbers.refusals;
        let [limit, no_memory] = numbers.no_jobs;
        Self {
            pid,
            program: program.to_owned(),
            library: LibraryInfo {
                version: state.library_version.clone(),
                file: objects[library.object].path.display().to_string(),
            },
            remarks: remarks(&all, state),
            all,
            refusals: Refusals {
                pool_size,
                null,
                memory: of_memory,
                state: of_state,
            },
            no_jobs: NoJobs {
                limit,
                memory: no_memory,
            },
            stacks: Stacks {
                existing: numbers.stacks_made.saturating_sub(numbers.stacks_freed),
                made: numbers.stacks_made,
                peak: numbers.stacks_peak,
                unguarded: numbers.stacks_unguarded,
                bytes: state.stack_bytes,
                deepest_bytes,
                resident_bytes,
            },
            orphans_reclaimed: numbers.orphans_reclaimed,
            threads: threads
                .map(|(tid, activity)| ThreadInfo { tid, activity })
                .collect(),
            ended_threads,
        }
    }
}

fn remarks(all: &Activity, state: &State) -> Vec<String> {
    let mut remarks = Vec::new();
    if all.starts == 0 {
        remarks.push("no job was started".to_owned());
    } else if all.pauses == 0 {
        remarks.push("no job has paused: this server is not asynchronous".to_owned());
    }
    if all.jobs.orphaned > 0 {
        let meaning = "orphaned: paused, and their wait context was freed, so probably nobody will \
                       resume them";
        let advice = match state.reclaim_orphans_ms {
            0 => "; RSASYNC_RECLAIM_ORPHANS=60 gives their memory back",
            _ => "",
        };
        remarks.push(format!("{meaning}{advice}"));
    }
    if all.jobs.abandoned > 0 {
        remarks.push("abandoned: their thread has ended, so nobody can resume them".to_owned());
    }
    remarks
}

impl Activity {
    fn add_counts(&mut self, counts: &Counts) {
        self.starts += counts.starts;
        self.pauses += counts.pauses;
        self.resumes += counts.resumes;
        self.finishes += counts.finishes;
    }
}

impl AddAssign for Activity {
    fn add_assign(&mut self, other: Self) {
        self.starts += other.starts;
        self.pauses += other.pauses;
        self.resumes += other.resumes;
        self.finishes += other.finishes;
        self.jobs.running += other.jobs.running;
        self.jobs.paused += other.jobs.paused;
        self.jobs.idle += other.jobs.idle;
        self.jobs.orphaned += other.jobs.orphaned;
        self.jobs.abandoned += other.jobs.abandoned;
    }
}

impl Jobs {
    fn add(&mut self, job: &Job, has_thread: bool) {
        match job.state {
            JobState::Running => self.running += 1,
            JobState::Paused => self.paused += 1,
            JobState::Idle => self.idle += 1,
        }
        let is_orphaned = job.state == JobState::Paused && job.wait_ctx == WaitCtx::Freed;
        self.orphaned += u64::from(is_orphaned);
        self.abandoned += u64::from(job.state != JobState::Idle && !has_thread);
    }
}

/// What has been used of a job's stack.
pub struct Depth {
    pub resident_bytes: Option<u64>,
    /// From the lowest byte that is not zero; None of a stack that is the program's own.
    pub deepest_bytes: Option<u64>,
}

impl Depth {
    pub fn of(memory: &dyn Memory, job: &Job) -> Self {
        if job.guard.is_empty() {
            return Self {
                resident_bytes: Some(0),
                deepest_bytes: None,
            };
        }
        let pages = memory.pages(job.frames.clone());
        let start = match &pages {
            Some(pages) => pages.lowest,
            None => Some(job.frames.start), // all that a core file has
        };
        let lowest = start.and_then(|start| lowest_in_use(memory, start..job.frames.end));
        Self {
            resident_bytes: pages.map(|pages| pages.resident_bytes),
            deepest_bytes: lowest.map(|lowest| job.frames.end.saturating_sub(lowest)),
        }
    }
}

/// The lowest address of a word that is not zero.
fn lowest_in_use(memory: &dyn Memory, addresses: std::ops::Range<u64>) -> Option<u64> {
    const CHUNK_BYTES: usize = 4096;
    addresses.clone().step_by(CHUNK_BYTES).find_map(|at| {
        let count = (addresses.end - at).min(CHUNK_BYTES as u64);
        let bytes = memory.bytes(at, count)?;
        let mut words = bytes.chunks_exact(8);
        let index = words.position(|word| word != [0; 8])?;
        Some(at + index as u64 * 8)
    })
}
