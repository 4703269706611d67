//! Real servers, whose handshakes run in jobs, on rsasync and on libcrypto's own jobs: what each
//! promise of rsasync to an operator is, and the plans of load that test it.

pub mod accelerator;
pub mod callbacks;
pub mod haproxy;
mod in_effect;
pub mod load;
mod nginx;
mod orphans;
pub mod process;
pub mod report;
mod run;
mod s_server;
pub mod server;
pub mod site;
mod trafficserver;

use std::sync::{Arc, OnceLock};

use libtest_mimic::Failed;

use crate::check::{Check, expect};
use crate::openssl::{Openssl, SYSTEM};
use accelerator::Accelerator;
use run::{Plan, Seen};
use server::Server;
use site::Library;

/// How much load: `make test` takes a minute for all servers, `make servers` some more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Size {
    Short,
    Full,
}

impl Size {
    /// Handshakes that a server completes, and as many that are dropped.
    fn handshakes(self) -> usize {
        match self {
            Self::Short => 2_000,
            Self::Full => 10_000,
        }
    }
}

/// The checks of all servers of this system.
pub fn checks(size: Size) -> Vec<Check> {
    let plan = |server: Arc<dyn Server>, accelerator: Option<_>| Plan {
        server,
        openssl: &SYSTEM,
        accelerator,
        // What starts no jobs differs little.
        handshakes: size.handshakes() / if accelerator.is_some() { 1 } else { 4 },
    };
    let (engine, provider) = (Some(Accelerator::Engine), Some(Accelerator::Provider));
    let haproxy = Arc::new(haproxy::Haproxy);
    let nginx = nginx::Nginx {
        names_preload: true,
    };
    let plans = [
        plan(haproxy.clone(), engine),
        plan(haproxy, provider),
        plan(Arc::new(trafficserver::TrafficServer), engine),
        plan(Arc::new(nginx), None),
    ];
    let mut checks: Vec<_> = plans.into_iter().flat_map(of_plan).collect();
    checks.extend(of_openssl(&SYSTEM, size));
    for (name, names_preload) in [
        ("an_upgrade_keeps_the_preload", true),
        ("an_upgrade_without_the_line_drops_the_preload", false),
    ] {
        checks.push(Check::new(format!("servers::nginx::{name}"), move || {
            nginx::upgrade(names_preload)
        }));
    }
    checks.push(Check::new(
        "servers::nginx::all_variables_are_passed_on",
        nginx::names_all_variables,
    ));
    checks.extend(orphans::checks(size));
    checks
}

/// The checks of servers that run on any OpenSSL: `openssl s_server`, and one with callbacks.
pub fn of_openssl(openssl: &'static Openssl, size: Size) -> Vec<Check> {
    // Engines are gone in 4.0, providers and callbacks come with 3.0.
    let engine = (openssl.major() < 4).then_some(Accelerator::Engine);
    let provider = (openssl.major() >= 3).then_some(Accelerator::Provider);
    let mut plans = Vec::new();
    for accelerator in engine.into_iter().chain(provider) {
        plans.push(Plan {
            server: Arc::new(s_server::SServer(openssl)),
            openssl,
            accelerator: Some(accelerator),
            // One connection after the other.
            handshakes: size.handshakes() / 8,
        });
        if openssl.major() >= 3 {
            plans.push(Plan {
                server: Arc::new(callbacks::CallbackServer(openssl)),
                openssl,
                accelerator: Some(accelerator),
                handshakes: size.handshakes() / 4,
            });
        }
    }
    plans.into_iter().flat_map(of_plan).collect()
}

/// The checks of such servers where libcrypto has no jobs: every handshake completes, and pauses.
pub fn where_libcrypto_has_none(openssl: &'static Openssl) -> Vec<Check> {
    let servers: [Arc<dyn Server>; 2] = [
        Arc::new(s_server::SServer(openssl)),
        Arc::new(callbacks::CallbackServer(openssl)),
    ];
    let checks = servers.into_iter().map(|server| {
        let plan = Plan {
            server,
            openssl,
            accelerator: Some(Accelerator::Provider),
            handshakes: 200,
        };
        let name = format!("servers::{}::every_handshake_pauses", plan.name());
        Check::new(name, move || {
            let seen = plan.run(Library::Rsasync)?;
            let trouble: Vec<_> = seen
                .losses()
                .chain(&seen.deaths)
                .chain(&seen.without_rsasync)
                .collect();
            expect(trouble.is_empty(), format!("{trouble:?}"))?;
            expect(seen.completed() > 0, "no handshake completed")?;
            each_handshake_pauses(&seen)
        })
    });
    checks.collect()
}

