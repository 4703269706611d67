//! A run: a server under load, with reloads and dropped handshakes, and what was seen of it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use libtest_mimic::Failed;

use super::accelerator::{Accelerator, pauses};
use super::in_effect::is_in_effect;
use super::load::{Load, Score, wait_until_served};
use super::process::{read_logs, resident_bytes};
use super::server::Server;
use super::site::{Library, Site};
use crate::openssl::Openssl;

/// What runs, on both libraries.
#[derive(Clone)]
pub struct Plan {
    pub server: Arc<dyn Server>,
    pub openssl: &'static Openssl,
    pub accelerator: Option<Accelerator>,
    /// Handshakes to complete, and as many to drop, after a quarter of that with reloads.
    pub handshakes: usize,
}

/// What was seen of a server on one library.
#[derive(Clone)]
pub struct Seen {
    pub library: Library,
    pub version: String,
    /// Handshakes while the server reloads, and without.
    pub reloading: Score,
    pub steady: Score,
    /// Bytes of the workers after all.
    pub resident: u64,
    pub pauses: u64,
    /// Workers in which rsasync is not in effect, and why.
    pub without_rsasync: Vec<String>,
    pub workers_looked_at: usize,
    /// What ended that should not have, one line each.
    pub deaths: Vec<String>,
    pub log: String,
}

impl Seen {
    pub fn completed(&self) -> usize {
        self.reloading.completed + self.steady.completed
    }

    pub fn dropped(&self) -> usize {
        self.reloading.dropped + self.steady.dropped
    }

    pub fn losses(&self) -> impl Iterator<Item = &String> {
        self.reloading.losses.iter().chain(&self.steady.losses)
    }

    /// The lines of the log that tell of trouble, without their numbers.
    pub fn complaints(&self) -> BTreeSet<String> {
        const WORDS: [&str; 10] = [
            "error", "alert", "emerg", "crit", "fatal", "warn", "signal", "assert", "panic", "bug",
        ];
        /// What a server says now and then, without an error of its own: of a client's going away; and
        /// Traffic Server, where it reads its certificates before its two processes talk again.
        const NOW_AND_THEN: [&str; 4] = [
            "unexpected eof",
            "Broken pipe",
            "Connection reset by peer",
            "MgmtMessageHdr is ignored. Because ProcessManager is not running",
        ];
        let is_complaint = |line: &&str| {
            let is_usual = NOW_AND_THEN.iter().any(|words| line.contains(words));
            // s_server begins with a word alone what it has to say of a lost client.
            let is_heading = *line == "ERROR";
            let line = line.to_lowercase();
            WORDS.iter().any(|word| line.contains(word)) && !is_usual && !is_heading
        };
        let lines = self.log.lines().filter(is_complaint);
        lines.map(without_numbers).collect()
    }
}

/// `[Nov 21 19:31:29.861] pid 1234` becomes `[Nov # #:#:#.#] pid #`, and likewise hexadecimal numbers.
fn without_numbers(line: &str) -> String {
    let mut shown = String::new();
    for word in line.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let (word, end) = match word.char_indices().last() {
            Some((at, c)) if !c.is_ascii_alphanumeric() => word.split_at(at),
            _ => (word, ""),
        };
        match word.starts_with(|c: char| c.is_ascii_digit())
            || (word.len() >= 8 && word.chars().all(|c| c.is_ascii_hexdigit()))
        {
            true => shown.push('#'),
            false => shown.push_str(word),
        }
        shown.push_str(end);
    }
    shown
}

/// Each server uses the whole machine.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Plan {
    /// A name of its own among all plans.
    pub fn name(&self) -> String {
        let server = self.server.name().to_lowercase().replace(' ', "");
        match self.accelerator {
            Some(accelerator) => format!("{server}::{}", accelerator.name()),
            None => server,
        }
    }

    pub fn run(&self, library: Library) -> Result<Seen, Failed> {
        let _turn = one_at_a_time();
        let server = &*self.server;
        let name = self.name().replace("::", "-");
        let site = Site::new(&name, self.openssl, library, self.accelerator)?;
        let group = server.start(&site)?;
        for key in site.keys() {
            wait_until_served(site.address, *key)?;
        }
        let mut seen = Seen {
            library,
            version: server.version()?,
            reloading: Score::default(),
            steady: Score::default(),
            resident: 0,
            pauses: 0,
            without_rsasync: Vec::new(),
            workers_looked_at: 0,
            deaths: Vec::new(),
            log: String::new(),
        };
        seen.look_at(&server.workers(&group), "at the start");

        let mut load = Load {
            address: site.address,
            keys: site.keys(),
            handshakes: self.handshakes / 4,
        };
        let (score, reloaded) = load.run(|| {
            for _ in 0..2 {
                server.reload(&group, &site, true)?;
                seen.look_at(&server.workers(&group), "after a reload under load");
                thread::sleep(Duration::from_millis(200));
            }
            Ok::<_, Failed>(())
        });
        seen.reloading = score;
        reloaded?;
        server.reload(&group, &site, false)?;
        wait_until_served(site.address, site.keys()[0])?;
        let workers = server.workers(&group);
        seen.look_at(&workers, "after a reload");

        load.handshakes = self.handshakes;
        (seen.steady, ()) = load.run(|| ());
        // What clients have left behind is cleaned up.
        thread::sleep(Duration::from_secs(1));
        let after = server.workers(&group);
        if after != workers || after.is_empty() {
            let deaths = format!("workers {workers:?} became {after:?} without a reload");
            seen.deaths.push(deaths);
        }
        seen.resident = resident_bytes(&after);
        seen.look_at(&after, "after the load");
        if let Err(why) = server.stop(&group) {
            seen.deaths
                .push(why.message().unwrap_or_default().to_owned());
        }
        seen.pauses = pauses(&site);
        let directory = site.directory.display().to_string();
        seen.log = read_logs(&server.logs(&site)).replace(&directory, "DIRECTORY");
        let of_signals = seen.log.lines().filter(|line| tells_of_crash(line));
        seen.deaths.extend(of_signals.map(str::to_owned));
        Ok(seen)
    }
}

/// How masters report a worker that died by a signal.
fn tells_of_crash(line: &str) -> bool {
    // HAProxy: "Current worker (12) exited with code 139 (Segmentation fault)"; 143 is how we end it.
    let code = line.split_once("exited with code ").map(|it| it.1);
    let code: Option<u32> = code.and_then(|it| it.split(' ').next()?.parse().ok());
    let in_haproxy = code.is_some_and(|code| code > 128 && code != 143);
    // nginx: "worker process 12 exited on signal 11"; Traffic Server: "due to Sig 11".
    in_haproxy || line.contains("exited on signal") || line.contains("due to Sig ")
}

impl Seen {
    fn look_at(&mut self, workers: &[i32], when: &str) {
        if self.library == Library::Libcrypto {
            return;
        }
        for pid in workers {
            self.workers_looked_at += 1;
            if let Err(why) = is_in_effect(*pid) {
                let why = why.message().unwrap_or_default();
                self.without_rsasync.push(format!("{when}: {why}"));
            }
        }
    }
}
