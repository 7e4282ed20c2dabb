//! Serves a router on a listener: HTTP/1.1 and HTTP/2, plain or gRPC, with limits, and a drain that ends.
//!
//! Our own loop, because tonic's has no drain deadline, hyper's graceful shutdown closes idle connections under the requests that are on their way and may
//! wait for ever, and neither counts what it refuses.

mod caller;
mod farewell;
mod lent;
mod pong;

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body};
use http::{HeaderValue, Request, Response, header};
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use prometheus::{IntCounterVec, IntGauge};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tower::ServiceExt as _;

use crate::{Shutdown, metrics::Metrics, sockets::Listener, watchdog::Pulse};
use caller::{Caller, accept};
pub use caller::{Credentials, Peer};
pub use farewell::{Farewell, Notice};
use farewell::{Open, Traffic};
use lent::{Lent, Stream, linger};
use pong::Pong;

/// The longest that a client may take over its first byte, and over a request's head (HTTP/1).
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest list of headers (HTTP/2), and the read buffer that bounds a head (HTTP/1).
const MAX_HEADER_BYTES: u32 = 64 << 10;
/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1000;
/// The same on a local socket, where one connection of the edge carries the event streams of all its clients.
const MAX_LOCAL_STREAMS: u32 = 1 << 20;

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
    /// How it parts from those who are there when the drain begins.
    pub farewell: Farewell,
}

impl Limits {
    /// Those of a listener for clients.
    #[must_use]
    pub const fn of_clients(farewell: Farewell) -> Self {
        Self { connections: None, patience: HEADER_TIMEOUT, lifetime: None, farewell }
    }
}

/// [`serve_within`] the limits of a listener for clients.
pub async fn serve(
    name: &'static str,
    listener: Listener,
    router: Router,
    metrics: ConnectionMetrics,
    farewell: Farewell,
    shutdown: Shutdown,
    pulse: Pulse,
) {
    serve_within(Limits::of_clients(farewell), name, listener, router, metrics, shutdown, pulse).await;
}

