//! Commands to HTTP backends.

use std::time::Duration;

use axum::{Router, body::Body, extract::Request as HttpRequest, response::Response as HttpResponse};
use gatehouse_proto::{
    downstream::v1::ExecuteResponse,
    gateway::v1::{ExecuteCommandRequest, ExecuteCommandResponse},
    signing,
};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
};
use tonic::{Code, Request, Status};

use crate::{
    bench::Bench,
    fakes::{Server, downstream, routed_to},
};

/// The sections that post `orders.create` to those addresses.
fn posted_to(addresses: &[String], backend: &str, command: &str) -> String {
    format!(
        "[[backend]]\nname = \"orders\"\nprotocol = \"http\"\naddresses = {addresses:?}\n{backend}\n\
         [[command]]\nmessage_type = \"orders.create\"\nbackend = \"orders\"\n{command}\n"
    )
}

async fn execute(bench: &Bench, command: ExecuteCommandRequest) -> Result<ExecuteCommandResponse, Status> {
    bench.client().execute_command(command).await.map(tonic::Response::into_inner)
}

/// A backend that answers with what it got, as JSON.
fn mirror() -> Server {
    Server::tcp(Router::new().fallback(async |request: HttpRequest| {
        let (parts, body) = request.into_parts();
        let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap())));
        let headers: serde_json::Map<_, _> = headers.collect();
        let body = body.collect().await.unwrap().to_bytes();
        let got = json!({"method": parts.method.as_str(), "target": parts.uri.to_string(), "headers": headers, "body": body.to_vec()});
        HttpResponse::builder().status(201).header("gateway-result-code", "created").body(Body::from(got.to_string())).unwrap()
    }))
}

/// A backend that answers with the status and the text that the payload says.
fn says() -> Server {
    Server::tcp(Router::new().fallback(async |request: HttpRequest| {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let (status, text) = std::str::from_utf8(&body).unwrap().split_once(' ').unwrap();
        let response = HttpResponse::builder().status(status).header("content-type", "text/plain").header("location", "/elsewhere");
        response.body(Body::from(text.to_owned())).unwrap()
    }))
}

