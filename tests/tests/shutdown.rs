//! The end of the suite: in order, within budgets, with a report; at once on a second signal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use gatehouse_tests::{Behaviour, Device, Downstream, Suite, Trail, scratch, wait};
use nix::sys::signal::Signal;
use tokio::net::TcpStream;
use tonic::Code;

/// Every component has this long.
const BUDGET: Duration = Duration::from_secs(5);

async fn start(budget: Duration) -> (Arc<Suite>, Downstream) {
    let downstream = Downstream::start();
    let suite = Suite::builder().downstream("orders", &downstream, &["demo.echo", "orders.slow"]);
    let suite = suite.toml("[[command]]\nmessage_type = \"orders.patient\"\nbackend = \"orders\"\ntimeout = \"5m\"\n");
    let suite = suite.set("shutdown", "timeout", format!("{}ms", budget.as_millis())).start().await;
    (Arc::new(suite), downstream)
}

/// Sends a command and returns once the downstream has it.
async fn in_flight(
    suite: &Arc<Suite>,
    downstream: &Downstream,
    kind: &str,
) -> impl Future<Output = Result<gatehouse_proto::gateway::v1::ExecuteCommandResponse, tonic::Status>> + use<> {
    let device = Device::registered(&mut suite.embedded_redis());
    let request = device.command(kind, "x");
    let id = request.request_id.clone();
    let sender = Arc::clone(suite);
    #[expect(clippy::disallowed_methods, reason = "joined by the caller")]
    let answer = tokio::spawn(async move { sender.execute(&request).await });
    wait::eventually("the command is under way", async || (!downstream.calls(&id).is_empty()).then_some(())).await;
    async move { answer.await.unwrap() }
}

async fn nobody_is_left(suite: &Suite, pids: impl IntoIterator<Item = u32>) {
    for pid in pids {
        assert!(!scratch::is_alive(pid), "process {pid} is still there");
    }
    let left = scratch::processes_in(suite.config().parent().unwrap());
    assert!(left.is_empty(), "{left:?}");
    assert!(TcpStream::connect(suite.address("grpc")).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn sigterm_drains_within_the_budget_and_reports() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (suite, _downstream) = start(BUDGET).await;
        let pids: Vec<_> = suite.pids().await.into_values().collect();
        let started = Instant::now();
        suite.signal(signal);
        let status = suite.wait_exit(BUDGET * 5).await;
        assert_eq!(status.code(), Some(0), "{signal}");
        assert!(started.elapsed() < BUDGET, "an idle suite ends soon: {:?}", started.elapsed());
        nobody_is_left(&suite, pids).await;
        for component in ["edge", "pusher", "auditor", "admin", "redis"] {
            let named = suite.stderr.all().iter().any(|line| line.contains(component) && line.contains("drained"));
            assert!(named, "{component} and how long it took in the report:\n{}", suite.stderr.text());
        }
    }
}

#[tokio::test]
async fn a_command_in_flight_is_answered_before_the_edge_ends() {
    let (suite, downstream) = start(BUDGET).await;
    downstream.on("orders.slow", Behaviour::Delay(Duration::from_millis(700)));
    let answer = in_flight(&suite, &downstream, "orders.slow").await;
    suite.signal(Signal::SIGTERM);
    let response = wait::bounded("the answer", answer).await.expect("a request in flight is not cut");
    assert_eq!(response.result_code, "ok");
    assert_eq!(suite.wait_exit(BUDGET * 5).await.code(), Some(0));
    // Its record was flushed last of all, so that the line stands on stdout.
    assert!(suite.stdout.text().contains(&response.request_id), "{}", suite.stdout.text());
}

#[tokio::test]
async fn a_command_that_outlasts_the_budget_is_told_that_the_gateway_stops() {
    let budget = Duration::from_secs(1);
    let (suite, downstream) = start(budget).await;
    downstream.on("orders.patient", Behaviour::Hang);
    let answer = in_flight(&suite, &downstream, "orders.patient").await;
    let started = Instant::now();
    suite.signal(Signal::SIGTERM);
    let status = wait::bounded("the answer", answer).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "gateway is shutting down"));
    suite.wait_exit(Duration::from_secs(15)).await;
    assert!(started.elapsed() < budget * 6, "every component has a budget: {:?}", started.elapsed());
    nobody_is_left(&suite, []).await;
}

#[tokio::test]
async fn a_second_signal_ends_it_now() {
    let (suite, downstream) = start(Duration::from_mins(2)).await;
    downstream.on("orders.patient", Behaviour::Hang);
    let answer = in_flight(&suite, &downstream, "orders.patient").await;
    let pids: Vec<_> = suite.pids().await.into_values().collect();
    suite.signal(Signal::SIGTERM);
    wait::eventually("the drain has begun", async || {
        let answer = gatehouse_tests::http::get_if_served(suite.address("http"), "/readyz").await;
        (answer != Some(200)).then_some(())
    })
    .await;
    assert!(suite.child_runs(), "the hanging command holds the drain up");
    let started = Instant::now();
    suite.signal(Signal::SIGTERM);
    suite.wait_exit(Duration::from_secs(10)).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    wait::bounded("the cut-off command", answer).await.unwrap_err();
    nobody_is_left(&suite, pids).await;
}

#[tokio::test]
async fn sigterm_during_the_start_ends_it_too() {
    let suite = Suite::builder().prepare().start_without_waiting();
    suite.signal(Signal::SIGTERM);
    suite.wait_exit(Duration::from_secs(20)).await;
    // A check of the configuration that was under way ends by itself.
    wait::eventually("nobody is left", async || scratch::processes_in(suite.config().parent().unwrap()).is_empty().then_some(())).await;
}

#[tokio::test]
async fn state_survives_an_orderly_restart() {
    let downstream = Downstream::start();
    let suite = Suite::builder().downstream("orders", &downstream, &["demo.echo"]).start().await;
    let device = Device::registered(&mut suite.embedded_redis());
    let first = suite.execute(&device.command("demo.echo", "x")).await.unwrap();
    let row = Trail::record(&suite, &first.request_id).await;
    suite.signal(Signal::SIGTERM);
    suite.wait_exit(Duration::from_secs(30)).await;
    let suite = suite.start_again().await;
    let second = suite.execute(&device.command("demo.echo", "x")).await.expect("the session is still known");
    assert!(Trail::record(&suite, &second.request_id).await.seq > row.seq);
    assert_eq!(Trail::record(&suite, &first.request_id).await, row);
    Trail::read(&suite).await.check(&suite).await;
}