/// Accepts until the drain begins, then lets open connections finish; see [`Farewell`]. Resolves when the last has ended; what is open when aborting begins
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
    let (errors, until) = (metrics.errors.clone(), shutdown.clone());
    let host = Arc::new(Host { name, builder, router, errors, open: open.clone(), limits, shutdown: until });
    let mut idle = Box::pin(async move { pulse.idle().await });
    loop {
        let accepted = tokio::select! {
            // What waits in the queue is the next generation's.
            biased;
            () = shutdown.draining() => break,
            never = &mut idle => never,
            accepted = async {
                // Never closed.
                let place = Arc::clone(&room).acquire_owned().await.ok();
                accept(&listener).await.map(|accepted| (place, accepted))
            } => accepted,
        };
        match accepted {
            Ok((place, (stream, caller))) => {
                let (host, guard) = (Arc::clone(&host), Gauged::new(&open));
                connections.0.spawn("connection", async move {
                    let _counted = (guard, place);
                    host.entertain(stream, caller).await;
                });
            }
            Err(error) => {
                // A connection that was gone before we took it concerns nobody; out of descriptors, waiting is all there is to do.
                metrics.errors.with_label_values(&[name, "accept"]).inc();
                tracing::warn!(listener = name, %error, "connection not accepted");
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
    drop(idle);
    // Closing our descriptor leaves the supervisor's open: connections wait in the queue for the next generation.
    drop(listener);
    tokio::select! {
        () = connections.0.finished() => {}
        () = shutdown.aborting() => tracing::warn!(listener = name, connections.cut = open.get(), "connections cut"),
    }
}

/// What all connections of a listener share.
struct Host {
    name: &'static str,
    builder: auto::Builder<TokioExecutor>,
    router: Router,
    errors: IntCounterVec,
    open: IntGauge,
    limits: Limits,
    shutdown: Shutdown,
}

impl Host {
    /// Serves one connection, from its first byte to its end.
    async fn entertain(&self, stream: Box<dyn Stream>, caller: Caller) {
        let traffic = Arc::<Traffic>::default();
        let mut notice = pin!(async {
            let drained = async {
                self.shutdown.draining().await;
                sleep(self.limits.farewell.turn(self.open.get())).await;
            };
            tokio::select! {
                () = drained => {}
                () = lived(self.limits.lifetime) => {}
                () = traffic.notice().given() => {}
            }
            traffic.notice().give();
        });
        // The version cannot be told before the first byte, and nothing but this limits the wait for it.
        let heard = tokio::select! {
            biased;
            heard = heard(&*stream, self.limits.patience) => heard,
            () = notice.as_mut() => heard(&*stream, self.limits.farewell.silence).await,
        };
        if !heard {
            if traffic.notice().is_given() {
                linger(stream, self.limits.farewell.linger).await;
            }
            return;
        }
        let (lent, returned) = Lent::new(stream, Pong::after(self.limits.farewell.settling));
        if self.converse(lent, caller, &traffic, notice).await
            && let Ok(stream) = returned.await
        {
            linger(stream, self.limits.farewell.linger).await;
        }
    }

    /// Answers what comes. Whether the client may still be there.
    async fn converse(
        &self,
        lent: Lent,
        caller: Caller,
        traffic: &Arc<Traffic>,
        mut notice: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> bool {
        let mut connection =
            pin!(self.builder.serve_connection(TokioIo::new(lent), service_fn(|request| self.answer(request, caller.clone(), traffic))));
        let leaving = async {
            if !traffic.notice().is_given() {
                notice.as_mut().await;
            }
            traffic.quiet(&self.limits.farewell).await;
        };
        let mut leaving = pin!(leaving);
        // On HTTP/1, what a client has sent is read before its connection is closed. On HTTP/2 all of it is read anyway, and a client hears that it is to
        // leave no later than its answer.
        let ended = poll_fn(|cx| {
            let leaves_first = traffic.is_http2();
            if leaves_first && leaving.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            match connection.as_mut().poll(cx) {
                Poll::Pending if !leaves_first => leaving.as_mut().poll(cx).map(|()| None),
                ended => ended.map(Some),
            }
        });
        let ended = if let Some(ended) = ended.await {
            ended
        } else {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = lived(self.limits.lifetime) => return false,
            }
        };
        let Err(error) = ended else { return true };
        let reason = reason(error.as_ref());
        self.errors.with_label_values(&[self.name, reason]).inc();
        tracing::debug!(listener = self.name, reason, %error, "connection ended on an error");
        reason != "reset"
    }

    fn answer(
        &self,
        request: Request<Incoming>,
        Caller { peer, credentials }: Caller,
        traffic: &Arc<Traffic>,
    ) -> impl Future<Output = Result<Response<Answer>, h2::Error>> + Send + use<> {
        let (version, open) = (request.version(), traffic.begin(request.version()));
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        credentials.map(|credentials| request.extensions_mut().insert(credentials));
        request.extensions_mut().insert(traffic.notice().clone());
        let refused = self.limits.farewell.refuses && self.shutdown.is_draining();
        let answer = (!refused).then(|| self.router.clone().oneshot(request));
        async move {
            // "The endpoint … has not performed any processing" (RFC 9113 §8.7): it may be sent again, whatever it was.
            let Some(answer) = answer else { return Err(h2::Reason::REFUSED_STREAM.into()) };
            let Ok(mut response) = answer.await;
            if open.is_last(version) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|body| Answer { body, open: Some(open) }))
        }
    }
}

/// The body of an answer, which is open until its last frame is taken, or it is dropped.
struct Answer {
    body: Body,
    open: Option<Open>,
}

impl http_body::Body for Answer {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.as_ref().is_none_or(|frame| frame.as_ref().map_or(true, Frame::is_trailers)) || self.body.is_end_stream() {
            self.open = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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

/// Whether the client says anything within `patience`.
async fn heard(stream: &dyn Stream, patience: Duration) -> bool {
    timeout(patience, poll_fn(|cx| stream.poll_heard(cx))).await.is_ok()
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
mod tests;
