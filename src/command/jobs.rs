//! `rsasync jobs`: a line for each job, of a process or of a core file.

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anstream::println;

use crate::core::Core;
use crate::error::Result;
use crate::library;
use crate::memory::Memory;
use crate::objects::{self, Loaded};
use crate::process::Process;
use crate::snapshot::Depth;
use crate::state::{self, Job, JobState, State, Thread, WaitCtx};
use crate::status::size;
use crate::symbols::Symbols;
use crate::table::Table;
use crate::unwind::Unwinder;

/// The jobs of a process. Which of them stand still shows a second look, after this time.
pub fn of_process(pid: i32, interval: Duration) -> Result<ExitCode> {
    let look = |process: &Process| -> Result<()> {
        let target = Target::new(process)?;
        let before: Vec<_> = target
            .states
            .iter()
            .map(|(_, state)| (state.jobs(process), Instant::now()))
            .collect();
        thread::sleep(interval);
        for ((object, state), (before, began)) in target.states.iter().zip(before) {
            let jobs = state.jobs(process);
            let elapsed = began.elapsed();
            let switches: HashMap<u64, u32> = before
                .iter()
                .map(|job| (job.handle, job.switches))
                .collect();
            let stood = |job: &Job| match switches.get(&job.handle) == Some(&job.switches) {
                true => format!("{:.1} s", elapsed.as_secs_f64()),
                false => "moves".to_owned(),
            };
            target.print(*object, state, &jobs, &[], Some(&stood));
        }
        Ok(())
    };
    let done = Process::open(pid)
        .and_then(|process| look(&process).map_err(|error| process.or_ended(error)));
    done.map_err(|error| error.about(pid))?;
    Ok(ExitCode::SUCCESS)
}

/// The jobs in a core file, and which of them overflowed its stack.
pub fn of_core(core: &Path, exe: &Path) -> Result<ExitCode> {
    let look = |core: &Core| -> Result<()> {
        let target = Target::new(core)?;
        println!("{} {}, a core file", core.pid, core.name);
        for (object, state) in &target.states {
            let jobs = state.jobs(core);
            target.print(*object, state, &jobs, &core.threads, None);
            print_overflow(&target, state, core, &jobs);
        }
        Ok(())
    };
    look(&Core::open(core, exe)?).map_err(|error| error.about(core.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// What is looked at.
struct Target<'a> {
    memory: &'a dyn Memory,
    objects: Vec<Loaded>,
    /// The objects with rsasync in them, by index.
    states: Vec<(usize, State)>,
}

impl<'a> Target<'a> {
    fn new(memory: &'a dyn Memory) -> Result<Self> {
        let objects = objects::objects(memory)?;
        let states = library::required(memory, &objects)?
            .into_iter()
            .map(|library| Ok((library.object, library.state(memory)?)));
        let states = states.collect::<Result<_>>()?;
        Ok(Self {
            memory,
            objects,
            states,
        })
    }

    /// `threads` are those of a core file, whose registers are known.
    fn print(
        &self,
        library: usize,
        state: &State,
        jobs: &[Job],
        threads: &[crate::core::Thread],
        stood: Option<&dyn Fn(&Job) -> String>,
    ) {
        if jobs.is_empty() && state.stack_count(self.memory) > 0 && stood.is_none() {
            println!(
                "the core file lacks the stacks: gcore leaves out memory with guards in it; use one \
                 that the kernel has written (kill -QUIT)"
            );
            return;
        }
        if jobs.is_empty() {
            println!("no job exists");
            return;
        }
        let mut jobs: Vec<&Job> = jobs.iter().collect();
        jobs.sort_by_key(|job| (job.state == JobState::Idle, job.owner, job.address));
        let records = state.threads(self.memory);
        let records = state::by_id(&records);
        let place = Places::new(self, library);
        let mut columns = vec!["job", "thread", "state"];
        columns.extend(stood.map(|_| "still for"));
        columns.extend(["waits for", "stack used", "paused in"]);
        let mut table = Table::new(&columns).texts_from(2);
        for job in jobs {
            let record = records.get(&job.owner).copied();
            let registers =
                record.and_then(|record| threads.iter().find(|it| it.tid == record.tid));
            let thread = record.map_or("ended".to_owned(), |record| record.tid.to_string());
            let mut cells = vec![
                format!("{:#x}", job.handle),
                thread,
                word(job, record).to_owned(),
            ];
            let is_idle = job.state == JobState::Idle;
            cells.extend(stood.map(|stood| match is_idle {
                true => String::new(),
                false => stood(job),
            }));
            let is_paused = job.state == JobState::Paused;
            cells.push(match is_paused {
                true => waits(self.memory, state, job),
                false => String::new(),
            });
            let used = match registers.map(|it| it.stack_pointer) {
                Some(pointer) if job.frames.contains(&pointer) => Some(job.frames.end - pointer),
                _ => used(self.memory, job),
            };
            let of = size(state.usable_bytes(job));
            cells.push(match used {
                _ if is_idle => format!("0 of {of}"),
                Some(used) => format!("{} of {of}", size(used.min(state.usable_bytes(job)))),
                None => format!("? of {of}"),
            });
            cells.push(match is_paused {
                true => place.of_paused(job).unwrap_or("?".to_owned()),
                false => String::new(),
            });
            table.add(cells);
        }
        println!("{table}");
    }
}

fn word(job: &Job, thread: Option<&Thread>) -> &'static str {
    match job.state {
        JobState::Idle => "idle",
        _ if thread.is_none() => "abandoned",
        JobState::Running => "running",
        JobState::Paused if job.wait_ctx == WaitCtx::Freed => "orphaned",
        JobState::Paused => "paused",
    }
}

fn waits(memory: &dyn Memory, state: &State, job: &Job) -> String {
    let waits = state.waits(memory, job.wait_ctx);
    let fds = waits.fds.iter().map(|fd| format!("fd {fd}"));
    let callback = waits.has_callback.then(|| "callback".to_owned());
    let all: Vec<_> = fds.chain(callback).collect();
    match all.is_empty() {
        true => "nothing".to_owned(),
        false => all.join(", "),
    }
}

/// Bytes of the stack in use: of a paused job, those above its stack pointer; of one that runs, what
/// was touched.
fn used(memory: &dyn Memory, job: &Job) -> Option<u64> {
    if job.state == JobState::Paused && job.frames.contains(&job.suspended) {
        return Some(job.frames.end - job.suspended);
    }
    Depth::of(memory, job).deepest_bytes
}

/// Finds out where paused jobs are.
struct Places<'a> {
    library: usize,
    symbols: Symbols<'a>,
    unwinder: Unwinder<'a>,
}

