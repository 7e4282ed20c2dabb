//! The files for systemd: they must be right for the systemd that is here, and fit what the supervisor does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, io, path::PathBuf, process::Command, time::Duration};

use gatehouse_chassis::config::{Config as _, Reader, Shared, Source};

fn unit() -> String {
    fs::read_to_string(file("gatehouse.service")).unwrap()
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../systemd").join(name)
}

fn value(key: &str) -> String {
    let unit = unit();
    unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or_else(|| panic!("no {key}")).to_owned()
}

/// Runs a tool of systemd, where there is one; what it said.
fn passes(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{program} {arguments:?}: {said}");
            said
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!("{program} is not installed here; not checked");
            String::new()
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("gatehouse.service");
    // It looks for the binary, which is not installed where this runs; and for the documentation, which is.
    fs::write(&copy, unit().replace("/usr/bin/gatehouse ", "/bin/true ")).unwrap();
    assert_eq!(passes("systemd-analyze", &["verify", "--man=no", "--recursive-errors=no", copy.to_str().unwrap()]), "");
}

#[test]
fn systemd_finds_nothing_wrong_with_users_and_directories() {
    let root = tempfile::tempdir().unwrap();
    let root = format!("--root={}", root.path().display());
    passes("systemd-sysusers", &["--dry-run", &root, file("gatehouse.sysusers").to_str().unwrap()]);
}

#[test]
fn systemd_waits_longer_than_the_drain_may_take() {
    let shared = Shared::read(&mut Reader::new(Source::of("", &[]))).unwrap();
    let seconds: u64 = value("TimeoutStopSec").trim_end_matches('s').parse().unwrap();
    let budget = gatehouse_supervisor::drain_budget(&shared);
    assert!(Duration::from_secs(seconds) > budget + Duration::from_secs(5), "{seconds} s for a drain of {budget:?}");
    assert!(unit().contains(&format!("{} s.", budget.as_secs())), "the unit's comment names another sum than {budget:?}");
}

#[test]
fn wrong_configuration_is_not_tried_again() {
    assert_eq!(value("RestartPreventExitStatus"), gatehouse_chassis::exit::CONFIG.to_string());
    assert_eq!(value("Type"), "notify");
}

#[test]
fn what_an_operator_uncomments_is_not_taken_back_further_down() {
    let uncommented =
        unit().replace("\n#AmbientCapabilities", "\nAmbientCapabilities").replace("\n#CapabilityBoundingSet", "\nCapabilityBoundingSet");
    let last = uncommented.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet=")).next_back();
    assert_eq!(last, Some("CAP_NET_BIND_SERVICE"));
}
