//! `gatehouse client exec`: one signed command, one verified answer.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use gatehouse_client::{Device, Unverified};
use gatehouse_proto::gateway::v1::ExecuteCommandResponse;

use super::Party;
use crate::{
    failure::Failure,
    local,
    output::{Output, readable},
};

const PEER: &str = "the gateway";
/// Longer than any downstream may take by default; what is later is an answer nobody waits for.
const BOUND: Duration = Duration::from_mins(1);

/// A command to be.
#[derive(Debug, Args)]
pub struct Exec {
    #[command(flatten)]
    party: Party,
    /// Selects the business service: orders.create
    #[arg(long = "type", value_name = "TYPE")]
    message_type: String,
    #[command(flatten)]
    payload: Payload,
    /// Unique for the session within the freshness window [default: a new UUID]
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

/// What is sent along.
#[derive(Debug, Args)]
#[group(required = false, multiple = false)]
pub struct Payload {
    /// The payload, as text [default: empty]
    #[arg(long, value_name = "TEXT")]
    payload: Option<String>,
    /// The payload, from a file; - is standard input
    #[arg(long, value_name = "FILE")]
    payload_file: Option<PathBuf>,
}

impl Payload {
    pub fn read(self) -> Result<Bytes, Failure> {
        match (self.payload, self.payload_file) {
            (Some(text), _) => Ok(Bytes::from(text)),
            (None, Some(path)) if path == Path::new("-") => {
                let mut bytes = Vec::new();
                io::stdin().read_to_end(&mut bytes).context("read standard input")?;
                Ok(Bytes::from(bytes))
            }
            (None, Some(path)) => Ok(fs::read(&path).with_context(|| format!("read {}", path.display()))?.into()),
            (None, None) => Ok(Bytes::new()),
        }
    }
}

pub async fn exec(exec: Exec, config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let payload = exec.payload.read()?;
    let mut line = exec.party.dial(config).await?;
    let request_id = exec.request_id.unwrap_or_else(Device::new_request_id);
    let request = line.device.command(&exec.message_type, &request_id, payload, Timestamp::now());
    let response = local::answer(PEER, BOUND, line.gateway.execute_command(request.clone())).await?;
    let mut verified = line.keyring.verify_response(&request, &response);
    if matches!(verified, Err(Unverified::UnknownSigner(_))) {
        line.refresh_keys().await?;
        verified = line.keyring.verify_response(&request, &response);
    }
    verified.map_err(|error| Failure::failed(format!("the answer is not to be trusted: {error}")))?;
    if output.is_json() { output.document(&document(&response)) } else { print(&response, output) }
}

fn print(response: &ExecuteCommandResponse, output: &mut Output) -> Result<(), Failure> {
    output.facts(&[
        ("request", response.request_id.clone()),
        ("result_code", response.result_code.clone()),
        ("payload", readable(&response.payload_bytes)),
    ])?;
    output.line(&format!("signature verified by {}", response.signer_key_id))
}

fn document(response: &ExecuteCommandResponse) -> Value {
    let mut document = json!({
        "request_id": response.request_id,
        "result_code": response.result_code,
        "timestamp_ms": response.timestamp_ms,
        "payload_base64": STANDARD.encode(&response.payload_bytes),
        "signer_key_id": response.signer_key_id,
        "verified": true,
    });
    if let Ok(text) = str::from_utf8(&response.payload_bytes) {
        document["payload"] = json!(text);
    }
    document
}
