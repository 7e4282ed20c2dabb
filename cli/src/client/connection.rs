//! The way to the gateway: one gRPC channel, and one HTTP request for its public keys.

use std::{str::FromStr, time::Duration};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{StatusCode, Uri, body::Bytes};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde::Deserialize;
use tonic::transport::{Channel, Endpoint};

use super::Keyring;
use gatehouse_proto::{gateway::v1::gateway_client::GatewayClient, keys::PublicKey, limits::MAX_MESSAGE_BYTES};

/// The most that a list of public keys may weigh.
const MAX_KEYS_BYTES: usize = 64 << 10;

/// `http://host:port`; the scheme may be left out. There is no TLS at these doors; whoever needs it puts a terminator before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// Not of that form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not of the form http://host:port")]
pub struct InvalidOrigin;

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let origin = format!("http://{authority}");
        let uri: Uri = origin.parse().map_err(|_| InvalidOrigin)?;
        let plain = !authority.contains(['/', '@', '?', '#']) && uri.host().is_some_and(|host| !host.is_empty());
        if plain && uri.port_u16().is_some() { Ok(Self(origin)) } else { Err(InvalidOrigin) }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Connects now, so that a gateway that is not there is told from one that refuses.
pub async fn connect(gateway: &Origin, bound: Duration) -> anyhow::Result<GatewayClient<Channel>> {
    let endpoint = Endpoint::from_shared(gateway.0.clone())?.connect_timeout(bound).http2_keep_alive_interval(Duration::from_secs(20));
    let channel = endpoint.connect().await.with_context(|| format!("connect to {gateway}"))?;
    Ok(GatewayClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    public_key: String,
}

/// Why there are no public keys.
#[derive(Debug, thiserror::Error)]
pub enum NoKeys {
    /// Nobody answered.
    #[error("{address} is not reachable")]
    Unreachable {
        /// Who was asked.
        address: String,
        /// Why.
        source: anyhow::Error,
    },
    /// Somebody did, but not with a list of keys.
    #[error("{address} does not tell the gateway's keys")]
    Unusable {
        /// Who was asked.
        address: String,
        /// What came.
        source: anyhow::Error,
    },
}

/// Asks the gateway for its public keys. Trust in them is trust in the way there: over a network one does not trust, they are compared with what the
/// operator published, or given by hand.
pub async fn public_keys(gateway: &Origin, bound: Duration) -> Result<Keyring, NoKeys> {
    let address = format!("{gateway}/api/v1/public/keys");
    let fetched = tokio::time::timeout(bound, fetch(&address)).await;
    let fetched = fetched.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {bound:?}")));
    match fetched {
        Ok((status, body)) => keyring(status, &body).map_err(|source| NoKeys::Unusable { address, source }),
        Err(source) => Err(NoKeys::Unreachable { address, source }),
    }
}

async fn fetch(address: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let answer = client.get(address.parse::<Uri>()?).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_KEYS_BYTES).collect().await.map_err(anyhow::Error::from_boxed)?;
    Ok((status, body.to_bytes()))
}

fn keyring(status: StatusCode, body: &[u8]) -> anyhow::Result<Keyring> {
    anyhow::ensure!(status == StatusCode::OK, "answered {status}");
    let keys: Keys = serde_json::from_slice(body).context("not a list of keys")?;
    Ok(keys.keys.iter().map(|key| PublicKey::from_base64(&key.public_key)).collect::<Result<Keyring, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_host_and_a_port() {
        for (text, origin) in [
            ("http://127.0.0.1:9090", "http://127.0.0.1:9090"),
            ("127.0.0.1:9090", "http://127.0.0.1:9090"),
            ("http://[::1]:1/", "http://[::1]:1"),
            ("gateway:80", "http://gateway:80"),
        ] {
            assert_eq!(text.parse::<Origin>().map(|origin| origin.to_string()), Ok(origin.to_owned()), "{text}");
        }
        for wrong in
            ["", "gateway", ":80", "https://gateway:443", "ftp://gateway:21", "http://gateway:80/path", "gateway:http", "a b:1", "u@h:1"]
        {
            assert_eq!(wrong.parse::<Origin>(), Err(InvalidOrigin), "{wrong}");
        }
    }
}
