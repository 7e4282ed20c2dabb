//! Components that hang or keep dying.

use std::time::{Duration, Instant};

use gatehouse_proto::internal::v1::ExitsRequest;
use gatehouse_tests::{
    load::{Kind, Sizes},
    suite::control::restart,
    wait,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::world::World;

/// Within 3 s it is caught, as is shown without traffic; what follows is the start of its successor, unoptimised and on a busy machine.
const REPLACED: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_component_that_hangs_is_replaced_and_only_what_was_inside_it_fails() {
    let world = World::start(Sizes::SMALL, |suite| suite).await;
    let World { suite, load, .. } = &world;
    let mut hung = Vec::new();
    for name in ["edge", "pusher/0", "auditor", "admin"] {
        load.go_on(30).await;
        load.mark(name);
        let begun = Instant::now();
        let pid = suite.send(name, Signal::SIGSTOP).await;
        hung.push(begun..=Instant::now());
        suite.replaced(name, pid).await;
        let took = begun.elapsed();
        assert!(took < REPLACED, "{name} was replaced after {took:?}");
        // Its successor serves while it is dumped still.
        let asked = ExitsRequest { component: name.split('/').next().unwrap().into(), limit: 1, ..ExitsRequest::default() };
        let end = wait::eventually("its end is in the ledger", async || {
            suite.supervisor().exits(asked.clone()).await.ok()?.into_inner().exits.into_iter().find(|end| end.pid == pid)
        })
        .await;
        assert_eq!(end.cause, "hung", "{end:?}");
        load.streams_are_back().await;
        load.go_on(30).await;
        load.calm();
    }
    let (suite, report, _backends) = world.stop().await;
    report.assert_nothing_lost();
    report.assert_audited(&suite).await;
    assert_eq!(report.sum().refused, 0, "{report}");
    // One that asked a pusher directly may have waited for its answer.
    let outside = report.outside(&hung).into_iter().filter(|failure| failure.phase != "pusher/0" || failure.kind != Kind::Resume);
    let outside: Vec<_> = outside.collect();
    assert!(outside.is_empty(), "{} failures elsewhere, the first {:?}\n{report}", outside.len(), outside[0]);
    let of_clients = report.of_clients().into_iter().find(|failure| ["auditor", "admin"].contains(&failure.phase.as_str()));
    assert!(of_clients.is_none(), "no client waits for these: {report}");
}

#[tokio::test]
async fn a_pusher_that_keeps_dying_is_quarantined_until_an_operator_restarts_it() {
    let sizes = Sizes { direct: 0, ..Sizes::SMALL };
    let settings = [("quarantine_after", "3"), ("restart_ceiling", "200ms")];
    let world = World::start(sizes, |suite| settings.iter().fold(suite, |suite, (key, value)| suite.set("supervisor", key, value))).await;
    let World { suite, load, .. } = &world;
    load.mark("crash loop");
    let quarantined = wait::eventually("it is quarantined", async || {
        let instance = suite.instance("pusher/1").await;
        match (instance.state.as_str(), instance.pid) {
            ("quarantined", _) => return Some(instance),
            (_, Some(pid)) => {
                // Gone since the status was taken.
                let _gone = kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL);
            }
            _ => {}
        }
        None
    })
    .await;
    assert!(!quarantined.detail.is_empty() && quarantined.last_exit.contains("SIGKILL"), "the reason is told: {quarantined:?}");
    assert!(!suite.status().await.ready, "a suite with a part missing is not ready");
    // The other one serves all streams meanwhile.
    load.go_on(30).await;
    suite.changed(restart("pusher/1")).await;
    assert_eq!(suite.instance("pusher/1").await.state, "ready");
    suite.ready().await;
    load.go_on(30).await;
    world.stop().await.1.assert_untouched();
}
