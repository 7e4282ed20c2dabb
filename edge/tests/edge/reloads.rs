//! Routes that change while the edge runs: by the file, and by an operator's switch.

use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _, time::Duration};

use gatehouse_proto::internal::v1::{EdgeVerdict, ReloadRequest, ResetBreakerRequest, RouteStatus, RoutesRequest, SwitchRouteRequest};
use serde_json::json;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::{
    bench::{Bench, dir, until},
    fakes::{backend, gated, named},
    http::{get, mirror},
};

/// As Linux has it.
const O_NONBLOCK: i32 = 0o4000;

/// Who answered, or why nobody did.
async fn ask(bench: &Bench, message_type: &str, id: &str) -> Result<String, (Code, String)> {
    let answer = bench.client().execute_command(bench.command(message_type, id, b"")).await;
    answer.map(|answer| answer.into_inner().result_code).map_err(|status: Status| (status.code(), status.message().to_owned()))
}

async fn switch(bench: &Bench, name: &str, enabled: bool) -> EdgeVerdict {
    let (actor, reason) = ("alice (uid 1000)".to_owned(), "it loops".to_owned());
    let request = SwitchRouteRequest { name: name.to_owned(), enabled, actor, reason, at_ms: 1_767_225_600_123 };
    bench.edge().switch_route(request).await.unwrap().into_inner()
}

async fn routes(bench: &Bench) -> Vec<RouteStatus> {
    bench.edge().routes(RoutesRequest {}).await.unwrap().into_inner().routes
}

