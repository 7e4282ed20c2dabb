//! Planned restarts: nobody outside can tell.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use gatehouse_proto::internal::v1::ListAuditRequest;
use gatehouse_tests::{Suite, load::Sizes, suite::control::restart, wait};

use crate::world::World;

const RESTARTS: usize = 3;

#[tokio::test]
async fn restarts_of_every_component_in_turn_are_not_noticed() {
    let world = World::start(Sizes::SMALL, |suite| suite).await;
    let World { suite, load, .. } = &world;
    for _ in 0..RESTARTS {
        for name in ["edge", "pusher", "auditor", "admin"] {
            load.go_on(30).await;
            let before = suite.pids().await;
            load.mark(name);
            let verdict = suite.changed(restart(name)).await;
            load.streams_are_back().await;
            load.calm();
            assert_eq!(verdict.steps.len(), if name == "pusher" { 2 } else { 1 }, "{verdict:?}");
            for step in &verdict.steps {
                assert!(step.succeeded && step.to_generation > step.from_generation && step.from_generation > 0, "{verdict:?}");
            }
            for (other, pid) in suite.pids().await {
                assert_eq!(other.starts_with(name), before[&other] != pid, "{other}: {verdict:?}");
            }
        }
    }
    let (suite, report, _backends) = world.stop().await;
    report.assert_clean();
    report.assert_audited(&suite).await;
    rows_are_printed_once(&suite).await;
    let moved = |name| report.phase(name).streams.moved;
    assert!(moved("edge") >= (Sizes::SMALL.streams * RESTARTS) as u64, "{report}");
    assert_eq!((moved("auditor"), moved("admin")), (0, 0), "{report}");
    // Streams through the edge go on by themselves.
    let pusher = report.phase("pusher").streams;
    assert!(pusher.moved >= (Sizes::SMALL.direct * RESTARTS) as u64 && pusher.moved == pusher.direct, "{report}");
}

/// Each row of the trail is a line on stdout, over all auditors.
async fn rows_are_printed_once(suite: &Suite) {
    let newest = ListAuditRequest { limit: 1, ..ListAuditRequest::default() };
    let rows = suite.admin().list_audit(newest).await.unwrap().into_inner().records[0].seq;
    let printed = || {
        let lines = suite.stdout.all().into_iter();
        let mut seqs: Vec<_> = lines.filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok()?["seq"].as_i64()).collect();
        seqs.retain(|seq| *seq <= rows);
        seqs.sort_unstable();
        seqs
    };
    wait::eventually("each row is a line", async || (printed().len() >= usize::try_from(rows).unwrap()).then_some(())).await;
    assert_eq!(printed(), (1..=rows).collect::<Vec<_>>(), "each row is a line once");
}

#[tokio::test]
async fn fifty_changes_at_once_each_get_a_verdict_and_a_record() {
    const AT_ONCE: usize = 50;
    let world = World::start(Sizes::SMALL, |suite| suite).await;
    let World { suite, load, .. } = &world;
    load.mark("fifty at once");
    let verdicts = join_all((0..AT_ONCE).map(|_| suite.change(restart("admin")))).await;
    let mut ids = BTreeSet::new();
    for verdict in verdicts {
        let verdict = verdict.expect("a verdict");
        assert!(verdict.state == "done" && !verdict.verdict.is_empty(), "{verdict:?}");
        ids.insert(verdict.change_id);
    }
    assert_eq!(ids.len(), AT_ONCE, "each is a change of its own");
    wait::eventually("every change is recorded, and its verdict", async || {
        let listed = ListAuditRequest { limit: 1000, action_type: "control".into(), ..ListAuditRequest::default() };
        let rows = suite.admin().list_audit(listed).await.ok()?.into_inner().records;
        let records = rows.into_iter().filter_map(|row| row.record?.request_id);
        (ids.iter().all(|id| records.clone().filter(|of| of == id).count() == 2)).then_some(())
    })
    .await;
    let left = suite.status().await.instances.into_iter().filter(|instance| instance.component == "admin").count();
    assert_eq!(left, 1, "one generation is left");
    world.stop().await.1.assert_clean();
}
