//! Every row of the first verdict table, and their order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use gatehouse_proto::gateway::v1::ExecuteCommandRequest;
use gatehouse_tests::{Behaviour, Device, Downstream, Suite, Trail, device::now_ms, servers, wait};
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
        let commands = ["demo.echo", "orders.slow", "orders.refused"];
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
async fn without_any_route_every_command_is_unrouted() {
    let suite = Suite::builder().start().await;
    let device = Device::registered(&mut suite.embedded_redis());
    let status = suite.execute(&device.command("demo.echo", "x")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, "message_type is not routed"));
}
