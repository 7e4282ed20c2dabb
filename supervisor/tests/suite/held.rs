//! Public sockets that nobody accepts on are answered, until somebody does.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use gatehouse_proto::internal::v1::{MetricsRequest, process_client::ProcessClient};
use nix::sys::signal::Signal;
use tokio::task::spawn_blocking;
use tonic::{Code, Status, transport::Endpoint};

use crate::world::{World, instance, send};

const SOON: &str =
    "[supervisor]\nheld_answer_after = \"100ms\"\nquarantine_after = 2\nrestart_ceiling = \"10ms\"\nprobe_interval = \"500ms\"";

/// What `GET /healthz` is answered by, however long that takes.
async fn get(address: &str) -> String {
    let address = address.to_owned();
    let exchange = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    spawn_blocking(exchange).await.unwrap()
}

async fn call(address: &str) -> Status {
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    ProcessClient::new(channel).metrics(MetricsRequest {}).await.unwrap_err()
}

#[tokio::test]
async fn clients_of_a_quarantined_edge_are_told_and_those_of_the_next_are_served() {
    let mut world = World::new().config(SOON);
    world.behave("edge", "serve");
    let before = world.ready().await;
    let (http, grpc) = (before.listeners[0].address.clone(), before.listeners[1].address.clone());
    assert!(get(&http).await.ends_with(&format!("edge {}", instance(&before, "edge", 0).pid.unwrap())));

    world.behave("edge", "exit=75");
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    world.until("quarantine", |status| instance(status, "edge", 0).state == "quarantined").await;
    let answer = get(&http).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: "), "{answer}");
    assert!(answer.contains(r#""code":"service_unavailable""#), "{answer}");
    let status = call(&grpc).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.metadata().contains_key("gateway-retry-after-ms"), "{status:?}");
    let metrics = world.metrics().await;
    for listener in ["http", "grpc"] {
        let sample = format!("held_answers_total{{listener=\"{listener}\",component=\"supervisor\",instance=\"0\"}} 1");
        assert!(metrics.contains(&sample), "{sample} in {metrics}");
    }

    world.behave("edge", "serve");
    let after = world.until("the probe holds", |status| status.ready).await;
    let mine = format!("edge {}", instance(&after, "edge", 0).pid.unwrap());
    // At most one was accepted in that moment.
    let _told = get(&http).await;
    for _ in 0..20 {
        assert!(get(&http).await.ends_with(&mine));
    }
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn clients_of_an_edge_that_is_replaced_in_time_are_served_and_not_told() {
    let mut world = World::new().config("[supervisor]\nheld_answer_after = \"1h\"");
    world.behave("edge", "serve");
    let before = world.ready().await;
    let http = before.listeners[0].address.clone();
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    world.until("it is gone", |status| instance(status, "edge", 0).pid != instance(&before, "edge", 0).pid).await;
    let answer = get(&http).await;
    assert!(answer.contains("\r\n\r\nedge "), "{answer}");
}

#[tokio::test]
async fn who_comes_while_the_suite_drains_is_told_at_once() {
    let mut world = World::new().config("[supervisor]\nheld_answer_after = \"1h\"\n[shutdown]\nauditor = \"20s\"");
    world.behave("auditor", "deaf");
    world.behave("edge", "serve");
    let before = world.ready().await;
    world.signal(Signal::SIGTERM);
    world.event("end edge-0").await;
    let answer = get(&before.listeners[0].address).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(call(&before.listeners[1].address).await.code(), Code::Unavailable);
    world.signal(Signal::SIGTERM);
    world.ended().await;
}

#[tokio::test]
async fn who_comes_while_the_suite_starts_is_told_after_the_same_time() {
    let mut world = World::new().config(SOON).env("GATEWAY_ADMIN_HTTP_ADDR", "127.0.0.1:0");
    world.behave("auditor", "silent");
    world.start();
    let status = world.until("it listens", |status| !status.listeners.is_empty()).await;
    for listener in ["http", "admin"] {
        let listener = status.listeners.iter().find(|found| found.name == listener).unwrap();
        assert!(get(&listener.address).await.starts_with("HTTP/1.1 503 "));
    }
}
