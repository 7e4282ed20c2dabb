//! Local gRPC: how the processes of the suite speak to each other, over unix sockets that the supervisor created once.

use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    transport::{self, Endpoint, Uri},
};
use tower::ServiceExt as _;

use crate::metrics::Metrics;
use gatehouse_proto::internal::v1::{MetricsRequest, MetricsResponse, process_server};

/// What one stream may hold here unread, and all of them together. Thousands of streams share a connection: those whose clients do not read must never use up
/// what the others live on.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 30;

/// Attempts at one request. Each but the last was refused before it was looked at.
const ATTEMPTS: usize = 16;

/// A channel to the process behind that socket. Connects when first used, and again whenever the other side went away.
#[must_use]
pub fn channel(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://gatehouse.local")
        .connect_timeout(Duration::from_secs(1))
        // A peer that hangs rather than dies is noticed by its silence.
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .connect_with_connector_lazy(connector)
        .into()
}

/// A connection that outlives its other end: a request which that end has surely not processed is sent again, on a new connection. A process that drains says so by
/// `GOAWAY`, and its successor accepts on the same socket; without this, whoever sends a request at that moment would be told that it failed (gRPC calls
/// this transparent retry; tonic has none). Whether a request on a connection that merely broke was processed is unknown: that one fails.
///
/// For calls with one message, which is all there is here: the request is kept until it is answered.
#[derive(Clone, Debug)]
pub struct Channel(transport::Channel);

impl From<transport::Channel> for Channel {
    fn from(channel: transport::Channel) -> Self {
        Self(channel)
    }
}

impl tower::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Each attempt waits for itself.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let channel = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let message = match body.collect().await {
                Ok(message) => message.to_bytes(),
                // The caller's own failure, which the transport reports as any other.
                Err(status) => {
                    let failing = StreamBody::new(stream::iter([Err::<Frame<Bytes>, _>(status)]));
                    return channel.oneshot(http::Request::from_parts(parts, Body::new(failing))).await;
                }
            };
            let mut left = ATTEMPTS;
            loop {
                left -= 1;
                let request = http::Request::from_parts(parts.clone(), Body::new(Full::new(message.clone())));
                match channel.clone().oneshot(request).await {
                    Err(error) if left > 0 && is_unprocessed(&error) => tracing::debug!(%error, "request sent again"),
                    answer => return answer,
                }
            }
        })
    }
}

/// Whether the other side cannot have looked at the request: it was never sent, it was refused as such, or it came after what a `GOAWAY` names as the last.
fn is_unprocessed(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        if let Some(error) = error.downcast_ref::<h2::Error>().filter(|error| error.is_remote()) {
            return match error.reason() {
                Some(h2::Reason::NO_ERROR) => error.is_go_away(),
                Some(h2::Reason::REFUSED_STREAM) => error.is_reset(),
                _ => false,
            };
        }
        cause = error.source();
    }
    false
}

/// Whether the process behind that channel says that `service` is serving; `""` is the process as a whole.
pub async fn is_serving(channel: &Channel, service: &str, bound: Duration) -> bool {
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
    let mut client = HealthClient::new(channel.clone());
    let check = client.check(HealthCheckRequest { service: service.to_owned() });
    matches!(tokio::time::timeout(bound, check).await, Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving)
}

/// Answers for the process itself.
#[derive(Debug)]
pub(crate) struct ProcessService(pub(crate) Metrics);

#[tonic::async_trait]
impl process_server::Process for ProcessService {
    async fn metrics(&self, _request: Request<MetricsRequest>) -> Result<Response<MetricsResponse>, Status> {
        Ok(Response::new(MetricsResponse { text: self.0.text() }))
    }
}
