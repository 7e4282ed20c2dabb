//! `gatehouse client publish`: what a business service does to reach a user's devices. Only here does this command speak to Redis, for there is
//! nobody to ask: entries of the client event stream are written by others, with any client (CONTRACT.md §2).

use std::path::Path;

use clap::Args;
use serde_json::json;

use gatehouse_chassis::{
    exit,
    redis::{Redis, RedisError, cmd},
};
use gatehouse_proto::limits::{MAX_ID_BYTES, MAX_PAYLOAD_BYTES};

use super::exec::Payload;
use crate::{failure::Failure, output::Output, place};

/// An event to be.
#[derive(Debug, Args)]
#[expect(clippy::struct_field_names, reason = "the contract's word")]
pub struct Event {
    /// Whose devices get it
    #[arg(long)]
    user: String,
    /// The application's name for it: order.shipped
    #[arg(long = "type", value_name = "TYPE")]
    event_type: String,
    #[command(flatten)]
    payload: Payload,
    /// Only this device session gets it [default: every device of the user]
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// The command that caused it
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

pub async fn publish(event: Event, config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let Event { user, event_type, payload, device, request_id } = event;
    let payload = payload.read()?;
    // What a pusher would skip as malformed is refused here, where somebody can still read why.
    let texts =
        [("--user", Some(&user)), ("--type", Some(&event_type)), ("--device", device.as_ref()), ("--request-id", request_id.as_ref())];
    for (name, text) in texts {
        if text.is_some_and(|text| text.is_empty() || text.len() > MAX_ID_BYTES) {
            return Err(Failure::Usage(format!("{name}: 1 to {MAX_ID_BYTES} bytes")));
        }
    }
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(Failure::Usage(format!("the payload has {} bytes; at most {MAX_PAYLOAD_BYTES} are delivered", payload.len())));
    }
    let redis = Redis::connect(&place::shared(config)?.redis).await.map_err(|error| match exit::code_of(&error) {
        exit::CONFIG => place::configuration("redis", error.to_string()),
        _ => Failure::Unreachable(format!("{error:#}")),
    })?;
    let mut add = cmd("XADD");
    add.arg(&redis.config().client_events_stream).arg("*").arg("user_id").arg(&user).arg("event_type").arg(&event_type);
    add.arg("payload_bytes").arg(&payload[..]);
    for (name, value) in [("device_session_id", &device), ("request_id", &request_id)] {
        if let Some(value) = value {
            add.arg(name).arg(value);
        }
    }
    let event_id: String = redis.run(&add).await.map_err(|error| refused(&error))?;
    if output.is_json() {
        output.document(&json!({"event_id": event_id, "user_id": user, "event_type": event_type}))
    } else {
        output.line(&event_id)
    }
}

fn refused(error: &RedisError) -> Failure {
    if error.is_answer() { Failure::failed(error.to_string()) } else { Failure::Unreachable(error.to_string()) }
}
