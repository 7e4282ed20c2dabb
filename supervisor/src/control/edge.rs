//! The way to the edge, which alone knows what it routes.

use std::time::Duration;

use gatehouse_chassis::{
    config::Shared,
    ipc::{self, Channel},
};
use gatehouse_proto::internal::v1::edge_client::EdgeClient;
use tonic::{Response, Status};

/// It answers from memory.
const BOUND: Duration = Duration::from_secs(10);

pub(super) fn client(shared: &Shared) -> EdgeClient<Channel> {
    EdgeClient::new(ipc::channel(shared.local_socket("edge", 0)))
}

/// Passes its answer on.
pub(super) async fn answer<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<Response<T>, Status> {
    match tokio::time::timeout(BOUND, call).await {
        Ok(Ok(answer)) => Ok(Response::new(answer.into_inner())),
        Ok(Err(status)) => Err(Status::unavailable(format!("the edge does not answer: {}", status.message()))),
        Err(_) => Err(Status::unavailable(format!("the edge does not answer within {BOUND:?}"))),
    }
}
