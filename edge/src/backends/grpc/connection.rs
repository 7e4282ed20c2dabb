//! One HTTP/2 connection to an endpoint, from its first byte to its end, and who uses it.
//!
//! It counts as there when the other side has answered a ping: a process that hangs has a kernel that still accepts. From then on it is asked again
//! whenever somebody has waited on it for a while and nothing came.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::Request;

use crate::{backends::socket, config::Address};

/// Silence for so long while somebody waits asks for a ping, and so long a silence after that ends it.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// What one answer may have on its way unread: the largest, so that none waits for a window; and all of them together.
const STREAM_WINDOW: u32 = 5 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Streams at once until the other side has said how many it takes.
const FIRST_STREAMS: usize = 100;
const MAX_HEADER_BYTES: u32 = 64 << 10;

/// The connection takes nothing more: it is closed, or its other end leaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended;

/// A connection as the pool keeps it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    traffic: Arc<Traffic>,
}

#[derive(Debug, Default)]
struct Traffic {
    in_flight: AtomicUsize,
    /// Counts what came.
    heard: AtomicU64,
    ended: AtomicBool,
}

/// Connects; the connection, and what must be driven for as long as it is used.
pub(super) async fn open(address: &Address, limit: Duration) -> io::Result<(Connection, impl Future<Output = ()> + Send + use<>)> {
    let opening = async {
        let socket = socket::connect(address, limit).await?;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADER_BYTES)
            .initial_max_send_streams(FIRST_STREAMS)
            .enable_push(false);
        let (sender, mut driver) = builder.handshake(socket).await.map_err(io::Error::other)?;
        let mut pings = driver.ping_pong().ok_or(io::ErrorKind::Unsupported)?;
        tokio::select! {
            ended = &mut driver => return Err(ended.map_or_else(io::Error::other, |()| io::ErrorKind::UnexpectedEof.into())),
            pong = pings.ping(Ping::opaque()) => pong.map_err(io::Error::other)?,
        };
        Ok((sender, driver, pings))
    };
    let opened = tokio::time::timeout(limit, opening).await;
    let (sender, driver, pings) = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    let traffic = Arc::<Traffic>::default();
    let watched = Arc::clone(&traffic);
    let drive = async move {
        // Dropped, the driver fails whoever still waits.
        tokio::select! {
            ended = driver => tracing::debug!(?ended, "connection to a backend ended"),
            () = hung(pings, &watched) => tracing::warn!("connection to a backend hangs; closed"),
        }
        watched.ended.store(true, Ordering::Release);
    };
    Ok((Connection { sender, traffic }, drive))
}

/// Resolves when the other side answers nothing any more, not even pings.
async fn hung(mut pings: PingPong, traffic: &Traffic) {
    let mut before = u64::MAX;
    loop {
        tokio::time::sleep(KEEP_ALIVE).await;
        let heard = traffic.heard.load(Ordering::Relaxed);
        if traffic.in_flight.load(Ordering::Relaxed) == 0 || heard != before {
            before = heard;
            continue;
        }
        match tokio::time::timeout(KEEP_ALIVE, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The driver ends by itself.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

impl Connection {
    /// A place on it.
    pub(super) fn lease(&self) -> Result<Lease, Ended> {
        if self.traffic.ended.load(Ordering::Acquire) {
            return Err(Ended);
        }
        let mut sender = self.sender.clone();
        // A sender that has sent nothing never has to wait; it fails when the other side has said that it goes away.
        if let Poll::Ready(Err(_)) = sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
            return Err(Ended);
        }
        let before = self.traffic.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Lease { sender, traffic: Arc::clone(&self.traffic), before })
    }

    /// How many use it.
    pub(super) fn in_flight(&self) -> usize {
        self.traffic.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it ever answered a request.
    pub(super) fn has_answered(&self) -> bool {
        self.traffic.heard.load(Ordering::Relaxed) > 0
    }
}

/// A place on a connection, until dropped.
#[derive(Debug)]
pub(in crate::backends) struct Lease {
    sender: SendRequest<Bytes>,
    traffic: Arc<Traffic>,
    /// How many others had a place when it was given.
    before: usize,
}

impl Lease {
    /// Whether there is a stream for it now.
    pub(super) fn is_within_limit(&self) -> bool {
        self.before < self.sender.current_max_send_streams()
    }

    pub(in crate::backends) fn send_request(&mut self, request: Request<()>) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.sender.send_request(request, false)
    }

    /// Something came.
    pub(in crate::backends) fn heard(&self) {
        self.traffic.heard.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.traffic.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
