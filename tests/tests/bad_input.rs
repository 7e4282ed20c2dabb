//! Bad input on every door: a clear refusal, a counter that moves, processes untouched.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    os::unix::net::{UnixDatagram, UnixStream},
    time::Duration,
};

use gatehouse_tests::{
    Device, Downstream, Resp, Samples, Suite, Trail, audit, http, suite::publish, traffic::events_are_served, wait, wire,
};
use prost::Message as _;

const EXECUTE: &str = "/gateway.v1.Gateway/ExecuteCommand";
const SUBSCRIBE: &str = "/gateway.v1.Gateway/SubscribeEvents";

/// A suite whose processes must be the same at the end as at the beginning. One for each test: counters of another must not hide that
/// ours do not move.
struct World {
    suite: Suite,
    _downstream: Downstream,
    redis: Resp,
    device: Device,
    pids: BTreeMap<String, u32>,
    before: Samples,
}

impl World {
    async fn start() -> Self {
        let downstream = Downstream::start();
        let suite = Suite::builder().downstream("orders", &downstream, &["demo.echo"]).start().await;
        let mut redis = suite.embedded_redis();
        let device = Device::registered(&mut redis);
        suite.execute(&device.command("demo.echo", "x")).await.unwrap();
        let (pids, before) = (suite.pids().await, suite.metrics().await);
        Self { suite, _downstream: downstream, redis, device, pids, before }
    }

    async fn counted(&self, name: &str, labels: &[(&str, &str)]) {
        self.suite.counted(&self.before, name, labels).await;
    }

    /// The same processes, and they serve.
    async fn end(mut self) {
        self.suite.execute(&self.device.command("demo.echo", "x")).await.expect("commands are served");
        let mut stream = self.suite.subscribe(&self.device, "").await.expect("streams are served");
        events_are_served(&mut stream, &mut self.redis, &self.device.user).await;
        assert_eq!(self.suite.pids().await, self.pids, "no process was replaced");
        let panics = self.suite.stderr.all().into_iter().filter(|line| line.contains("panicked")).collect::<Vec<_>>();
        assert!(panics.is_empty(), "{panics:?}");
    }
}

#[tokio::test]
async fn protobufs_that_are_none_are_refused() {
    let world = World::start().await;
    let grpc = world.suite.address("grpc");
    let good = world.device.command("demo.echo", "x").encode_to_vec();
    let mut not_utf8 = good.clone();
    let session = world.device.session.as_bytes();
    let at = good.windows(session.len()).position(|window| window == session).unwrap();
    not_utf8[at] = 0xff;
    // A varint that never ends, a length beyond the message, a group that is never closed, a wrong wire type.
    let broken: [&[u8]; 6] = [&good[..good.len() - 1], &not_utf8, &[0xff; 20], &[0x0a, 0xff, 0xff, 0xff, 0x7f], &[0x0b], &[0x08, 1]];
    for path in [EXECUTE, SUBSCRIBE] {
        for message in broken {
            let (status, code) = http::grpc(grpc, path, &[], http::framed(message)).await.unwrap();
            assert_eq!(status, 200);
            assert!(matches!(code, Some(3 | 13)), "INVALID_ARGUMENT or INTERNAL, not {code:?}, for {message:?}");
        }
    }
    // A frame that ends early, one that is compressed with nothing known, and no message at all.
    for body in [vec![0, 0, 0, 1, 0, b'x'], vec![0, 0], [&[1], &http::framed(&good)[1..]].concat(), Vec::new()] {
        let (status, code) = http::grpc(grpc, EXECUTE, &[], body.clone()).await.unwrap();
        assert!(status == 200 && code != Some(0), "{code:?} for {body:?}");
    }
    world.counted("grpc_requests_total", &[("component", "edge")]).await;
    world.end().await;
}

