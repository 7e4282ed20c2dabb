//! Load generators: what the suite costs, measured on real processes in a directory of their own.
//!
//! Figures are CPU time of the process under test for each operation, for absolute throughput drifts with the machine's neighbours. Load generator and
//! suite share all cores. Every subcommand is bounded in time, runs several rounds and prints
//! medians; errors are counted, and a run with errors says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement that cannot be made fails by panicking")]
#![allow(clippy::missing_panics_doc, reason = "see above")]
#![allow(clippy::cast_precision_loss, reason = "figures are read with three digits")]

pub mod audit;
pub mod commands;
pub mod connections;
pub mod crashes;
pub mod fanout;
mod floor;
pub mod hangs;
pub mod idle;
pub mod measure;
pub mod recovery;
pub mod refusals;
pub mod report;
pub mod restarts;
pub mod rss;
pub mod soak;
pub mod traffic;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use gatehouse_tests::binaries;

use report::Report;

/// Measures a suite that it starts for itself.
#[derive(Debug, Parser)]
#[command(name = "gatehouse-bench", version)]
struct Arguments {
    /// Where the binaries under test are [default: beside this one]
    #[arg(long, global = true, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Print JSON, one object a line, instead of tables
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Signed commands: CPU time of the edge for each, beside a server that only decodes a key, verifies and signs
    Commands(commands::Load),
    /// Commands that are refused: CPU time of the edge for each, and what is written to Redis
    Refusals(refusals::Refusals),
    /// Minutes of commands at saturation: how the edge's memory grows
    Soak(soak::Soak),
    /// Memory of the edge for each idle connection
    Connections(connections::Connections),
    /// Events to many streams: how many deliveries for each CPU-second of the pushers
    Fanout(fanout::Load),
    /// Audit records: how many rows a second, on SQLite and on PostgreSQL
    Audit(audit::Load),
    /// Memory (PSS) of each process, idle and after load
    Rss,
    /// From `kill -9` of each process to serving again
    Recovery(recovery::Kills),
    /// Planned restarts of each component under constant traffic, and what clients noticed
    Restarts(restarts::Restarts),
    /// `kill -9` of each component under constant traffic
    Crashes(crashes::Crashes),
    /// Components that hang under constant traffic
    Hangs(hangs::Hangs),
    /// `kill -9` of the supervisor under constant traffic; the next one is started by hand
    Supervisor(crashes::Deaths),
    /// Upgrades in place under constant traffic
    Upgrades(restarts::Upgrades),
    /// From one pusher to four and back under constant traffic
    Scale(restarts::Scales),
    /// What each process needs while nothing happens, and how soon the supervisor answers
    Idle(idle::Idle),
}

/// How often and how long.
#[derive(Clone, Copy, Debug, Args)]
pub struct Rounds {
    /// Seconds of each round
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Rounds after one to warm up
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

impl Rounds {
    fn length(self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// What `main` does.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(dir) = arguments.bin_dir {
        binaries::use_directory(dir.canonicalize().expect("--bin-dir"));
    }
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    let reports: Vec<Report> = runtime.block_on(async {
        match arguments.what {
            What::Commands(load) => vec![commands::run(&load).await],
            What::Refusals(refusals) => vec![refusals::run(&refusals).await],
            What::Soak(soak) => vec![soak::run(&soak).await],
            What::Connections(connections) => vec![connections::run(&connections).await],
            What::Fanout(load) => vec![fanout::run(&load).await],
            What::Audit(load) => vec![audit::run(&load).await],
            What::Rss => vec![rss::run().await],
            What::Recovery(kills) => vec![recovery::run(&kills).await],
            What::Restarts(restarts) => restarts::run(&restarts).await,
            What::Crashes(crashes) => crashes::run(&crashes).await,
            What::Hangs(hangs) => hangs::run(&hangs).await,
            What::Supervisor(deaths) => crashes::run_deaths(&deaths).await,
            What::Upgrades(upgrades) => restarts::run_upgrades(&upgrades).await,
            What::Scale(scales) => restarts::run_scales(&scales).await,
            What::Idle(idle) => idle::run(&idle).await,
        }
    });
    // Clients that are still open must not hold up the end.
    runtime.shutdown_background();
    for report in &reports {
        report.print(arguments.json);
    }
    if reports.iter().all(|report| report.errors == 0) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
