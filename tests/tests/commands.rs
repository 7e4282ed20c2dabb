//! Signed commands through the real edge to a real gRPC downstream.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use gatehouse_tests::{Behaviour, Device, Downstream, Suite, Trail, audit, device::now_ms, servers, wait, wire};
use tokio::sync::OnceCell;
use tonic::Code;

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
        let commands = ["demo.echo", "orders.create", "обмен.создать"];
        let suite = Suite::builder().downstream("orders", &downstream, &commands).start().await;
        Self { suite, downstream }
    }

    fn device(&self) -> Device {
        Device::registered(&mut self.suite.embedded_redis())
    }
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
    let refused = suite.execute(&device.command("demo.echo", "x")).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "device session is revoked"));
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
