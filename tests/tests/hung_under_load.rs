//! Components that hang or keep dying, under constant traffic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use gatehouse_proto::internal::v1::ExitsRequest;
use gatehouse_tests::{
    Load, Suite,
    load::{Backends, Kind, Report, Sizes},
    suite::control::restart,
    wait,
};
use nix::sys::signal::Signal;

/// Within 3 s it is caught; what follows is the start of its successor, unoptimised and on a busy machine.
const CAUGHT: Duration = Duration::from_secs(8);

/// Stops the component and waits for its replacement.
async fn hung(name: &str) -> (Report, Instant) {
    let backends = Backends::start();
    let suite = backends.behind(Suite::builder()).start().await;
    let load = Load::start(&suite, Sizes::SMALL).await;
    load.go_on(30).await;
    load.mark(&format!("hung {name}"));
    let begun = Instant::now();
    let pid = suite.send(name, Signal::SIGSTOP).await;
    suite.replaced(name, pid).await;
    let took = begun.elapsed();
    assert!(took < CAUGHT, "{name} was replaced after {took:?}");
    load.streams_are_back().await;
    load.go_on(30).await;
    let component = name.split('/').next().unwrap();
    let exits = suite.supervisor().exits(ExitsRequest { component: component.into(), ..ExitsRequest::default() }).await.unwrap();
    let newest = exits.into_inner().exits.into_iter().next().expect("its end is in the ledger");
    assert_eq!((newest.cause.as_str(), newest.pid), ("hung", pid), "{newest:?}");
    let report = load.stop().await;
    println!("{report}");
    report.assert_nothing_lost();
    assert_eq!(report.sum().refused, 0, "{report}");
    report.assert_audited(&suite).await;
    (report, begun)
}

#[tokio::test]
async fn an_edge_that_hangs_is_replaced_and_only_what_was_inside_it_fails() {
    let (report, begun) = hung("edge").await;
    let outside = report.outside(&[begun]);
    assert!(outside.is_empty(), "{} failures elsewhere, the first {:?}\n{report}", outside.len(), outside[0]);
}

#[tokio::test]
async fn a_pusher_that_hangs_is_replaced_and_its_streams_go_on() {
    let (report, _) = hung("pusher/0").await;
    // A stream straight to it may have waited for its answer.
    let noticed: Vec<_> = report.of_clients().into_iter().filter(|failure| failure.kind != Kind::Resume).collect();
    assert!(noticed.is_empty(), "{report}");
}

#[tokio::test]
async fn an_auditor_that_hangs_is_replaced_and_no_client_waits_for_it() {
    let (report, _) = hung("auditor").await;
    assert!(report.of_clients().is_empty(), "{report}");
}

#[tokio::test]
async fn an_admin_that_hangs_is_replaced_and_no_client_waits_for_it() {
    let (report, _) = hung("admin").await;
    assert!(report.of_clients().is_empty(), "{report}");
}

#[tokio::test]
async fn a_pusher_that_keeps_dying_is_quarantined_until_an_operator_restarts_it() {
    let backends = Backends::start();
    let suite = backends.behind(Suite::builder()).set("supervisor", "quarantine_after", 3).set("supervisor", "restart_ceiling", "200ms");
    let suite = suite.start().await;
    let load = Load::start(&suite, Sizes { direct: 0, ..Sizes::SMALL }).await;
    load.mark("crash loop");
    let quarantined = wait::eventually("it is quarantined", async || {
        let instance = suite.instance("pusher/1").await;
        match (instance.state.as_str(), instance.pid) {
            ("quarantined", _) => return Some(instance),
            (_, Some(pid)) => {
                // Gone since the status was taken.
                let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL);
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
    let report = load.stop().await;
    println!("{report}");
    report.assert_untouched();
}
