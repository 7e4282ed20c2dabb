//! The order in which key, stream and cache meet never decides who may speak.

use std::{sync::Arc, time::Duration};

use gatehouse_proto::{
    keys::Signer,
    session::{SessionSnapshot, Status},
};
use gatehouse_sessions::Refusal;

use crate::bench::{Bench, within};

#[tokio::test]
async fn a_revocation_by_the_stream_reaches_a_cached_session_and_is_sticky() {
    let mut bench = Bench::start("").await;
    let (active, revoked) = (bench.snapshot(Status::Active, 10), bench.snapshot(Status::Revoked, 20));
    bench.write_key(&active);
    assert!(!bench.is_revoked().await);
    bench.write_stream(&revoked);
    assert_eq!(bench.revoked.recv().await.as_deref(), Some("ds-1"));
    assert!(bench.is_revoked().await);
    // The key still says active, and a late, older active comes by the stream too.
    bench.write_stream(&bench.snapshot(Status::Active, 15));
    bench.write_stream(&revoked);
    bench.revoked.recv().await.unwrap();
    assert!(bench.is_revoked().await);
}

#[tokio::test]
async fn a_revocation_that_was_trimmed_before_it_was_read_ends_a_cached_session() {
    let bench = Bench::start("").await;
    bench.write_key(&bench.snapshot(Status::Active, 10));
    assert!(!bench.is_revoked().await);
    bench.write_key(&bench.snapshot(Status::Revoked, 20));
    let at_once = "redis.call('XADD', KEYS[1], '*', 'n', 'v') return redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)";
    bench.server.run(&["EVAL", at_once, "1", "gateway:session_events"]);
    within("the session is read again", async {
        while !bench.is_revoked().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_revocation_seen_before_the_session_was_ever_asked_for_still_counts() {
    let mut bench = Bench::start("").await;
    bench.write_stream(&bench.snapshot(Status::Revoked, 20));
    bench.revoked.recv().await.unwrap();
    bench.write_key(&bench.snapshot(Status::Active, 20));
    assert!(bench.is_revoked().await, "at equal times revoked wins");
}

#[tokio::test]
async fn revocations_that_the_stream_still_holds_are_known_after_a_start() {
    let first = Bench::start("").await;
    first.write_stream(&first.snapshot(Status::Revoked, 20));
    first.write_key(&first.snapshot(Status::Active, 10));
    let second = Bench::start_on(first.server, "").await;
    assert!(second.is_revoked().await);
}

#[tokio::test]
async fn a_newer_active_snapshot_ends_a_revocation() {
    let mut bench = Bench::start("").await;
    bench.write_stream(&bench.snapshot(Status::Revoked, 20));
    bench.revoked.recv().await.unwrap();
    bench.write_key(&bench.snapshot(Status::Active, 30));
    assert!(bench.is_revoked().await || bench.verdict(&bench.command("r")).await.is_ok(), "the cache may still hold the revocation");
    bench.write_stream(&bench.snapshot(Status::Active, 30));
    within("the newer snapshot is seen", async {
        while bench.is_revoked().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_new_key_that_is_in_the_stream_already_beats_the_old_one_under_the_session_s_key() {
    let mut bench = Bench::start("").await;
    bench.write_key(&bench.snapshot(Status::Active, 10));
    let public_key = Signer::from_seed(&[8; 32]).public_key().to_base64();
    bench.write_stream(&SessionSnapshot { public_key, ..bench.snapshot(Status::Active, 20) });
    // The feed reads in order: behind this, it has seen the new key.
    bench.write_stream(&SessionSnapshot { device_session_id: "ds-2".into(), ..bench.snapshot(Status::Revoked, 30) });
    assert_eq!(bench.revoked.recv().await.as_deref(), Some("ds-2"));
    assert_eq!(bench.verdict(&bench.command("r")).await, Err(Refusal::Signature), "signed with the old key");
}

#[tokio::test]
async fn malformed_session_events_are_skipped() {
    let mut bench = Bench::start("").await;
    bench.server.run(&[&b"XADD"[..], b"gateway:session_events", b"*", b"device_session_id", b"\xff", b"status", b"revoked"]);
    bench.server.run(&["XADD", "gateway:session_events", "*", "status", "paused"]);
    bench.write_stream(&bench.snapshot(Status::Revoked, 20));
    assert_eq!(bench.revoked.recv().await.as_deref(), Some("ds-1"));
}

#[tokio::test]
async fn each_refusal_comes_in_the_contract_s_order() {
    let bench = Bench::start("[[limit]]\nname = \"s\"\nper = \"session\"\nrate = \"1/h\"\nburst = 2\n").await;
    assert_eq!(bench.verdict(&bench.command("r")).await, Err(Refusal::UnknownSession));
    bench.write_key(&bench.snapshot(Status::Active, 10));

    let mut forged = bench.command("r");
    forged.signature = vec![0; 64].into();
    assert_eq!(bench.verdict(&forged).await, Err(Refusal::Signature));
    let mut stale = bench.command("r");
    stale.timestamp_ms -= 301_000;
    assert_eq!(bench.verdict(&stale).await, Err(Refusal::Stale), "before its signature, which no longer holds either");
    stale.timestamp_ms = i64::MIN;
    assert_eq!(bench.verdict(&stale).await, Err(Refusal::Stale));
    // None of these burned the id.
    assert_eq!(bench.verdict(&bench.command("r")).await, Ok(()));
    assert_eq!(bench.verdict(&bench.command("r")).await, Err(Refusal::Replay));
    assert_eq!(bench.verdict(&bench.command("r2")).await, Ok(()));
    assert!(matches!(bench.verdict(&bench.command("r3")).await, Err(Refusal::RateLimited(wait)) if wait <= Duration::from_hours(1)));
}

#[tokio::test]
async fn of_many_identical_commands_one_wins() {
    let bench = Arc::new(Bench::start("").await);
    bench.write_key(&bench.snapshot(Status::Active, 10));
    let request = bench.command("same");
    let verdicts = futures_util::future::join_all((0..24).map(|_| bench.verdict(&request))).await;
    assert_eq!(verdicts.iter().filter(|verdict| verdict.is_ok()).count(), 1);
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == Err(Refusal::Replay)).count(), 23);
}

#[tokio::test]
async fn without_redis_a_cached_session_is_still_not_let_through() {
    let mut bench = Bench::start("").await;
    bench.write_key(&bench.snapshot(Status::Active, 10));
    assert_eq!(bench.verdict(&bench.command("r1")).await, Ok(()));
    bench.server.kill9();
    assert_eq!(bench.verdict(&bench.command("r2")).await, Err(Refusal::StoreUnavailable));
}

#[tokio::test]
async fn of_many_that_miss_the_same_session_one_asks_redis() {
    let bench = Bench::start("").await;
    bench.write_key(&bench.snapshot(Status::Active, 10));
    bench.count_anew();
    let all = futures_util::future::join_all((0..100).map(|_| bench.sessions.resolve("ds-1"))).await;
    assert!(all.iter().all(Result::is_ok));
    bench.sessions.resolve("ds-1").await.unwrap();
    assert_eq!(bench.gets(), 1);
}

#[tokio::test]
async fn a_flood_of_an_unknown_id_does_not_reach_redis_and_ends_with_its_registration() {
    let mut bench = Bench::start("").await;
    bench.count_anew();
    let (begun, mut asked) = (std::time::Instant::now(), 0);
    while asked < 2000 {
        assert_eq!(bench.sessions.resolve("ds-1").await.unwrap_err(), Refusal::UnknownSession);
        asked += 1;
    }
    // The second time it is remembered, for a second.
    let most = 2 * (2 + u32::try_from(begun.elapsed().as_secs()).unwrap());
    assert!(bench.gets() <= most, "{} of {asked} asked Redis", bench.gets());
    bench.write_key(&bench.snapshot(Status::Active, 10));
    bench.write_stream(&bench.snapshot(Status::Active, 10));
    bench.stream_is_read().await;
    assert!(!bench.is_revoked().await);
}

#[tokio::test]
async fn while_the_stream_is_lost_redis_is_asked_each_time() {
    let bench = Bench::start("[sessions]\nmax_staleness = \"2s\"").await;
    bench.write_key(&bench.snapshot(Status::Active, 10));
    assert!(!bench.is_revoked().await);
    // Of this stream nothing can be read any more.
    bench.server.run(&["SET", "gateway:session_events", "x"]);
    bench.write_key(&bench.snapshot(Status::Revoked, 20));
    within("the cache is no longer trusted", async {
        while !bench.is_revoked().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    bench.write_key(&bench.snapshot(Status::Active, 30));
    assert!(!bench.is_revoked().await, "at once");
    assert_eq!(bench.sessions.resolve("ds-2").await.unwrap_err(), Refusal::UnknownSession);
    assert_eq!(bench.sessions.resolve("ds-2").await.unwrap_err(), Refusal::UnknownSession);
    let other = SessionSnapshot { device_session_id: "ds-2".into(), ..bench.snapshot(Status::Active, 10) };
    bench.server.run(&["SET", "gateway:session:ds-2", &other.to_json()]);
    assert!(bench.sessions.resolve("ds-2").await.is_ok(), "neither is what is not there");
}

#[tokio::test]
async fn a_snapshot_whose_key_cannot_be_decoded_does_not_lock_a_device_out() {
    let mut bench = Bench::start("").await;
    bench.write_key(&bench.snapshot(Status::Active, 10));
    assert_eq!(bench.verdict(&bench.command("r1")).await, Ok(()));
    bench.write_stream(&SessionSnapshot { public_key: "AAAA".into(), ..bench.snapshot(Status::Active, 20) });
    bench.stream_is_read().await;
    assert_eq!(bench.verdict(&bench.command("r2")).await, Ok(()));
    bench.write_stream(&SessionSnapshot { public_key: "AAAA".into(), ..bench.snapshot(Status::Revoked, 30) });
    bench.stream_is_read().await;
    assert_eq!(bench.verdict(&bench.command("r3")).await, Err(Refusal::Revoked), "to revoke, no key is needed");
}

#[tokio::test]
async fn a_wiped_redis_has_no_sessions() {
    let mut bench = Bench::start("").await;
    bench.write_key(&bench.snapshot(Status::Active, 10));
    bench.stream_is_read().await;
    assert!(!bench.is_revoked().await);
    bench.server.run(&["FLUSHALL"]);
    within("the wipe is noticed", async {
        while bench.sessions.resolve("ds-1").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
