//! Minutes of commands at saturation: memory that grows would show.

use std::time::Duration;

use clap::Args;

use crate::{
    commands::{self, Callers},
    measure::rss_mib,
    report::Report,
};

/// How long.
#[derive(Clone, Copy, Debug, Args)]
pub struct Soak {
    /// Minutes, after one to warm up
    #[arg(long, default_value_t = 5)]
    minutes: usize,
    /// Connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
}

/// Measures.
pub async fn run(soak: &Soak) -> Report {
    let (suite, _downstream) = commands::start().await;
    let devices = commands::load::devices(&suite, soak.connections);
    let callers = Callers::new(&devices, || suite.channel(), 4, 128);
    let mut report = Report::new("the edge at saturation, minute by minute", &["commands/s", "RSS MiB"]);
    for minute in 0..=soak.minutes {
        let seen = callers.saturate(Duration::from_mins(1)).await;
        report.errors += seen.errors;
        let rss = rss_mib(suite.pids().await["edge"]);
        let name = if minute == 0 { "warm-up".to_owned() } else { minute.to_string() };
        report.row(name, &[seen.answered as f64 / 60.0, rss]);
    }
    report
}
