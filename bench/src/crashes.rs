//! `kill -9` of everything under constant traffic: of each component, and of the supervisor itself.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Instant};

use clap::Args;
use gatehouse_tests::load::Report as Seen;

use crate::{
    floor::Floor,
    recovery,
    report::Report,
    restarts,
    traffic::{Times, Traffic, World, noticed, tails},
};

/// Of each component in turn.
#[derive(Clone, Debug, Args)]
pub struct Crashes {
    /// Kills of each
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// Which, in this order; `floor` is a minimal server that this program starts itself
    #[arg(long, value_delimiter = ',', default_value = "floor,edge,pusher/0,pusher/1,auditor,admin")]
    components: Vec<String>,
    #[command(flatten)]
    traffic: Traffic,
}

/// Of the supervisor.
#[derive(Clone, Copy, Debug, Args)]
pub struct Deaths {
    /// Kills
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    #[command(flatten)]
    traffic: Traffic,
}

/// Kills each component so often.
pub async fn run(crashes: &Crashes) -> Vec<Report> {
    let world = World::start(crashes.traffic.sizes(), |suite| suite.set("supervisor", "quarantine_after", 1000)).await;
    let World { suite, load, .. } = &world;
    let devices = recovery::devices(suite);
    let (mut floor, mut times, mut kills) = (Floor::start().await, Times::default(), Vec::new());
    for _ in 0..crashes.rounds {
        for name in &crashes.components {
            let phase = format!("kill {name}");
            if name == "floor" {
                load.mark(&phase);
                times.add(&phase, floor.kill().await);
            } else {
                let streams = recovery::streams(suite, &devices).await;
                load.mark(&phase);
                let (begun, took) = recovery::one(suite, name, &devices, streams).await;
                kills.push(begun);
                times.add(&phase, took);
                load.streams_are_back().await;
                suite.ready().await;
            }
            world.calm().await;
        }
    }
    let (suite, seen, _backends) = world.stop().await;
    let title = format!("{} kills of each, and until the next request is served: {}", crashes.rounds, crashes.traffic.title());
    let mut report = noticed(title, &seen, &times, ["median ms", "worst ms"]);
    report.errors = unexcused(&seen, &kills);
    seen.assert_audited(&suite).await;
    vec![report, tails(&seen)]
}

/// What failed although it was not inside a killed process. Operators' questions to a dead one wait or fail; clients' do not go there.
pub(crate) fn unexcused(seen: &Seen, kills: &[RangeInclusive<Instant>]) -> u64 {
    let outside = seen.outside(kills);
    for failure in outside.iter().take(20) {
        eprintln!("outside of the killed process: {failure:?}");
    }
    outside.len() as u64 + seen.sum().refused + u64::from(!seen.lost_nothing())
}

/// Kills the supervisor and starts the next by hand.
pub async fn run_deaths(deaths: &Deaths) -> Vec<Report> {
    let mut world = World::start(deaths.traffic.sizes(), |suite| suite).await;
    let before: BTreeMap<String, u32> = world.suite.pids().await;
    let mut times = Times::default();
    for _ in 0..deaths.rounds {
        world.load.mark("supervisor killed");
        let begun = Instant::now();
        world.suite = world.suite.killed_and_followed().await;
        times.add("supervisor killed", begun.elapsed());
        world.calm().await;
        assert_eq!(world.suite.pids().await, before, "the same processes");
    }
    let title = format!("{} kills of the supervisor: {}", deaths.rounds, deaths.traffic.title());
    restarts::judged(world, title, &times, true).await
}
