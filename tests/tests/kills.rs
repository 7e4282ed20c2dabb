//! `kill -9` of each component under constant traffic: the connects wait, only what was inside the killed process fails, and nothing that was answered is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Instant;

use gatehouse_tests::{
    Load, Suite,
    load::{Backends, Kind, Report, Sizes},
};
use nix::sys::signal::Signal;

const KILLS: usize = 3;

/// The suite, its load over the kills of these, and when they happened.
async fn killed(names: &[&str]) -> (Suite, Backends, Report, Vec<Instant>) {
    let backends = Backends::start();
    let suite = backends.behind(Suite::builder()).set("supervisor", "stable_after", "100ms").start().await;
    let load = Load::start(&suite, Sizes::SMALL).await;
    let mut kills = Vec::new();
    for _ in 0..KILLS {
        for name in names {
            load.go_on(50).await;
            load.mark(&format!("kill {name}"));
            kills.push(Instant::now());
            let pid = suite.send(name, Signal::SIGKILL).await;
            suite.replaced(name, pid).await;
            load.streams_are_back().await;
            load.go_on(50).await;
            load.calm();
        }
    }
    let report = load.stop().await;
    println!("{report}");
    (suite, backends, report, kills)
}

#[tokio::test]
async fn the_death_of_the_edge_fails_only_what_was_inside_it() {
    let (suite, _backends, report, kills) = killed(&["edge"]).await;
    let outside = report.outside(&kills);
    assert!(outside.is_empty(), "{} failures outside of the killed process, the first {:?}\n{report}", outside.len(), outside[0]);
    assert_eq!(report.sum().refused, 0, "{report}");
    report.assert_nothing_lost();
    report.assert_audited(&suite).await;
}

#[tokio::test]
async fn the_death_of_what_no_client_speaks_to_is_not_noticed_by_clients() {
    let (suite, _backends, report, _) = killed(&["auditor", "admin"]).await;
    let noticed = report.of_clients();
    assert!(noticed.is_empty(), "{noticed:?}\n{report}");
    let sum = report.sum();
    assert_eq!((sum.refused, sum.resets, sum.streams.moved, sum.streams.cut), (0, 0, 0, 0), "{report}");
    report.assert_nothing_lost();
    report.assert_audited(&suite).await;
}

#[tokio::test]
async fn the_death_of_a_pusher_loses_no_event_and_ends_only_its_own_streams() {
    let (suite, _backends, report, kills) = killed(&["pusher/0", "pusher/1"]).await;
    let outside = report.outside(&kills);
    assert!(outside.is_empty(), "{} failures outside of the killed process, the first {:?}\n{report}", outside.len(), outside[0]);
    let sum = report.sum();
    assert_eq!((sum.refused, sum.kind(Kind::Command).failed(), sum.kind(Kind::Http).failed()), (0, 0, 0), "{report}");
    report.assert_nothing_lost();
    report.assert_audited(&suite).await;
}
