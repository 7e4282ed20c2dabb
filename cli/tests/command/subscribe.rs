//! `gatehouse client subscribe`, against a gateway that plays a given stream.

use bytes::Bytes;
use prost::Message as _;
use serde_json::Value;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Response, Status, codegen::BoxStream, metadata::MetadataMap, service::Routes};

use gatehouse_proto::{
    gateway::v1::{
        ExecuteCommandRequest, ExecuteCommandResponse, GatewayEvent, ServerTime, SubscribeEventsRequest,
        gateway_server::{Gateway, GatewayServer},
        server_time::Resume,
    },
    keys::sha256,
    merkle, signing, stream,
};

use crate::{
    exec::signer,
    play::{Done, Stage},
};

struct Play(Vec<Result<GatewayEvent, Status>>);

#[tonic::async_trait]
impl Gateway for Play {
    async fn execute_command(&self, _request: Request<ExecuteCommandRequest>) -> Result<Response<ExecuteCommandResponse>, Status> {
        Err(Status::unimplemented("not played here"))
    }

    async fn subscribe_events(&self, _request: Request<SubscribeEventsRequest>) -> Result<Response<BoxStream<GatewayEvent>>, Status> {
        // The stream goes on after what is played, as a real one does.
        let played = tokio_stream::iter(self.0.clone()).chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(played)))
    }
}

fn event(id: &str, event_type: &str, payload: impl Into<Bytes>) -> GatewayEvent {
    let event = GatewayEvent {
        event_id: id.into(),
        event_type: event_type.into(),
        user_id: "ada".into(),
        payload_bytes: payload.into(),
        ..GatewayEvent::default()
    };
    stream::seal(event, &signer())
}

fn server_time(id: &str) -> GatewayEvent {
    let time = ServerTime { server_time_ms: 1_767_225_600_000, resume: Resume::NotRequested.into(), bookmark_interval_ms: 15_000 };
    event(id, "gateway.server_time", time.encode_to_vec())
}

/// Two events that share a signature.
fn batch() -> [GatewayEvent; 2] {
    let signer = signer();
    let mut events = ["5-0", "5-1"].map(|id| GatewayEvent {
        event_id: id.into(),
        event_type: "order.shipped".into(),
        user_id: "ada".into(),
        payload_bytes: Bytes::from_static(b"b"),
        payload_hash: Bytes::copy_from_slice(&sha256(b"b")),
        signer_key_id: signer.key_id().into(),
        ..GatewayEvent::default()
    });
    let leaves: Vec<_> = events.iter().map(|event| merkle::leaf(&signing::event(event))).collect();
    let signature = signer.sign(&signing::event_batch(&merkle::root(&leaves), 2, signer.key_id()));
    for (i, event) in events.iter_mut().enumerate() {
        event.signature = Bytes::copy_from_slice(&signature);
        event.signature_path = merkle::path(&leaves, i).unwrap().iter().map(|step| Bytes::copy_from_slice(step)).collect();
        (event.signature_index, event.signature_leaves) = (u32::try_from(i).unwrap(), 2);
    }
    events
}

async fn subscribe(events: Vec<Result<GatewayEvent, Status>>, more: &[&str]) -> Done {
    let mut stage = Stage::new();
    let key = stage.path("device.pem");
    stage.call(&["client", "keygen", "--out", key.to_str().unwrap()]).await;
    let endpoint = stage.serve_tcp(Routes::new(GatewayServer::new(Play(events)))).await;
    let gateway_key = signer().public_key().to_base64();
    let own =
        ["client", "subscribe", "--key", key.to_str().unwrap(), "--session", "s", "--gateway-key", &gateway_key, "--endpoint", &endpoint];
    stage.call(&[&own[..], more].concat()).await
}

#[tokio::test]
async fn events_are_verified_alone_and_batched_and_the_gateway_s_own_do_not_count() {
    let [first, second] = batch();
    let events = [server_time("1-0"), event("2-0", "order.paid", "hi"), event("3-0", "gateway.bookmark", ""), first, second];
    let done = subscribe(events.map(Ok).to_vec(), &["--count", "3"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let key_id = signer().key_id().to_owned();
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines[0], format!("1-0  gateway.server_time  2026-01-01T00:00:00.000Z, from now on  (signed alone, verified by {key_id})"));
    assert_eq!(lines[1], format!("2-0  order.paid  hi  (signed alone, verified by {key_id})"));
    assert_eq!(lines[4], format!("5-1  order.shipped  b  (signed in a batch, verified by {key_id})"));
    assert_eq!(lines.len(), 5);
}

#[tokio::test]
async fn programs_get_one_line_an_event() {
    let done = subscribe(vec![Ok(server_time("1-0")), Ok(event("2-0", "order.paid", "hi"))], &["--count", "1", "--json"]).await;
    let lines: Vec<Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((done.code, lines.len()), (0, 2), "{done:?}");
    assert_eq!(lines[0]["server_time"]["resume"], "RESUME_NOT_REQUESTED");
    assert_eq!((&lines[1]["event_id"], &lines[1]["payload"]), (&"2-0".into(), &"hi".into()));
}

#[tokio::test]
async fn a_stream_that_cannot_be_trusted_is_exit_1_at_the_event_where_it_shows() {
    let forged = GatewayEvent { user_id: "eve".into(), ..event("2-0", "order.paid", "hi") };
    let cases = [
        (vec![server_time("1-0"), forged], "the signature does not verify", 1),
        (vec![server_time("1-0"), event("1-0", "order.paid", "hi")], "does not follow", 1),
        (vec![event("2-0", "order.paid", "hi")], "the stream opened with order.paid", 0),
    ];
    for (events, reason, shown) in cases {
        let done = subscribe(events.into_iter().map(Ok).collect(), &["--count", "1"]).await;
        assert!(done.code == 1 && done.stderr.contains(reason) && done.stdout.lines().count() == shown, "{reason}: {done:?}");
    }
}

#[tokio::test]
async fn the_verdict_that_ends_a_stream_is_shown_with_its_cursor() {
    let mut trailers = MetadataMap::new();
    trailers.insert("gateway-cursor", "1-0".parse().unwrap());
    trailers.insert("gateway-retry-after-ms", "250".parse().unwrap());
    let end = Status::with_metadata(Code::Unavailable, "gateway is shutting down", trailers);
    let done = subscribe(vec![Ok(server_time("1-0")), Err(end)], &[]).await;
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.starts_with("gatehouse: UNAVAILABLE: gateway is shutting down\n"), "{done:?}");
    assert!(done.stderr.contains("  gateway-cursor: 1-0\n") && done.stderr.contains("  gateway-retry-after-ms: 250\n"), "{done:?}");
}
