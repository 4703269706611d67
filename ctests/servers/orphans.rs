//! Clients that go away right after their first flight: the handshake's job is paused then, and
//! HAProxy frees the connection without resuming it, so that the job stays for ever.

use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use super::accelerator::{Accelerator, pauses};
use super::haproxy::Haproxy;
use super::load::{Key, Leaving, lose_clients, wait_until_served};
use super::process::{Group, resident_bytes};
use super::report;
use super::server::Server;
use super::site::{Library, Site};
use crate::check::{Check, expect};
use crate::openssl::SYSTEM;

const LOST_CLIENTS: u64 = 5_000;

pub fn checks() -> Vec<Check> {
    vec![Check::new(
        "servers::orphans::cost_less_than_on_libcrypto",
        cost_less,
    )]
}

fn cost_less() -> Result<(), Failed> {
    let theirs = bytes_of_each("orphans", Library::Libcrypto, &[])?;
    let ours = bytes_of_each("orphans", Library::Rsasync, &[])?;
    expect(
        theirs > 0 && ours < theirs,
        format!("a lost client leaves {ours} bytes, on libcrypto {theirs}"),
    )
}

/// By how many bytes the worker's memory grows for each client that is lost.
fn bytes_of_each(
    name: &str,
    library: Library,
    settings: &'static [&'static str],
) -> Result<u64, Failed> {
    let mut site = Site::new(name, &SYSTEM, library, Some(Accelerator::Engine))?;
    site.settings = settings;
    let group = Haproxy.start(&site)?;
    wait_until_served(site.address, Key::Ec)?;
    // What the first clients take serves the later ones, too.
    lose(&site, LOST_CLIENTS / 5)?;
    let before = settled(&group);
    lose(&site, LOST_CLIENTS)?;
    let after = settled(&group);
    Haproxy.stop(&group)?;
    let each = after.saturating_sub(before) / LOST_CLIENTS;
    report::add_orphans(library, settings, LOST_CLIENTS, each);
    Ok(each)
}

/// Loses so many clients, and waits until the server has begun, and left, all of their handshakes.
fn lose(site: &Site, count: u64) -> Result<(), Failed> {
    let before = pauses(site);
    lose_clients(site.address, count, Leaving::AfterHandshake)?;
    super::process::wait_until("the handshakes to begin", || pauses(site) >= before + count)
}

/// The worker's memory, when it no longer shrinks.
fn settled(group: &Group) -> u64 {
    /// Longer than orphans are left alone, where they are reclaimed.
    const PATIENCE: Duration = Duration::from_secs(4);
    let resident = || resident_bytes(&Haproxy.workers(group));
    let (mut least, mut since) = (resident(), Instant::now());
    while since.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(100));
        let now = resident();
        if now < least {
            (least, since) = (now, Instant::now());
        }
    }
    least
}
