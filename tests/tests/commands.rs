//! Signed commands through the real edge to a real gRPC downstream, and every row of the first verdict table.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use gatehouse_proto::gateway::v1::ExecuteCommandRequest;
use gatehouse_tests::{Behaviour, Device, Downstream, Suite, Trail, audit, device::now_ms, servers, wait, wire};
use tokio::sync::OnceCell;
use tonic::{Code, Status};

/// Enough for any test but the one that wants to be over it.
const BURST: usize = 40;

/// Makes a good command a wrong one.
type Change = fn(&mut ExecuteCommandRequest);

struct World {
    suite: Suite,
    downstream: Downstream,
}

impl World {
    async fn shared() -> &'static Self {
        static WORLD: OnceCell<World> = OnceCell::const_new();
        WORLD.get_or_init(Self::start).await
    }

    async fn start() -> Self {
        let downstream = Downstream::start();
        let commands = ["demo.echo", "orders.create", "orders.slow", "orders.refused", "обмен.создать"];
        let suite = Suite::builder()
            .downstream("orders", &downstream, &commands)
            .grpc_backend("away", &format!("127.0.0.1:{}", servers::free_port()), &["away.any"])
            .set("limits", "commands_per_second", 1)
            .set("limits", "burst", BURST)
            .start()
            .await;
        Self { suite, downstream }
    }

    fn device(&self) -> Device {
        Device::registered(&mut self.suite.embedded_redis())
    }

    async fn refused(&self, request: &ExecuteCommandRequest) -> Status {
        self.suite.execute(request).await.expect_err("a refusal")
    }

    async fn verdict(&self, request: &ExecuteCommandRequest) -> (Code, String) {
        let status = self.refused(request).await;
        (status.code(), status.message().to_owned())
    }
}

fn said(code: Code, message: &str) -> (Code, String) {
    (code, message.to_owned())
}

