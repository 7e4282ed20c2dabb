//! `gatehouse status`.

use serde_json::json;
use tonic::{Request, Response, Status, service::Routes};

use gatehouse_proto::internal::v1::{
    ChangeStatus, InstanceStatus, Listener, StatusRequest, StatusResponse,
    supervisor_server::{Supervisor, SupervisorServer},
};

use crate::play::Stage;

pub struct Play(pub StatusResponse);

#[tonic::async_trait]
impl Supervisor for Play {
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(self.0.clone()))
    }
}

fn suite() -> StatusResponse {
    let edge = InstanceStatus {
        component: "edge".into(),
        generation: 3,
        state: "ready".into(),
        pid: Some(4711),
        uptime_ms: 61_000,
        restarts: 2,
        last_exit: "signal 9 (SIGKILL)".into(),
        build: "0.1.0 (1a2b)".into(),
        ..InstanceStatus::default()
    };
    let pusher = InstanceStatus {
        component: "pusher".into(),
        instance: 1,
        generation: 1,
        state: "quarantined".into(),
        detail: "ended with status 78 \x1b[2J".into(),
        ..InstanceStatus::default()
    };
    let listener = Listener { name: "http".into(), address: "[::]:8080".into() };
    StatusResponse { ready: false, draining: false, instances: vec![edge, pusher], listeners: vec![listener], ..StatusResponse::default() }
}

#[tokio::test]
async fn people_get_a_table_that_cannot_command_their_terminal() {
    let mut stage = Stage::new();
    stage.serve_local("supervisor.sock", Routes::new(SupervisorServer::new(Play(suite()))));
    let done = stage.call(&["status"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let lines: Vec<Vec<&str>> =
        done.stdout.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
    assert_eq!(lines[0], ["COMPONENT", "INSTANCE", "GENERATION", "STATE", "PID", "UPTIME", "RESTARTS", "LAST EXIT", "DETAIL"]);
    assert_eq!(lines[1], ["edge", "0", "3", "ready", "4711", "1 min 1 s", "2", "signal 9 (SIGKILL)"]);
    assert_eq!(lines[2], ["pusher", "1", "1", "quarantined", "-", "-", "0", "-", "ended with status 78 \u{fffd}[2J"]);
    assert!(done.stdout.contains("The suite is not ready.") && done.stdout.contains("http  [::]:8080"), "{}", done.stdout);
}

#[tokio::test]
async fn programs_get_one_document() {
    let mut stage = Stage::new();
    stage.serve_local("supervisor.sock", Routes::new(SupervisorServer::new(Play(suite()))));
    let done = stage.call(&["status", "--json"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let document = done.document();
    assert_eq!(document["ready"], false);
    assert_eq!((&document["supervisor"], &document["changes"]), (&json!({"pid": 0, "build": null}), &json!([])));
    assert_eq!(document["listeners"], json!([{"name": "http", "address": "[::]:8080"}]));
    let edge = json!({
        "component": "edge", "instance": 0, "generation": 3, "state": "ready", "pid": 4711, "uptime_ms": 61_000, "restarts": 2,
        "last_exit": "signal 9 (SIGKILL)", "detail": null, "build": "0.1.0 (1a2b)",
    });
    assert_eq!(document["instances"][0], edge);
}

#[tokio::test]
async fn during_an_upgrade_both_generations_their_builds_and_the_change_are_shown() {
    let edge = |generation, state: &str, build: &str| {
        let (component, state, build) = ("edge".into(), state.into(), build.into());
        InstanceStatus { component, generation, state, build, pid: Some(generation), ..InstanceStatus::default() }
    };
    let upgrade = ChangeStatus {
        what: "upgrade".into(),
        actor: "alice (uid 1000)".into(),
        reason: "CVE \x1b[2J".into(),
        state: "running".into(),
        took_ms: 1200,
        ..ChangeStatus::default()
    };
    let status = StatusResponse {
        ready: true,
        instances: vec![edge(4, "ready", "0.2.0 (3c4d)"), edge(3, "draining", "0.1.0 (1a2b)")],
        build: "0.2.0 (3c4d)".into(),
        changes: vec![upgrade],
        ..StatusResponse::default()
    };
    let mut stage = Stage::new();
    stage.serve_local("supervisor.sock", Routes::new(SupervisorServer::new(Play(status))));
    let done = stage.call(&["status"]).await;
    let lines: Vec<Vec<&str>> =
        done.stdout.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
    assert_eq!(lines[0][7..], ["LAST EXIT", "BUILD", "DETAIL"]);
    assert_eq!(lines[1], ["edge", "0", "4", "ready", "4", "0 ms", "0", "-", "0.2.0 (3c4d)"]);
    assert_eq!(lines[2], ["edge", "0", "3", "draining", "3", "0 ms", "0", "-", "0.1.0 (1a2b)"]);
    assert!(done.stdout.contains("upgrade: running for 1.2 s, by alice (uid 1000): CVE \u{fffd}[2J"), "{}", done.stdout);
}

#[tokio::test]
async fn a_suite_that_is_not_there_is_exit_69_with_the_reason() {
    let stage = Stage::new();
    let missing = stage.call(&["status"]).await;
    assert!(missing.code == 69 && missing.stderr.contains("no socket at") && missing.stdout.is_empty(), "{missing:?}");
    drop(std::os::unix::net::UnixListener::bind(stage.path("supervisor.sock")).unwrap());
    let left = stage.call(&["--json", "status"]).await;
    assert_eq!((left.code, &left.error()["code"]), (69, &"unreachable".into()));
    assert!(left.error()["message"].as_str().unwrap().contains("nobody listens"), "{left:?}");
    let message = left.error()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("Its components may serve on, and the next start takes them over"), "{message}");
}
