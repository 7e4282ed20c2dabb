//! The Redis client against a real server: bounded waits, reconnection, and following a stream across a crash and a wipe.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use gatehouse_chassis::{
    config::{Config as _, Reader, Shared, Source},
    exit,
    redis::{Batch, Entry, Redis, RedisError, Standing, Tail, cmd, pipe},
};
use gatehouse_proto::ids::StreamId;
use gatehouse_testkit::RedisServer;

const POLL: Duration = Duration::from_millis(5);
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

fn shared(server: &RedisServer, password: &str) -> Shared {
    // Longer than a busy machine stands still.
    shared_with(server, password, "[redis]\ncommand_timeout = \"3s\"\nconnect_timeout = \"3s\"")
}

fn shared_with(server: &RedisServer, password: &str, text: &str) -> Shared {
    let env = [("GATEWAY_REDIS_MASTER_ADDR", server.addr()), ("GATEWAY_REDIS_PASSWORD", password.to_owned())];
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut reader = Reader::new(Source::of(text, &env));
    Shared::read(&mut reader).unwrap()
}

async fn connect(server: &RedisServer) -> Redis {
    Redis::connect(&shared(server, server.password()).redis).await.unwrap()
}

/// One whose waits are of that length.
async fn connect_with(server: &RedisServer, command_timeout: &str) -> Redis {
    let text = format!("[redis]\ncommand_timeout = \"{command_timeout}\"\nconnect_timeout = \"{command_timeout}\"");
    Redis::connect(&shared_with(server, server.password(), &text).redis).await.unwrap()
}

/// Asks until it is so.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let asked = async {
        while !so().await {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn write(redis: &Redis) -> Result<String, RedisError> {
    redis.run(cmd("SET").arg("k").arg("v")).await
}

/// The next batch that brings entries; errors and silence on the way are passed over.
async fn next_entries(tail: &mut Tail) -> Vec<Entry> {
    loop {
        if let Ok(Batch { entries, .. }) = tail.next().await
            && !entries.is_empty()
        {
            return entries;
        }
    }
}

fn values(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| String::from_utf8_lossy(&entry.fields[0].1).into_owned()).collect()
}

#[tokio::test]
async fn a_refused_password_is_a_configuration_error_and_silence_may_pass() {
    let mut server = RedisServer::start();
    let refused = Redis::connect(&shared(&server, "wrong").redis).await.unwrap_err();
    assert_eq!(exit::code_of(&refused), exit::CONFIG, "{refused:#}");
    assert!(!format!("{refused:#}").contains("wrong"), "the password is not printed: {refused:#}");
    server.kill9();
    let silent = Redis::connect(&shared(&server, server.password()).redis).await.unwrap_err();
    assert_eq!(exit::code_of(&silent), exit::TRY_AGAIN, "{silent:#}");
    assert!(format!("{silent:#}").contains("does not answer PING"), "{silent:#}");
}

