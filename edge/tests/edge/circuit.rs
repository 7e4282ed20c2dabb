//! What an operator sees of a backend's circuit and its endpoints, by commands and by HTTP routes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use axum::{Router, response::Response};
use http::StatusCode;
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::{
    bench::{Bench, until},
    fakes::{Server, echo, routed_to},
    http::raw,
    wire::{Backend, Wire},
};

/// A backend that answers with a status of the test's choice.
fn moody(status: &Arc<AtomicU16>) -> Server {
    let status = Arc::clone(status);
    Server::tcp(Router::new().fallback(move || {
        let status = StatusCode::from_u16(status.load(Ordering::SeqCst)).unwrap();
        async move {
            let mut response = Response::new(axum::body::Body::from("here"));
            *response.status_mut() = status;
            response
        }
    }))
}

fn shop(addresses: &[String], keys: &str) -> String {
    format!(
        "[[backend]]\nname = \"shop\"\nprotocol = \"http\"\naddresses = {addresses:?}\n{keys}\n\
         [[route]]\nprefix = \"/shop\"\nbackend = \"shop\"\n"
    )
}

async fn status_of(bench: &Bench) -> u16 {
    raw(bench.http, "GET /shop HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n\r\n").await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_circuit_answers_commands_at_once_and_is_seen_in_the_metrics() {
    let dir = crate::bench::dir();
    let nobody = format!("unix:{}/nobody.sock", dir.path().display());
    let keys = "[backend.circuit_breaker]\nmin_requests = 3\nwindow = \"1h\"\nopen_time = \"1h\"";
    let text = routed_to(nobody, "").replace("[[command]]", &format!("{keys}\n[[command]]"));
    let bench = Bench::start(&text).await;
    for i in 0..5 {
        let command = bench.command("orders.create", &format!("r-{i}"), b"");
        let status = bench.client().execute_command(command).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "downstream is unavailable"));
        assert_eq!(bench.record(&format!("r-{i}")).await.status, "error");
    }
    assert_eq!(bench.metric("circuit_breaker_state", &[("backend", "orders")]), 2);
    assert_eq!(bench.metric("circuit_breaker_rejected_total", &[("backend", "orders")]), 2);
    assert_eq!(bench.metric("downstream_requests_total", &[("backend", "orders")]), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_circuit_is_zero_from_the_start() {
    let server = echo();
    let bench = Bench::start(&routed_to(server.address(), "")).await;
    let text = bench.process.metrics().text();
    for sample in ["circuit_breaker_state{", "circuit_breaker_rejected_total{"] {
        let line = text.lines().find(|line| line.starts_with(sample) && line.contains("backend=\"orders\"")).expect(sample);
        assert!(line.ends_with(" 0"), "{line}");
    }
    assert_eq!(bench.metric("backend_endpoints", &[("backend", "orders"), ("state", "healthy")]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_have_the_same_circuit_and_recover() {
    let status = Arc::new(AtomicU16::new(503));
    let server = moody(&status);
    let keys = "[backend.circuit_breaker]\nmin_requests = 3\nopen_time = \"2s\"\nprobes = 1";
    let bench = Bench::start(&shop(&[server.address().to_string()], keys)).await;
    until("it opens", async || {
        // What the backend says passes; what the circuit says is ours.
        assert!(matches!(status_of(&bench).await, 502 | 503));
        (bench.metric("circuit_breaker_rejected_total", &[("backend", "shop")]) >= 1).then_some(())
    })
    .await;
    status.store(500, Ordering::SeqCst);
    until("an error of its own is an answer, and closes it", async || {
        let (answer, state) = (status_of(&bench).await, bench.metric("circuit_breaker_state", &[("backend", "shop")]));
        (answer == 500 && state == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_uses_the_endpoints_that_are_there() {
    let dir = crate::bench::dir();
    let nobody = format!("unix:{}/nobody.sock", dir.path().display());
    let status = Arc::new(AtomicU16::new(200));
    let server = moody(&status);
    let bench = Bench::start(&shop(&[nobody, server.address().to_string()], "")).await;
    for _ in 0..20 {
        assert_eq!(status_of(&bench).await, 200);
    }
    let posted = "POST /shop HTTP/1.1\r\nhost: gate\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc";
    assert_eq!(raw(bench.http, posted).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_of_an_http_backend_ask_for_its_path() {
    let (sick, good) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(200)));
    let servers = [moody(&sick), moody(&good)];
    let keys = "connect_timeout = \"30s\"\n[backend.health_check]\ninterval = \"20ms\"\ntimeout = \"10s\"\npath = \"/healthz\"\nunhealthy_threshold = 1\nhealthy_threshold = 1";
    let bench = Bench::start(&shop(&servers.each_ref().map(|server| server.address().to_string()), keys)).await;
    let count = |state| bench.metric("backend_endpoints", &[("backend", "shop"), ("state", state)]);
    for (status, unhealthy) in [(503, 1), (200, 0), (404, 1), (204, 0)] {
        sick.store(status, Ordering::SeqCst);
        until("it is noticed", async || (count("unhealthy") == unhealthy).then_some(())).await;
        assert_eq!(status_of(&bench).await / 100, 2, "the other one answers");
    }
}

const GET: &str = "GET /shop HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n\r\n";

/// A request whose answer has begun: its client, and the connection behind.
async fn begun(bench: &Bench, backend: &Backend) -> (Wire, Wire) {
    let mut client = Wire::connect(bench.http).await;
    client.send(GET).await;
    let mut behind = backend.accept().await;
    behind.until("\r\n\r\n").await;
    behind.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc").await;
    client.until("abc").await;
    (client, behind)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_a_failure_and_counts_once() {
    let backend = Backend::listen().await;
    // Open when all of three have failed: neither sooner, nor with a success among them.
    let keys = "[backend.circuit_breaker]\nmin_requests = 3\nfailure_percent = 100\nwindow = \"10m\"\nopen_time = \"10m\"";
    let text = shop(&[backend.address().to_string()], keys) + "read_timeout = \"300ms\"\n";
    let bench = Bench::start(&text).await;
    for i in 0..3 {
        assert_eq!(bench.metric("circuit_breaker_state", &[("backend", "shop")]), 0, "{i}");
        let (mut client, behind) = begun(&bench, &backend).await;
        // Broken off, and at last gone silent.
        let silent = (i == 2).then_some(behind);
        client.rest().await;
        drop(silent);
    }
    until("it opens", async || (bench.metric("circuit_breaker_state", &[("backend", "shop")]) == 2).then_some(())).await;
    let cut = |reason| bench.metric("http_answers_cut_total", &[("backend", "shop"), ("reason", reason)]);
    // On a busy machine one of the others may look silent, too.
    assert!(cut("stalled") >= 1 && cut("stalled") + cut("broken_off") == 3);
    assert_eq!(status_of(&bench).await, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_the_middle_of_an_answer_is_no_failure() {
    let backend = Backend::listen().await;
    let keys = "[backend.circuit_breaker]\nmin_requests = 1\nfailure_percent = 1\nwindow = \"10m\"\nopen_time = \"10m\"";
    let bench = Bench::start(&shop(&[backend.address().to_string()], keys)).await;
    for _ in 0..3 {
        let (client, mut behind) = begun(&bench, &backend).await;
        drop(client);
        behind.rest().await;
    }
    let (mut client, mut behind) = begun(&bench, &backend).await;
    behind.send("defghi").await;
    assert!(client.rest().await.ends_with("abcdefghi"));
    assert_eq!(bench.metric("circuit_breaker_state", &[("backend", "shop")]), 0);
    assert_eq!(bench.metric("http_answers_cut_total", &[]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_whose_answers_break_off_is_ejected() {
    let breaks = Server::tcp(Router::new().fallback(async || {
        let end = tokio_stream::once(()).then(async |()| {
            // So that head and beginning are out before.
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err(std::io::Error::other("as tested"))
        });
        let begin = tokio_stream::once(Ok(bytes::Bytes::from_static(b"abc")));
        Response::new(axum::body::Body::from_stream(begin.chain(end)))
    }));
    let good = moody(&Arc::new(AtomicU16::new(200)));
    let keys = "outlier_ejection.consecutive_failures = 3\noutlier_ejection.base_time = \"10m\"\noutlier_ejection.max_time = \"10m\"\n\
                circuit_breaker.failure_percent = 0";
    let bench = Bench::start(&shop(&[breaks.address().to_string(), good.address().to_string()], keys)).await;
    until("it is ejected", async || {
        let mut client = Wire::connect(bench.http).await;
        client.send(GET).await;
        client.rest().await;
        (bench.metric("backend_ejections_total", &[("backend", "shop")]) == 1).then_some(())
    })
    .await;
    for _ in 0..10 {
        assert_eq!(status_of(&bench).await, 200);
    }
}
