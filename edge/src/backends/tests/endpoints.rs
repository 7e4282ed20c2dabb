use std::time::Duration;

use tonic::Code;

use super::{
    super::State,
    House, PATIENCE, execute,
    fake::{Act, Fake},
    until,
};

const LONG: &str = "outlier_ejection.base_time = \"1h\"\noutlier_ejection.max_time = \"1h\"";

#[tokio::test]
async fn an_endpoint_that_nobody_answers_at_costs_no_command() {
    let (dir, good) = (tempfile::tempdir().unwrap(), Fake::start(Act::Echo).await);
    let dead = format!("unix:{}/nobody.sock", dir.path().display());
    let house = House::grpc(&[dead, good.address()], LONG);
    for _ in 0..100 {
        house.execute().await.unwrap();
    }
    until("it is ejected", async || {
        house.execute().await.unwrap();
        house.metric("backend_endpoints", "ejected") == 1
    })
    .await;
    assert_eq!(house.metric("backend_endpoints", "healthy"), 1);
    let retries = house.metric("downstream_retries_total", "untouched");
    for _ in 0..50 {
        house.execute().await.unwrap();
    }
    assert_eq!(house.metric("downstream_retries_total", "untouched"), retries, "nobody asks it any more");
}

#[tokio::test]
async fn an_ejected_endpoint_comes_back_by_itself() {
    let (bad, good) = (Fake::start(Act::Reset(2)).await, Fake::start(Act::Echo).await);
    let keys = "outlier_ejection.base_time = \"300ms\"\noutlier_ejection.consecutive_failures = 3\ncircuit_breaker.failure_percent = 0";
    let house = House::grpc(&[bad.address(), good.address()], keys);
    until("it is ejected", async || {
        // Each of these may fail.
        let _result = house.execute().await;
        house.metric("backend_ejections_total", "orders") >= 1
    })
    .await;
    bad.act(Act::Echo);
    until("it is readmitted", async || house.metric("backend_endpoints", "healthy") == 2).await;
    let before = bad.requests();
    until("it is used again", async || {
        house.execute().await.unwrap();
        bad.requests() > before
    })
    .await;
}

#[tokio::test]
async fn the_last_half_of_the_endpoints_is_never_ejected() {
    let (one, other) = (Fake::start(Act::Reset(2)).await, Fake::start(Act::Reset(2)).await);
    let house = House::grpc(&[one.address(), other.address()], &format!("{LONG}\ncircuit_breaker.failure_percent = 0"));
    for _ in 0..100 {
        assert!(house.execute().await.is_err());
    }
    assert_eq!((house.metric("backend_endpoints", "ejected"), house.metric("backend_endpoints", "healthy")), (1, 1));
}

#[tokio::test]
async fn checks_take_an_endpoint_out_and_bring_it_back() {
    let serving = Act::Message(vec![8, 1].into());
    let (sick, good) = (Fake::start(serving.clone()).await, Fake::start(serving.clone()).await);
    let keys = "health_check.interval = \"20ms\"\nhealth_check.timeout = \"10s\"";
    let house = House::grpc(&[sick.address(), good.address()], keys);
    for ill in [Act::Message(vec![8, 2].into()), Act::Cut, Act::Status(14)] {
        sick.act(ill);
        until("it is unhealthy", async || house.metric("backend_endpoints", "unhealthy") == 1).await;
        sick.act(serving.clone());
        until("it is healthy again", async || house.metric("backend_endpoints", "healthy") == 2).await;
    }
    sick.act(Act::Status(12));
    let before = sick.requests();
    until("some checks passed", async || sick.requests() > before + 5).await;
    assert_eq!(house.metric("backend_endpoints", "healthy"), 2, "one that does not know the service answers, which is enough");
}

#[tokio::test]
async fn when_all_are_unhealthy_all_are_used() {
    let fake = Fake::start(Act::Status(5)).await;
    let house = House::grpc(&[fake.address()], "health_check.interval = \"20ms\"\nhealth_check.timeout = \"10s\"");
    until("it is unhealthy", async || house.metric("backend_endpoints", "unhealthy") == 1).await;
    assert_eq!(house.execute().await.unwrap_err().into_status().code(), Code::NotFound, "it was asked");
}