#[tokio::test]
async fn commands_fail_within_their_bound_while_redis_is_away_and_work_again_after() {
    let mut server = RedisServer::start();
    let redis = connect(&server).await;
    server.kill9();
    let asked = tokio::time::timeout(PATIENCE, redis.run::<String>(&cmd("PING"))).await;
    assert!(asked.expect("a bounded wait").is_err());
    server.restart();
    let back = async {
        while !redis.is_connected().await {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(PATIENCE, back).await.unwrap();
    assert_eq!(redis.run::<String>(cmd("SET").arg("k").arg("v")).await.unwrap(), "OK");
}

#[tokio::test]
async fn a_tail_goes_on_after_a_crash_without_gap_or_repeat() {
    let mut server = RedisServer::start();
    let redis = connect(&server).await;
    let mut tail = Tail::new(&redis, "s", StreamId::ZERO);
    server.run(&["XADD", "s", "*", "n", "1"]);
    assert_eq!(values(&next_entries(&mut tail).await), ["1"]);
    server.run(&["XADD", "s", "*", "n", "2"]);
    server.kill9();
    server.restart();
    server.run(&["XADD", "s", "*", "n", "3"]);
    let mut seen = next_entries(&mut tail).await;
    while seen.len() < 2 {
        seen.extend(next_entries(&mut tail).await);
    }
    assert_eq!(values(&seen), ["2", "3"]);
}

#[tokio::test]
async fn once_a_tail_is_back_the_first_command_succeeds() {
    let mut server = RedisServer::start();
    let redis = connect(&server).await;
    let mut tail = Tail::new(&redis, "s", StreamId::ZERO);
    tail.next().await.unwrap();
    server.kill9();
    while tail.next().await.is_ok() {}
    server.restart();
    let back = async { while tail.next().await.is_err() {} };
    tokio::time::timeout(PATIENCE, back).await.unwrap();
    assert_eq!(redis.run::<String>(&cmd("PING")).await.unwrap(), "PONG", "no client's command finds out that the old connection is dead");
}

#[tokio::test]
async fn the_horizon_moves_on_in_silence_and_never_passes_an_unread_entry() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let mut tail = Tail::new(&redis, "s", StreamId::ZERO);
    let first = tail.next().await.unwrap();
    assert!(first.entries.is_empty() && first.horizon > StreamId::ZERO);
    let now: u64 = server.run(&["TIME"]).lines().next().unwrap().parse::<u64>().unwrap() * 1000;
    assert!(first.horizon.ms < now, "the server's clock may go back by a second");
    let id: StreamId = server.run(&["XADD", "s", "*", "n", "1"]).parse().unwrap();
    assert!(id > first.horizon, "{id} {}", first.horizon);
    let second = tail.next().await.unwrap();
    assert_eq!((second.entries[0].id, second.horizon >= id), (id, true));
}

#[tokio::test]
async fn a_wiped_stream_is_noticed_and_read_from_its_start() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let mut tail = Tail::new(&redis, "s", StreamId::ZERO);
    server.run(&["XADD", "s", "99999999999999-1", "n", "before"]);
    next_entries(&mut tail).await;
    server.run(&["FLUSHALL"]);
    // Ids made by the server are smaller than the one before the wipe: without noticing, the reader would never see them.
    server.run(&["XADD", "s", "*", "n", "after"]);
    let (mut wiped, mut seen) = (false, Vec::new());
    while seen.is_empty() {
        let batch = tail.next().await.unwrap();
        wiped |= batch.wiped;
        seen = batch.entries;
    }
    assert!(wiped);
    assert_eq!(values(&seen), ["after"]);
}

#[tokio::test]
async fn a_wipe_that_new_entries_hide_shows_in_the_watched_key() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    server.run(&["SET", "epoch", "1"]);
    let mut tail = Tail::new(&redis, "s", StreamId::ZERO).watching("epoch");
    server.run(&["XADD", "s", "1-0", "n", "before"]);
    let batch = tail.next().await.unwrap();
    assert_eq!((values(&batch.entries), batch.watched.as_deref()), (vec!["before".to_owned()], Some(&b"1"[..])));
    server.run(&["FLUSHALL"]);
    server.run(&["XADD", "s", "2-0", "n", "after"]);
    let batch = tail.next().await.unwrap();
    assert_eq!((values(&batch.entries), batch.watched), (vec!["after".to_owned()], None));
}

#[tokio::test]
async fn a_wipe_that_was_noticed_is_told_even_when_the_next_read_fails() {
    let mut server = RedisServer::start();
    let redis = connect(&server).await;
    let mut tail = Tail::new(&redis, "s", StreamId::ZERO);
    server.run(&["XADD", "s", "*", "n", "before"]);
    next_entries(&mut tail).await;
    server.run(&["DEL", "s"]);
    // The reader notices after a second of silence; its future is dropped at any point of that, and Redis is away for a while.
    for step in 0..8 {
        let patience = std::time::Duration::from_millis(200 * step);
        if let Ok(Ok(batch)) = tokio::time::timeout(patience, tail.next()).await
            && batch.wiped
        {
            return;
        }
    }
    server.kill9();
    assert!(tail.next().await.is_err());
    server.restart();
    loop {
        if let Ok(batch) = tail.next().await {
            assert!(batch.wiped);
            return;
        }
    }
}

