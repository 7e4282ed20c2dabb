//! What a forwarder owes both sides: limits, trailers, `Expect`, redirects that are not its own, and faults laid to whom they belong.

use axum::{Router, body::Body, extract::Request, response::Response};
use http_body_util::BodyExt as _;

use crate::{
    bench::{Bench, until},
    fakes::Server,
    http::raw,
    wire::{Backend, Wire},
};

/// `/shop` and the auth routes go to that backend.
pub(crate) fn routed(address: impl std::fmt::Display, http: &str, route: &str) -> String {
    format!(
        "[[backend]]\nname = \"shop\"\nprotocol = \"http\"\naddress = \"http://{address}\"\ntimeout = \"60s\"\n\
         [http]\n{http}\n[[route]]\nprefix = \"/shop\"\nbackend = \"shop\"\n{route}\n\
         [[route]]\nprefix = \"/other\"\nbackend = \"shop\"\n[auth]\nbackend = \"shop\"\n"
    )
}

/// A backend that says how long the body was.
pub(crate) fn measuring() -> Server {
    Server::tcp(Router::new().fallback(async |request: Request| match request.into_body().collect().await {
        Ok(body) => Response::new(Body::from(body.to_bytes().len().to_string())),
        Err(_) => Response::new(Body::from("broken")),
    }))
}

