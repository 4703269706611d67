//! What a TLS server costs whose every handshake pauses its job, on rsasync and on libcrypto's own
//! jobs. Both servers are up at once, and the load goes to one and the other in turn: their processor
//! time is compared, as their rates would vary with the machine.

use std::error::Error;
use std::fs;
use std::process::Command;
use std::sync::Arc;

use harness::openssl::SYSTEM;
use harness::servers::accelerator::Accelerator;
use harness::servers::callbacks::CallbackServer;
use harness::servers::haproxy::Haproxy;
use harness::servers::load::{Key, wait_until_served};
use harness::servers::process::Group;
use harness::servers::server::Server;
use harness::servers::site::{Library, Site};
use indicatif::ProgressBar;
use procfs::process::Process;

use crate::client::Latency;
use crate::measure::{Row, Section, Subject, Target, Unit};
use crate::number::thousands;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A load on a server.
pub struct Plan {
    server: Arc<dyn Server>,
    /// What the server is, in words.
    label: &'static str,
    in_flight: usize,
    /// Handshakes of one round, on each library.
    handshakes: usize,
    /// Rounds on each pair of servers.
    rounds: u64,
}

/// Pairs of servers, one after the other: two processes differ by where their memory happens to lie.
const PAIRS: u64 = 5;

impl Plan {
    /// Rounds on all pairs.
    pub fn all_rounds(&self) -> u64 {
        PAIRS * self.rounds
    }

    pub fn title(&self) -> String {
        let in_flight = thousands(self.in_flight as f64);
        format!("{TITLE}{}, {in_flight} in flight", self.label)
    }
}

/// How the titles of the loads begin.
const TITLE: &str = "TLS handshakes: ";

/// All loads; those of a server follow each other.
pub fn plans(quick: bool) -> Vec<Plan> {
    let own: Arc<dyn Server> = Arc::new(CallbackServer(&SYSTEM));
    let haproxy: Arc<dyn Server> = Arc::new(Haproxy);
    // In flight, handshakes, rounds: short ones, as the machine's speed varies.
    let loads = [
        (1, 200, 12),
        (100, 500, 12),
        (2_000, 4_000, 4),
        (10_000, 20_000, 2),
    ];
    let plan = |server: &Arc<dyn Server>, label, (in_flight, handshakes, rounds)| Plan {
        server: Arc::clone(server),
        label,
        in_flight,
        handshakes,
        rounds: if quick { 1 } else { rounds },
    };
    // HAProxy takes as many connections as its limit of descriptors allows.
    let of_own = loads
        .iter()
        .map(|load| plan(&own, "a server on epoll", *load));
    let of_haproxy = loads[..3]
        .iter()
        .map(|load| plan(&haproxy, "HAProxy", *load));
    of_own.chain(of_haproxy).collect()
}

/// A server that runs, on one library.
struct Running {
    subject: Subject,
    server: Arc<dyn Server>,
    site: Site,
    group: Group,
}

impl Running {
    fn start(server: &Arc<dyn Server>, library: Library) -> Outcome<Self> {
        let name = format!("bench-{}", server.name().to_lowercase());
        let site = Site::new(&name, &SYSTEM, library, Some(Accelerator::Provider)).map_err(text)?;
        let group = server.start(&site).map_err(text)?;
        wait_until_served(site.address, Key::Ec).map_err(text)?;
        let server = Arc::clone(server);
        let subject = match library {
            Library::Libcrypto => Subject::Libcrypto,
            Library::Rsasync => Subject::Rsasync,
        };
        Ok(Self {
            subject,
            server,
            site,
            group,
        })
    }

    fn worker(&self) -> Outcome<Process> {
        let workers = self.server.workers(&self.group);
        Ok(Process::new(
            *workers.first().ok_or("the server has ended")?,
        )?)
    }

    /// Values of one round, in the order of the rows.
    fn measure(&self, plan: &Plan) -> Outcome<[f64; 5]> {
        let worker = self.worker()?;
        fs::write(format!("/proc/{}/clear_refs", worker.pid), "5")?; // the peak of memory begins anew
        let before = Used::by(&worker)?;
        let mut client = Command::new(std::env::current_exe()?);
        client.arg("load-server").arg(self.site.address.to_string());
        let numbers = [plan.in_flight, plan.handshakes].map(|number| number.to_string());
        let output = client.args(numbers).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        let latency: Latency = ron::de::from_bytes(&output.stdout)?;
        let after = Used::by(&worker)?;
        let peak = worker.status()?.vmhwm.ok_or("no peak of memory")?;
        let each = |before, after| (after - before) as f64 / plan.handshakes as f64;
        Ok([
            each(before.nanoseconds, after.nanoseconds) / 1e3,
            latency.median,
            latency.percentile_99,
            (peak << 10) as f64,
            each(before.faults, after.faults),
        ])
    }
}

