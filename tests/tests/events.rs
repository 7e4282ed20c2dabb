//! Events from a foreign writer's `XADD` to verified events on streams, resuming, and every row of the second verdict table.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use gatehouse_proto::gateway::v1::{
    SubscribeEventsRequest,
    gateway_client::GatewayClient,
    server_time::Resume::{Complete, Gap, NotRequested},
};
use gatehouse_tests::{Device, EventStream, Resp, Suite, servers, stream::check_end, suite::publish, wait};
use nix::sys::signal::Signal;
use tokio::sync::OnceCell;
use tonic::{Code, Status, transport::Endpoint};

/// Makes a good subscription a wrong one.
type Change = fn(&mut SubscribeEventsRequest);

async fn shared() -> &'static Suite {
    static SUITE: OnceCell<Suite> = OnceCell::const_new();
    SUITE.get_or_init(|| Suite::builder().set("push", "bookmark_interval", "300ms").start()).await
}

fn devices<const N: usize>(suite: &Suite) -> ([Device; N], Resp) {
    let mut redis = suite.embedded_redis();
    let user = Device::new().user;
    let devices = [(); N].map(|()| Device::of(&user));
    for device in &devices {
        device.register(&mut redis);
    }
    (devices, redis)
}

#[tokio::test]
async fn an_event_that_a_foreign_writer_adds_arrives_verified() {
    let suite = shared().await;
    let ([device], mut redis) = devices(suite);
    let mut stream = suite.subscribe(&device, "").await.unwrap();
    assert_eq!(stream.bootstrap.resume(), NotRequested);
    assert_eq!(stream.bootstrap.bookmark_interval_ms, 300);
    assert!((stream.bootstrap.server_time_ms - gatehouse_tests::device::now_ms()).abs() < 30_000);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let fields: &[(&[u8], &[u8])] = &[
        (b"payload_bytes", b"\x00\xffraw"),
        (b"user_id", device.user.as_bytes()),
        (b"event_type", b"orders.shipped"),
        (b"request_id", b"req-9"),
        (b"traceparent", trace.as_bytes()),
        (b"unknown", b"ignored"),
    ];
    let id = redis.xadd("gateway:client_events", fields).unwrap();
    let event = stream.next().await.unwrap();
    assert_eq!((event.event_type.as_str(), &event.payload_bytes[..]), ("orders.shipped", &b"\x00\xffraw"[..]));
    assert_eq!((&event.event_id, &event.user_id, event.request_id.as_str()), (&id, &device.user, "req-9"));
    assert_eq!(event.traceparent, trace);
    let fields: &[(&[u8], &[u8])] = &[(b"user_id", event.user_id.as_bytes()), (b"event_type", b"empty")];
    redis.xadd("gateway:client_events", fields).unwrap();
    let event = stream.next().await.unwrap();
    assert_eq!((event.event_type.as_str(), event.payload_bytes.len()), ("empty", 0));
}

#[tokio::test]
async fn an_event_for_one_device_reaches_that_device_alone() {
    let suite = shared().await;
    let ([left, right], mut redis) = devices(suite);
    let mut streams = [suite.subscribe(&left, "").await.unwrap(), suite.subscribe(&right, "").await.unwrap()];
    let ([stranger], _) = devices(suite);
    let mut other = suite.subscribe(&stranger, "").await.unwrap();
    publish(&mut redis, &left.user, Some(&left.session), "t", b"left");
    publish(&mut redis, &left.user, Some(&right.session), "t", b"right");
    publish(&mut redis, &left.user, None, "t", b"both");
    publish(&mut redis, &stranger.user, None, "t", b"stranger");
    for (stream, own) in streams.iter_mut().zip(["left", "right"]) {
        assert_eq!([stream.payload().await, stream.payload().await], [own, "both"]);
    }
    assert_eq!(other.payload().await, "stranger");
}

