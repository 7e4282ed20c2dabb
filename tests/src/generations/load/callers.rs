//! Clients that execute commands.

use std::{sync::Arc, time::Duration};

use gatehouse_chassis::ipc;
use gatehouse_proto::gateway::v1::gateway_client::GatewayClient;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::transport::Channel;

use super::Seen;
use crate::{Device, GatewayKey, wait::PATIENCE};

/// Sends one command after the other. With `again`, what the server has surely not taken is sent again on another connection, as gRPC libraries do unasked
/// (gRFC A6, "transparent retries"); tonic does not.
pub(super) async fn call(channel: Channel, again: bool, key: GatewayKey, device: Device, seen: Arc<Seen>, stopped: watch::Receiver<bool>) {
    let mut plain = GatewayClient::new(channel.clone());
    let mut repeating = GatewayClient::new(ipc::Channel::from(channel));
    while !*stopped.borrow() {
        let request = device.command("demo.echo", "traffic");
        let answer =
            async { if again { repeating.execute_command(request.clone()).await } else { plain.execute_command(request.clone()).await } };
        match timeout(PATIENCE, answer).await {
            Ok(Ok(response)) => {
                key.check_response(&request, response.get_ref());
                seen.count(if again { "commands" } else { "commands of plain clients" });
            }
            Ok(Err(status)) if again => seen.count(format!("failed: command: {:?} {}", status.code(), status.message())),
            Ok(Err(status)) => seen.count(format!("failed: command of a plain client: {:?} {}", status.code(), status.message())),
            Err(_) => seen.count("failed: command without an answer"),
        }
        sleep(Duration::from_millis(10)).await;
    }
}
