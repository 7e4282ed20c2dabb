//! The auditor: one writer at a time, and every record once.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use gatehouse_proto::internal::v1::ListAuditRequest;
use gatehouse_tests::{
    Trail, binaries,
    generations::{
        Generation,
        load::{Crowd, Load},
    },
    servers, wait,
};
use nix::sys::signal::Signal;

use crate::house::{House, ROUNDS, summary};

const WRITING: &str = "writing the trail";
const CROWD: Crowd = Crowd { kept: 0, hasty: 0, channels: 4, plain: 0, streams: 0, direct: 0, admin: 0 };

#[derive(Clone, Copy, Debug, PartialEq)]
enum Database {
    Sqlite,
    Postgres,
}
use Database::{Postgres, Sqlite};

macro_rules! on_both {
    ($($scenario:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")] async fn $scenario() { super::$scenario(super::Sqlite).await; })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")] async fn $scenario() { super::$scenario(super::Postgres).await; })*
        }
    };
}

on_both!(replacing_the_auditor_loses_and_doubles_nothing, a_writer_that_was_stopped_and_goes_on_does_not_write_beside_its_successor);

/// The house and, on PostgreSQL, the database's URL.
async fn house(database: Database) -> (House, Option<String>) {
    const SLOTS: [&str; 4] = ["auditor", "pusher/0", "edge", "admin"];
    match database {
        Sqlite => (House::start(&SLOTS, Some(&[0])).await, None),
        Postgres => {
            let url = servers::postgres_database().await;
            (House::start_with(&SLOTS, Some(&[0]), |builder| builder.database(&url)).await, Some(url))
        }
    }
}

/// Every command that was answered stands in the trail once; the chain is whole; each row was printed once.
async fn all_is_there_once(house: &House, commands: usize, printed: &[String]) {
    let trail = wait::eventually("the trail is complete", async || {
        let trail = Trail::read_through(house.premises.admin()).await;
        (trail.by_request().len() >= commands).then_some(trail)
    })
    .await;
    assert!(trail.by_request().values().all(|&count| count == 1), "a record stands there twice");
    assert_eq!(trail.0.iter().map(|row| row.seq).collect::<Vec<_>>(), (1..=i64::try_from(trail.0.len()).unwrap()).collect::<Vec<_>>());
    trail.check_through(house.premises.admin()).await;
    let seq = |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_i64().unwrap();
    let mut seqs: Vec<_> = printed.iter().map(seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=i64::try_from(trail.0.len()).unwrap()).collect::<Vec<_>>(), "each row is a line once");
}

async fn replacing_the_auditor_loses_and_doubles_nothing(database: Database) {
    let (mut house, _) = house(database).await;
    let load = Load::start(&house.premises, CROWD);
    let (mut drains, mut takeovers, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        load.go_on("commands", 100).await;
        let successor = house.premises.start_ready("auditor").await;
        load.go_on("commands", 20).await;
        assert!(!successor.stderr.text().contains(WRITING), "it is ready and stands by");
        let old = std::mem::replace(&mut house.processes[0], successor);
        let (stdout, begun) = (old.stdout.clone(), Instant::now());
        let takes_over = async {
            while !house.processes[0].stderr.text().contains(WRITING) {
                assert!(begun.elapsed() < wait::PATIENCE);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            begun.elapsed()
        };
        let (drain, takeover) = tokio::join!(old.drain(), takes_over);
        drains.push(drain);
        takeovers.push(takeover);
        lines.push(stdout);
    }
    let seen = load.stop().await;
    eprintln!("{database:?}: {}\n{}\n{seen}", summary("auditor", &mut drains), summary("from SIGTERM to the next writer", &mut takeovers));
    assert_eq!(seen.failures().len(), 0, "{seen}");
    let commands = seen.of("commands");
    wait::eventually("the last is written", async || {
        let trail = Trail::read_through(house.premises.admin()).await;
        (trail.by_request().len() >= commands).then_some(())
    })
    .await;
    lines.push(house.processes[0].stdout.clone());
    house.replace("auditor").await;
    let printed: Vec<_> = lines.iter().flat_map(gatehouse_tests::output::Lines::all).collect();
    all_is_there_once(&house, commands, &printed).await;
    assert!(takeovers[takeovers.len() / 2] < Duration::from_millis(300), "{takeovers:?}");
}

/// How many rows there are.
async fn rows(house: &House) -> i64 {
    let newest = house.premises.admin().list_audit(ListAuditRequest { limit: 1, ..Default::default() }).await.unwrap().into_inner().records;
    newest.first().map_or(0, |row| row.seq)
}

/// Ends the session that holds the writer's lock, as a network that breaks does.
fn break_the_writers_session(url: &str) {
    // The server is shared: only this database's.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON pg_database.oid = database \
               WHERE locktype = 'advisory' AND granted AND datname = current_database()";
    let psql = binaries::foreign("psql", &[]);
    let ended = Command::new(psql).args(["-X", "-q", "-A", "-t", "-c", end, url]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stdout).trim(), "t", "{}", String::from_utf8_lossy(&ended.stderr));
}

async fn a_writer_that_was_stopped_and_goes_on_does_not_write_beside_its_successor(database: Database) {
    let (mut house, url) = house(database).await;
    let load = Load::start(&house.premises, CROWD);
    let mut retired: Vec<Generation> = Vec::new();
    for _ in 0..5 {
        load.go_on("commands", 50).await;
        let mut successor = house.premises.start_ready("auditor").await;
        std::mem::swap(&mut house.processes[0], &mut successor);
        let old = successor;
        old.signal(Signal::SIGSTOP);
        load.go_on("commands", 100).await;
        if let Some(url) = &url {
            // Its lock goes with its session; the successor writes while it sleeps.
            break_the_writers_session(url);
            wait::eventually("the successor takes over", async || house.processes[0].stderr.text().contains(WRITING).then_some(())).await;
            load.go_on("commands", 50).await;
            old.signal(Signal::SIGCONT);
            wait::eventually("the old one has noticed and stands by", async || old.stderr.text().contains("standing by").then_some(()))
                .await;
            load.go_on("commands", 50).await;
            // It is of no more use; and it still drains in good order.
            old.signal(Signal::SIGTERM);
            let mut old = old;
            assert_eq!(old.ended().await, Some(0));
            retired.push(old);
        } else {
            // Its lock goes with the process: nobody writes.
            assert!(!house.processes[0].stderr.text().contains(WRITING));
            old.signal(Signal::SIGCONT);
            let mut old = old;
            old.signal(Signal::SIGTERM);
            assert_eq!(old.ended().await, Some(0));
            wait::eventually("the successor takes over", async || house.processes[0].stderr.text().contains(WRITING).then_some(())).await;
            retired.push(old);
        }
    }
    let seen = load.stop().await;
    assert_eq!(seen.failures().len(), 0, "{seen}");
    let commands = seen.of("commands");
    wait::eventually("the last is written", async || (rows(&house).await >= i64::try_from(commands).unwrap()).then_some(())).await;
    retired.push(std::mem::replace(&mut house.processes[0], house.premises.start_ready("auditor").await));
    let last = retired.last_mut().unwrap();
    last.signal(Signal::SIGTERM);
    assert_eq!(last.ended().await, Some(0));
    let printed: Vec<_> = retired.iter().flat_map(|process| process.stdout.all()).collect();
    all_is_there_once(&house, commands, &printed).await;
}
