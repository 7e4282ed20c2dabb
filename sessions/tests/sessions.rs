//! Sessions against a real Redis: the order in which key, stream and cache meet never decides who may speak.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use gatehouse_chassis::{
    Process,
    config::{Config as _, Reader, Shared, Source},
    exit,
    redis::Redis,
    sockets::Inherited,
};
use gatehouse_proto::{
    gateway::v1::ExecuteCommandRequest,
    keys::{Signer, sha256},
    session::{SessionSnapshot, Status},
    signing,
};
use gatehouse_sessions::{Config, Limits, Refusal, Sessions, Verifier, now_ms};
use gatehouse_testkit::RedisServer;
use tokio::sync::mpsc;

struct Bench {
    server: RedisServer,
    sessions: Sessions,
    verifier: Verifier,
    revoked: mpsc::UnboundedReceiver<String>,
    device: Signer,
}

impl Bench {
    async fn start(text: &str) -> Self {
        Self::start_on(RedisServer::start(), text).await
    }

    async fn start_on(server: RedisServer, text: &str) -> Self {
        Self::try_start_on(server, text).await.unwrap()
    }

    async fn try_start_on(server: RedisServer, text: &str) -> anyhow::Result<Self> {
        let key = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(key.path(), Signer::from_seed(&[9; 32]).to_pkcs8_pem().unwrap().as_bytes()).unwrap();
        let addr = server.addr();
        let env = [
            ("GATEWAY_REDIS_MASTER_ADDR", addr.as_str()),
            ("GATEWAY_REDIS_PASSWORD", server.password()),
            ("GATEWAY_RESPONSE_SIGNER_PRIVATE_KEY_PEM_PATH", key.path().to_str().unwrap()),
        ];
        let mut reader = Reader::new(Source::of(text, &env));
        let mut shared = Shared::read(&mut reader).unwrap();
        let config = Config::read(&mut reader).unwrap();
        assert_eq!(reader.into_problems(), []);
        if !text.contains("command_timeout") {
            // Longer than a busy machine stands still.
            (shared.redis.command_timeout, shared.redis.connect_timeout) = (Duration::from_secs(5), Duration::from_secs(10));
        }
        let redis = Redis::connect(&shared.redis).await.unwrap();
        let process = Process::new("test", 0, shared, Inherited::default());
        let (sender, revoked) = mpsc::unbounded_channel();
        let on_revoked = move |id: &str| sender.send(id.to_owned()).unwrap();
        let sessions = Sessions::open(&process, redis.clone(), &config, on_revoked).await?;
        let limits = Limits::start(&process, &redis, &config);
        let verifier = Verifier::new(sessions.clone(), redis, &config, &process).with_limits(limits);
        Ok(Self { server, sessions, verifier, revoked, device: Signer::from_seed(&[7; 32]) })
    }

    /// How often Redis was asked for a key since [`Bench::count_anew`].
    fn gets(&self) -> u32 {
        let stats = self.server.run(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls="));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }

    fn count_anew(&self) {
        self.server.run(&["CONFIG", "RESETSTAT"]);
    }

    /// Resolves once everything that was written to the stream before has been taken in.
    async fn stream_is_read(&mut self) {
        self.write_stream(&SessionSnapshot { device_session_id: "fence".into(), ..self.snapshot(Status::Revoked, now_ms()) });
        while self.revoked.recv().await.unwrap() != "fence" {}
    }

    fn snapshot(&self, status: Status, updated_at_ms: i64) -> SessionSnapshot {
        SessionSnapshot {
            device_session_id: "ds-1".into(),
            user_id: "u-1".into(),
            public_key: self.device.public_key().to_base64(),
            status,
            updated_at_ms,
            revoked_at_ms: None,
        }
    }

    fn write_key(&self, snapshot: &SessionSnapshot) {
        self.server.run(&["SET", "gateway:session:ds-1", &snapshot.to_json()]);
    }

    fn write_stream(&self, snapshot: &SessionSnapshot) {
        let mut command = vec!["XADD".to_owned(), "gateway:session_events".into(), "*".into()];
        command.extend(snapshot.to_fields().into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
        self.server.run(&command);
    }

    async fn is_revoked(&self) -> bool {
        self.sessions.resolve("ds-1").await.unwrap().is_revoked()
    }

    fn command(&self, request_id: &str) -> ExecuteCommandRequest {
        let mut request = ExecuteCommandRequest {
            protocol_version: "v1".into(),
            device_session_id: "ds-1".into(),
            message_type: "t".into(),
            request_id: request_id.into(),
            timestamp_ms: now_ms(),
            payload_hash: sha256(b"").to_vec().into(),
            ..Default::default()
        };
        request.signature = self.device.sign(&signing::command(&request)).to_vec().into();
        request
    }

    async fn verdict(&self, request: &ExecuteCommandRequest) -> Result<(), Refusal> {
        self.verifier.command(request, None).await.map(|_| ()).map_err(|rejected| rejected.refusal)
    }
}

/// Waits for it, however often it asks, and not for ever.
async fn within<T>(what: &str, it: impl Future<Output = T>) -> T {
    let patience = Duration::from_mins(1);
    tokio::time::timeout(patience, it).await.unwrap_or_else(|_| panic!("not within {patience:?}: {what}"))
}

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
