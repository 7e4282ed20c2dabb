//! `[connections]` and `[tls]`: what the public listeners of edge and pusher allow, and what they show.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use super::{
    network::{Network, Networks},
    tls::{ClientCertificates, TlsConfig},
};
use crate::config::{Bytes, Config as Read, Reader, Section};

/// Both sections, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// `max` (65536): connections of one process in all.
    pub max: usize,
    /// `max_per_address` (4096): of those, from one IPv4 address or IPv6 network of 64 bits.
    pub max_per_address: usize,
    /// `max_streams` (1000): requests at once on one HTTP/2 connection.
    pub max_streams: u32,
    /// `max_header_bytes` (64 KiB): of one request.
    pub max_header_bytes: u32,
    /// `head_timeout` (10 s): from accept to the end of the first request's head, and on HTTP/1 from a later head's first byte to its end.
    pub head_timeout: Duration,
    /// `idle_timeout` (5 min): without a request.
    pub idle_timeout: Duration,
    /// `write_timeout` (30 s): how long a client may take nothing of what is written.
    pub write_timeout: Duration,
    /// `proxy_protocol_from`: whose connections begin with a PROXY header.
    pub proxy_protocol_from: Networks,
    /// `[tls]`; none: everything is plain.
    pub tls: Option<TlsConfig>,
}

impl Read for Config {
    fn read(reader: &mut Reader) -> Option<Self> {
        let mut section = reader.section("connections");
        let max = section.key("max").within(65536, 1..=1 << 24);
        let max_per_address = section.key("max_per_address").within(4096, 1..=1 << 24);
        let max_streams = section.key("max_streams").within(1000, 1..=1 << 20);
        let max_header_bytes = header_bytes(&mut section);
        let head_timeout = span(&mut section, "head_timeout", 10, Duration::from_millis(100)..=Duration::from_mins(10));
        let idle_timeout = span(&mut section, "idle_timeout", 300, Duration::from_millis(100)..=Duration::from_hours(24));
        let write_timeout = span(&mut section, "write_timeout", 30, Duration::from_millis(100)..=Duration::from_hours(1));
        let proxy_protocol_from = section.key("proxy_protocol_from").list::<Network>().into_iter().collect();
        section.finish();
        let tls = tls(reader);
        Some(Self {
            max,
            max_per_address,
            max_streams,
            max_header_bytes,
            head_timeout,
            idle_timeout,
            write_timeout,
            proxy_protocol_from,
            tls,
        })
    }
}

fn span(section: &mut Section<'_>, key: &'static str, default_seconds: u64, range: RangeInclusive<Duration>) -> Duration {
    let span = section.key(key).duration(Duration::from_secs(default_seconds));
    if !range.contains(&span) {
        section.problem(key, format!("is outside {:?} to {:?}", range.start(), range.end()));
    }
    span
}

fn header_bytes(section: &mut Section<'_>) -> u32 {
    let Bytes(bytes) = section.key("max_header_bytes").or(Bytes(64 << 10));
    // hyper's buffer has no fewer.
    let bytes = u32::try_from(bytes).ok().filter(|bytes| (8 << 10..=1 << 20).contains(bytes));
    bytes.unwrap_or_else(|| {
        section.problem("max_header_bytes", "is outside 8KiB to 1MiB");
        64 << 10
    })
}

/// Tries what it names, so that what is wrong with it is known before anything is started.
fn tls(reader: &mut Reader) -> Option<TlsConfig> {
    let mut section = reader.section("tls");
    let certificate = section.key("certificate").optional::<PathBuf>();
    let private_key = section.key("private_key").optional::<PathBuf>();
    let client_ca = section.key("client_ca").optional::<PathBuf>();
    let needed = section.key("client_certificate").optional::<ClientCertificates>();
    let handshake_timeout = span(&mut section, "handshake_timeout", 5, Duration::from_millis(100)..=Duration::from_mins(10));
    if client_ca.is_none() && needed.is_some() {
        section.problem("client_certificate", "needs client_ca, which says who signs them");
    }
    let config = match (certificate, private_key) {
        (Some(certificate), Some(private_key)) => {
            let clients = client_ca.map(|ca| (ca, needed.unwrap_or(ClientCertificates::Required)));
            Some(TlsConfig { certificate, private_key, clients, handshake_timeout })
        }
        (None, None) => {
            if client_ca.is_some() {
                section.problem("client_ca", "needs certificate and private_key");
            }
            None
        }
        (given, _) => {
            let (missing, other) = if given.is_some() { ("private_key", "certificate") } else { ("certificate", "private_key") };
            section.problem(other, format!("needs {missing}"));
            None
        }
    };
    if let Some(config) = &config
        && let Err(unusable) = config.check()
    {
        let key = if *unusable.path == *config.certificate {
            "certificate"
        } else if *unusable.path == *config.private_key {
            "private_key"
        } else {
            "client_ca"
        };
        section.problem(key, unusable.to_string());
    }
    section.finish();
    config
}

#[cfg(test)]
mod tests;
