//! What a process of ours is given and leaves: its lane, its limits, its cgroup, its name.

use std::{
    fs, io,
    os::{fd::AsRawFd as _, unix::fs::symlink},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use command_fds::CommandFdExt as _;
use nix::sys::signal::Signal;

use crate::world::{World, instance, send};

fn pid(status: &gatehouse_proto::internal::v1::StatusResponse, component: &str) -> u32 {
    instance(status, component, 0).pid.unwrap()
}

/// The pids of an event of that name.
fn pids(world: &World, event: &str) -> Vec<u32> {
    let events = world.read("events");
    let lines = events.lines().filter_map(|line| line.strip_prefix(event)?.trim().parse().ok());
    lines.collect()
}

async fn until_gone(pid: u32) {
    let begun = Instant::now();
    while fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(begun.elapsed() < Duration::from_secs(10), "{pid} still runs");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn each_process_holds_a_lane_that_says_who_it_is() {
    let mut world = World::new();
    let status = world.ready().await;
    let lane = || serde_json::from_str::<serde_json::Value>(&world.read("run/lanes/edge-0.a")).unwrap();
    assert_eq!((&lane()["pid"], &lane()["generation"]), (&pid(&status, "edge").into(), &1.into()));
    let build = &instance(&status, "edge", 0).build;
    assert_eq!((&lane()["build"], build.starts_with("0.1.0 (")), (&build.as_str().into(), true));
    let is_free = |name: &str| fs::File::open(world.path("run/lanes").join(name)).unwrap().try_lock().is_ok();
    assert!(!is_free("edge-0.a") && is_free("edge-0.b"));
    world.signal(Signal::SIGKILL);
    world.ended().await;
    let is_free = |name: &str| fs::File::open(world.path("run/lanes").join(name)).unwrap().try_lock().is_ok();
    assert!(!is_free("edge-0.a") && !is_free("pusher-1.a"), "the lock is the process's, not the supervisor's");
}

#[tokio::test]
async fn a_component_that_forks_leaves_nothing_behind() {
    let mut world = World::new();
    world.behave("edge", "fork");
    let before = world.ready().await;
    let fork = pids(&world, "fork edge-0")[0];
    assert!(fs::exists(format!("/proc/{fork}")).unwrap());
    world.behave("edge", "");
    send(pid(&before, "edge"), Signal::SIGKILL);
    world.until("the edge is back", |status| status.ready && instance(status, "edge", 0).generation == 2).await;
    until_gone(fork).await;
    assert!(world.stop().await.success());
    assert!(world.alive().is_empty());
}

#[tokio::test]
async fn limits_are_those_of_the_configuration() {
    let mut world = World::new().config(
        "[limits]\nburst = 1\n[limits.edge]\nopen_files = 300\nmemory = \"512MiB\"\ncpu_weight = 50\n[limits.admin]\nopen_files = 301",
    );
    let status = world.ready().await;
    let limits = |component| fs::read_to_string(format!("/proc/{}/limits", pid(&status, component))).unwrap();
    let has = |component, name: &str, value: &str| limits(component).lines().any(|line| line.starts_with(name) && line.contains(value));
    assert!(has("edge", "Max open files", " 300 ") && has("admin", "Max open files", " 301 "), "{}", limits("edge"));
    assert!(has("edge", "Max data size", " 536870912 ") && has("admin", "Max data size", " unlimited "), "{}", limits("edge"));
    assert!(!has("auditor", "Max open files", " 300 "));
    let nice = |process: procfs::ProcResult<procfs::process::Process>| process.unwrap().stat().unwrap().nice;
    let nice_of = |component| nice(procfs::process::Process::new(pid(&status, component).try_into().unwrap()));
    // Whoever has no weight of his own has what these tests were started with.
    assert_eq!((nice_of("edge"), nice_of("admin")), (3, nice(procfs::process::Process::myself())));
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_full_disk_under_the_lanes_keeps_nobody_from_starting() {
    let mut world = World::new();
    let lanes = world.path("run/lanes");
    fs::create_dir_all(&lanes).unwrap();
    // Whatever is written there finds the disk full.
    symlink("/dev/full", lanes.join("auditor-0.a")).unwrap();
    world.ready().await;
    assert!(world.stop().await.success());
    assert!(world.read("stderr").contains("its lane does not say who holds it"), "{}", world.read("stderr"));
}

#[tokio::test]
async fn who_is_executed_by_descriptor_has_its_name_all_the_same() {
    let mut world = World::new();
    let binary = fs::File::open(env!("CARGO_BIN_EXE_gatehouse-supervisor")).unwrap();
    let by_path = world.command();
    let mut command = Command::new(format!("/proc/self/fd/{}", binary.as_raw_fd()));
    command.args(by_path.get_args()).env_clear().stdin(Stdio::null());
    command.envs(by_path.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.preserved_fds(vec![binary.into()]);
    world.start_with(command);
    let supervisor = world.until("the suite is ready", |status| status.ready).await;
    assert!(supervisor.ready);
    let comm = fs::read_to_string(format!("/proc/{}/comm", world.pid())).unwrap();
    assert_eq!(comm.trim(), "gatehouse-super");
    assert!(world.stop().await.success());
}

/// A cgroup of this machine with the mark that systemd puts on one that it delegates.
struct Delegated(PathBuf);

impl Delegated {
    fn new() -> Option<Self> {
        let mounts = procfs::process::Process::myself().unwrap().mountinfo().unwrap();
        let made = mounts.into_iter().find(|mount| mount.fs_type == "cgroup2").map_or_else(
            || Err(io::Error::other("no cgroup v2 is mounted")),
            |mount| {
                let dir = mount.mount_point.join(format!("gatehouse-suite-{}", std::process::id()));
                fs::create_dir(&dir)?;
                rustix::fs::setxattr(&dir, "user.delegate", b"1", rustix::fs::XattrFlags::empty())?;
                Ok(dir)
            },
        );
        made.inspect_err(|error| eprintln!("skipped: no cgroup can be made: {error}")).ok().map(Self)
    }

    fn leaves(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap().flatten().filter(|entry| entry.path().is_dir());
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for leaf in self.leaves() {
            // One that is not empty shows in the assertions.
            let _populated = fs::remove_dir(self.0.join(leaf));
        }
        let _populated = fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn each_generation_has_a_cgroup_where_one_was_delegated() {
    let Some(delegated) = Delegated::new() else { return };
    let mut world = World::new();
    world.behave("edge", "fork");
    let (by_path, mut command) = (world.command(), Command::new("sh"));
    command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(delegated.0.join("cgroup.procs"));
    command.arg(by_path.get_program()).args(by_path.get_args()).env_clear().stdin(Stdio::null());
    command.envs(by_path.get_envs().filter_map(|(name, value)| Some((name, value?))));
    world.start_with(command);
    let before = world.until("the suite is ready", |status| status.ready).await;
    assert_eq!(delegated.leaves(), ["admin-0.1", "auditor-0.1", "edge-0.1", "pusher-0.1", "pusher-1.1", "supervisor"]);
    let of = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap().lines().last().unwrap().to_owned();
    assert!(of(world.pid()).ends_with("/supervisor"));
    let fork = pids(&world, "fork edge-0")[0];
    let edge = pid(&before, "edge");
    assert!([edge, fork].into_iter().all(|pid| of(pid).ends_with("/edge-0.1")), "{} {}", of(edge), of(fork));

    world.behave("edge", "");
    send(pid(&before, "edge"), Signal::SIGKILL);
    world.until("the edge is back", |status| status.ready && instance(status, "edge", 0).generation == 2).await;
    until_gone(fork).await;
    assert!(delegated.leaves().contains(&"edge-0.2".to_owned()));
    assert!(world.stop().await.success());
    assert!(delegated.leaves().iter().all(|leaf| leaf == "supervisor" || leaf == "edge-0.1"), "{:?}", delegated.leaves());
}