/// A backend that says these bytes to whatever comes, and closes.
async fn blurts(bytes: &'static [u8], running: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    running.spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _head = socket.read(&mut [0; 4096]).await;
            let _gone = socket.write_all(bytes).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_posted_with_everything_a_handler_needs() {
    let server = mirror();
    let text = posted_to(&[server.address().to_string()], "path = \"/commands\"\ntimeout = \"20s\"", "");
    let other = "[[command]]\nmessage_type = \"orders.list\"\nbackend = \"orders\"\npath = \"/list?all\"";
    let bench = Bench::start(&format!("{text}{other}")).await;
    let mut command = bench.command("orders.create", "r 1", b"\x00\xff");
    command.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
    let answer = execute(&bench, command.clone()).await.unwrap();
    assert_eq!(answer.result_code, "created");
    assert!(bench.gateway.public_key().verifies(&signing::response("ds-1", &answer), &answer.signature));
    let got: Value = serde_json::from_slice(&answer.payload_bytes).unwrap();
    assert_eq!((got["method"].as_str(), got["target"].as_str(), &got["body"]), (Some("POST"), Some("/commands"), &json!([0, 255])));
    let header = |name: &str| got["headers"][name].as_str().unwrap_or_default().to_owned();
    assert_eq!((header("gateway-message-type"), header("gateway-request-id")), ("orders.create".into(), "r%201".into()));
    assert_eq!((header("gateway-user-id"), header("gateway-device-session-id")), ("u-1".into(), "ds-1".into()));
    assert_eq!((header("gateway-timestamp-ms"), header("traceparent")), (command.timestamp_ms.to_string(), command.traceparent));
    assert_eq!((header("host"), header("content-type")), (server.address().to_string(), "application/octet-stream".into()));
    let left: u64 = header("gateway-timeout-ms").parse().unwrap();
    assert!((1..=20_000).contains(&left), "{left}");
    assert_eq!(bench.metric("downstream_requests_total", &[("backend", "orders"), ("outcome", "ok")]), 1);

    let listed = execute(&bench, bench.command("orders.list", "r-2", b"")).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&listed.payload_bytes).unwrap()["target"], "/list?all");
    assert_eq!(bench.record("r-2").await.resource.as_deref(), Some("orders"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_that_is_left_is_passed_on_to_grpc_too() {
    let (seen, mut calls) = mpsc::unbounded_channel();
    let server = downstream(move |request| {
        let timeout = request.metadata().get("grpc-timeout").map(|value| value.to_str().unwrap().to_owned());
        seen.send(timeout).unwrap();
        Box::pin(async { Ok(ExecuteResponse::default()) })
    });
    let bench = Bench::start(&routed_to(server.address(), "timeout = \"1h\"")).await;
    let mut request = Request::new(bench.command("orders.create", "r-1", b""));
    request.set_timeout(Duration::from_mins(1));
    bench.client().execute_command(request).await.unwrap();
    let timeout = calls.recv().await.unwrap().expect("a deadline");
    let micros: u64 = timeout.strip_suffix('u').expect(&timeout).parse().unwrap();
    assert!((1..=60_000_000).contains(&micros), "the client's, less what is past: {micros}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_status_has_its_verdict() {
    let server = says();
    let text = posted_to(&[server.address().to_string()], "circuit_breaker.failure_percent = 0", "");
    let bench = Bench::start(&text).await;
    for (i, (status, code, message)) in [
        (400, Code::InvalidArgument, "why"),
        (403, Code::PermissionDenied, "why"),
        (404, Code::NotFound, "why"),
        (409, Code::Aborted, "why"),
        (429, Code::ResourceExhausted, "why"),
        (500, Code::Internal, "why"),
        (302, Code::Unknown, "why"),
        (502, Code::Unavailable, "downstream is unavailable"),
        (503, Code::Unavailable, "downstream is unavailable"),
        (504, Code::DeadlineExceeded, "downstream timed out"),
    ]
    .into_iter()
    .enumerate()
    {
        let command = bench.command("orders.create", &format!("r-{i}"), format!("{status} why").as_bytes());
        let refused = execute(&bench, command).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (code, message), "{status}");
    }
    let answer = execute(&bench, bench.command("orders.create", "r", b"200 fine")).await.unwrap();
    assert_eq!((answer.result_code.as_str(), &answer.payload_bytes[..]), ("ok", &b"fine"[..]));
    let outcome = |outcome| bench.metric("downstream_requests_total", &[("outcome", outcome)]);
    assert_eq!((outcome("refused"), outcome("unavailable"), outcome("timed_out"), outcome("ok")), (7, 2, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_is_unavailable_and_silence_is_a_time_out() {
    let mut running = JoinSet::new();
    let mut addresses = Vec::new();
    for bytes in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\ngateway-result-code: \xff\r\ncontent-length: 0\r\n\r\n",
        b"220 mail.example.com ESMTP\r\n",
        b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    ] {
        addresses.push(blurts(bytes, &mut running).await);
    }
    for (i, address) in addresses.into_iter().enumerate() {
        let bench = Bench::start(&posted_to(&[address], "", "idempotent = true")).await;
        let status = execute(&bench, bench.command("orders.create", "r-1", b"")).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "downstream is unavailable"), "{i}");
    }
    let large = Server::tcp(Router::new().fallback(async || vec![7_u8; (4 << 20) + 1]));
    let bench = Bench::start(&posted_to(&[large.address().to_string()], "", "")).await;
    let status = execute(&bench, bench.command("orders.create", "r-1", b"")).await.unwrap_err();
    assert_eq!(status.message(), "downstream is unavailable", "too large");
    let silent = Server::tcp(Router::new().fallback(std::future::pending::<()>));
    let bench = Bench::start(&posted_to(&[silent.address().to_string()], "", "timeout = \"100ms\"")).await;
    let status = execute(&bench, bench.command("orders.create", "r-1", b"")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "downstream timed out"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_idempotent_command_is_posted_twice() {
    let mut running = JoinSet::new();
    let (bad, good) = (blurts(b"", &mut running).await, mirror());
    let backend = "outlier_ejection.max_percent = 0\nretry_budget.percent = 100";
    let addresses = [bad, good.address().to_string()];
    let bench = Bench::start(&posted_to(&addresses, backend, "idempotent = true")).await;
    for i in 0..5 {
        execute(&bench, bench.command("orders.create", &format!("r-{i}"), b"")).await.expect("another endpoint answers");
    }
    assert!(bench.metric("downstream_retries_total", &[("reason", "idempotent")]) >= 1);
    let bench = Bench::start(&posted_to(&addresses, backend, "")).await;
    let mut failed = 0;
    for i in 0..5 {
        failed += u64::from(execute(&bench, bench.command("orders.create", &format!("r-{i}"), b"")).await.is_err());
    }
    assert!(failed >= 1);
    assert_eq!(bench.metric("downstream_retries_total", &[]), 0);
}
