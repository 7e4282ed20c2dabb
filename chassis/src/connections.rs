//! Serves a router on a listener: HTTP/1.1 and HTTP/2, plain or gRPC, with limits, and a drain that ends.
//!
//! Our own loop, because tonic's has no drain deadline, hyper's graceful shutdown may wait for ever, and neither counts what it refuses.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use prometheus::{IntCounterVec, IntGauge};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tower::ServiceExt as _;

use crate::{Shutdown, metrics::Metrics, sockets::Listener, watchdog::Pulse};

/// The longest that a client may take over its first byte, and over a request's head (HTTP/1).
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection that was accepted as the drain began is given for the request that is on its way.
const LATE: Duration = Duration::from_millis(200);
/// The largest list of headers (HTTP/2), and the read buffer that bounds a head (HTTP/1).
const MAX_HEADER_BYTES: u32 = 64 << 10;
/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1000;
/// The same on a local socket, where one connection of the edge carries the event streams of all its clients.
const MAX_LOCAL_STREAMS: u32 = 1 << 20;

/// Who is at the other end; an extension of every request. `None` on local sockets.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub Option<SocketAddr>);

/// Who is at the other end of a local socket, as the kernel saw them when they connected (`SO_PEERCRED`, unix(7)); an extension of every request that came
/// by one. A process that hands its connection on hands on its name, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process, unless it lives in a pid namespace that we do not see. By now another may have its number.
    pub pid: Option<i32>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group; supplementary ones are not told.
    pub gid: u32,
}

/// What the connections of a process count, whichever listener they came by.
#[derive(Clone, Debug)]
pub struct ConnectionMetrics {
    open: prometheus::IntGaugeVec,
    errors: IntCounterVec,
}

impl ConnectionMetrics {
    /// Registers them.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            open: metrics.gauges("connections_open", "Client connections that are open now.", &["listener"]),
            errors: metrics.counters(
                "connection_errors_total",
                "Connections that ended on an error: malformed or too large input, a time-out, a reset.",
                &["listener", "reason"],
            ),
        }
    }
}

/// What a listener allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections that are open at once; who comes then waits in the queue. `None`: as many as come.
    pub connections: Option<usize>,
    /// The longest that a client may take over its first byte, and over a request's head (HTTP/1).
    pub patience: Duration,
    /// After so long a connection is asked to end, and after twice as long it is cut. `None`: it may live for ever.
    pub lifetime: Option<Duration>,
}

impl Default for Limits {
    /// Those of a listener for clients.
    fn default() -> Self {
        Self { connections: None, patience: HEADER_TIMEOUT, lifetime: None }
    }
}

/// [`serve_within`] the limits of a listener for clients.
pub async fn serve(name: &'static str, listener: Listener, router: Router, metrics: ConnectionMetrics, shutdown: Shutdown, pulse: Pulse) {
    serve_within(Limits::default(), name, listener, router, metrics, shutdown, pulse).await;
}

/// Accepts until the drain begins, then lets open connections finish. Resolves when the last has ended; what is open when aborting begins
/// is dropped. `pulse` beats as long as it accepts.
pub async fn serve_within(
    limits: Limits,
    name: &'static str,
    listener: Listener,
    router: Router,
    metrics: ConnectionMetrics,
    shutdown: Shutdown,
    pulse: Pulse,
) {
    let room = Arc::new(Semaphore::new(limits.connections.unwrap_or(Semaphore::MAX_PERMITS)));
    let open = metrics.open.with_label_values(&[name]);
    // However this ends, no connection goes on without it.
    let connections = Connections::default();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.patience).max_buf_size(MAX_HEADER_BYTES as usize);
    let max_streams = if matches!(listener, Listener::Unix(_)) { MAX_LOCAL_STREAMS } else { MAX_STREAMS };
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_concurrent_streams(max_streams)
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .keep_alive_timeout(Duration::from_secs(10));
    let mut idle = Box::pin(async move { pulse.idle().await });
    loop {
        let accepted = tokio::select! {
            // However many wait in the queue.
            biased;
            () = shutdown.draining() => break,
            never = &mut idle => never,
            accepted = async {
                // Never closed.
                let place = Arc::clone(&room).acquire_owned().await.ok();
                accept(&listener).await.map(|accepted| (place, accepted))
            } => accepted,
        };
        let (place, Accepted { stream, peer, credentials }) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // A connection that was gone before we took it concerns nobody; out of descriptors, waiting is all there is to do.
                metrics.errors.with_label_values(&[name, "accept"]).inc();
                tracing::warn!(listener = name, %error, "connection not accepted");
                sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let errors = metrics.errors.clone();
        let (builder, shutdown, guard) = (builder.clone(), shutdown.clone(), Gauged::new(&open));
        let router = router.clone().map_request(move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            credentials.map(|credentials| request.extensions_mut().insert(credentials));
            request.map(axum::body::Body::new)
        });
        connections.0.spawn("connection", async move {
            let _counted = (guard, place);
            // The version cannot be told before the first byte, and nothing but this limits the wait for it.
            if !heard(&*stream, &shutdown, limits.patience, LATE).await {
                return;
            }
            let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                // What a client has sent is read before its connection is told of the drain: unread, it would be cut off.
                biased;
                ended = connection.as_mut() => ended,
                () = async {
                    tokio::select! {
                        () = shutdown.draining() => {}
                        () = lived(limits.lifetime) => {}
                    }
                } => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        ended = connection.as_mut() => ended,
                        () = lived(limits.lifetime) => Ok(()),
                    }
                }
            };
            if let Err(error) = ended {
                let reason = reason(error.as_ref());
                errors.with_label_values(&[name, reason]).inc();
                tracing::debug!(listener = name, reason, %error, "connection ended on an error");
            }
        });
    }
    drop(idle);
    // Closing our descriptor leaves the supervisor's open: connections wait in the queue for the next generation.
    drop(listener);
    tokio::select! {
        () = connections.0.finished() => {}
        () = shutdown.aborting() => tracing::warn!(listener = name, connections.cut = open.get(), "connections cut"),
    }
}

