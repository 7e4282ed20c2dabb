//! The binary as the supervisor sees it: exit codes, stdout, the drain.

use std::{
    io::{BufRead as _, BufReader},
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use gatehouse_chassis::{exit, ipc};
use gatehouse_proto::internal::v1::{ListAuditRequest, VerifyAuditRequest, audit_trail_client::AuditTrailClient};

use crate::house::{House, eventually, numbered};

fn auditor(house: &House) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatehouse-auditor"));
    command.env_clear().envs(house.env()).env("LOG_FORMAT", "text").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn migrate_prints_a_line_for_each_migration() {
    for house in [House::on_sqlite(), House::on_postgres()] {
        let migrate = |arguments: &[&str]| run(auditor(&house).arg("--migrate").args(arguments));
        for (arguments, state) in [(&["--dry-run"][..], "pending"), (&[], "applied"), (&["--dry-run"], "up to date"), (&[], "up to date")] {
            let (code, stdout, stderr) = migrate(arguments);
            assert_eq!((code, stdout), (0, format!("audit 0001_create_audit_events {state}\n")), "{stderr}");
        }
    }
}

#[test]
fn pending_migrations_and_an_unreachable_database_end_the_start_with_their_codes() {
    let mut house = House::on_postgres();
    let (code, _, stderr) = run(&mut auditor(&house));
    assert_eq!(code, i32::from(exit::CONFIG));
    assert!(stderr.contains("pending migrations") && stderr.contains("gatehouse migrate"), "{stderr}");
    house.postgres.as_mut().unwrap().kill9();
    let begun = Instant::now();
    let (code, _, stderr) = run(&mut auditor(&house));
    assert_eq!(code, i32::from(exit::TRY_AGAIN));
    assert!(stderr.contains("connect to PostgreSQL"), "{stderr}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    let (code, _, stderr) = run(auditor(&house).env("GATEWAY_DATABASE_URL", "postgres://gate:hunter2@127.0.0.1:1/house"));
    assert_eq!(code, i32::from(exit::TRY_AGAIN));
    assert!(stderr.contains("127.0.0.1:1/house") && !stderr.contains("hunter2"), "{stderr}");
}

#[test]
fn a_database_url_that_cannot_be_read_is_a_problem_of_the_configuration() {
    let house = House::on_sqlite();
    for arguments in [&["--check"][..], &[]] {
        let (code, _, stderr) = run(auditor(&house).args(arguments).env("GATEWAY_DATABASE_URL", "postgres://gate:hunter2@host:port/house"));
        assert_eq!((code, stderr.lines().count()), (i32::from(exit::CONFIG), 1), "{stderr}");
        assert!(stderr.contains("GATEWAY_DATABASE_URL") && !stderr.contains("hunter2"), "{stderr}");
    }
}

#[test]
fn every_record_is_a_line_and_sigterm_ends_it_with_nothing_left() {
    let house = House::on_sqlite();
    let mut child = auditor(&house).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    house.append(numbered(0..2));
    for seq in 1..=2 {
        let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!((&line["seq"], &line["action"]), (&seq.into(), &format!("n.{}", seq - 1).into()));
    }
    for n in 2..52 {
        house.append(numbered(n..n + 1));
    }
    let term = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(term.success());
    assert_eq!(lines.count(), 50);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(house.waiting(), ":0");
}

#[test]
fn a_closed_stdout_does_not_end_it() {
    let house = House::on_sqlite();
    let mut child = auditor(&house).spawn().unwrap();
    drop(child.stdout.take());
    for n in 0..20 {
        house.append(numbered(n..n + 1));
        gatehouse_testkit::eventually("the record is taken", Duration::from_secs(30), || house.waiting() == ":0");
    }
    assert!(child.try_wait().unwrap().is_none(), "it is running");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn its_socket_tells_of_the_database_and_of_the_trail() {
    let mut house = House::on_postgres();
    let path = house.state.path().join("auditor.sock");
    let socket = UnixListener::bind(&path).unwrap();
    // Descriptor 3 is where the protocol begins; a shell puts ours there.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "exec \"$0\" 3<&0 0</dev/null"]).arg(env!("CARGO_BIN_EXE_gatehouse-auditor"));
    shell.env_clear().envs(house.env()).env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "local");
    shell.stdin(Stdio::from(OwnedFd::from(socket))).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(run(auditor(&house).arg("--migrate")).0 == 0);
    let mut child = shell.spawn().unwrap();
    let channel = ipc::channel(path);
    let serving = async |service| ipc::is_serving(&channel, service, Duration::from_secs(5)).await;
    eventually("it is ready", async || serving("").await && serving("database").await).await;
    house.postgres.as_mut().unwrap().kill9();
    eventually("the database is said to be away", async || !serving("database").await).await;
    assert!(serving("").await, "the process itself serves on");
    house.append(numbered(0..3));
    house.postgres.as_mut().unwrap().restart();
    eventually("the database is said to be there", async || serving("database").await).await;
    house.written(3).await;
    let mut trail = AuditTrailClient::new(channel.clone());
    let listed = trail.list(ListAuditRequest::default()).await.unwrap().into_inner().records;
    assert_eq!(listed.iter().map(|row| row.seq).collect::<Vec<_>>(), [3, 2, 1]);
    assert!(trail.verify(VerifyAuditRequest {}).await.unwrap().get_ref().intact);
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
