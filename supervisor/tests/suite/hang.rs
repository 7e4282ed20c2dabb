//! A child that lives and makes no progress is dumped, ended and replaced; one that only looks so is left alone.

use std::time::{Duration, Instant};

use gatehouse_proto::internal::v1::{Target, change_request::Change};
use nix::{
    errno::Errno,
    sys::{
        ptrace,
        signal::Signal,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

use crate::world::{World, instance, send};

#[tokio::test]
async fn a_stopped_component_is_replaced_within_three_seconds_and_its_threads_are_dumped() {
    let mut world = World::new();
    let before = world.ready().await;
    let pid = instance(&before, "edge", 0).pid.unwrap();
    let begun = Instant::now();
    send(pid, Signal::SIGSTOP);
    let after = world.until("the edge is replaced", |status| status.ready && instance(status, "edge", 0).generation == 2).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}\n{}", world.read("stderr"));
    assert_eq!(instance(&after, "edge", 0).restarts, 1);
    world.until("it has ended", |status| instance(status, "edge", 0).last_exit == "hung").await;
    for (component, number) in [("pusher", 0), ("pusher", 1), ("auditor", 0), ("admin", 0)] {
        assert_eq!(instance(&after, component, number).pid, instance(&before, component, number).pid, "{component}");
    }
    let sample = "component_restarts_total{component=\"edge\",instance=\"0\",reason=\"hung\"} 1";
    assert!(world.metrics().await.contains(sample));
    let dumps = world.dumps();
    let [(name, dump)] = dumps.as_slice() else { panic!("{dumps:?}") };
    assert!(name.ends_with("Z-edge.g1.txt"), "{name}");
    assert!(dump.contains(&format!("process: {pid}\n")) && dump.contains("why:     silent for 2."), "{dump}");
    // Both threads of the fake: libtest's main thread, and the test's own.
    assert!(dump.contains("2 threads") && dump.contains("T (stopped)") && dump.contains(" fake::component "), "{dump}");
    assert!(dump.contains("fake::component::") || dump.contains("no stacks: "), "{dump}");
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_component_that_says_what_stalls_is_replaced_at_once() {
    let mut world = World::new();
    let before = world.ready().await;
    let begun = Instant::now();
    send(instance(&before, "pusher", 1).pid.unwrap(), Signal::SIGUSR1);
    let after = world.until("the pusher is replaced", |status| status.ready && instance(status, "pusher", 1).generation == 2).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(instance(&after, "pusher", 0).pid, instance(&before, "pusher", 0).pid);
    world.until("it has ended", |status| instance(status, "pusher", 1).last_exit == "hung").await;
    assert!(world.read("stderr").contains("component hung: stalled: reader, 1.8 s"), "{}", world.read("stderr"));
    let dumps = world.dumps();
    assert!(dumps[0].0.ends_with("Z-pusher-1.g1.txt") && dumps[0].1.contains("why:     stalled: reader, 1.8 s\n"), "{dumps:?}");
}

/// As a debugger does it: every thread of that process stands still. `None`: the kernel does not allow it here.
fn attached(pid: u32) -> Option<Vec<Pid>> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let threads: Vec<_> = tasks.map(|task| Pid::from_raw(task.unwrap().file_name().to_str().unwrap().parse().unwrap())).collect();
    for thread in &threads {
        match ptrace::attach(*thread) {
            Err(Errno::EPERM) => return None,
            attached => attached.unwrap(),
        }
        waitpid(*thread, Some(WaitPidFlag::__WALL)).unwrap();
    }
    Some(threads)
}

#[tokio::test]
async fn what_somebody_has_a_debugger_at_is_left_alone_until_it_is_let_go() {
    let mut world = World::new().env("GATEWAY_REDIS_MASTER_ADDR", "");
    let before = world.ready().await;
    let pids = ["edge", "redis"].map(|component| instance(&before, component, 0).pid);
    let mut traced = Vec::new();
    for pid in pids {
        let Some(threads) = attached(pid.unwrap()) else { return eprintln!("ptrace is not allowed here; not checked") };
        traced.extend(threads);
    }
    let begun = Instant::now();
    let all_is_well = |status: &gatehouse_proto::internal::v1::StatusResponse| {
        status.ready && ["edge", "redis"].map(|component| instance(status, component, 0).pid) == pids
    };
    let judged = async |world: &mut World, until: Duration| {
        while begun.elapsed() < until {
            let status = world.until("it answers", |_| true).await;
            assert!(all_is_well(&status), "{}", world.read("stderr"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    judged(&mut world, Duration::from_secs(6)).await;
    assert!(world.read("stderr").contains("traced by another process; not judged meanwhile"), "{}", world.read("stderr"));
    for thread in traced {
        ptrace::detach(thread, None).unwrap();
    }
    // It has its time to say something.
    judged(&mut world, Duration::from_secs(10)).await;
    send(pids[0].unwrap(), Signal::SIGSTOP);
    world.until("the edge is replaced", |status| status.ready && instance(status, "edge", 0).generation == 2).await;
    assert!(world.stop().await.success());
}

/// How many processes dump for it now.
fn helpers(world: &World) -> usize {
    let pid = world.pid();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let line = |pid: &str| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    children.split_whitespace().filter(|pid| String::from_utf8_lossy(&line(pid)).contains("--dump-threads")).count()
}

#[tokio::test]
async fn many_that_hang_at_once_are_replaced_at_once_and_some_of_them_dumped() {
    const PUSHERS: usize = 16;
    let mut world = World::new().config(&format!("[suite]\npushers = {PUSHERS}"));
    let before = world.ready().await;
    let hung: Vec<_> = before.instances.iter().filter(|instance| instance.component == "pusher").collect();
    for instance in hung {
        send(instance.pid.unwrap(), Signal::SIGUSR1);
    }
    let (begun, mut most) = (Instant::now(), 0);
    loop {
        most = most.max(helpers(&world));
        // No more often than costs them little.
        if let Ok(Some(status)) = tokio::time::timeout(Duration::from_millis(5), world.status()).await {
            let pushers = status.instances.iter().filter(|instance| instance.component == "pusher");
            if status.ready && pushers.clone().count() == PUSHERS && pushers.clone().all(|pusher| pusher.last_exit == "hung") {
                break;
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", world.read("stderr"));
    }
    assert!((1..=4).contains(&most), "{most} at once");
    let undumped = world.read("stderr").lines().filter(|line| line.contains("its threads are not dumped")).count();
    assert_eq!(world.dumps().len() + undumped, PUSHERS, "{}", world.read("stderr"));
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_hung_component_that_does_not_abort_is_killed() {
    let mut world = World::new();
    world.behave("admin", "hardy");
    let before = world.ready().await;
    world.behave("admin", "");
    send(instance(&before, "admin", 0).pid.unwrap(), Signal::SIGUSR1);
    world.until("the admin is replaced", |status| status.ready && instance(status, "admin", 0).generation == 2).await;
    // Another serves; meanwhile the status shows the old one and why it goes.
    let outgoing = |status: &gatehouse_proto::internal::v1::StatusResponse| {
        status.instances.iter().any(|found| found.generation == 1 && found.detail == "hung: stalled: reader, 1.8 s")
    };
    world.until("the old one is shown", outgoing).await;
    world.until("it has ended", |status| instance(status, "admin", 0).last_exit == "hung").await;
    assert!(world.read("stderr").contains("component killed"), "{}", world.read("stderr"));
}

#[tokio::test]
async fn a_restart_is_counted_by_what_ended_its_predecessor_and_not_by_the_exit_before() {
    let mut world = World::new().config("[supervisor]\nrestart_ceiling = \"50ms\"");
    // The hung ones live when another is started in their place.
    world.behave("edge", "hardy");
    let before = world.ready().await;
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    for generation in 2..4 {
        let hangs = world.until("another", |status| status.ready && instance(status, "edge", 0).generation == generation).await;
        world.until("it is alone", |status| status.instances.len() == before.instances.len()).await;
        send(instance(&hangs, "edge", 0).pid.unwrap(), Signal::SIGUSR1);
    }
    let after = world.until("the last", |status| status.ready && instance(status, "edge", 0).generation == 4).await;
    // An operator's wish is a reason of its own, whatever was before.
    world.until("it is alone", |status| status.instances.len() == before.instances.len()).await;
    let restarted = Target { component: "edge".into(), instance: None };
    assert_eq!(world.change(Change::Restart(restarted)).await.state, "done", "{after:?}");
    let metrics = world.metrics().await;
    for (reason, count) in [("signal", 1), ("hung", 2), ("operator", 1), ("exit", 0), ("unknown", 0)] {
        let sample = format!("component_restarts_total{{component=\"edge\",instance=\"0\",reason=\"{reason}\"}} {count}\n");
        assert!(metrics.contains(&sample), "{sample}{metrics}");
    }
}

#[tokio::test]
async fn a_supervisor_that_was_stopped_itself_blames_no_child() {
    let mut world = World::new();
    let before = world.ready().await;
    world.signal(Signal::SIGSTOP);
    tokio::time::sleep(Duration::from_secs(4)).await;
    world.signal(Signal::SIGCONT);
    // Long enough to have judged a few times.
    for _ in 0..20 {
        let status = world.until("it answers", |_| true).await;
        assert!(status.instances.iter().all(|instance| instance.generation == 1), "{}", world.read("stderr"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It can still tell.
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGSTOP);
    world.until("the edge is replaced", |status| status.ready && instance(status, "edge", 0).generation == 2).await;
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_notification_socket_that_somebody_removed_is_nobody_s_hang() {
    let mut world = World::new();
    let before = world.ready().await;
    std::fs::remove_file(world.path("run/notify.sock")).unwrap();
    let begun = Instant::now();
    while !world.path("run/notify.sock").exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", world.read("stderr"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The next hang is seen by it, and is the only one.
    let edge = instance(&before, "edge", 0).pid.unwrap();
    send(edge, Signal::SIGSTOP);
    let after = world.until("the edge is replaced", |status| status.ready && instance(status, "edge", 0).generation == 2).await;
    for (component, number) in [("pusher", 0), ("pusher", 1), ("auditor", 0), ("admin", 0)] {
        assert_eq!(instance(&after, component, number).pid, instance(&before, component, number).pid, "{component}");
    }
    assert!(world.stop().await.success());
}
