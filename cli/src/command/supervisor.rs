//! The way to the supervisor.

use std::{path::Path, time::Duration};

use gatehouse_chassis::ipc::Channel;
use gatehouse_proto::internal::v1::supervisor_client::SupervisorClient;

use crate::{failure::Failure, local, place::Place};

/// How it is called when it does not answer.
pub const PEER: &str = "the supervisor";
/// What follows from a socket that it has left behind.
const DEAD: &str = "it is not running. Its components may serve on, and the next start takes them over";
/// How long it may take over a question; three seconds of them are the edge's, where it is asked as well.
pub const BOUND: Duration = Duration::from_secs(5);

/// The one of this configuration's suite.
pub async fn connect(config: Option<&Path>) -> Result<SupervisorClient<Channel>, Failure> {
    Ok(SupervisorClient::new(open(&Place::find(config)?.supervisor()).await?))
}

/// The one behind that socket.
pub async fn open(socket: &Path) -> Result<Channel, Failure> {
    local::open(PEER, DEAD, socket).await
}
