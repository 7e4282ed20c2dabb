//! `gatehouse client exec`, against a gateway that says what each test wants.

use bytes::Bytes;
use serde_json::{Value, json};
use tonic::{Code, Request, Response, Status, metadata::MetadataMap, service::Routes};

use gatehouse_proto::{
    gateway::v1::{
        ExecuteCommandRequest, ExecuteCommandResponse,
        gateway_server::{Gateway, GatewayServer},
    },
    internal::v1::{Listener, StatusResponse, supervisor_server::SupervisorServer},
    keys::{PublicKey, Signer, sha256},
    signing,
};

use crate::{
    play::{Done, Stage},
    status,
};

pub type Touch = fn(&mut ExecuteCommandResponse);

/// Answers by echoing, signed by a key, after a last touch.
struct Play {
    device: PublicKey,
    key: Signer,
    touch: Touch,
    refusal: Option<Status>,
}

pub fn signer() -> Signer {
    Signer::from_seed(&[9; 32])
}

#[tonic::async_trait]
impl Gateway for Play {
    async fn execute_command(&self, request: Request<ExecuteCommandRequest>) -> Result<Response<ExecuteCommandResponse>, Status> {
        let request = request.into_inner();
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        if !self.device.verifies(&signing::command(&request), &request.signature) {
            return Err(Status::unauthenticated("invalid request signature"));
        }
        let mut response = ExecuteCommandResponse {
            protocol_version: "v1".into(),
            request_id: request.request_id,
            result_code: "ok".into(),
            timestamp_ms: request.timestamp_ms,
            payload_hash: Bytes::copy_from_slice(&sha256(&request.payload_bytes)),
            payload_bytes: request.payload_bytes,
            signer_key_id: self.key.key_id().into(),
            ..ExecuteCommandResponse::default()
        };
        response.signature = Bytes::copy_from_slice(&self.key.sign(&signing::response(&request.device_session_id, &response)));
        (self.touch)(&mut response);
        Ok(Response::new(response))
    }
}

/// A device, and a gateway that it may speak to.
pub struct Scene {
    pub stage: Stage,
    pub endpoint: String,
    pub key: String,
}

impl Scene {
    pub async fn new(touch: Touch, refusal: Option<Status>) -> Self {
        let mut stage = Stage::new();
        let key = stage.path("device.pem").to_str().unwrap().to_owned();
        let made = stage.call(&["client", "keygen", "--out", &key]).await;
        let device = PublicKey::from_base64(made.stdout.trim()).unwrap();
        let play = Play { device, key: signer(), touch, refusal };
        let endpoint = stage.serve_tcp(Routes::new(GatewayServer::new(play))).await;
        Self { stage, endpoint, key }
    }

    async fn exec(&self, more: &[&str]) -> Done {
        let gateway_key = signer().public_key().to_base64();
        let own = [
            "client",
            "exec",
            "--key",
            &self.key,
            "--session",
            "ds-1",
            "--type",
            "demo.echo",
            "--gateway-key",
            &gateway_key,
            "--endpoint",
            &self.endpoint,
        ];
        self.stage.call(&[&own[..], more].concat()).await
    }
}

#[tokio::test]
async fn a_signed_command_gets_its_verified_answer() {
    let scene = Scene::new(|_| {}, None).await;
    let done = scene.exec(&["--payload", "hello", "--request-id", "r-1"]).await;
    let expected = format!("request      r-1\nresult_code  ok\npayload      hello\nsignature verified by {}\n", signer().key_id());
    assert_eq!((done.code, done.stdout), (0, expected), "{}", done.stderr);

    std::fs::write(scene.stage.path("payload"), b"\xff\x00").unwrap();
    let file = scene.stage.path("payload");
    let document = scene.exec(&["--payload-file", file.to_str().unwrap(), "--json"]).await.document();
    assert_eq!((&document["payload_base64"], &document["verified"], &document["payload"]), (&json!("/wA="), &json!(true), &Value::Null));
}

#[tokio::test]
async fn an_answer_that_does_not_verify_is_exit_1_and_is_not_shown() {
    let touches: [(Touch, &str); 4] = [
        (|response| response.result_code = "paid".into(), "the signature does not verify"),
        (|response| response.payload_bytes = Bytes::from_static(b"other"), "payload_hash does not match"),
        (|response| response.request_id = "r-2".into(), "request_id is not the request's"),
        (|response| response.signer_key_id = "0000000000000000".into(), "is no key of this gateway"),
    ];
    for (touch, reason) in touches {
        let done = Scene::new(touch, None).await.exec(&["--payload", "hello", "--request-id", "r-1"]).await;
        assert!(done.code == 1 && done.stdout.is_empty() && done.stderr.contains(reason), "{reason}: {done:?}");
    }
}

#[tokio::test]
async fn a_verdict_is_exit_1_with_code_message_and_trailers() {
    let mut trailers = MetadataMap::new();
    trailers.insert("gateway-server-time-ms", "1767225600000".parse().unwrap());
    let message = "request timestamp is outside the freshness window";
    let scene = Scene::new(|_| {}, Some(Status::with_metadata(Code::FailedPrecondition, message, trailers))).await;
    let done = scene.exec(&[]).await;
    let expected = format!("gatehouse: FAILED_PRECONDITION: {message}\n  gateway-server-time-ms: 1767225600000\n");
    assert_eq!((done.code, done.stderr), (1, expected));
    let error = scene.exec(&["--json"]).await.error();
    assert_eq!(error, json!({"code": "failed_precondition", "message": message, "trailers": {"gateway-server-time-ms": "1767225600000"}}));
}

#[tokio::test]
async fn nobody_at_the_endpoint_is_exit_69() {
    let stage = Stage::new();
    let key = stage.path("device.pem");
    stage.call(&["client", "keygen", "--out", key.to_str().unwrap()]).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let done = stage.call(&["client", "exec", "--key", key.to_str().unwrap(), "--session", "s", "--type", "t", "--endpoint", &free]).await;
    assert!(done.code == 69 && done.stderr.contains("refused"), "{done:?}");
}

#[tokio::test]
async fn without_flags_the_running_suite_is_found_and_tells_its_keys() {
    let mut scene = Scene::new(|_| {}, None).await;
    let keys = json!({"keys": [{"key_id": "whatever", "public_key": signer().public_key().to_base64(), "active": true}]});
    let http = keys_server(keys.to_string()).await;
    let listener = |name: &str, url: &str| Listener { name: name.into(), address: url.trim_start_matches("http://").into() };
    let suite = StatusResponse { listeners: vec![listener("grpc", &scene.endpoint), listener("http", &http)], ..StatusResponse::default() };
    scene.stage.serve_local("supervisor.sock", Routes::new(SupervisorServer::new(status::Play(suite))));
    let done = scene.stage.call(&["client", "exec", "--key", &scene.key, "--session", "ds-1", "--type", "demo.echo"]).await;
    assert!(done.code == 0 && done.stdout.contains("signature verified by"), "{done:?}");
}

/// One answer to one HTTP request.
pub async fn keys_server(body: String) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    drop(tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"GET /api/v1/public/keys HTTP/1.1\r\n"));
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    }));
    url
}
