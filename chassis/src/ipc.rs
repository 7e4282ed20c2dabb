//! Local gRPC: how the processes of the suite speak to each other, over unix sockets that the supervisor created once.

use std::{path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Uri},
};

use crate::metrics::Metrics;
use gatehouse_proto::internal::v1::{MetricsRequest, MetricsResponse, process_server};

/// What one stream may hold here unread, and all of them together. Thousands of streams share a connection: those whose clients do not read must never use up
/// what the others live on.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 30;

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
