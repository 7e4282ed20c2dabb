//! Nothing is carried out twice, whatever becomes of Redis and of whoever asks.

use std::time::Duration;

use gatehouse_chassis::exit;
use gatehouse_proto::session::{SessionSnapshot, Status};
use gatehouse_sessions::{Claimed, Keepsake, Refusal, Verifier, now_ms};
use gatehouse_testkit::RedisServer;

use crate::bench::{Bench, verdict, within};

const LIMIT: Duration = Duration::from_mins(5);

#[tokio::test]
async fn a_redis_that_may_evict_is_refused_at_the_start() {
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let server = RedisServer::start();
        server.run(&["CONFIG", "SET", "maxmemory-policy", policy]);
        let refused = Bench::try_start_on(server, "").await.map(|_| ()).unwrap_err();
        assert_eq!(exit::code_of(&refused), exit::CONFIG);
        assert!(format!("{refused:#}").contains(&format!("its maxmemory-policy is {policy}")), "{refused:#}");
    }
}

#[tokio::test]
async fn a_reservation_outlives_every_moment_at_which_its_timestamp_is_fresh() {
    let bench = Bench::start("").await;
    bench.write_key(&bench.snapshot(Status::Active, 10));
    assert_eq!(bench.verdict(&bench.command("r")).await, Ok(()));
    let left: i64 = bench.server.run(&["PTTL", "gateway:replay:ds-1:r"]).trim_start_matches(':').parse().unwrap();
    assert!((570_000..=610_000).contains(&left), "{left} ms");
}

#[tokio::test]
async fn after_a_wipe_what_may_have_been_seen_before_is_refused_and_what_is_younger_is_not() {
    let bench = Bench::start("").await;
    bench.write_key(&bench.snapshot(Status::Active, 10));
    let seen = bench.command("r");
    assert_eq!(bench.verdict(&seen).await, Ok(()));
    bench.server.run(&["FLUSHALL"]);
    bench.write_key(&bench.snapshot(Status::Active, 10));
    assert_eq!(bench.verdict(&seen).await, Err(Refusal::StoreUnavailable));
    assert_eq!(bench.verdict(&seen).await, Err(Refusal::Replay));
    let noticed = now_ms();
    while now_ms() <= noticed {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.verdict(&bench.command("r2")).await, Ok(()));
}

