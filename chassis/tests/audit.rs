//! The recorder against a real Redis: nothing that was acknowledged is lost, whatever dies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation, reason = "a test fails by panicking")]

use std::{path::Path, time::Duration};

use gatehouse_chassis::{
    Process, audit,
    config::{Config as _, Reader, Shared, Source},
    redis::Redis,
    sockets::Inherited,
};
use gatehouse_proto::{
    ids::StreamId,
    internal::v1::{AuditBatch, AuditRecord},
};
use gatehouse_testkit::RedisServer;
use prost::Message as _;

#[path = "audit/away.rs"]
mod away;
#[path = "audit/full_disk.rs"]
mod full_disk;

const LAST: StreamId = StreamId { ms: u64::MAX, seq: u64::MAX };

fn process(server: &RedisServer, state: &Path, spool_bytes: u64) -> Process {
    // Redis has longer than a busy machine stands still: who is away, is away by being dead or stopped.
    let redis = "[redis]\ncommand_timeout = \"3s\"\nconnect_timeout = \"3s\"\n";
    let text = format!("{redis}[spool]\nmax_bytes = {spool_bytes}\n[suite]\nstate_dir = '{}'\n", state.display());
    let addr = server.addr();
    let env = [("GATEWAY_REDIS_MASTER_ADDR", addr.as_str()), ("GATEWAY_REDIS_PASSWORD", server.password())];
    let mut reader = Reader::new(Source::of(&text, &env));
    Process::new("test", 0, Shared::read(&mut reader).unwrap(), Inherited::default())
}

/// The actions in the stream, in order.
async fn recorded(redis: &Redis) -> Vec<String> {
    records(redis).await.into_iter().map(|record| record.action).collect()
}

/// The records in the stream, in order. Batches of none are the writer's questions whether Redis takes any.
async fn records(redis: &Redis) -> Vec<AuditRecord> {
    // The first command after a restart of Redis finds the old connection broken.
    let read = async || redis.range(&redis.key(audit::STREAM), StreamId::ZERO, LAST, 100_000).await.ok();
    let entries = until("Redis answers", read).await;
    let batches = entries.iter().map(|entry| AuditBatch::decode(entry.fields[0].1.clone()).unwrap());
    batches.flat_map(|batch| batch.records).collect()
}

/// The same, once there are so many.
async fn until_recorded(redis: &Redis, count: usize) -> Vec<String> {
    until("the records are in the stream", async || Some(recorded(redis).await).filter(|actions| actions.len() >= count)).await
}

