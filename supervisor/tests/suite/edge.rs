//! What the edge is asked for an operator.

use std::{fs, io::Write as _, path::PathBuf, time::Duration};

use gatehouse_chassis::{
    Shutdown,
    connections::{ConnectionMetrics, Farewell, serve},
    metrics::Metrics,
    sockets::Listener,
    watchdog::Pulse,
};
use gatehouse_proto::internal::v1::{
    EdgeVerdict, Reload, ReloadRequest, RouteStatus, RouteSwitch, RoutesRequest, RoutesResponse, SwitchRouteRequest, Target,
    change_request::Change,
    edge_server::{Edge, EdgeServer},
};
use nix::sys::signal::Signal;
use tonic::{Code, Request, Response, Status, service::Routes};

use crate::world::{World, instance};

/// The fake edge's side. While there is a file `hold` it does not answer; what it answers to a reload are the lines of `verdict`, the first of them the verdict.
struct Fake(PathBuf);

/// Until the process ends.
pub fn talk(listener: Listener, dir: PathBuf) {
    let metrics = ConnectionMetrics::new(&Metrics::new("fake", 0));
    let (router, shutdown) = (Routes::new(EdgeServer::new(Fake(dir))).into_axum_router(), Shutdown::default());
    shutdown.spawn("local", serve("local", listener, router, metrics, Farewell::at_once(), shutdown.clone(), Pulse::default()));
}

impl Fake {
    async fn hear(&self, what: &str) {
        let mut asked = fs::OpenOptions::new().create(true).append(true).open(self.0.join("asked")).unwrap();
        asked.write_all(format!("{what}\n").as_bytes()).unwrap();
        while self.0.join("hold").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tonic::async_trait]
impl Edge for Fake {
    async fn reload(&self, _request: Request<ReloadRequest>) -> Result<Response<EdgeVerdict>, Status> {
        self.hear("reload").await;
        let said = fs::read_to_string(self.0.join("verdict")).unwrap_or_else(|_| "2 changes\n".to_owned());
        let mut lines = said.lines().map(ToOwned::to_owned);
        let verdict = lines.next().unwrap();
        Ok(Response::new(EdgeVerdict { done: !verdict.starts_with("nothing"), verdict, details: lines.collect() }))
    }

    async fn switch_route(&self, request: Request<SwitchRouteRequest>) -> Result<Response<EdgeVerdict>, Status> {
        let SwitchRouteRequest { name, enabled, actor, reason, at_ms } = request.into_inner();
        self.hear(&format!("switch {name} {enabled} by {actor}: {reason}, {}", at_ms > 1_700_000_000_000)).await;
        Ok(Response::new(EdgeVerdict { done: true, verdict: format!("{name} is disabled"), details: Vec::new() }))
    }

    async fn routes(&self, _request: Request<RoutesRequest>) -> Result<Response<RoutesResponse>, Status> {
        let route = RouteStatus { name: "orders.*".into(), ..RouteStatus::default() };
        Ok(Response::new(RoutesResponse { routes: vec![route] }))
    }
}

const RELOAD: Change = Change::Reload(Reload {});

async fn talking() -> World {
    let mut world = World::new();
    world.behave("edge", "talks");
    world.ready().await;
    world
}

async fn asked(world: &World, what: &str) {
    let begun = std::time::Instant::now();
    while !world.read("asked").contains(what) {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}: {}", world.read("asked"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_edges_verdict_is_the_changes_with_a_step_for_each_thing_it_says() {
    let mut world = talking().await;
    fs::write(world.path("verdict"), "nothing was changed: 2 problems\ngateway.toml:3: a\ngateway.toml:9: b\n").unwrap();
    let refused = world.change(RELOAD).await;
    assert_eq!(
        (refused.what.as_str(), refused.state.as_str(), refused.verdict.as_str()),
        ("reload", "failed", "nothing was changed: 2 problems")
    );
    let steps: Vec<_> = refused
        .steps
        .iter()
        .map(|step| (step.component.as_str(), step.from_generation, step.to_generation, step.succeeded, step.message.as_str()))
        .collect();
    assert_eq!(steps, [("edge", 1, 1, false, "gateway.toml:3: a"), ("edge", 1, 1, false, "gateway.toml:9: b")]);
    fs::remove_file(world.path("verdict")).unwrap();
    let done = world.change(RELOAD).await;
    assert_eq!((done.state.as_str(), done.verdict.as_str(), done.steps.len()), ("done", "2 changes", 0));

    let switched = world.change(Change::SwitchRoute(RouteSwitch { name: "orders.*".into(), enabled: false })).await;
    assert_eq!((switched.what.as_str(), switched.verdict.as_str()), ("route disable orders.*", "orders.* is disabled"));
    let heard = world.read("asked");
    assert!(heard.contains("switch orders.* false by ") && heard.contains("): as tested, true"), "{heard}");
    let routes = world.client().routes(RoutesRequest {}).await.unwrap().into_inner().routes;
    assert_eq!(routes[0].name, "orders.*");
    let unknown = world.client().breakers(gatehouse_proto::internal::v1::BreakersRequest {}).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unavailable, "an older edge does not know of it: {unknown}");
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn an_edge_that_does_not_run_is_not_waited_for() {
    let world = talking().await;
    world.change(Change::Stop(Target { component: "edge".into(), instance: None })).await;
    let verdict = world.change(RELOAD).await;
    assert_eq!((verdict.state.as_str(), verdict.verdict.as_str()), ("failed", "the edge does not run: stopped"));
}

#[tokio::test]
async fn what_was_asked_when_the_supervisor_died_is_asked_again_by_the_next() {
    let mut world = talking().await;
    fs::write(world.path("hold"), "").unwrap();
    let id = world.begin(RELOAD).await;
    asked(&world, "reload\n").await;
    world.signal(Signal::SIGKILL);
    world.ended().await;
    world.start();
    asked(&world, "reload\nreload\n").await;
    fs::remove_file(world.path("hold")).unwrap();
    let verdict = world.verdict(&id).await;
    assert_eq!((verdict.state.as_str(), verdict.verdict.as_str()), ("done", "2 changes"));
}

#[tokio::test]
async fn nothing_is_asked_while_two_generations_are_there() {
    let world = talking().await;
    let restart = world.begin(Change::Restart(Target { component: "edge".into(), instance: None })).await;
    let verdict = world.change(RELOAD).await;
    assert_eq!(verdict.state, "done", "{verdict:?}");
    assert_eq!(world.verdict(&restart).await.state, "done");
    assert_eq!(world.read("asked").lines().count(), 1);
    let status = world.status().await.unwrap();
    assert_eq!(instance(&status, "edge", 0).generation, 2);
    assert!(world.position("end edge-0") < world.events().len());
}
