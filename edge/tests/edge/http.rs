//! The public listener, byte by byte.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, body::Body, extract::Request, response::Response};
use gatehouse_chassis::connections::Peer;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{bench::Bench, fakes::Server};

pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Sends bytes as they are; reads until the connection is closed.
pub(crate) async fn raw(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_mins(1), stream.read_to_end(&mut answer)).await.expect("an answer").unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer:?}"));
    Answer { status: head.split(' ').nth(1).unwrap().parse().unwrap(), head: head.to_owned(), body: body.to_owned() }
}

pub(crate) async fn get(bench: &Bench, path: &str) -> Answer {
    request(bench, "GET", path, "").await
}

pub(crate) async fn request(bench: &Bench, method: &str, path: &str, headers: &str) -> Answer {
    raw(bench.http, &format!("{method} {path} HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n{headers}\r\n")).await
}

/// A backend that answers with what it got.
pub(crate) fn mirror() -> Server {
    Server::tcp(Router::new().fallback(async |request: Request| {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let headers: Vec<_> = parts.headers.iter().map(|(name, value)| json!([name.as_str(), value.to_str().unwrap()])).collect();
        assert!(parts.extensions.get::<Peer>().is_some());
        let got = json!({
            "method": parts.method.as_str(), "target": parts.uri.to_string(), "version": format!("{:?}", parts.version),
            "headers": headers, "body": String::from_utf8(body.to_vec()).unwrap(),
        });
        let mut response = Response::new(Body::from(got.to_string()));
        response.headers_mut().insert("x-request-id", "the-backend-s".parse().unwrap());
        response.headers_mut().insert("keep-alive", "timeout=5".parse().unwrap());
        response.headers_mut().insert("x-own", "1".parse().unwrap());
        response
    }))
}

fn routes(address: impl std::fmt::Display) -> String {
    format!(
        "[[backend]]\nname = \"shop\"\nprotocol = \"http\"\naddress = \"http://{address}\"\ntimeout = \"1m\"\n[http]\nbody_timeout = \"1m\"\n\
         [[route]]\nprefix = \"/shop\"\nbackend = \"shop\"\n\
         [[route]]\nprefix = \"/cut\"\nbackend = \"shop\"\nstrip_prefix = true\naudit = \"required\"\n\
         [auth]\nbackend = \"shop\"\n"
    )
}

