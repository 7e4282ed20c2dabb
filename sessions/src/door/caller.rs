//! What a request's head says of its sender, for the trail.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use gatehouse_chassis::{connections::Peer, telemetry::trace::Trace};
use gatehouse_proto::{audit::MAX_TEXT_BYTES, internal::v1::AuditRecord};
use http::{Extensions, HeaderMap, header::USER_AGENT};

/// Who asks, apart from who they say they are.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The peer's address; none on a unix socket.
    pub address: Option<IpAddr>,
    ip: Option<String>,
    user_agent: Option<String>,
    /// When the request had been read.
    pub since: Instant,
    /// What its parts are told to; nothing, unless the request's extensions have one, or it is set.
    pub trace: Trace,
}

impl Caller {
    /// From a request's head, as it is read.
    #[must_use]
    pub fn of(extensions: &Extensions, headers: &HeaderMap) -> Self {
        let peer = extensions.get::<Peer>().and_then(|peer| peer.0);
        let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
        // Visible ASCII, so that every cut is between characters.
        let agent = agent.map(|agent| agent[..agent.len().min(MAX_TEXT_BYTES)].to_owned());
        let trace = extensions.get::<Trace>().cloned().unwrap_or_default();
        Self { address: peer.map(|peer| peer.ip()), ip: peer.map(ip), user_agent: agent, since: Instant::now(), trace }
    }

    /// The same as text, as records and lines have it.
    #[must_use]
    pub fn ip(&self) -> Option<&str> {
        self.ip.as_deref()
    }

    /// Where it comes from, if that is an address.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.ip.as_deref()?.parse().ok()
    }

    /// Fills in what every record of this request has.
    pub fn sign(&self, record: &mut AuditRecord) {
        record.ip_address.clone_from(&self.ip);
        record.user_agent.clone_from(&self.user_agent);
        record.latency_ms = Some(i64::try_from(self.since.elapsed().as_millis()).unwrap_or(i64::MAX));
    }
}

/// The peer's address; an IPv4 one as such, although the socket is of both families.
#[must_use]
pub fn ip(peer: SocketAddr) -> String {
    peer.ip().to_canonical().to_string()
}
