//! Signed commands, each answered by a signed result or classified.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use gatehouse_proto::gateway::v1::gateway_client::GatewayClient;
use tokio::{sync::watch, time::timeout};

use super::{
    Fault, Kind, PATIENCE, Pace, Stage,
    backends::COMMAND,
    begins, goes_on,
    line::Line,
    tally::{Op, Tally},
};
use crate::{Device, GatewayKey};

/// One device.
#[derive(Debug)]
pub(super) struct Caller {
    client: GatewayClient<Line>,
    key: GatewayKey,
    device: Device,
    pace: Pace,
    tally: Arc<Tally>,
    told: watch::Receiver<Stage>,
}

impl Caller {
    pub(super) fn new(line: Line, key: GatewayKey, device: Device, pace: Pace, tally: Arc<Tally>, told: watch::Receiver<Stage>) -> Self {
        let origin = line.origin();
        Self { client: GatewayClient::with_origin(line, origin), key, device, pace, tally, told }
    }

    pub(super) async fn run(mut self) {
        begins(&mut self.told).await;
        let mut ticks = self.pace.ticks();
        while goes_on(&self.told) {
            ticks.tick().await;
            let op = self.tally.begin(Kind::Command);
            self.send(op).await;
        }
    }

    async fn send(&mut self, op: Op) {
        let request = self.device.command(COMMAND, "load");
        match timeout(PATIENCE, self.client.execute_command(request.clone())).await {
            Ok(Ok(response)) => {
                let check = || self.key.check_response(&request, response.get_ref());
                match catch_unwind(AssertUnwindSafe(check)) {
                    Ok(()) => self.tally.command_answered(op, &request.request_id),
                    Err(_) => self.tally.failed(op, Fault::Wrong("not the gateway's answer to this request".into()), None),
                }
            }
            Ok(Err(status)) => {
                let (fault, connected) = Fault::of(&status);
                self.tally.failed(op, fault, connected);
            }
            Err(_) => self.tally.failed(op, Fault::TimedOut, None),
        }
    }
}
