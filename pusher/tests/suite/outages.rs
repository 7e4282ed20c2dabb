//! Redis goes, and comes back: as it was, emptied, or not for a while.

use gatehouse_proto::gateway::v1::server_time::Resume;
use tonic::Code;

use crate::bench::{Bench, trailers, within};

/// The session cache is trusted for as long as a test may take.
const TRUSTING: &str = "[sessions]\nmax_staleness = '10m'\n";

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_outlive_a_killed_redis_and_miss_nothing() {
    let mut bench = Bench::start();
    let pusher = bench.pusher("").await;
    let mut client = pusher.attach("a1", None).await;
    client.server_time().await;
    for round in 0..3 {
        bench.publish("a", format!("{round} before"));
        bench.redis.kill9();
        bench.redis.restart();
        bench.publish("a", format!("{round} after"));
        assert_eq!(client.payloads(2).await, [format!("{round} before"), format!("{round} after")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_empty_is_another_redis() {
    let mut bench = Bench::start();
    let pusher = bench.pusher("").await;
    let mut client = pusher.attach("a1", None).await;
    client.server_time().await;
    bench.publish("a", "before");
    assert_eq!(client.payloads(1).await, ["before"]);
    let cursor = client.cursor().unwrap();
    bench.redis.kill9();
    std::fs::remove_dir_all(bench.redis.socket().parent().unwrap().join("appendonlydir")).unwrap();
    bench.redis.restart();
    bench.write_sessions();
    bench.publish("a", "after");
    assert_eq!(client.payloads(1).await, ["after"], "an open stream goes on");
    let mut resumed = pusher.attach("a1", Some(cursor)).await;
    assert_eq!(resumed.server_time().await.1, Resume::Gap);
    let mut still_good = pusher.attach("a1", client.cursor()).await;
    assert_eq!(still_good.server_time().await, (client.cursor().unwrap(), Resume::Complete));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_memory_answers_what_it_can() {
    let mut bench = Bench::start();
    let unknown = bench.publish("a", "long before this pusher's time");
    for _ in 0..8 {
        bench.publish("a", "what memory cannot hold".repeat(5_000));
    }
    let pusher = bench.pusher(&format!("{TRUSTING}[push]\nlog_bytes = 1048576\n")).await;
    let begin = {
        let mut client = pusher.attach("a1", None).await;
        client.server_time().await.0
    };
    bench.publish("a", "remembered");
    pusher.has_read(&bench).await;
    bench.redis.kill9();
    let mut resumed = pusher.attach("a1", Some(begin)).await;
    assert_eq!(resumed.server_time().await, (begin, Resume::Complete));
    assert_eq!(resumed.payloads(1).await, ["remembered"]);
    let status = pusher.try_attach("a1", unknown.to_string(), false).await.err().unwrap();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "session store is unavailable"));
    assert_eq!(trailers(&status), unknown);
    bench.redis.restart();
    bench.publish("a", "back");
    assert_eq!(resumed.payloads(1).await, ["back"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_waits_for_a_redis_that_is_away() {
    let mut bench = Bench::start();
    let begin = {
        let first = bench.pusher("").await;
        let mut client = first.attach("a1", None).await;
        client.server_time().await.0
    };
    let total = 400;
    for n in 0..total {
        bench.publish("a", format!("{n} {}", "x".repeat(20_000)));
    }
    let pusher = bench.pusher(TRUSTING).await;
    let mut client = pusher.attach("a1", Some(begin)).await;
    assert_eq!(client.server_time().await, (begin, Resume::Complete));
    let mut got = client.payloads(1).await;
    bench.redis.kill9();
    let rest = async {
        let rest = client.payloads(total - 1).await;
        got.extend(rest);
    };
    let restart = async { tokio::task::block_in_place(|| bench.redis.restart()) };
    within("the replay ends", async { tokio::join!(rest, restart) }).await;
    let numbers: Vec<usize> = got.iter().map(|payload| payload.split(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (0..total).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_trimmed_before_it_was_read_is_a_gap_and_no_silence() {
    let bench = Bench::start();
    let pusher = bench.pusher("").await;
    let mut client = pusher.attach("a1", None).await;
    client.server_time().await;
    bench.publish("a", "seen");
    assert_eq!(client.payloads(1).await, ["seen"]);
    let at_once = "redis.call('XADD', KEYS[1], '*', 'user_id', 'a', 'event_type', 't') return redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)";
    bench.redis.run(&["EVAL", at_once, "1", "gateway:client_events"]);
    let (left, status) = client.end().await;
    assert_eq!((left, status.code(), status.message()), (0, Code::Unavailable, "event stream must be resumed"));
    let cursor = trailers(&status);
    assert_eq!(Some(cursor), client.cursor());
    let mut client = pusher.attach("a1", Some(cursor)).await;
    let (begin, resume) = client.server_time().await;
    assert_eq!((begin > cursor, resume), (true, Resume::Gap));
    bench.publish("a", "after");
    assert_eq!(client.payloads(1).await, ["after"]);
}
