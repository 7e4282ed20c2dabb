//! TLS 1.2 and 1.3 on public listeners, by rustls, with certificates that are taken anew when their files change.
//!
//! A connection keeps what it began with; a changed pair counts for the next one. A pair that is broken, most likely because only one of its files was written so
//! far, changes nothing: what was shown before is shown on, and when the files have stood still and are broken yet, that is logged, once, and counted.

mod pair;
mod reload;

use std::{
    fmt,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use rustls::ServerConfig;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::metrics::ConnectionMetrics;
pub use pair::{Kind, Unusable};
use pair::{Loaded, load};
use reload::{Stamp, stamps};

/// `[tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// `certificate`: the chain, the leaf first, PEM.
    pub certificate: PathBuf,
    /// `private_key`: PEM, readable by its owner and group alone.
    pub private_key: PathBuf,
    /// `client_ca` and `client_certificate`: who signs clients' certificates, PEM, and whether every client needs one.
    pub clients: Option<(PathBuf, ClientCertificates)>,
    /// `handshake_timeout` (5 s).
    pub handshake_timeout: Duration,
}

impl TlsConfig {
    /// Whether it could be used now.
    pub fn check(&self) -> Result<(), Unusable> {
        load(self).map(drop)
    }

    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate, &self.private_key].into_iter().chain(self.clients.as_ref().map(|(ca, _)| ca))
    }
}

/// Whether a client must have a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// One that is shown must be right.
    Optional,
    /// Without one there is no connection.
    Required,
}

impl FromStr for ClientCertificates {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            _ => Err("is neither optional nor required"),
        }
    }
}

/// The request came by TLS; an extension of every such request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secured {
    /// The client's certificate, if it showed one; it was verified.
    pub client: Option<Fingerprint>,
}

/// The SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What all public listeners of a process show.
#[derive(Debug)]
pub(super) struct Tls {
    config: TlsConfig,
    /// How the files were before they were read.
    opened: Vec<Stamp>,
    shown: RwLock<Arc<ServerConfig>>,
    expiry: Mutex<Expiry>,
    metrics: ConnectionMetrics,
}

#[derive(Debug)]
struct Expiry {
    not_after: i64,
    listeners: Vec<&'static str>,
}

impl Tls {
    pub(super) fn open(config: &TlsConfig, metrics: &ConnectionMetrics) -> Result<Arc<Self>, Unusable> {
        let opened = stamps(config);
        let Loaded { server, not_after } = load(config)?;
        let expiry = Mutex::new(Expiry { not_after, listeners: Vec::new() });
        for result in ["ok", "failed"] {
            let _zero = metrics.reloads.with_label_values(&[result]);
        }
        Ok(Arc::new(Self { config: config.clone(), opened, shown: RwLock::new(server), expiry, metrics: metrics.clone() }))
    }

    /// Says until when the certificate holds that this listener shows.
    pub(super) fn announce(&self, listener: &'static str) {
        let mut expiry = self.expiry();
        self.metrics.expiry.with_label_values(&[listener]).set(expiry.not_after);
        expiry.listeners.push(listener);
    }

    pub(super) const fn handshake_timeout(&self) -> Duration {
        self.config.handshake_timeout
    }

    /// Shakes hands.
    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<(TlsStream<TcpStream>, Secured)> {
        let shown = Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner));
        let stream = TlsAcceptor::from(shown).accept(stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let client = certificates.and_then(<[_]>::first).map(|leaf| Fingerprint(Sha256::digest(leaf).into()));
        Ok((stream, Secured { client }))
    }

    fn show(&self, Loaded { server, not_after }: Loaded) {
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = server;
        let mut expiry = self.expiry();
        expiry.not_after = not_after;
        for listener in &expiry.listeners {
            self.metrics.expiry.with_label_values(&[listener]).set(not_after);
        }
    }

    fn expiry(&self) -> MutexGuard<'_, Expiry> {
        self.expiry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
