//! Planned restarts under constant traffic: nobody outside can tell.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Output;

use futures_util::future::join_all;
use gatehouse_proto::internal::v1::ChangeStatus;
use gatehouse_tests::{
    Load, Suite, Trail, audit,
    load::{Backends, Sizes},
    suite::control::restart,
    wait,
};

const RESTARTS: usize = 3;

async fn start() -> (Suite, Backends) {
    let backends = Backends::start();
    let suite = backends.behind(Suite::builder()).start().await;
    (suite, backends)
}

/// Every step replaced one generation by a later one.
fn check_steps(verdict: &ChangeStatus, steps: usize) {
    assert_eq!(verdict.steps.len(), steps, "{verdict:?}");
    for step in &verdict.steps {
        assert!(step.succeeded && step.to_generation > step.from_generation && step.from_generation > 0, "{verdict:?}");
    }
}

#[tokio::test]
async fn restarts_of_every_component_in_turn_are_not_noticed() {
    let (suite, _backends) = start().await;
    let load = Load::start(&suite, Sizes::SMALL).await;
    for _ in 0..RESTARTS {
        for name in ["edge", "pusher/0", "pusher/1", "auditor", "admin"] {
            load.go_on(30).await;
            let before = suite.instance(name).await;
            load.mark(&format!("restart {name}"));
            check_steps(&suite.changed(restart(name)).await, 1);
            load.streams_are_back().await;
            load.calm();
            let after = suite.instance(name).await;
            assert!(after.generation > before.generation && after.pid != before.pid && after.state == "ready", "{before:?} {after:?}");
        }
    }
    let report = load.stop().await;
    println!("{report}");
    report.assert_clean();
    report.assert_audited(&suite).await;
}

#[tokio::test]
async fn the_command_restarts_all_instances_one_after_the_other_and_says_what_came_of_it() {
    let (suite, _backends) = start().await;
    let load = Load::start(&suite, Sizes::SMALL).await;
    let before = suite.pids().await;
    let restarting = suite.gatehouse(&["restart", "pusher", "--reason", "a new key", "--json"]).output();
    let Output { status, stdout, stderr } = wait::bounded("the verdict", restarting).await.unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("a new key") && stdout.contains("done"), "{stdout}");
    let after = suite.pids().await;
    for (name, pid) in &before {
        assert_eq!(name.starts_with("pusher/"), after[name] != *pid, "{name}: {before:?} {after:?}");
    }
    load.go_on(30).await;
    load.stop().await.assert_clean();
    let refused = wait::bounded("the refusal", suite.gatehouse(&["restart", "nobody"]).output()).await.unwrap();
    assert!([Some(1), Some(2)].contains(&refused.status.code()), "{refused:?}");
}

#[tokio::test]
async fn fifty_restarts_of_one_component_at_once_each_get_a_verdict_and_a_record() {
    const AT_ONCE: usize = 50;
    let (suite, _backends) = start().await;
    let load = Load::start(&suite, Sizes::SMALL).await;
    let verdicts = join_all((0..AT_ONCE).map(|_| suite.change(restart("admin")))).await;
    let mut ids = std::collections::BTreeSet::new();
    for verdict in verdicts {
        let verdict = verdict.expect("a verdict");
        assert!(verdict.state == "done" && !verdict.verdict.is_empty(), "{verdict:?}");
        ids.insert(verdict.change_id);
    }
    assert_eq!(ids.len(), AT_ONCE, "each is a change of its own");
    suite.ready().await;
    load.stop().await.assert_clean();
    wait::eventually("every change is recorded", async || {
        let trail = Trail::read(&suite).await;
        let records = trail.0.iter().map(audit::record);
        let restarts = records.filter(|record| record.action_type == "control" && record.action == "component.restart");
        (restarts.count() >= AT_ONCE).then_some(())
    })
    .await;
    let drain: Vec<_> = suite.status().await.instances.into_iter().filter(|instance| instance.component == "admin").collect();
    assert_eq!(drain.len(), 1, "one generation is left: {drain:?}");
}
