//! Signals that other servers take for "reload" or "open the logs anew", and the end of a terminal.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    process::Command,
};

use nix::{
    fcntl::OFlag,
    pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt},
    sys::signal::Signal,
};

use crate::world::World;

const HABITS: [Signal; 4] = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM];

/// The same command as the leader of a session: with a terminal, whose other end is returned, or with none.
fn in_session(command: &Command, shell: &str, with_terminal: bool) -> (Command, Option<PtyMaster>) {
    let mut session = Command::new("setsid");
    let terminal = with_terminal.then(|| {
        // No child may have it, or it never closes.
        let terminal = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let other_end = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(ptsname_r(&terminal).unwrap());
        session.arg("--ctty").stdin(other_end.unwrap());
        terminal
    });
    // Under nohup, these tests would hand on that SIGHUP is ignored.
    session
        .args(["env", "--default-signal=HUP", "sh", "-c", &format!("{shell} exec \"$@\""), "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    session.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    (session, terminal)
}

#[tokio::test]
async fn signals_of_habit_end_nobody_and_are_told_once() {
    let mut world = World::new();
    let (command, _) = in_session(&world.command(), "", false);
    world.start_with(command);
    // Before it is ready, too; the first may come before it is even the supervisor.
    world.until("it answers", |_| true).await;
    for signal in HABITS.into_iter().chain(HABITS) {
        world.signal(signal);
    }
    let before = world.until("the suite is ready", |status| status.ready).await;
    for signal in HABITS {
        world.says(&format!("\"signal\":\"{}\"", signal.as_str())).await;
    }
    let after = world.status().await.unwrap();
    assert!(after.ready && after.pid == before.pid);
    for signal in HABITS {
        let told = world.read("stderr").matches(&format!("\"signal\":\"{}\"", signal.as_str())).count();
        assert_eq!(told, 1, "{signal}");
    }
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_terminal_that_closes_drains_the_suite() {
    let mut world = World::new();
    let (command, terminal) = in_session(&world.command(), "", true);
    world.start_with(command);
    world.until("the suite is ready", |status| status.ready).await;
    drop(terminal);
    assert!(world.ended().await.success(), "{}", world.read("stderr"));
    assert!(world.read("stderr").contains("the terminal is gone; draining") && world.alive().is_empty());
}

#[tokio::test]
async fn with_nohup_a_terminal_that_closes_is_nothing() {
    let mut world = World::new();
    let (command, terminal) = in_session(&world.command(), "trap '' HUP;", true);
    world.start_with(command);
    let before = world.until("the suite is ready", |status| status.ready).await;
    drop(terminal);
    world.signal(Signal::SIGHUP);
    // Heard after the other, were that one heard.
    world.signal(Signal::SIGUSR1);
    world.says("\"signal\":\"SIGUSR1\"").await;
    let status = fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    assert!(ignored.is_some_and(|ignored| ignored & 1 == 1), "{status}");
    assert!(!world.read("stderr").contains("SIGHUP") && world.status().await.unwrap().pid == before.pid);
    assert!(world.stop().await.success());
}
