//! The library's state as it is read from outside; src/inspect.rs describes it.
//!
//! The process goes on meanwhile, and a core file may have been written in the middle of anything.
//! So every number is doubted: what has no sensible value is left out.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::error::{Error, Result};
use crate::memory::Memory;

/// The versions of the state that this command knows.
const VERSIONS: std::ops::RangeInclusive<u64> = 1..=1;

const MAGIC: &[u8; 8] = b"rsasync\0";

/// More than there ever are: a torn number.
const MOST_SLOTS: u64 = 1 << 20; // of a region; the library's largest has 2^16
const LARGEST_STACK_BYTES: u64 = 4 << 30; // the library's largest has 1 GiB
const MOST_REGIONS: usize = 1 << 16;
const MOST_FDS: u64 = 1 << 16;

/// Where everything is. The fields that are addresses of numbers end in `_at`.
pub struct State {
    pub library_version: String,
    /// Usable bytes of a stack, as the environment asks for.
    pub stack_bytes: u64,
    /// 0: orphans stay.
    pub reclaim_orphans_ms: u64,
    stack_slots: u64,
    guard_bytes: u64,
    job_bytes: u64,
    job_slots: u64,
    record_slots: u64,
    other_threads: u64,
    numbers_at: NumbersAt,
    refusals_at: u64,
    no_jobs_at: u64,
    slots: SlotsLayout,
    job: JobLayout,
    record: RecordLayout,
    wait_ctx: WaitCtxLayout,
}

struct NumbersAt {
    stacks_made: u64,
    stacks_freed: u64,
    stacks_unguarded: u64,
    stacks_peak: u64,
    deepest_bytes: u64,
    orphans_reclaimed: u64,
}

/// Offsets in pools of slots and their regions.
struct SlotsLayout {
    newest: u64,
    older: u64,
    slots: u64,
    slot_bytes: u64,
    header_bytes: u64,
    bits: u64,
    bits_stride: u64,
    taken: u64,
}

/// Offsets in a job.
struct JobLayout {
    handle: u64,
    /// The bits of a handle that are the job's address.
    address_mask: u64,
    owner: u64,
    state: u64,
    switches: u64,
    suspended: u64,
    func: u64,
    wait_ctx: u64,
    wait_ctx_generation: u64,
    frames_start: u64,
    frames_end: u64,
}

/// Offsets in a thread's record.
struct RecordLayout {
    id: u64,
    tid: u64,
    counts: u64,
}

/// Offsets in a wait context and its entries.
struct WaitCtxLayout {
    generation: u64,
    callback_version: u64,
    callback_pairs: u64,
    entries: u64,
    entry_bytes: u64,
    fd: u64,
    mark: u64,
}

/// The numbers of the process.
#[derive(Default)]
pub struct Numbers {
    pub stacks_made: u64,
    pub stacks_freed: u64,
    pub stacks_unguarded: u64,
    pub stacks_peak: u64,
    pub deepest_bytes: u64,
    pub orphans_reclaimed: u64,
    /// By reason: pool size, NULL, memory, state.
    pub refusals: [u64; 4],
    /// By reason: limit, memory.
    pub no_jobs: [u64; 2],
}

/// A thread that uses jobs, and how often it did.
#[derive(Clone)]
pub struct Thread {
    pub id: u64,
    pub tid: i32,
    pub counts: Counts,
}

#[derive(Clone, Copy, Default)]
pub struct Counts {
    pub starts: u64,
    pub pauses: u64,
    pub resumes: u64,
    pub finishes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobState {
    Idle,
    Running,
    Paused,
}

/// A job that exists.
#[derive(Clone)]
pub struct Job {
    pub address: u64,
    /// What the program knows it by.
    pub handle: u64,
    /// The id of the thread that started it.
    pub owner: u64,
    pub state: JobState,
    /// How often it was switched to.
    pub switches: u32,
    /// The saved context of the side that does not run; 0 in the middle of a switch.
    pub suspended: u64,
    /// The address of its function.
    pub func: u64,
    pub wait_ctx: WaitCtx,
    /// Where its frames can be.
    pub frames: Range<u64>,
    /// Below its stack; empty if that is none of rsasync's.
    pub guard: Range<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum WaitCtx {
    None,
    Alive(u64),
    Freed,
}

/// What a paused job waits for.
#[derive(Default)]
pub struct Waits {
    pub fds: Vec<i32>,
    pub has_callback: bool,
}

/// Reads one number of the state after another.
struct Words<'a> {
    memory: &'a dyn Memory,
    at: u64,
}

impl Words<'_> {
    fn next(&mut self) -> Option<u64> {
        let word = self.memory.word(self.at)?;
        self.at += 8;
        Some(word)
    }