fn text(failed: libtest_mimic::Failed) -> Box<dyn Error> {
    failed.message().unwrap_or("it failed").into()
}

/// What a process has used so far.
struct Used {
    nanoseconds: u64,
    faults: u64,
}

impl Used {
    fn by(process: &Process) -> Outcome<Self> {
        let mut nanoseconds = 0;
        for thread in process.tasks()? {
            nanoseconds += thread?.schedstat()?.sum_exec_runtime;
        }
        let faults = process.stat()?.minflt;
        Ok(Self {
            nanoseconds,
            faults,
        })
    }
}

/// The least difference that means something: two runs of the same library differ by as much.
const NOTICED: f64 = 0.02;

const PROCESSOR_TIME: &str = "processor time of a handshake";

fn rows() -> Vec<Row> {
    let not_dearer = Some(Target::Ratio(1.0 - NOTICED));
    vec![
        Row::new(
            "processor time of a handshake",
            Unit::Microseconds,
            not_dearer,
        ),
        Row::new("latency, median", Unit::Microseconds, None),
        Row::new("latency, 99th percentile", Unit::Microseconds, None),
        Row::new("resident memory at the peak", Unit::Bytes, None),
        Row::new("page faults of a handshake", Unit::Faults, None),
    ]
}

/// Puts the loads on their servers. A failure is printed, and leaves rows empty.
pub fn measure(plans: &[Plan], progress: &ProgressBar) -> Vec<Section> {
    let section = |plan: &Plan| Section {
        title: plan.title(),
        rows: rows(),
    };
    let mut sections: Vec<_> = plans.iter().map(section).collect();
    let mut rest = &mut sections[..];
    for of_server in plans.chunk_by(|one, next| Arc::ptr_eq(&one.server, &next.server)) {
        let (sections, others) = rest.split_at_mut(of_server.len());
        rest = others;
        for _ in 0..PAIRS {
            if let Err(why) = measure_pair(of_server, sections, progress) {
                progress.suspend(|| eprintln!("bench: {}: {why}", of_server[0].title()));
            }
        }
    }
    sections
}

/// The loads of a server on a pair of new processes.
fn measure_pair(plans: &[Plan], sections: &mut [Section], progress: &ProgressBar) -> Outcome<()> {
    let start = |library| Running::start(&plans[0].server, library);
    let mut servers = [start(Library::Libcrypto)?, start(Library::Rsasync)?];
    for (plan, section) in plans.iter().zip(sections) {
        for _ in 0..plan.rounds {
            progress.set_message(plan.title());
            for server in &servers {
                for (row, value) in section.rows.iter_mut().zip(server.measure(plan)?) {
                    row.add(server.subject, value);
                }
            }
            progress.inc(1);
            servers.reverse();
        }
    }
    Ok(())
}

/// The processor time of all loads, as rows of one section; None if there was no load.
pub fn processor_times(sections: &[Section]) -> Option<Section> {
    let rows: Vec<_> = sections
        .iter()
        .flat_map(|section| section.rows.iter().map(move |row| (section, row)))
        .filter(|(_, row)| row.name == PROCESSOR_TIME)
        .map(|(section, row)| Row {
            name: section.title.replace(TITLE, ""),
            unit: row.unit,
            target: row.target,
            values: row.values.clone(),
        })
        .collect();
    (!rows.is_empty()).then(|| Section {
        title: "Processor time of a handshake, with a request and its answer".to_owned(),
        rows,
    })
}

/// In which loads an operator can notice a difference in processor time, as a sentence.
pub fn noticed(sections: &[Section]) -> Option<String> {
    let times = processor_times(sections)?;
    let differences: Vec<_> = times
        .rows
        .iter()
        .filter_map(|row| Some((&row.name, 1.0 / row.ratio()? - 1.0)))
        .filter(|(_, more)| more.abs() >= NOTICED)
        .map(|(name, more)| {
            let word = if more < 0.0 { "less" } else { "more" };
            format!("{name}: {:.0} % {word}", 100.0 * more.abs())
        })
        .collect();
    let found = match differences.is_empty() {
        true => "in none of these loads".to_owned(),
        false => format!("only here: {}", differences.join("; ")),
    };
    Some(format!(
        "A server's operator notices a difference in processor time ({:.0} % or more) {found}. \
         A handshake takes hundreds of microseconds of it, and its jobs' switches less than one.",
        100.0 * NOTICED
    ))
}
