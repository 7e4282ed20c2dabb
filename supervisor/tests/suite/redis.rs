//! The embedded Redis server, a real one.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::{net::UnixListener, task::spawn_blocking, time::timeout};

use crate::world::{World, instance, send};

/// Somebody who talks to it.
struct Client(BufReader<UnixStream>);

impl Client {
    fn connect(world: &World) -> Self {
        let stream = UnixStream::connect(world.path("run/redis.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut client = Self(BufReader::new(stream));
        let secret = world.read("state/redis.password");
        assert_eq!(client.ask(&format!("AUTH {}", secret.trim())), "+OK");
        client
    }

    fn say(&mut self, command: &str) {
        write!(self.0.get_mut(), "{command}\r\n").unwrap();
    }

    /// The first line of the answer.
    fn ask(&mut self, command: &str) -> String {
        self.say(command);
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

#[tokio::test]
async fn a_redis_that_is_stopped_is_replaced_and_has_lost_nothing() {
    let mut world = World::new().env("GATEWAY_REDIS_MASTER_ADDR", "");
    let before = world.ready().await;
    let pid = instance(&before, "redis", 0).pid.unwrap();
    assert_eq!(Client::connect(&world).ask("SET key acknowledged"), "+OK");
    let begun = Instant::now();
    send(pid, Signal::SIGSTOP);
    world.until("it is found", |status| instance(status, "redis", 0).state != "ready").await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let after = world.until("redis is replaced", |status| status.ready && instance(status, "redis", 0).generation == 2).await;
    assert_eq!(Client::connect(&world).ask("STRLEN key"), ":12");
    assert_eq!(instance(&after, "edge", 0).pid, instance(&before, "edge", 0).pid);
    let exits = world.exits("redis").await;
    let [exit] = exits.as_slice() else { panic!("{exits:?}") };
    assert!((exit.cause.as_str(), exit.pid) == ("hung", pid) && exit.detail.starts_with("silent for 2."), "{exit:?}");
    assert!(exit.dump.ends_with("-redis.g1.txt"), "{exit:?}");
    // One that is adopted is asked as well, by a supervisor that never had an answer of it.
    send(world.pid(), Signal::SIGKILL);
    world.ended().await;
    send(instance(&after, "redis", 0).pid.unwrap(), Signal::SIGSTOP);
    world.start();
    world.until("redis is replaced again", |status| status.ready && instance(status, "redis", 0).generation == 3).await;
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_redis_that_works_is_left_at_it() {
    let mut world = World::new().env("GATEWAY_REDIS_MASTER_ADDR", "");
    let before = world.ready().await;
    let (mut worker, mut other) = (Client::connect(&world), Client::connect(&world));
    // Nobody is answered until it has run for five seconds; then everybody is told that it is busy.
    let begun = Instant::now();
    worker.say("EVAL \"while true do end\" 0");
    let answer = spawn_blocking(move || (other.ask("PING"), other.ask("SCRIPT KILL"))).await.unwrap();
    assert!(answer.0.starts_with("-BUSY") && answer.1 == "+OK", "{answer:?}");
    assert!(begun.elapsed() > Duration::from_secs(4), "{:?}", begun.elapsed());
    let after = world.until("it serves", |status| status.ready).await;
    assert_eq!(instance(&after, "redis", 0).pid, instance(&before, "redis", 0).pid);
    assert!(world.exits("redis").await.is_empty());
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn redis_runs_first_keeps_its_password_secret_comes_back_and_ends_last() {
    let mut world = World::new().env("GATEWAY_REDIS_MASTER_ADDR", "");
    let before = world.ready().await;
    assert_eq!(before.instances[0].component, "redis");
    let password = world.path("state/redis.password");
    assert_eq!(fs::metadata(&password).unwrap().permissions().mode() & 0o777, 0o600);
    let secret = fs::read_to_string(&password).unwrap();
    let pid = instance(&before, "redis", 0).pid.unwrap();
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(!String::from_utf8_lossy(&command_line).contains(secret.trim()));
    assert!(before.instances[0].build.starts_with('('), "{before:?}");

    world.signal(Signal::SIGKILL);
    world.ended().await;
    let adopted = world.ready().await;
    assert_eq!((instance(&adopted, "redis", 0).pid, &adopted.instances[0].build), (Some(pid), &before.instances[0].build));
    send(pid, Signal::SIGKILL);
    let after = world.until("redis is back", |status| status.ready && instance(status, "redis", 0).generation == 2).await;
    assert_eq!(instance(&after, "edge", 0).pid, instance(&before, "edge", 0).pid);
    assert_eq!(fs::read_to_string(&password).unwrap(), secret);

    assert_eq!(world.stop().await.code(), Some(0));
    let stderr = world.read("stderr");
    let report: Vec<_> = stderr.lines().filter(|line| line.contains("component stopped")).collect();
    assert!(report.len() == 6 && report.iter().all(|line| line.contains("drained")), "{report:?}");
    assert!(!world.path("run/redis.sock").exists());
}

#[tokio::test]
async fn one_that_was_taken_over_stops_well_though_nobody_learns_its_status() {
    let mut world = World::new().env("GATEWAY_REDIS_MASTER_ADDR", "");
    world.ready().await;
    world.signal(Signal::SIGKILL);
    world.ended().await;
    world.ready().await;
    assert_eq!(world.stop().await.code(), Some(0));
    let said = world.read("stderr");
    let report = said.lines().find(|line| line.contains("component stopped") && line.contains("\"redis\"")).unwrap();
    assert!(report.contains("ended when asked (status not known: an earlier supervisor started it)"), "{report}");
    let ended = said.lines().find(|line| line.contains("component ended") && line.contains("\"redis\"")).unwrap();
    assert!(ended.contains("\"INFO\"") && !said.contains("unknown"), "{ended}");
    let ledger = world.read("state/exits.jsonl");
    assert!(ledger.lines().any(|line| line.contains("\"redis\"") && line.contains("asked")), "{ledger}");
}

/// The servers that have files in that directory open.
fn servers_on(data: &Path) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has_open = |pid: &u32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| target.starts_with(data.join("appendonlydir")))
    };
    pids.filter(has_open).collect()
}

#[tokio::test]
async fn without_the_runtime_directory_it_is_found_by_its_data_and_replaced_never_doubled() {
    let mut world = World::new().env("GATEWAY_REDIS_MASTER_ADDR", "");
    let before = world.ready().await;
    let (data, first) = (world.path("state/redis"), instance(&before, "redis", 0).pid.unwrap());
    assert_eq!(servers_on(&data), [first]);
    fs::remove_dir_all(world.path("run")).unwrap();
    world.signal(Signal::SIGKILL);
    world.ended().await;
    let left = world.alive();
    let after = world.ready().await;
    let second = instance(&after, "redis", 0);
    let servers = servers_on(&data);
    // Nobody finds the others any more; nor does what comes after a failed assertion.
    for pid in left.into_iter().chain(servers.iter().copied().filter(|pid| Some(*pid) != second.pid)) {
        send(pid, Signal::SIGKILL);
    }
    assert_eq!(servers, [second.pid.unwrap()], "one server, one set of files");
    assert!(second.generation == 2 && second.pid != Some(first), "{second:?}");
    let said = world.read("stderr");
    assert!(said.contains("it accepts on sockets that nobody reaches any more") && !said.contains("Bad file format"), "{said}");
    assert!(world.path("run/redis.sock").exists());
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_redis_that_cannot_start_fails_the_start_in_its_words() {
    let mut world = World::new().env("GATEWAY_REDIS_MASTER_ADDR", "");
    // Its append-only directory is a file.
    fs::create_dir_all(world.path("state/redis")).unwrap();
    fs::write(world.path("state/redis/appendonlydir"), "").unwrap();
    world.start();
    assert_eq!(world.ended().await.code(), Some(75));
    assert!(world.read("stderr").contains("redis did not start: status 1"), "{}", world.read("stderr"));
    assert!(world.events().is_empty());
}

#[tokio::test]
async fn nobody_asks_on_for_a_redis_that_has_ended() {
    let world = World::new().env("GATEWAY_REDIS_MASTER_ADDR", "");
    let (script, broken, socket) = (world.path("redis"), world.path("broken"), world.path("run/redis.sock"));
    fs::write(&script, format!("#!/bin/sh\n[ ! -e '{}' ] || exit 1\nexec redis-server \"$@\"\n", broken.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let restarts = "quarantine_after = 4\nrestart_ceiling = \"10ms\"\nprobe_interval = \"1h\"";
    let mut world = world.config(&format!("[supervisor]\nredis_server = '{}'\n{restarts}", script.display()));
    let before = world.ready().await;
    fs::write(&broken, "").unwrap();
    send(instance(&before, "redis", 0).pid.unwrap(), Signal::SIGKILL);
    world.until("quarantine", |status| instance(status, "redis", 0).state == "quarantined").await;
    fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    // Ten times the interval at which a starting one is asked.
    assert!(timeout(Duration::from_millis(200), listener.accept()).await.is_err(), "somebody asks");
    assert!(world.stop().await.success());
}
