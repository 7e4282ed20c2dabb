//! `gatehouse why`, `logs`, `events`.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tonic::{Code, Request, Response, Status, codegen::BoxStream, service::Routes};

use gatehouse_proto::internal::v1::{
    ChangeStatus, ChangesRequest, ChangesResponse, ExitRecord, ExitsRequest, ExitsResponse, InstanceStatus, LogLine, LogsRequest,
    StatusRequest, StatusResponse, Step,
    supervisor_server::{Supervisor, SupervisorServer},
};

use crate::play::{Done, Stage};

const NOON: i64 = 1_767_268_800_000;

/// What comes of one question for lines.
type Script = Vec<Result<LogLine, Status>>;

/// A suite with a history. Each question for lines is answered by the next script, and then by nobody.
#[derive(Clone, Default)]
struct Play {
    scripts: Arc<Mutex<Vec<Script>>>,
    asked: Arc<Mutex<Vec<LogsRequest>>>,
}

#[tonic::async_trait]
impl Supervisor for Play {
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let pusher = |instance, state: &str, detail: &str| {
            let (component, state, detail) = ("pusher".into(), state.into(), detail.into());
            InstanceStatus { component, instance, state, detail, generation: 3, ..InstanceStatus::default() }
        };
        let instances = vec![pusher(0, "ready", ""), pusher(1, "quarantined", "wrong configuration, not tried again: no port")];
        Ok(Response::new(StatusResponse { instances, ..StatusResponse::default() }))
    }

    async fn exits(&self, request: Request<ExitsRequest>) -> Result<Response<ExitsResponse>, Status> {
        let ExitsRequest { component, instance, .. } = request.into_inner();
        let exit = |instance, at_ms, cause: &str, code, next: &str| ExitRecord {
            at_ms,
            component: "pusher".into(),
            instance,
            generation: 3,
            pid: 7,
            exit: format!("status {code}"),
            code: Some(code),
            cause: cause.into(),
            uptime_ms: 1500,
            next: next.into(),
            last_words: vec!["ERROR no port \x1b[2J".into()],
            ..ExitRecord::default()
        };
        let mut exits = vec![exit(1, NOON, "configuration", 78, "quarantined"), exit(0, NOON - 9000, "asked", 0, "replaced")];
        if instance == Some(8) {
            exits.push(exit(8, NOON - 99_000, "asked", 0, "stopped"));
        }
        exits.retain(|exit| {
            (component.is_empty() || exit.component == component) && instance.is_none_or(|instance| exit.instance == instance)
        });
        Ok(Response::new(ExitsResponse { exits }))
    }

    async fn changes(&self, _request: Request<ChangesRequest>) -> Result<Response<ChangesResponse>, Status> {
        let step = Step { component: "pusher".into(), succeeded: true, ..Step::default() };
        let change = ChangeStatus {
            what: "restart pusher/0".into(),
            actor: "ada (uid 7)".into(),
            reason: "leaks".into(),
            state: "done".into(),
            queued_ms: NOON - 9500,
            took_ms: 700,
            verdict: "ready after 210 ms".into(),
            steps: vec![step],
            ..ChangeStatus::default()
        };
        Ok(Response::new(ChangesResponse { changes: vec![change] }))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<BoxStream<LogLine>>, Status> {
        let request = request.into_inner();
        let follow = request.follow;
        self.asked.lock().unwrap().push(request);
        let mut scripts = self.scripts.lock().unwrap();
        match (scripts.is_empty(), follow) {
            (false, _) => Ok(Response::new(Box::pin(tokio_stream::iter(scripts.remove(0))))),
            (true, true) => Err(Status::invalid_argument("as played")),
            (true, false) => Ok(Response::new(Box::pin(tokio_stream::empty()))),
        }
    }
}

fn line(at_ms: i64, level: &str, line: &str) -> LogLine {
    LogLine { at_ms, component: "pusher".into(), instance: 1, level: level.into(), line: line.into() }
}

fn play(scripts: impl IntoIterator<Item = Vec<LogLine>>) -> Play {
    let scripts = scripts.into_iter().map(|script| script.into_iter().map(Ok).collect()).collect();
    Play { scripts: Arc::new(Mutex::new(scripts)), ..Play::default() }
}

fn stage(play: &Play) -> Stage {
    let mut stage = Stage::new();
    stage.serve_local("supervisor.sock", Routes::new(SupervisorServer::new(play.clone())));
    stage
}

fn rows(done: &Done) -> Vec<Vec<&str>> {
    done.stdout.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect()
}

