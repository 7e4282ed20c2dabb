//! The way to the edge, which alone knows what it routes.

use std::time::Duration;

use gatehouse_chassis::{
    config::Shared,
    ipc::{self, Channel},
};
use gatehouse_proto::internal::v1::edge_client::EdgeClient;
use tonic::{Response, Status};

/// It answers from memory. Less than the five seconds for which the command line waits for us: who asks is to hear that it is the edge that hangs.
const BOUND: Duration = Duration::from_secs(3);

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

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn that_the_edge_hangs_is_said_while_the_command_line_still_listens() {
        const COMMAND_LINE: Duration = Duration::from_secs(5);
        const { assert!(BOUND.as_secs() + 1 < COMMAND_LINE.as_secs()) };
        let status = answer::<()>(std::future::pending()).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "the edge does not answer within 3s"));
    }
}