#[tokio::test]
async fn a_stream_resumes_after_its_cursor_in_order_and_once() {
    let suite = shared().await;
    let ([device, other], mut redis) = devices(suite);
    let mut stream = suite.subscribe(&device, "").await.unwrap();
    let start = stream.cursor.clone();
    let ids: Vec<_> = (0..50).map(|i| publish(&mut redis, &device.user, None, "t", format!("{i}").as_bytes())).collect();
    publish(&mut redis, &device.user, Some(&other.session), "t", b"not mine");
    for i in 0..10 {
        assert_eq!(stream.payload().await, i.to_string());
    }
    drop(stream);
    for (cursor, next) in [(&start, 0), (&ids[0], 1), (&ids[9], 10), (&ids[49], 50)] {
        let mut stream = suite.subscribe(&device, cursor).await.unwrap();
        assert_eq!(stream.bootstrap.resume(), Complete, "after {cursor}");
        for i in next..50 {
            assert_eq!(stream.payload().await, i.to_string());
        }
        let live = format!("live after {next}");
        publish(&mut redis, &device.user, Some(&device.session), "t", live.as_bytes());
        let mut payload = stream.payload().await;
        // What earlier rounds added live is missed by this cursor too.
        while payload != live {
            assert!(payload.starts_with("live after"), "{payload}");
            payload = stream.payload().await;
        }
    }
}

#[tokio::test]
async fn silence_is_filled_with_bookmarks_that_move_the_cursor() {
    let suite = shared().await;
    let ([device], mut redis) = devices(suite);
    let mut stream = suite.subscribe(&device, "").await.unwrap();
    let first = stream.bookmark().await;
    let second = stream.bookmark().await;
    drop(stream);
    publish(&mut redis, &device.user, None, "t", b"missed");
    for bookmark in [first, second] {
        let mut stream = suite.subscribe(&device, &bookmark.event_id).await.unwrap();
        assert_eq!(stream.bootstrap.resume(), Complete);
        assert_eq!(stream.payload().await, "missed");
    }
}

#[tokio::test]
async fn subscriptions_are_refused_by_the_same_table() {
    let suite = shared().await;
    let ([device, revoked], mut redis) = devices(suite);
    revoked.revoke(&mut redis);
    let refused = async |request: SubscribeEventsRequest| {
        let mut client = GatewayClient::new(suite.channel());
        let status = match wait::bounded("an answer", client.subscribe_events(request)).await {
            Ok(stream) => wait::bounded("an end", stream.into_inner().message()).await.expect_err("a refusal"),
            Err(status) => status,
        };
        (status.code(), status.message().to_owned(), status)
    };
    let cases: [(Code, &str, Change); 12] = [
        (Code::InvalidArgument, "device_session_id", |request| request.device_session_id.clear()),
        (Code::InvalidArgument, "device_session_id", |request| request.device_session_id = "d".repeat(129)),
        (Code::InvalidArgument, "request_id", |request| request.request_id.clear()),
        (Code::InvalidArgument, "request_id", |request| request.request_id = "r".repeat(129)),
        (Code::InvalidArgument, "last_event_id", |request| request.last_event_id = "1".repeat(65)),
        (Code::InvalidArgument, "last_event_id", |request| request.last_event_id = "evt_12345".into()),
        (Code::InvalidArgument, "last_event_id", |request| request.last_event_id = "1-2-3".into()),
        (Code::InvalidArgument, "last_event_id", |request| request.last_event_id = "+1-0".into()),
        (Code::InvalidArgument, "unsupported protocol_version", |request| request.protocol_version = "v2".into()),
        (Code::FailedPrecondition, "request timestamp is outside the freshness window", |request| request.timestamp_ms -= 400_000),
        (Code::Unauthenticated, "unknown device session", |request| request.device_session_id = "nobody".into()),
        (Code::InvalidArgument, "traceparent", |request| request.traceparent = "t".repeat(129)),
    ];
    for (code, message, change) in cases {
        let mut request = device.subscribe("");
        change(&mut request);
        device.sign_subscribe(&mut request);
        let (got, said, status) = refused(request).await;
        assert_eq!(got, code, "{said}");
        assert!(said.contains(message), "{message}: {said}");
        assert_eq!(status.metadata().contains_key("gateway-server-time-ms"), said.contains("freshness"));
    }
    let mut forged = device.subscribe("");
    forged.request_id.push('!');
    assert_eq!(refused(forged).await.1, "invalid request signature");
    wait::eventually("the revocation takes effect", async || {
        let (code, message, _) = refused(revoked.subscribe("")).await;
        assert_eq!(code, Code::FailedPrecondition);
        (message == "device session is revoked").then_some(())
    })
    .await;
    let request = device.subscribe("");
    let mut client = GatewayClient::new(suite.channel());
    let mut stream = client.subscribe_events(request.clone()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    assert_eq!(refused(request).await.1, "request replay detected");
    let mut signature = device.subscribe("");
    signature.signature.truncate(63);
    assert!(refused(signature).await.1.contains("signature"));
}

#[tokio::test]
async fn of_identical_subscriptions_at_once_one_wins() {
    let suite = shared().await;
    let ([device], _) = devices(suite);
    let request = device.subscribe("");
    let open = async || {
        let mut client = GatewayClient::new(suite.channel());
        let mut stream = client.subscribe_events(request.clone()).await?.into_inner();
        stream.message().await
    };
    let answers = futures_util::future::join_all((0..12).map(|_| open())).await;
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Ok(Some(_)))).count(), 1);
    assert!(answers.iter().filter_map(|answer| answer.as_ref().err()).all(|status| status.message() == "request replay detected"));
}