#[tokio::test]
async fn why_tells_the_story_of_one_and_cannot_command_the_terminal() {
    let stage = stage(&play([vec![line(NOON, "error", "no port")]]));
    let done = stage.call(&["why", "pusher/1"]).await;
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{done:?}");
    assert!(
        done.stdout.starts_with("pusher/1 is down, in quarantine.\n\nWhy\n  Wrong configuration, not tried again.\n"),
        "{}",
        done.stdout
    );
    assert!(done.stdout.contains("What generation 3 said last\n  ERROR no port \u{fffd}[2J\n"), "{}", done.stdout);
    assert!(done.stdout.ends_with("gatehouse restart pusher/1\n"), "{}", done.stdout);
}

#[tokio::test]
async fn why_tells_of_all_of_a_component_and_programs_get_the_evidence() {
    let stage = stage(&Play::default());
    let done = stage.call(&["why", "pusher"]).await;
    assert!(done.stdout.starts_with("pusher/0 is ready") && done.stdout.contains("\n\npusher/1 is down"), "{}", done.stdout);
    let document = stage.call(&["--json", "why", "pusher"]).await.document();
    let states: Vec<_> = document["instances"].as_array().unwrap().iter().map(|story| &story["state"]).collect();
    assert_eq!(states, ["ready", "quarantined"]);
    let exit = &document["instances"][1]["evidence"]["exit"];
    assert_eq!((&exit["code"], &exit["cause"], &exit["peak_rss_bytes"]), (&json!(78), &json!("configuration"), &Value::Null));
}

#[tokio::test]
async fn why_of_one_that_there_never_was_is_exit_1_and_of_no_suite_69() {
    let done = stage(&Play::default()).call(&["why", "edge"]).await;
    assert_eq!(
        (done.code, done.stderr.as_str()),
        (1, "gatehouse: this suite runs no edge, and nothing is recorded of one; it runs pusher/0, pusher/1\n")
    );
    for command in [&["why", "edge"][..], &["logs", "edge"], &["events"]] {
        let done = Stage::new().call(command).await;
        assert!(done.code == 69 && done.stdout.is_empty() && done.stderr.contains("is the suite running"), "{done:?}");
    }
    let done = Stage::new().call(&["why", "egde"]).await;
    assert!(done.code == 2 && done.stderr.contains("did you mean `edge`?"), "{done:?}");
}

#[tokio::test]
async fn events_and_logs_of_one_that_there_never_was_are_exit_1_and_of_one_that_was_removed_are_told() {
    let removed = LogLine { instance: 7, ..line(NOON, "info", "last words") };
    for command in [&["events", "pusher/9"][..], &["--json", "events", "edge"], &["logs", "pusher/9"], &["logs", "pusher/9", "-f"]] {
        let done = stage(&Play::default()).call(command).await;
        assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{command:?}: {done:?}");
        assert!(done.stderr.contains("and nothing is recorded of one; it runs pusher/0, pusher/1"), "{done:?}");
    }
    // One that neither ended on record nor is there, but spoke.
    let done = stage(&play([vec![removed.clone()], vec![removed]])).call(&["logs", "pusher/7"]).await;
    assert_eq!((done.code, done.stdout.lines().count(), done.stderr.as_str()), (0, 1, ""));
    // One of which ends are on record.
    for command in [&["events", "pusher/8"][..], &["logs", "pusher/8"]] {
        let done = stage(&Play::default()).call(command).await;
        assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{command:?}");
    }
    let done = stage(&Play::default()).call(&["events", "pusher/0", "--since", "2026-02-01T00:00:00Z"]).await;
    assert_eq!((done.code, done.stdout.lines().count()), (0, 1), "nothing new of one that is there: {done:?}");
}

