//! Where clients come in, whoever stands behind.

use std::net::SocketAddr;

use tonic::transport::{Channel, Endpoint};

use super::Premises;
use crate::{GatewayKey, Resp, servers};

/// The public sockets of one gateway, and the Redis that its neighbours write to.
#[derive(Debug)]
pub struct Doors {
    /// HTTP.
    pub http: SocketAddr,
    /// gRPC.
    pub grpc: SocketAddr,
    /// gRPC, directly to a pusher.
    pub push: SocketAddr,
    /// Operators.
    pub admin: SocketAddr,
    /// What answers are signed with.
    pub key: GatewayKey,
    /// A connection to Redis.
    pub redis: Resp,
}

impl Doors {
    /// A channel to an address that speaks gRPC.
    #[must_use]
    pub fn channel(address: SocketAddr) -> Channel {
        Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
    }
}

impl From<&Premises> for Doors {
    fn from(premises: &Premises) -> Self {
        let address = |socket| premises.address(socket);
        let (http, grpc, push, admin) = (address("http"), address("grpc"), address("push"), address("admin"));
        Self { http, grpc, push, admin, key: premises.key().clone(), redis: servers::client(&premises.redis) }
    }
}