#[tokio::test]
async fn a_revocation_ends_the_session_s_streams_and_no_other() {
    let suite = shared().await;
    let ([device, other], mut redis) = devices(suite);
    let mut stream = suite.subscribe(&device, "").await.unwrap();
    let mut second = suite.subscribe(&device, "").await.unwrap();
    let mut untouched = suite.subscribe(&other, "").await.unwrap();
    publish(&mut redis, &device.user, None, "t", b"before");
    for stream in [&mut stream, &mut second, &mut untouched] {
        assert_eq!(stream.payload().await, "before");
    }
    device.revoke(&mut redis);
    for stream in [&mut stream, &mut second] {
        let (events, status) = stream.end().await;
        assert_eq!(events, 0);
        check_end(&status, Code::FailedPrecondition, "device session is revoked", &stream.cursor);
    }
    publish(&mut redis, &device.user, None, "t", b"after");
    assert_eq!(untouched.payload().await, "after");
}

#[tokio::test]
async fn events_published_at_once_share_signatures_and_verify_alone() {
    let suite = shared().await;
    let ([device], mut redis) = devices(suite);
    let mut stream = suite.subscribe(&device, "").await.unwrap();
    redis.command(&["MULTI"]).unwrap();
    for i in 0..300 {
        publish(&mut redis, &device.user, None, "t", format!("{i}").as_bytes());
    }
    redis.command(&["EXEC"]).unwrap();
    let mut batched = 0;
    for i in 0..300 {
        let event = stream.next().await.unwrap();
        assert_eq!(event.payload_bytes, i.to_string().as_bytes());
        batched += u32::from(!event.signature_path.is_empty());
    }
    // A lone event is signed directly.
    publish(&mut redis, &device.user, None, "t", b"alone");
    assert!(stream.next().await.unwrap().signature_path.is_empty());
    eprintln!("{batched} of 300 events came in batches");
}

#[tokio::test]
async fn a_pusher_s_own_listener_serves_the_same_streams() {
    let suite = shared().await;
    let ([device], mut redis) = devices(suite);
    let open = async |cursor: &str| EventStream::open(suite.channel_to("push"), &suite.key, &device, cursor).await;
    let mut direct = open("").await.unwrap();
    publish(&mut redis, &device.user, None, "t", b"one");
    assert_eq!(direct.payload().await, "one");
    let cursor = direct.cursor.clone();
    publish(&mut redis, &device.user, None, "t", b"two");
    // A cursor is valid on any pusher, and through the edge.
    for mut stream in [open(&cursor).await.unwrap(), suite.subscribe(&device, &cursor).await.unwrap()] {
        assert_eq!((stream.bootstrap.resume(), stream.payload().await.as_str()), (Complete, "two"));
    }
    let stranger = Device::new();
    let refused = EventStream::open(suite.channel_to("push"), &suite.key, &stranger, "").await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unauthenticated, "unknown device session"));
    device.revoke(&mut redis);
    let (_, status) = direct.end().await;
    check_end(&status, Code::FailedPrecondition, "device session is revoked", &direct.cursor);
}

