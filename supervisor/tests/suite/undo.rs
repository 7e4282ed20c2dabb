//! An upgrade whose supervisor dies in the middle of it: the next one goes back as far as it can, and says how far that was.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use gatehouse_proto::internal::v1::{StatusResponse, Target, change_request::Change};
use nix::sys::signal::Signal;

use crate::{
    upgrade::{begin, last_start, processes, release},
    world::World,
};

const SUPERVISOR: &str = env!("CARGO_BIN_EXE_gatehouse-supervisor");

/// Another build of the supervisor: its build id differs in one bit.
fn rebuild(path: &Path) {
    let mut bytes = fs::read(SUPERVISOR).unwrap();
    let note = bytes.windows(16).position(|piece| piece == b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0").unwrap();
    bytes[note + 16] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

/// The roll stands still at the first pusher, when the auditor is of the new build; and there its supervisor is killed.
async fn killed_in_the_middle(world: &mut World, next: &Path) -> (String, StatusResponse) {
    world.behave("pusher-next", "silent");
    let before = world.ready().await;
    let id = begin(world, next).await;
    world.event("start-next pusher-0").await;
    world.until("the auditor is replaced", |status| status.instances[0].generation == 2).await;
    world.signal(Signal::SIGKILL);
    world.ended().await;
    assert_eq!(last_start(world, "auditor-0"), "start-next");
    (id, before)
}

fn world() -> (World, PathBuf) {
    let world = World::new();
    let next = release(&world);
    (world.config("[supervisor]\nready_timeout = \"3s\""), next)
}

#[tokio::test]
async fn who_was_replaced_already_is_rolled_back_by_whoever_comes_next() {
    let (mut world, next) = world();
    let (id, before) = killed_in_the_middle(&mut world, &next).await;
    world.start();
    let verdict = world.verdict(&id).await;
    assert_eq!(verdict.state, "failed");
    let expected = "the supervisor ended in the middle; rolled back: every component is what it was before; the supervisor is 0.1.0 (";
    assert!(verdict.verdict.starts_with(expected) && verdict.verdict.ends_with(", as before"), "{}", verdict.verdict);
    let after = world.until("all serve", |status| status.ready && status.instances.len() == 5).await;
    assert_eq!(last_start(&world, "auditor-0"), "start");
    let others = |status: &StatusResponse| {
        let mut processes = processes(status);
        processes.retain(|process| process.0 != "auditor");
        processes
    };
    assert_eq!(others(&after), others(&before), "what was not replaced is not touched");
    let restarted = world.change(Change::Restart(Target { component: "pusher".into(), instance: None })).await;
    assert_eq!((restarted.state.as_str(), last_start(&world, "pusher-0").as_str()), ("done", "start"));
    assert!(world.stop().await.success());
    assert!(world.alive().is_empty());
}

#[tokio::test]
async fn what_cannot_be_rolled_back_is_named_and_so_is_a_supervisor_that_is_another() {
    let (mut world, next) = world();
    let supervisor = next.join("gatehouse-supervisor");
    rebuild(&supervisor);
    let (id, _) = killed_in_the_middle(&mut world, &next).await;
    // What was installed is the new build, and so is what systemd starts.
    fs::copy(next.join("gatehouse-auditor"), world.path("bin/gatehouse-auditor")).unwrap();
    let by_path = world.command();
    let mut command = Command::new(&supervisor);
    command.args(by_path.get_args()).env_clear().stdin(Stdio::null());
    command.envs(by_path.get_envs().filter_map(|(name, value)| Some((name, value?))));
    world.start_with(command);
    let verdict = world.verdict(&id).await;
    assert_eq!(verdict.state, "failed");
    let expected = "the supervisor ended in the middle; rolled back, but for auditor: see `gatehouse status` for who runs which build; the supervisor itself is ";
    assert!(verdict.verdict.starts_with(expected), "{}", verdict.verdict);
    assert!(verdict.verdict.contains(&format!("as before: that is what {} is now", supervisor.display())), "{}", verdict.verdict);
    world.until("all serve", |status| status.ready && status.instances.len() == 5).await;
    assert_eq!(world.events().iter().filter(|event| *event == "start-next auditor-0").count(), 1, "it serves on");
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn one_that_is_killed_while_it_rolls_back_is_followed_by_one_that_goes_on() {
    let (mut world, next) = world();
    let (id, _) = killed_in_the_middle(&mut world, &next).await;
    world.behave("auditor", "silent");
    world.start();
    world
        .until("the auditor is being rolled back", |status| {
            status.instances.iter().any(|of| of.component == "auditor" && of.generation == 3)
        })
        .await;
    world.signal(Signal::SIGKILL);
    world.ended().await;
    world.behave("auditor", "");
    world.start();
    let verdict = world.verdict(&id).await;
    assert!(verdict.verdict.contains("rolled back: every component is what it was before"), "{}", verdict.verdict);
    world.until("all serve", |status| status.ready && status.instances.len() == 5).await;
    assert_eq!(last_start(&world, "auditor-0"), "start");
    assert!(world.stop().await.success());
}
