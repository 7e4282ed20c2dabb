//! The way to the gateway: one gRPC channel, and one HTTP request for its public keys.

use std::{future, time::Duration};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::{Keyring, Origin, Trust, transport};
use gatehouse_proto::{gateway::v1::gateway_client::GatewayClient, keys::PublicKey, limits::MAX_MESSAGE_BYTES};

/// The most that a list of public keys may weigh.
const MAX_KEYS_BYTES: usize = 64 << 10;

/// Connects now, so that a gateway that is not there is told from one that refuses. The connection is made again when it breaks.
pub async fn connect(gateway: &Origin, trust: &Trust, bound: Duration) -> anyhow::Result<GatewayClient<Channel>> {
    // Our own connector speaks TLS; tonic is not to look for its own.
    let endpoint = Endpoint::from_shared(format!("http://{}", gateway.authority()))?.origin(gateway.uri()?);
    let endpoint = endpoint.connect_timeout(bound).http2_keep_alive_interval(Duration::from_secs(20));
    let (origin, trust) = (gateway.clone(), trust.clone());
    let connector = service_fn(move |_| {
        let (origin, trust) = (origin.clone(), trust.clone());
        async move { transport::dial(&origin, &trust, b"h2").await.map(TokioIo::new) }
    });
    let channel = endpoint.connect_with_connector(connector).await.with_context(|| format!("connect to {gateway}"))?;
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

const KEYS_PATH: &str = "/api/v1/public/keys";

/// Asks the gateway for its public keys. Trust in them is trust in the way there: over a network one does not trust, and without TLS, they are compared with what the
/// operator published, or given by hand.
pub async fn public_keys(gateway: &Origin, trust: &Trust, bound: Duration) -> Result<Keyring, NoKeys> {
    let address = format!("{gateway}{KEYS_PATH}");
    let fetched = tokio::time::timeout(bound, fetch(gateway, trust)).await;
    let fetched = fetched.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {bound:?}")));
    match fetched {
        Ok((status, body)) => keyring(status, &body).map_err(|source| NoKeys::Unusable { address, source }),
        Err(source) => Err(NoKeys::Unreachable { address, source }),
    }
}

async fn fetch(gateway: &Origin, trust: &Trust) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = transport::dial(gateway, trust, b"http/1.1").await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(KEYS_PATH).header(HOST, gateway.authority()).body(Empty::<Bytes>::new())?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_KEYS_BYTES).collect().await.map_err(anyhow::Error::from_boxed)?;
        Ok((status, body.to_bytes()))
    };
    // The connection works for the answer, and its end is told there.
    let connection = async {
        let _told = connection.await;
        future::pending().await
    };
    tokio::select! {
        answer = answer => answer,
        never = connection => never,
    }
}

fn keyring(status: StatusCode, body: &[u8]) -> anyhow::Result<Keyring> {
    anyhow::ensure!(status == StatusCode::OK, "answered {status}");
    let keys: Keys = serde_json::from_slice(body).context("not a list of keys")?;
    Ok(keys.keys.iter().map(|key| PublicKey::from_base64(&key.public_key)).collect::<Result<Keyring, _>>()?)
}