#[tokio::test]
async fn huge_messages_are_refused_before_they_are_read() {
    let world = World::start().await;
    let grpc = world.suite.address("grpc");
    let huge = world.device.command("demo.echo", vec![7; 8 << 20]).encode_to_vec();
    for path in [EXECUTE, SUBSCRIBE] {
        if let Ok((status, code)) = http::grpc(grpc, path, &[], http::framed(&huge)).await {
            assert_eq!(status, 200);
            assert!(matches!(code, Some(3 | 8 | 11)), "{code:?}");
        }
        // Four gigabytes announced, and a few bytes sent.
        let announced = [&[0, 0xff, 0xff, 0xff, 0xff][..], b"few"].concat();
        let (_, code) = http::grpc(grpc, path, &[], announced).await.unwrap();
        assert!(matches!(code, Some(3 | 8 | 11 | 13)), "{code:?}");
    }
    world.end().await;
}

#[tokio::test]
async fn signatures_that_are_no_signatures_are_refused_and_counted() {
    let world = World::start().await;
    for (length, reason) in
        [(0, "malformed"), (1, "malformed"), (63, "malformed"), (65, "malformed"), (4096, "malformed"), (64, "signature")]
    {
        let before = world.suite.metrics().await;
        for byte in [0, 0xff] {
            let mut request = world.device.command("demo.echo", "x");
            request.signature = vec![byte; length].into();
            world.suite.execute(&request).await.expect_err("a refusal");
        }
        world.suite.counted(&before, "auth_failures_total", &[("reason", reason), ("component", "edge")]).await;
    }
    world.end().await;
}

#[tokio::test]
async fn a_megabyte_of_headers_is_refused() {
    let world = World::start().await;
    let large = "h".repeat(1 << 20);
    for listener in ["http", "admin", "grpc", "push"] {
        let address = world.suite.address(listener);
        let request = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx-large: {large}\r\n\r\n");
        let answer = http::raw(address, request.as_bytes()).await;
        let first = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
        assert!(first.is_empty() || first.starts_with("HTTP/1.1 431"), "{listener}: {first}");
        // The same over HTTP/2, where hyper's client refuses to wait for what the server allows.
        let headers: Vec<_> = (0..64).map(|i| (format!("x-large-{i}"), "h".repeat(16 << 10))).collect();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        if let Ok((status, code)) = http::grpc(address, EXECUTE, &headers, Vec::new()).await {
            assert!(status == 431 || code.is_some_and(|code| code != 0), "{listener}: {status} {code:?}");
        }
        world.counted("connection_errors_total", &[("listener", listener)]).await;
    }
    world.end().await;
}

