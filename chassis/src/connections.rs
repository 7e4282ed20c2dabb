//! Serves a router on a listener: HTTP/1.1 and HTTP/2, plain or gRPC, with or without TLS, with limits, and a drain that ends.
//!
//! ```text
//! accept ─▶ a place in all and for the address ─▶ PROXY header ─▶ first byte ─▶ TLS ─▶ HTTP/1.1 or HTTP/2 ─▶ requests
//!              └────────────── one deadline from here ──────────────────────────────────── to the first head ──┘
//! ```
//!
//! Our own loop, because tonic's has no drain deadline, hyper's graceful shutdown closes idle connections under the requests that are on their way and may
//! wait for ever, its timers leave gaps, and neither counts what it refuses.

mod answer;
mod caller;
mod config;
mod farewell;
mod flood;
mod host;
mod lent;
mod metrics;
mod network;
mod pong;
mod proxied;
mod public;
mod room;
mod tls;
mod traffic;
mod vigil;

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto,
};
use tokio::{sync::Semaphore, time::sleep};

use crate::{Shutdown, sockets::Listener, telemetry::rate::AtMost, watchdog::Pulse};
use caller::accept;
pub use caller::{Credentials, Peer};
pub use config::Config;
pub use farewell::{Farewell, Notice};
use host::Host;
pub use metrics::{ConnectionMetrics, Gauged};
pub use network::{Network, Networks, NoNetwork};
pub use public::{Gate, Public};
pub use tls::{ClientCertificates, Fingerprint, Kind, Secured, TlsConfig, Unusable};

/// Requests at once on one connection of a local socket, where one of the edge carries the event streams of all its clients.
const MAX_LOCAL_STREAMS: u32 = 1 << 20;
/// What HTTP/2 keeps of one answer that its client does not take. What is on its way does not count.
const SEND_BUFFER: usize = 64 << 10;

/// What a listener allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections that are open at once; who comes then waits in the queue. `None`: as many as come.
    pub connections: Option<usize>,
    /// How long it may be from accept to the end of the first request's head, and on HTTP/1 from a later head's first byte to its end.
    pub head: Duration,
    /// After so long without a request a connection is asked to end. `None`: it may be idle for ever.
    pub idle: Option<Duration>,
    /// How long a client may take nothing of what is written. `None`: for ever.
    pub stall: Option<Duration>,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// The largest list of headers (HTTP/2), and the read buffer that bounds a head (HTTP/1).
    pub header_bytes: u32,
    /// After so long a connection is asked to end, and after twice as long it is cut. `None`: it may live for ever.
    pub lifetime: Option<Duration>,
    /// How it parts from those who are there when the drain begins.
    pub farewell: Farewell,
}

impl Limits {
    /// Those of a listener for clients, unless configured otherwise.
    #[must_use]
    pub const fn of_clients(farewell: Farewell) -> Self {
        Self {
            connections: None,
            head: Duration::from_secs(10),
            idle: Some(Duration::from_mins(5)),
            stall: Some(Duration::from_secs(30)),
            streams: 1000,
            header_bytes: 64 << 10,
            lifetime: None,
            farewell,
        }
    }

    /// As configured, but for how many there may be: that is for all listeners of a process together.
    #[must_use]
    pub const fn configured(config: &Config, farewell: Farewell) -> Self {
        Self {
            connections: None,
            head: config.head_timeout,
            idle: Some(config.idle_timeout),
            stall: Some(config.write_timeout),
            streams: config.max_streams,
            header_bytes: config.max_header_bytes,
            lifetime: None,
            farewell,
        }
    }

    /// Those between processes of the suite, which keep their connections.
    const fn among_us(mut self) -> Self {
        (self.idle, self.stall, self.streams) = (None, None, MAX_LOCAL_STREAMS);
        self
    }
}

/// What a listener allows, and whom it lets in.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Of each connection.
    pub limits: Limits,
    /// Before there is one.
    pub gate: Gate,
}

impl From<Limits> for Terms {
    fn from(limits: Limits) -> Self {
        Self { limits, gate: Gate::default() }
    }
}

/// Connections to a listener for operators.
const OPERATORS: usize = 1024;

/// [`serve_within`] the limits of a listener for operators: those for clients, with a fixed number of places.
pub async fn serve(
    name: &'static str,
    listener: Listener,
    router: Router,
    metrics: ConnectionMetrics,
    farewell: Farewell,
    shutdown: Shutdown,
    pulse: Pulse,
) {
    let limits = Limits { connections: Some(OPERATORS), ..Limits::of_clients(farewell) };
    serve_within(limits, name, listener, router, metrics, shutdown, pulse).await;
}

/// Accepts until the drain begins, then lets open connections finish; see [`Farewell`]. Resolves when the last has ended; what is open when aborting begins
/// is dropped. `pulse` beats as long as it accepts.
pub async fn serve_within(
    terms: impl Into<Terms>,
    name: &'static str,
    listener: Listener,
    router: Router,
    metrics: ConnectionMetrics,
    shutdown: Shutdown,
    pulse: Pulse,
) {
    let mut terms = terms.into();
    if matches!(listener, Listener::Unix(_)) {
        terms.limits = terms.limits.among_us();
    }
    if let Some(tls) = &terms.gate.tls {
        tls.announce(name);
    }
    let room = Arc::new(Semaphore::new(terms.limits.connections.unwrap_or(Semaphore::MAX_PERMITS)));
    let open = metrics.open.with_label_values(&[name]);
    // However this ends, no connection goes on without it.
    let connections = Connections::default();
    let builder = builder(&terms.limits);
    let host = Arc::new(Host { name, builder, router, metrics, open: open.clone(), terms, shutdown: shutdown.clone() });
    let mut idle = Box::pin(async move { pulse.idle().await });
    let complaints = AtMost::new(1);
    loop {
        let accepted = tokio::select! {
            // What waits in the queue is the next generation's.
            biased;
            () = shutdown.draining() => break,
            never = &mut idle => never,
            accepted = async {
                // Never closed.
                let turn = Arc::clone(&room).acquire_owned().await.ok();
                accept(&listener).await.map(|accepted| (turn, accepted))
            } => accepted,
        };
        match accepted {
            Ok((turn, (socket, caller))) => match host.admit(caller.peer.0) {
                Ok(place) => {
                    let (host, guard) = (Arc::clone(&host), Gauged::new(&open));
                    connections.0.spawn("connection", async move {
                        let _counted = (guard, turn);
                        host.entertain(socket, caller, place).await;
                    });
                }
                Err(reason) => host.refused(reason),
            },
            Err(error) => {
                // A connection that was gone before we took it concerns nobody; out of descriptors, waiting is all there is to do.
                host.metrics.errors.with_label_values(&[name, "accept"]).inc();
                if complaints.take() {
                    tracing::warn!(listener = name, %error, "connection not accepted");
                }
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

/// The vigil has all the timers but one: whether a silent client is there at all.
fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(limits.header_bytes as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(limits.header_bytes)
        .max_concurrent_streams(limits.streams)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}

/// Cuts what is left when dropped.
#[derive(Default)]
struct Connections(Shutdown);

impl Drop for Connections {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
