//! Where a backend listens, as operators write it.

use std::{fmt, path::PathBuf, str::FromStr};

use http::uri::Authority;

/// The address of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `host:port`, with or without `http://` before it.
    Tcp(Authority),
    /// `unix:/path`.
    Unix(PathBuf),
}

/// Why an address was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// TLS to backends is not spoken.
    #[error("https is not spoken to backends; write http://host:port")]
    Https,
    /// None of the forms.
    #[error("is not of the form host:port, http://host:port or unix:/path")]
    Form,
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(InvalidAddress::Form) };
        }
        if text.starts_with("https://") {
            return Err(InvalidAddress::Https);
        }
        let authority = text.strip_prefix("http://").unwrap_or(text);
        let authority: Authority = authority.strip_suffix('/').unwrap_or(authority).parse().map_err(|_| InvalidAddress::Form)?;
        let whole = authority.port_u16().is_some_and(|port| port != 0) && !authority.host().is_empty() && !authority.as_str().contains('@');
        if whole { Ok(Self::Tcp(authority)) } else { Err(InvalidAddress::Form) }
    }
}

impl Address {
    /// What stands in `Host` and `:authority` of requests to it.
    #[must_use]
    pub fn authority(&self) -> &str {
        match self {
            Self::Tcp(authority) => authority.as_str(),
            Self::Unix(_) => "localhost",
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_tcp_or_unix() {
        for (text, shown) in [
            ("127.0.0.1:9000", "http://127.0.0.1:9000"),
            ("http://orders:80", "http://orders:80"),
            ("http://orders:80/", "http://orders:80"),
            ("[::1]:80", "http://[::1]:80"),
            ("unix:/run/orders.sock", "unix:/run/orders.sock"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for wrong in [
            "",
            "orders",
            "orders:",
            "orders:0",
            ":80",
            "orders:http",
            "unix:orders",
            "http://",
            "http://h:1/path",
            "u@h:1",
            "orders:70000",
        ] {
            assert_eq!(wrong.parse::<Address>(), Err(InvalidAddress::Form), "{wrong}");
        }
        assert_eq!("https://orders:443".parse::<Address>(), Err(InvalidAddress::Https));
    }
}
