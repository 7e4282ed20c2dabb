//! The collector, by OTLP over gRPC or over HTTP. What it answers is bounded, and believed only as far as it can be read.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, trace_service_client::TraceServiceClient,
};
use prost::Message as _;
use tonic::transport::{Channel, Endpoint};

use crate::config::{Collector, OtlpProtocol};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest answer; it says hardly anything.
const MAX_ANSWER_BYTES: usize = 64 << 10;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) enum Wire {
    Grpc(Box<TraceServiceClient<Channel>>),
    Http(Box<Client<HttpConnector, Full<Bytes>>>, Uri),
}

impl Wire {
    /// It connects when it is first used, and again whenever it has to.
    pub(super) fn new(collector: &Collector) -> Self {
        match collector.protocol {
            OtlpProtocol::Grpc => {
                let channel = Endpoint::from(collector.uri.clone()).connect_timeout(CONNECT_TIMEOUT).connect_lazy();
                Self::Grpc(Box::new(TraceServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)))
            }
            OtlpProtocol::Http => {
                let mut connector = HttpConnector::new();
                connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
                let mut builder = Client::builder(TokioExecutor::new());
                builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).pool_max_idle_per_host(1);
                Self::Http(Box::new(builder.build(connector)), collector.uri.clone())
            }
        }
    }

    /// How many of them it rejected, or why it took none.
    pub(super) async fn send(&mut self, spans: ExportTraceServiceRequest) -> Result<usize, String> {
        let answer = match self {
            Self::Grpc(client) => {
                // Its message could say anything.
                client.export(spans).await.map_err(|status| format!("it answered {:?}", status.code()))?.into_inner()
            }
            Self::Http(client, uri) => post(client, uri, &spans).await?,
        };
        Ok(answer.partial_success.map_or(0, |partial| usize::try_from(partial.rejected_spans).unwrap_or(0)))
    }
}

async fn post(
    client: &Client<HttpConnector, Full<Bytes>>,
    uri: &Uri,
    spans: &ExportTraceServiceRequest,
) -> Result<ExportTraceServiceResponse, String> {
    let request = Request::post(uri.clone()).header(header::CONTENT_TYPE, "application/x-protobuf");
    let request = request.body(Full::new(spans.encode_to_vec().into())).map_err(|error| error.to_string())?;
    let answer = client.request(request).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    // Read to its end whatever it says, so that the connection can be used again.
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(|error| error.to_string())?.to_bytes();
    if !status.is_success() {
        return Err(format!("it answered {status}"));
    }
    ExportTraceServiceResponse::decode(body).map_err(|_| "its answer cannot be read".to_owned())
}
