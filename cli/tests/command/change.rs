//! `gatehouse restart`, `stop`, `start`, `scale`, `upgrade`, `changes`.

use std::{
    collections::VecDeque,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::UnixListener,
    runtime::{Builder, Runtime},
    sync::Notify,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status, service::Routes, transport::Server};

use gatehouse_proto::{
    control::CLAIMED_USER,
    internal::v1::{
        BreakerReset, ChangeRequest, ChangeResponse, ChangeStatus, ChangesRequest, ChangesResponse, Reload, RouteSwitch, Scale, Step,
        Target, Upgrade, VerdictRequest, VerdictResponse, change_request,
        supervisor_server::{Supervisor, SupervisorServer},
    },
};

use crate::play::{Done, Stage, call};

/// What it answers in turn, and what it was asked.
#[derive(Clone, Default)]
struct Play {
    /// To `Change`; afterwards an id.
    refusals: Arc<Mutex<VecDeque<Status>>>,
    /// To `Verdict`; without one it keeps the caller waiting.
    verdict: Option<Result<ChangeStatus, Code>>,
    asked: Arc<Mutex<Vec<ChangeRequest>>>,
    claimed: Arc<Mutex<Option<String>>>,
    waited_for: Arc<Notify>,
}

#[tonic::async_trait]
impl Supervisor for Play {
    async fn change(&self, request: Request<ChangeRequest>) -> Result<Response<ChangeResponse>, Status> {
        *self.claimed.lock().unwrap() = request.metadata().get(CLAIMED_USER).map(|user| user.to_str().unwrap().to_owned());
        self.asked.lock().unwrap().push(request.into_inner());
        match self.refusals.lock().unwrap().pop_front() {
            Some(refusal) => Err(refusal),
            None => Ok(Response::new(ChangeResponse { change_id: "0197-c".into() })),
        }
    }

    async fn verdict(&self, request: Request<VerdictRequest>) -> Result<Response<VerdictResponse>, Status> {
        assert_eq!(request.get_ref().change_id, "0197-c");
        self.waited_for.notify_one();
        match &self.verdict {
            Some(Ok(change)) => Ok(Response::new(VerdictResponse { change: Some(change.clone()) })),
            Some(Err(code)) => Err(Status::new(*code, "as played")),
            None => std::future::pending().await,
        }
    }

    async fn changes(&self, request: Request<ChangesRequest>) -> Result<Response<ChangesResponse>, Status> {
        assert_eq!(request.into_inner().limit, 7);
        Ok(Response::new(ChangesResponse { changes: self.verdict.clone().into_iter().flatten().collect() }))
    }
}

fn verdict(state: &str) -> ChangeStatus {
    let step = |instance, succeeded, message: &str| Step {
        component: "pusher".into(),
        instance,
        from_generation: 3,
        to_generation: if succeeded { 4 } else { 3 },
        succeeded,
        message: message.into(),
    };
    let second = if state == "done" { step(1, true, "ready after 190 ms") } else { step(1, false, "not ready within 30s: \x1b[2J") };
    ChangeStatus {
        change_id: "0197-c".into(),
        what: "restart pusher".into(),
        actor: "alice (uid 1000)".into(),
        reason: "leaks".into(),
        state: state.into(),
        queued_ms: 1_767_225_600_123,
        took_ms: 1690,
        verdict: if state == "done" { "2 of 2 replaced".into() } else { "1 of 2 replaced".into() },
        steps: vec![step(0, true, "ready after 210 ms; generation 3 drained in 1.2 s"), second],
    }
}

fn stage(play: &Play) -> Stage {
    let mut stage = Stage::new();
    stage.serve_local("supervisor.sock", Routes::new(SupervisorServer::new(play.clone())));
    stage
}

/// A supervisor whose connections break with it: on a runtime of its own, for tonic's outlive the task that accepts them.
struct Mortal(Runtime);

