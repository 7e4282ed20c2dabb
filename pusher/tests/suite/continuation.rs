//! Streams that move from one pusher to another without their clients noticing.

use tonic::Code;

use crate::bench::{Bench, trailers};

#[tokio::test(flavor = "multi_thread")]
async fn another_pusher_goes_on_where_the_first_one_stopped_without_a_greeting() {
    let bench = Bench::start();
    let (one, two) = (bench.pusher("").await, bench.pusher("").await);
    let mut client = one.attach("a1", None).await;
    client.server_time().await;
    bench.publish("a", "1");
    assert_eq!(client.payloads(1).await, ["1"]);
    let cursor = client.cursor().unwrap();
    drop((client, one));
    bench.publish("a", "2");
    let mut client = two.try_attach("a1", cursor.to_string(), true).await.unwrap();
    assert_eq!(client.any().await.payload_bytes, "2");
    bench.publish("a", "3");
    assert_eq!(client.any().await.payload_bytes, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_ends_the_stream_so_that_its_client_resumes_and_is_told() {
    let bench = Bench::start();
    let one = bench.pusher("").await;
    let mut client = one.attach("a1", None).await;
    let (cursor, _) = client.server_time().await;
    drop((client, one));
    bench.publish("a", "trimmed");
    bench.publish("a", "kept");
    bench.redis.run(&["XTRIM", "gateway:client_events", "MAXLEN", "1"]);
    let two = bench.pusher("").await;
    let (left, status) = two.try_attach("a1", cursor.to_string(), true).await.unwrap().end().await;
    assert_eq!((left, status.code(), status.message()), (0, Code::Unavailable, "event stream must be resumed"));
    assert_eq!(trailers(&status), cursor);
    assert!(gatehouse_sessions::verdict::ends_stream(&status), "the edge passes it on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_ahead_of_its_new_pusher_gets_nothing_twice() {
    let bench = Bench::start();
    let pusher = bench.pusher("").await;
    pusher.has_read(&bench).await;
    // As if this pusher were slow: the client holds a cursor that it has not reached.
    let now = u64::try_from(gatehouse_sessions::now_ms()).unwrap();
    let ahead = gatehouse_proto::ids::StreamId { ms: now + 300, seq: 0 };
    let mut client = pusher.try_attach("a1", ahead.to_string(), true).await.unwrap();
    bench.publish("a", "has it already");
    let mut last;
    loop {
        last = bench.publish("a", "new");
        if last > ahead {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(client.any().await.event_id, last.to_string());
}
