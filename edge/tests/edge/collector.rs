//! A collector of traces, by gRPC or HTTP, that keeps what it was sent.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message as _;
use tonic::{Request, Response, Status, service::Routes};

use crate::{bench::until, fakes::Server};

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

pub(crate) struct Collector {
    server: Server,
    kept: Kept,
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub(crate) fn grpc() -> Self {
        let kept = Kept::default();
        Self { server: Server::tcp(Routes::new(TraceServiceServer::new(kept.clone())).into_axum_router()), kept }
    }

    /// One that takes everything and says that it rejected one span each time.
    pub(crate) fn http() -> Self {
        let kept = Kept::default();
        let keep = kept.clone();
        let take = async move |body: Bytes| {
            keep.0.lock().unwrap().push(ExportTraceServiceRequest::decode(body).unwrap());
            let partial_success = Some(ExportTracePartialSuccess { rejected_spans: 1, error_message: "one".into() });
            ExportTraceServiceResponse { partial_success }.encode_to_vec()
        };
        Self { server: Server::tcp(Router::new().route("/v1/traces", post(take))), kept }
    }

    /// `[tracing]`.
    pub(crate) fn section(&self, more: &str) -> String {
        section(self.server.address(), more)
    }

    /// The spans of that trace by their names, once there are as many.
    pub(crate) async fn spans(&self, trace_id: &str, count: usize) -> HashMap<String, Span> {
        let found = async || {
            let spans = self.all();
            let of_it: HashMap<_, _> =
                spans.into_iter().filter(|span| hex(&span.trace_id) == trace_id).map(|span| (span.name.clone(), span)).collect();
            (of_it.len() >= count).then_some(of_it)
        };
        until("the collector has the spans", found).await
    }

    pub(crate) fn all(&self) -> Vec<Span> {
        let kept = self.kept.0.lock().unwrap();
        let scopes = kept.iter().flat_map(|request| &request.resource_spans).flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// An attribute of whoever sent them.
    pub(crate) fn resource(&self, key: &str) -> Option<String> {
        let kept = self.kept.0.lock().unwrap();
        text(&kept.first()?.resource_spans.first()?.resource.as_ref()?.attributes, key)
    }
}

pub(crate) fn section(address: impl std::fmt::Display, more: &str) -> String {
    format!("[tracing]\notlp_endpoint = \"http://{address}\"\n{more}\n")
}

pub(crate) fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value?;
    Some(match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