#[tokio::test]
async fn a_wiped_redis_is_a_gap_and_never_silence() {
    let redis = servers::redis_on_tcp().await;
    let suite = Suite::builder().redis(&redis).set("push", "bookmark_interval", "300ms").start().await;
    let mut writer = servers::client(&redis);
    let device = Device::registered(&mut writer);
    let mut stream = suite.subscribe(&device, "").await.unwrap();
    publish(&mut writer, &device.user, None, "t", b"before");
    assert_eq!(stream.payload().await, "before");
    let cursor = stream.cursor.clone();
    drop(stream);
    writer.command(&["FLUSHALL"]).unwrap();
    device.register(&mut writer);
    publish(&mut writer, &device.user, None, "t", b"after");
    let mut stream = suite.subscribe(&device, &cursor).await.unwrap();
    assert_eq!(stream.bootstrap.resume(), Gap);
    publish(&mut writer, &device.user, None, "t", b"live");
    let mut payload = stream.payload().await;
    if payload == "after" {
        payload = stream.payload().await;
    }
    assert_eq!(payload, "live");
    // A cursor older than everything that is retained.
    let stream = suite.subscribe(&device, "1-0").await.unwrap();
    assert_eq!(stream.bootstrap.resume(), Gap);
}

#[tokio::test]
async fn a_stream_that_is_not_read_overflows_alone_and_resumes_where_it_was() {
    let suite = Suite::builder().set("push", "max_pending_events", 200).set("push", "log_bytes", 256 << 20).start().await;
    let ([device, other], mut redis) = devices(&suite);
    // A window that a client which does not read fills soon.
    let endpoint = Endpoint::from_shared(format!("http://{}", suite.address("grpc"))).unwrap();
    let channel = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535).connect_lazy();
    let mut slow = EventStream::open(channel, &suite.key, &device, "").await.unwrap();
    let mut fast = suite.subscribe(&other, "").await.unwrap();
    let payload = vec![b'x'; 20_000];
    let mut ids = Vec::new();
    for _ in 0..20 {
        for _ in 0..50 {
            ids.push(publish(&mut redis, &device.user, None, "t", &payload));
        }
        // The other stream keeps up, batch by batch.
        for _ in 0..50 {
            fast.next().await.expect("the other stream is not touched");
        }
    }
    assert_eq!(&fast.cursor, ids.last().unwrap());
    let (read, status) = slow.end().await;
    check_end(&status, Code::ResourceExhausted, "push stream overflowed", &slow.cursor);
    assert!(read < ids.len(), "{read} of {}", ids.len());
    let mut resumed = suite.subscribe(&device, &slow.cursor).await.unwrap();
    assert_eq!(resumed.bootstrap.resume(), Complete);
    for id in &ids[read..] {
        assert_eq!(&resumed.next().await.unwrap().event_id, id, "neither gap nor repeat");
    }
}

#[tokio::test]
async fn a_stopping_gateway_ends_streams_with_their_cursor() {
    let suite = Suite::builder().start().await;
    let ([device, direct], mut redis) = devices(&suite);
    let mut streams =
        [suite.subscribe(&device, "").await.unwrap(), EventStream::open(suite.channel_to("push"), &suite.key, &direct, "").await.unwrap()];
    publish(&mut redis, &device.user, None, "t", b"last");
    for stream in &mut streams {
        assert_eq!(stream.payload().await, "last");
    }
    let started = Instant::now();
    suite.signal(Signal::SIGTERM);
    for stream in &mut streams {
        let (_, status): (usize, Status) = stream.end().await;
        check_end(&status, Code::Unavailable, "gateway is shutting down", &stream.cursor);
    }
    assert_eq!(suite.wait_exit(Duration::from_secs(30)).await.code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(10), "open streams do not use up the budget");
}