impl<'a> Places<'a> {
    fn new(target: &'a Target, library: usize) -> Self {
        Self {
            library,
            symbols: Symbols::new(target.memory, &target.objects),
            unwinder: Unwinder::new(target.memory, &target.objects),
        }
    }

    /// The innermost function that is none of rsasync's.
    fn of_paused(&self, job: &Job) -> Option<String> {
        if !job.frames.contains(&job.suspended) {
            return None; // in the middle of a switch
        }
        let frames = self.unwinder.frames(job.suspended);
        let mut callers = frames.into_iter().skip(1); // the switch itself
        let outside = callers.find(|&address| !self.is_of_library(address))?;
        Some(self.symbols.describe(outside))
    }

    fn is_of_library(&self, address: u64) -> bool {
        const PROGRAM: usize = 0;
        let is_in_it = self.symbols.object_at(address) == Some(self.library);
        if !is_in_it || self.library != PROGRAM {
            return is_in_it;
        }
        // Linked into the program, it is told apart by its symbols' names.
        let function = self.symbols.function_at(address);
        function.is_some_and(|name| name.starts_with("ASYNC_") || name.contains("rsasync"))
    }
}

/// Says which job a core file's fault, or a thread's stack pointer, shows to have overflowed.
fn print_overflow(target: &Target, state: &State, core: &Core, jobs: &[Job]) {
    const SIGSEGV: i32 = 11;
    const SIGBUS: i32 = 7;
    let fault = core
        .signal
        .filter(|signal| [SIGSEGV, SIGBUS].contains(&signal.number))
        .map(|signal| signal.address);
    let pointers = core.threads.iter().map(|thread| thread.stack_pointer);
    let addresses: Vec<u64> = fault.into_iter().chain(pointers).collect();
    let overflowed = jobs.iter().filter(|job| {
        job.state != JobState::Idle && addresses.iter().any(|at| job.guard.contains(at))
    });
    let symbols = Symbols::new(target.memory, &target.objects);
    for job in overflowed {
        let bytes = state.usable_bytes(job);
        println!(
            "job {:#x} overflowed its stack of {}; its function is {}; RSASYNC_STACK_SIZE={}K gives \
             jobs more",
            job.handle,
            size(bytes),
            symbols.describe(job.func),
            (bytes >> 10).next_power_of_two() * 2,
        );
    }
}
