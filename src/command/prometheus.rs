//! The text format of Prometheus, as node_exporter's textfile collector and others read it.

use std::fmt::Write;

use crate::snapshot::Snapshot;

/// A metric: its name, type and help, and its samples as labels and value of a process.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    samples: fn(&Snapshot) -> Vec<(&'static str, u64)>,
}

const METRICS: [Metric; 14] = [
    Metric {
        name: "rsasync_jobs",
        kind: "gauge",
        help: "Jobs by state. Paused ones include orphaned and abandoned ones.",
        samples: |it| {
            let jobs = &it.all.jobs;
            vec![
                ("state=\"running\"", jobs.running),
                ("state=\"paused\"", jobs.paused),
                ("state=\"idle\"", jobs.idle),
            ]
        },
    },
    Metric {
        name: "rsasync_jobs_orphaned",
        kind: "gauge",
        help: "Paused jobs whose wait context was freed: probably nobody will resume them.",
        samples: |it| vec![("", it.all.jobs.orphaned)],
    },
    Metric {
        name: "rsasync_jobs_abandoned",
        kind: "gauge",
        help: "Paused or running jobs whose thread has ended.",
        samples: |it| vec![("", it.all.jobs.abandoned)],
    },
    Metric {
        name: "rsasync_starts_total",
        kind: "counter",
        help: "Jobs started.",
        samples: |it| vec![("", it.all.starts)],
    },
    Metric {
        name: "rsasync_pauses_total",
        kind: "counter",
        help: "Pauses of jobs.",
        samples: |it| vec![("", it.all.pauses)],
    },
    Metric {
        name: "rsasync_resumes_total",
        kind: "counter",
        help: "Jobs resumed.",
        samples: |it| vec![("", it.all.resumes)],
    },
    Metric {
        name: "rsasync_finishes_total",
        kind: "counter",
        help: "Jobs finished.",
        samples: |it| vec![("", it.all.finishes)],
    },
    Metric {
        name: "rsasync_refusals_total",
        kind: "counter",
        help: "Calls refused, by reason.",
        samples: |it| {
            vec![
                ("reason=\"pool_size\"", it.refusals.pool_size),
                ("reason=\"null\"", it.refusals.null),
                ("reason=\"memory\"", it.refusals.memory),
                ("reason=\"state\"", it.refusals.state),
            ]
        },
    },
    Metric {
        name: "rsasync_no_jobs_total",
        kind: "counter",
        help: "Starts that got ASYNC_NO_JOBS, by reason.",
        samples: |it| {
            vec![
                ("reason=\"limit\"", it.no_jobs.limit),
                ("reason=\"memory\"", it.no_jobs.memory),
            ]
        },
    },
    Metric {
        name: "rsasync_orphans_reclaimed_total",
        kind: "counter",
        help: "Orphaned jobs destroyed, as RSASYNC_RECLAIM_ORPHANS asks for.",
        samples: |it| vec![("", it.orphans_reclaimed)],
    },
    Metric {
        name: "rsasync_stacks",
        kind: "gauge",
        help: "Stacks that exist.",
        samples: |it| vec![("", it.stacks.existing)],
    },
    Metric {
        name: "rsasync_stacks_unguarded",
        kind: "gauge",
        help: "Stacks without a guard.",
        samples: |it| vec![("", it.stacks.unguarded)],
    },
    Metric {
        name: "rsasync_stack_deepest_bytes",
        kind: "gauge",
        help: "The most bytes that a job has used of its stack.",
        samples: |it| vec![("", it.stacks.deepest_bytes)],
    },
    Metric {
        name: "rsasync_stacks_resident_bytes",
        kind: "gauge",
        help: "Bytes of stacks that are in memory.",
        samples: |it| {
            it.stacks
                .resident_bytes
                .map(|bytes| ("", bytes))
                .into_iter()
                .collect()
        },
    },
];

pub fn text(processes: &[Snapshot]) -> String {
    let mut text = String::new();
    for metric in &METRICS {
        let name = metric.name;
        let _ = writeln!(text, "# HELP {name} {}", metric.help);
        let _ = writeln!(text, "# TYPE {name} {}", metric.kind);
        for process in processes {
            let program = escaped(&process.program);
            for (label, value) in (metric.samples)(process) {
                let comma = if label.is_empty() { "" } else { "," };
                let pid = process.pid;
                let _ = writeln!(
                    text,
                    "{name}{{pid=\"{pid}\",program=\"{program}\"{comma}{label}}} {value}"
                );
            }
        }
    }
    text
}

/// A label's value.
fn escaped(value: &str) -> String {
    let value = value.replace('\\', r"\\");
    value.replace('"', "\\\"").replace('\n', r"\n")
}
