//! Clients that come to a pusher directly.

use std::{net::TcpListener, os::fd::OwnedFd, os::unix::net::UnixListener};

use gatehouse_proto::{
    gateway::v1::{ExecuteCommandRequest, GatewayEvent, SubscribeEventsRequest, gateway_client::GatewayClient},
    keys::sha256,
    session::Status as SessionStatus,
    signing,
};
use gatehouse_sessions::now_ms;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::bench::{Bench, PATIENCE, Pusher, device, signer, trailers, within};

async fn public(bench: &Bench) -> (Pusher, Channel) {
    let (tcp, socket) = (TcpListener::bind("127.0.0.1:0").unwrap(), bench.socket("public.sock"));
    let channel = Endpoint::from_shared(format!("http://{}", tcp.local_addr().unwrap())).unwrap().connect_lazy();
    let local = OwnedFd::from(UnixListener::bind(&socket).unwrap());
    (bench.pusher_on("", 0, socket, [("local", local), ("push", tcp.into())]).await, channel)
}

fn subscribe(request_id: &str, last_event_id: &str) -> SubscribeEventsRequest {
    let mut request = SubscribeEventsRequest {
        protocol_version: "v1".into(),
        device_session_id: "a1".into(),
        request_id: request_id.into(),
        timestamp_ms: now_ms(),
        last_event_id: last_event_id.into(),
        ..Default::default()
    };
    request.signature = device().sign(&signing::subscribe(&request)).to_vec().into();
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_subscribe_is_served_resumed_and_recorded() {
    let bench = Bench::start();
    let (pusher, channel) = public(&bench).await;
    let mut client = GatewayClient::new(channel);
    let mut stream = within("subscribed", client.subscribe_events(subscribe("r1", ""))).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.event_type, "gateway.server_time");
    bench.publish("a", "hello");
    let event: GatewayEvent = within("an event", stream.message()).await.unwrap().unwrap();
    assert_eq!((event.payload_bytes.as_ref(), event.payload_hash.to_vec()), (&b"hello"[..], sha256(b"hello").to_vec()));
    assert!(signer().public_key().verifies(&signing::event(&event), &event.signature));
    drop(stream);
    pusher.until("grpc_requests_total{code=\"CANCELLED\"", 1.0).await;
    bench.publish("a", "missed");
    let mut stream = client.subscribe_events(subscribe("r2", &event.event_id)).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().event_id, event.event_id);
    assert_eq!(stream.message().await.unwrap().unwrap().payload_bytes, "missed");
    // Both records were in Redis before the streams began.
    assert_eq!(bench.redis.run(&["XLEN", "gateway:audit"]), ":2");
    pusher.process.shutdown().drain();
    let status = within("the verdict", stream.message()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "gateway is shutting down"));
    trailers(&status);
    within("the process ends", pusher.process.shutdown().finished()).await;
    pusher.until("grpc_requests_total{code=\"UNAVAILABLE\"", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_edge_would_refuse_is_refused() {
    let bench = Bench::start();
    let (pusher, channel) = public(&bench).await;
    let mut client = GatewayClient::new(channel);
    let mut forged = subscribe("r1", "");
    forged.request_id = "r2".into();
    let (mut stale, mut unknown) = (subscribe("r3", ""), subscribe("r4", ""));
    stale.timestamp_ms -= 600_000;
    unknown.device_session_id = "zz".into();
    assert!(client.subscribe_events(subscribe("once", "")).await.is_ok());
    let cases = [
        (forged, Code::Unauthenticated, "invalid request signature"),
        (stale, Code::FailedPrecondition, "request timestamp is outside the freshness window"),
        (unknown, Code::Unauthenticated, "unknown device session"),
        (subscribe("once", ""), Code::FailedPrecondition, "request replay detected"),
        (subscribe("r5", "yesterday"), Code::InvalidArgument, "last_event_id is not a cursor of this gateway"),
    ];
    for (request, code, message) in cases {
        let status = client.subscribe_events(request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, message));
    }
    bench.write_session("a1", SessionStatus::Revoked);
    let mut round = 0;
    within("the revocation is known", async {
        loop {
            round += 1;
            match client.subscribe_events(subscribe(&format!("late-{round}"), "")).await {
                Err(status) if status.message() == "device session is revoked" => break,
                _ => {}
            }
        }
    })
    .await;
    let status = client.execute_command(ExecuteCommandRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("SubscribeEvents"), "{}", status.message());
    pusher.until("grpc_requests_total{code=\"UNIMPLEMENTED\"", 1.0).await;
    assert!(pusher.metric("auth_failures_total{reason=\"signature\"") > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_served_and_a_watch_does_not_hold_up_the_drain() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let bench = Bench::start();
    let (pusher, channel) = public(&bench).await;
    assert!(gatehouse_chassis::ipc::is_serving(&channel.clone().into(), "gateway.v1.Gateway", PATIENCE).await);
    let mut watch = HealthClient::new(channel).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap();
    pusher.process.shutdown().drain();
    within("the process ends", pusher.process.shutdown().finished()).await;
}
