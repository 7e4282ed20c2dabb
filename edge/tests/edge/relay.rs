//! Event streams through pushers that come and go.

use std::time::Duration;

use bytes::Bytes;
use gatehouse_proto::{gateway::v1::GatewayEvent, internal::v1::AttachRequest};
use gatehouse_sessions::verdict;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use crate::{
    bench::{Bench, dir, until},
    fakes::{Pusher, event},
};

/// A pusher that takes every stream in place of the other one, whichever the user's hash prefers.
fn one_pusher(bench: &Bench) -> Pusher {
    Pusher::start(bench.dir.path(), 0)
}

async fn next(stream: &mut Streaming<GatewayEvent>) -> String {
    timeout(Duration::from_mins(1), stream.message()).await.expect("an event comes").unwrap().expect("the stream is open").event_id
}

async fn end(stream: &mut Streaming<GatewayEvent>) -> Status {
    timeout(Duration::from_mins(1), stream.message()).await.expect("the stream ends").unwrap_err()
}

fn trailer<'a>(status: &'a Status, name: &str) -> Option<&'a str> {
    status.metadata().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_pass_through_unchanged_and_the_opening_is_in_the_trail_first() {
    let bench = Bench::start("[suite]\npushers = 1").await;
    let mut pusher = one_pusher(&bench);
    let mut client = bench.client();
    let (stream, events) = tokio::join!(client.subscribe_events(bench.subscribe("r-1", "5-0")), async {
        let attach = pusher.attach().await;
        let wanted = AttachRequest { user_id: "u-1".into(), device_session_id: "ds-1".into(), cursor: "5-0".into(), continuation: false };
        assert_eq!(attach.request, wanted);
        attach.accept()
    });
    let mut stream = stream.unwrap().into_inner();
    let record = bench.record("r-1").await;
    assert_eq!((record.action_type.as_str(), record.action.as_str(), record.status.as_str()), ("push", "subscribe", "success"));
    assert_eq!((record.resource.as_deref(), record.user_id.as_deref()), (Some("pusher-0"), Some("u-1")));
    events.send(event("6-0", 3)).await.unwrap();
    let got = stream.message().await.unwrap().unwrap();
    assert_eq!((got.event_id.as_str(), &got.payload_bytes[..]), ("6-0", &[7, 7, 7][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_pusher_dies_goes_on_at_another_without_gap_or_repeat() {
    let dir = dir();
    let mut pushers = [0, 1].map(|instance| Some(Pusher::start(dir.path(), instance)));
    let bench = Bench::start_in(dir, "[suite]\npushers = 2").await;
    let mut client = bench.client();
    let (stream, (first, events)) = tokio::join!(client.subscribe_events(bench.subscribe("r-1", "")), async {
        let [a, b] = &mut pushers;
        let (at, attach) = tokio::select! {
            attach = a.as_mut().unwrap().attach() => (0, attach),
            attach = b.as_mut().unwrap().attach() => (1, attach),
        };
        (at, attach.accept())
    });
    let mut stream = stream.unwrap().into_inner();
    for id in ["1-0", "2-0"] {
        events.send(event(id, 0)).await.unwrap();
        assert_eq!(next(&mut stream).await, id);
    }
    pushers[first] = None;
    let attach = {
        let other = pushers[1 - first].as_mut().unwrap();
        let attaching = other.attach();
        let client = stream.message();
        tokio::pin!(client);
        tokio::select! {
            attach = attaching => attach,
            event = &mut client => panic!("{event:?}"),
        }
    };
    assert_eq!((attach.request.cursor.as_str(), attach.request.continuation), ("2-0", true));
    let events = attach.accept();
    events.send(event("2-0", 0)).await.unwrap();
    events.send(event("3-0", 0)).await.unwrap();
    assert_eq!(next(&mut stream).await, "3-0", "the second 2-0 is not passed on");

    // And once more, by a pusher that drains alone: the other one is back by now.
    pushers[first] = Some(Pusher::start(bench.dir.path(), u32::try_from(first).unwrap()));
    events.send(Err(verdict::with_cursor(verdict::shutting_down(), "3-0".parse().unwrap(), Duration::from_secs(1)))).await.unwrap();
    let attach = {
        let back = pushers[first].as_mut().unwrap();
        let client = stream.message();
        tokio::pin!(client);
        tokio::select! {
            attach = back.attach() => attach,
            event = &mut client => panic!("{event:?}"),
        }
    };
    assert_eq!((attach.request.cursor.as_str(), attach.request.continuation), ("3-0", true));
    attach.accept().send(event("4-0", 0)).await.unwrap();
    assert_eq!(next(&mut stream).await, "4-0");
    assert_eq!(bench.metric("relay_attaches_total", &[("outcome", "moved")]), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pusher_lost_before_its_first_event_is_replaced_by_one_that_greets() {
    let bench = Bench::start("[suite]\npushers = 1").await;
    let mut pusher = one_pusher(&bench);
    let mut client = bench.client();
    let (stream, ()) = tokio::join!(client.subscribe_events(bench.subscribe("r-1", "9-0")), async {
        drop(pusher.attach().await.accept());
    });
    let mut stream = stream.unwrap().into_inner();
    let (id, ()) = tokio::join!(next(&mut stream), async {
        let attach = pusher.attach().await;
        assert_eq!((attach.request.cursor.as_str(), attach.request.continuation), ("9-0", false));
        let events = attach.accept();
        events.send(event("9-0", 0)).await.unwrap();
    });
    assert_eq!(id, "9-0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushers_verdict_ends_the_stream_with_its_trailers() {
    let cursor = "1-0".parse().unwrap();
    for verdict in [verdict::revoked(), verdict::stream_overflowed(), verdict::must_resume()] {
        let bench = Bench::start("[suite]\npushers = 1").await;
        let mut pusher = one_pusher(&bench);
        let mut client = bench.client();
        let request = bench.subscribe("r-1", "");
        let (stream, events) = tokio::join!(client.subscribe_events(request), async { pusher.attach().await.accept() });
        let mut stream = stream.unwrap().into_inner();
        events.send(event("1-0", 0)).await.unwrap();
        assert_eq!(next(&mut stream).await, "1-0");
        events.send(Err(verdict::with_cursor(verdict.clone(), cursor, Duration::from_millis(1234)))).await.unwrap();
        let status = end(&mut stream).await;
        assert_eq!((status.code(), status.message()), (verdict.code(), verdict.message()));
        assert_eq!((trailer(&status, "gateway-cursor"), trailer(&status, "gateway-retry-after-ms")), (Some("1-0"), Some("1234")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pusher_has_against_a_stream_is_told_at_its_opening() {
    let bench = Bench::start("[suite]\npushers = 1").await;
    let mut pusher = one_pusher(&bench);
    let mut client = bench.client();
    let (stream, ()) = tokio::join!(client.subscribe_events(bench.subscribe("r-1", "")), async {
        pusher.attach().await.refuse(verdict::revoked());
    });
    let status = stream.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "device session is revoked"));
    let record = bench.record_soon("r-1").await;
    assert_eq!((record.status.as_str(), record.grpc_code.as_deref()), ("denied", Some("FAILED_PRECONDITION")));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_pusher_push_is_unavailable_and_says_when_to_come_back() {
    let bench = Bench::start("").await;
    let status = bench.client().subscribe_events(bench.subscribe("r-1", "3-0")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "push is unavailable"));
    assert_eq!(trailer(&status, "gateway-cursor"), Some("3-0"));
    assert!(trailer(&status, "gateway-retry-after-ms").is_some());
    assert_eq!(bench.record_soon("r-1").await.status, "error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_subscribe_is_refused_and_recorded() {
    let bench = Bench::start("").await;
    let request = bench.subscribe("r-1", "");
    for _ in 0..2 {
        let _refused = bench.client().subscribe_events(request.clone()).await.unwrap_err();
    }
    let last = until("the refusal is in the stream", async || {
        bench.records().await.into_iter().find(|record| record.resource.as_deref() == Some("replay"))
    })
    .await;
    assert_eq!((last.status.as_str(), last.grpc_code.as_deref()), ("denied", Some("FAILED_PRECONDITION")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_edge_ends_its_streams_at_once_with_where_to_resume() {
    let mut bench = Bench::start("[suite]\npushers = 1").await;
    let mut pusher = one_pusher(&bench);
    let mut client = bench.client();
    let request = bench.subscribe("r-1", "");
    let (stream, events) = tokio::join!(client.subscribe_events(request), async { pusher.attach().await.accept() });
    let mut stream = stream.unwrap().into_inner();
    events.send(event("1-0", 0)).await.unwrap();
    assert_eq!(next(&mut stream).await, "1-0");
    bench.drain();
    let status = end(&mut stream).await;
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "gateway is shutting down"));
    assert_eq!(trailer(&status, "gateway-cursor"), Some("1-0"));
    let retry_after: u64 = trailer(&status, "gateway-retry-after-ms").unwrap().parse().unwrap();
    assert!((1000..3000).contains(&retry_after));
    bench.ended().await;
    assert_eq!(bench.metric("grpc_requests_total", &[("method", "SubscribeEvents"), ("code", "UNAVAILABLE")]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_up_its_pusher_and_no_other_stream() {
    const EVENT: usize = 64 << 10;
    let bench = Bench::start("[suite]\npushers = 1").await;
    let mut pusher = one_pusher(&bench);
    let open = async |pusher: &mut Pusher, id: &str| {
        let mut client = bench.client();
        let (stream, events) = tokio::join!(client.subscribe_events(bench.subscribe(id, "")), async { pusher.attach().await.accept() });
        (stream.unwrap().into_inner(), events)
    };
    // As many as would use up a window that is shared by all.
    let mut deaf = Vec::new();
    for i in 0..8 {
        let (stream, events) = open(&mut pusher, &format!("deaf-{i}")).await;
        let mut taken = 0;
        loop {
            // The first few are taken, however long that may last.
            let patience = if taken < 4 { Duration::from_mins(1) } else { Duration::from_millis(300) };
            let Ok(sent) = timeout(patience, events.send(event(&format!("{}-0", taken + 1), EVENT))).await else { break };
            sent.unwrap();
            taken += 1;
            assert!(taken * EVENT < 32 << 20, "nobody reads, and still more is taken");
        }
        deaf.push((stream, events));
    }
    let (mut stream, events) = open(&mut pusher, "reads").await;
    for i in 1..=50 {
        events.send(event(&format!("{i}-0"), EVENT)).await.unwrap();
        assert_eq!(next(&mut stream).await, format!("{i}-0"));
    }
    // A deaf one that begins to read gets everything, in order.
    let (stream, _) = &mut deaf[0];
    for i in 1..=3 {
        assert_eq!(next(stream).await, format!("{i}-0"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_without_a_readable_id_are_passed_on() {
    let bench = Bench::start("[suite]\npushers = 1").await;
    let mut pusher = one_pusher(&bench);
    let mut client = bench.client();
    let request = bench.subscribe("r-1", "");
    let (stream, events) = tokio::join!(client.subscribe_events(request), async { pusher.attach().await.accept() });
    let mut stream = stream.unwrap().into_inner();
    for id in ["", "odd", "1-0"] {
        events.send(event(id, 0)).await.unwrap();
        assert_eq!(next(&mut stream).await, id);
    }
    events.send(Ok(Bytes::from_static(&[0xff, 0xff]))).await.unwrap();
    assert!(stream.message().await.is_err(), "garbage is the client's to refuse");
}
