//! A new supervisor in the place of the old one, and its components after it; or everything as it was, and why.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use gatehouse_proto::internal::v1::{ChangeStatus, StatusResponse, Target, Upgrade, change_request::Change};

use serde_json::Value;

use nix::sys::signal::Signal;

use crate::{
    fake,
    world::{World, instance, send},
};

const SUPERVISOR: &str = env!("CARGO_BIN_EXE_gatehouse-supervisor");
const OURS: [&str; 5] = ["auditor-0", "pusher-0", "pusher-1", "edge-0", "admin-0"];

/// Another release, in a directory of its own; its supervisor is the real one.
pub fn release(world: &World) -> PathBuf {
    let directory = fake::install_release(world.dir.path(), "next", "-next");
    fs::copy(SUPERVISOR, directory.join("gatehouse-supervisor")).unwrap();
    directory
}

/// Its supervisor is that script, and passes the check.
pub fn with_supervisor(directory: &Path, script: &str) {
    let path = directory.join("gatehouse-supervisor");
    fs::remove_file(&path).unwrap();
    fs::write(&path, format!("#!/bin/sh\n[ \"$1\" = --check ] && exit 0\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

pub async fn begin(world: &World, directory: &Path) -> String {
    world.begin(Change::Upgrade(Upgrade { directory: directory.to_str().unwrap().to_owned() })).await
}

pub async fn upgrade(world: &World, directory: &Path) -> ChangeStatus {
    let id = begin(world, directory).await;
    world.verdict(&id).await
}

pub fn processes(status: &StatusResponse) -> Vec<(String, u32, u32, Option<u32>)> {
    status.instances.iter().map(|of| (of.component.clone(), of.instance, of.generation, of.pid)).collect()
}

/// What was started last for that slot: `start` or `start-next`.
pub fn last_start(world: &World, slot: &str) -> String {
    let events = world.events();
    let mut starts = events.iter().filter_map(|event| event.strip_suffix(slot).filter(|what| what.starts_with("start")));
    starts.next_back().unwrap().trim().to_owned()
}

/// Asks again and again until it is told to stop; how many answers there were. A refused or broken connection is a panic.
fn ask_on(address: &str) -> impl FnOnce() -> u32 + use<> {
    let (address, over) = (address.to_owned(), Arc::new(AtomicBool::new(false)));
    let asking = thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let mut answers = 0;
            while !over.load(Ordering::Relaxed) {
                let mut stream = TcpStream::connect(&address).unwrap();
                stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                answers += 1;
            }
            answers
        }
    });
    move || {
        over.store(true, Ordering::Relaxed);
        asking.join().unwrap()
    }
}

#[tokio::test]
async fn a_new_supervisor_takes_the_same_process_and_then_each_component_is_replaced() {
    let mut world = World::new();
    let next = release(&world);
    for edge in ["edge", "edge-next"] {
        world.behave(edge, "serve");
    }
    let before = world.ready().await;
    let answers = ask_on(&before.listeners[0].address);
    let verdict = upgrade(&world, &next).await;
    assert_eq!(verdict.state, "done", "{verdict:?}\n{}", world.read("stderr"));
    assert!(verdict.verdict.starts_with("5 processes and the supervisor were replaced; it is 0.1.0 ("), "{}", verdict.verdict);
    assert_eq!((verdict.reason.as_str(), verdict.steps.len()), ("as tested", 5));
    let order: Vec<_> = verdict.steps.iter().map(|step| format!("{}-{}", step.component, step.instance)).collect();
    assert_eq!(order, OURS);
    let after = world.until("all serve", |status| status.ready && status.instances.len() == 5).await;
    assert_eq!((after.pid, after.pid), (before.pid, world.pid()));
    assert_eq!(after.listeners, before.listeners);
    for (before, after) in before.instances.iter().zip(&after.instances) {
        assert_eq!((&after.component, after.instance, after.generation), (&before.component, before.instance, before.generation + 1));
    }
    assert!(OURS.iter().all(|slot| last_start(&world, slot) == "start-next"), "{:?}", world.events());
    assert!(answers() > 0);
    // From now on these are what is started, and the supervisor is one like any other.
    let restarted = world.change(Change::Restart(Target { component: "admin".into(), instance: None })).await;
    assert_eq!((restarted.state.as_str(), last_start(&world, "admin-0").as_str()), ("done", "start-next"));
    let again = upgrade(&world, &next).await;
    assert_eq!(again.state, "done", "{again:?}");
    assert!(world.stop().await.success());
    assert!(world.alive().is_empty());
}