fn header<'a>(got: &'a Value, name: &str) -> Option<&'a str> {
    let mut headers = got["headers"].as_array().unwrap().iter();
    headers.find(|header| header[0] == name).and_then(|header| header[1].as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_that_the_process_is_alive_and_asks_nothing() {
    let mut bench = Bench::start("").await;
    bench.redis.kill9();
    for path in ["/healthz", "/health", "/api/v1/health"] {
        let answer = get(&bench, path).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"status": "ok"})), "{path}");
        assert!(answer.header("x-request-id").is_some());
        assert_eq!(bench.metric("http_requests_total", &[("route", path), ("method", "GET"), ("status", "200")]), 1);
    }
    assert_eq!(get(&bench, "/readyz").await.status, 200);
    for path in ["/healthz", "/api/v1/public/keys"] {
        let (head, whole) = (request(&bench, "HEAD", path, "").await, get(&bench, path).await);
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        assert_eq!(head.header("content-length"), Some(whole.body.len().to_string().as_str()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn public_keys_verify_what_the_gateway_signs() {
    let bench = Bench::start("").await;
    let answer = get(&bench, "/api/v1/public/keys").await;
    let key = bench.gateway.public_key();
    let wanted = json!({"keys": [{"key_id": bench.gateway.key_id(), "public_key": key.to_base64(), "active": true}]});
    assert_eq!((answer.status, answer.json()), (200, wanted));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_one_shape_and_carry_the_request_s_id() {
    let bench = Bench::start("").await;
    for (method, path, status, code) in [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("DELETE", "/api/v1/public/keys", 405, "method_not_allowed"),
        ("POST", "/api/v1/public/auth/login", 503, "service_unavailable"),
        ("GET", "/a/..%2fb", 400, "bad_request"),
        ("GET", "/a%00", 400, "bad_request"),
        ("OPTIONS", "*", 400, "bad_request"),
        ("GET", "/%68ealthz", 400, "bad_request"),
    ] {
        let answer = request(&bench, method, path, "x-request-id: mine-1\r\n").await;
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, error["code"].as_str()), (status, Some(code)), "{method} {path}");
        assert_eq!((error["request_id"].as_str(), answer.header("x-request-id")), (Some("mine-1"), Some("mine-1")));
        assert!(!error["message"].as_str().unwrap().is_empty());
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    for insane in ["x".repeat(129), "a b".into(), "ä".into()] {
        let answer = request(&bench, "GET", "/nowhere", &format!("x-request-id: {insane}\r\n")).await;
        assert!(uuid::Uuid::parse_str(answer.header("x-request-id").unwrap()).is_ok(), "{insane}");
    }
    assert!(bench.metric("http_requests_total", &[("route", "none"), ("status", "404")]) >= 1);
    assert!(bench.records().await.is_empty(), "strangers do not fill the trail");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_two_servers_read_differently_are_refused() {
    let server = mirror();
    let bench = Bench::start(&routes(server.address())).await;
    for (what, text) in [
        ("no Host", "GET /shop HTTP/1.1\r\nconnection: close\r\n\r\n"),
        ("two Hosts", "GET /shop HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n"),
        ("a target that contradicts Host", "GET http://b/shop HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"),
    ] {
        assert_eq!(raw(bench.http, text).await.status, 400, "{what}");
    }
    let both = "POST /shop HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let got = raw(bench.http, both).await.json();
    assert_eq!(
        (got["body"].as_str(), header(&got, "content-length")),
        (Some("abc"), None),
        "the length is not believed, and not passed on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxied_request_keeps_what_is_end_to_end_and_loses_what_is_of_the_hop() {
    let server = mirror();
    let bench = Bench::start(&routes(server.address())).await;
    let text = "POST /shop/a%20b?x=1&y HTTP/1.1\r\nhost: gate.example\r\nconnection: close, x-mine\r\nx-mine: 1\r\nte: trailers\r\n\
                x-forwarded-for: 198.51.100.1\r\nx-request-id: r-1\r\naccept: a/b\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let answer = raw(bench.http, text).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!((answer.header("x-request-id"), answer.header("x-own")), (Some("r-1"), Some("1")));
    assert_eq!(answer.header("keep-alive"), None);
    let got = answer.json();
    assert_eq!(
        (got["method"].as_str(), got["target"].as_str(), got["version"].as_str()),
        (Some("POST"), Some("/shop/a%20b?x=1&y"), Some("HTTP/1.1"))
    );
    assert_eq!(got["body"], "abc");
    assert_eq!(header(&got, "host"), Some(server.address().to_string().as_str()));
    assert_eq!(header(&got, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!((header(&got, "x-forwarded-host"), header(&got, "x-forwarded-proto")), (Some("gate.example"), Some("http")));
    assert_eq!((header(&got, "x-request-id"), header(&got, "accept")), (Some("r-1"), Some("a/b")));
    assert_eq!((header(&got, "x-mine"), header(&got, "te"), header(&got, "connection")), (None, Some("trailers"), Some("te")));
    let record = bench.record_soon("r-1").await;
    assert_eq!((record.action_type.as_str(), record.action.as_str(), record.http_status), ("http", "/shop", Some(200)));
    assert_eq!((record.resource.as_deref(), record.status.as_str(), record.user_id), (Some("shop"), "success", None));
    assert_eq!(bench.metric("http_requests_total", &[("route", "/shop"), ("method", "POST"), ("status", "200")]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_cut_where_the_route_says_so_and_a_required_record_comes_first() {
    let server = mirror();
    let bench = Bench::start(&routes(server.address())).await;
    for (path, target) in [("/cut/a?b", "/a?b"), ("/cut", "/"), ("/cut?b", "/?b"), ("/shop/cut", "/shop/cut")] {
        assert_eq!(get(&bench, path).await.json()["target"], target, "{path}");
    }
    let answer = request(&bench, "GET", "/cut/x", "x-request-id: r-1\r\n").await;
    assert_eq!((answer.status, bench.record("r-1").await.action.as_str()), (200, "/cut"));
    assert_eq!(get(&bench, "/api/v1/public/auth/login").await.json()["target"], "/api/v1/public/auth/login");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_2_client_reaches_an_http_1_backend() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let server = mirror();
    let bench = Bench::start(&routes(server.address())).await;
    let stream = TokioIo::new(TcpStream::connect(bench.http).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    bench.process.spawn("h2-client", async move { connection.await.unwrap() });
    let request = http::Request::post("http://gate.example/shop/x").header("cookie", "a=1").header("cookie", "b=2");
    let answer = sender.send_request(request.body(Body::from("abc")).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let got: Value = serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!((got["version"].as_str(), got["target"].as_str(), got["body"].as_str()), (Some("HTTP/1.1"), Some("/shop/x"), Some("abc")));
    assert_eq!((header(&got, "x-forwarded-host"), header(&got, "cookie")), (Some("gate.example"), Some("a=1; b=2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_names_a_user_is_refused_over_http_2_too() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let server = mirror();
    let bench = Bench::start(&routes(server.address())).await;
    let stream = TokioIo::new(TcpStream::connect(bench.http).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    bench.process.spawn("h2-client", async move { connection.await.unwrap() });
    for (authority, status) in [("user@bank.example", 400), ("gate.example@bank.example:80", 400), ("gate.example", 200)] {
        let request = http::Request::get(format!("http://{authority}/shop")).body(Body::empty()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), status, "{authority}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_is_not_passed_on_is_told_which_are() {
    let server = mirror();
    let bench = Bench::start(&routes(server.address()).replace("/cut", "/")).await;
    for (method, target, allowed) in [
        ("POST", "/healthz", "GET, HEAD"),
        ("TRACE", "/healthz", "GET, HEAD"),
        ("TRACE", "/shop", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("TRACE", "/api/v1/public/auth/login", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    ] {
        let answer = request(&bench, method, target, "").await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allowed)), "{method} {target}");
    }
    for (method, target) in [("OPTIONS", "*"), ("GET", "*"), ("CONNECT", "shop.example:80")] {
        let answer = raw(
            bench.http,
            &format!(
                "{method} {target} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
                if method == "CONNECT" { target } else { "gate" }
            ),
        )
        .await;
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (400, Some("bad_request")), "{method} {target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_dead_or_slow_is_said_to_be() {
    let gone = mirror().address();
    let bench = Bench::start(&routes(gone)).await;
    let answer = get(&bench, "/shop").await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (502, Some("bad_gateway")));

    let silent = Server::tcp(Router::new().fallback(std::future::pending::<()>));
    let bench = Bench::start(&routes(silent.address()).replace("timeout = \"1m\"", "timeout = \"1s\"")).await;
    let answer = request(&bench, "GET", "/shop", "x-request-id: r-1\r\n").await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (504, Some("gateway_timeout")));
    assert_eq!((bench.record_soon("r-1").await.http_status, bench.record_soon("r-1").await.status.as_str()), (Some(504), "error"));

    let reads = mirror();
    let bench = Bench::start(&routes(reads.address()).replace("body_timeout = \"1m\"", "body_timeout = \"1s\"")).await;
    let answer = request(&bench, "POST", "/shop", "content-length: 5\r\n").await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (408, Some("request_timeout")), "the client sends no body");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_past_the_timeout() {
    let server = Server::tcp(Router::new().fallback(async |request: Request| Response::new(request.into_body())));
    let bench = Bench::start(&routes(server.address())).await;
    let mut stream = TcpStream::connect(bench.http).await.unwrap();
    stream.write_all(b"POST /shop HTTP/1.1\r\nhost: gate\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    let mut seen = String::new();
    for chunk in ["one", "two", "end"] {
        stream.write_all(format!("3\r\n{chunk}\r\n").as_bytes()).await.unwrap();
        // Each comes back while the rest has not been sent.
        while !seen.contains(chunk) {
            let mut buffer = [0; 1024];
            let read = stream.read(&mut buffer).await.unwrap();
            assert_ne!(read, 0, "{seen}");
            seen.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    stream.read_to_string(&mut seen).await.unwrap();
    assert!(seen.starts_with("HTTP/1.1 200") && seen.ends_with("0\r\n\r\n"), "{seen}");
}
