//! What the edge says of requests: at which level, with which fields, and what never stands there.

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use gatehouse_proto::downstream::v1::ExecuteResponse;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    layer::{Context, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

use crate::{
    bench::{Bench, until},
    fakes::{downstream, echo, routed_to},
    forward::{measuring, routed},
    http::raw,
    wire::Backend,
};

#[derive(Clone, Debug)]
struct Line {
    level: Level,
    fields: HashMap<String, String>,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name().to_owned(), value.to_owned());
    }
}

/// Of all tests of this process.
static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

struct Keep;

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line { level: *event.metadata().level(), fields: HashMap::new() };
        event.record(&mut line);
        LINES.lock().unwrap().push(line);
    }
}

fn listen() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let ours = Targets::new().with_target("gatehouse_edge::requests", Level::DEBUG);
        tracing_subscriber::registry().with(Keep.with_filter(ours)).init();
    });
}

/// The line of that request, once it is there.
async fn line(request_id: &str) -> Line {
    let found = async || {
        let lines = LINES.lock().unwrap();
        let mut of_it = lines.iter().filter(|line| line.fields.get("request.id").is_some_and(|id| id == request_id));
        let first = of_it.next().cloned();
        assert!(of_it.next().is_none(), "one line for each");
        first
    };
    until("the line is there", found).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_one_line_and_those_that_failed_stand_at_info() {
    listen();
    let server = echo();
    // None is slow, however busy the machine is.
    let bench = Bench::start(&(routed_to(server.address(), "") + "[log]\nslow_request = \"0s\"\n")).await;
    let mut command = bench.command("orders.create", "line-1", b"secret");
    command.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00".into();
    bench.client().execute_command(command).await.unwrap();
    let said = line("line-1").await;
    assert_eq!(said.level, Level::DEBUG);
    for (field, value) in [
        ("request.kind", "command"),
        ("request.route", "orders.create"),
        ("request.status", "OK"),
        ("session.id", "ds-1"),
        ("backend.name", "orders"),
        ("client.ip", "127.0.0.1"),
        ("trace.id", "0af7651916cd43dd8448eb211c80319c"),
    ] {
        assert_eq!(said.fields.get(field).map(String::as_str), Some(value), "{field} in {said:?}");
    }
    assert!(said.fields.contains_key("request.latency_ms") && !format!("{said:?}").contains("secret"));

    // What is refused for its shape has been cut before it is told.
    let mut long = bench.command("orders.create", "", b"");
    long.request_id = format!("line-2{}", "é".repeat(200));
    let status = bench.client().execute_command(long).await.unwrap_err();
    assert_eq!(status.message(), "request_id is too long");
    let told = line(&format!("line-2{}", "é".repeat(61))).await;
    assert_eq!((told.level, told.fields["request.status"].as_str()), (Level::DEBUG, "INVALID_ARGUMENT"));

    let gone = Backend::listen().await.address();
    let bench = Bench::start(&routed_to(gone, "")).await;
    bench.client().execute_command(bench.command("orders.create", "line-3", b"")).await.unwrap_err();
    let failed = line("line-3").await;
    assert_eq!((failed.level, failed.fields["request.status"].as_str()), (Level::INFO, "UNAVAILABLE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_request_stands_at_info_and_what_is_left_out_is_counted() {
    listen();
    let slow = downstream(|_| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(ExecuteResponse::default())
        })
    });
    let bench = Bench::start(&(routed_to(slow.address(), "") + "[log]\nslow_request = \"50ms\"\n")).await;
    bench.client().execute_command(bench.command("orders.create", "slow-1", b"")).await.unwrap();
    assert_eq!(line("slow-1").await.level, Level::INFO);

    let none = "[log]\nslow_request = \"50ms\"\nrequest_lines_per_second = 0\n";
    let bench = Bench::start(&(routed_to(slow.address(), "") + none)).await;
    for id in ["slow-2", "slow-3"] {
        bench.client().execute_command(bench.command("orders.create", id, b"")).await.unwrap();
        assert_eq!(line(id).await.level, Level::DEBUG);
    }
    let text = bench.process.metrics().text();
    assert!(text.lines().any(|line| line.starts_with("request_lines_left_out_total") && line.ends_with(" 2")), "{text}");

    let bench = Bench::start(&(routed_to(slow.address(), "") + "[log]\nslow_request = \"0s\"\n")).await;
    bench.client().execute_command(bench.command("orders.create", "slow-4", b"")).await.unwrap();
    assert_eq!(line("slow-4").await.level, Level::DEBUG, "nothing is slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_request_s_line_has_its_route_and_not_its_path() {
    listen();
    let server = measuring();
    let bench = Bench::start(&routed(server.address(), "", "")).await;
    let ask = |path: &str, id: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: hidden\r\nx-request-id: {id}\r\n\r\n")
    };
    for (path, id, route, status) in [
        ("/shop/hidden?token=hidden", "http-1", "/shop", "200"),
        ("/api/v1/public/auth/hidden", "http-2", "/api/v1/public/auth", "200"),
        ("/nowhere/hidden", "http-3", "none", "404"),
    ] {
        raw(bench.http, &ask(path, id)).await;
        let said = line(id).await;
        assert_eq!((said.fields["request.route"].as_str(), said.fields["request.status"].as_str()), (route, status));
        assert!(!format!("{said:?}").contains("hidden"), "{said:?}");
    }
    assert_eq!(line("http-1").await.fields["backend.name"], "shop");
}
