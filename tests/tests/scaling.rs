//! More and fewer pushers under constant traffic: no stream ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use gatehouse_tests::{
    Load, Suite,
    load::{Backends, Sizes},
    suite::control::scale,
    wait,
};

/// Every stream through the edge: one straight to a pusher that is removed cannot but move.
const SIZES: Sizes = Sizes { streams: 100, direct: 0, ..Sizes::SMALL };

async fn pushers(suite: &Suite) -> Vec<String> {
    suite.pids().await.into_keys().filter(|name| name.starts_with("pusher/")).collect()
}

#[tokio::test]
async fn no_stream_ends_when_pushers_are_added_and_removed() {
    let backends = Backends::start();
    let suite = backends.behind(Suite::builder()).set("suite", "pushers", 1).start().await;
    let load = Load::start(&suite, SIZES).await;
    for count in [4, 2, 3, 1] {
        load.go_on(30).await;
        let before = suite.pids().await;
        load.mark(&format!("scale to {count}"));
        suite.changed(scale(count)).await;
        load.go_on(30).await;
        load.calm();
        assert_eq!(pushers(&suite).await.len(), usize::try_from(count).unwrap());
        let after = suite.pids().await;
        for (name, pid) in &after {
            assert!(before.get(name).is_none_or(|before| before == pid), "{name} was left alone: {before:?} {after:?}");
        }
    }
    let report = load.stop().await;
    println!("{report}");
    report.assert_untouched();
    report.assert_audited(&suite).await;
}

#[tokio::test]
async fn added_pushers_get_streams_and_the_number_survives_the_supervisor() {
    let backends = Backends::start();
    let suite = backends.behind(Suite::builder()).set("suite", "pushers", 1).start().await;
    suite.changed(scale(3)).await;
    // Opened now, they are spread by their users.
    let load = Load::start(&suite, SIZES).await;
    wait::eventually("every pusher has streams", async || {
        let metrics = suite.metrics().await;
        let has = |instance: &str| metrics.sum("push_streams", &[("pusher", instance)]) > 0.0;
        ["0", "1", "2"].into_iter().all(has).then_some(())
    })
    .await;
    suite.signal(nix::sys::signal::Signal::SIGKILL);
    suite.wait_exit(std::time::Duration::from_secs(5)).await;
    let suite = suite.start_again().await;
    assert_eq!(pushers(&suite).await, ["pusher/0", "pusher/1", "pusher/2"]);
    load.go_on(30).await;
    load.stop().await.assert_untouched();
}