fn web(address: impl std::fmt::Display) -> String {
    format!(
        "[[backend]]\nname = \"web\"\nprotocol = \"http\"\naddress = \"{address}\"\n\
         [[route]]\nprefix = \"/shop\"\nbackend = \"web\"\n[auth]\nbackend = \"web\"\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_most_exact_route_of_a_message_type_wins() {
    let (all, orders, one) = (named("all"), named("orders"), named("one"));
    let file = [
        backend("all", all.address(), &["*"]),
        backend("orders", orders.address(), &["orders.*"]),
        backend("one", one.address(), &["orders.create"]),
    ];
    let bench = Bench::start(&file.concat()).await;
    for (message_type, by) in [("orders.create", "one"), ("orders.created", "orders"), ("orders.", "orders"), ("orders", "all")] {
        assert_eq!(ask(&bench, message_type, message_type).await.as_deref(), Ok(by), "{message_type}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_routes_at_once_and_commands_in_flight_end_where_they_began() {
    let ((old, mut entries, gate), new) = (gated("old"), named("new"));
    let bench = Bench::start(&backend("orders", old.address(), &["orders.create", "orders.gone"])).await;
    let mut in_flight = JoinSet::new();
    let (mut client, command) = (bench.client(), bench.command("orders.create", "r-1", b""));
    in_flight.spawn(async move { client.execute_command(command).await.map(|answer| answer.into_inner().result_code) });
    entries.recv().await.unwrap();

    let verdict = bench.reload(&backend("orders", new.address(), &["orders.create", "orders.new"])).await;
    assert!(verdict.done, "{verdict:?}");
    assert_eq!(verdict.verdict, "3 changes");
    let told = |what: &str| verdict.details.iter().any(|detail| detail.contains(what));
    assert!(told("backend orders: grpc") && told("command orders.new: new, to orders") && told("command orders.gone: gone"), "{verdict:?}");
    for (message_type, answer) in [("orders.create", Ok("new")), ("orders.new", Ok("new"))] {
        assert_eq!(ask(&bench, message_type, message_type).await.as_deref(), answer.map_err(|error: &(Code, String)| error));
    }
    assert_eq!(ask(&bench, "orders.gone", "r-2").await, Err((Code::Unimplemented, "message_type is not routed".to_owned())));
    gate.add_permits(1);
    assert_eq!(in_flight.join_next().await.unwrap().unwrap().unwrap(), "old");
    assert_eq!(bench.metric("config_reloads_total", &[("outcome", "done")]), 1);

    let again = bench.reload(&format!("# a remark\n{}", backend("orders", new.address(), &["orders.create", "orders.new"]))).await;
    assert_eq!((again.done, again.verdict.as_str(), again.details.len()), (true, "no route has changed", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_is_refused_wholly_with_every_problem_and_its_place() {
    let server = named("orders");
    let good = backend("orders", server.address(), &["orders.create"]);
    let bench = Bench::start(&good).await;
    let file = bench.dir.path().join("gateway.toml");
    let broken = format!("{good}[[command]]\nmessage_type = \"orders.new\"\nbackend = \"order\"\n[redis]\ndb = \"many\"\n");
    let verdict = bench.reload(&broken).await;
    assert_eq!((verdict.done, verdict.verdict.as_str()), (false, "nothing was changed: 2 problems in the configuration"));
    let place = |line: usize, what: &str| format!("{}:{line}: {what}", file.display());
    assert!(verdict.details.contains(&place(11, "command[2].backend: `order`: unknown backend; did you mean `orders`?")), "{verdict:?}");
    assert!(verdict.details.iter().any(|detail| detail.starts_with(&place(13, "redis.db:"))), "{verdict:?}");
    for text in ["[[command", "[overload]\nmin_in_flight = 100\nmax_in_flight = 10"] {
        assert!(!bench.reload(text).await.done, "{text}");
    }
    std::fs::remove_file(&file).unwrap();
    let verdict = bench.edge().reload(ReloadRequest {}).await.unwrap().into_inner();
    assert!(!verdict.done && verdict.details[0].contains("cannot be read"), "a file that is gone is no empty one: {verdict:?}");
    assert_eq!(ask(&bench, "orders.create", "r-1").await.as_deref(), Ok("orders"));
    assert_eq!(ask(&bench, "orders.new", "r-2").await.unwrap_err().0, Code::Unimplemented);
    assert_eq!(bench.metric("config_reloads_total", &[("outcome", "refused")]), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_restart_is_named_each_time() {
    let bench = Bench::start("").await;
    for _ in 0..2 {
        let verdict = bench.reload("[listen]\nhttp = \":1\"\n[push]\nlog_bytes = 2097152\n[overload]\ntarget_delay = \"20ms\"\n").await;
        assert!(verdict.done && verdict.verdict.ends_with("; 2 sections wait for a restart"), "{verdict:?}");
        let file = bench.dir.path().join("gateway.toml");
        let waits = |name: &str, line: usize| format!("[{name}] ({}:{line}): counts from a restart on", file.display());
        assert!(verdict.details.contains(&waits("listen", 1)) && verdict.details.contains(&waits("push", 3)), "{verdict:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_route_refuses_what_comes_and_leaves_alone_what_is_in_flight() {
    let ((server, mut entries, gate), shop) = (gated("orders"), mirror());
    let text = backend("orders", server.address(), &["orders.create", "orders.*"]) + &web(shop.address());
    let bench = Bench::start(&text).await;
    let mut in_flight = JoinSet::new();
    let (mut client, command) = (bench.client(), bench.command("orders.create", "r-1", b""));
    in_flight.spawn(async move { client.execute_command(command).await.map(|_| ()) });
    entries.recv().await.unwrap();

    let verdict = switch(&bench, "orders.create", false).await;
    assert_eq!((verdict.done, verdict.verdict.as_str()), (true, "orders.create is disabled"));
    assert_eq!(ask(&bench, "orders.create", "r-2").await, Err((Code::Unavailable, "route is disabled".to_owned())));
    let record = bench.record_soon("r-2").await;
    assert_eq!((record.status.as_str(), record.grpc_code.as_deref()), ("denied", Some("UNAVAILABLE")));
    gate.add_permits(2);
    in_flight.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(ask(&bench, "orders.list", "r-3").await.as_deref(), Ok("orders"), "the prefix beside it is another route");

    for name in ["/shop", "/api/v1/public/auth"] {
        assert_eq!(get(&bench, name).await.status, 200);
        assert!(switch(&bench, name, false).await.done);
        let answer = get(&bench, name).await;
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, &error["code"], &error["message"]), (503, &json!("route_disabled"), &json!("route is disabled")));
        let request_id = error["request_id"].as_str().unwrap();
        assert_eq!(Some(request_id), answer.header("x-request-id"));
        if name == "/shop" {
            // The second one is gathered with those that may follow.
            let record = bench.record_soon(request_id).await;
            assert_eq!((record.action_type.as_str(), record.action.as_str(), record.http_status), ("http", "/shop", Some(503)));
            assert_eq!((record.status.as_str(), record.rbac_decision.as_deref()), ("denied", Some("deny")));
            assert_eq!((record.resource.as_deref(), record.resource_type.as_deref()), (Some("route_disabled"), Some("refusal")));
        }
    }
    assert_eq!(bench.metric("audit_denied_total", &[]), 3);
    assert_eq!(bench.metric("routes_disabled", &[]), 3);
    assert!(switch(&bench, "/shop", true).await.done);
    assert_eq!(get(&bench, "/shop").await.status, 200);
    let twice = switch(&bench, "/shop", true).await;
    assert_eq!((twice.done, twice.verdict.as_str()), (true, "/shop is in service already"));
    let listed: Vec<_> = routes(&bench).await.into_iter().map(|route| (route.name, route.kind, route.backend, route.enabled)).collect();
    let row = |name: &str, kind: &str, backend: &str, enabled| (name.to_owned(), kind.to_owned(), backend.to_owned(), enabled);
    let rows = [
        row("orders.create", "command", "orders", false),
        row("orders.*", "command", "orders", true),
        row("/shop", "http", "web", true),
        row("/api/v1/public/auth", "http", "web", false),
    ];
    assert_eq!(listed, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_matches_nothing_is_refused_with_the_nearest() {
    let bench = Bench::start(&backend("orders", "127.0.0.1:1", &["orders.create", "orders.*"])).await;
    for (name, said) in [
        ("orders.craete", "orders.craete: unknown route; did you mean `orders.create`?"),
        ("orders", "orders: unknown route; did you mean `orders.*`?"),
        ("x", "x: unknown route; known: orders.create, orders.*"),
    ] {
        for enabled in [false, true] {
            let verdict = switch(&bench, name, enabled).await;
            assert_eq!((verdict.done, verdict.verdict.as_str()), (false, said));
        }
    }
    let bench = Bench::start("").await;
    assert_eq!(switch(&bench, "x", false).await.verdict, "x: no routes are configured");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_disabled_stays_so_over_restarts_and_reloads_until_it_is_enabled() {
    let server = named("orders");
    let text = backend("orders", server.address(), &["orders.create", "orders.list"]);
    let bench = Bench::start(&text).await;
    assert!(switch(&bench, "orders.create", false).await.done);
    let (redis, dir) = bench.end().await;
    let bench = Bench::start_on(redis, dir, &text).await;
    let off = Err((Code::Unavailable, "route is disabled".to_owned()));
    assert_eq!(ask(&bench, "orders.create", "r-1").await, off);
    assert_eq!(ask(&bench, "orders.list", "r-2").await.as_deref(), Ok("orders"));
    let listed = routes(&bench).await.remove(0);
    assert_eq!((listed.actor.as_str(), listed.reason.as_str(), listed.at_ms), ("alice (uid 1000)", "it loops", 1_767_225_600_123));

    assert!(bench.reload(&backend("orders", server.address(), &["orders.list"])).await.done);
    assert_eq!(bench.metric("routes_disabled", &[]), 0, "it is not there at all");
    let gone = routes(&bench).await.pop().unwrap();
    assert_eq!((gone.name.as_str(), gone.kind.as_str(), gone.enabled), ("orders.create", "gone", false));
    assert!(bench.reload(&text).await.done);
    assert_eq!(ask(&bench, "orders.create", "r-3").await, off);
    assert!(switch(&bench, "orders.create", true).await.done);
    let (redis, dir) = bench.end().await;
    let bench = Bench::start_on(redis, dir, &text).await;
    assert_eq!(ask(&bench, "orders.create", "r-4").await.as_deref(), Ok("orders"));
}

#[tokio::test(flavor = "multi_thread")]
async fn switches_that_cannot_be_read_or_written_stop_nothing_and_are_told() {
    let server = named("orders");
    let (dir, text) = (dir(), backend("orders", server.address(), &["orders.create"]));
    let state = dir.path().join("state/edge");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("disabled-routes.json"), "{\"disabled\": [").unwrap();
    let bench = Bench::start_in(dir, &text).await;
    assert_eq!(bench.metric("route_switches_unreadable", &[]), 1);
    assert_eq!(ask(&bench, "orders.create", "r-1").await.as_deref(), Ok("orders"));
    assert_eq!(switch(&bench, "orders.create", false).await.verdict, "orders.create is disabled");
    assert_eq!(bench.metric("route_switches_unreadable", &[]), 0);
    // Not even root can write into what is no directory.
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::write(&state, "").unwrap();
    let verdict = switch(&bench, "orders.create", true).await;
    assert!(verdict.done && verdict.verdict.starts_with("orders.create is enabled; a restart of the edge forgets it"), "{verdict:?}");
    assert_eq!(ask(&bench, "orders.create", "r-2").await.as_deref(), Ok("orders"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_way_to_write_its_path_leads_round_a_disabled_route() {
    let server = mirror();
    let text = web(server.address()) + "[[route]]\nprefix = \"/\"\nbackend = \"web\"\n";
    let bench = Bench::start(&text).await;
    assert!(switch(&bench, "/shop", false).await.done);
    assert!(switch(&bench, "/api/v1/public/auth", false).await.done);
    for (path, status) in [("/shop", 503), ("/shop/x", 503), ("/shopping", 200), ("/x//shop", 200), ("/x;shop", 200)] {
        assert_eq!(get(&bench, path).await.status, status, "{path}");
    }
    for path in
        ["/%73hop", "//shop", "/shop;x", "/shop;x/y", "/shop%2Fx", "/shop%3bx", "/%2573hop", "/\\shop", "/api/v1/public/%61uth/login"]
    {
        let answer = get(&bench, path).await;
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (400, Some("bad_request")), "{path}");
    }
    assert!(switch(&bench, "/shop", true).await.done);
    for path in ["/shop/a%2Fb;c//d", "/x%2Fshop", "//x"] {
        let answer = get(&bench, path).await;
        assert_eq!((answer.status, answer.json()["target"].as_str()), (200, Some(path)), "it goes on as it came");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_hangs_holds_up_its_reload_and_nothing_else() {
    let server = named("orders");
    let text = backend("orders", server.address(), &["orders.create"]);
    let bench = Bench::start(&text).await;
    let file = bench.dir.path().join("gateway.toml");
    std::fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    let (mut edge, mut reload) = (bench.edge(), JoinSet::new());
    reload.spawn(async move { edge.reload(ReloadRequest {}).await.unwrap().into_inner() });
    // Without waiting, it can be opened once somebody reads it.
    let open = || std::fs::OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(&file).ok();
    let mut writer = until("the file is read", async || open()).await;
    let done = tokio::time::timeout(Duration::from_mins(1), async {
        assert!(switch(&bench, "orders.create", false).await.done);
        assert!(!routes(&bench).await[0].enabled);
        let reset = bench.edge().reset_breaker(ResetBreakerRequest { backend: "orders".into() }).await.unwrap().into_inner();
        assert!(reset.done, "{reset:?}");
    });
    done.await.expect("nobody waits for the file");
    assert!(reload.try_join_next().is_none());
    writer.write_all(format!("{text}[[command]]\nmessage_type = \"orders.new\"\nbackend = \"orders\"\n").as_bytes()).unwrap();
    drop(writer);
    let verdict = reload.join_next().await.unwrap().unwrap();
    assert_eq!((verdict.done, verdict.verdict.as_str()), (true, "1 change"), "{verdict:?}");
    assert_eq!(ask(&bench, "orders.new", "r-1").await.as_deref(), Ok("orders"));
    assert_eq!(
        ask(&bench, "orders.create", "r-2").await,
        Err((Code::Unavailable, "route is disabled".to_owned())),
        "it is still switched off"
    );
}