#[tokio::test]
async fn a_signed_command_is_answered_signed_and_stands_in_the_trail() {
    let World { suite, downstream } = World::shared().await;
    let device = World::shared().await.device();
    downstream.on("orders.create", Behaviour::Answer("created", b"order 7".to_vec()));
    let mut request = device.command("orders.create", r#"{"sku":"A-1"}"#);
    request.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
    let response = suite.execute(&request).await.unwrap();
    assert_eq!((response.result_code.as_str(), &response.payload_bytes[..]), ("created", &b"order 7"[..]));
    assert!((now_ms() - response.timestamp_ms).abs() < 30_000, "the gateway's clock");

    let [call] = &downstream.calls(&request.request_id)[..] else { panic!("one call downstream") };
    assert_eq!((call.message_type.as_str(), call.user_id.as_str()), ("orders.create", device.user.as_str()));
    assert_eq!((call.device_session_id.as_str(), call.timestamp_ms), (device.session.as_str(), request.timestamp_ms));
    assert_eq!(call.payload_bytes, request.payload_bytes);
    assert_eq!(call.traceparent.split('-').nth(1), Some("0af7651916cd43dd8448eb211c80319c"), "the trace goes on");

    let row = Trail::record(suite, &request.request_id).await;
    let record = audit::record(&row);
    assert_eq!((record.action_type.as_str(), record.action.as_str(), record.status.as_str()), ("command", "orders.create", "success"));
    assert_eq!((record.user_id.as_deref(), record.device_session_id.as_deref()), (Some(&*device.user), Some(&*device.session)));
    assert_eq!((record.grpc_code.as_deref(), record.event_count), (Some("OK"), 1));
    assert!(record.latency_ms.is_some() && record.ip_address.as_deref() == Some("127.0.0.1"), "{record:?}");

    let line = suite.stdout.with(&[&request.request_id]).await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    for (name, value) in [
        ("id", record.id.as_str()),
        ("user_id", &device.user),
        ("device_session_id", &device.session),
        ("action_type", "command"),
        ("action", "orders.create"),
        ("status", "success"),
        ("grpc_code", "OK"),
        ("request_id", &request.request_id),
        ("prev_hash", &wire::hex(&row.prev_hash)),
        ("hash", &wire::hex(&row.hash)),
    ] {
        assert_eq!(line[name], value, "{name} of {line}");
    }
    assert_eq!((line["seq"].as_i64(), line["event_count"].as_i64()), (Some(row.seq), Some(1)));
    let ts = line["ts"].as_str().unwrap();
    assert!(ts.len() >= 20 && ts.ends_with('Z') && ts.as_bytes()[10] == b'T', "RFC 3339 in UTC: {ts}");
    assert!(!line.to_string().contains("A-1"), "no payloads in the trail");
}

#[tokio::test]
async fn a_downstream_without_a_result_code_means_ok() {
    let world = World::shared().await;
    let large = vec![7; 300_000];
    for (kind, payload) in [("demo.echo", &b"\x00\xff"[..]), ("обмен.создать", b""), ("demo.echo", &large)] {
        let response = world.suite.execute(&world.device().command(kind, payload)).await.unwrap();
        assert_eq!((response.result_code.as_str(), &response.payload_bytes[..]), ("ok", payload));
    }
}

#[tokio::test]
async fn the_public_key_that_signs_is_published() {
    let World { suite, .. } = World::shared().await;
    let answer = gatehouse_tests::http::get(suite.address("http"), "/api/v1/public/keys").await;
    assert_eq!(answer.status, 200);
    let active: Vec<_> = answer.json()["keys"].as_array().unwrap().iter().filter(|key| key["active"] == true).cloned().collect();
    let [key] = &active[..] else { panic!("one active key: {}", answer.body) };
    assert_eq!((key["key_id"].as_str(), key["public_key"].as_str()), (Some(&*suite.key.id), Some(&*suite.key.base64())));
}

#[tokio::test]
async fn a_field_of_the_wrong_shape_is_named() {
    let world = World::shared().await;
    let device = world.device();
    let cases: [(&str, Change); 14] = [
        ("protocol_version", |request| request.protocol_version.clear()),
        ("device_session_id", |request| request.device_session_id.clear()),
        ("device_session_id", |request| request.device_session_id = "d".repeat(129)),
        ("message_type", |request| request.message_type.clear()),
        ("message_type", |request| request.message_type = "m".repeat(129)),
        ("request_id", |request| request.request_id.clear()),
        ("request_id", |request| request.request_id = "r".repeat(129)),
        ("payload_hash", |request| request.payload_hash.clear()),
        ("payload_hash", |request| request.payload_hash.truncate(31)),
        ("payload_hash", |request| request.payload_hash = vec![0; 33].into()),
        ("signature", |request| request.signature.clear()),
        ("signature", |request| request.signature.truncate(63)),
        ("signature", |request| request.signature = vec![0; 65].into()),
        ("traceparent", |request| request.traceparent = "t".repeat(129)),
    ];
    for (field, change) in cases {
        let mut request = device.command("demo.echo", "x");
        change(&mut request);
        if field != "signature" {
            device.sign(&mut request);
        }
        let (code, message) = world.verdict(&request).await;
        assert_eq!(code, Code::InvalidArgument, "{field}: {message}");
        assert!(message.contains(field), "{field} is named in: {message}");
    }
    let large = device.command("demo.echo", vec![0; (1 << 20) + 1]);
    let (code, message) = world.verdict(&large).await;
    assert!(code == Code::InvalidArgument && message.contains("payload_bytes"), "{code}: {message}");
}

#[tokio::test]
async fn every_refusal_before_the_route_has_its_verdict() {
    let world = World::shared().await;
    let device = world.device();

    let mut request = device.command("demo.echo", "x");
    request.protocol_version = "v2".into();
    device.sign(&mut request);
    assert_eq!(world.verdict(&request).await, said(Code::InvalidArgument, "unsupported protocol_version"));

    let mut request = device.command("demo.echo", "x");
    request.payload_bytes = "y".into();
    assert_eq!(world.verdict(&request).await, said(Code::InvalidArgument, "payload_hash does not match payload_bytes"));

    for minutes in [-6, 6] {
        let mut request = device.command("demo.echo", "x");
        request.timestamp_ms += minutes * 60_000;
        device.sign(&mut request);
        let status = world.refused(&request).await;
        let verdict = (status.code(), status.message().to_owned());
        assert_eq!(verdict, said(Code::FailedPrecondition, "request timestamp is outside the freshness window"));
        let clock = status.metadata().get("gateway-server-time-ms").expect("the gateway's clock").to_str().unwrap();
        assert!((clock.parse::<i64>().unwrap() - now_ms()).abs() < 30_000, "{clock}");
    }
    let mut request = device.command("demo.echo", "x");
    request.timestamp_ms -= 4 * 60_000;
    device.sign(&mut request);
    world.suite.execute(&request).await.expect("four minutes are fresh");

    let stranger = Device::new();
    let verdict = world.verdict(&stranger.command("demo.echo", "x")).await;
    assert_eq!(verdict, said(Code::Unauthenticated, "unknown device session"));

    let revoked = world.device();
    revoked.revoke(&mut world.suite.embedded_redis());
    wait::eventually("the revocation takes effect", async || {
        let refused = world.suite.execute(&revoked.command("demo.echo", "x")).await.err()?;
        assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "device session is revoked"));
        Some(())
    })
    .await;

    let mut request = device.command("demo.echo", "x");
    request.request_id.push('!');
    assert_eq!(world.verdict(&request).await, said(Code::Unauthenticated, "invalid request signature"));

    let request = device.command("demo.echo", "x");
    world.suite.execute(&request).await.unwrap();
    assert_eq!(world.verdict(&request).await, said(Code::FailedPrecondition, "request replay detected"));
    assert_eq!(world.downstream.calls(&request.request_id).len(), 1);
}