fn cut(bench: &Bench, reason: &str) -> u64 {
    bench.metric("http_answers_cut_total", &[("backend", "shop"), ("reason", reason)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_long_is_refused_whether_its_length_is_told_or_not() {
    let server = measuring();
    let bench = Bench::start(&routed(server.address(), "max_body_bytes = 4", "max_body_bytes = \"1KiB\"")).await;
    let post =
        |path: &str, framing: &str, body: &str| format!("POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{framing}\r\n\r\n{body}");
    let told = |path, bytes: usize| post(path, &format!("content-length: {bytes}"), &"x".repeat(bytes));
    let chunked = |path, bytes: usize| {
        post(path, "transfer-encoding: chunked", &format!("1\r\nx\r\n{:x}\r\n{}\r\n0\r\n\r\n", bytes - 1, "x".repeat(bytes - 1)))
    };
    for (path, most) in [("/shop", 1024), ("/other", 4), ("/api/v1/public/auth/login", 4)] {
        for request in [told(path, most), chunked(path, most)] {
            let answer = raw(bench.http, &request).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, most.to_string().as_str()), "{path}");
        }
        for request in [told(path, most + 1), chunked(path, most + 1)] {
            let answer = raw(bench.http, &request).await;
            assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (413, Some("payload_too_large")), "{path}");
            assert!(answer.header("x-request-id").is_some());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_asked_for_its_body_when_it_is_wanted_and_not_otherwise() {
    let server = measuring();
    let bench = Bench::start(&routed(server.address(), "", "max_body_bytes = 3")).await;
    let mut client = Wire::connect(bench.http).await;
    client.send("POST /shop HTTP/1.1\r\nhost: a\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").await;
    client.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send("abc").await;
    let seen = client.rest().await;
    assert!(seen.contains("HTTP/1.1 200") && seen.ends_with("\r\n\r\n3"), "{seen}");

    let mut client = Wire::connect(bench.http).await;
    client.send("POST /shop HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    let seen = client.rest().await;
    assert!(seen.starts_with("HTTP/1.1 413"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_malformed_is_the_client_s_fault() {
    let backend = Backend::listen().await;
    let bench = Bench::start(&routed(backend.address(), "", "")).await;
    for broken in ["zz\r\n", "3\r\nabcX\r\n", "3;a\nb\r\nabc\r\n"] {
        let mut client = Wire::connect(bench.http).await;
        client.send("POST /shop HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
        let mut behind = backend.accept().await;
        behind.until("1\r\nx\r\n").await;
        client.send(broken).await;
        let seen = client.rest().await;
        assert!(seen.starts_with("HTTP/1.1 400") && seen.contains("\"bad_request\""), "{broken:?}: {seen}");
        assert!(!behind.rest().await.contains("\r\n0\r\n\r\n"), "the backend is not told that this was all");
    }
    assert_eq!(bench.metric("http_requests_total", &[("route", "/shop"), ("status", "400")]), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_both_ways() {
    let backend = Backend::listen().await;
    let bench = Bench::start(&routed(backend.address(), "", "")).await;
    let mut client = Wire::connect(bench.http).await;
    let claimed = [
        "gateway-user-id",
        "Gateway_User_Id",
        "x-forwarded-for",
        "X_Forwarded_For",
        "x-real-ip",
        "forwarded",
        "x-request-id",
        "connection",
    ];
    let head = format!(
        "POST /shop HTTP/1.1\r\nhost: a\r\nconnection: te, close\r\nte: trailers\r\ntrailer: {}, x-sum\r\ntransfer-encoding: chunked\r\n\r\n",
        claimed.join(", ")
    );
    let claims = claimed.map(|name| format!("{name}: claimed\r\n")).concat();
    client.send(&format!("{head}1\r\nx\r\n0\r\n{claims}x-sum: 9\r\n\r\n")).await;
    let mut behind = backend.accept().await;
    let seen = behind.until("x-sum: 9\r\n\r\n").await;
    assert!(seen.contains("\r\nte: trailers\r\n") && seen.contains("\r\ntrailer: "), "{seen}");
    assert!(
        seen.ends_with("\r\n0\r\nx-sum: 9\r\n\r\n") && !seen.contains("claimed"),
        "what the head may not say the trailers may not: {seen}"
    );
    behind.send("HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n1\r\ny\r\n0\r\nx-sum: 7\r\n\r\n").await;
    let seen = client.rest().await;
    assert!(seen.ends_with("0\r\nx-sum: 7\r\n\r\n"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_the_client_s_to_follow() {
    let backend = Backend::listen().await;
    let bench = Bench::start(&routed(backend.address(), "", "")).await;
    let mut client = Wire::connect(bench.http).await;
    client.send("GET /api/v1/public/auth/login?next=1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    let mut behind = backend.accept().await;
    let seen = behind.until("\r\n\r\n").await;
    assert!(seen.starts_with("GET /api/v1/public/auth/login?next=1 HTTP/1.1\r\n"), "{seen}");
    let location = format!("http://{}/elsewhere", backend.address());
    let head = format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n");
    behind.send(&format!("{head}proxy-authenticate: x\r\nconnection: x-mine\r\nx-mine: 1\r\ncontent-length: 0\r\n\r\n")).await;
    let seen = client.rest().await;
    assert!(seen.starts_with("HTTP/1.1 302 ") && seen.contains(&format!("location: {location}\r\n")), "{seen}");
    assert!(seen.contains("set-cookie: a=1\r\n") && seen.contains("set-cookie: b=2\r\n"), "{seen}");
    assert!(!seen.contains("x-mine") && !seen.contains("proxy-authenticate"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_its_backend_breaks_off_does_not_look_whole_and_is_counted() {
    let backend = Backend::listen().await;
    let bench = Bench::start(&routed(backend.address(), "", "")).await;
    for (i, head) in ["transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", "content-length: 9\r\n\r\nabc"].into_iter().enumerate() {
        let mut client = Wire::connect(bench.http).await;
        client.send("GET /shop HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut behind = backend.accept().await;
        behind.until("\r\n\r\n").await;
        behind.send(&format!("HTTP/1.1 200 OK\r\n{head}")).await;
        client.until("abc").await;
        drop(behind);
        let seen = client.rest().await;
        assert!(seen.starts_with("HTTP/1.1 200") && !seen.contains("\r\n0\r\n\r\n"), "{seen}");
        until("it is counted", async || (cut(&bench, "broken_off") == i as u64 + 1).then_some(())).await;
    }
    assert_eq!(cut(&bench, "stalled"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_the_head_of_an_answer_is_a_bad_gateway() {
    let backend = Backend::listen().await;
    let bench = Bench::start(&routed(backend.address(), "", "")).await;
    for garbage in [
        "SSH-2.0-x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ] {
        let mut client = Wire::connect(bench.http).await;
        client.send("GET /shop HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        let mut behind = backend.accept().await;
        behind.until("\r\n\r\n").await;
        behind.send(garbage).await;
        drop(behind);
        let seen = client.rest().await;
        assert!(seen.starts_with("HTTP/1.1 502") && seen.contains("\"bad_gateway\""), "{garbage:?}: {seen}");
    }
}