#[tokio::test]
async fn a_command_while_redis_hangs_is_refused_in_time_and_the_next_passes_when_it_goes_on() {
    let bench = Bench::start("[redis]\ncommand_timeout = \"3s\"").await;
    bench.write_key(&bench.snapshot(Status::Active, 10));
    assert_eq!(bench.verdict(&bench.command("r1")).await, Ok(()));
    bench.server.pause();
    let all = futures_util::future::join_all((0..50).map(|n| {
        let command = bench.command(&format!("paused-{n}"));
        let bench = &bench;
        async move { bench.verdict(&command).await }
    }));
    assert!(within("all are refused", all).await.iter().all(|verdict| *verdict == Err(Refusal::StoreUnavailable)));
    bench.server.resume();
    let mut n = 0;
    within("commands pass again", async {
        loop {
            n += 1;
            match bench.verdict(&bench.command(&format!("after-{n}"))).await {
                Ok(()) => break,
                Err(refusal) => assert_eq!(refusal, Refusal::StoreUnavailable),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_starts_anew_without_what_was_reserved_last_lets_no_replay_through() {
    let mut bench = Bench::start("").await;
    bench.write_key(&bench.snapshot(Status::Active, 10));
    let seen = bench.command("r");
    assert_eq!(bench.verdict(&seen).await, Ok(()));
    bench.server.kill9();
    bench.server.restart();
    // As from a snapshot: the mark is older than the reservation, and there.
    bench.server.run(&["DEL", "gateway:replay:ds-1:r"]);
    assert_ne!(bench.server.run(&["GET", "gateway:replay-mark"]), "");
    within("Redis is back", async {
        while bench.verdict(&bench.command_of("nobody", "r")).await == Err(Refusal::StoreUnavailable) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(bench.verdict(&seen).await, Err(Refusal::StoreUnavailable));
    within("what is younger passes", async {
        let mut n = 0;
        while bench.verdict(&bench.command(&format!("r-{n}"))).await != Ok(()) {
            n += 1;
        }
    })
    .await;
}

/// What the mark says of who reserved last, and when.
fn sign(bench: &Bench) -> (String, i64) {
    let mark = bench.server.run(&["GET", "gateway:replay-mark"]);
    let words: Vec<_> = mark.trim().split(' ').collect();
    (words[1].to_owned(), words[2].parse().unwrap())
}

async fn signs_again(bench: &Bench, after: (String, i64)) -> (String, i64) {
    within("an edge that carries out commands says so", async {
        while sign(bench) == after {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        sign(bench)
    })
    .await
}

#[tokio::test]
async fn what_another_edge_had_carried_out_is_not_carried_out_after_a_wipe() {
    let bench = Bench::start("").await;
    let other = bench.beside().await;
    let write_sessions = || {
        bench.write_key(&bench.snapshot(Status::Active, 10));
        bench.write_key(&SessionSnapshot { device_session_id: "ds-2".into(), ..bench.snapshot(Status::Active, 10) });
    };
    write_sessions();
    let seen = bench.command("r");
    let first = sign(&bench);
    assert_eq!(bench.verdict(&seen).await, Ok(()));
    let ours = signs_again(&bench, first).await;
    // Its sign comes after it has seen ours.
    assert_eq!(verdict(&other, &bench.command_of("ds-2", "own")).await, Ok(()));
    let theirs = signs_again(&bench, ours.clone()).await;
    assert_ne!(theirs.0, ours.0);
    bench.server.run(&["FLUSHALL"]);
    write_sessions();
    assert_eq!(verdict(&other, &seen).await, Err(Refusal::StoreUnavailable));
}

#[tokio::test]
async fn who_carries_nothing_out_puts_nobody_s_commands_in_doubt() {
    let bench = Bench::start("").await;
    let other = bench.beside().await;
    bench.server.run(&["FLUSHALL"]);
    bench.write_key(&bench.snapshot(Status::Active, 10));
    assert_eq!(verdict(&other, &bench.command("r")).await, Ok(()), "the first request after a wipe is served");
}

async fn claim(edge: &Verifier, bench: &Bench, request_id: &str) -> Claimed {
    edge.claim(&bench.command(request_id), None, LIMIT).await.unwrap().1
}

#[tokio::test]
async fn a_kept_answer_outlives_the_timestamp_of_every_retry_that_was_given_it() {
    let bench = Bench::start("").await;
    bench.write_key(&bench.snapshot(Status::Active, 10));
    let Claimed::First(first) = claim(&bench.verifier, &bench, "r").await else { panic!("nobody was there before") };
    first.begin().keep(Keepsake::Answer("done".into())).await;
    bench.server.run(&["PEXPIRE", "gateway:replay:ds-1:r", "60000"]);
    assert!(matches!(claim(&bench.verifier, &bench, "r").await, Claimed::Again(_)));
    let left: i64 = bench.server.run(&["PTTL", "gateway:replay:ds-1:r"]).trim_start_matches(':').parse().unwrap();
    assert!((570_000..=610_000).contains(&left), "{left} ms");
}

#[tokio::test]
async fn a_claim_that_was_not_begun_on_is_given_back_however_its_owner_left() {
    let bench = Bench::start("").await;
    bench.write_key(&bench.snapshot(Status::Active, 10));
    assert_eq!(bench.verdict(&bench.command("another")).await, Ok(()));
    let is_given_back = async |what| {
        within(what, async {
            while !matches!(claim(&bench.verifier, &bench, "r").await, Claimed::First(_)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    };
    is_given_back("nobody was there before").await;
    is_given_back("the one before was dropped").await;
    bench.server.pause();
    assert!(tokio::time::timeout(Duration::from_millis(200), claim(&bench.verifier, &bench, "r")).await.is_err());
    bench.server.resume();
    is_given_back("the one before was dropped while it was being made").await;
}