/// Asks until there is something.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), asked).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// A sample's value.
fn sample(process: &Process, name: &str) -> i64 {
    let text = process.metrics().text();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as i64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_in_the_stream_when_write_returns_and_many_share_an_entry() {
    let (server, state) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let process = process(&server, state.path(), 1 << 20);
    let redis = Redis::connect(&process.shared().redis).await.unwrap();
    let recorder = audit::Recorder::open(&process, redis.clone()).unwrap();
    recorder.write(audit::record("command", "one", "success")).await.unwrap();
    assert_eq!(recorded(&redis).await, ["one"]);
    let many = (0..500).map(|i| recorder.write(audit::record("command", &format!("n{i}"), "success")));
    let written = futures_util::future::join_all(many).await;
    assert!(written.iter().all(Result::is_ok));
    assert_eq!(recorded(&redis).await.len(), 501);
    let entries = redis.stream_info(&redis.key(audit::STREAM)).await.unwrap().length;
    assert!(entries < 100, "group commit: {entries} entries for 501 records");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_written_while_redis_is_away_follow_in_order_when_it_is_back() {
    let (mut server, state) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let process = process(&server, state.path(), 1 << 20);
    let redis = Redis::connect(&process.shared().redis).await.unwrap();
    let recorder = audit::Recorder::open(&process, redis.clone()).unwrap();
    recorder.write(audit::record("command", "before", "success")).await.unwrap();
    server.kill9();
    for action in ["away-1", "away-2"] {
        recorder.write(audit::record("command", action, "success")).await.unwrap();
    }
    server.restart();
    recorder.write(audit::record("command", "after", "success")).await.unwrap();
    assert_eq!(until_recorded(&redis, 4).await, ["before", "away-1", "away-2", "after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_with_a_full_spool_replays_it_at_its_next_start() {
    let (mut server, state) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let first = process(&server, state.path(), 1 << 20);
    let redis = Redis::connect(&first.shared().redis).await.unwrap();
    let recorder = audit::Recorder::open(&first, redis).unwrap();
    server.kill9();
    recorder.write(audit::record("command", "left behind", "success")).await.unwrap();
    first.shutdown().abort();
    first.shutdown().sinks_finished().await;
    drop(recorder);
    server.restart();
    let second = process(&server, state.path(), 1 << 20);
    let redis = Redis::connect(&second.shared().redis).await.unwrap();
    let _recorder = audit::Recorder::open(&second, redis.clone()).unwrap();
    assert_eq!(until_recorded(&redis, 1).await, ["left behind"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_generation_that_drains_leaves_the_next_one_hands_over_while_it_runs() {
    let (mut server, state) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let [old, new] = [(); 2].map(|()| process(&server, state.path(), 1 << 20));
    let redis = Redis::connect(&old.shared().redis).await.unwrap();
    let draining = audit::Recorder::open(&old, redis.clone()).unwrap();
    server.kill9();
    draining.write(audit::record("command", "left behind", "success")).await.unwrap();
    let _serving = audit::Recorder::open(&new, redis.clone()).unwrap();
    old.shutdown().abort();
    old.shutdown().sinks_finished().await;
    drop(draining);
    server.restart();
    assert_eq!(until_recorded(&redis, 1).await, ["left behind"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_fits_nowhere_is_refused_and_counted() {
    let (mut server, state) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let process = process(&server, state.path(), 1 << 20);
    let redis = Redis::connect(&process.shared().redis).await.unwrap();
    let recorder = audit::Recorder::open(&process, redis).unwrap();
    server.kill9();
    let record = || audit::record("command", "a", "success");
    let mut refused = false;
    for _ in 0..10_000 {
        let written = futures_util::future::join_all((0..256).map(|_| recorder.write(record()))).await;
        refused = written.contains(&Err(audit::NotRecorded));
        if refused {
            break;
        }
    }
    assert!(refused, "a spool of 1 MiB takes no end");
    assert!(sample(&process, "audit_records_total{outcome=\"lost\"") > 0);
    // What is left of it holds no group, and may hold a record.
    while recorder.write(record()).await.is_ok() {}
    assert_eq!((recorder.takes_records(), recorder.reserve().err()), (false, Some(audit::NotRecorded)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_handed_over_is_written_before_the_process_ends() {
    let (server, state) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let process = process(&server, state.path(), 1 << 20);
    let redis = Redis::connect(&process.shared().redis).await.unwrap();
    let recorder = audit::Recorder::open(&process, redis.clone()).unwrap();
    for i in 0..50 {
        recorder.try_write(audit::record("http", &format!("r{i}"), "success"));
    }
    drop(recorder);
    process.shutdown().drain();
    process.shutdown().finished().await;
    process.shutdown().sinks_finished().await;
    assert_eq!(recorded(&redis).await.len(), 50);
}

/// As in the supervisor, whose own child Redis may be: nobody answers yet, and there is one thread.
#[tokio::test]
async fn on_one_thread_and_before_redis_is_there_records_are_spooled_and_follow_when_it_is() {
    let (mut server, state) = (RedisServer::start(), tempfile::tempdir().unwrap());
    server.kill9();
    let process = process(&server, state.path(), 1 << 20);
    let recorder = audit::Recorder::open(&process, Redis::lazy(&process.shared().redis).unwrap()).unwrap();
    for action in ["early-1", "early-2"] {
        recorder.write(audit::record("control", action, "success")).await.unwrap();
    }
    let samples = process.metrics().text();
    assert!(samples.contains("audit_records_total{outcome=\"spooled\",component=\"test\",instance=\"0\"} 2"), "{samples}");
    server.restart();
    let redis = Redis::connect(&process.shared().redis).await.unwrap();
    assert_eq!(until_recorded(&redis, 2).await, ["early-1", "early-2"]);
    recorder.write(audit::record("control", "late", "success")).await.unwrap();
    assert_eq!(until_recorded(&redis, 3).await, ["early-1", "early-2", "late"]);
}
