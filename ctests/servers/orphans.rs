//! Clients that go away when their side of the handshake is done: the server's job is paused then,
//! and HAProxy frees the connection without resuming it, so that the job stays for ever.

use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use super::Size;
use super::accelerator::{Accelerator, pauses};
use super::haproxy::Haproxy;
use super::load::{Key, LeaveAfter, lose_clients, wait_until_served};
use super::process::{Group, resident_bytes, wait_until};
use super::report;
use super::run::one_at_a_time;
use super::server::Server;
use super::site::{Library, Site};
use crate::check::{Check, expect};
use crate::openssl::SYSTEM;

/// Clients that are lost, and how many of them at the same time.
#[derive(Clone, Copy)]
struct Lost {
    threads: usize,
    of_each: usize,
}

impl Lost {
    fn all(self) -> usize {
        self.threads * self.of_each
    }
}

pub fn checks(size: Size) -> Vec<Check> {
    // One after the other: the stack of each is made of memory that the connection before has used.
    let one_by_one = Lost {
        threads: 1,
        of_each: match size {
            Size::Short => 1_000,
            Size::Full => 5_000,
        },
    };
    vec![
        Check::new("servers::orphans::cost_less_than_on_libcrypto", move || {
            cost_less(one_by_one)
        }),
        Check::new("servers::orphans::reclaimed_ones_leave_nothing", reclaimed),
    ]
}

fn cost_less(lost: Lost) -> Result<(), Failed> {
    let theirs = bytes_of_each("orphans", Library::Libcrypto, &[], lost)?;
    let ours = bytes_of_each("orphans", Library::Rsasync, &[], lost)?;
    expect(
        theirs > 0 && ours < theirs,
        format!("a lost client leaves {ours} bytes, on libcrypto {theirs}"),
    )
}

/// With RSASYNC_RECLAIM_ORPHANS memory is bounded, however many clients are lost.
fn reclaimed() -> Result<(), Failed> {
    /// Bytes that a lost client may leave: what the job had allocated from the heap stays.
    const MOST: u64 = 1024;
    let lost = Lost {
        threads: 8,
        of_each: 625,
    };
    let settings = &["RSASYNC_RECLAIM_ORPHANS=1"];
    let each = bytes_of_each("orphans-reclaimed", Library::Rsasync, settings, lost)?;
    expect(
        each < MOST,
        format!("a lost client leaves {each} bytes, though its job is reclaimed"),
    )
}

/// By how many bytes the worker's memory grows for each client that is lost.
fn bytes_of_each(
    name: &str,
    library: Library,
    settings: &'static [&'static str],
    lost: Lost,
) -> Result<u64, Failed> {
    let _turn = one_at_a_time();
    let mut site = Site::new(name, &SYSTEM, library, Some(Accelerator::Engine))?;
    site.settings = settings;
    let group = Haproxy.start(&site)?;
    wait_until_served(site.address, Key::Ec)?;
    // What the first ones take at the most serves the later ones, too.
    lose(&site, lost)?;
    let before = settled(&group, &site)?;
    lose(&site, lost)?;
    let after = settled(&group, &site)?;
    Haproxy.stop(&group)?;
    let each = after.saturating_sub(before) / lost.all() as u64;
    report::add_orphans(library, settings, lost.all(), each);
    Ok(each)
}

/// Loses clients, and waits until the server has begun all of their handshakes.
fn lose(site: &Site, lost: Lost) -> Result<(), Failed> {
    let before = pauses(site);
    lose_clients(
        site.address,
        lost.threads,
        lost.of_each,
        LeaveAfter::Handshake,
    )?;
    wait_until("the handshakes to begin", || {
        pauses(site) >= before + lost.all() as u64
    })
}

/// The worker's memory, when it no longer shrinks while one client after the other is served.
fn settled(group: &Group, site: &Site) -> Result<u64, Failed> {
    /// Longer than orphans are left alone, where they are reclaimed.
    const PATIENCE: Duration = Duration::from_secs(2);
    const MOST_PATIENCE: Duration = Duration::from_secs(20);
    let start = Instant::now();
    let (mut least, mut since) = (u64::MAX, start);
    while since.elapsed() < PATIENCE && start.elapsed() < MOST_PATIENCE {
        wait_until_served(site.address, Key::Ec)?;
        let now = resident_bytes(&Haproxy.workers(group));
        // By a hundredth at least.
        if now < least - least / 100 {
            (least, since) = (now, Instant::now());
        }
    }
    Ok(least)
}
