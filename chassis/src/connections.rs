//! Serves a router on a listener: HTTP/1.1 and HTTP/2, plain or gRPC, with limits, and a drain that ends.
//!
//! Our own loop, because tonic's has no drain deadline, hyper's graceful shutdown may wait for ever, and neither counts what it refuses.

use std::{io, net::SocketAddr, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use prometheus::{IntCounterVec, IntGauge};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::sleep,
};
use tower::ServiceExt as _;

use crate::{Shutdown, metrics::Metrics, sockets::Listener};

/// The longest that a client may take over a request's head (HTTP/1).
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest list of headers (HTTP/2), and the read buffer that bounds a head (HTTP/1).
const MAX_HEADER_BYTES: u32 = 64 << 10;
/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1000;
/// The same on a local socket, where one connection of the edge carries the event streams of all its clients.
const MAX_LOCAL_STREAMS: u32 = 1 << 20;

/// Who is at the other end; an extension of every request. `None` on local sockets.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub Option<SocketAddr>);

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

/// Accepts until the drain begins, then lets open connections finish. Resolves when the last has ended; what is open when aborting begins
/// is dropped.
pub async fn serve(name: &'static str, listener: Listener, router: Router, metrics: ConnectionMetrics, shutdown: Shutdown) {
    let open = metrics.open.with_label_values(&[name]);
    let connections = Shutdown::default();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEADER_BYTES as usize);
    let max_streams = if matches!(listener, Listener::Unix(_)) { MAX_LOCAL_STREAMS } else { MAX_STREAMS };
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_concurrent_streams(max_streams)
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .keep_alive_timeout(Duration::from_secs(10));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            () = shutdown.draining() => break,
        };
        let (stream, peer) = match accepted {
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
            request.map(axum::body::Body::new)
        });
        connections.spawn("connection", async move {
            let _guard = guard;
            let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.draining() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                let reason = reason(error.as_ref());
                errors.with_label_values(&[name, reason]).inc();
                tracing::debug!(listener = name, reason, %error, "connection ended on an error");
            }
        });
    }
    // Closing our descriptor leaves the supervisor's open: connections wait in the queue for the next generation.
    drop(listener);
    tokio::select! {
        () = connections.finished() => {}
        () = shutdown.aborting() => {
            let cut = open.get();
            tracing::warn!(listener = name, connections.cut = cut, "connections cut");
            connections.abort();
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn accept(listener: &Listener) -> io::Result<(Box<dyn Stream>, Option<SocketAddr>)> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            // Small answers must not wait for the acknowledgement of the last one.
            stream.set_nodelay(true)?;
            Ok((Box::new(stream), Some(peer)))
        }
        Listener::Unix(listener) => Ok((Box::new(listener.accept().await?.0), None)),
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
