use std::time::Duration;

use gatehouse_proto::{downstream::v1::ExecuteRequest, limits::MAX_MESSAGE_BYTES};
use prost::Message as _;
use tonic::Code;

use super::{
    super::{Call, call::encode},
    House, PATIENCE, command, execute,
    fake::{Act, Fake, answer, grpc_status, ok, prefixed},
    session, until,
};

const REFUSED_STREAM: u32 = 7;
const INTERNAL_ERROR: u32 = 2;

#[test]
fn a_command_is_encoded_as_prost_would() {
    for (payload, timestamp_ms) in [(vec![], 0), (b"{}".to_vec(), 1), (vec![7; 300], -1), (vec![7; 70_000], i64::MAX)] {
        let (mut command, session) = (command(&payload), session());
        command.timestamp_ms = timestamp_ms;
        let whole = ExecuteRequest {
            message_type: command.message_type.clone(),
            request_id: command.request_id.clone(),
            user_id: "u-1".into(),
            device_session_id: "ds-1".into(),
            timestamp_ms,
            payload_bytes: command.payload_bytes.clone(),
            traceparent: command.traceparent.clone(),
        };
        let encoded = encode(&Call { command: &command, session: &session, path: None, idempotent: false, tracestate: None });
        assert_eq!(encoded, prefixed(&whole.encode_to_vec()));
    }
}

#[tokio::test]
async fn large_messages_go_both_ways_and_one_connection_does_for_many() {
    let fake = Fake::start(Act::Echo).await;
    let house = House::grpc(&[fake.address()], "");
    for size in [0, 1, 70_000, 1 << 20, (4 << 20) - 100] {
        let payload: Vec<_> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let answer = execute(&house.orders(), &payload, false, PATIENCE, None).await.unwrap();
        assert_eq!((answer.result_code.as_str(), answer.payload_bytes == payload), ("done", true), "{size}");
    }
    assert_eq!((fake.accepted(), house.metric("downstream_requests_total", "ok")), (1, 5));
}

#[tokio::test]
async fn garbage_is_unavailable_was_seen_and_is_never_sent_again() {
    let (message, end) = (prefixed(&answer(b"x")), (1, 5, grpc_status(0)));
    let head = (1, 4, ok());
    let mut compressed = message.clone();
    compressed[0] = 1;
    let mut cut_short = message.clone();
    cut_short.pop();
    let rows = [
        ("no message", vec![head.clone(), end.clone()]),
        ("a success without a message", vec![(1, 5, [ok(), grpc_status(0)].concat())]),
        ("no status", vec![head.clone(), (0, 1, message.clone())]),
        ("404", vec![(1, 5, vec![0x8d])]),
        ("compressed", vec![head.clone(), (0, 0, compressed), end.clone()]),
        ("cut short", vec![head.clone(), (0, 0, cut_short), end.clone()]),
        ("two messages", vec![head.clone(), (0, 0, message.repeat(2)), end.clone()]),
        ("no protobuf", vec![head.clone(), (0, 0, prefixed(&[0xff; 20])), end.clone()]),
        ("a web page", vec![head.clone(), (0, 1, b"<html>".to_vec())]),
    ];
    let fake = Fake::start(Act::Hang).await;
    let house = House::grpc(&[fake.address()], "");
    for (what, frames) in rows {
        let before = fake.requests();
        fake.act(Act::Frames(frames, false));
        let failure = house.execute_idempotent().await.unwrap_err();
        assert!(!failure.is_untouched(), "{what}");
        let status = failure.into_status();
        assert_eq!(
            (status.code(), status.message(), fake.requests() - before),
            (Code::Unavailable, "downstream is unavailable", 1),
            "{what}"
        );
    }
    fake.act(Act::Message(vec![0; MAX_MESSAGE_BYTES + 1].into()));
    assert_eq!(house.execute_idempotent().await.unwrap_err().into_status().code(), Code::Unavailable, "too large");
    fake.act(Act::Echo);
    house.execute().await.expect("the connection is as good as before");
}

#[tokio::test]
async fn what_breaks_off_is_sent_again_only_when_it_is_idempotent_and_within_the_budget() {
    let message = prefixed(&answer(b"x"));
    let bad = Fake::start(Act::Cut).await;
    for act in [
        Act::Cut,
        Act::Reset(INTERNAL_ERROR),
        Act::Status(14),
        Act::Frames(vec![(1, 4, ok()), (0, 0, message[..3].to_vec())], true),
        Act::Frames(vec![(1, 4, ok()), (0, 0, message)], true),
    ] {
        let what = format!("{act:?}");
        bad.act(act);
        // One address alone: it is the only one to be tried again.
        let house = House::grpc(&[bad.address()], "retry_budget.percent = 0\nretry_budget.min_per_second = 1");
        let before = bad.requests();
        let failure = house.execute().await.unwrap_err();
        assert!(!failure.is_untouched(), "{what}");
        assert_eq!((failure.into_status().message(), bad.requests() - before), ("downstream is unavailable", 1), "{what}");
    }
    bad.act(Act::Reset(INTERNAL_ERROR));
    let good = Fake::start(Act::Echo).await;
    let keys =
        "retry_budget.percent = 0\nretry_budget.min_per_second = 0\noutlier_ejection.max_percent = 0\ncircuit_breaker.failure_percent = 0";
    let without = House::grpc(&[bad.address(), good.address()], keys);
    let with =
        House::grpc(&[bad.address(), good.address()], &keys.replace("percent = 0\nretry_budget.min_per_second = 0", "percent = 100"));
    let (mut failed, before) = (0, bad.requests());
    for _ in 0..40 {
        with.execute_idempotent().await.expect("the other endpoint answers");
        failed += usize::from(without.execute_idempotent().await.is_err());
    }
    let retried = with.metric("downstream_retries_total", "idempotent");
    assert!(retried > 0 && failed > 0, "{retried} {failed}: of 40 some go to either");
    assert_eq!(without.metric("downstream_retries_total", "over_budget"), failed as u64);
    assert_eq!((bad.requests() - before) as u64, retried + failed as u64, "each goes to another endpoint after the first");
}

