//! What the supervisor needs while nothing happens.

use std::time::Duration;

use clap::Args;
use gatehouse_tests::Suite;
use tokio::time::{Instant, sleep};

use crate::{
    measure::{precise_cpu, pss_mib, rss_mib},
    report::{Report, median},
};

/// The start, whose work is not idling.
const SETTLE: Duration = Duration::from_secs(5);

/// Questions for the supervisor's status.
const STATUSES: usize = 200;

/// How long.
#[derive(Clone, Copy, Debug, Args)]
pub struct Idle {
    /// Seconds of the measurement
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

/// Measures.
pub async fn run(idle: &Idle) -> Vec<Report> {
    let suite = Suite::builder().start().await;
    sleep(SETTLE).await;
    let mut report = Report::new(format!("idle for {} s", idle.seconds), &["CPU % of a core", "RSS MiB", "PSS MiB"]);
    let mut pids = suite.pids().await;
    pids.insert("supervisor".into(), suite.supervisor_pid());
    let before: Vec<_> = pids.values().map(|pid| precise_cpu(*pid)).collect();
    let begun = Instant::now();
    sleep(Duration::from_secs(idle.seconds)).await;
    for ((name, pid), before) in pids.iter().zip(before) {
        let share = precise_cpu(*pid).saturating_sub(before).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
        report.row(name, &[share, rss_mib(*pid), pss_mib(*pid)]);
    }
    vec![report, status(&suite).await]
}

/// On a connection of its own each time, as the command asks.
async fn status(suite: &Suite) -> Report {
    let mut times = Vec::new();
    for _ in 0..STATUSES {
        let begun = Instant::now();
        suite.status().await;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    let worst = times.iter().copied().fold(0.0, f64::max);
    let mut report = Report::new(format!("status, {STATUSES} times, in ms"), &["median", "worst"]);
    report.row("supervisor", &[median(times), worst]);
    report
}
