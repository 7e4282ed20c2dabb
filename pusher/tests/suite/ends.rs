//! How streams end: by a verdict, with a cursor that is worth something.

use std::{
    os::{fd::OwnedFd, unix::net::UnixListener},
    time::Duration,
};

use gatehouse_proto::{gateway::v1::server_time::Resume, session::Status as SessionStatus};
use tonic::Code;

use crate::bench::{Bench, Client, Pusher, trailers, trailers_within, within};

const SMALL: &str = "[push]\nmax_pending_events = 50\n";

/// An event that no window holds many of.
fn large(n: usize) -> String {
    format!("{n} {}", "x".repeat(20_000))
}

fn numbers(payloads: &[String]) -> Vec<usize> {
    payloads.iter().map(|payload| payload.split(' ').next().unwrap().parse().unwrap()).collect()
}

async fn greeted(pusher: &Pusher, device: &str) -> Client {
    let mut client = pusher.attach(device, None).await;
    client.server_time().await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn overflow_ends_the_slow_stream_alone_and_its_cursor_yields_the_rest_exactly() {
    let bench = Bench::start();
    let pusher = bench.pusher(SMALL).await;
    let (mut slow, mut same_user, mut other) = (greeted(&pusher, "a1").await, greeted(&pusher, "a2").await, greeted(&pusher, "b1").await);
    let total = 200;
    for n in 0..total {
        bench.publish("a", large(n));
        bench.publish("b", n.to_string());
        assert_eq!(numbers(&same_user.payloads(1).await), [n]);
        assert_eq!(numbers(&other.payloads(1).await), [n]);
    }
    let mut got = Vec::new();
    let status = loop {
        match slow.try_next().await {
            Ok(payload) => got.push(payload),
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "push stream overflowed"));
    let cursor = trailers(&status);
    assert_eq!(Some(cursor), slow.cursor(), "everything up to the cursor was delivered");
    assert!(got.len() < total - 50, "{}", got.len());
    let mut resumed = pusher.attach("a1", Some(cursor)).await;
    assert_eq!(resumed.server_time().await, (cursor, Resume::Complete));
    got.extend(resumed.payloads(total - got.len()).await);
    assert_eq!(numbers(&got), (0..total).collect::<Vec<_>>());
    assert!(pusher.metric("push_events_total{outcome=\"overflowed\"") > 50.0);
    bench.publish("a", "9999");
    for client in [&mut same_user, &mut resumed] {
        assert_eq!(client.payloads(1).await, ["9999"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_asked_to_stay_away_for_as_long_as_is_configured() {
    let bench = Bench::start();
    let pusher = bench.pusher("[push]\nretry_after = '20s'\n").await;
    let mut client = greeted(&pusher, "a1").await;
    pusher.process.shutdown().drain();
    trailers_within(&client.end().await.1, 20_000..60_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_held_to_bytes_too() {
    let bench = Bench::start();
    let pusher = bench.pusher("[push]\nmax_pending_bytes = 400000\n").await;
    let mut slow = greeted(&pusher, "a1").await;
    for n in 0..100 {
        bench.publish("a", large(n));
    }
    let (left, status) = slow.end().await;
    assert_eq!(status.message(), "push stream overflowed");
    assert!(left < 80, "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_client_takes_nothing_for_too_long_is_ended_without_another_event() {
    let bench = Bench::start();
    let pusher = bench.pusher("[push]\nmax_pending_age = '300ms'\n").await;
    let (mut stuck, mut silent) = (greeted(&pusher, "a1").await, greeted(&pusher, "b1").await);
    // More than the windows hold; far less than may wait.
    for n in 0..30 {
        bench.publish("a", large(n));
    }
    within("the stuck stream is cut", async {
        while pusher.metric("push_events_total{outcome=\"overflowed\"") < 1.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let (left, status) = stuck.end().await;
    assert_eq!(status.message(), "push stream overflowed");
    assert_eq!(Some(trailers(&status)), stuck.cursor());
    assert!(left < 30);
    bench.publish("b", "silence is no stall");
    assert_eq!(silent.payloads(1).await, ["silence is no stall"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_catches_up_is_not_cut_for_what_comes_in_meanwhile() {
    let bench = Bench::start();
    let pusher = bench.pusher(SMALL).await;
    let mut client = greeted(&pusher, "a1").await;
    let cursor = client.cursor().unwrap();
    drop(client);
    for n in 0..100 {
        bench.publish("a", large(n));
    }
    pusher.has_read(&bench).await;
    client = pusher.attach("a1", Some(cursor)).await;
    let mut got = client.payloads(20).await;
    for n in 100..200 {
        bench.publish("a", large(n));
    }
    pusher.has_read(&bench).await;
    got.extend(client.payloads(180).await);
    assert_eq!(numbers(&got), (0..200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_ends_the_streams_of_that_session_alone() {
    let bench = Bench::start();
    let pusher = bench.pusher("").await;
    let (mut one, mut two, mut other) = (greeted(&pusher, "a1").await, greeted(&pusher, "a1").await, greeted(&pusher, "a2").await);
    bench.publish("a", "before");
    for client in [&mut one, &mut two, &mut other] {
        client.payloads(1).await;
    }
    bench.write_session("a1", SessionStatus::Revoked);
    for client in [&mut one, &mut two] {
        let (left, status) = client.end().await;
        assert_eq!((left, status.code(), status.message()), (0, Code::FailedPrecondition, "device session is revoked"));
        assert_eq!(Some(trailers(&status)), client.cursor());
    }
    bench.publish("a", "after");
    assert_eq!(other.payloads(1).await, ["after"]);
    let refused = pusher.try_attach("a1", String::new(), false).await.err().unwrap();
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "device session is revoked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_races_with_the_attach_always_wins() {
    let bench = Bench::start();
    let pusher = bench.pusher("").await;
    for round in 0..40 {
        bench.write_session("a1", SessionStatus::Active);
        // Cached as active, sooner or later.
        let first = within("the session is active again", async {
            loop {
                if let Ok(client) = pusher.try_attach("a1", String::new(), false).await {
                    return client;
                }
            }
        })
        .await;
        let attach = async {
            tokio::time::sleep(Duration::from_micros(50 * round)).await;
            pusher.try_attach("a1", String::new(), false).await
        };
        let revoke = async { tokio::task::block_in_place(|| bench.write_session("a1", SessionStatus::Revoked)) };
        let (attached, ()) = tokio::join!(attach, revoke);
        for client in [Ok(first), attached] {
            let status = match client {
                Ok(mut client) => client.end().await.1,
                Err(status) => status,
            };
            assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "device session is revoked"));
        }
        // The next snapshot must be newer.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_ends_every_stream_with_where_to_resume() {
    let bench = Bench::start();
    let socket = bench.socket("shared.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let lend = || [("local", OwnedFd::from(listener.try_clone().unwrap()))];
    let pusher = bench.pusher_on("", 0, socket.clone(), lend()).await;
    let (mut reading, mut silent) = (greeted(&pusher, "a1").await, greeted(&pusher, "b1").await);
    let successor = bench.pusher_on("", 0, socket.clone(), lend()).await;
    bench.publish("a", "last");
    assert_eq!(reading.payloads(1).await, ["last"]);
    pusher.process.shutdown().drain();
    for client in [&mut reading, &mut silent] {
        let (left, status) = client.end().await;
        assert_eq!((left, status.code(), status.message()), (0, Code::Unavailable, "gateway is shutting down"));
        assert_eq!(Some(trailers(&status)), client.cursor());
    }
    // Whoever had a connection to it has one to its successor now, and no call of theirs fails.
    bench.publish("a", "after");
    let mut resumed = pusher.attach("a1", reading.cursor()).await;
    within("everything ends", pusher.process.shutdown().finished()).await;
    assert!((successor.metric("push_streams") - 1.0).abs() < f64::EPSILON);
    assert_eq!(resumed.server_time().await.1, Resume::Complete);
    assert_eq!(resumed.payloads(1).await, ["after"]);
}
