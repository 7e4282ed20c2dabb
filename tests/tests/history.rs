//! What an operator learns afterwards, of a real suite: `gatehouse why`, `events`, `logs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Output;

use gatehouse_tests::{Suite, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

async fn run(suite: &Suite, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = wait::bounded("the command ends", suite.gatehouse(arguments).output()).await.unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "gatehouse {arguments:?}: {stdout}");
    stdout
}

#[tokio::test]
async fn the_end_of_a_component_is_told_with_its_cause_its_words_and_what_followed() {
    let suite = Suite::builder().start().await;
    let told = run(&suite, &["why", "edge"]).await;
    assert!(told.starts_with("edge is ready: generation 1") && told.contains("What to do\n  Nothing\n"), "{told}");
    let pid = suite.pids().await["edge"];
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    wait::eventually("another edge serves", async || suite.pids().await.get("edge").is_some_and(|now| *now != pid).then_some(())).await;
    suite.ready().await;
    run(&suite, &["restart", "admin", "--reason", "it leaks"]).await;
    let told = run(&suite, &["why", "edge"]).await;
    for part in [
        "edge is ready: generation 2",
        "signal 9 (SIGKILL)",
        "came from outside the supervisor",
        "started again at once",
        "What generation 1 said last",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let events: Value = serde_json::from_str(&run(&suite, &["events", "--json"]).await).unwrap();
    let events: Vec<_> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (event["kind"].clone(), event["cause"].clone(), event["reason"].clone()))
        .collect();
    let expected = [("exit", Some("asked"), None), ("change", None, Some("it leaks")), ("exit", Some("crashed"), None)];
    let expected = expected.map(|(kind, cause, reason)| (Value::from(kind), Value::from(cause), Value::from(reason)));
    assert_eq!(events, expected);
    let logs = run(&suite, &["logs", "edge", "--since", "10m"]).await;
    let serves = logs.lines().filter(|line| line.contains(" INFO edge: ")).count();
    assert!(serves >= 2, "one of each process at least: {logs}");
}
