//! From an entry of the stream to an event in a client's hands.

use std::time::Duration;

use gatehouse_proto::{
    gateway::v1::{ServerTime, server_time::Resume},
    ids::StreamId,
};
use prost::Message as _;

use crate::bench::Bench;

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_entry_becomes_a_verified_event() {
    let bench = Bench::start();
    let pusher = bench.pusher("").await;
    let mut client = pusher.attach("a1", None).await;
    client.server_time().await;
    let id = bench.add(&[
        (b"payload_bytes", b"\x00\xff"),
        (b"event_type", b"orders.created"),
        (b"user_id", b"a"),
        (b"request_id", b"req-1"),
        (b"traceparent", b"00-1-2-01"),
        (b"unknown", b"\xfe"),
    ]);
    let event = client.any().await;
    assert_eq!((event.event_id, event.event_type), (id.to_string(), "orders.created".to_owned()));
    assert_eq!(event.payload_bytes[..], b"\x00\xff"[..]);
    assert_eq!((event.request_id, event.traceparent), ("req-1".to_owned(), "00-1-2-01".to_owned()));
    assert_eq!(event.timestamp_ms, i64::try_from(id.ms).unwrap());
    pusher.until("push_events_total{outcome=\"delivered\"", 1.0).await;
    assert!((pusher.metric("push_delivery_seconds_count") - 1.0).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stream_gets_what_is_for_its_user_and_its_device() {
    let bench = Bench::start();
    let pusher = bench.pusher("").await;
    let mut clients = Vec::new();
    for device in ["a1", "a1", "a2", "b1"] {
        let mut client = pusher.attach(device, None).await;
        client.server_time().await;
        clients.push(client);
    }
    pusher.until("push_streams{", 4.0).await;
    bench.publish_to("a", "a1", "for a1");
    bench.publish_to("b", "a1", "for a device of another user");
    bench.publish("c", "for a user who is not here");
    bench.publish("a", "for a");
    bench.publish("b", "for b");
    let expected: [&[&str]; 4] = [&["for a1", "for a"], &["for a1", "for a"], &["for a"], &["for b"]];
    for (client, expected) in clients.iter_mut().zip(expected) {
        assert_eq!(client.payloads(expected.len()).await, expected);
    }
    pusher.until("push_events_total{outcome=\"no_stream\"", 2.0).await;
    pusher.until("push_events_total{outcome=\"delivered\"", 6.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_event_says_where_the_stream_begins() {
    let bench = Bench::start();
    let before = bench.publish("a", "before");
    let pusher = bench.pusher("[push]\nbookmark_interval = '7s'\n").await;
    let mut client = pusher.attach("a1", None).await;
    let event = client.any().await;
    let payload = ServerTime::decode(event.payload_bytes).unwrap();
    assert_eq!((payload.resume(), payload.bookmark_interval_ms), (Resume::NotRequested, 7000));
    assert!(payload.server_time_ms.abs_diff(gatehouse_sessions::now_ms()) < 20_000);
    assert!(client.cursor().unwrap() >= before);
    let after = bench.publish("a", "after");
    assert_eq!(client.next().await, (after, "after".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn bookmarks_move_the_cursor_of_a_silent_stream_on() {
    let bench = Bench::start();
    let pusher = bench.pusher("[push]\nbookmark_interval = '100ms'\n").await;
    let mut client = pusher.attach("a1", None).await;
    let (begin, _) = client.server_time().await;
    for _ in 0..3 {
        let event = client.any().await;
        assert_eq!(event.event_type, "gateway.bookmark");
        let payload = ServerTime::decode(event.payload_bytes).unwrap();
        assert_eq!((payload.resume(), payload.bookmark_interval_ms), (Resume::Unspecified, 100));
    }
    let bookmark = client.cursor().unwrap();
    assert!(bookmark.ms > begin.ms);
    drop(client);
    bench.publish("a", "while away");
    let mut client = pusher.attach("a1", Some(bookmark)).await;
    assert_eq!(client.server_time().await, (bookmark, Resume::Complete));
    assert_eq!(client.payloads(1).await, ["while away"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bookmark_never_passes_an_event() {
    let bench = Bench::start();
    let pusher = bench.pusher("[push]\nbookmark_interval = '100ms'\n").await;
    let mut client = pusher.attach("a1", None).await;
    client.server_time().await;
    let mut published = Vec::new();
    let (mut bookmarks, mut got) = (0, Vec::new());
    while bookmarks < 10 {
        published.push(bench.publish("a", "x"));
        // About as long as the interval, so that bookmarks and events meet; another user's events move the horizon on.
        for _ in 0..8 + published.len() % 8 {
            bench.publish("b", "x");
            while let Ok(event) = tokio::time::timeout(Duration::from_millis(10), client.any()).await {
                bookmarks += usize::from(event.event_type == "gateway.bookmark");
                got.extend((event.event_type == "t").then(|| event.event_id.parse::<StreamId>().unwrap()));
            }
        }
    }
    while got.len() < published.len() {
        got.push(client.next().await.0);
    }
    assert_eq!(got, published);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_entries_are_skipped_and_counted() {
    let bench = Bench::start();
    let pusher = bench.pusher("").await;
    let mut client = pusher.attach("a1", None).await;
    bench.add(&[(b"event_type", b"t")]);
    bench.add(&[(b"user_id", b"a")]);
    bench.add(&[(b"user_id", b"\xff\xfe"), (b"event_type", b"t")]);
    bench.add(&[(b"user_id", b"a"), (b"event_type", b"t"), (b"payload_bytes", &vec![0; (1 << 20) + 1])]);
    bench.add(&[(b"", b"")]);
    bench.publish("a", "well-formed");
    assert_eq!(client.payloads(1).await, ["well-formed"]);
    pusher.until("push_events_total{outcome=\"malformed\"", 5.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_leaves_nothing_behind() {
    let bench = Bench::start();
    let pusher = bench.pusher("").await;
    let mut client = pusher.attach("a1", None).await;
    client.server_time().await;
    pusher.until("push_streams{pusher=\"0\"", 1.0).await;
    drop(client);
    pusher.until("push_streams{pusher=\"0\"", 0.0).await;
    bench.publish("a", "for nobody");
    pusher.until("push_events_total{outcome=\"no_stream\"", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_of_another_user_s_session_is_not_opened() {
    let bench = Bench::start();
    let pusher = bench.pusher("").await;
    let status = pusher.try_attach("c9", String::new(), false).await.err().unwrap();
    assert_eq!((status.code(), status.message()), (tonic::Code::Unauthenticated, "unknown device session"));
}
