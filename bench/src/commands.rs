//! Signed commands through the edge to a downstream that echoes, beside a server that only decodes a key, verifies and signs.

pub(crate) mod load;
mod reference;

use std::path::PathBuf;

use clap::Args;
use gatehouse_tests::{Downstream, Suite};
use tokio::time::Instant;

use crate::{
    Rounds,
    measure::{cpu_of, cpu_seconds},
    report::Report,
};
pub(crate) use load::{Callers, Round};
use reference::Reference;

/// What is sent.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// Connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Commands under way on each connection
    #[arg(long, default_value_t = 1)]
    in_flight: usize,
    /// Bytes of a command's payload
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Then send this share of what the edge answered at a fixed rate, and measure from when each command should have left
    #[arg(long, value_name = "SHARE")]
    at: Option<f64>,
    /// The server to compare with [default: gatehouse-bench-reference beside this binary]
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    #[command(flatten)]
    rounds: Rounds,
}

pub(crate) async fn start() -> (Suite, Downstream) {
    let downstream = Downstream::start();
    let suite = Suite::builder().downstream("bench", &downstream, &["demo.echo"]).env("LOG_LEVEL", "warn").start().await;
    (suite, downstream)
}

/// Measures, the two by turns.
pub async fn run(load: &Load) -> Report {
    let (suite, _downstream) = start().await;
    let reference = Reference::start(load.reference.as_deref()).await;
    let devices = load::devices(&suite, load.connections);
    let edge = Callers::new(&devices, || suite.channel(), load.in_flight, load.payload);
    let bare = Callers::new(&devices, || reference.channel(), load.in_flight, load.payload);

    let columns = ["µs CPU each", "commands/s", "p50 ms", "p99 ms"];
    let title = format!("commands: {} connections × {} in flight, {} bytes", load.connections, load.in_flight, load.payload);
    let mut report = Report::new(title, &columns);
    let (mut of_edge, mut of_reference, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=load.rounds.rounds {
        let (before, begun) = (cpu_of(&suite, "edge").await, Instant::now());
        let seen = edge.saturate(load.rounds.length()).await;
        let one = figures(&seen, cpu_of(&suite, "edge").await - before, begun);
        let (before, begun) = (cpu_seconds(reference.pid()), Instant::now());
        let other = bare.saturate(load.rounds.length()).await;
        let two = figures(&other, cpu_seconds(reference.pid()) - before, begun);
        report.errors += seen.errors + other.errors;
        // The first warms up.
        if round > 0 {
            ratios.push(vec![one[0] / two[0], one[1] / two[1], f64::NAN, f64::NAN]);
            of_edge.push(one);
            of_reference.push(two);
        }
    }
    report.medians("edge", &of_edge);
    report.medians("reference", &of_reference);
    report.medians("edge / reference", &ratios);
    if let Some(share) = load.at {
        let saturated = crate::report::median(of_edge.iter().map(|round| round[1]).collect());
        let mut rounds = Vec::new();
        for _ in 0..load.rounds.rounds {
            let (before, begun) = (cpu_of(&suite, "edge").await, Instant::now());
            let seen = edge.pace(saturated * share, load.rounds.length()).await;
            report.errors += seen.errors;
            rounds.push(figures(&seen, cpu_of(&suite, "edge").await - before, begun));
        }
        report.medians(format!("edge at {share} of that"), &rounds);
    }
    report
}

fn figures(seen: &Round, cpu: f64, begun: Instant) -> Vec<f64> {
    let answered = seen.answered as f64;
    vec![cpu / answered * 1e6, answered / begun.elapsed().as_secs_f64(), seen.ms(0.5), seen.ms(0.99)]
}