#[tokio::test]
async fn a_component_that_does_not_start_takes_everything_back_to_what_it_was() {
    let mut world = World::new();
    let next = release(&world);
    world.behave("edge", "serve");
    world.behave("edge-next", "exit=1");
    let before = world.ready().await;
    let answers = ask_on(&before.listeners[0].address);
    let verdict = upgrade(&world, &next).await;
    assert_eq!(verdict.state, "failed", "{verdict:?}");
    assert!(verdict.verdict.contains("edge: generation 2 ended before it was ready, status 1: edge cannot go on"), "{}", verdict.verdict);
    assert!(verdict.verdict.ends_with("; rolled back"), "{}", verdict.verdict);
    let after = world.until("all serve", |status| status.ready && status.instances.len() == 5).await;
    assert_eq!((after.pid, &after.build, &after.listeners), (before.pid, &before.build, &before.listeners));
    let own = fs::read_link(format!("/proc/{}/exe", world.pid())).unwrap();
    assert_eq!(own, Path::new(SUPERVISOR), "the supervisor from before runs again");
    let of = |status: &StatusResponse, component: &str| {
        let mut processes = processes(status);
        processes.retain(|process| process.0 == component);
        processes
    };
    assert_eq!(of(&after, "edge"), of(&before, "edge"), "what could not be replaced was not touched");
    assert_eq!(of(&after, "admin"), of(&before, "admin"), "nor was what was never tried");
    assert!(["auditor-0", "pusher-0", "pusher-1"].iter().all(|slot| last_start(&world, slot) == "start"), "{:?}", world.events());
    assert_eq!(world.events().iter().filter(|event| event.starts_with("start-next")).count(), 4);
    assert!(answers() > 0);
    let restarted = world.change(Change::Restart(Target { component: "edge".into(), instance: None })).await;
    assert_eq!((restarted.state.as_str(), last_start(&world, "edge-0").as_str()), ("done", "start"));
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn what_does_not_pass_its_check_is_not_even_tried() {
    let mut world = World::new();
    let next = release(&world);
    fs::write(world.path("pusher-next.check"), "gatehouse-pusher: push.colour: no such key\n").unwrap();
    let before = world.ready().await;
    let verdict = upgrade(&world, &next).await;
    assert_eq!(verdict.state, "failed");
    assert!(verdict.verdict.contains("push.colour: no such key"), "{}", verdict.verdict);
    let nowhere = upgrade(&world, &world.path("nowhere")).await;
    assert!(nowhere.state == "failed" && nowhere.verdict.contains("nowhere/gatehouse-supervisor cannot be executed"), "{nowhere:?}");
    fs::remove_file(world.path("pusher-next.check")).unwrap();
    fs::remove_file(next.join("gatehouse-edge")).unwrap();
    let incomplete = upgrade(&world, &next).await;
    assert!(incomplete.state == "failed" && incomplete.verdict.contains("gatehouse-edge cannot be executed"), "{incomplete:?}");
    let after = world.status().await.unwrap();
    assert_eq!((processes(&after), after.pid), (processes(&before), before.pid));
    assert!(world.stop().await.success());
}

/// Asked for its check, that component does this first.
fn meanwhile(directory: &Path, component: &str, command: &str) {
    let path = directory.join(format!("gatehouse-{component}"));
    let script = fs::read_to_string(&path).unwrap();
    let (shell, rest) = script.split_once('\n').unwrap();
    fs::write(&path, format!("{shell}\n[ \"$1\" != --check ] || {command}\n{rest}")).unwrap();
}

#[tokio::test]
async fn what_is_executed_is_what_was_checked_whatever_is_installed_meanwhile() {
    let mut world = World::new();
    let next = release(&world);
    let (supervisor, draft, edge) = (next.join("gatehouse-supervisor"), next.join("draft"), next.join("gatehouse-edge"));
    meanwhile(&next, "admin", &format!("{{ cp /bin/false '{0}' && mv '{0}' '{1}'; }}", draft.display(), supervisor.display()));
    let before = world.ready().await;
    let verdict = upgrade(&world, &next).await;
    assert_eq!(verdict.state, "done", "{verdict:?}\n{}", world.read("stderr"));
    assert_eq!(world.status().await.unwrap().pid, before.pid);
    assert_eq!(fs::read(&supervisor).unwrap(), fs::read("/bin/false").unwrap(), "by now another one is there");
    // A component that is another one by the time it was asked.
    fs::remove_file(&supervisor).unwrap();
    fs::copy(SUPERVISOR, &supervisor).unwrap();
    meanwhile(&next, "admin", &format!("echo '# newer' >> '{}'", edge.display()));
    let before = world.status().await.unwrap();
    let verdict = upgrade(&world, &next).await;
    assert_eq!((verdict.state.as_str(), verdict.verdict.as_str()), ("failed", "replaced while it was checked: edge"));
    assert_eq!(processes(&world.status().await.unwrap()), processes(&before));
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_check_that_says_too_much_is_not_kept_and_its_end_is_told() {
    let mut world = World::new();
    world.ready().await;
    let directory = release(&world);
    let high_water = || {
        let status = fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().to_owned();
        line.strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
    };
    let before = high_water();
    let script = format!("#!/bin/sh\nyes '{}' | head -c 200000000 >&2\nexit 78\n", "nonsense ".repeat(20));
    fs::write(directory.join("gatehouse-supervisor"), script).unwrap();
    let verdict = upgrade(&world, &directory).await;
    assert_eq!(verdict.state, "failed");
    assert!(verdict.verdict.starts_with("it said more than this before:; nonsense") && verdict.verdict.len() < 5000, "{verdict:?}");
    let grown = high_water() - before;
    assert!(grown < 16 << 10, "{grown} kB");
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_new_supervisor_that_cannot_start_gives_the_place_back() {
    let mut world = World::new();
    let next = release(&world);
    // It vanishes between the check and the start.
    with_supervisor(&next, &format!("rm '{}/gatehouse-edge'\nexec '{SUPERVISOR}' \"$@\"", next.display()));
    let before = world.ready().await;
    let verdict = upgrade(&world, &next).await;
    assert_eq!(verdict.state, "failed", "{verdict:?}");
    assert!(verdict.verdict.starts_with("the new supervisor could not start: "), "{}", verdict.verdict);
    let after = world.until("it is there again", |status| status.ready).await;
    assert_eq!((processes(&after), after.pid, after.listeners), (processes(&before), before.pid, before.listeners));
    assert!(world.stop().await.success());
    assert!(world.alive().is_empty());
}

#[tokio::test]
async fn a_new_supervisor_that_dies_at_once_costs_nothing_but_the_verdict() {
    let mut world = World::new();
    let next = release(&world);
    with_supervisor(&next, "exit 1");
    let before = world.ready().await;
    let id = begin(&world, &next).await;
    assert_eq!(world.ended().await.code(), Some(1));
    let after = world.ready().await;
    assert_eq!(processes(&after), processes(&before));
    let verdict = world.verdict(&id).await;
    assert_eq!(verdict.state, "failed");
    let expected = "the supervisor ended in the middle; rolled back: every component is what it was before; the supervisor is 0.1.0 (";
    assert!(verdict.verdict.starts_with(expected) && verdict.verdict.ends_with(", as before"), "{}", verdict.verdict);
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_suite_that_drains_in_the_middle_of_an_upgrade_drains() {
    let mut world = World::new();
    let next = release(&world);
    world.behave("pusher-next", "silent");
    world.ready().await;
    begin(&world, &next).await;
    world.event("start-next pusher-0").await;
    assert!(world.stop().await.success(), "{}", world.read("stderr"));
    assert!(world.alive().is_empty());
    let status = world.ready().await;
    assert!(status.changes.is_empty(), "and nothing of it is left");
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_signal_to_a_supervisor_that_is_not_quite_there_waits_for_it() {
    let mut world = World::new();
    let next = release(&world);
    // As the shell has it: whatever is not held back ends it.
    with_supervisor(&next, &format!("kill -TERM $$\nexec '{SUPERVISOR}' \"$@\""));
    world.ready().await;
    begin(&world, &next).await;
    assert!(world.ended().await.success(), "{}", world.read("stderr"));
    assert!(world.alive().is_empty(), "it has drained");
}

#[tokio::test]
async fn the_trail_passes_as_it_is_across_an_upgrade_and_one_that_fails() {
    let mut world = World::new();
    world.behave("auditor", "count");
    world.behave("auditor-next", "count");
    world.ready().await;
    let directory = release(&world);
    // It cannot be executed, all at once.
    let supervisor = directory.join("gatehouse-supervisor");
    fs::remove_file(&supervisor).unwrap();
    fs::write(&supervisor, "#!/bin/sh\nchmod a-x \"$0\"\n").unwrap();
    fs::set_permissions(&supervisor, fs::Permissions::from_mode(0o755)).unwrap();
    let verdict = upgrade(&world, &directory).await;
    assert!(verdict.state == "failed" && verdict.verdict.contains("gatehouse-supervisor cannot be executed"), "{verdict:?}");
    // It cannot start, and gives the place back.
    with_supervisor(&directory, &format!("mv '{0}/gatehouse-edge' '{0}/edge'\nexec '{SUPERVISOR}' \"$@\"", directory.display()));
    let verdict = upgrade(&world, &directory).await;
    assert!(verdict.verdict.starts_with("the new supervisor could not start: "), "{verdict:?}");
    // It takes over.
    fs::rename(directory.join("edge"), directory.join("gatehouse-edge")).unwrap();
    fs::remove_file(&supervisor).unwrap();
    fs::copy(SUPERVISOR, &supervisor).unwrap();
    let verdict = upgrade(&world, &directory).await;
    assert_eq!(verdict.state, "done", "{verdict:?}");
    assert!(world.stop().await.success());
    let mut next: BTreeMap<u64, u64> = BTreeMap::new();
    for line in world.read("stdout").lines().filter(|line| line.contains("pid") || line.contains("xxx")) {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let expected = next.entry(line["pid"].as_u64().unwrap()).or_default();
        assert_eq!(line["seq"].as_u64().unwrap(), *expected, "{line}");
        *expected += 1;
    }
    let counted =
        world.read("events").lines().filter_map(|event| event.strip_prefix("counted=")).map(ToOwned::to_owned).collect::<Vec<_>>();
    let counted: BTreeMap<u64, u64> = counted
        .iter()
        .map(|event| (event.rsplit_once(' ').unwrap().1.parse().unwrap(), event.split_once(' ').unwrap().0.parse().unwrap()))
        .collect();
    assert_eq!((&next, next.len()), (&counted, 2));
}

#[tokio::test]
async fn a_configuration_that_neither_supervisor_can_start_with_ends_it_and_no_component() {
    let mut world = World::new();
    let next = release(&world);
    let before = world.ready().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // A check binds nothing.
    let wrong = format!("[listen]\nadmin = \"{}\"", taken.local_addr().unwrap());
    fs::write(world.path("gateway.toml"), wrong).unwrap();
    let id = begin(&world, &next).await;
    assert_eq!(world.ended().await.code(), Some(78), "{}", world.read("stderr"));
    let executed = world.read("stderr").matches("the one before takes over again").count();
    assert_eq!(executed, 1, "{}", world.read("stderr"));
    let after = world.ready().await;
    assert_eq!(processes(&after), processes(&before));
    assert_eq!(world.verdict(&id).await.state, "failed");
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn what_crashed_and_came_back_from_the_new_binaries_is_rolled_back_too() {
    let world = World::new();
    let next = release(&world);
    // The roll stands still at the first; meanwhile the last comes back by itself.
    world.behave("auditor-next", "silent");
    let mut world = world.config("[supervisor]\nready_timeout = \"5s\"");
    let before = world.ready().await;
    let id = begin(&world, &next).await;
    world.event("start-next auditor-0").await;
    send(instance(&before, "admin", 0).pid.unwrap(), Signal::SIGKILL);
    world.event("start-next admin-0").await;
    let verdict = world.verdict(&id).await;
    assert!(verdict.state == "failed" && verdict.verdict.ends_with("; rolled back"), "{verdict:?}");
    world.until("all serve", |status| status.ready && status.instances.len() == 5).await;
    assert_eq!(last_start(&world, "admin-0"), "start");
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn why_it_was_rolled_back_is_told_without_a_disk() {
    let world = World::new();
    let next = release(&world);
    world.behave("auditor-next", "silent");
    let mut world = world.config("[supervisor]\nready_timeout = \"3s\"");
    world.ready().await;
    let id = begin(&world, &next).await;
    world.event("start-next auditor-0").await;
    // Nothing is written any more: its draft is a directory.
    fs::create_dir(world.path("state/supervisor.state.json.new")).unwrap();
    let verdict = world.verdict(&id).await;
    assert!(verdict.state == "failed" && verdict.verdict.ends_with("; rolled back"), "{verdict:?}");
    let own = fs::read_link(format!("/proc/{}/exe", world.pid())).unwrap();
    assert_eq!(own, Path::new(SUPERVISOR));
    assert_eq!(world.events().iter().filter(|event| *event == "start-next auditor-0").count(), 1, "it was not tried again");
    fs::remove_dir(world.path("state/supervisor.state.json.new")).unwrap();
    assert!(world.stop().await.success());
}