#[tokio::test]
async fn what_nobody_has_looked_at_is_sent_again_without_being_asked() {
    let fake = Fake::start(Act::Reset(REFUSED_STREAM)).await;
    let house = House::grpc(&[fake.address()], "");
    let failure = house.execute().await.unwrap_err();
    assert!(failure.is_untouched(), "refused each time");
    assert_eq!((failure.into_status().message(), fake.requests()), ("downstream is unavailable", 4));
    assert_eq!(house.metric("downstream_retries_total", "untouched"), 3);
}

#[tokio::test]
async fn a_backend_that_drains_is_left_for_its_successor() {
    let fake = Fake::start(Act::Echo).await;
    let house = House::grpc(&[fake.address()], "");
    house.execute().await.unwrap();
    // The stream that asks comes after the last: the first was 1.
    fake.once(Act::GoAway(1));
    assert_eq!(&house.execute().await.unwrap().payload_bytes[..], b"payload", "it is sent again");
    assert_eq!((fake.requests(), fake.accepted()), (3, 2), "on another connection");
    assert_eq!(house.metric("downstream_retries_total", "untouched"), 1);
    until("the old one is closed", async || fake.open() == 1).await;

    fake.once(Act::Frames(vec![(1, 4, ok())], true));
    let failure = house.execute().await.unwrap_err();
    assert!(!failure.is_untouched(), "one that was cut off may have been carried out");
    assert_eq!(fake.requests(), 4);
}

#[tokio::test]
async fn a_dead_backend_is_untouched_and_its_successor_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orders.sock");
    let fake = Fake::unix(&path, Act::Echo);
    let house = House::grpc(&[fake.address()], "circuit_breaker.failure_percent = 0");
    house.execute().await.unwrap();
    fake.kill().await;
    until("nobody is there", async || house.execute().await.is_err_and(|failure| failure.is_untouched())).await;
    let _successor = Fake::unix(&path, Act::Echo);
    until("the successor answers", async || house.execute().await.is_ok()).await;
}

#[tokio::test]
async fn all_who_wait_for_a_connection_that_nobody_answers_wait_once_and_together() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let house = House::grpc(&[address], "connect_timeout = \"500ms\"");
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let orders = house.orders();
        waiting.spawn(async move { execute(&orders, b"x", false, PATIENCE, None).await });
    }
    let failures: Vec<_> = waiting.join_all().await.into_iter().map(Result::unwrap_err).collect();
    assert!(failures.iter().all(super::Failure::is_untouched));
    silent.accept().await.unwrap();
    let another = tokio::time::timeout(Duration::from_millis(200), silent.accept()).await;
    assert!(another.is_err(), "they came on one connection");
    let house = House::grpc(&[silent.local_addr().unwrap().to_string()], "connect_timeout = \"1h\"");
    let failure = execute(&house.orders(), b"x", false, Duration::from_millis(30), None).await.unwrap_err();
    assert!(failure.is_untouched(), "time was up before it was sent");
    assert_eq!(failure.into_status().message(), "downstream timed out");
}

#[tokio::test]
async fn another_connection_is_opened_when_the_streams_of_one_are_in_use() {
    let fake = Fake::with_max_streams(Act::Hang, 2).await;
    let house = House::grpc(&[fake.address()], "");
    let mut running = tokio::task::JoinSet::new();
    for count in 1..=5 {
        let orders = house.orders();
        running.spawn(async move { execute(&orders, b"x", false, PATIENCE, None).await.is_ok() });
        until("it came", async || fake.requests() >= count).await;
    }
    assert_eq!(fake.accepted(), 3);
    running.shutdown().await;
    fake.act(Act::Echo);
    until("places that were given up are used again", async || house.execute().await.is_ok() && fake.accepted() == 3).await;
}

#[tokio::test]
async fn a_unix_socket_is_as_good() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orders.sock");
    let fake = Fake::unix(&path, Act::Echo);
    let house = House::grpc(&[format!("unix:{}", path.display())], "");
    assert_eq!(&house.execute().await.unwrap().payload_bytes[..], b"payload");
    assert_eq!(fake.requests(), 1);
}