/// A server on both libraries.
struct Pair {
    libcrypto: Seen,
    rsasync: Seen,
}

/// The checks of a plan, which runs when the first of them needs it.
fn of_plan(plan: Plan) -> Vec<Check> {
    type OfPair = fn(&Pair) -> Result<(), Failed>;
    let mut checks: Vec<(&str, OfPair)> = vec![
        ("no_handshake_is_lost", no_handshake_is_lost),
        ("no_worker_dies", no_worker_dies),
        ("logs_tell_no_new_error", logs_tell_no_new_error),
        ("memory_is_not_above_libcryptos", memory_is_not_above),
        ("rsasync_is_in_effect", rsasync_is_in_effect),
    ];
    if plan.accelerator.is_some() {
        checks.push(("jobs_pause", jobs_pause));
    }
    let plan = Arc::new((plan, OnceLock::new()));
    let of_plan = checks.into_iter().map(|(name, check)| {
        let plan = Arc::clone(&plan);
        Check::new(format!("servers::{}::{name}", plan.0.name()), move || {
            let (plan, pair) = &*plan;
            let pair: &Result<Pair, Failed> = pair.get_or_init(|| both(plan));
            pair.as_ref().map_err(Failed::clone).and_then(check)
        })
    });
    of_plan.collect()
}

fn both(plan: &Plan) -> Result<Pair, Failed> {
    let run = |library| {
        let seen = plan.run(library)?;
        report::add(plan, &seen);
        Ok::<_, Failed>(seen)
    };
    Ok(Pair {
        libcrypto: run(Library::Libcrypto)?,
        rsasync: run(Library::Rsasync)?,
    })
}

fn no_handshake_is_lost(pair: &Pair) -> Result<(), Failed> {
    let [ours, theirs] = [&pair.rsasync, &pair.libcrypto].map(|seen| seen.losses().count());
    let losses: Vec<_> = pair.rsasync.losses().take(5).cloned().collect();
    let losses = losses.join("\n");
    expect(
        ours <= theirs,
        format!("rsasync lost {ours} handshakes, libcrypto {theirs}:\n{losses}"),
    )
}

fn no_worker_dies(pair: &Pair) -> Result<(), Failed> {
    let deaths = pair.rsasync.deaths.join("\n");
    expect(deaths.is_empty(), deaths)
}

fn logs_tell_no_new_error(pair: &Pair) -> Result<(), Failed> {
    let known = pair.libcrypto.complaints();
    let complaints = pair.rsasync.complaints();
    let new: Vec<_> = complaints.difference(&known).cloned().collect();
    let lines = new.join("\n");
    expect(
        new.is_empty(),
        format!("in the log with rsasync, and not in that with libcrypto:\n{lines}"),
    )
}

fn memory_is_not_above(pair: &Pair) -> Result<(), Failed> {
    /// What two runs of one library differ by: 48 connections at once, or fewer, and their buffers.
    const SLACK: u64 = 4 << 20;
    let [ours, theirs] = [pair.rsasync.resident, pair.libcrypto.resident];
    let dropped = pair.rsasync.dropped();
    expect(
        theirs > 0 && ours > 0 && ours <= theirs + theirs / 10 + SLACK,
        format!("after {dropped} dropped handshakes {ours} bytes, with libcrypto {theirs}"),
    )
}

fn rsasync_is_in_effect(pair: &Pair) -> Result<(), Failed> {
    expect(pair.rsasync.workers_looked_at >= 5, "no workers were seen")?;
    let lines = pair.rsasync.without_rsasync.join("\n");
    expect(lines.is_empty(), lines)
}

/// Without pauses the other checks test nothing.
fn jobs_pause(pair: &Pair) -> Result<(), Failed> {
    each_handshake_pauses(&pair.libcrypto)?;
    each_handshake_pauses(&pair.rsasync)
}

fn each_handshake_pauses(seen: &Seen) -> Result<(), Failed> {
    let (pauses, completed) = (seen.pauses, seen.completed());
    expect(
        pauses >= completed as u64,
        format!("{pauses} pauses in {completed} handshakes"),
    )
}