#[tokio::test]
async fn every_failure_behind_the_route_has_its_verdict() {
    let world = World::shared().await;
    let device = world.device();
    let verdict = world.verdict(&device.command("nobody.knows", "x")).await;
    assert_eq!(verdict, said(Code::Unimplemented, "message_type is not routed"));

    let verdict = world.verdict(&device.command("away.any", "x")).await;
    assert_eq!(verdict, said(Code::Unavailable, "downstream is unavailable"));

    world.downstream.on("orders.slow", Behaviour::Hang);
    let started = Instant::now();
    let slow = device.command("orders.slow", "x");
    assert_eq!(world.verdict(&slow).await, said(Code::DeadlineExceeded, "downstream timed out"));
    assert!(started.elapsed() >= Duration::from_millis(900), "the backend has a second");
    let record = Trail::record(&world.suite, &slow.request_id).await.record.unwrap();
    assert_eq!((record.status.as_str(), record.grpc_code.as_deref()), ("error", Some("DEADLINE_EXCEEDED")));

    world.downstream.on("orders.refused", Behaviour::Fail(Code::FailedPrecondition, "sold out"));
    let refused = device.command("orders.refused", "x");
    assert_eq!(world.verdict(&refused).await, said(Code::FailedPrecondition, "sold out"));
    Trail::record(&world.suite, &refused.request_id).await;
}

#[tokio::test]
async fn a_session_over_its_rate_is_refused_and_others_are_not() {
    let world = World::shared().await;
    let device = world.device();
    let first = device.command("demo.echo", "x");
    world.suite.execute(&first).await.unwrap();
    let (code, message) = wait::eventually("the rate limit", async || {
        let verdicts = join_all((0..BURST).map(|_| async { world.suite.execute(&device.command("demo.echo", "x")).await })).await;
        let refused = verdicts.into_iter().find_map(Result::err)?;
        Some((refused.code(), refused.message().to_owned()))
    })
    .await;
    assert_eq!((code, message), said(Code::ResourceExhausted, "rate limit exceeded"));
    assert_eq!(world.verdict(&first).await, said(Code::FailedPrecondition, "request replay detected"), "replay is checked before rate");
    world.suite.execute(&world.device().command("demo.echo", "x")).await.expect("another session is not touched");
}

#[tokio::test]
async fn verdicts_are_given_in_their_order() {
    let world = World::shared().await;
    let (device, stranger) = (world.device(), Device::new());
    let hash = "payload_hash does not match payload_bytes";

    let mut request = stranger.command("demo.echo", "x");
    request.payload_bytes = "y".into();
    assert_eq!(world.verdict(&request).await.1, hash, "hash before session");

    request.protocol_version = "v0".into();
    assert_eq!(world.verdict(&request).await.1, "unsupported protocol_version", "version before hash");

    request.signature.truncate(1);
    assert!(world.verdict(&request).await.1.contains("signature"), "shape before version");

    let mut request = stranger.command("demo.echo", "x");
    request.timestamp_ms = 1;
    assert!(world.verdict(&request).await.1.contains("freshness"), "freshness before session");
    request.payload_bytes = "y".into();
    assert_eq!(world.verdict(&request).await.1, hash, "hash before freshness");

    let revoked = world.device();
    revoked.revoke(&mut world.suite.embedded_redis());
    let mut request = revoked.command("demo.echo", "x");
    request.signature = vec![0; 64].into();
    wait::eventually("revoked before signature", async || (world.verdict(&request).await.1 == "device session is revoked").then_some(()))
        .await;

    let unrouted = device.command("nobody.knows", "x");
    assert_eq!(world.verdict(&unrouted).await.1, "message_type is not routed");
    assert_eq!(world.verdict(&unrouted).await.1, "request replay detected", "replay before route");
}

#[tokio::test]
async fn a_wrong_signature_does_not_burn_the_request_id() {
    let world = World::shared().await;
    let device = world.device();
    let good = device.command("demo.echo", "x");
    let mut forged = good.clone();
    forged.signature = Device::of(&device.user).command("demo.echo", "x").signature;
    for _ in 0..3 {
        assert_eq!(world.verdict(&forged).await.1, "invalid request signature");
    }
    world.suite.execute(&good).await.expect("the id is still free");
    let other = world.device();
    let mut same_id = other.command("demo.echo", "x");
    same_id.request_id.clone_from(&good.request_id);
    other.sign(&mut same_id);
    world.suite.execute(&same_id).await.expect("ids are one session's own");
}

