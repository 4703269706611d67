//! The report, which is printed and written to target/bench.

use std::error::Error;
use std::fs;
use std::path::Path;

use harness::table::{STYLE, Table};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use procfs::{CpuInfo, Current, LoadAverage};

use crate::crowd::Plan;
use crate::loops::Loaded;
use crate::measure::Section;
use crate::plot;
use crate::servers;
use crate::table::{table, verdict};

pub struct Results {
    pub calls: Section,
    pub speedups: Section,
    pub crowds: Vec<(Plan, Section)>,
    /// What whole programs see of it.
    pub programs: Vec<Section>,
    /// The instructions of calls, by source file.
    pub promises: Option<Table>,
    /// The machine that they were measured on.
    pub machine: String,
}

/// A line that describes this machine, and its load, which disturbs measurements.
pub fn machine(libcrypto: &Loaded) -> Outcome<String> {
    let cpus = CpuInfo::current()?;
    let model = cpus.model_name(0).unwrap_or("unknown processor");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let version = libcrypto.version.as_deref().unwrap_or("no OpenSSL");
    let load = LoadAverage::current()?.one;
    Ok(format!(
        "{model}, {} processors; Linux {}; {version}; load at the start {load}",
        cpus.num_cores(),
        kernel.trim(),
    ))
}

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const PROMISES: &str = "What each promise costs: the instructions of a call, by source file";

/// The folder of the report's files.
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench");

impl Results {
    /// Prints the tables and writes the files.
    pub fn report(&self) -> Outcome {
        for section in self.sections() {
            println!("\n{}", section.title);
            table(section).print();
        }
        if let Some(promises) = &self.promises {
            println!("\n{PROMISES}");
            promises.print();
        }
        let noticed = servers::noticed(&self.programs);
        if let Some(sentence) = &noticed {
            println!("\n{sentence}");
        }
        fs::create_dir_all(DIRECTORY)?;
        let directory = fs::canonicalize(DIRECTORY)?;
        self.write_raw(&directory.join("raw.csv"))?;
        let report = directory.join("report.html");
        fs::write(&report, self.page(noticed)?.into_string())?;
        println!(
            "\n±: half the distance between the quartiles\n{}\nplots, tables and raw numbers: {}\n{}",
            self.machine,
            report.display(),
            verdict(&self.sections())
        );
        Ok(())
    }

    /// The sections that have rows.
    fn sections(&self) -> Vec<&Section> {
        let crowds = self.crowds.iter().map(|(_, section)| section);
        let all = [&self.calls, &self.speedups].into_iter().chain(crowds);
        let all = all.chain(&self.programs);
        all.filter(|section| !section.rows.is_empty()).collect()
    }

    /// Writes a line for each measurement.
    fn write_raw(&self, path: &Path) -> Outcome {
        let mut raw = csv::Writer::from_path(path)?;
        raw.write_record(["section", "row", "unit", "subject", "round", "value"])?;
        for section in self.sections() {
            for row in &section.rows {
                for (subject, values) in &row.values {
                    for (round, value) in values.iter().enumerate() {
                        raw.serialize((
                            &section.title,
                            &row.name,
                            row.unit.name(),
                            subject.name(),
                            round,
                            value,
                        ))?;
                    }
                }
            }
        }
        raw.flush()?;
        Ok(())
    }

    fn page(&self, noticed: Option<String>) -> Outcome<Markup> {
        let mut plots = Vec::new();
        let of_programs = servers::processor_times(&self.programs);
        let bars = [Some(&self.calls), of_programs.as_ref()];
        for section in bars.into_iter().flatten() {
            if !section.rows.is_empty() {
                plots.push((section.title.clone(), plot::bars(section)?));
            }
        }
        for (threads, words) in [(1, "one thread"), (2, "each of two threads at once")] {
            if self
                .crowds
                .iter()
                .filter(|(plan, _)| plan.threads == threads)
                .count()
                < 2
            {
                continue; // one point makes no line
            }
            let of = |what: &str, rows: &[&str]| {
                let title = format!("{what} of each paused job, by the number of jobs in {words}");
                Ok::<_, Box<dyn Error>>((title, plot::by_size(&self.crowds, threads, rows)?))
            };
            plots.push(of("Time", &crate::crowd::TIMES)?);
            plots.push(of("Memory", &crate::crowd::MEMORY)?);
        }
        Ok(html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    title { "rsasync: what it costs" }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    h1 { "rsasync and libcrypto: what each call costs" }
                    p { (self.machine) }
                    pre { (verdict(&self.sections())) }
                    @if let Some(sentence) = noticed {
                        p { strong { (sentence) } }
                    }
                    p {
                        "Medians of many rounds, in each of which all subjects are measured in turn; ± is half "
                        "the distance between the quartiles. The ratio is libcrypto's cost divided by "
                        "rsasync's: above 1 rsasync is cheaper. All numbers: " a href="raw.csv" { "raw.csv" } "."
                    }
                    @for (title, svg) in &plots {
                        h2 { (title) }
                        (PreEscaped(svg))
                    }
                    @for section in self.sections() {
                        h2 { (section.title) }
                        (table(section).html())
                    }
                    @if let Some(promises) = &self.promises {
                        h2 { (PROMISES) }
                        p {
                            "corosensei, which keeps no control words and is inlined into its caller, makes none of "
                            "these promises: its cost is the floor of the field."
                        }
                        (promises.html())
                    }
                }
            }
        })
    }
}
