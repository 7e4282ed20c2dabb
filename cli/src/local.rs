//! Calls on the suite's local sockets.

use std::{io, path::Path, time::Duration};

use gatehouse_chassis::ipc::{self, Channel};
use tokio::net::UnixStream;
use tonic::{Response, Status};

use crate::failure::Failure;

/// A channel to `peer`, after one connection that says whether anybody listens there, and if not, why. `dead` is what follows from a socket that is there and
/// on which nobody listens.
pub async fn open(peer: &str, dead: &str, socket: &Path) -> Result<Channel, Failure> {
    match UnixStream::connect(socket).await {
        Ok(_) => Ok(ipc::channel(socket.to_owned())),
        Err(error) => {
            let socket = socket.display();
            let why = match error.kind() {
                io::ErrorKind::NotFound => format!("no socket at {socket}; is the suite running, and with this configuration?"),
                io::ErrorKind::ConnectionRefused => format!("nobody listens at {socket}; {dead}"),
                io::ErrorKind::PermissionDenied => format!("no permission to use {socket}; call this as the suite's user or as root"),
                _ => format!("{socket}: {error}"),
            };
            Err(Failure::Unreachable(format!("{peer} is not reachable: {why}")))
        }
    }
}

/// The answer to a call, within a bound.
pub async fn answer<T>(peer: &str, bound: Duration, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Failure> {
    match tokio::time::timeout(bound, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(Failure::of_status(peer, &status)),
        Err(_) => Err(Failure::silent(peer, bound)),
    }
}
