//! Where a gateway's listener is.

use std::{fmt, str::FromStr};

use http::{Uri, uri::Authority};

/// `http://host:port` or `https://host:port`; without a scheme, `http`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    authority: Authority,
    port: u16,
    is_tls: bool,
}

/// Not of that form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not of the form http://host:port or https://host:port")]
pub struct InvalidOrigin;

impl Origin {
    /// Whether what goes there goes through TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The host, an IPv6 address without its brackets.
    pub(crate) fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn authority(&self) -> &str {
        self.authority.as_str()
    }

    /// As requests name it.
    pub(crate) fn uri(&self) -> Result<Uri, http::Error> {
        let scheme = if self.is_tls { "https" } else { "http" };
        Uri::builder().scheme(scheme).authority(self.authority.clone()).path_and_query("/").build()
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let (is_tls, rest) = match text.split_once("://") {
            None => (false, text),
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(InvalidOrigin),
        };
        let authority: Authority = rest.trim_end_matches('/').parse().map_err(|_| InvalidOrigin)?;
        let port = authority.port_u16().ok_or(InvalidOrigin)?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            Err(InvalidOrigin)
        } else {
            Ok(Self { authority, port, is_tls })
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_tls { "https" } else { "http" }, self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_host_and_a_port() {
        for (text, origin, host) in [
            ("http://127.0.0.1:9090", "http://127.0.0.1:9090", "127.0.0.1"),
            ("127.0.0.1:9090", "http://127.0.0.1:9090", "127.0.0.1"),
            ("http://[::1]:1/", "http://[::1]:1", "::1"),
            ("gateway:80", "http://gateway:80", "gateway"),
            ("https://gateway.example.com:9090", "https://gateway.example.com:9090", "gateway.example.com"),
        ] {
            let parsed: Origin = text.parse().unwrap();
            assert_eq!((parsed.to_string().as_str(), parsed.host()), (origin, host), "{text}");
            assert_eq!(parsed.is_tls(), text.starts_with("https"), "{text}");
            assert_eq!(parsed.uri().unwrap().to_string(), format!("{origin}/"));
        }
        for wrong in [
            "",
            "gateway",
            ":80",
            "https://gateway",
            "ftp://gateway:21",
            "http://gateway:80/path",
            "gateway:http",
            "a b:1",
            "u@h:1",
            "gateway:80?x",
        ] {
            assert_eq!(wrong.parse::<Origin>(), Err(InvalidOrigin), "{wrong}");
        }
    }
}