#[tokio::test]
async fn garbage_on_a_tcp_port_ends_its_connection_alone() {
    let world = World::start().await;
    let noise: Vec<u8> = (0..8192_u32).flat_map(|i| wire::sha256(&[&i.to_be_bytes()])).collect();
    let doors: [&[u8]; 8] = [
        &noise,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nbad header\x00: y\r\n\r\n",
        // HTTP/2: a preface and then a frame of a length that nobody allows.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00\x00\x00\x00\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x01",
    ];
    for listener in ["http", "grpc", "admin", "push"] {
        let address = world.suite.address(listener);
        for bytes in doors {
            let answer = http::raw(address, bytes).await;
            assert!(!String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 2"), "{listener}: {:?}", String::from_utf8_lossy(&answer));
        }
        world.counted("connection_errors_total", &[("listener", listener)]).await;
    }
    world.end().await;
}

#[tokio::test]
async fn garbage_on_a_local_socket_ends_its_connection_alone() {
    use std::io::{Read as _, Write as _};
    let world = World::start().await;
    let sockets = std::fs::read_dir(world.suite.runtime_dir()).unwrap().map(|entry| entry.unwrap().path());
    let sockets: Vec<_> = sockets.filter(|path| path.extension().is_some_and(|extension| extension == "sock")).collect();
    assert!(sockets.len() >= 6, "{sockets:?}");
    let (datagrams, streams): (Vec<_>, Vec<_>) = sockets.iter().partition(|path| path.ends_with("notify.sock"));
    for socket in datagrams {
        let (sender, large) = (UnixDatagram::unbound().unwrap(), vec![b'='; 60_000]);
        for bytes in [&b"READY=1\nMAINPID=1\n"[..], b"\xff\x00garbage", b"", &large] {
            sender.send_to(bytes, socket).unwrap();
        }
    }
    for socket in streams.into_iter().filter(|path| !path.ends_with("redis.sock")) {
        for bytes in [&b"\xff\x00garbage\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00\x00\x00\x00\x00"] {
            let (socket, bytes) = (socket.clone(), bytes.to_vec());
            let exchange = tokio::task::spawn_blocking(move || {
                let mut stream = UnixStream::connect(socket).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                // Being cut off is an answer.
                let _cut = (stream.write_all(&bytes), stream.shutdown(std::net::Shutdown::Write));
                let _read = stream.read_to_end(&mut Vec::new());
            });
            wait::bounded("the connection is closed", exchange).await.unwrap();
        }
    }
    world.end().await;
}

#[tokio::test]
async fn unknown_methods_and_plain_http_on_the_grpc_port_are_refused() {
    let world = World::start().await;
    let grpc = world.suite.address("grpc");
    let (_, code) = http::grpc(grpc, "/gateway.v1.Gateway/NoSuchMethod", &[], http::framed(b"")).await.unwrap();
    assert_eq!(code, Some(12), "UNIMPLEMENTED");
    assert_eq!(http::get(grpc, "/").await.status, 415);
    world.end().await;
}

#[tokio::test]
async fn malformed_client_events_are_skipped_and_counted() {
    let mut world = World::start().await;
    let mut stream = world.suite.subscribe(&world.device, "").await.unwrap();
    let user = world.device.user.clone();
    let (user, long, huge) = (user.as_bytes(), [b'x'; 129], vec![0; (1 << 20) + 1]);
    let malformed: [&[(&[u8], &[u8])]; 9] = [
        &[(b"nothing", b"known")],
        &[(b"user_id", user)],
        &[(b"event_type", b"t")],
        &[(b"user_id", b""), (b"event_type", b"t")],
        &[(b"user_id", b"\xff\xfe"), (b"event_type", b"t")],
        &[(b"user_id", user), (b"event_type", b"\xff")],
        &[(b"user_id", user), (b"event_type", &long)],
        &[(b"user_id", user), (b"event_type", b"t"), (b"traceparent", &[0x80; 10])],
        &[(b"user_id", user), (b"event_type", b"t"), (b"payload_bytes", &huge)],
    ];
    for fields in malformed {
        let before = world.suite.metrics().await;
        world.redis.xadd("gateway:client_events", fields).unwrap();
        // Every pusher sees every entry.
        for instance in ["0", "1"] {
            let labels = [("outcome", "malformed"), ("component", "pusher"), ("instance", instance)];
            world.suite.counted(&before, "push_events_total", &labels).await;
        }
    }
    publish(&mut world.redis, &world.device.user, None, "t", b"good");
    assert_eq!(stream.payload().await, "good", "what follows is delivered");
    drop(stream);
    world.end().await;
}

#[tokio::test]
async fn malformed_session_events_are_skipped_and_counted() {
    let mut world = World::start().await;
    let id = world.device.session.clone();
    let id = id.as_bytes();
    let malformed: [&[(&[u8], &[u8])]; 6] = [
        &[(b"nothing", b"known")],
        &[(b"device_session_id", id), (b"status", b"revoked")],
        &[(b"device_session_id", id), (b"user_id", b"u"), (b"public_key", b"?"), (b"status", b"paused"), (b"updated_at_ms", b"1")],
        &[(b"device_session_id", id), (b"user_id", b"u"), (b"public_key", b"?"), (b"status", b"revoked"), (b"updated_at_ms", b"soon")],
        &[(b"device_session_id", b"\xff"), (b"user_id", b"u"), (b"public_key", b"?"), (b"status", b"revoked"), (b"updated_at_ms", b"1")],
        &[(b"device_session_id", b""), (b"user_id", b"u"), (b"public_key", b"?"), (b"status", b"revoked"), (b"updated_at_ms", b"1")],
    ];
    for fields in malformed {
        let before = world.suite.metrics().await;
        world.redis.xadd("gateway:session_events", fields).unwrap();
        world.suite.counted(&before, "session_entries_malformed_total", &[("component", "edge")]).await;
    }
    world.end().await;
}

#[tokio::test]
async fn a_session_key_that_holds_garbage_is_no_session() {
    let mut world = World::start().await;
    let key = |id: &str| format!("gateway:session:{id}");
    let values: [&[u8]; 5] = [
        b"",
        b"not json",
        b"[]",
        b"\xff\xfe",
        br#"{"device_session_id":"x","user_id":"u","public_key":"AA==","status":"active","updated_at_ms":1}"#,
    ];
    for value in values {
        let device = Device::new();
        world.redis.command(&[b"SET", key(&device.session).as_bytes(), value]).unwrap();
        let status = world.suite.execute(&device.command("demo.echo", "x")).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (tonic::Code::Unauthenticated, "unknown device session"), "{value:?}");
    }
    let list = Device::new();
    world.redis.command(&["RPUSH", &key(&list.session), "x"]).unwrap();
    let status = world.suite.execute(&list.command("demo.echo", "x")).await.unwrap_err();
    assert_ne!(status.code(), tonic::Code::Unknown, "{status:?}");
    world.end().await;
}