#[tokio::test]
async fn one_read_of_large_entries_brings_few_of_them() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let large = "x".repeat(1 << 20);
    for _ in 0..30 {
        server.run(&["XADD", "s", "*", "n", "x"]);
    }
    let mut tail = Tail::new(&redis, "s", StreamId::ZERO);
    next_entries(&mut tail).await;
    server.run(&["XADD", "s", "*", "n", &large]);
    assert_eq!(next_entries(&mut tail).await.len(), 1);
    for _ in 0..10 {
        server.run(&["XADD", "s", "*", "n", &large]);
    }
    assert_eq!(next_entries(&mut tail).await.len(), 7);
}

#[tokio::test]
async fn names_and_values_of_entries_may_be_any_bytes() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    server.run(&[&b"XADD"[..], b"s", b"*", b"\xff\xfe", b"\x00\r\n", b"", b""]);
    let entries = next_entries(&mut Tail::new(&redis, "s", StreamId::ZERO)).await;
    assert_eq!(entries[0].fields, [(b"\xff\xfe"[..].into(), b"\x00\r\n"[..].into()), (b""[..].into(), b""[..].into())]);
}

#[tokio::test]
async fn stream_info_tells_an_absent_a_trimmed_and_a_whole_stream_apart() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    assert_eq!(redis.stream_info("s").await.unwrap(), gatehouse_chassis::redis::StreamInfo::default());
    for n in 1..=3 {
        server.run(&["XADD", "s", &format!("{n}-0"), "n", "x"]);
    }
    server.run(&["XTRIM", "s", "MAXLEN", "2"]);
    let info = redis.stream_info("s").await.unwrap();
    assert_eq!((info.length, info.entries_added), (2, 3));
    assert_eq!((info.first, info.last_generated), (Some(StreamId { ms: 2, seq: 0 }), StreamId { ms: 3, seq: 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_the_first_command_succeeds() {
    let mut server = RedisServer::start();
    let redis = connect(&server).await;
    for _ in 0..3 {
        server.kill9();
        until("the loss is seen", async || format!("{redis:?}").contains("closed")).await;
        server.restart();
        assert_eq!(write(&redis).await.unwrap(), "OK", "that the connection broke was seen when it did");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_wait_for_a_dead_server_fail_together_and_leave_no_attempt_behind() {
    let mut server = RedisServer::start();
    let redis = connect(&server).await;
    server.kill9();
    let all = futures_util::future::join_all((0..500).map(|_| redis.is_connected())).await;
    assert!(all.iter().all(|connected| !connected));
    assert_eq!(redis.standing().await.to_string(), "disconnected");
    server.restart();
    until("it is back", async || redis.is_connected().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_costs_each_command_its_bound_and_is_used_again_when_it_goes_on() {
    let server = RedisServer::start();
    let redis = connect_with(&server, "2s").await;
    server.pause();
    for _ in 0..4 {
        assert!(matches!(write(&redis).await, Err(RedisError::Timeout(_))));
    }
    assert_eq!(redis.standing().await, Standing::Disconnected);
    server.resume();
    // A machine that stands still may cost it another one.
    let is_kept = async || {
        let number = redis.connection_number();
        for _ in 0..20 {
            if write(&redis).await.is_err() {
                return false;
            }
        }
        redis.connection_number() == number
    };
    until("what was stuck is gone, and the new one is good", is_kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_was_given_up_does_not_give_its_answer_to_the_next() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    for n in 0..200 {
        let mut echo = cmd("ECHO");
        echo.arg(n);
        let asked = redis.run::<u32>(&echo);
        if n % 3 == 0 {
            // Dropped at any point of it.
            let _late = tokio::time::timeout(Duration::from_micros(n.into()), asked).await;
        } else {
            assert_eq!(asked.await.unwrap(), n);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_became_a_replica_is_read_only_until_it_is_master_again() {
    let (server, other) = (RedisServer::start(), RedisServer::start_tcp_in(std::path::Path::new("/tmp")));
    let redis = connect(&server).await;
    let port = other.addr().rsplit(':').next().unwrap().to_owned();
    server.run(&["REPLICAOF", "127.0.0.1", &port]);
    let refused = write(&redis).await.unwrap_err();
    assert_eq!(refused.code(), Some("READONLY"), "{refused}");
    assert_eq!(redis.standing().await.to_string(), "read-only");
    server.run(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(write(&redis).await.unwrap(), "OK");
    assert_eq!(redis.standing().await, Standing::Connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_moves_to_the_next_master_is_followed_when_the_old_one_takes_no_writes() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let name = dir.path().join("master.sock");
    std::os::unix::fs::symlink(old.socket(), &name).unwrap();
    let env = [("GATEWAY_REDIS_MASTER_ADDR", format!("unix:{}", name.display())), ("GATEWAY_REDIS_PASSWORD", old.password().to_owned())];
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let redis = Redis::connect(&Shared::read(&mut Reader::new(Source::of("", &env))).unwrap().redis).await.unwrap();
    write(&redis).await.unwrap();
    old.run(&["REPLICAOF", "127.0.0.1", "1"]);
    std::fs::remove_file(&name).unwrap();
    std::os::unix::fs::symlink(new.socket(), &name).unwrap();
    until("the new master is written to", async || write(&redis).await.is_ok()).await;
    assert_eq!(new.run(&["GET", "k"]), "v");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_a_demoted_master_refuses_says_why_and_is_taken_to_the_next() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let name = dir.path().join("master.sock");
    std::os::unix::fs::symlink(old.socket(), &name).unwrap();
    let env = [("GATEWAY_REDIS_MASTER_ADDR", format!("unix:{}", name.display())), ("GATEWAY_REDIS_PASSWORD", old.password().to_owned())];
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let redis = Redis::connect(&Shared::read(&mut Reader::new(Source::of("[redis]\ncommand_timeout = \"15s\"", &env))).unwrap().redis)
        .await
        .unwrap();
    let mut both = pipe();
    both.atomic();
    for n in 0..2 {
        both.cmd("XADD").arg("s").arg("*").arg("n").arg(n).ignore();
    }
    redis.run_all::<()>(&both).await.unwrap();
    old.run(&["REPLICAOF", "127.0.0.1", "1"]);
    let refused = redis.run_all::<()>(&both).await.unwrap_err();
    assert!(refused.code() == Some("READONLY") && refused.is_answer(), "{refused}");
    std::fs::remove_file(&name).unwrap();
    std::os::unix::fs::symlink(new.socket(), &name).unwrap();
    until("the new master is written to", async || redis.run_all::<()>(&both).await.is_ok()).await;
    assert_eq!(new.run(&["XLEN", "s"]), ":2");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_another_type_costs_nobody_the_connection() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    write(&redis).await.unwrap();
    let number = redis.connection_number();
    assert!(redis.run::<u64>(cmd("GET").arg("k")).await.is_err(), "v is no number");
    write(&redis).await.unwrap();
    assert_eq!(redis.connection_number(), number);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_no_longer_counts_is_named_and_nothing_else_is_needed_when_it_does_again() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    server.run(&["CONFIG", "SET", "requirepass", "another"]);
    server.run_with("another", &["CLIENT", "KILL", "TYPE", "normal"]);
    until("it is refused", async || redis.standing().await.to_string() == "refuses the connection: WRONGPASS").await;
    let refused = write(&redis).await.unwrap_err();
    assert!(refused.is_answer() && refused.code() == Some("WRONGPASS"), "{refused}");
    server.run_with("another", &["CONFIG", "SET", "requirepass", server.password()]);
    until("it is let in", async || write(&redis).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_for_clients_says_so() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    // Somebody else takes the only place that is left when ours is lost.
    let other = connect(&server).await;
    server.run(&["CONFIG", "SET", "maxclients", "1"]);
    let ours = redis.run::<u64>(cmd("CLIENT").arg("ID")).await.unwrap();
    other.run::<u64>(cmd("CLIENT").arg("KILL").arg("ID").arg(ours)).await.unwrap();
    until("it is refused", async || redis.standing().await.to_string() == "refuses the connection: too many clients").await;
    other.run::<String>(cmd("CONFIG").arg("SET").arg("maxclients").arg(100)).await.unwrap();
    until("there is room", async || write(&redis).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_memory_refuses_writes_and_says_so() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    server.run(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = write(&redis).await.unwrap_err();
    assert_eq!(refused.code(), Some("OOM"), "{refused}");
    assert_eq!(redis.standing().await.to_string(), "out of memory");
    server.run(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    assert_eq!(redis.standing().await.to_string(), "evicts keys");
    server.run(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(redis.standing().await.to_string(), "evicts keys", "it would, with a limit");
    server.run(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    assert_eq!(redis.standing().await, Standing::Connected);
}

#[tokio::test]
async fn entries_that_are_trimmed_while_others_keep_coming_are_missed_at_once() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let mut tail = Tail::new(&redis, "s", StreamId::ZERO);
    server.run(&["XADD", "s", "*", "n", "1"]);
    assert_eq!(values(&next_entries(&mut tail).await), ["1"]);
    // What was read is trimmed with everything else: that alone is no loss.
    server.run(&["XADD", "s", "MAXLEN", "1", "*", "n", "2"]);
    let batch = tail.next().await.unwrap();
    assert_eq!((values(&batch.entries), batch.trimmed), (vec!["2".to_owned()], None));
    server.run(&["XADD", "s", "*", "n", "3"]);
    server.run(&["XADD", "s", "MAXLEN", "1", "*", "n", "4"]);
    let batch = tail.next().await.unwrap();
    assert_eq!(values(&batch.entries), ["4"]);
    assert_eq!(batch.trimmed, Some(batch.entries[0].id.previous()), "3 was never read");
    assert!(!batch.wiped && batch.caught_up);
}

/// Passes on what comes, each piece ten milliseconds later.
async fn crawl(mut from: impl tokio::io::AsyncRead + Unpin, mut to: impl tokio::io::AsyncWrite + Unpin) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
}

/// The server behind a slow way; what is passed on ends with the tasks.
async fn slowly(server: &RedisServer, bound: &str) -> (Redis, tempfile::TempDir, tokio::task::JoinSet<()>) {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let name = dir.path().join("slow.sock");
    let (listener, socket) = (tokio::net::UnixListener::bind(&name).unwrap(), server.socket());
    let mut passing = tokio::task::JoinSet::new();
    passing.spawn(async move {
        let mut pairs = tokio::task::JoinSet::new();
        while let Ok((near, _)) = listener.accept().await {
            let (from, to) = near.into_split();
            let (back, forth) = tokio::net::UnixStream::connect(&socket).await.unwrap().into_split();
            pairs.spawn(crawl(from, forth));
            pairs.spawn(crawl(back, to));
        }
    });
    let env = [("GATEWAY_REDIS_MASTER_ADDR", format!("unix:{}", name.display())), ("GATEWAY_REDIS_PASSWORD", server.password().to_owned())];
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let text = format!("[redis]\ncommand_timeout = \"{bound}\"\nconnect_timeout = \"15s\"");
    let redis = Redis::connect(&Shared::read(&mut Reader::new(Source::of(&text, &env))).unwrap().redis).await.unwrap();
    (redis, dir, passing)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_that_is_too_much_for_one_read_comes_in_smaller_ones() {
    let server = RedisServer::start();
    let large = "x".repeat(1 << 20);
    for _ in 0..24 {
        server.run(&["XADD", "s", "*", "n", &large]);
    }
    // All of it takes four seconds at least, and one read has two.
    let (redis, _dir, _passing) = slowly(&server, "1s").await;
    let mut tail = Tail::new(&redis, "s", StreamId::ZERO);
    let all = async {
        let mut seen = 0;
        while seen < 24 {
            seen += next_entries(&mut tail).await.len();
        }
        seen
    };
    assert_eq!(tokio::time::timeout(PATIENCE, all).await.expect("it is read"), 24);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_is_no_dead_one_and_what_is_asked_at_once_travels_together() {
    let server = RedisServer::start();
    let (redis, _dir, _passing) = slowly(&server, "15s").await;
    // One after another, these would take a minute.
    let all = futures_util::future::join_all((0..3000).map(|_| write(&redis)));
    assert!(tokio::time::timeout(PATIENCE, all).await.unwrap().iter().all(Result::is_ok));
    assert_eq!((redis.standing().await, redis.connection_number()), (Standing::Connected, 1));
}
