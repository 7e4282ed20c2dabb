//! Redis is away, or takes no writes: what is acknowledged, what is refused, and what becomes of it.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::task::JoinSet;

use super::*;

/// Actions in the order in which they first appear: what was written again is there twice, and the auditor keeps one.
fn first(actions: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    actions.into_iter().filter(|action| seen.insert(action.clone())).collect()
}

fn numbered(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("n.{n}")).collect()
}

async fn write(recorder: &audit::Recorder, actions: &[String]) {
    for action in actions {
        recorder.write(audit::record("command", action, "success")).await.unwrap();
    }
}

/// Every text as long as it may be.
fn large(action: &str) -> AuditRecord {
    let long = || Some("x".repeat(600));
    AuditRecord {
        user_id: long(),
        user_email: long(),
        device_session_id: long(),
        api_token_id: long(),
        resource: long(),
        resource_type: long(),
        rbac_decision: long(),
        http_status: Some(u32::MAX),
        grpc_code: long(),
        latency_ms: Some(i64::MAX),
        ip_address: long(),
        user_agent: long(),
        request_id: long(),
        event_count: u32::MAX,
        ..audit::record(&"x".repeat(600), action, &"x".repeat(600))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_full_or_a_replica_or_denies_us_is_as_good_as_away_until_it_takes_writes_again() {
    let off_and_on: [[&[&str]; 2]; 3] = [
        [&["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"]],
        [&["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"]],
        [&["ACL", "SETUSER", "default", "-xadd"], &["ACL", "SETUSER", "default", "+xadd"]],
    ];
    for [off, on] in off_and_on {
        let (server, state) = (RedisServer::start(), tempfile::tempdir().unwrap());
        let process = process(&server, state.path(), 1 << 20);
        let redis = Redis::connect(&process.shared().redis).await.unwrap();
        let recorder = audit::Recorder::open(&process, redis.clone()).unwrap();
        write(&recorder, &numbered(0..3)).await;
        assert_eq!(server.run(off), "+OK");
        write(&recorder, &numbered(3..6)).await;
        assert_eq!(sample(&process, "audit_records_total{outcome=\"spooled\""), 3, "{off:?}");
        assert!(sample(&process, "audit_spool_bytes") > 0);
        assert!(sample(&process, "audit_spool_oldest_timestamp_seconds") > 1_700_000_000);
        assert!(recorder.takes_records(), "the spool has room");
        assert_eq!(server.run(on), "+OK");
        assert_eq!(until_recorded(&redis, 6).await, numbered(0..6), "{off:?}");
        until("the spool is empty", async || (sample(&process, "audit_spool_bytes") == 0).then_some(())).await;
        assert_eq!(sample(&process, "audit_spool_oldest_timestamp_seconds"), 0);
        write(&recorder, &numbered(6..7)).await;
        assert_eq!(until_recorded(&redis, 7).await, numbered(0..7));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_a_place_has_its_record_kept_and_nobody_else_uses_it_up() {
    let (mut server, state) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let process = process(&server, state.path(), 1 << 20);
    let redis = Redis::connect(&process.shared().redis).await.unwrap();
    let recorder = audit::Recorder::open(&process, redis.clone()).unwrap();
    server.kill9();
    write(&recorder, &numbered(0..1)).await;
    let mut places = Vec::new();
    while let Ok(place) = recorder.reserve() {
        places.push(place);
    }
    assert!((100..=256).contains(&places.len()), "{} places in 1 MiB", places.len());
    assert!(!recorder.takes_records());
    for _ in 0..1000 {
        recorder.try_write(large("best effort"));
    }
    let written = futures_util::future::join_all(places.iter().map(|_| recorder.write(large("placed")))).await;
    assert!(written.iter().all(Result::is_ok), "{} of {}", written.iter().filter(|written| written.is_ok()).count(), written.len());
    let count = places.len();
    drop(places);
    assert!(sample(&process, "audit_records_total{outcome=\"dropped\"") > 900, "{}", process.metrics().text());
    assert_eq!(sample(&process, "audit_records_total{outcome=\"lost\""), 0);
    server.restart();
    let actions = until_recorded(&redis, count + 1).await;
    assert_eq!(actions.iter().filter(|action| *action == "placed").count(), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_that_took_nothing_takes_records_again_by_itself() {
    let (server, state) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let process = process(&server, state.path(), 1 << 20);
    let redis = Redis::connect(&process.shared().redis).await.unwrap();
    let recorder = audit::Recorder::open(&process, redis.clone()).unwrap();
    // What is no stream takes no entries.
    server.run(&["SET", "gateway:audit", "x"]);
    let mut kept = 0;
    while recorder.write(large("spooled")).await.is_ok() {
        kept += 1;
    }
    assert!(kept > 200, "{kept} records in 1 MiB");
    assert_eq!((recorder.takes_records(), sample(&process, "audit_trail_open")), (false, 0));
    assert!(recorder.reserve().is_err());
    server.run(&["DEL", "gateway:audit"]);
    // Nobody writes: it finds out by itself.
    let place = until("there are places again", async || recorder.reserve().ok()).await;
    recorder.write(audit::record("command", "next", "success")).await.unwrap();
    drop(place);
    let mut actions = until_recorded(&redis, kept + 1).await;
    assert_eq!((actions.pop().as_deref(), actions.len()), (Some("next"), kept));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_long_spool_is_replayed_and_redis_stands_still_new_records_are_acknowledged_and_stay_in_order() {
    let (mut server, state) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let process = process(&server, state.path(), 64 << 20);
    let redis = Redis::connect(&process.shared().redis).await.unwrap();
    let recorder = audit::Recorder::open(&process, redis.clone()).unwrap();
    server.kill9();
    let mut written = 0;
    while sample(&process, "audit_spool_bytes") < 8 << 20 {
        // Among each other they have no order.
        let group = (0..500).map(|_| recorder.write(large(&format!("n.{written}"))));
        assert!(futures_util::future::join_all(group).await.iter().all(Result::is_ok));
        written += 1;
    }
    server.restart();
    let pid = Pid::from_raw(server.pid().cast_signed());
    // As soon as some of it has been replayed.
    until("the replay has begun", async || (sample(&process, "audit_records_total{outcome=\"replayed\"") > 0).then_some(())).await;
    kill(pid, Signal::SIGSTOP).unwrap();
    let more = numbered(written..written + 200);
    let acknowledged = tokio::time::timeout(Duration::from_mins(1), write(&recorder, &more)).await;
    kill(pid, Signal::SIGCONT).unwrap();
    acknowledged.expect("records are acknowledged while Redis stands still");
    write(&recorder, &numbered(written + 200..written + 300)).await;
    let wanted = numbered(0..written + 300);
    until("the spool is empty", async || (sample(&process, "audit_spool_bytes") == 0).then_some(())).await;
    let records = records(&redis).await;
    let ids: HashSet<_> = records.iter().map(|record| &record.id).collect();
    assert_eq!(ids.len(), written * 500 + 300, "each is there");
    assert_eq!(first(records.into_iter().map(|record| record.action).collect()), wanted, "in order");
}

/// Writers that go on while Redis is killed and stopped, and now and then the process as well.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_with_records_in_flight_none_that_was_acknowledged_is_lost() {
    let (mut server, state) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let mut acknowledged = Vec::new();
    let number = Arc::new(AtomicUsize::new(0));
    for round in 0..6 {
        let process = process(&server, state.path(), 16 << 20);
        let redis = Redis::connect(&process.shared().redis).await.unwrap();
        let recorder = audit::Recorder::open(&process, redis).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for _ in 0..16 {
            let (recorder, stop, number) = (recorder.clone(), Arc::clone(&stop), Arc::clone(&number));
            writers.spawn(async move {
                let mut acknowledged = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let action = format!("n.{}", number.fetch_add(1, Ordering::Relaxed));
                    if recorder.write(audit::record("command", &action, "success")).await.is_ok() {
                        acknowledged.push(action);
                    }
                }
                acknowledged
            });
        }
        let written =
            || sample(&process, "audit_records_total{outcome=\"written\"") + sample(&process, "audit_records_total{outcome=\"spooled\"");
        let progress = async |by: i64| {
            let until_then = written() + by;
            until("records are written", async || (written() >= until_then).then_some(())).await;
        };
        progress(50).await;
        if round % 3 == 2 {
            let pid = Pid::from_raw(server.pid().cast_signed());
            kill(pid, Signal::SIGSTOP).unwrap();
            progress(20).await;
            kill(pid, Signal::SIGCONT).unwrap();
        } else {
            server.kill9();
            progress(20).await;
            server.restart();
        }
        progress(20).await;
        if round % 2 == 0 {
            // Sudden death: the writer is dropped wherever it stands.
            process.shutdown().abort();
        }
        stop.store(true, Ordering::Relaxed);
        drop(recorder);
        acknowledged.extend(writers.join_all().await.into_iter().flatten());
        process.shutdown().drain();
        process.shutdown().sinks_finished().await;
    }
    let process = process(&server, state.path(), 16 << 20);
    let redis = Redis::connect(&process.shared().redis).await.unwrap();
    let _recorder = audit::Recorder::open(&process, redis.clone()).unwrap();
    until("the spool is empty", async || (sample(&process, "audit_spool_bytes") == 0).then_some(())).await;
    let kept: HashSet<_> = recorded(&redis).await.into_iter().collect();
    let lost: Vec<_> = acknowledged.iter().filter(|action| !kept.contains(*action)).collect();
    assert!(lost.is_empty(), "of {} acknowledged: {lost:?}", acknowledged.len());
    assert!(acknowledged.len() > 300, "{}", acknowledged.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_recorded_at_once_and_in_groups_and_none_is_lost_when_the_process_ends() {
    let (mut server, state) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let process = process(&server, state.path(), 1 << 20);
    let redis = Redis::connect(&process.shared().redis).await.unwrap();
    let recorder = audit::Recorder::open(&process, redis.clone()).unwrap();
    let denied = audit::Denied::open(&process, recorder.clone());
    let refuse = |action: &str| denied.note("signature", audit::Who::Address(None), audit::record("command", action, "denied"));
    refuse("first");
    assert_eq!(until_recorded(&redis, 1).await, ["first"]);
    server.kill9();
    for _ in 0..1000 {
        refuse("more");
    }
    denied.note("replay", audit::Who::Session("s"), audit::record("command", "other", "denied"));
    drop((denied, recorder));
    process.shutdown().drain();
    process.shutdown().finished().await;
    process.shutdown().sinks_finished().await;
    server.restart();
    let next = super::process(&server, state.path(), 1 << 20);
    let _recorder = audit::Recorder::open(&next, redis.clone()).unwrap();
    let counted = until("all of them are recorded", async || {
        let entries = redis.range(&redis.key(audit::STREAM), StreamId::ZERO, LAST, 100).await.unwrap();
        let records = entries.iter().flat_map(|entry| AuditBatch::decode(entry.fields[0].1.clone()).unwrap().records);
        let counts: Vec<_> = records.map(|record| record.event_count).collect();
        (counts.iter().sum::<u32>() >= 1002).then_some(counts)
    });
    let counted = counted.await;
    assert_eq!(counted.iter().sum::<u32>(), 1002);
    // A machine that stands still for ten seconds makes one more of them.
    assert!((3..=5).contains(&counted.len()), "{counted:?}");
    assert_eq!(sample(&process, "audit_denied_total"), 1002);
}
