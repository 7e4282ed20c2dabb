//! Components that stop making progress under constant traffic, until another serves in their place.

use std::time::Instant;

use clap::Args;
use nix::sys::signal::Signal;

use crate::{
    crashes::unexcused,
    report::Report,
    traffic::{Times, Traffic, World, noticed, tails},
};

/// Of each component in turn.
#[derive(Clone, Debug, Args)]
pub struct Hangs {
    /// SIGSTOPs of each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Which, in this order
    #[arg(long, value_delimiter = ',', default_value = "edge,pusher/0,auditor,admin")]
    components: Vec<String>,
    #[command(flatten)]
    traffic: Traffic,
}

/// Stops each component so often. A stream straight to a stopped pusher may wait for its answer longer than its client does.
pub async fn run(hangs: &Hangs) -> Vec<Report> {
    let world = World::start(hangs.traffic.sizes(), |suite| suite).await;
    let World { suite, load, .. } = &world;
    let (mut times, mut stops) = (Times::default(), Vec::new());
    for _ in 0..hangs.rounds {
        for name in &hangs.components {
            let phase = format!("hung {name}");
            load.mark(&phase);
            let begun = Instant::now();
            let pid = suite.send(name, Signal::SIGSTOP).await;
            stops.push(begun..=Instant::now());
            suite.replaced(name, pid).await;
            times.add(&phase, begun.elapsed());
            load.streams_are_back().await;
            suite.ready().await;
            world.calm().await;
        }
    }
    let (suite, seen, _backends) = world.stop().await;
    let title = format!("{} stops of each, and until another is ready in its place: {}", hangs.rounds, hangs.traffic.title());
    let mut report = noticed(title, &seen, &times, ["median ms", "worst ms"]);
    report.errors = unexcused(&seen, &stops);
    seen.assert_audited(&suite).await;
    vec![report, tails(&seen)]
}
