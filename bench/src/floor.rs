//! The least that a replacement can take: fork, exec, and a minimal tonic server on a socket that it inherits, killed and started again by the simplest of parents.

use std::{
    net::TcpListener,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use gatehouse_proto::downstream::v1::{ExecuteRequest, command_handler_client::CommandHandlerClient};
use tokio::time::{Duration, Instant};
use tonic::transport::Endpoint;

/// The server's binary, beside ours.
const BINARY: &str = "gatehouse-bench-floor";

/// The server and its socket, which outlives it.
#[derive(Debug)]
pub(crate) struct Floor {
    socket: TcpListener,
    binary: PathBuf,
    child: Child,
}

impl Floor {
    pub(crate) async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let binary = beside(BINARY);
        let child = spawn(&binary, &socket);
        let floor = Self { socket, binary, child };
        floor.served().await;
        floor
    }

    /// From `kill -9` to the answer to a request that was sent right after it.
    pub(crate) async fn kill(&mut self) -> Duration {
        let begun = Instant::now();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.binary, &self.socket);
        self.served().await;
        begun.elapsed()
    }

    async fn served(&self) {
        let address = format!("http://{}", self.socket.local_addr().unwrap());
        let channel = Endpoint::from_shared(address).unwrap().connect().await.expect("it waits in the queue");
        CommandHandlerClient::new(channel).execute(ExecuteRequest::default()).await.expect("it is served");
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // Nothing else is to be done about it.
        let _gone = (self.child.kill(), self.child.wait());
    }
}

/// A binary in our own one's directory.
pub(crate) fn beside(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().with_file_name(name)
}

/// A server that takes the listening socket from its stdin.
pub(crate) fn spawn(binary: &Path, socket: &TcpListener) -> Child {
    let socket = OwnedFd::from(socket.try_clone().unwrap());
    Command::new(binary)
        .stdin(Stdio::from(socket))
        .env_clear()
        .spawn()
        .unwrap_or_else(|error| panic!("start {}: {error}", binary.display()))
}
