//! What the edge refuses at its door, and whom first.

use gatehouse_proto::gateway::v1::{ExecuteCommandRequest, ExecuteCommandResponse};
use tokio::task::JoinSet;
use tonic::{Code, Response, Status};

use crate::{
    bench::{Bench, until},
    fakes::{backend, gated, named},
    forward::routed,
    http::{get, mirror},
    wire::{Backend, Wire},
};

type Calls = JoinSet<Result<Response<ExecuteCommandResponse>, Status>>;

fn send(bench: &Bench, calls: &mut Calls, command: ExecuteCommandRequest) {
    let mut client = bench.client();
    calls.spawn(async move { client.execute_command(command).await });
}

async fn in_flight(bench: &Bench, wanted: u64) {
    let reached = async || (bench.metric("admission_in_flight", &[]) == wanted).then_some(());
    until(&format!("{wanted} in flight"), reached).await;
}

fn retry_after(status: &Status) -> Option<u64> {
    status.metadata().get("retry-after-ms")?.to_str().ok()?.parse().ok()
}

/// Room for four, of which two for low routes and three for normal ones. Commands that are being reserved wait for as long as Redis takes no writes.
fn narrow(orders: impl std::fmt::Display, shop: impl std::fmt::Display) -> String {
    let command =
        |name: &str, priority: &str| format!("[[command]]\nmessage_type = \"{name}\"\nbackend = \"orders\"\npriority = \"{priority}\"\n");
    format!(
        "{}{}{}[[backend]]\nname = \"shop\"\nprotocol = \"http\"\naddress = \"{shop}\"\n\
         [[route]]\nprefix = \"/shop\"\nbackend = \"shop\"\n[[route]]\nprefix = \"/pay\"\nbackend = \"shop\"\npriority = \"critical\"\n\
         [overload]\nmin_in_flight = 4\nmax_in_flight = 4\n[redis]\ncommand_timeout = \"600s\"\n",
        backend("orders", orders, &["normal"]),
        command("low", "low"),
        command("critical", "critical"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn low_is_refused_first_and_critical_last_and_what_was_refused_may_be_sent_again() {
    let (server, shop) = (named("orders"), mirror());
    let bench = Bench::start(&narrow(server.address(), shop.address())).await;
    bench.client().execute_command(bench.command("normal", "warm", b"")).await.unwrap();
    bench.redis.run(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    let mut calls = Calls::new();
    for i in 0..3 {
        send(&bench, &mut calls, bench.command("normal", &format!("n-{i}"), b""));
    }
    in_flight(&bench, 3).await;

    let mut refused = Vec::new();
    for message_type in ["low", "normal"] {
        let command = bench.command(message_type, message_type, b"");
        let status = bench.client().execute_command(command.clone()).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "gateway is overloaded"), "{message_type}");
        assert!(retry_after(&status).is_some_and(|wait| (500..=1500).contains(&wait)), "{status:?}");
        refused.push(command);
    }
    let answer = get(&bench, "/shop").await;
    let error = answer.json()["error"].clone();
    assert_eq!(
        (answer.status, error["code"].as_str(), error["message"].as_str()),
        (503, Some("overloaded"), Some("gateway is overloaded"))
    );
    assert!(answer.header("retry-after").is_some_and(|seconds| ["1", "2"].contains(&seconds)));
    assert_eq!(get(&bench, "/pay").await.status, 200, "the last place is for what is critical");
    for own in ["/healthz", "/readyz", "/api/v1/public/keys"] {
        assert_eq!(get(&bench, own).await.status, 200, "{own}");
    }
    in_flight(&bench, 3).await;
    send(&bench, &mut calls, bench.command("critical", "c-1", b""));
    in_flight(&bench, 4).await;
    let status = bench.client().execute_command(bench.command("critical", "c-2", b"")).await.unwrap_err();
    assert_eq!(status.message(), "gateway is overloaded");
    let counted = |priority| bench.metric("admission_refused_total", &[("priority", priority), ("bound", "gateway")]);
    assert_eq!(["low", "normal", "critical"].map(counted), [1, 2, 1]);

    bench.redis.run(&["CLIENT", "UNPAUSE"]);
    while let Some(answer) = calls.join_next().await {
        answer.unwrap().unwrap();
    }
    in_flight(&bench, 0).await;
    for command in refused {
        bench.client().execute_command(command).await.expect("its id was not used up");
    }
    assert!(bench.records().await.iter().all(|record| record.status == "success"), "refusals at the door are not in the trail");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_backend_fills_its_own_bound_and_nothing_else() {
    let ((slow, mut entries, gate), other) = (gated("slow"), named("other"));
    let patient = |text: String| text.replace("protocol = \"grpc\"", "protocol = \"grpc\"\ntimeout = \"5m\"");
    let text = patient(backend("slow", slow.address(), &["slow"])) + &backend("other", other.address(), &["other"]);
    let bench = Bench::start(&(text + "[overload]\nmin_in_flight = 4\nmax_in_flight = 4\nbackend_in_flight = 10\n")).await;
    let mut calls = Calls::new();
    for i in 0..9 {
        // One after the other: the gateway itself has room for three.
        send(&bench, &mut calls, bench.command("slow", &format!("s-{i}"), b""));
        entries.recv().await.unwrap();
    }
    in_flight(&bench, 0).await;
    let command = bench.command("slow", "again", b"");
    let status = bench.client().execute_command(command.clone()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "downstream is unavailable"));
    assert!(retry_after(&status).is_some());
    assert_eq!(bench.metric("admission_refused_total", &[("priority", "normal"), ("bound", "backend")]), 1);
    for i in 0..20 {
        let answer = bench.client().execute_command(bench.command("other", &format!("o-{i}"), b"")).await.unwrap();
        assert_eq!(answer.into_inner().result_code, "other");
    }
    gate.add_permits(10);
    while let Some(answer) = calls.join_next().await {
        answer.unwrap().unwrap();
    }
    // The answer is out before the place is given back.
    until("there is room again", async || bench.client().execute_command(command.clone()).await.ok()).await;
}

/// A backend with room for four, of which three are for normal commands, and a Redis that may be paused for long.
fn small(orders: impl std::fmt::Display, seats: usize, more: &str) -> String {
    format!(
        "{}{more}\n[overload]\nbackend_in_flight = {seats}\n[redis]\ncommand_timeout = \"600s\"\n",
        backend("orders", orders, &["orders"]).replace("protocol = \"grpc\"", "protocol = \"grpc\"\ntimeout = \"5m\""),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_take_no_seat_at_a_backend() {
    let server = named("orders");
    let bench = Bench::start(&small(server.address(), 4, "")).await;
    bench.client().execute_command(bench.command("orders", "warm", b"")).await.unwrap();
    // While they are verified, for which Redis is asked, they are many more than the backend has seats.
    bench.redis.pause();
    let mut strangers = Calls::new();
    for i in 0..12 {
        let command = ExecuteCommandRequest { device_session_id: format!("stranger-{i}"), ..bench.command("orders", "s-1", b"") };
        send(&bench, &mut strangers, command);
    }
    in_flight(&bench, 12).await;
    let mut ours = Calls::new();
    send(&bench, &mut ours, bench.command("orders", "ours", b""));
    in_flight(&bench, 13).await;
    bench.redis.resume();
    ours.join_next().await.unwrap().unwrap().expect("there is room for who is no stranger");
    while let Some(answer) = strangers.join_next().await {
        assert_eq!(answer.unwrap().unwrap_err().code(), Code::Unauthenticated);
    }
    assert_eq!(bench.metric("admission_refused_total", &[]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_let_in_and_finds_the_last_seat_gone_waits_for_the_next() {
    let (server, mut entries, gate) = gated("orders");
    let bench = Bench::start(&small(server.address(), 4, "")).await;
    // All of them are at the door before any is sent.
    bench.redis.run(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    let mut calls = Calls::new();
    for i in 0..5 {
        send(&bench, &mut calls, bench.command("orders", &format!("r-{i}"), b""));
    }
    in_flight(&bench, 5).await;
    bench.redis.run(&["CLIENT", "UNPAUSE"]);
    for _ in 0..3 {
        entries.recv().await.unwrap();
    }
    in_flight(&bench, 0).await;
    assert!(entries.try_recv().is_err(), "no more than three at once");
    let status = bench.client().execute_command(bench.command("orders", "late", b"")).await.unwrap_err();
    assert!(retry_after(&status).is_some(), "at the door those who wait come first: {status:?}");
    for _ in 0..2 {
        gate.add_permits(1);
        entries.recv().await.unwrap();
    }
    gate.add_permits(3);
    while let Some(answer) = calls.join_next().await {
        answer.unwrap().expect("each was carried out");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_seat_in_his_time_is_told_so_and_whether_he_may_come_again() {
    let (server, mut entries, gate) = gated("orders");
    let hasty = |name: &str, replay: &str| {
        format!("[[command]]\nmessage_type = \"{name}\"\nbackend = \"orders\"\ntimeout = \"200ms\"\nreplay = \"{replay}\"\n")
    };
    let more = hasty("once", "refuse") + &hasty("kept", "answer");
    let bench = Bench::start(&small(server.address(), 100, &more)).await;
    let mut slow = Calls::new();
    for i in 0..3 {
        send(&bench, &mut slow, bench.command("orders", &format!("r-{i}"), b""));
        entries.recv().await.unwrap();
    }
    bench.redis.run(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    let (mut once, mut kept) = (Calls::new(), Calls::new());
    send(&bench, &mut once, bench.command("once", "h-1", b""));
    send(&bench, &mut kept, bench.command("kept", "h-2", b""));
    in_flight(&bench, 2).await;
    // They are in; from here on there is no room for them.
    assert!(bench.reload(&small(server.address(), 4, &more)).await.done);
    bench.redis.run(&["CLIENT", "UNPAUSE"]);
    for (call, is_given_back) in [(&mut once, false), (&mut kept, true)] {
        let status = call.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "downstream is unavailable"));
        assert_eq!(
            (retry_after(&status).is_some(), status.metadata().contains_key("gateway-outcome")),
            (is_given_back, false),
            "{status:?}"
        );
    }
    assert_eq!(bench.metric("admission_refused_total", &[("priority", "normal"), ("bound", "backend")]), 2);
    gate.add_permits(1000);
    while let Some(answer) = slow.join_next().await {
        answer.unwrap().unwrap();
    }
    let again = async || bench.client().execute_command(bench.command("kept", "h-2", b"")).await.ok();
    until("its id was given back", again).await;
    let status = bench.client().execute_command(bench.command("once", "h-1", b"")).await.unwrap_err();
    assert_eq!(status.message(), "request replay detected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_has_its_seat_until_its_end() {
    let backend = Backend::listen().await;
    let bench = Bench::start(&(routed(backend.address(), "", "") + "[overload]\nbackend_in_flight = 4\n")).await;
    let mut downloads = Vec::new();
    for _ in 0..3 {
        let mut client = Wire::connect(bench.http).await;
        client.send("GET /shop HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut behind = backend.accept().await;
        behind.until("\r\n\r\n").await;
        behind.send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc").await;
        client.until("abc").await;
        downloads.push((client, behind));
    }
    let answer = get(&bench, "/shop").await;
    let error = answer.json()["error"].clone();
    assert_eq!((answer.status, error["message"].as_str()), (503, Some("backend is overloaded")));
    assert!(answer.header("retry-after").is_some());

    // One ends, and the client of another leaves.
    let (mut client, mut behind) = downloads.pop().unwrap();
    behind.send("def").await;
    client.until("abcdef").await;
    drop((client, behind));
    let (client, mut behind) = downloads.pop().unwrap();
    drop(client);
    behind.rest().await;
    let mut taken = Vec::new();
    for _ in 0..2 {
        let next = until("there is room again", async || {
            let mut client = Wire::connect(bench.http).await;
            client.send("GET /shop HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
            tokio::select! {
                behind = backend.accept() => Some((client, behind)),
                seen = client.rest() => { assert!(seen.starts_with("HTTP/1.1 503"), "{seen}"); None }
            }
        });
        taken.push(next.await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_takes_no_place_along() {
    let (server, shop) = (named("orders"), mirror());
    let bench = Bench::start(&narrow(server.address(), shop.address())).await;
    bench.client().execute_command(bench.command("normal", "warm", b"")).await.unwrap();
    bench.redis.run(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    let mut calls = Calls::new();
    for i in 0..3 {
        send(&bench, &mut calls, bench.command("normal", &format!("n-{i}"), b""));
    }
    in_flight(&bench, 3).await;
    calls.shutdown().await;
    // What may have been reserved goes on without its client, and no longer than that.
    bench.redis.run(&["CLIENT", "UNPAUSE"]);
    in_flight(&bench, 0).await;
    bench.client().execute_command(bench.command("low", "l-1", b"")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_the_bounds() {
    let bench = Bench::start("").await;
    assert_eq!(bench.metric("admission_limit", &[]), 4096);
    assert!(bench.reload("[overload]\nmin_in_flight = 8\nmax_in_flight = 100\n").await.done);
    assert_eq!(bench.metric("admission_limit", &[]), 100);
    in_flight(&bench, 0).await;
}
