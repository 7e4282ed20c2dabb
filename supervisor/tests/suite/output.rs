//! What children say, and how they ended.

use std::{
    fs,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use gatehouse_proto::internal::v1::{LogsRequest, Target, change_request::Change};
use nix::sys::signal::Signal;

use crate::world::{World, instance, send, stuck};

#[tokio::test]
async fn what_children_said_is_told_on_the_control_socket_and_by_the_next_supervisor() {
    let mut world = World::new();
    world.ready().await;
    let told = world.heard("pusher", "pusher speaks", 2).await;
    let mut spoken: Vec<_> = told.iter().map(|line| (line.instance, line.level.as_str())).collect();
    spoken.sort_unstable();
    assert_eq!(spoken, [(0, "info"), (1, "info")]);
    world.heard("edge", "edge speaks", 1).await;
    assert!(!world.logs("auditor", "").await.iter().any(|line| line.line.contains("trail")), "the trail is no log");
    assert!(world.read("state/logs/edge.log").contains("edge speaks"));
    assert!(world.stop().await.success());
    world.ready().await;
    world.heard("", "speaks", 10).await;
    assert!(world.client().logs(LogsRequest { component: "egde".into(), ..LogsRequest::default() }).await.is_err());
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn one_who_follows_hears_the_next_process_and_is_let_go_at_the_end() {
    let mut world = World::new();
    let status = world.ready().await;
    let request = LogsRequest { component: "edge".into(), follow: true, lines: 1, ..LogsRequest::default() };
    let mut lines = world.client().logs(request).await.unwrap().into_inner();
    lines.message().await.unwrap().unwrap();
    send(instance(&status, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    while !lines.message().await.unwrap().unwrap().line.contains("edge speaks") {}
    let begun = Instant::now();
    assert!(world.stop().await.success());
    while lines.message().await.is_ok_and(|line| line.is_some()) {}
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn an_end_is_in_the_ledger_with_its_cause_and_last_words_whoever_asks_later() {
    let mut world = World::new();
    let status = world.ready().await;
    let pid = instance(&status, "edge", 0).pid.unwrap();
    send(pid, Signal::SIGKILL);
    world.until("the edge is back", |status| status.ready && instance(status, "edge", 0).generation == 2).await;
    let exits = world.exits("edge").await;
    let [exit] = exits.as_slice() else { panic!("{exits:?}") };
    assert_eq!((exit.pid, exit.generation, exit.signal, exit.code), (pid, 1, Some(9), None));
    assert_eq!((exit.exit.as_str(), exit.cause.as_str(), exit.next.as_str()), ("signal 9 (SIGKILL)", "crashed", "restarted"));
    assert!(exit.last_words.iter().any(|words| words == "INFO edge speaks"), "{exit:?}");
    assert!(exit.at_ms > 0 && exit.uptime_ms > 0);
    assert!(world.stop().await.success());
    world.ready().await;
    let exits = world.exits("edge").await;
    let causes: Vec<_> = exits.iter().map(|exit| (exit.cause.as_str(), exit.next.as_str())).collect();
    assert_eq!(causes, [("asked", "stopped"), ("crashed", "restarted")]);
    assert_eq!(world.exits("").await.len(), 6);
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn one_that_floods_both_its_outputs_costs_the_others_nothing() {
    let mut world = World::new();
    world.behave("admin", "flood");
    let before = world.ready().await;
    let dropped = |metrics: &str| {
        let streams = ["stdout", "stderr"]
            .map(|stream| format!("component_output_dropped_total{{component=\"admin\",instance=\"0\",stream=\"{stream}\"}} "));
        streams.iter().all(|sample| metrics.lines().any(|line| line.strip_prefix(sample.as_str()).is_some_and(|count| count != "0")))
    };
    let begun = Instant::now();
    while !dropped(&world.metrics().await) {
        assert!(begun.elapsed() < Duration::from_secs(30), "nothing is dropped");
    }
    let asked = Instant::now();
    world.status().await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    world.until("the edge is back", |status| status.ready && instance(status, "edge", 0).generation == 2).await;
    // The place is marked where lines come through again.
    while !world.logs("admin", "warn").await.iter().any(|line| line.line.contains("lines dropped here")) {
        assert!(begun.elapsed() < Duration::from_secs(30), "the place is not marked");
    }
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_crash_loop_stands_in_the_ledger_end_by_end_and_a_full_disk_costs_the_file_alone() {
    let mut world = World::new().config("[supervisor]\nquarantine_after = 3\nrestart_ceiling = \"200ms\"\nprobe_interval = \"5m\"");
    let before = world.ready().await;
    symlink("/dev/full", world.path("state/exits.jsonl")).unwrap();
    symlink("/dev/full", world.path("state/exits.jsonl.new")).unwrap();
    world.behave("pusher", "exit=75");
    send(instance(&before, "pusher", 1).pid.unwrap(), Signal::SIGKILL);
    world.until("quarantine", |status| instance(status, "pusher", 1).state == "quarantined").await;
    let exits = world.exits("pusher").await;
    let told: Vec<_> = exits.iter().map(|exit| (exit.generation, exit.cause.as_str(), exit.next.as_str(), exit.exits_in_a_row)).collect();
    let expected = [(3, "failed_start", "quarantined", 3), (2, "failed_start", "backing_off", 2), (1, "crashed", "restarted", 1)];
    assert_eq!(told, expected);
    assert_eq!(exits.iter().map(|exit| exit.code).collect::<Vec<_>>(), [Some(75), Some(75), None]);
    assert!((299_000..=300_000).contains(&exits[0].wait_ms) && (1..=200).contains(&exits[1].wait_ms) && exits[2].wait_ms == 0, "{exits:?}");
    assert!(exits[0].last_words.contains(&"ERROR pusher cannot go on".to_owned()), "{exits:?}");
    assert!(world.read("stderr").contains("exits are kept in memory until it can"));
    // The disk is there again, and the file whole with the next end.
    fs::remove_file(world.path("state/exits.jsonl.new")).unwrap();
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    world
        .until("the edge is back", |status| instance(status, "edge", 0).generation == 2 && instance(status, "edge", 0).state == "ready")
        .await;
    world.signal(Signal::SIGKILL);
    world.ended().await;
    world.behave("pusher", "");
    world.start();
    world.until("the next one serves", |status| instance(status, "edge", 0).state == "ready").await;
    let known: Vec<_> = world.exits("").await.iter().rev().take(4).map(|exit| (exit.component.clone(), exit.generation)).collect();
    let expected = [("pusher", 1), ("pusher", 2), ("pusher", 3), ("edge", 1)];
    assert_eq!(known, expected.map(|(component, generation)| (component.to_owned(), generation)));
}

#[tokio::test]
async fn an_end_that_somebody_wanted_says_who_and_why() {
    let mut world = World::new();
    world.ready().await;
    let target = || Target { component: "edge".into(), instance: None };
    assert_eq!(world.change(Change::Restart(target())).await.state, "done");
    assert_eq!(world.change(Change::Stop(target())).await.state, "done");
    assert!(world.stop().await.success());
    world.start();
    world.until("the others are back", |status| instance(status, "pusher", 1).state == "ready").await;
    let [stopped, replaced] = <[_; 2]>::try_from(world.exits("edge").await).unwrap();
    assert_eq!((stopped.cause.as_str(), stopped.next.as_str(), stopped.generation), ("asked", "stopped", 2));
    assert_eq!((replaced.cause.as_str(), replaced.next.as_str(), replaced.generation), ("asked", "replaced", 1));
    assert!(stopped.detail.starts_with("stop edge, by ") && stopped.detail.ends_with(": as tested"), "{stopped:?}");
    assert!(replaced.detail.starts_with("restart edge, by ") && replaced.detail.ends_with(": as tested"), "{replaced:?}");
    assert_eq!([stopped.exits_in_a_row, replaced.exits_in_a_row], [0, 0]);
    let drained = world.exits("admin").await.remove(0);
    assert_eq!((drained.cause.as_str(), drained.detail.as_str()), ("asked", "the suite was stopped"));
}

#[tokio::test]
async fn a_hang_is_told_with_what_stood_still_and_the_dump() {
    let mut world = World::new();
    let before = world.ready().await;
    send(instance(&before, "admin", 0).pid.unwrap(), Signal::SIGUSR1);
    world.until("the admin is replaced", |status| status.ready && instance(status, "admin", 0).generation == 2).await;
    let begun = Instant::now();
    let exit = loop {
        if let Some(exit) = world.exits("admin").await.pop() {
            break exit;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!((exit.exit.as_str(), exit.cause.as_str(), exit.next.as_str(), exit.signal), ("hung", "hung", "replaced", Some(6)));
    assert_eq!((exit.detail.as_str(), exit.exits_in_a_row), ("stalled: reader, 1.8 s", 1));
    assert!(fs::read_to_string(&exit.dump).unwrap().contains("stalled: reader"), "{exit:?}");
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_journal_that_reads_nothing_holds_up_neither_those_who_flood_it_nor_restarts_and_costs_no_memory() {
    let mut world = World::new();
    world.behave("admin", "flood");
    let ((_unread, stdout), (_as_well, stderr)) = (stuck(), stuck());
    let mut command = world.command();
    command.stdout(stdout).stderr(stderr);
    world.start_as_it_is(command);
    let before = world.until("the suite is ready", |status| status.ready).await;
    let flooded = |metrics: &str| {
        let sample = "component_output_dropped_total{component=\"admin\",instance=\"0\",stream=\"stderr\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(sample)?.parse().ok()).unwrap_or(0_u64)
    };
    let begun = Instant::now();
    while flooded(&world.metrics().await) < 100_000 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the flood is held up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    world.until("the edge is back", |status| status.ready && instance(status, "edge", 0).generation == 2).await;
    let status = fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap();
    assert!(peak < 64 << 10, "{peak} KiB");
    world.heard("edge", "edge speaks", 2).await;
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn what_is_said_while_nobody_supervises_is_heard_by_the_next_who_adopts_and_so_is_how_it_ends() {
    let mut world = World::new();
    world.behave("admin", "count");
    let before = world.ready().await;
    let pid = instance(&before, "admin", 0).pid.unwrap();
    world.signal(Signal::SIGKILL);
    world.ended().await;
    // Its pipe takes what it says, and nothing breaks.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let after = world.ready().await;
    assert_eq!(instance(&after, "admin", 0).pid, Some(pid));
    send(pid, Signal::SIGKILL);
    world.until("the admin is back", |status| status.ready && instance(status, "admin", 0).generation == 2).await;
    let exit = world.exits("admin").await.remove(0);
    assert_eq!((exit.pid, exit.cause.as_str(), exit.next.as_str()), (pid, "crashed", "restarted"));
    assert!(exit.build.starts_with("0.1.0 ("), "{exit:?}");
    assert!(exit.uptime_ms >= 200, "from its start, not from its adoption: {exit:?}");
    assert!(exit.last_words.iter().any(|line| line.contains("\"seq\":")), "{exit:?}");
    assert!(world.stop().await.success());
    let ended = world.read("state/exits.jsonl");
    assert!(ended.lines().count() == 6, "{ended}");
}

#[tokio::test]
async fn the_memory_that_one_used_at_most_is_in_the_ledger() {
    let mut world = World::new();
    world.ready().await;
    assert!(world.stop().await.success());
    world.ready().await;
    let exit = world.exits("edge").await.remove(0);
    // Looked at when it was asked to stop, at the latest.
    assert!((1 << 20..1 << 30).contains(&exit.peak_rss_bytes), "{exit:?}");
    assert!(world.stop().await.success());
}
