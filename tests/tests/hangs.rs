//! Real components that live and make no progress are dumped and replaced; real components that wait for somebody else are left alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use gatehouse_tests::{Device, Downstream, Suite, servers, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Names and texts.
fn dumps(suite: &Suite) -> BTreeMap<String, String> {
    let entries = fs::read_dir(suite.state_dir().join("dumps")).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).unwrap())).collect()
}

#[tokio::test]
async fn each_component_that_is_stopped_is_replaced_within_three_seconds_and_its_threads_are_dumped() {
    let suite = Suite::builder().start().await;
    for name in ["edge", "pusher/1", "auditor", "admin"] {
        let before = suite.pids().await;
        let (begun, pid) = (Instant::now(), before[name]);
        send(pid, Signal::SIGSTOP);
        // From the moment at which it stops to that at which another serves; what a start takes is not the watchdog's.
        wait::eventually(&format!("{name} is replaced"), async || {
            suite.pids().await.get(name).is_some_and(|now| *now != pid).then_some(())
        })
        .await;
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(3), "{name}: {took:?}\n{}", suite.stderr.text());
        suite.ready().await;
        // It has ended when its threads have been dumped.
        wait::eventually(&format!("the hung {name} has ended"), async || (suite.instance(name).await.last_exit == "hung").then_some(()))
            .await;
        let after = suite.pids().await;
        assert!(before.iter().all(|(other, pid)| other == name || after[other] == *pid), "{name}: {before:?} {after:?}");
        let label = name.replace('/', "-");
        let dumps = dumps(&suite);
        let dump = dumps.iter().find(|(file, _)| file.ends_with(&format!("-{label}.g1.txt"))).unwrap_or_else(|| panic!("{dumps:?}")).1;
        for thread in [format!("gatehouse-{label}").chars().take(15).collect(), "watchdog".to_owned(), "tokio-rt-worker".to_owned()] {
            assert!(dump.contains(&thread[..thread.len().min(11)]), "{thread} in {dump}");
        }
        assert!(dump.contains("gatehouse_chassis::watchdog::Watch::run") || dump.contains("no stacks: "), "{dump}");
        suite.ready().await;
    }
}

/// One that hangs before it has shown any progress.
#[tokio::test]
async fn a_component_that_is_stopped_as_soon_as_it_is_ready_is_replaced_within_three_seconds() {
    let suite = Suite::builder().start().await;
    let (begun, pid) = (Instant::now(), suite.pids().await["edge"]);
    send(pid, Signal::SIGSTOP);
    suite.replaced("edge", pid).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}\n{}", begun.elapsed(), suite.stderr.text());
}

#[tokio::test]
async fn an_outage_of_redis_is_no_hang_of_those_who_wait_for_it() {
    let (downstream, redis) = (Downstream::start(), servers::redis().await);
    let suite = Suite::builder().redis(&redis).downstream("orders", &downstream, &["demo.echo"]).start().await;
    let before = suite.pids().await;
    // It accepts, and answers nothing: the worst kind of outage.
    servers::freeze(&redis, true);
    tokio::time::sleep(Duration::from_secs(8)).await;
    servers::freeze(&redis, false);
    let device = Device::registered(&mut servers::client(&redis));
    wait::eventually("a command is served", async || suite.execute(&device.command("demo.echo", "x")).await.ok()).await;
    assert_eq!(suite.pids().await, before, "{}", suite.stderr.text());
    assert_eq!(dumps(&suite), BTreeMap::new());
}

/// The one that is a component is replaced alone.
#[tokio::test]
async fn an_embedded_redis_that_is_stopped_is_replaced() {
    let downstream = Downstream::start();
    let suite = Suite::builder().downstream("orders", &downstream, &["demo.echo"]).start().await;
    let mut before = suite.pids().await;
    send(before["redis"], Signal::SIGSTOP);
    suite.replaced("redis", before["redis"]).await;
    let mut redis = wait::eventually("Redis answers", async || suite.try_embedded_redis().ok()).await;
    let device = Device::registered(&mut redis);
    wait::eventually("a command is served", async || suite.execute(&device.command("demo.echo", "x")).await.ok()).await;
    let mut after = suite.pids().await;
    assert_ne!(before.remove("redis"), after.remove("redis"));
    assert_eq!(after, before, "{}", suite.stderr.text());
}
