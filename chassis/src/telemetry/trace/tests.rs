use http::HeaderValue;
use tokio::sync::mpsc;

use super::*;
use crate::{config::TracingConfig, metrics::Metrics};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

fn headers(given: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers
}

fn recording(config: &TracingConfig) -> (Tracer, mpsc::Receiver<span::Record>) {
    let (feed, spans) = Feed::of(&Metrics::new("test", 0), 64);
    (Tracer(Some(Arc::new(Recording { feed, sampler: Sampler::new(config) }))), spans)
}

#[test]
fn without_a_collector_a_trace_passes_through_and_nonsense_is_replaced() {
    let tracer = Tracer(None);
    let of = |envelope: &str, given: &[(&'static str, &'static str)]| tracer.begin(envelope, &headers(given));
    let through = of("", &[("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")]);
    assert_eq!((through.outgoing().as_deref(), through.state()), (Some(PARENT), Some("a=1,b=2")));
    assert_eq!(through.id().as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
    assert!(!through.serve("x").is_recorded());

    let own = of(UNSAMPLED, &[("traceparent", PARENT), ("tracestate", "a=1")]);
    assert_eq!((own.outgoing().as_deref(), own.state()), (Some(UNSAMPLED), None), "the envelope's, and the state is another's");
    let same = of(PARENT, &[("traceparent", PARENT), ("tracestate", "a=1")]);
    assert_eq!((same.outgoing().as_deref(), same.state()), (Some(PARENT), Some("a=1")));

    let none = of("", &[("tracestate", "a=1")]);
    assert_eq!((none.outgoing(), none.state(), none.id()), (None, None, None));
    for broken in [of("nonsense", &[("traceparent", PARENT)]), of("", &[("traceparent", PARENT), ("traceparent", PARENT)])] {
        let begun = Context::parse(&broken.outgoing().unwrap()).unwrap();
        assert!(!begun.is_sampled() && broken.id().unwrap() != PARENT[3..35], "a trace of its own, which nobody records");
    }
}

#[test]
fn a_parent_decides_and_the_spans_hang_together() {
    let (tracer, mut spans) = recording(&TracingConfig { sample_ratio: 0.0, ..TracingConfig::default() });
    let trace = tracer.begin(PARENT, &HeaderMap::new());
    let outgoing = Context::parse(&trace.outgoing().unwrap()).unwrap();
    {
        let mut server = trace.serve("gateway.v1.Gateway/ExecuteCommand");
        server.set("text", "é".repeat(200).as_str());
        drop(trace.step("verify"));
        let mut call = trace.call("orders");
        call.fail();
    }
    assert_eq!(trace.asked(), Some("orders"));
    let record = |spans: &mut mpsc::Receiver<span::Record>| spans.try_recv().unwrap();
    let (verify, call, server) = (record(&mut spans), record(&mut spans), record(&mut spans));
    assert_eq!(server.parent, Some([0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]));
    assert_eq!((verify.parent, call.parent), (Some(server.context.span_id), Some(server.context.span_id)));
    assert_eq!(call.context, outgoing, "who is asked is a child of the call");
    assert!(call.failed && !server.failed && outgoing.is_sampled());
    assert_eq!(server.attributes, [("text", Value::Text("é".repeat(128)))]);
    assert!(server.ended >= server.begun);

    let unsampled = tracer.begin(UNSAMPLED, &HeaderMap::new());
    drop(unsampled.serve("x"));
    let outgoing = unsampled.outgoing().unwrap();
    assert!(outgoing.starts_with(&UNSAMPLED[..36]) && outgoing.ends_with("-00") && outgoing != UNSAMPLED, "{outgoing}");
    assert!(spans.try_recv().is_err());
}

#[test]
fn a_parent_beyond_the_rate_is_passed_on_and_not_recorded() {
    let (tracer, mut spans) = recording(&TracingConfig { max_traces_per_second: 0, ..TracingConfig::default() });
    let trace = tracer.begin(PARENT, &HeaderMap::new());
    drop(trace.serve("x"));
    assert!(spans.try_recv().is_err());
    assert!(Context::parse(&trace.outgoing().unwrap()).unwrap().is_sampled(), "others may record it");
}

#[test]
fn without_a_parent_the_sampler_decides() {
    for (ratio, sampled) in [(0.0, false), (1.0, true)] {
        let (tracer, mut spans) = recording(&TracingConfig { sample_ratio: ratio, ..TracingConfig::default() });
        let trace = tracer.begin("", &HeaderMap::new());
        drop(trace.serve("x"));
        assert_eq!(spans.try_recv().is_ok(), sampled);
        assert_eq!(Context::parse(&trace.outgoing().unwrap()).unwrap().is_sampled(), sampled);
    }
}

#[test]
fn a_full_queue_costs_spans_and_no_wait() {
    let metrics = Metrics::new("test", 0);
    let (feed, _spans) = Feed::of(&metrics, 2);
    let config = TracingConfig::default();
    let tracer = Tracer(Some(Arc::new(Recording { feed, sampler: Sampler::new(&config) })));
    let trace = tracer.begin(PARENT, &HeaderMap::new());
    for _ in 0..5 {
        drop(trace.step("x"));
    }
    assert!(
        metrics.text().contains("trace_spans_dropped_total{reason=\"queue\",component=\"test\",instance=\"0\"} 3"),
        "{}",
        metrics.text()
    );
}

#[test]
fn what_is_injected_takes_the_place_of_what_was_there() {
    let (tracer, _spans) = recording(&TracingConfig::default());
    let mut sent = headers(&[("traceparent", PARENT), ("traceparent", "x"), ("tracestate", "a=1"), ("x", "1")]);
    tracer.begin("", &headers(&[("traceparent", PARENT), ("tracestate", "b=1")])).inject(&mut sent);
    assert_eq!(sent.get_all("traceparent").iter().count(), 1);
    assert!(sent["traceparent"].to_str().unwrap().starts_with(&PARENT[..36]) && sent["tracestate"] == "b=1");
    Trace::default().inject(&mut sent);
    assert_eq!(sent, headers(&[("x", "1")]));
}