#[tokio::test]
async fn a_circuit_opens_lets_probes_through_and_is_not_held_up_by_clients_that_leave() {
    let fake = Fake::start(Act::Reset(2)).await;
    let keys = "circuit_breaker.min_requests = 4\ncircuit_breaker.open_time = \"200ms\"\ncircuit_breaker.probes = 1";
    let house = House::grpc(&[fake.address()], keys);
    for _ in 0..4 {
        assert!(!house.execute().await.unwrap_err().is_untouched());
    }
    // It may be half-open already by the time we look.
    assert_ne!(house.backends.circuits()[0].state, State::Closed);
    until("it is half-open by time alone", async || house.metric("circuit_breaker_state", "orders") == 1).await;
    fake.act(Act::Hang);
    for _ in 0..5 {
        let before = fake.requests();
        let (orders, asked) = (house.orders(), async || fake.requests() > before);
        tokio::select! {
            _ = execute(&orders, b"x", false, PATIENCE, None) => panic!("nobody answers"),
            () = until("the probe is let through", asked) => {}
        }
    }
    let before = house.metric("circuit_breaker_rejected_total", "orders");
    let orders = house.orders();
    let mut probe = Box::pin(execute(&orders, b"x", false, PATIENCE, None));
    assert!(futures_util::poll!(&mut probe).is_pending());
    let rejected = house.execute().await.unwrap_err();
    assert!(rejected.is_untouched());
    assert_eq!(rejected.into_status().message(), "downstream is unavailable");
    assert_eq!(house.metric("circuit_breaker_rejected_total", "orders"), before + 1);
    drop(probe);
    fake.act(Act::Echo);
    house.execute().await.expect("the place is free again");
    assert_eq!(house.backends.circuits()[0].state, State::Closed);
}

#[tokio::test]
async fn a_probe_that_is_answered_closes_the_circuit_and_an_operator_does_so_at_once() {
    let fake = Fake::start(Act::Reset(2)).await;
    let keys = "circuit_breaker.min_requests = 2\ncircuit_breaker.open_time = \"200ms\"\ncircuit_breaker.probes = 2";
    let house = House::grpc(&[fake.address()], keys);
    let fail = async || {
        assert!(house.execute().await.is_err());
        house.backends.circuits()[0].state != State::Closed
    };
    until("it is not closed", fail).await;
    fake.act(Act::Status(5));
    until("refusals are answers, and close it", async || {
        // Rejected as long as it is open.
        let _result = house.execute().await;
        house.metric("circuit_breaker_state", "orders") == 0
    })
    .await;
    fake.act(Act::Reset(2));
    until("it is not closed again", async || {
        assert!(house.execute().await.is_err());
        house.backends.circuits()[0].state != State::Closed
    })
    .await;
    assert!(house.backends.reset_circuit("orders") && !house.backends.reset_circuit("nobody"));
    assert_eq!((house.backends.circuits()[0].state, house.metric("circuit_breaker_state", "orders")), (State::Closed, 0));
}

#[tokio::test]
async fn time_outs_of_ours_open_the_circuit_and_those_of_clients_do_not() {
    let fake = Fake::start(Act::Hang).await;
    let house = House::grpc(&[fake.address()], "circuit_breaker.min_requests = 3\ncircuit_breaker.open_time = \"1h\"");
    let short = Duration::from_millis(30);
    // Until somebody has answered, time may be up before anything was sent.
    for _ in 0..10 {
        let before = fake.requests();
        let failure = execute(&house.orders(), b"x", false, PATIENCE, Some(short)).await.unwrap_err();
        assert!(!failure.is_untouched() || fake.requests() == before);
        assert_eq!(failure.into_status().message(), "downstream timed out");
    }
    assert_eq!(house.backends.circuits()[0].state, State::Closed);
    for _ in 0..3 {
        let failure = execute(&house.orders(), b"x", false, short, None).await.unwrap_err();
        assert_eq!(failure.into_status().code(), Code::DeadlineExceeded);
    }
    assert_eq!(house.backends.circuits()[0].state, State::Open);
    assert_eq!(house.metric("circuit_breaker_state", "orders"), 2);
    assert_eq!(house.metric("downstream_requests_total", "timed_out"), 13);
}
