//! A full disk under the supervisor's state: it goes on in memory, and writes again when it can.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use gatehouse_chassis::ipc;
use gatehouse_proto::internal::v1::{MetricsRequest, process_client::ProcessClient};
use gatehouse_tests::{
    Load, Resp, Samples, Suite,
    load::{Backends, RedisDoor, Sizes},
    servers,
    suite::control::restart,
    wait,
};

/// Sets a file system of its own, which vanishes with the last of its processes, in the place of the state directory. Spools take their room on it ahead of time.
const ON_TMPFS: &str = r#"mount -t tmpfs -o size=64m,mode=750 tmpfs "$0" && exec "$@""#;

#[tokio::test]
async fn restarts_go_on_while_the_disk_is_full_and_are_written_down_later() {
    let allowed = Command::new("unshare").args(["-m", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a file system of its own takes root, unshare and mount");
        return;
    }
    let (redis, backends) = (servers::redis().await, Backends::start());
    let database = servers::postgres_database().await;
    let suite = backends.behind(Suite::builder()).redis(&redis).database(&database).behind_shell(ON_TMPFS).start().await;
    let (socket, password) = (redis.socket(), redis.password().to_owned());
    let door = RedisDoor::new(move || Resp::unix(&socket, &password));
    let load = Load::start_with(&suite, Sizes::SMALL, door).await;
    let state = seen_by(suite.supervisor_pid(), &suite.state_dir());
    let filler = fill(&state);
    load.mark("full disk");
    let mut verdicts = Vec::new();
    for name in ["pusher/1", "admin", "edge"] {
        let before = suite.instance(name).await;
        verdicts.push(suite.changed(restart(name)).await.verdict);
        suite.kill9("pusher/0").await;
        assert!(suite.instance(name).await.generation > before.generation);
    }
    load.streams_are_back().await;
    let mut supervisor = ProcessClient::new(ipc::channel(suite.runtime_dir().join("supervisor.sock")));
    let metrics = Samples::parse(&supervisor.metrics(MetricsRequest {}).await.unwrap().into_inner().text);
    assert!(metrics.sum("state_write_failures_total", &[]) > 0.0, "the disk was full");
    fs::remove_file(filler).unwrap();
    load.mark("free disk");
    // Maybe before the disk was freed: a process that ends gives its spool's room back.
    wait::eventually("all that was done is written down", async || {
        let file: serde_json::Value = serde_json::from_slice(&fs::read(state.join("supervisor.state.json")).ok()?).ok()?;
        let written: Vec<_> = file["changes"].as_array()?.iter().filter_map(|change| change["verdict"].as_str()).collect();
        verdicts.iter().all(|verdict| written.contains(&verdict.as_str())).then_some(())
    })
    .await;
    let report = load.stop().await;
    println!("{report}");
    // Streams straight to the killed pusher were cut with it.
    report.assert_nothing_lost();
    assert_eq!(report.sum().refused, 0, "{report}");
    assert!(suite.child_runs());
    drop(suite);
}

/// A path as that process sees it.
fn seen_by(pid: u32, path: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root{}", path.display()))
}

/// Takes all the space there is.
fn fill(directory: &Path) -> PathBuf {
    let path = directory.join("filler");
    let mut file = fs::File::create(&path).unwrap();
    for size in [64 << 10, 4 << 10, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    path
}
