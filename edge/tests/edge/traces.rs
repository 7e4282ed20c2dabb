//! Traces from outside: context in and out, spans at a collector, and collectors that are none.

use std::time::Duration;

use axum::{Router, extract::Request, response::Response};
use bytes::Bytes;
use gatehouse_proto::downstream::v1::ExecuteResponse;
use tokio::sync::mpsc;

use crate::{
    bench::{Bench, until},
    collector::{Collector, hex, section, text},
    fakes::{Server, downstream, echo, routed_to},
    forward::routed,
    http::raw,
    wire::Backend,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A downstream that tells which context it was given: in the message, and in metadata.
fn telling() -> (Server, mpsc::UnboundedReceiver<[String; 3]>) {
    let (seen, calls) = mpsc::unbounded_channel();
    let server = downstream(move |request| {
        let of = |name: &str| request.metadata().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        seen.send([request.get_ref().traceparent.clone(), of("traceparent"), of("tracestate")]).unwrap();
        Box::pin(async { Ok(ExecuteResponse { result_code: String::new(), payload_bytes: Bytes::new() }) })
    });
    (server, calls)
}

fn dropped(bench: &Bench, reason: &str) -> u64 {
    bench.metric("trace_spans_dropped_total", &[("reason", reason)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_s_spans_hang_together_from_its_caller_to_the_downstream() {
    let (collector, (server, mut calls)) = (Collector::grpc(), telling());
    let bench = Bench::start(&(routed_to(server.address(), "") + &collector.section("sample_ratio = 0.0"))).await;
    let mut request = tonic::Request::new(bench.command("orders.create", "r-1", b"secret payload"));
    request.metadata_mut().insert("traceparent", PARENT.parse().unwrap());
    request.metadata_mut().insert("tracestate", "vendor=1".parse().unwrap());
    bench.client().execute_command(request).await.unwrap();

    let spans = collector.spans(TRACE, 4).await;
    let span = |name: &str| spans.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", spans.keys()));
    let whole = span("gateway.v1.Gateway/ExecuteCommand");
    assert_eq!((hex(&whole.parent_span_id).as_str(), whole.kind, whole.trace_state.as_str()), ("b7ad6b7169203331", 2, "vendor=1"));
    for (part, kind) in [("verify", 1), ("downstream", 3), ("audit", 1)] {
        assert_eq!((&span(part).parent_span_id, span(part).kind), (&whole.span_id, kind), "{part}");
        assert!(span(part).start_time_unix_nano >= whole.start_time_unix_nano);
    }
    let outgoing = format!("00-{TRACE}-{}-01", hex(&span("downstream").span_id));
    assert_eq!(calls.recv().await.unwrap(), [outgoing.clone(), outgoing, "vendor=1".into()]);
    assert_eq!(text(&whole.attributes, "gatehouse.request_id").as_deref(), Some("r-1"));
    assert_eq!(text(&whole.attributes, "gatehouse.route").as_deref(), Some("orders.create"));
    assert_eq!(text(&whole.attributes, "gatehouse.device_session_id").as_deref(), Some("ds-1"));
    assert_eq!(text(&whole.attributes, "rpc.grpc.status_code").as_deref(), Some("0"));
    assert_eq!(text(&span("downstream").attributes, "gatehouse.backend").as_deref(), Some("orders"));
    assert_eq!(collector.resource("service.name").as_deref(), Some("gatehouse-edge"));
    assert!(!format!("{:?}", collector.all()).contains("secret"), "no payloads");

    // Whoever does not want to be recorded is not, and the downstream is told so.
    let mut command = bench.command("orders.create", "r-2", b"");
    command.traceparent = format!("{}-00", &PARENT[..52]);
    bench.client().execute_command(command).await.unwrap();
    let [message, metadata, state] = calls.recv().await.unwrap();
    assert!(message.starts_with(&PARENT[..36]) && message.ends_with("-00") && message == metadata && state.is_empty(), "{message}");
    // Of those that begin here, none is to be recorded either.
    bench.client().execute_command(bench.command("orders.create", "r-3", b"")).await.unwrap();
    let [begun, ..] = calls.recv().await.unwrap();
    assert!(begun.ends_with("-02") && !begun.contains(TRACE), "random, not sampled: {begun}");
    assert_eq!(collector.all().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_context_passes_through_and_nonsense_does_not() {
    let (server, mut calls) = telling();
    let bench = Bench::start(&routed_to(server.address(), "")).await;
    let execute = async |id: &str, envelope: &str, header: Option<&str>| {
        let mut command = bench.command("orders.create", id, b"");
        command.traceparent = envelope.into();
        let mut request = tonic::Request::new(command);
        if let Some(header) = header {
            request.metadata_mut().insert("traceparent", header.parse().unwrap());
            request.metadata_mut().insert("tracestate", "vendor=1".parse().unwrap());
        }
        bench.client().execute_command(request).await.map(|_| ())
    };
    execute("r-1", "", Some(PARENT)).await.unwrap();
    assert_eq!(calls.recv().await.unwrap(), [PARENT.to_owned(), PARENT.to_owned(), "vendor=1".into()]);
    execute("r-2", "", None).await.unwrap();
    assert_eq!(calls.recv().await.unwrap(), [const { String::new() }; 3]);
    for (id, envelope, header) in [("r-3", "nonsense", Some(PARENT)), ("r-4", "", Some("nonsense"))] {
        execute(id, envelope, header).await.unwrap();
        let [message, metadata, state] = calls.recv().await.unwrap();
        assert!(message.len() == 55 && message.ends_with("-02") && message == metadata && state.is_empty(), "{message}");
    }
    let refused = execute("r-5", &"x".repeat(129), None).await.unwrap_err();
    assert_eq!(refused.message(), "traceparent is too long");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_request_s_spans_reach_a_collector_by_http() {
    let collector = Collector::http();
    let backend = Server::tcp(Router::new().fallback(async |request: Request| {
        let of = |name: &str| {
            request.headers().get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>().join("|")
        };
        Response::new(axum::body::Body::from(format!("{} {}", of("traceparent"), of("tracestate"))))
    }));
    let bench = Bench::start(&(routed(backend.address(), "", "") + &collector.section("otlp_protocol = \"http\""))).await;
    let ask = |path: &str| {
        format!(
            "GET {path}?token=secret HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-request-id: r-1\r\nauthorization: secret\r\n\
             traceparent: {PARENT}\r\ntracestate: a=1\r\ntracestate: b=2\r\n\r\n"
        )
    };
    let answer = raw(bench.http, &ask("/shop/secret")).await;
    let spans = collector.spans(TRACE, 3).await;
    let (whole, call) = (&spans["GET /shop"], &spans["downstream"]);
    assert_eq!(answer.body, format!("00-{TRACE}-{}-01 a=1,b=2", hex(&call.span_id)));
    assert_eq!((hex(&whole.parent_span_id).as_str(), &call.parent_span_id), ("b7ad6b7169203331", &whole.span_id));
    assert_eq!(spans["audit"].parent_span_id, whole.span_id);
    assert_eq!(text(&whole.attributes, "http.response.status_code").as_deref(), Some("200"));
    assert!(!format!("{:?}", collector.all()).contains("secret"), "no paths, no queries, no tokens");
    until("what it rejected is counted", async || (dropped(&bench, "rejected") >= 1).then_some(())).await;

    // The edge's own paths belong to no trace.
    raw(bench.http, &ask("/healthz")).await;
    raw(bench.http, &ask("/nowhere")).await;
    assert_eq!(collector.all().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_talks_nonsense_costs_spans_and_nothing_else() {
    let gone = Backend::listen().await.address();
    let nonsense = Server::tcp(Router::new().fallback(async || "I am no collector"));
    let server = echo();
    for (address, more) in
        [(gone, ""), (gone, "otlp_protocol = \"http\""), (nonsense.address(), ""), (nonsense.address(), "otlp_protocol = \"http\"")]
    {
        let mut bench = Bench::start(&(routed_to(server.address(), "") + &section(address, more))).await;
        let mut command = bench.command("orders.create", "r-1", b"{}");
        command.traceparent = PARENT.into();
        bench.client().execute_command(command).await.unwrap();
        until("they are counted", async || (dropped(&bench, "collector") == 4).then_some(())).await;
        bench.client().execute_command(bench.command("orders.create", "r-2", b"{}")).await.unwrap();
        bench.drain();
        bench.ended().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_holds_up_neither_requests_nor_the_drain() {
    let (collector, server) = (Backend::listen().await, echo());
    // Longer than the drain's own limit, so that it is not this one which ends the wait.
    let more = "export_timeout = \"10m\"\nmax_traces_per_second = 1000000";
    let text = routed_to(server.address(), "") + &section(collector.address(), more) + "[shutdown]\nedge = \"10m\"\n";
    let mut bench = Bench::start(&text).await;
    let mut client = bench.client();
    for i in 0..20 {
        client.execute_command(bench.command("orders.create", &format!("r-{i}"), b"{}")).await.unwrap();
    }
    let held = collector.accept().await;
    bench.drain();
    drop(client);
    tokio::time::timeout(Duration::from_mins(1), bench.ended()).await.expect("the drain ends long before its budget");
    assert_eq!(dropped(&bench, "collector"), 80, "all of them, counted");
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_collector_does_not_answer_in_time_is_given_up() {
    let (collector, server) = (Backend::listen().await, echo());
    for protocol in ["grpc", "http"] {
        let more = format!("otlp_protocol = \"{protocol}\"\nexport_timeout = \"100ms\"");
        let bench = Bench::start(&(routed_to(server.address(), "") + &section(collector.address(), &more))).await;
        bench.client().execute_command(bench.command("orders.create", "r-1", b"{}")).await.unwrap();
        let held = collector.accept().await;
        until("it is counted", async || (dropped(&bench, "collector") == 4).then_some(())).await;
        drop(held);
    }
}
