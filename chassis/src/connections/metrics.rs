//! What the connections of a process count, whichever listener they came by.

use std::{error::Error, io};

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};

use crate::metrics::Metrics;

/// `connections_open{listener}`, `connection_errors_total{listener,reason}`, `connections_refused_total{listener,reason}`, and of TLS
/// `tls_certificate_expiry_seconds{listener}` and `tls_reloads_total{result}`.
#[derive(Clone, Debug)]
pub struct ConnectionMetrics {
    pub(super) open: IntGaugeVec,
    pub(super) errors: IntCounterVec,
    pub(super) refused: IntCounterVec,
    pub(super) expiry: IntGaugeVec,
    pub(super) reloads: IntCounterVec,
}

impl ConnectionMetrics {
    /// Registers them.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            open: metrics.gauges("connections_open", "Client connections that are open now.", &["listener"]),
            errors: metrics.counters(
                "connection_errors_total",
                "Connections that ended on an error: malformed or too large input, a failed TLS handshake, a reset.",
                &["listener", "reason"],
            ),
            refused: metrics.counters(
                "connections_refused_total",
                "Connections that were closed because of a limit: full, address, proxy, handshake, head, idle, stalled, hostile.",
                &["listener", "reason"],
            ),
            expiry: metrics.gauges(
                "tls_certificate_expiry_seconds",
                "When the certificate that is shown ends, in seconds since 1970.",
                &["listener"],
            ),
            reloads: metrics.counters(
                "tls_reloads_total",
                "Changed certificates, keys and CAs that were taken, and those that were not: ok, failed.",
                &["result"],
            ),
        }
    }
}

/// A bounded word for what went wrong.
pub(super) fn reason(error: &(dyn Error + 'static)) -> &'static str {
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