impl Mortal {
    /// In the place of the last one, whose socket is still there.
    fn start(stage: &Stage, play: &Play) -> Self {
        let socket = stage.path("supervisor.sock");
        let _absent = std::fs::remove_file(&socket);
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let routes = Routes::new(SupervisorServer::new(play.clone()));
        runtime.spawn(async move {
            let incoming = UnixListenerStream::new(UnixListener::from_std(listener).unwrap());
            Server::builder().add_routes(routes).serve_with_incoming(incoming).await.unwrap();
        });
        Self(runtime)
    }

    fn kill(self) {
        self.0.shutdown_background();
    }
}

fn rows(done: &Done) -> Vec<Vec<&str>> {
    done.stdout.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect()
}

#[tokio::test]
async fn a_change_that_is_done_says_what_became_of_each_instance() {
    let play = Play { verdict: Some(Ok(verdict("done"))), ..Play::default() };
    let stage = stage(&play);
    let done = stage.call(&["restart", "pusher", "--reason", "leaks"]).await;
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "no progress where nobody watches: {done:?}");
    let rows = rows(&done);
    assert_eq!(rows[0], ["restart pusher: done in 1.6 s: 2 of 2 replaced"]);
    assert_eq!(rows[1], ["INSTANCE", "GENERATION", "RESULT", "WHAT HAPPENED"]);
    assert_eq!(rows[2], ["pusher/0", "3 to 4", "done", "ready after 210 ms; generation 3 drained in 1.2 s"]);
    assert_eq!(rows[3], ["pusher/1", "3 to 4", "done", "ready after 190 ms"]);
    let document = stage.call(&["--json", "restart", "pusher"]).await.document();
    assert_eq!((&document["state"], &document["took_ms"], &document["change_id"]), (&json!("done"), &json!(1690), &json!("0197-c")));
    let step = json!({
        "component": "pusher", "instance": 1, "from_generation": 3, "to_generation": 4, "succeeded": true, "message": "ready after 190 ms",
    });
    assert_eq!(document["steps"][1], step);
}

#[tokio::test]
async fn a_change_that_failed_is_exit_1_and_cannot_command_the_terminal() {
    let stage = stage(&Play { verdict: Some(Ok(verdict("failed"))), ..Play::default() });
    let done = stage.call(&["restart", "pusher"]).await;
    assert_eq!((done.code, done.stderr.as_str()), (1, ""));
    let rows = rows(&done);
    assert_eq!(rows[0], ["restart pusher: FAILED after 1.6 s: 1 of 2 replaced"]);
    assert_eq!(rows[3], ["pusher/1", "3 stays", "failed", "not ready within 30s: \u{fffd}[2J"]);
    let done = stage.call(&["--json", "restart", "pusher"]).await;
    assert_eq!((done.code, &done.document()["state"]), (1, &json!("failed")));
}

#[tokio::test]
async fn each_command_asks_for_its_change() {
    let play = Play { verdict: Some(Ok(verdict("done"))), ..Play::default() };
    let stage = stage(&play);
    let binaries = stage.path("new");
    std::fs::create_dir(&binaries).unwrap();
    let directory = binaries.canonicalize().unwrap().to_str().unwrap().to_owned();
    let target = |component: &str, instance| Target { component: component.into(), instance };
    let cases = [
        (vec!["restart", "edge"], change_request::Change::Restart(target("edge", None))),
        (vec!["stop", "pusher/1"], change_request::Change::Stop(target("pusher", Some(1)))),
        (vec!["start", "pusher/1"], change_request::Change::Start(target("pusher", Some(1)))),
        (vec!["scale", "pusher", "4"], change_request::Change::Scale(Scale { component: "pusher".into(), instances: 4 })),
        (vec!["upgrade"], change_request::Change::Upgrade(Upgrade::default())),
        (vec!["reload"], change_request::Change::Reload(Reload {})),
        (
            vec!["route", "disable", "orders.*"],
            change_request::Change::SwitchRoute(RouteSwitch { name: "orders.*".into(), enabled: false }),
        ),
        (vec!["route", "enable", "/shop"], change_request::Change::SwitchRoute(RouteSwitch { name: "/shop".into(), enabled: true })),
        (vec!["breaker", "reset", "orders"], change_request::Change::ResetBreaker(BreakerReset { backend: "orders".into() })),
        (vec!["upgrade", "--from", binaries.to_str().unwrap()], change_request::Change::Upgrade(Upgrade { directory })),
    ];
    for (arguments, change) in cases {
        let done = stage.call(&[&arguments[..], &["--no-wait"]].concat()).await;
        assert_eq!((done.code, done.stdout.as_str()), (0, "0197-c\n"), "{done:?}");
        assert_eq!(play.asked.lock().unwrap().pop().unwrap().change, Some(change));
    }
    let done = stage.call(&["--json", "restart", "edge", "--no-wait", "--reason", "why not"]).await;
    assert_eq!(done.document(), json!({"change_id": "0197-c"}));
    assert_eq!(play.asked.lock().unwrap().pop().unwrap().reason, "why not");
}

