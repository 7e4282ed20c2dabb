//! The files for systemd: they must be right for the systemd that is here, and fit what the supervisor does. What they do is tested by `dev/booted`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use gatehouse_chassis::config::{Config as _, Reader, Shared, Source};

/// What systemd runs of the set without our supervisor.
const ALONE: [&str; 4] = ["gatehouse-edge.service", "gatehouse-pusher@.service", "gatehouse-auditor.service", "gatehouse-admin.service"];

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../systemd")
}

fn file(name: &str) -> PathBuf {
    directory().join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn value_in(name: &str, key: &str) -> String {
    let text = text(name);
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or_else(|| panic!("{name}: no {key}")).to_owned()
}

fn value(key: &str) -> String {
    value_in("gatehouse.service", key)
}

fn seconds(text: &str) -> u64 {
    text.trim_end_matches('s').parse().unwrap()
}

fn named(suffix: &str) -> Vec<String> {
    let names = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(suffix)).collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

/// As it would be started: a template needs an instance.
fn instance(name: &str) -> String {
    name.replace("@.", "@0.")
}

/// Runs a tool of systemd, where there is one; what it said, to either.
fn passes(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(output.status.success(), "{program} {arguments:?}: {said}");
            Some(said)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!("{program} is not installed here; not checked");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

/// All units, installed below that directory.
fn install(root: &Path) -> PathBuf {
    let units = root.join("usr/lib/systemd/system");
    let drop_ins = units.join("gatehouse-.service.d");
    fs::create_dir_all(&drop_ins).unwrap();
    for suffix in [".service", ".socket", ".target"] {
        for name in named(suffix) {
            // It looks for the binaries, which are not installed where this runs.
            let text = text(&name).replace("/usr/bin/gatehouse", "/bin/true #").replace("/usr/libexec/gatehouse-reap", "/bin/true");
            let text = text.lines().map(|line| if line.contains("/bin/true #") { line.split(" #").next().unwrap() } else { line });
            fs::write(units.join(&name), text.collect::<Vec<_>>().join("\n") + "\n").unwrap();
        }
    }
    fs::copy(file("gatehouse-.service.d/hardening.conf"), drop_ins.join("hardening.conf")).unwrap();
    units
}

#[test]
fn systemd_finds_nothing_wrong_with_any_unit() {
    let root = tempfile::tempdir().unwrap();
    let units = install(root.path());
    let paths: Vec<_> = [".service", ".socket", ".target"].into_iter().flat_map(named).map(|name| units.join(instance(&name))).collect();
    for path in &paths {
        if !path.exists() {
            let template = path.to_str().unwrap().replace("@0.", "@.");
            fs::copy(template, path).unwrap();
        }
    }
    let arguments: Vec<_> =
        ["verify", "--man=no", "--recursive-errors=no"].into_iter().chain(paths.iter().map(|path| path.to_str().unwrap())).collect();
    if let Some(said) = passes("systemd-analyze", &arguments) {
        assert_eq!(said, "");
    }
}

#[test]
fn every_service_is_hardened_to_an_exposure_of_two_at_most() {
    let root = tempfile::tempdir().unwrap();
    install(root.path());
    let root = format!("--root={}", root.path().display());
    for name in named(".service") {
        let Some(said) = passes("systemd-analyze", &["security", "--no-pager", "--offline=true", &root, &instance(&name)]) else { return };
        let level = said
            .lines()
            .find_map(|line| line.split_once("exposure level for ")?.1.split_once(": ")?.1.split(' ').next()?.parse::<f64>().ok());
        assert!(level.unwrap() <= 2.0, "{name}: {said}");
    }
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
    let patience = seconds(&value("TimeoutStopSec"));
    let budget = gatehouse_supervisor::drain_budget(&shared);
    assert!(Duration::from_secs(patience) > budget + Duration::from_secs(5), "{patience} s for a drain of {budget:?}");
    assert!(
        text("gatehouse.service").contains(&format!("{} s.", budget.as_secs())),
        "the unit's comment names another sum than {budget:?}"
    );
    for (name, budget) in ALONE.into_iter().zip([shared.budgets.edge, shared.budgets.pusher, shared.budgets.auditor, shared.budgets.admin])
    {
        assert!(Duration::from_secs(seconds(&value_in(name, "TimeoutStopSec"))) > budget + Duration::from_secs(2), "{name}");
    }
}

#[test]
fn wrong_configuration_is_not_tried_again() {
    for name in ALONE.into_iter().chain(["gatehouse.service"]) {
        assert_eq!(value_in(name, "RestartPreventExitStatus"), gatehouse_chassis::exit::CONFIG.to_string(), "{name}");
        assert_eq!(value_in(name, "Type"), "notify", "{name}");
    }
    // Its exit status is not the one that is looked at: a wrong configuration found there would be tried again for ever.
    assert!(
        text("gatehouse.service").lines().filter(|line| line.starts_with("ExecStartPre=")).all(|line| line.starts_with("ExecStartPre=-"))
    );
}

#[test]
fn children_outlive_the_supervisor_and_find_their_sockets_where_they_were() {
    assert_eq!(value("KillMode"), "process");
    assert_eq!(value("RuntimeDirectoryPreserve"), "yes");
    assert_eq!(value("OOMPolicy"), "continue");
    // Those of 64 pushers, four public ones, those of the other components, and the control socket.
    let sockets = 64 + 4 + 3 + 1;
    assert!(value("FileDescriptorStoreMax").parse::<u32>().unwrap() >= sockets);
}

#[test]
fn every_socket_has_the_name_and_the_place_that_the_components_expect() {
    let shared = Shared::read(&mut Reader::new(Source::of("", &[]))).unwrap();
    for (name, component, instance) in [
        ("gatehouse-edge-local.socket", "edge", 0),
        ("gatehouse-pusher@.socket", "pusher", 0),
        ("gatehouse-auditor.socket", "auditor", 0),
        ("gatehouse-admin.socket", "admin", 0),
    ] {
        assert_eq!(value_in(name, "FileDescriptorName"), "local", "{name}");
        let path = value_in(name, "ListenStream").replace("%i", &instance.to_string());
        assert_eq!(Path::new(&path), shared.local_socket(component, instance), "{name}");
        assert_eq!((value_in(name, "SocketMode"), value_in(name, "SocketGroup")), ("0660".into(), "gatehouse".into()), "{name}");
    }
    for (name, socket) in [("edge-http", "http"), ("edge-grpc", "grpc"), ("push", "push"), ("admin-http", "admin")] {
        assert_eq!(value_in(&format!("gatehouse-{name}.socket"), "FileDescriptorName"), socket);
    }
    for name in named(".socket") {
        // Otherwise a component that dies often under load would close it.
        assert_eq!(value_in(&name, "TriggerLimitIntervalSec"), "0", "{name}");
    }
}

#[test]
fn the_two_sets_exclude_each_other() {
    let alone = named(".socket").into_iter().chain(ALONE.map(ToOwned::to_owned)).chain(["gatehouse.target".to_owned()]);
    for name in alone {
        assert_eq!(value_in(&name, "Conflicts"), "gatehouse.service", "{name}");
        // Whoever starts waits until the other has stopped, left-over processes and all.
        assert_eq!(value_in(&name, "Before"), "gatehouse.service gatehouse-reaper.service", "{name}");
    }
}

#[test]
fn what_an_operator_uncomments_is_not_taken_back_further_down() {
    let uncommented = text("gatehouse.service")
        .replace("\n#AmbientCapabilities", "\nAmbientCapabilities")
        .replace("\n#CapabilityBoundingSet", "\nCapabilityBoundingSet");
    let last = uncommented.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet=")).next_back();
    assert_eq!(last, Some("CAP_NET_BIND_SERVICE"));
}

#[test]
fn the_control_socket_may_be_given_to_its_group() {
    let mut chown = false;
    for filter in text("gatehouse.service").lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (denied, calls) = filter.strip_prefix('~').map_or((false, filter), |calls| (true, calls));
        for call in calls.split(' ') {
            match call {
                // The set holds the call.
                "@privileged" | "chown" => chown = !denied,
                _ => {}
            }
        }
    }
    assert!(chown, "an EPERM at `[supervisor] control_group` ends the suite");
    let mode = u32::from_str_radix(&value("RuntimeDirectoryMode"), 8).unwrap();
    assert_eq!(mode & 0o077, 0o050, "the group passes through the directory, strangers do not");
}

#[test]
fn the_sample_s_directory_of_logs_can_be_written_and_the_key_s_be_read_by_nobody_else() {
    let sample = text("gateway.toml");
    let section = sample.split("\n[supervisor.logs]\n").nth(1).unwrap();
    let dir = section.lines().find_map(|line| line.strip_prefix("#dir = ")).unwrap().trim_matches('"').to_owned();
    assert_eq!(dir, format!("/var/log/{}", value("LogsDirectory")), "ProtectSystem=strict allows no other");
    assert_eq!((value("LogsDirectoryMode"), value("StateDirectoryMode")), ("0750".into(), "0750".into()));
    let made = text("gatehouse.tmpfiles");
    let made = made.lines().find_map(|line| line.strip_prefix("d /etc/gatehouse ")).unwrap();
    assert_eq!(Some(value("ConfigurationDirectoryMode").as_str()), made.split_whitespace().next());
}
