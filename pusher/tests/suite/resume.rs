//! Cursors: everything after them, once and in order, or the truth that something is gone.

use gatehouse_proto::{gateway::v1::server_time::Resume, ids::StreamId};
use tonic::Code;

use crate::bench::{Bench, Client, Pusher};

/// A client's cursor after it has read one event on that pusher.
async fn cursor_after_one(bench: &Bench, pusher: &Pusher) -> StreamId {
    let mut client = pusher.attach("a1", None).await;
    client.server_time().await;
    bench.publish("a", "first");
    client.payloads(1).await;
    client.cursor().unwrap()
}

async fn resumed(pusher: &Pusher, cursor: StreamId) -> (Client, StreamId, Resume) {
    let mut client = pusher.attach("a1", Some(cursor)).await;
    let (begin, resume) = client.server_time().await;
    (client, begin, resume)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_follows_from_memory_then_what_is_live() {
    let bench = Bench::start();
    let pusher = bench.pusher("").await;
    let cursor = cursor_after_one(&bench, &pusher).await;
    let expected: Vec<_> = (0..300).map(|n| n.to_string()).collect();
    for n in &expected {
        bench.publish("a", n);
        bench.publish("b", "another user's");
        bench.publish_to("a", "a2", "another device's");
    }
    let (mut client, begin, resume) = resumed(&pusher, cursor).await;
    assert_eq!((begin, resume), (cursor, Resume::Complete));
    assert_eq!(client.payloads(300).await, expected);
    bench.publish("a", "live");
    assert_eq!(client.payloads(1).await, ["live"]);
    assert!(pusher.metric("push_replay_pages_total").abs() < f64::EPSILON, "memory had it all");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_memory_lacks_follows_from_redis() {
    let bench = Bench::start();
    let first = bench.pusher("").await;
    let cursor = cursor_after_one(&bench, &first).await;
    drop(first);
    let expected: Vec<_> = (0..500).map(|n| format!("{n} {}", "x".repeat(n * 10))).collect();
    for n in &expected {
        bench.publish("a", n);
        bench.publish("b", "another user's");
        bench.publish_to("a", "a2", "another device's");
    }
    // Another pusher, with room for the last of it.
    let second = bench.pusher("[push]\nlog_bytes = 1048576\n").await;
    let (mut client, begin, resume) = resumed(&second, cursor).await;
    assert_eq!((begin, resume), (cursor, Resume::Complete));
    assert_eq!(client.payloads(500).await, expected);
    bench.publish("a", "live");
    assert_eq!(client.payloads(1).await, ["live"]);
    assert!(second.metric("push_replay_pages_total") > 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_has_the_recent_past_in_memory() {
    let bench = Bench::start();
    let first = bench.pusher("").await;
    let cursor = cursor_after_one(&bench, &first).await;
    let expected: Vec<_> = (0..300).map(|n| n.to_string()).collect();
    for n in &expected {
        bench.publish("a", n);
    }
    let second = bench.pusher("").await;
    drop(first);
    bench.publish("a", "live");
    let (mut client, begin, resume) = resumed(&second, cursor).await;
    assert_eq!((begin, resume), (cursor, Resume::Complete));
    assert_eq!(client.payloads(300).await, expected);
    assert_eq!(client.payloads(1).await, ["live"]);
    assert!(second.metric("push_replay_pages_total").abs() < f64::EPSILON, "memory had it all");
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_from_redis_joins_live_without_gap_or_repeat_while_events_pour_in() {
    let bench = Bench::start();
    // A log that holds only a few of these events, so that both live and replay fall out of it.
    let pusher = bench.pusher("[push]\nlog_bytes = 1048576\n").await;
    let cursor = cursor_after_one(&bench, &pusher).await;
    let total = 1500;
    let padding = "x".repeat(2000);
    let clients = std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..total {
                bench.publish("a", format!("{n} {padding}"));
            }
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let mut clients = Vec::new();
                for wave in 0_u8..10 {
                    crate::bench::within("events pour in", async {
                        while pusher.metric("push_events_total{outcome=\"no_stream\"") + pusher.metric("push_log_entries")
                            < f64::from(wave) * 10.0
                        {
                            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                        }
                    })
                    .await;
                    let (mut client, _, resume) = resumed(&pusher, cursor).await;
                    assert_eq!(resume, Resume::Complete);
                    // Reads a part and leaves the rest until all is published.
                    let read = client.payloads(usize::from(wave) * 3).await;
                    clients.push((client, read));
                }
                clients
            })
        })
    });
    for (mut client, mut read) in clients {
        read.extend(client.payloads(total - read.len()).await);
        let numbers: Vec<usize> = read.iter().map(|payload| payload.split(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(numbers, (0..total).collect::<Vec<_>>());
    }
    assert!(pusher.metric("push_replay_pages_total") > 0.0 && pusher.metric("push_log_bytes") <= f64::from(1 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_valid_on_any_pusher() {
    let bench = Bench::start();
    let (one, two) = (bench.pusher("").await, bench.pusher("").await);
    let cursor = cursor_after_one(&bench, &one).await;
    bench.publish("a", "second");
    two.has_read(&bench).await;
    let (mut client, begin, resume) = resumed(&two, cursor).await;
    assert_eq!((begin, resume), (cursor, Resume::Complete));
    assert_eq!(client.payloads(1).await, ["second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_was_trimmed_past_is_answered_with_a_gap_and_what_is_left() {
    let bench = Bench::start();
    let first = bench.pusher("").await;
    let cursor = cursor_after_one(&bench, &first).await;
    drop(first);
    let gone = bench.publish("a", "trimmed");
    let kept = bench.publish("a", "kept");
    bench.redis.run(&["XTRIM", "gateway:client_events", "MAXLEN", "1"]);
    let second = bench.pusher("").await;
    let (mut client, begin, resume) = resumed(&second, cursor).await;
    assert_eq!(resume, Resume::Gap);
    assert!(begin >= gone && begin < kept, "{gone} {begin} {kept}");
    assert_eq!(client.payloads(1).await, ["kept"]);
    // Whoever refetched its state can resume from there.
    let (mut client, again, resume) = resumed(&second, begin).await;
    assert_eq!((again, resume), (begin, Resume::Complete));
    assert_eq!(client.payloads(1).await, ["kept"]);
    assert!(second.metric("push_replay_pages_total").abs() < f64::EPSILON, "memory begins where what is left begins");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trimmed_stream_that_memory_still_holds_has_no_gap() {
    let bench = Bench::start();
    let pusher = bench.pusher("").await;
    let cursor = cursor_after_one(&bench, &pusher).await;
    bench.publish("a", "trimmed, but remembered");
    pusher.has_read(&bench).await;
    bench.redis.run(&["XTRIM", "gateway:client_events", "MAXLEN", "0"]);
    let (mut client, _, resume) = resumed(&pusher, cursor).await;
    assert_eq!(resume, Resume::Complete);
    assert_eq!(client.payloads(1).await, ["trimmed, but remembered"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_from_before_flushall_is_answered_with_a_gap_at_once_and_later() {
    let bench = Bench::start();
    let (one, two) = (bench.pusher("").await, bench.pusher("").await);
    let cursor = cursor_after_one(&bench, &one).await;
    bench.redis.run(&["FLUSHALL"]);
    bench.write_sessions();
    let (mut client, begin, resume) = resumed(&one, cursor).await;
    assert!(resume == Resume::Gap && begin > cursor, "{resume:?} {cursor} {begin}");
    let id = bench.publish("a", "after the wipe");
    assert!(id > begin);
    assert_eq!(client.payloads(1).await, ["after the wipe"]);
    for pusher in [&one, &two] {
        pusher.has_read(&bench).await;
        let (_, _, resume) = resumed(pusher, cursor).await;
        assert_eq!(resume, Resume::Gap);
        // What was given out since is good.
        let (mut client, _, resume) = resumed(pusher, begin).await;
        assert_eq!(resume, Resume::Complete);
        assert_eq!(client.payloads(1).await, ["after the wipe"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wipe_that_new_entries_hide_is_noticed() {
    let bench = Bench::start();
    let pusher = bench.pusher("").await;
    let cursor = cursor_after_one(&bench, &pusher).await;
    bench.redis.run(&["FLUSHALL"]);
    bench.write_sessions();
    let id = bench.publish("a", "after the wipe");
    pusher.has_read(&bench).await;
    let (_, _, resume) = resumed(&pusher, cursor).await;
    assert_eq!(resume, Resume::Gap);
    // The new floor did not run away: pushers that find it changed do not raise it again and again.
    let (_, begin, resume) = resumed(&pusher, id).await;
    assert_eq!((begin, resume), (id, Resume::Complete));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_from_before_the_stream_was_deleted_is_answered_with_a_gap() {
    let bench = Bench::start();
    let pusher = bench.pusher("").await;
    let cursor = cursor_after_one(&bench, &pusher).await;
    bench.redis.run(&["DEL", "gateway:client_events"]);
    let (mut client, begin, resume) = resumed(&pusher, cursor).await;
    assert!(resume == Resume::Gap && begin > cursor);
    bench.publish("a", "after");
    assert_eq!(client.payloads(1).await, ["after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_that_were_never_given_out_are_refused() {
    let bench = Bench::start();
    let pusher = bench.pusher("").await;
    let ahead = StreamId { ms: u64::try_from(gatehouse_sessions::now_ms()).unwrap() + 3_600_000, seq: 0 };
    for cursor in [ahead.to_string(), "yesterday".into(), "1".into(), "01-1".into(), format!("{}-0", u64::MAX)] {
        let status = pusher.try_attach("a1", cursor, false).await.err().unwrap();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "last_event_id is not a cursor of this gateway"));
    }
    let (_, begin, resume) = resumed(&pusher, StreamId { ms: 5, seq: 5 }).await;
    assert!(resume == Resume::Gap && begin > StreamId { ms: 5, seq: 5 }, "from before this Redis");
    pusher.until("push_streams{", 0.0).await;
}
