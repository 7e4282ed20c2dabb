//! `kill -9` of each component: the connects wait, only what was inside the killed process fails, and nothing that was answered is lost.

use std::{ops::RangeInclusive, time::Instant};

use gatehouse_tests::{
    Suite,
    load::{Backends, Kind, Report, Sizes},
};
use nix::sys::signal::Signal;

use crate::world::World;

const KILLS: usize = 3;

/// The suite, its load over the kills of these, and when they happened.
async fn killed(names: &[&str]) -> (Suite, Backends, Report, Vec<RangeInclusive<Instant>>) {
    let world = World::start(Sizes::SMALL, |suite| suite.set("supervisor", "stable_after", "100ms")).await;
    let World { suite, load, .. } = &world;
    let mut kills = Vec::new();
    for _ in 0..KILLS {
        for name in names {
            load.go_on(50).await;
            load.mark(&format!("kill {name}"));
            let begun = Instant::now();
            let pid = suite.send(name, Signal::SIGKILL).await;
            kills.push(begun..=Instant::now());
            suite.replaced(name, pid).await;
            load.streams_are_back().await;
            load.go_on(50).await;
            load.calm();
        }
    }
    let (suite, report, backends) = world.stop().await;
    assert_eq!(report.sum().refused, 0, "{report}");
    report.assert_nothing_lost();
    report.assert_audited(&suite).await;
    (suite, backends, report, kills)
}

fn only_inside(report: &Report, kills: &[RangeInclusive<Instant>]) {
    let outside = report.outside(kills);
    assert!(outside.is_empty(), "{} failures outside of the killed process, the first {:?}\n{report}", outside.len(), outside[0]);
}

#[tokio::test]
async fn the_death_of_the_edge_fails_only_what_was_inside_it() {
    let (_suite, _backends, report, kills) = killed(&["edge"]).await;
    only_inside(&report, &kills);
}

#[tokio::test]
async fn the_death_of_what_no_client_speaks_to_is_not_noticed_by_clients() {
    let (_suite, _backends, report, _) = killed(&["auditor", "admin"]).await;
    let (noticed, sum) = (report.of_clients(), report.sum());
    assert!(noticed.is_empty(), "{noticed:?}\n{report}");
    assert_eq!((sum.resets, sum.streams.moved, sum.streams.cut), (0, 0, 0), "{report}");
}

#[tokio::test]
async fn the_death_of_a_pusher_ends_only_the_streams_that_went_straight_to_it() {
    let (_suite, _backends, report, kills) = killed(&["pusher/0", "pusher/1"]).await;
    only_inside(&report, &kills);
    let sum = report.sum();
    assert_eq!((sum.kind(Kind::Command).failed(), sum.kind(Kind::Http).failed(), sum.streams.cut), (0, 0, sum.streams.direct), "{report}");
}
