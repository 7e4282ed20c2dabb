//! Spans as OpenTelemetry's protocol has them.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode},
};

pub(super) use opentelemetry_proto::tonic::resource::v1::Resource;

use super::span::{Kind, Record, Value};

/// Whose spans they are.
pub(super) fn resource(component: &str, instance: u32) -> Resource {
    let of = |key: &str, text: String| attribute(key, Value::Text(text));
    let attributes = vec![
        of("service.name", format!("gatehouse-{component}")),
        of("service.namespace", "gatehouse".to_owned()),
        of("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        of("service.instance.id", format!("{component}-{instance}")),
    ];
    Resource { attributes, ..Resource::default() }
}

pub(super) fn request(resource: &Resource, records: impl Iterator<Item = Record>) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: "gatehouse".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let spans = ScopeSpans { scope: Some(scope), spans: records.map(span).collect(), ..ScopeSpans::default() };
    let of_us = ResourceSpans { resource: Some(resource.clone()), scope_spans: vec![spans], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![of_us] }
}

fn span(record: Record) -> Span {
    let kind = match record.kind {
        Kind::Internal => SpanKind::Internal,
        Kind::Server => SpanKind::Server,
        Kind::Client => SpanKind::Client,
    };
    let code = if record.failed { StatusCode::Error } else { StatusCode::Unset };
    Span {
        trace_id: record.context.trace_id.to_vec(),
        span_id: record.context.span_id.to_vec(),
        parent_span_id: record.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
        trace_state: record.state,
        // A span without this flag is not sampled, and would not be here.
        flags: 1,
        name: record.name,
        kind: kind.into(),
        start_time_unix_nano: nanoseconds(record.begun),
        end_time_unix_nano: nanoseconds(record.ended),
        attributes: record.attributes.into_iter().map(|(key, value)| attribute(key, value)).collect(),
        status: Some(Status { code: code.into(), ..Status::default() }),
        ..Span::default()
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => any_value::Value::StringValue(text),
        Value::Number(number) => any_value::Value::IntValue(number),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn nanoseconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