#[tokio::test]
async fn a_wrong_word_is_exit_2_with_the_right_one_and_nobody_is_asked() {
    let play = Play::default();
    let stage = stage(&play);
    let long = "x".repeat(1025);
    let cases = [
        (vec!["restart", "egde"], "did you mean `edge`?"),
        (vec!["restart", "pusher-1"], "write pusher/1"),
        (vec!["restart", "edge/1"], "there is one edge"),
        (vec!["scale", "edge", "2"], "only pushers can be scaled"),
        (vec!["scale", "pusher", "65"], "1..=64"),
        (vec!["restart", "edge", "--timeout", "soon"], "write 500ms, 30s or 5m"),
        (vec!["restart", "edge", "--reason", &long], "1024 are the most"),
    ];
    for (arguments, why) in cases {
        let done = stage.call(&arguments).await;
        assert!(done.code == 2 && done.stdout.is_empty() && done.stderr.contains(why), "{done:?}");
    }
    assert!(play.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_the_supervisor_refuses_is_exit_1_and_what_it_puts_off_is_asked_again() {
    let refusals = [Status::aborted("being replaced"), Status::permission_denied("bob (uid 7): you are no operator of this suite")];
    let play = Play { refusals: Arc::new(Mutex::new(refusals.into())), ..Play::default() };
    let done = stage(&play).call(&["restart", "edge"]).await;
    assert_eq!((done.code, done.stderr.as_str()), (1, "gatehouse: PERMISSION_DENIED: bob (uid 7): you are no operator of this suite\n"));
    assert_eq!(play.asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn sudo_s_user_is_claimed() {
    let play = Play { verdict: Some(Ok(verdict("done"))), ..Play::default() };
    let stage = stage(&play);
    let config = stage.config();
    let command = assert_cmd::cargo::cargo_bin!("gatehouse").to_str().unwrap();
    let arguments = ["SUDO_USER=alice", command, "--config", config.to_str().unwrap(), "restart", "edge"];
    let done = call(std::path::Path::new("/usr/bin/env"), &arguments).await;
    assert_eq!((done.code, play.claimed.lock().unwrap().as_deref()), (0, Some("alice")), "{done:?}");
}

/// What an upgrade looks like from outside: the supervisor goes while it is waited for, and the next one knows of the change.
#[tokio::test]
async fn a_supervisor_that_is_replaced_while_it_is_waited_for_is_asked_again() {
    let waiting = Play::default();
    let stage = Stage::new();
    let first = Mortal::start(&stage, &waiting);
    let config = stage.config();
    let arguments = ["--config", config.to_str().unwrap(), "upgrade", "--timeout", "30s"];
    let asked = call(assert_cmd::cargo::cargo_bin!("gatehouse"), &arguments);
    let replaced = async {
        waiting.waited_for.notified().await;
        first.kill();
        // For a moment nobody listens; the next one does not answer yet; the one after that does.
        let starting = Play { verdict: Some(Err(Code::Unavailable)), ..Play::default() };
        let second = Mortal::start(&stage, &starting);
        starting.waited_for.notified().await;
        second.kill();
        Mortal::start(&stage, &Play { verdict: Some(Ok(verdict("done"))), ..Play::default() })
    };
    let (done, third) = tokio::join!(asked, replaced);
    third.kill();
    assert!(done.code == 0 && done.stdout.starts_with("restart pusher: done in 1.6 s"), "{done:?}");
}

#[tokio::test]
async fn who_waits_for_a_supervisor_that_died_is_told_at_once_and_once() {
    let waiting = Play::default();
    let stage = Stage::new();
    let first = Mortal::start(&stage, &waiting);
    let mut asked = stage.command(&["restart", "edge"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    waiting.waited_for.notified().await;
    first.kill();
    let mut said = BufReader::new(asked.stderr.take().unwrap());
    let mut line = String::new();
    // Long before it gives up.
    tokio::time::timeout(Duration::from_secs(20), said.read_line(&mut line)).await.unwrap().unwrap();
    assert!(line.contains("the supervisor is gone, and its components may serve on"), "{line}");
    // Nobody comes for a while, and it asks again and again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let next = Mortal::start(&stage, &Play { verdict: Some(Ok(verdict("failed"))), ..Play::default() });
    let mut rest = String::new();
    said.read_to_string(&mut rest).await.unwrap();
    assert_eq!((asked.wait().await.unwrap().code(), rest.as_str()), (Some(1), ""));
    next.kill();
}

#[tokio::test]
async fn a_change_that_takes_longer_than_the_caller_waits_goes_on() {
    let stage = stage(&Play::default());
    let done = stage.call(&["restart", "edge", "--timeout", "300ms"]).await;
    assert_eq!(done.code, 1);
    assert_eq!(done.stderr, "gatehouse: change 0197-c is not over yet; it goes on: see `gatehouse changes 0197-c`\n");
}

#[tokio::test]
async fn a_change_that_nobody_remembers_is_exit_1_and_a_suite_that_is_not_there_69() {
    let done = stage(&Play { verdict: Some(Err(Code::NotFound)), ..Play::default() }).call(&["restart", "edge"]).await;
    assert!(done.code == 1 && done.stderr.contains("knows of no change 0197-c"), "{done:?}");
    let done = Stage::new().call(&["restart", "edge"]).await;
    assert!(done.code == 69 && done.stderr.contains("is the suite running"), "{done:?}");
}

#[tokio::test]
async fn past_changes_are_listed_and_one_is_shown_with_its_steps() {
    let stage = stage(&Play { verdict: Some(Ok(verdict("failed"))), ..Play::default() });
    let done = stage.call(&["changes", "--limit", "7"]).await;
    let rows = rows(&done);
    assert_eq!(rows[0], ["TIME", "CHANGE", "STATE", "TOOK", "WHO", "WHY", "VERDICT", "ID"]);
    let expected = ["2026-01-01T00:00:00Z", "restart pusher", "failed", "1.6 s", "alice (uid 1000)", "leaks", "1 of 2 replaced", "0197-c"];
    assert_eq!((done.code, &rows[1][..]), (0, &expected[..]));
    let listed = stage.call(&["--json", "changes", "--limit", "7"]).await.document()["changes"].clone();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["reason"]), (1, &json!("leaks")));
    for wait in [&[][..], &["--wait"]] {
        let done = stage.call(&[&["changes", "0197-c"], wait].concat()).await;
        assert!(done.code == 1 && done.stdout.starts_with("restart pusher: FAILED after 1.6 s"), "{done:?}");
    }
}

#[tokio::test]
async fn a_supervisor_that_dies_with_the_request_leaves_it_open_whether_it_was_queued() {
    let play = Play { refusals: Arc::new(Mutex::new(vec![Status::aborted("wait"); 1000].into())), ..Play::default() };
    let stage = Stage::new();
    let supervisor = Mortal::start(&stage, &play);
    let config = stage.config();
    let arguments = ["--config", config.to_str().unwrap(), "restart", "edge"];
    let asked = call(assert_cmd::cargo::cargo_bin!("gatehouse"), &arguments);
    let died = async {
        while play.asked.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        supervisor.kill();
    };
    let (done, ()) = tokio::join!(asked, died);
    assert!(done.code == 69 && done.stderr.contains("whether the change was queued is not known"), "{done:?}");
}
