//! `gatehouse route list`, `gatehouse breaker list`.

use gatehouse_proto::internal::v1::{
    BreakerStatus, BreakersRequest, BreakersResponse, RouteStatus, RoutesRequest, RoutesResponse,
    supervisor_server::{Supervisor, SupervisorServer},
};
use serde_json::json;
use tonic::{Request, Response, Status, service::Routes};

use crate::play::Stage;

/// Whether it reaches an edge.
struct Play(bool);

#[tonic::async_trait]
impl Supervisor for Play {
    async fn routes(&self, _request: Request<RoutesRequest>) -> Result<Response<RoutesResponse>, Status> {
        if !self.0 {
            return Err(Status::unavailable("the edge does not answer within 3s"));
        }
        let route = |name: &str, kind: &str, backend: &str| RouteStatus {
            name: name.into(),
            kind: kind.into(),
            backend: backend.into(),
            priority: if backend.is_empty() { String::new() } else { "critical".into() },
            enabled: true,
            ..RouteStatus::default()
        };
        let by = |route: RouteStatus, actor: &str, reason: &str| RouteStatus {
            enabled: false,
            actor: actor.into(),
            reason: reason.into(),
            at_ms: 1_767_225_600_123,
            ..route
        };
        let routes = vec![
            route("orders.*", "command", "orders"),
            by(route("/shop", "http", "web"), "alice (uid 1000)", "it loops\x1b[2J"),
            by(route("old", "gone", ""), "bob (uid 7)", ""),
        ];
        Ok(Response::new(RoutesResponse { routes }))
    }

    async fn breakers(&self, _request: Request<BreakersRequest>) -> Result<Response<BreakersResponse>, Status> {
        let breaker = |backend: &str, state: &str| BreakerStatus { backend: backend.into(), state: state.into() };
        Ok(Response::new(BreakersResponse { breakers: vec![breaker("orders", "closed"), breaker("web", "half-open")] }))
    }
}

fn stage(play: Play) -> Stage {
    let mut stage = Stage::new();
    stage.serve_local("supervisor.sock", Routes::new(SupervisorServer::new(play)));
    stage
}

#[tokio::test]
async fn routes_are_listed_with_who_took_them_out_of_service_when_and_why() {
    let stage = stage(Play(true));
    let done = stage.call(&["route", "list"]).await;
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    let rows: Vec<Vec<_>> =
        done.stdout.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
    assert_eq!(rows[0], ["ROUTE", "KIND", "BACKEND", "PRIORITY", "STATE", "SINCE", "WHO", "WHY"]);
    assert_eq!(rows[1], ["orders.*", "command", "orders", "critical", "enabled", "-", "-", "-"]);
    let since = "2026-01-01T00:00:00Z";
    assert_eq!(rows[2], ["/shop", "http", "web", "critical", "disabled", since, "alice (uid 1000)", "it loops\u{fffd}[2J"]);
    assert_eq!(rows[3], ["old", "gone", "-", "-", "disabled", since, "bob (uid 7)", "-"]);

    let listed = stage.call(&["route", "list", "--json"]).await.document()["routes"].clone();
    let orders =
        json!({"name": "orders.*", "kind": "command", "backend": "orders", "priority": "critical", "enabled": true, "disabled": null});
    assert_eq!(listed[0], orders);
    assert_eq!(listed[1]["disabled"], json!({"actor": "alice (uid 1000)", "reason": "it loops\u{1b}[2J", "at_ms": 1_767_225_600_123_i64}));
    assert_eq!((&listed[2]["backend"], &listed[2]["priority"]), (&json!(null), &json!(null)));
}

#[tokio::test]
async fn breakers_are_listed_with_their_states() {
    let stage = stage(Play(true));
    let done = stage.call(&["breaker", "list"]).await;
    let words: Vec<_> = done.stdout.split_whitespace().collect();
    assert_eq!((done.code, words), (0, vec!["BACKEND", "STATE", "orders", "closed", "web", "half-open"]));
    let listed = stage.call(&["breaker", "list", "--json"]).await.document();
    assert_eq!(listed["breakers"][1], json!({"backend": "web", "state": "half-open"}));
}

#[tokio::test]
async fn an_edge_that_does_not_answer_is_exit_1_and_a_suite_that_is_not_there_69() {
    let done = stage(Play(false)).call(&["route", "list"]).await;
    assert_eq!((done.code, done.stderr.as_str()), (1, "gatehouse: UNAVAILABLE: the edge does not answer within 3s\n"));
    for command in [&["route", "list"][..], &["breaker", "list"], &["reload"], &["route", "disable", "a"], &["breaker", "reset", "a"]] {
        assert_eq!(Stage::new().call(command).await.code, 69, "{command:?}");
    }
}