/// Never, without a bound.
async fn lived(bound: Option<Duration>) {
    match bound {
        Some(bound) => sleep(bound).await,
        None => std::future::pending().await,
    }
}

/// Cuts what is left when dropped.
#[derive(Default)]
struct Connections(Shutdown);

impl Drop for Connections {
    fn drop(&mut self) {
        self.0.abort();
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {
    fn poll_heard(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Stream for TcpStream {
    fn poll_heard(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }
}

impl Stream for UnixStream {
    fn poll_heard(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }
}

/// Whether the client says anything within `patience`, or within `late` once the drain begins.
async fn heard(stream: &dyn Stream, shutdown: &Shutdown, patience: Duration, late: Duration) -> bool {
    let drained = async {
        shutdown.draining().await;
        sleep(late).await;
    };
    tokio::select! {
        biased;
        heard = timeout(patience, poll_fn(|cx| stream.poll_heard(cx))) => heard.is_ok(),
        () = drained => false,
    }
}

struct Accepted {
    stream: Box<dyn Stream>,
    peer: Option<SocketAddr>,
    credentials: Option<Credentials>,
}

async fn accept(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            // Small answers must not wait for the acknowledgement of the last one.
            stream.set_nodelay(true)?;
            Ok(Accepted { stream: Box::new(stream), peer: Some(peer), credentials: None })
        }
        Listener::Unix(listener) => {
            let stream = listener.accept().await?.0;
            // Whoever needs them refuses a peer without.
            let credentials = stream.peer_cred().ok().map(|peer| Credentials { pid: peer.pid(), uid: peer.uid(), gid: peer.gid() });
            Ok(Accepted { stream: Box::new(stream), peer: None, credentials })
        }
    }
}

/// A bounded word for what went wrong.
fn reason(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            if error.is_parse_too_large() {
                return "too_large";
            } else if error.is_parse() {
                return "malformed";
            } else if error.is_timeout() {
                return "timeout";
            } else if error.is_incomplete_message() {
                return "incomplete";
            }
        } else if let Some(error) = error.downcast_ref::<io::Error>() {
            match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected => return "reset",
                io::ErrorKind::UnexpectedEof => return "incomplete",
                _ => {}
            }
        }
        cause = error.source();
    }
    "protocol"
}

/// Counts itself while it lives, however it ends.
#[derive(Debug)]
pub struct Gauged(IntGauge);

impl Gauged {
    /// One more.
    #[must_use]
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Gauged {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const LONG: Duration = Duration::from_mins(10);
    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_connection_on_which_nothing_comes_is_not_kept() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let shutdown = Shutdown::default();
        assert!(!heard(&server, &shutdown, SHORT, LONG).await, "silent for too long");
        client.write_all(b"G").await.unwrap();
        assert!(heard(&server, &shutdown, LONG, LONG).await);
    }

    #[tokio::test]
    async fn a_drain_waits_a_little_for_the_request_of_a_new_connection() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let shutdown = Shutdown::default();
        shutdown.drain();
        assert!(!heard(&server, &shutdown, LONG, SHORT).await, "not for long");
        let (heard, written) = tokio::join!(heard(&server, &shutdown, LONG, LONG), client.write_all(b"G"));
        assert!(heard && written.is_ok());
    }
}
