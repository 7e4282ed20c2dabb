//! What the public listeners of a process have together: places, a certificate, whom they believe.

use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit};

use super::{Config, ConnectionMetrics, Farewell, Limits, Terms, network::Networks, room::Room, serve_within, tls::Tls};
use crate::{Process, exit::Fatal, sockets::Listener, watchdog};

/// Of so many descriptors one is not for a client: Redis, other processes, backends and files need some.
const RESERVED: usize = 8;

/// Who is let in, and how; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    pub(super) room: Option<Arc<Room>>,
    pub(super) proxies: Networks,
    pub(super) tls: Option<Arc<Tls>>,
}

impl Gate {
    /// As configured. A certificate that cannot be used is a wrong configuration.
    pub fn open(config: &Config, metrics: &ConnectionMetrics) -> Result<Self, Fatal> {
        let room = Room::new(places(config.max), config.max_per_address);
        let open = |tls| Tls::open(tls, metrics).map_err(|unusable| Fatal::config(format!("[tls] {unusable}")));
        Ok(Self { room: Some(room), proxies: config.proxy_protocol_from.clone(), tls: config.tls.as_ref().map(open).transpose()? })
    }

    /// The same for a process, which takes changed certificates until it drains.
    pub fn of(process: &Process, config: &Config) -> Result<Self, Fatal> {
        let gate = Self::open(config, process.connections())?;
        if gate.tls.is_some() {
            let (watched, shutdown) = (gate.clone(), process.shutdown().clone());
            process.spawn("tls-reload", async move {
                tokio::select! {
                    () = watched.watch() => {}
                    () = shutdown.draining() => {}
                }
            });
        }
        Ok(gate)
    }

    /// Takes changed certificates, as long as it is polled.
    pub(super) async fn watch(&self) {
        match &self.tls {
            Some(tls) => Arc::clone(tls).watch().await,
            None => std::future::pending().await,
        }
    }
}

/// The public listeners of a process.
#[derive(Debug)]
pub struct Public {
    process: Process,
    terms: Terms,
}

impl Public {
    /// Opens what they need, and watches it.
    pub fn open(process: &Process, config: &Config) -> Result<Self, Fatal> {
        let gate = Gate::of(process, config)?;
        let farewell = Farewell::within(process.shared().budgets.of(process.name()));
        Ok(Self { process: process.clone(), terms: Terms { limits: Limits::configured(config, farewell), gate } })
    }

    /// Serves a router on one of them until the drain is over.
    pub fn serve(&self, name: &'static str, listener: Listener, router: axum::Router) {
        let (process, terms) = (&self.process, self.terms.clone());
        let (connections, shutdown, pulse) =
            (process.connections().clone(), process.shutdown().clone(), process.pulse(name, watchdog::USUAL));
        process.spawn(name, serve_within(terms, name, listener, router, connections, shutdown, pulse));
    }
}

/// As many as are wanted, if there can be as many descriptors.
fn places(wanted: usize) -> usize {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return wanted };
    let descriptors = usize::try_from(limit).unwrap_or(usize::MAX);
    let possible = descriptors - descriptors / RESERVED;
    if possible < wanted {
        tracing::info!(
            connections.max = wanted,
            connections.possible = possible,
            "fewer connections are taken, for there are too few descriptors"
        );
    }
    wanted.min(possible)
}
