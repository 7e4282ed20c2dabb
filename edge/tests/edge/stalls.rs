//! Who goes silent in the middle does not hold a connection for ever, and who is merely slow is not cut.

use std::time::Duration;

use axum::{Router, body::Body, extract::Request, response::Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_stream::StreamExt as _;

use crate::{
    bench::{Bench, until},
    fakes::Server,
    forward::{measuring, routed},
    wire::{Backend, Wire},
};

/// How often somebody slow gets on, and how long that goes on: longer than any one silence may last.
const STEP: Duration = Duration::from_secs(1);
const STEPS: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_sending_is_told_so_and_its_backend_is_let_go() {
    let backend = Backend::listen().await;
    let bench = Bench::start(&routed(backend.address(), "", "body_timeout = \"300ms\"")).await;
    for framing in ["content-length: 5", "transfer-encoding: chunked"] {
        let mut client = Wire::connect(bench.http).await;
        client.send(&format!("POST /shop HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n")).await;
        let mut behind = backend.accept().await;
        let seen = client.rest().await;
        assert!(seen.starts_with("HTTP/1.1 408") && seen.contains("\"request_timeout\""), "{seen}");
        assert!(!behind.rest().await.ends_with("\r\n0\r\n\r\n"), "the backend is not told that this was all");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_slowly_and_steadily_is_served() {
    let server = measuring();
    let bench = Bench::start(&routed(server.address(), "", "body_timeout = \"10s\"")).await;
    let mut client = Wire::connect(bench.http).await;
    client.send(&format!("POST /shop HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {STEPS}\r\n\r\n")).await;
    for _ in 0..STEPS {
        tokio::time::sleep(STEP).await;
        client.send("x").await;
    }
    let seen = client.rest().await;
    assert!(seen.starts_with("HTTP/1.1 200") && seen.ends_with(&format!("\r\n\r\n{STEPS}")), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_goes_silent_in_its_answer_is_cut_and_counted() {
    let backend = Backend::listen().await;
    let bench = Bench::start(&routed(backend.address(), "", "read_timeout = \"300ms\"")).await;
    let mut client = Wire::connect(bench.http).await;
    client.send("GET /shop HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut behind = backend.accept().await;
    behind.until("\r\n\r\n").await;
    behind.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    let seen = client.rest().await;
    assert!(seen.starts_with("HTTP/1.1 200") && !seen.contains("\r\n0\r\n\r\n"), "{seen}");
    behind.rest().await;
    let stalled = || bench.metric("http_answers_cut_total", &[("backend", "shop"), ("reason", "stalled")]);
    until("it is counted", async || (stalled() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_answers_slowly_and_steadily_is_not_cut() {
    let server = Server::tcp(Router::new().fallback(async |_: Request| {
        let slowly = tokio_stream::iter(0..STEPS).then(async |_| {
            tokio::time::sleep(STEP).await;
            Ok::<_, std::io::Error>(Bytes::from_static(b"x"))
        });
        Response::new(Body::from_stream(slowly))
    }));
    let bench = Bench::start(&routed(server.address(), "", "read_timeout = \"10s\"\ntimeout = \"10s\"")).await;
    let mut client = Wire::connect(bench.http).await;
    client.send("GET /shop HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    let seen = client.rest().await;
    assert_eq!(seen.matches("1\r\nx\r\n").count(), STEPS, "{seen}");
    assert!(seen.ends_with("0\r\n\r\n"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_gets_all_of_it() {
    const SIZE: usize = 24 << 20;
    let server = Server::tcp(Router::new().fallback(async || vec![b'x'; SIZE]));
    let bench = Bench::start(&routed(server.address(), "", "read_timeout = \"10s\"")).await;
    let mut stream = TcpStream::connect(bench.http).await.unwrap();
    stream.write_all(b"GET /shop HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    // Longer than a backend may be silent, which it is not: nobody asks it.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let mut seen = Vec::new();
    tokio::time::timeout(Duration::from_mins(1), stream.read_to_end(&mut seen)).await.expect("all of it").unwrap();
    assert!(seen.len() > SIZE && seen.ends_with(b"xxx"), "{}", seen.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_takes_no_more_of_an_upload_is_given_up() {
    let backend = Backend::listen().await;
    let route = "max_body_bytes = \"4GiB\"\nwrite_timeout = \"300ms\"";
    let bench = Bench::start(&routed(backend.address(), "", route)).await;
    let client = Wire::connect(bench.http).await;
    let (mut reads, mut writes) = client.into_stream().into_split();
    let head = format!("POST /shop HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", 1_u64 << 31);
    writes.write_all(head.as_bytes()).await.unwrap();
    let behind = backend.accept().await;
    let piece = vec![b'x'; 64 << 10];
    bench.process.spawn("upload", async move { while writes.write_all(&piece).await.is_ok() {} });
    let mut seen = Vec::new();
    let read = tokio::time::timeout(Duration::from_mins(1), async {
        while !seen.windows(15).any(|text| text == b"gateway_timeout") {
            let mut buffer = [0; 4096];
            let read = reads.read(&mut buffer).await.unwrap();
            assert_ne!(read, 0, "{}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..read]);
        }
    });
    read.await.expect("an answer");
    assert!(seen.starts_with(b"HTTP/1.1 504"));
    drop(behind);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_one_stream_stalls_alone() {
    let server = measuring();
    let bench = Bench::start(&routed(server.address(), "", "body_timeout = \"300ms\"")).await;
    let stream = TokioIo::new(TcpStream::connect(bench.http).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    bench.process.spawn("h2-client", async move { drop(connection.await) });
    let body = Body::from_stream(tokio_stream::once(Ok::<_, std::io::Error>(Bytes::from_static(b"x"))).chain(tokio_stream::pending()));
    let post = |body| http::Request::post("http://a/shop").body(body).unwrap();
    let stalled = sender.send_request(post(body)).await.unwrap();
    assert_eq!(stalled.status(), 408);
    let text = stalled.into_body().collect().await.unwrap().to_bytes();
    assert!(text.windows(15).any(|part| part == b"request_timeout"), "{text:?}");
    let whole = sender.send_request(http::Request::post("http://a/other").body(Body::from("abc")).unwrap()).await.unwrap();
    assert_eq!(whole.status(), 200);
    assert_eq!(&whole.into_body().collect().await.unwrap().to_bytes()[..], b"3");

    // An answer that is cut resets its stream, and no other.
    let backend = Backend::listen().await;
    let bench = Bench::start(&routed(backend.address(), "", "read_timeout = \"3s\"")).await;
    let stream = TokioIo::new(TcpStream::connect(bench.http).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    bench.process.spawn("h2-client", async move { drop(connection.await) });
    let mut other = sender.clone();
    let ask = async {
        let cut = sender.send_request(post(Body::empty())).await.unwrap();
        assert_eq!(cut.status(), 200);
        cut.into_body().collect().await.expect_err("it is cut");
    };
    let act = async {
        let mut behind = backend.accept().await;
        behind.until("\r\n\r\n").await;
        behind.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc").await;
        behind.rest().await;
    };
    tokio::join!(ask, act);
    let health = other.send_request(http::Request::get("http://a/healthz").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(health.status(), 200);
}
