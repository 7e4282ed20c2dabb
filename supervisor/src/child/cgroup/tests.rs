use super::*;
use crate::child::forks;
use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A cgroup of this machine, made for one test; none where that is not allowed.
struct Sandbox(PathBuf);

impl Sandbox {
    fn new(name: &str) -> Option<Self> {
        let mount = Process::myself().unwrap().mountinfo().unwrap().into_iter().find(|mount| mount.fs_type == "cgroup2")?.mount_point;
        let dir = mount.join(format!("gatehouse-{name}-{}", std::process::id()));
        match fs::create_dir(&dir) {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                eprintln!("skipped: {} cannot be made: {error}", dir.display());
                None
            }
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.0).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
            fs::remove_dir(entry.path()).unwrap();
        }
        fs::remove_dir(&self.0).unwrap();
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_leaf_ends_all_that_its_process_started_and_goes_with_it() {
    let _turn = forks::blocking_turn();
    let Some(sandbox) = Sandbox::new("leaf") else { return };
    let cgroups = Cgroups::at(sandbox.0.clone());
    let leaf = cgroups.leaf("edge-0.7", &Limits::default()).unwrap();
    // Its children are to be born in there, so it waits to be moved.
    let mut shell =
        Command::new("sh").args(["-c", "read go; setsid sleep 60 & setsid sleep 60 & wait"]).stdin(Stdio::piped()).spawn().unwrap();
    leaf.enter(shell.id()).unwrap();
    drop(shell.stdin.take());
    let inside = || fs::read_to_string(leaf.dir().join("cgroup.procs")).unwrap().lines().count();
    until("two have been started", || inside() == 3);
    assert_eq!(cgroups.of(shell.id(), &Limits::default()).unwrap().dir(), leaf.dir());
    leaf.remove();
    assert!(leaf.dir().is_dir(), "one with processes stays");
    leaf.kill();
    shell.wait().unwrap();
    until("all are gone", || inside() == 0);
    let dir = leaf.dir().to_owned();
    cgroups.sweep();
    assert!(dir.exists(), "it is still to be asked how that end came");
    drop(leaf);
    cgroups.sweep();
    assert!(!dir.exists());
}

#[test]
fn the_cgroup_of_a_child_that_ended_is_found_by_whoever_takes_it_over() {
    let _turn = forks::blocking_turn();
    let Some(sandbox) = Sandbox::new("zombie") else { return };
    let before = Cgroups::at(sandbox.0.clone());
    let leaf = before.leaf("edge-0.7", &Limits::default()).unwrap();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    leaf.enter(child.id()).unwrap();
    let dir = leaf.dir().to_owned();
    drop((leaf, before));
    child.kill().unwrap();
    until("it has ended", || fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap().contains(") Z "));

    let next = Cgroups::at(sandbox.0.clone());
    let leaf = next.of(child.id(), &Limits::default()).unwrap();
    // Another is started.
    next.sweep();
    assert!(leaf.dir() == dir && dir.exists());
    child.wait().unwrap();
    leaf.remove();
    assert!(!dir.exists());
}

#[test]
fn a_process_elsewhere_is_in_no_leaf_of_ours() {
    let _turn = forks::blocking_turn();
    let Some(sandbox) = Sandbox::new("elsewhere") else { return };
    let cgroups = Cgroups::at(sandbox.0.clone());
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    assert!(cgroups.of(child.id(), &Limits::default()).is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_mark_of_delegation_is_seen() {
    let Some(sandbox) = Sandbox::new("mark") else { return };
    let was = is_delegated(&sandbox.0);
    assert_eq!(was, !Uid::effective().is_root(), "root may write everywhere, which says nothing");
    rustix::fs::setxattr(&sandbox.0, "user.delegate", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    assert!(is_delegated(&sandbox.0));
}

#[test]
fn names_of_leaves_are_told_from_others() {
    assert!(is_leaf("edge-0.7") && is_leaf("pusher-12.345"));
    for other in ["supervisor", ".control", "edge-0", "edge.7", "edge-x.7", "edge-0.x", "control"] {
        assert!(!is_leaf(other), "{other}");
    }
}