    fn text(&mut self, bytes: u64) -> Option<String> {
        let text = self.memory.bytes(self.at, bytes)?;
        self.at += bytes;
        let text = text.split(|&byte| byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

impl State {
    /// The library's version, which stays in its place in every version of the state.
    pub fn library_version(memory: &dyn Memory, at: u64) -> Option<String> {
        if memory.bytes(at, 8)? != MAGIC {
            return None;
        }
        Words {
            memory,
            at: at + 24,
        }
        .text(16)
    }

    /// The state at this address.
    pub fn read(memory: &dyn Memory, at: u64) -> Result<Self> {
        let torn = || Error::new("the library's state can't be read");
        let magic = memory.bytes(at, 8).ok_or_else(torn)?;
        let version = memory.word(at + 8).ok_or_else(torn)?;
        if magic != MAGIC {
            return Err(torn());
        }
        if !VERSIONS.contains(&version) {
            return Err(unknown_version(version));
        }
        Self::read_words(memory, at).ok_or_else(torn)
    }

    fn read_words(memory: &dyn Memory, at: u64) -> Option<Self> {
        let mut words = Words {
            memory,
            at: at + 16,
        };
        let _bytes = words.next()?;
        // A struct's fields are read in the order in which they are written here.
        Some(Self {
            library_version: words.text(16)?,
            stack_bytes: words.next()?,
            reclaim_orphans_ms: words.next()?,
            stack_slots: {
                let _switches = words.next()?;
                words.next()?
            },
            guard_bytes: words.next()?,
            job_bytes: words.next()?,
            job_slots: words.next()?,
            record_slots: words.next()?,
            other_threads: words.next()?,
            numbers_at: NumbersAt {
                stacks_made: words.next()?,
                stacks_freed: words.next()?,
                stacks_unguarded: words.next()?,
                stacks_peak: words.next()?,
                deepest_bytes: words.next()?,
                orphans_reclaimed: {
                    let _jobs_abandoned = words.next()?; // told job by job
                    words.next()?
                },
            },
            refusals_at: words.next()?,
            no_jobs_at: words.next()?,
            slots: SlotsLayout {
                newest: words.next()?,
                older: words.next()?,
                slots: words.next()?,
                slot_bytes: words.next()?,
                header_bytes: words.next()?,
                bits: words.next()?,
                bits_stride: words.next()?,
                taken: words.next()?,
            },
            job: JobLayout {
                handle: words.next()?,
                address_mask: words.next()?,
                owner: words.next()?,
                state: words.next()?,
                switches: words.next()?,
                suspended: {
                    let _pause_blocks = words.next()?;
                    words.next()?
                },
                func: words.next()?,
                wait_ctx: words.next()?,
                wait_ctx_generation: words.next()?,
                frames_start: words.next()?,
                frames_end: words.next()?,
            },
            record: RecordLayout {
                id: words.next()?,
                tid: words.next()?,
                counts: words.next()?,
            },
            wait_ctx: WaitCtxLayout {
                generation: words.next()?,
                callback_version: {
                    let _status = words.next()?;
                    words.next()?
                },
                callback_pairs: words.next()?,
                entries: words.next()?,
                entry_bytes: words.next()?,
                fd: {
                    let _key = words.next()?;
                    words.next()?
                },
                mark: words.next()?,
            },
        })
    }

    pub fn numbers(&self, memory: &dyn Memory) -> Numbers {
        let number = |at| memory.word(at).unwrap_or(0);
        let at = &self.numbers_at;
        Numbers {
            stacks_freed: number(at.stacks_freed), // before those made: no more than these
            stacks_made: number(at.stacks_made),
            stacks_unguarded: number(at.stacks_unguarded),
            stacks_peak: number(at.stacks_peak),
            deepest_bytes: number(at.deepest_bytes),
            orphans_reclaimed: number(at.orphans_reclaimed),
            refusals: [0, 1, 2, 3].map(|reason| number(self.refusals_at + 8 * reason)),
            no_jobs: [0, 1].map(|reason| number(self.no_jobs_at + 8 * reason)),
        }
    }

    /// The threads that have a record.
    pub fn threads(&self, memory: &dyn Memory) -> Vec<Thread> {
        let slots = self.taken_slots(memory, self.record_slots);
        let threads = slots.filter_map(|slot| self.thread(memory, slot.start));
        threads.filter(|thread| thread.id != 0).collect()
    }

    /// All others together.
    pub fn other_threads(&self, memory: &dyn Memory) -> Counts {
        let others = self.thread(memory, self.other_threads);
        others.map_or(Counts::default(), |others| others.counts)
    }

    fn thread(&self, memory: &dyn Memory, at: u64) -> Option<Thread> {
        let mut counts = Words {
            memory,
            at: at + self.record.counts,
        };
        Some(Thread {
            id: memory.word(at + self.record.id)?,
            tid: memory.half(at + self.record.tid)? as i32,
            counts: Counts {
                starts: counts.next()?,
                pauses: counts.next()?,
                resumes: counts.next()?,
                finishes: counts.next()?,
            },
        })
    }

    /// How many stacks there are, with a job or without.
    pub fn stack_count(&self, memory: &dyn Memory) -> usize {
        self.taken_slots(memory, self.stack_slots).count()
    }

    /// Usable bytes of a job's stack.
    pub fn usable_bytes(&self, job: &Job) -> u64 {
        let bytes = job.frames.end - job.frames.start;
        match job.guard.is_empty() {
            true => bytes,
            false => bytes.min(self.stack_bytes), // what is above it is the library's
        }
    }

    pub fn jobs(&self, memory: &dyn Memory) -> Vec<Job> {
        let on_stacks = self.taken_slots(memory, self.stack_slots);
        let on_stacks = on_stacks.filter_map(|slot| slot.end.checked_sub(self.job_bytes));
        let apart = self
            .taken_slots(memory, self.job_slots)
            .map(|slot| slot.start);
        let places = on_stacks.chain(apart);
        let mut jobs: Vec<Job> = places.filter_map(|at| self.job(memory, at)).collect();
        let regions = self.regions(memory, self.stack_slots);
        for job in &mut jobs {
            let has_guard = regions.iter().any(|it| it.contains(job.frames.start));
            if has_guard {
                job.guard = job.frames.start.saturating_sub(self.guard_bytes)..job.frames.start;
            }
        }
        jobs
    }

    /// The job in this place; None if there is none.
    fn job(&self, memory: &dyn Memory, address: u64) -> Option<Job> {
        let layout = &self.job;
        let bytes = memory.bytes(address, self.job_bytes)?;
        let word = |at: u64| {
            let at = usize::try_from(at).ok()?;
            let bytes = bytes.get(at..at.checked_add(8)?)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let handle = word(layout.handle)?;
        if handle & layout.address_mask != address {
            return None;
        }
        let frames = word(layout.frames_start)?..word(layout.frames_end)?;
        if frames.is_empty() || frames.end - frames.start > LARGEST_STACK_BYTES {
            return None;
        }
        Some(Job {
            address,
            handle,
            owner: word(layout.owner)?,
            state: match bytes.get(layout.state as usize)? {
                0 | 1 => JobState::Idle,
                2 => JobState::Running,
                3 => JobState::Paused,
                _ => return None,
            },
            switches: word(layout.switches)? as u32,
            suspended: word(layout.suspended)?,
            func: word(layout.func)?,
            wait_ctx: self.wait_ctx(
                memory,
                word(layout.wait_ctx)?,
                word(layout.wait_ctx_generation)?,
            ),
            guard: 0..0,
            frames,
        })
    }

    fn wait_ctx(&self, memory: &dyn Memory, address: u64, generation: u64) -> WaitCtx {
        if address == 0 {
            return WaitCtx::None;
        }
        let now = memory.word(address.wrapping_add(self.wait_ctx.generation));
        match generation != 0 && now == Some(generation) {
            true => WaitCtx::Alive(address),
            false => WaitCtx::Freed,
        }
    }

    /// The descriptors and the callback of a wait context.
    pub fn waits(&self, memory: &dyn Memory, wait_ctx: WaitCtx) -> Waits {
        let WaitCtx::Alive(address) = wait_ctx else {
            return Waits::default();
        };
        Waits {
            fds: self.fds(memory, address).unwrap_or_default(),
            has_callback: self.has_callback(memory, address).unwrap_or(false),
        }
    }

    fn fds(&self, memory: &dyn Memory, address: u64) -> Option<Vec<i32>> {
        const LOWEST_ADDRESS: u64 = 4096; // below it the list has no memory
        const DELETED: u8 = 2;
        let layout = &self.wait_ctx;
        let words = [0, 8, 16].map(|at| memory.word(address.wrapping_add(layout.entries + at)));
        let [first, second, third] = [words[0]?, words[1]?, words[2]?];
        let list = first.max(second).max(third);
        let count = first.min(second).min(third);
        if list <= LOWEST_ADDRESS || count > MOST_FDS {
            return Some(Vec::new());
        }
        let fds = (0..count).rev().filter_map(|index| {
            let entry = list.checked_add(index * layout.entry_bytes)?;
            let mut mark = [0];
            memory.read(entry.wrapping_add(layout.mark), &mut mark)?;
            let fd = memory.half(entry.wrapping_add(layout.fd))? as i32;
            (mark[0] != DELETED).then_some(fd)
        });
        Some(fds.collect())
    }

    fn has_callback(&self, memory: &dyn Memory, address: u64) -> Option<bool> {
        const PAIR_BYTES: u64 = 16;
        let version = memory.word(address.wrapping_add(self.wait_ctx.callback_version))?;
        let pairs = address.wrapping_add(self.wait_ctx.callback_pairs);
        let pair = pairs.wrapping_add(version % 2 * PAIR_BYTES);
        Some(memory.word(pair)? != 0)
    }

    /// The slots of a pool that are taken.
    fn taken_slots<'a>(
        &'a self,
        memory: &'a dyn Memory,
        pool: u64,
    ) -> impl Iterator<Item = Range<u64>> + 'a {
        let regions = self.regions(memory, pool).into_iter();
        regions.flat_map(move |region| {
            let Region {
                slots,
                slot_bytes,
                first,
                taken,
            } = region;
            let is_taken = move |slot: &u64| taken[(slot / 64) as usize] >> (slot % 64) & 1 != 0;
            (0..slots).filter(is_taken).map(move |slot| {
                let start = first + slot * slot_bytes;
                start..start + slot_bytes
            })
        })
    }

    fn regions(&self, memory: &dyn Memory, pool: u64) -> Vec<Region> {
        let layout = &self.slots;
        let mut regions = Vec::new();
        let mut seen = HashSet::new();
        let mut at = memory.word(pool + layout.newest).unwrap_or(0);
        while at != 0 && seen.len() < MOST_REGIONS && seen.insert(at) {
            regions.extend(self.region(memory, at));
            at = memory.word(at.wrapping_add(layout.older)).unwrap_or(0);
        }
        regions
    }

    fn region(&self, memory: &dyn Memory, at: u64) -> Option<Region> {
        let layout = &self.slots;
        let slots = memory.word(at.wrapping_add(layout.slots))?;
        let slot_bytes = memory.word(at.wrapping_add(layout.slot_bytes))?;
        let first = at.checked_add(memory.word(at.wrapping_add(layout.header_bytes))?)?;
        let bytes = slots.checked_mul(slot_bytes)?;
        if slots > MOST_SLOTS || slot_bytes == 0 || first.checked_add(bytes)? > 1 << 56 {
            return None;
        }
        let words = slots.div_ceil(64);
        let bits = memory.bytes(at.wrapping_add(layout.bits), words * layout.bits_stride)?;
        let taken = (0..words).map(|word| {
            let at = (word * layout.bits_stride + layout.taken) as usize;
            let bytes = bits.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_le_bytes(bytes))
        });
        Some(Region {
            slots,
            slot_bytes,
            first,
            taken: taken.collect::<Option<_>>()?,
        })
    }
}

struct Region {
    slots: u64,
    slot_bytes: u64,
    /// The address of the first slot.
    first: u64,
    /// A bit for each slot.
    taken: Vec<u64>,
}

impl Region {
    fn contains(&self, address: u64) -> bool {
        (self.first..self.first + self.slots * self.slot_bytes).contains(&address)
    }
}

fn unknown_version(version: u64) -> Error {
    let (first, last) = (VERSIONS.start(), VERSIONS.end());
    let known = match first == last {
        true => first.to_string(),
        false => format!("{first} to {last}"),
    };
    let advice = match version > *last {
        true => "use the command of that library's release",
        false => "the library is too old",
    };
    Error::new(format!(
        "state of version {version}, this command knows {known}: {advice}"
    ))
}

/// The threads of a process by their id.
pub fn by_id(threads: &[Thread]) -> HashMap<u64, &Thread> {
    threads.iter().map(|thread| (thread.id, thread)).collect()
}