#[tokio::test]
async fn events_are_ends_and_changes_in_one_order_of_time() {
    let stage = stage(&Play::default());
    let done = stage.call(&["events"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let rows = rows(&done);
    assert_eq!(rows[0], ["TIME", "WHO", "WHAT HAPPENED", "WHY", "THEN"]);
    let wrong = "generation 3 ended after 1.5 s: status 78 (wrong configuration)";
    assert_eq!(rows[1], ["2026-01-01T12:00:00Z", "pusher/1", wrong, "its configuration is wrong", "quarantined, not tried again"]);
    let asked = "generation 3 ended after 1.5 s: status 0 (stopped)";
    assert_eq!(rows[2], ["2026-01-01T11:59:51Z", "pusher/0", asked, "it was asked to stop", "another had taken its place"]);
    assert_eq!(rows[3], ["2026-01-01T11:59:50Z", "ada (uid 7)", "restart pusher/0", "leaks", "done in 700 ms: ready after 210 ms"]);
    let kinds = |document: Value| {
        let events = document["events"].as_array().unwrap().clone();
        events.into_iter().map(|event| (event["kind"].as_str().unwrap().to_owned(), event["at_ms"].as_i64().unwrap())).collect::<Vec<_>>()
    };
    let document = stage.call(&["--json", "events", "pusher/0"]).await.document();
    assert_eq!(kinds(document), [("exit".to_owned(), NOON - 9000), ("change".to_owned(), NOON - 9500)]);
    let document = stage.call(&["--json", "events", "--limit", "1"]).await.document();
    assert_eq!(kinds(document), [("exit".to_owned(), NOON)]);
    let document = stage.call(&["--json", "events", "--since", "2026-01-01T11:59:51Z"]).await.document();
    assert_eq!(kinds(document).len(), 2);
}

#[tokio::test]
async fn logs_are_asked_for_as_typed_and_told_to_people_and_to_programs() {
    let script = || {
        vec![
            line(NOON, "warn", r#"{"level":"WARN","message":"late \u001b[2J\n2026-01-01 forged\u202e","by_ms":7}"#),
            line(NOON + 1, "", "a panic"),
        ]
    };
    let play = play([script(), script()]);
    let stage = stage(&play);
    let done = stage.call(&["logs", "pusher/1", "--since", "2026-01-01T11:50:00Z", "--level", "warn", "-n", "7"]).await;
    let expected = "2026-01-01T12:00:00.000Z  WARN pusher/1: late \u{fffd}[2J\u{2424}2026-01-01 forged\u{fffd} by_ms=7\n2026-01-01T12:00:00.001Z       pusher/1: a panic\n";
    assert_eq!((done.code, done.stdout.as_str()), (0, expected), "{done:?}");
    let asked = play.asked.lock().unwrap().pop().unwrap();
    let expected = LogsRequest {
        component: "pusher".into(),
        instance: Some(1),
        follow: false,
        since_ms: Some(NOON - 600_000),
        level: "warn".into(),
        lines: 7,
    };
    assert_eq!(asked, expected);
    let done = stage.call(&["--json", "logs"]).await;
    let documents: Vec<Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let panic = json!({"at_ms": NOON + 1, "component": "pusher", "instance": 1, "level": null, "line": "a panic"});
    assert_eq!((documents.len(), &documents[1]), (2, &panic));
    assert_eq!(play.asked.lock().unwrap().pop().unwrap(), LogsRequest::default());
}

#[tokio::test]
async fn one_who_follows_goes_on_with_the_next_supervisor_where_the_last_one_ended() {
    let play = play([
        vec![line(NOON, "info", "one"), line(NOON + 1, "info", "two")],
        vec![line(NOON + 1, "info", "two"), line(NOON + 1, "info", "three"), line(NOON + 2, "info", "four")],
    ]);
    // The end of the play is a refusal.
    let done = stage(&play).call(&["--json", "logs", "pusher", "-f"]).await;
    assert_eq!((done.code, done.error()["code"].as_str()), (1, Some("invalid_argument")));
    let told: Vec<Value> = done.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["line"].clone()).collect();
    assert_eq!(told, ["one", "two", "three", "four"]);
    let since: Vec<_> = play.asked.lock().unwrap().iter().map(|asked| asked.since_ms).collect();
    assert_eq!(since, [None, Some(NOON + 1), Some(NOON + 2)]);
}

#[tokio::test]
async fn one_who_follows_does_not_press_a_supervisor_that_is_ending_and_has_nothing_to_say() {
    let (play, begun) = (play(vec![Vec::new(); 5]), Instant::now());
    let done = stage(&play).call(&["--json", "logs", "-f"]).await;
    assert_eq!((done.code, play.asked.lock().unwrap().len()), (1, 6));
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_pager_that_stands_on_its_page_does_not_cost_the_rest() {
    let play = play([(0..400).map(|number| line(NOON + number, "info", &"x".repeat(10_000))).collect()]);
    let mut stage = Stage::new();
    stage.serve_impatiently("supervisor.sock", Routes::new(SupervisorServer::new(play)));
    let done = stage.call_and_wait(&["logs", "pusher"], Duration::from_secs(2)).await;
    assert_eq!((done.code, done.stdout.lines().count(), done.stderr.as_str()), (0, 400, ""));
}

#[tokio::test]
async fn logs_that_the_supervisor_refuses_are_exit_1() {
    let scripts = vec![vec![Err(Status::new(Code::Internal, "as played"))]];
    let done = stage(&Play { scripts: Arc::new(Mutex::new(scripts)), ..Play::default() }).call(&["logs", "pusher"]).await;
    assert_eq!((done.code, done.stderr.as_str()), (1, "gatehouse: INTERNAL: as played\n"));
}
