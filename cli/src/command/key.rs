//! `gatehouse key`: the keys that the gateway signs with. The supervisor makes the changes; edge and pushers follow.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use gatehouse_chassis::ipc::Channel;
use gatehouse_proto::{
    control::{CLAIMED_USER, MAX_REASON_BYTES},
    internal::v1::{
        ActivateKey, AddKey, ChangeKeyRequest, ChangeKeyResponse, ListKeysRequest, RetireKey, SignerKey, change_key_request::Change,
        signer_keys_client::SignerKeysClient,
    },
};
use serde_json::{Value, json};
use tonic::Request;

use super::{
    supervisor::{PEER, open},
    time::moment,
};
use crate::{failure::Failure, local, output::Output, place::Place};

/// It has to be recorded, and synced to a disk that may be slow.
const BOUND: Duration = Duration::from_secs(15);

/// What to do with the keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Show the keys that are published, and which one signs
    List,
    /// Publish a new key, which does not sign yet
    Add(NewKey),
    /// Let a published key sign, in place of the one that does
    Activate(NextKey),
    /// Destroy a private key that does not sign any more; its public half is published for the overlap
    Retire(OldKey),
}

/// A key to be.
#[derive(Debug, Args)]
pub struct NewKey {
    /// Import this PKCS#8 PEM file instead of making a new key
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    #[command(flatten)]
    why: Why,
}

/// The key to sign with.
#[derive(Debug, Args)]
pub struct NextKey {
    /// As `gatehouse key list` shows it
    key_id: String,
    /// Also one that clients may not know yet
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    why: Why,
}

/// The key to part with.
#[derive(Debug, Args)]
pub struct OldKey {
    /// As `gatehouse key list` shows it
    key_id: String,
    #[command(flatten)]
    why: Why,
}

#[derive(Debug, Args)]
struct Why {
    /// Why, for the audit trail
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

/// Does it.
pub async fn run(command: KeyCommand, config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let (change, Why { reason }) = match command {
        KeyCommand::List => return list(config, output).await,
        KeyCommand::Add(NewKey { from, why }) => {
            let read = |path: PathBuf| fs::read_to_string(&path).with_context(|| format!("read {}", path.display()));
            (Change::Add(AddKey { private_key_pem: from.map(read).transpose()?.unwrap_or_default() }), why)
        }
        KeyCommand::Activate(NextKey { key_id, now, why }) => (Change::Activate(ActivateKey { key_id, now }), why),
        KeyCommand::Retire(OldKey { key_id, why }) => (Change::Retire(RetireKey { key_id }), why),
    };
    if reason.len() > MAX_REASON_BYTES {
        return Err(Failure::Usage(format!("--reason has {} bytes; {MAX_REASON_BYTES} are the most", reason.len())));
    }
    let mut request = Request::new(ChangeKeyRequest { reason, change: Some(change) });
    if let Some(claimed) = env::var("SUDO_USER").ok().and_then(|user| user.parse().ok()) {
        request.metadata_mut().insert(CLAIMED_USER, claimed);
    }
    let ChangeKeyResponse { change_id, key } = match local::answer(PEER, BOUND, connect(config).await?.change(request)).await {
        // It was there a moment ago.
        Err(Failure::Unreachable(why)) => {
            return Err(Failure::Unreachable(format!("{why}; whether the change was made is not known: see `gatehouse key list`")));
        }
        answer => answer?,
    };
    let key = key.unwrap_or_default();
    if output.is_json() {
        return output.document(&json!({"change_id": change_id, "key": document(&key)}));
    }
    let facts = [("key", key.key_id.clone()), ("state", state(&key)), ("public key", key.public_key)];
    output.facts(&facts)
}

async fn list(config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let keys = local::answer(PEER, BOUND, connect(config).await?.list(ListKeysRequest {})).await?.keys;
    if output.is_json() {
        return output.document(&json!({"keys": keys.iter().map(document).collect::<Vec<_>>()}));
    }
    let at = |ms: Option<i64>| ms.map(moment).unwrap_or_default();
    let rows = keys.into_iter().map(|key| {
        let state = state(&key);
        [key.key_id, state, moment(key.added_at_ms), at(key.activated_at_ms), key.public_key]
    });
    output.table(["KEY", "STATE", "ADDED", "ACTIVATED", "PUBLIC KEY"], rows)
}

async fn connect(config: Option<&Path>) -> Result<SignerKeysClient<Channel>, Failure> {
    Ok(SignerKeysClient::new(open(&Place::find(config)?.supervisor()).await?))
}

/// `retired, published until 2026-11-23T07:00:00Z`.
fn state(key: &SignerKey) -> String {
    let until = key.published_until_ms.map(|until| format!(", published until {}", moment(until)));
    format!("{}{}", key.state, until.unwrap_or_default())
}

fn document(key: &SignerKey) -> Value {
    let mut document = json!({
        "key_id": key.key_id,
        "public_key": key.public_key,
        "state": key.state,
        "active": key.state == "active",
        "added_at_ms": key.added_at_ms,
    });
    let times =
        [("activated_at_ms", key.activated_at_ms), ("retired_at_ms", key.retired_at_ms), ("published_until_ms", key.published_until_ms)];
    for (name, ms) in times {
        if let Some(ms) = ms {
            document[name] = json!(ms);
        }
    }
    document
}
