//! `gatehouse client subscribe`: the session's events as they come, each of them verified.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Args, value_parser};
use jiff::Timestamp;
use prost::Message as _;
use serde_json::{Value, json};

use gatehouse_client::{Order, Unverified};
use gatehouse_proto::gateway::v1::{GatewayEvent, ServerTime, server_time::Resume};

use super::{Line, Party};
use crate::{
    failure::Failure,
    local,
    output::{Output, readable},
};

const PEER: &str = "the gateway";

/// A stream to be.
#[derive(Debug, Args)]
pub struct Subscription {
    #[command(flatten)]
    party: Party,
    /// Resume after this event [default: from now on]
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    last_event_id: String,
    /// End after so many events, not counting the gateway's own [default: go on until the stream ends]
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    count: Option<u64>,
}

pub async fn subscribe(subscription: Subscription, config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let mut line = subscription.party.dial(config).await?;
    let request = line.device.subscription(&subscription.last_event_id, Timestamp::now());
    let mut events = local::answer(PEER, super::PATIENCE, line.gateway.subscribe_events(request)).await?;
    let mut order = Order::default();
    let mut left = subscription.count;
    while let Some(event) = events.message().await.map_err(|status| Failure::of_status(PEER, &status))? {
        verify(&mut line, &event).await?;
        order.take(&event).map_err(|error| untrustworthy(&error))?;
        print(&event, output)?;
        output.pass_on().await?;
        if !Order::is_own(&event) {
            left = left.map(|left| left - 1);
        }
        if left == Some(0) {
            return Ok(());
        }
    }
    // The contract has a status for every end; a stream that just stops was cut.
    Err(Failure::failed("the stream ended without a verdict"))
}

async fn verify(line: &mut Line, event: &GatewayEvent) -> Result<(), Failure> {
    let mut verified = line.keyring.verify_event(event);
    if matches!(verified, Err(Unverified::UnknownSigner(_))) {
        line.refresh_keys().await?;
        verified = line.keyring.verify_event(event);
    }
    verified.map_err(|error| untrustworthy(&error))
}

fn untrustworthy(error: &dyn std::error::Error) -> Failure {
    Failure::failed(format!("the stream is not to be trusted: {error}"))
}

fn print(event: &GatewayEvent, output: &mut Output) -> Result<(), Failure> {
    let own = if Order::is_own(event) { ServerTime::decode(event.payload_bytes.clone()).ok() } else { None };
    if output.is_json() {
        return output.document(&document(event, own));
    }
    let payload = own.map_or_else(|| readable(&event.payload_bytes).replace('\n', "\\n"), in_words);
    let how = if event.signature_path.is_empty() { "alone" } else { "in a batch" };
    output.line(&format!(
        "{}  {}  {payload}  (signed {how}, verified by {})",
        event.event_id,
        readable(event.event_type.as_bytes()),
        event.signer_key_id
    ))
}

fn in_words(time: ServerTime) -> String {
    let resume = match time.resume() {
        Resume::Unspecified => "",
        Resume::NotRequested => ", from now on",
        Resume::Complete => ", every missed event follows",
        Resume::Gap => ", GAP: events were missed; fetch the state again",
    };
    let at = Timestamp::from_millisecond(time.server_time_ms);
    format!("{}{resume}", at.map_or_else(|_| time.server_time_ms.to_string(), |at| format!("{at:.3}")))
}

fn document(event: &GatewayEvent, own: Option<ServerTime>) -> Value {
    let mut document = json!({
        "event_id": event.event_id,
        "event_type": event.event_type,
        "user_id": event.user_id,
        "timestamp_ms": event.timestamp_ms,
        "payload_base64": STANDARD.encode(&event.payload_bytes),
        "request_id": event.request_id,
        "signer_key_id": event.signer_key_id,
        "signature_leaves": event.signature_leaves.max(1),
        "verified": true,
    });
    if let Some(time) = own {
        document["server_time"] = json!({
            "server_time_ms": time.server_time_ms,
            "resume": time.resume().as_str_name(),
            "bookmark_interval_ms": time.bookmark_interval_ms,
        });
    } else if let Ok(text) = str::from_utf8(&event.payload_bytes) {
        document["payload"] = json!(text);
    }
    document
}
