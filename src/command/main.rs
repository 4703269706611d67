//! The `rsasync` command: its arguments.

mod bindings;
mod check;
mod core;
mod elf;
mod error;
mod jobs;
mod library;
mod memory;
mod objects;
mod papers;
mod process;
mod prometheus;
mod run;
mod snapshot;
mod state;
mod status;
mod symbols;
mod table;
mod unwind;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::status::Format;

/// Puts rsasync, OpenSSL's asynchronous jobs on guarded stacks, under a program, and shows from
/// outside what it does there.
///
/// It needs no help of the process that it looks at: it reads the process's memory, as a debugger
/// does. So it must run as the same user, or as root where `kernel.yama.ptrace_scope` is not 0.
#[derive(Parser)]
#[command(name = "rsasync", version, disable_help_subcommand = true)]
#[command(override_usage = "rsasync COMMAND ...\n       rsasync [--help | --version]")]
struct Arguments {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Runs a program with rsasync preloaded
    ///
    /// The library is added to what LD_PRELOAD has. A program that clears its environment loses it
    /// at its next exec: nginx.conf needs `env LD_PRELOAD;`.
    #[command(after_long_help = "Exit status: 2 if the program could not be run, else its own.")]
    #[command(override_usage = "\
rsasync run [--stack-size SIZE] [--library PATH] [--] PROGRAM [ARGUMENT ...]")]
    Run(Run),
    /// Says whether a process's calls go to rsasync
    ///
    /// It reads which function each library's calls of ASYNC_ functions are bound to.
    #[command(after_long_help = "\
Exit status: 0 if they go to rsasync, 1 if they don't, 2 if that can't be told; of several \
processes, 1 if any has 1, else 2 if any has 2.")]
    #[command(override_usage = "rsasync check [--tree] PID ...\n       rsasync check --all")]
    Check(Check),
    /// Shows what the jobs of processes do
    ///
    /// Jobs by state, what threads did, refused calls, stacks. A job is orphaned if it is paused
    /// and its wait context was freed; abandoned if its thread has ended.
    #[command(after_long_help = STATUS_HELP)]
    #[command(override_usage = "\
rsasync status [--tree] [--json | --prometheus] [--watch SECONDS] PID ...")]
    Status(Status),
    /// Lists the jobs of a process or of a core file, one a line
    ///
    /// It looks twice, and says of which jobs that they stood still in between. Of a paused job it
    /// tells where: the innermost function outside rsasync. Of a core file also which job overflowed
    /// its stack, if one did.
    #[command(after_long_help = "Exit status: 0 if the jobs could be read, else 2.")]
    #[command(override_usage = "\
rsasync jobs [--interval SECONDS] PID\n       rsasync jobs --core FILE --exe PROGRAM")]
    Jobs(Jobs),
    /// Writes the man pages and the completions of shells into a directory
    #[command(hide = true)]
    Generate {
        directory: PathBuf,
        /// Of the man pages
        #[arg(default_value = "")]
        date: String,
    },
}

/// What programs that read the output of `status` want to know.
const STATUS_HELP: &str = "\
JSON: an object a line, with `schema`, 1, and `processes`, a list of objects with these members. New \
ones may be added; `schema` grows when one changes its meaning.

  pid, program: the process, and the name of its program
  library: version and file
  remarks: what the numbers mean, in words, as in the text
  jobs: running (or waiting for one that they started), idle, paused; orphaned and abandoned ones, \
which are counted as paused or running, too
  starts, pauses, resumes, finishes: how often, since the process began
  refusals: calls refused because of pool_size (init_size above max_size), null, memory, state (wrong \
thread or state, stale handle)
  no_jobs: starts that got no job because of the limit of ASYNC_init_thread, or of memory
  stacks: existing, made, peak (the most together), unguarded; bytes (usable, of each), deepest_bytes \
(the most that one has used), resident_bytes (of all; or null)
  orphans_reclaimed: how many were destroyed, as RSASYNC_RECLAIM_ORPHANS asks for
  threads: of each the tid, and jobs, starts, pauses, resumes, finishes
  ended_threads: the same of all that have ended

Prometheus: the same numbers as metrics that begin with rsasync_, with the labels pid and program; \
each has its help. `rsasync status --prometheus $(pidof haproxy) > FILE.prom` suits node_exporter's \
textfile collector.

Exit status: 0 if all processes could be read, else 2.";

#[derive(Args)]
struct Run {
    /// Usable bytes of a job's stack, as RSASYNC_STACK_SIZE
    #[arg(long, value_name = "SIZE")]
    stack_size: Option<String>,
    /// The library, if it is not the one beside this command or the one that the loader finds
    #[arg(long, value_name = "PATH")]
    library: Option<PathBuf>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<OsString>,
}

#[derive(Args)]
struct Check {
    /// The processes
    #[arg(value_name = "PID", required_unless_present = "all")]
    pids: Vec<i32>,
    /// All processes that have libssl, libcrypto or rsasync
    #[arg(long, conflicts_with_all = ["pids", "tree"])]
    all: bool,
    /// Their children too, as a server's workers
    #[arg(long)]
    tree: bool,
}

#[derive(Args)]
struct Status {
    /// The processes
    #[arg(value_name = "PID", required = true)]
    pids: Vec<i32>,
    /// Their children too, as a server's workers
    #[arg(long)]
    tree: bool,
    /// Print a line of JSON
    #[arg(long)]
    json: bool,
    /// Print metrics in the text format of Prometheus
    #[arg(long, conflicts_with = "json")]
    prometheus: bool,
    /// Print again and again, until the processes have ended
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    watch: Option<Duration>,
}

#[derive(Args)]
struct Jobs {
    /// The process
    #[arg(value_name = "PID", required_unless_present = "core")]
    pid: Option<i32>,
    /// A core file, instead of a process
    #[arg(long, value_name = "FILE", requires = "exe", conflicts_with = "pid")]
    core: Option<PathBuf>,
    /// The program that the core file is of
    #[arg(long, value_name = "PROGRAM", requires = "core")]
    exe: Option<PathBuf>,
    /// The time between the two looks at a process
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "1")]
    interval: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    match seconds > 0.0 && seconds <= 86_400.0 {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err("give more than 0 seconds, and at most a day".to_owned()),
    }
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Subcommands::Run(run) => {
            let (program, arguments) = run.program.split_first().expect("one is required");
            let size = run.stack_size.as_deref();
            run::run(run.library.as_deref(), size, program, arguments).and_then(Err)
        }
        Subcommands::Check(it) => check::check(&it.pids, it.all, it.tree),
        Subcommands::Status(it) => {
            let format = match (it.json, it.prometheus) {
                (true, _) => Format::Json,
                (false, true) => Format::Prometheus,
                (false, false) => Format::Text,
            };
            status::status(&it.pids, it.tree, format, it.watch)
        }
        Subcommands::Jobs(Jobs {
            core: Some(core),
            exe: Some(exe),
            ..
        }) => jobs::of_core(&core, &exe),
        Subcommands::Jobs(it) => jobs::of_process(it.pid.unwrap_or(0), it.interval),
        Subcommands::Generate { directory, date } => {
            papers::write(&mut Arguments::command(), &directory, &date)
                .map(|()| ExitCode::SUCCESS)
                .map_err(|why| error::Error::new(why.to_string()))
        }
    };
    done.unwrap_or_else(|error| {
        anstream::eprintln!("rsasync: {error}");
        ExitCode::from(2)
    })
}
