//! The server that the edge is compared with: a tonic server that decodes a key, verifies and signs, and does nothing else.

use std::{net::TcpListener, path::Path, process::Child, time::Duration};

use tonic::transport::{Channel, Endpoint};

use crate::floor::{beside, spawn};

/// The server's binary, beside ours.
const BINARY: &str = "gatehouse-bench-reference";

/// The server; it ends with this.
#[derive(Debug)]
pub(crate) struct Reference {
    socket: TcpListener,
    child: Child,
}

impl Reference {
    pub(crate) async fn start(binary: Option<&Path>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let child = spawn(&binary.map_or_else(|| beside(BINARY), Path::to_owned), &socket);
        let reference = Self { socket, child };
        reference.endpoint().connect().await.expect("it waits in the queue");
        reference
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn channel(&self) -> Channel {
        self.endpoint().connect_lazy()
    }

    fn endpoint(&self) -> Endpoint {
        let address = self.socket.local_addr().unwrap();
        Endpoint::from_shared(format!("http://{address}")).unwrap().connect_timeout(Duration::from_secs(5))
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // Nothing else is to be done about it.
        let _gone = (self.child.kill(), self.child.wait());
    }
}
