//! More and fewer pushers: no stream ends.

use gatehouse_tests::{Device, Suite, load::Sizes, suite::control::scale, wait};

use crate::world::World;

/// Every stream through the edge: one straight to a pusher that is removed cannot but move.
const SIZES: Sizes = Sizes { streams: 100, direct: 0, ..Sizes::SMALL };

/// How many streams each has.
async fn streams(suite: &Suite) -> Vec<(String, f64)> {
    let metrics = suite.metrics().await;
    let pushers = suite.pids().await.into_keys().filter(|name| name.starts_with("pusher/"));
    pushers.map(|name| (name.clone(), metrics.sum("push_streams", &[("component", "pusher"), ("instance", &name[7..])]))).collect()
}

#[tokio::test]
async fn no_stream_ends_when_pushers_are_added_and_removed() {
    let world = World::start(SIZES, |suite| suite.set("suite", "pushers", 1)).await;
    let World { suite, load, .. } = &world;
    let (mut redis, mut more) = (suite.embedded_redis(), Vec::new());
    for count in [4, 2, 3, 1] {
        load.go_on(30).await;
        let before = suite.pids().await;
        load.mark(&format!("scale to {count}"));
        suite.changed(scale(count)).await;
        load.go_on(30).await;
        load.calm();
        for (name, pid) in suite.pids().await {
            assert!(before.get(&name).is_none_or(|before| *before == pid), "{name} was left alone: {before:?}");
        }
        // Edges know of all who are there: new streams are spread over them.
        wait::eventually("each pusher has streams", async || {
            more.push(suite.subscribe(&Device::registered(&mut redis), "").await.unwrap());
            let streams = streams(suite).await;
            assert_eq!(streams.len(), usize::try_from(count).unwrap(), "{streams:?}");
            streams.iter().all(|(_, streams)| *streams > 0.0).then_some(())
        })
        .await;
    }
    wait::eventually("all are with the one that is left", async || {
        let all = f64::from(u32::try_from(SIZES.streams + more.len()).unwrap());
        (streams(suite).await == [("pusher/0".to_owned(), all)]).then_some(())
    })
    .await;
    let metrics = suite.metrics().await;
    let [moved, failed, refused] =
        ["moved", "failed", "refused"].map(|outcome| metrics.sum("relay_attaches_total", &[("outcome", outcome)]));
    assert!(moved > 0.5 && failed + refused < 0.5, "no attempt to move a stream fails: {moved} moved, {failed} failed, {refused} refused");
    drop(more);
    let (suite, report, _backends) = world.stop().await;
    report.assert_untouched();
    report.assert_audited(&suite).await;
}

#[tokio::test]
async fn the_number_of_pushers_survives_the_supervisor() {
    let World { suite, load, backends: _backends } = World::start(SIZES, |suite| suite.set("suite", "pushers", 1)).await;
    suite.changed(scale(3)).await;
    let before = suite.pids().await;
    let suite = suite.killed_and_followed().await;
    assert_eq!(suite.pids().await, before);
    assert_eq!(streams(&suite).await.len(), 3);
    load.go_on(30).await;
    load.stop().await.assert_untouched();
}
