//! The way to the supervisor.

use std::{path::Path, time::Duration};

use gatehouse_chassis::ipc::Channel;
use gatehouse_proto::internal::v1::supervisor_client::SupervisorClient;

use crate::{failure::Failure, local, place::Place};

/// How it is called when it does not answer.
pub const PEER: &str = "the supervisor";
/// How long it may take over a question.
pub const BOUND: Duration = Duration::from_secs(5);

/// The one of this configuration's suite.
pub async fn connect(config: Option<&Path>) -> Result<SupervisorClient<Channel>, Failure> {
    Ok(SupervisorClient::new(local::open(PEER, &Place::find(config)?.supervisor()).await?))
}