#[tokio::test]
async fn a_signature_for_another_purpose_is_wrong() {
    let world = World::shared().await;
    let device = world.device();
    let subscribe = device.subscribe("");
    let mut command = device.command("demo.echo", "x");
    command.request_id.clone_from(&subscribe.request_id);
    command.timestamp_ms = subscribe.timestamp_ms;
    command.signature = subscribe.signature;
    assert_eq!(world.verdict(&command).await.1, "invalid request signature");
}

#[tokio::test]
async fn of_24_identical_commands_at_once_one_wins() {
    let world = World::shared().await;
    let request = world.device().command("demo.echo", "once");
    let answers = join_all((0..24).map(|_| world.suite.execute(&request))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    let refused: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    let verdicts: HashSet<_> = refused.iter().map(|status| (status.code() as i32, status.message())).collect();
    assert_eq!(verdicts, HashSet::from([(Code::FailedPrecondition as i32, "request replay detected")]));
    assert_eq!(world.downstream.calls(&request.request_id).len(), 1);
}

#[tokio::test]
async fn a_session_created_and_revoked_by_an_operator_takes_effect() {
    use gatehouse_proto::internal::v1::{CreateSessionRequest, RevokeSessionRequest, ShowSessionRequest};
    let World { suite, .. } = World::shared().await;
    let device = Device::new();
    let create = CreateSessionRequest {
        device_session_id: device.session.clone(),
        user_id: device.user.clone(),
        public_key: device.public_key().to_vec(),
    };
    let session = suite.admin().create_session(create).await.unwrap().into_inner();
    assert_eq!((session.status.as_str(), &session.device_session_id), ("active", &device.session));
    suite.execute(&device.command("demo.echo", "x")).await.unwrap();

    let id = device.session.clone();
    let revoked = suite.admin().revoke_session(RevokeSessionRequest { device_session_id: id.clone() }).await.unwrap().into_inner();
    assert_eq!((revoked.status.as_str(), revoked.revoked_at_ms.is_some()), ("revoked", true));
    wait::eventually("the revocation takes effect", async || {
        let refused = suite.execute(&device.command("demo.echo", "x")).await.err()?;
        assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "device session is revoked"));
        Some(())
    })
    .await;
    let shown = suite.admin().show_session(ShowSessionRequest { device_session_id: id.clone() }).await.unwrap().into_inner();
    assert_eq!(shown, revoked);
    // A late, older snapshot does not resurrect it.
    device.write_snapshot(&mut suite.embedded_redis(), "active", session.updated_at_ms - 1);
    let verdict = World::shared().await.verdict(&device.command("demo.echo", "x")).await;
    assert_eq!(verdict, said(Code::FailedPrecondition, "device session is revoked"));
    let trail = Trail::read(suite).await;
    let actions: Vec<_> = trail.0.iter().map(audit::record).filter(|record| record.resource.as_deref() == Some(&*id)).collect();
    let actions: Vec<_> = actions.iter().map(|record| (record.action_type.as_str(), record.action.as_str())).collect();
    assert_eq!(actions, [("admin", "session.create"), ("admin", "session.revoke")]);
}

#[tokio::test]
async fn without_redis_no_session_is_decided_and_with_it_again_all_is_served() {
    let mut redis = servers::redis().await;
    let downstream = Downstream::start();
    let suite = Suite::builder().redis(&redis).downstream("orders", &downstream, &["demo.echo"]).start().await;
    let device = Device::registered(&mut servers::client(&redis));
    suite.execute(&device.command("demo.echo", "x")).await.unwrap();
    let unavailable = async |what: &str, device: &Device| {
        let started = Instant::now();
        let status = suite.execute(&device.command("demo.echo", "x")).await.expect_err(what);
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "session store is unavailable"), "{what}");
        assert!(started.elapsed() < Duration::from_secs(5), "{what}: bounded");
    };
    servers::freeze(&redis, true);
    unavailable("a known session, Redis frozen", &device).await;
    unavailable("a new session, Redis frozen", &Device::new()).await;
    servers::freeze(&redis, false);
    let served = async |device: &Device| {
        wait::eventually("commands are served again", async || suite.execute(&device.command("demo.echo", "x")).await.ok()).await
    };
    served(&device).await;
    redis.kill9();
    unavailable("a known session, no Redis", &device).await;
    redis.restart();
    served(&device).await;
    Trail::read(&suite).await.check(&suite).await;
}

#[tokio::test]
async fn without_any_route_every_command_is_unrouted() {
    let suite = Suite::builder().start().await;
    let device = Device::registered(&mut suite.embedded_redis());
    let status = suite.execute(&device.command("demo.echo", "x")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, "message_type is not routed"));
}
