//! Addresses as operators write them.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    str::FromStr,
};

/// Where to listen: `:8080` (every address, IPv4 and IPv6), `127.0.0.1:8080`, `localhost:8080`. Port 0 lets the kernel choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddr(pub SocketAddr);

/// Why an address was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddr {
    /// No port, or one that is no number.
    #[error("is not of the form host:port or :port")]
    Listen,
    /// The name has no address here.
    #[error("the host name cannot be resolved")]
    Host,
    /// Neither form of a Redis address.
    #[error("is not of the form host:port or unix:/path")]
    Redis,
}

impl FromStr for ListenAddr {
    type Err = InvalidAddr;

    fn from_str(text: &str) -> Result<Self, InvalidAddr> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAddr::Listen)?;
        let port: u16 = port.parse().map_err(|_| InvalidAddr::Listen)?;
        if host.is_empty() {
            return Ok(Self(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        (host, port).to_socket_addrs().ok().and_then(|mut found| found.next()).map(Self).ok_or(InvalidAddr::Host)
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where Redis listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisAddr {
    /// `host:port`.
    Tcp {
        /// A name or an address.
        host: String,
        /// Not 0.
        port: u16,
    },
    /// `unix:/path`.
    Unix(PathBuf),
}

impl FromStr for RedisAddr {
    type Err = InvalidAddr;

    fn from_str(text: &str) -> Result<Self, InvalidAddr> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(InvalidAddr::Redis) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAddr::Redis)?;
        match port.parse() {
            Ok(port) if port != 0 && !host.is_empty() && !host.contains('/') => {
                Ok(Self::Tcp { host: host.trim_matches(['[', ']']).to_owned(), port })
            }
            _ => Err(InvalidAddr::Redis),
        }
    }
}

impl fmt::Display for RedisAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_every_address() {
        assert_eq!(":8080".parse::<ListenAddr>().unwrap().to_string(), "[::]:8080");
        assert_eq!("127.0.0.1:0".parse::<ListenAddr>().unwrap().to_string(), "127.0.0.1:0");
        for wrong in ["", "8080", ":", ":http", ":65536", "127.0.0.1"] {
            assert_eq!(wrong.parse::<ListenAddr>(), Err(InvalidAddr::Listen), "{wrong}");
        }
    }

    #[test]
    fn redis_addresses_are_tcp_or_unix() {
        assert_eq!("unix:/run/redis.sock".parse(), Ok(RedisAddr::Unix("/run/redis.sock".into())));
        assert_eq!("redis:6379".parse(), Ok(RedisAddr::Tcp { host: "redis".into(), port: 6379 }));
        assert_eq!("[::1]:6379".parse(), Ok(RedisAddr::Tcp { host: "::1".into(), port: 6379 }));
        for wrong in ["", "redis", "unix:redis.sock", ":6379", "redis:0", "redis://h:1"] {
            assert_eq!(wrong.parse::<RedisAddr>(), Err(InvalidAddr::Redis), "{wrong}");
        }
    }
}
