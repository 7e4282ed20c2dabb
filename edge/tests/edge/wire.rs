//! Sockets that a test moves byte by byte: a client's, and a backend's.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Longer than anything takes, on a machine under load too.
const PATIENCE: Duration = Duration::from_mins(1);

/// A backend whose every byte the test sends.
pub(crate) struct Backend(TcpListener);

impl Backend {
    pub(crate) async fn listen() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) async fn accept(&self) -> Wire {
        let accepted = tokio::time::timeout(PATIENCE, self.0.accept()).await.expect("somebody connects");
        Wire { stream: accepted.unwrap().0, seen: Vec::new() }
    }
}

/// One connection, and everything that came by it.
pub(crate) struct Wire {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), seen: Vec::new() }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until that has come, and tells everything since the connection began.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        loop {
            let seen = self.seen();
            if seen.contains(text) {
                return seen;
            }
            assert!(self.read().await, "closed before {text:?}: {seen:?}");
        }
    }

    /// Reads until the other side closes, and tells everything since the connection began.
    pub(crate) async fn rest(&mut self) -> String {
        while self.read().await {}
        self.seen()
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    async fn read(&mut self) -> bool {
        let mut buffer = [0; 4 << 10];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut buffer)).await;
        // A reset is an end as well.
        let read = read.unwrap_or_else(|_| panic!("nothing comes after {:?}", self.seen())).unwrap_or(0);
        self.seen.extend_from_slice(&buffer[..read]);
        read > 0
    }

    /// Both directions, for who does both at once.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }
}