#[tokio::test]
async fn malformed_audit_entries_are_skipped_and_counted() {
    let mut world = World::start().await;
    let malformed: [&[(&[u8], &[u8])]; 4] =
        [&[(b"nothing", b"known")], &[(b"records", b"\xff\xff\xff")], &[(b"records", b"\x0a\x7f")], &[(b"records", b"\x0a\x02\x0a\x05")]];
    for fields in malformed {
        let before = world.suite.metrics().await;
        world.redis.xadd("gateway:audit", fields).unwrap();
        world.suite.counted(&before, "audit_events_total", &[("outcome", "malformed"), ("component", "auditor")]).await;
    }
    let request = world.device.command("demo.echo", "x");
    world.suite.execute(&request).await.unwrap();
    let row = Trail::record(&world.suite, &request.request_id).await;
    assert_eq!(audit::record(&row).status, "success");
    Trail::read(&world.suite).await.check(&world.suite).await;
    world.end().await;
}

#[tokio::test]
async fn a_flood_of_strangers_is_few_records_that_count_each_of_them() {
    let world = World::start().await;
    let begun = std::time::Instant::now();
    for _ in 0..50 {
        world.suite.execute(&Device::new().command("demo.echo", "x")).await.unwrap_err();
    }
    world.counted("auth_failures_total", &[("reason", "unknown_session")]).await;
    let records = wait::within(Duration::from_secs(90), "all of them are in the trail", async || {
        let trail = Trail::read(&world.suite).await;
        let mut records: Vec<_> = trail.0.into_iter().filter_map(|row| row.record).collect();
        records.retain(|record| record.resource.as_deref() == Some("unknown_session"));
        (records.iter().map(|record| record.event_count).sum::<u32>() >= 50).then_some(records)
    })
    .await;
    assert_eq!(records.iter().map(|record| record.event_count).sum::<u32>(), 50);
    let windows = begun.elapsed().as_secs() / 10 + 1;
    assert!(records.len() as u64 <= windows + 1, "{} records in {windows} windows", records.len());
    assert!(records.iter().all(|record| record.status == "denied" && record.device_session_id.is_none()), "{records:?}");
    world.end().await;
}
