//! The main scenarios on SQLite and on PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{process::Command, time::Duration};

use gatehouse_proto::internal::v1::ListAuditRequest;
use gatehouse_tests::{
    Builder, Device, Downstream, Suite, Trail, audit, servers,
    suite::Prepared,
    traffic::{Commands, events_are_served},
    wait,
};
use nix::sys::signal::Signal;

/// Where the trail is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Database {
    Sqlite,
    Postgres,
}
use Database::{Postgres, Sqlite};

impl Database {
    /// A suite on an empty database, with nothing said about migrations.
    async fn builder(self) -> Builder {
        match self {
            Sqlite => Suite::builder(),
            Postgres => Suite::builder().set("database", "url", servers::postgres_database().await),
        }
    }

    async fn suite(self) -> (Suite, Downstream) {
        let downstream = Downstream::start();
        let builder = self.builder().await.set("database", "migrate_on_start", true);
        (builder.downstream("orders", &downstream, &["demo.echo"]).start().await, downstream)
    }
}

/// Makes a test of each scenario for each database.
macro_rules! on_both {
    ($($scenario:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test] async fn $scenario() { super::$scenario(super::Sqlite).await; })*
        }
        mod postgres {
            $(#[tokio::test] async fn $scenario() { super::$scenario(super::Postgres).await; })*
        }
    };
}

on_both!(
    commands_events_and_revocations_are_served_and_recorded,
    the_trail_is_listed_by_page_by_kind_and_by_request,
    no_record_is_lost_or_doubled_when_the_auditor_dies,
    the_chain_goes_on_after_a_restart,
    migrations_are_shown_and_applied_by_the_operator_s_command,
);

async fn commands_events_and_revocations_are_served_and_recorded(database: Database) {
    let (suite, _downstream) = database.suite().await;
    let mut redis = suite.embedded_redis();
    let device = Device::registered(&mut redis);
    let request = device.command("demo.echo", "x");
    suite.execute(&request).await.unwrap();
    let mut stream = suite.subscribe(&device, "").await.unwrap();
    events_are_served(&mut stream, &mut redis, &device.user).await;
    let unrouted = device.command("nobody.knows", "x");
    suite.execute(&unrouted).await.unwrap_err();

    let row = Trail::record(&suite, &request.request_id).await;
    let record = audit::record(&row);
    assert_eq!((record.action_type.as_str(), record.action.as_str(), record.status.as_str()), ("command", "demo.echo", "success"));
    let row = Trail::record(&suite, &unrouted.request_id).await;
    assert_eq!(audit::record(&row).grpc_code.as_deref(), Some("UNIMPLEMENTED"));
    Trail::read(&suite).await.check(&suite).await;
}

async fn the_trail_is_listed_by_page_by_kind_and_by_request(database: Database) {
    let (suite, _downstream) = database.suite().await;
    let device = Device::registered(&mut suite.embedded_redis());
    let mut ids = Vec::new();
    for _ in 0..7 {
        let request = device.command("demo.echo", "x");
        suite.execute(&request).await.unwrap();
        ids.push(request.request_id);
    }
    Trail::record(&suite, ids.last().unwrap()).await;
    let list = async |request: ListAuditRequest| suite.admin().list_audit(request).await.unwrap().into_inner().records;
    let newest = list(ListAuditRequest { limit: 3, action_type: "command".into(), ..Default::default() }).await;
    let listed: Vec<_> = newest.iter().map(|row| audit::record(row).request_id.clone().unwrap()).collect();
    assert_eq!(listed, ids[4..].iter().rev().cloned().collect::<Vec<_>>(), "the newest first");
    let before = list(ListAuditRequest { limit: 2, before_seq: newest[2].seq, action_type: "command".into(), ..Default::default() }).await;
    assert_eq!(audit::record(&before[0]).request_id.as_ref(), Some(&ids[3]));
    assert!(list(ListAuditRequest { request_id: "nobody's".into(), ..Default::default() }).await.is_empty());
    assert!(list(ListAuditRequest { action_type: "no-such-kind".into(), ..Default::default() }).await.is_empty());
}

async fn no_record_is_lost_or_doubled_when_the_auditor_dies(database: Database) {
    let (suite, _downstream) = database.suite().await;
    let mut redis = suite.embedded_redis();
    let devices = [(); 4].map(|()| Device::registered(&mut redis));
    let commands = Commands::start(&suite, &devices, "demo.echo");
    for _ in 0..3 {
        suite.kill9("auditor").await;
    }
    let seen = commands.stop().await;
    assert!(seen.refused.is_empty() && seen.silent == 0, "{:?}", seen.refused);
    wait::eventually("every answered command stands in the trail", async || {
        let trail = Trail::read(&suite).await;
        let counts = trail.by_request();
        assert!(counts.values().all(|&count| count == 1), "a record stands there twice");
        seen.answered.iter().all(|id| counts.contains_key(id.as_str())).then_some(())
    })
    .await;
    Trail::read(&suite).await.check(&suite).await;
}

async fn the_chain_goes_on_after_a_restart(database: Database) {
    let (mut suite, _downstream) = database.suite().await;
    let device = Device::registered(&mut suite.embedded_redis());
    let mut ids = Vec::new();
    for round in 0..2 {
        let request = device.command("demo.echo", "x");
        suite.execute(&request).await.unwrap();
        ids.push(Trail::record(&suite, &request.request_id).await.seq);
        if round == 0 {
            suite.signal(Signal::SIGTERM);
            suite.wait_exit(Duration::from_secs(30)).await;
            suite = suite.start_again().await;
        }
    }
    assert!(ids[0] < ids[1], "{ids:?}");
    let trail = Trail::read(&suite).await;
    assert!(trail.0.iter().map(|row| row.seq).eq((1..).take(trail.0.len())), "no gaps");
    trail.check(&suite).await;
}

async fn migrations_are_shown_and_applied_by_the_operator_s_command(database: Database) {
    let prepared = database.builder().await.prepare();
    let run = |prepared: &Prepared, arguments: &[&str]| {
        let mut command: Command = prepared.command("gatehouse", arguments);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "gatehouse {arguments:?}: {text}");
        text
    };
    let shown = run(&prepared, &["migrate", "--dry-run"]);
    assert!(shown.contains("audit 0001_create_audit_events pending"), "{shown}");
    assert_eq!(run(&prepared, &["migrate", "--dry-run"]), shown, "nothing was done yet");
    run(&prepared, &["migrate"]);
    let shown = run(&prepared, &["migrate", "--dry-run"]);
    assert!(shown.contains("0001_") && !shown.contains("pending"), "nothing is left to do: {shown}");
    let suite = prepared.start().await;
    Trail::read(&suite).await.check(&suite).await;
}
