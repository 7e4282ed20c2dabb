//! `gatehouse status`: what the supervisor knows of every process.

use std::{path::Path, time::Duration};

use gatehouse_proto::internal::v1::{InstanceStatus, StatusRequest, StatusResponse, supervisor_client::SupervisorClient};
use serde::Serialize;

use crate::{failure::Failure, local, output::Output, place::Place};

const PEER: &str = "the supervisor";
const BOUND: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Suite {
    ready: bool,
    draining: bool,
    instances: Vec<Instance>,
    listeners: Vec<Listener>,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are the document's")]
struct Instance {
    component: String,
    instance: u32,
    generation: u32,
    state: String,
    pid: Option<u32>,
    uptime_ms: u64,
    restarts: u32,
    last_exit: Option<String>,
    detail: Option<String>,
}

#[derive(Serialize)]
struct Listener {
    name: String,
    address: String,
}

pub async fn status(config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let channel = local::open(PEER, &Place::find(config)?.supervisor()).await?;
    let suite = local::answer(PEER, BOUND, SupervisorClient::new(channel).status(StatusRequest {})).await?;
    let suite = Suite::from(suite);
    if output.is_json() { output.document(&suite) } else { suite.print(output) }
}

impl Suite {
    fn print(self, output: &mut Output) -> Result<(), Failure> {
        let heading = ["COMPONENT", "INSTANCE", "GENERATION", "STATE", "PID", "UPTIME", "RESTARTS", "LAST EXIT", "DETAIL"];
        let summary = match (self.draining, self.ready) {
            (true, _) => "draining",
            (false, true) => "ready",
            (false, false) => "not ready",
        };
        output.table(heading, self.instances.into_iter().map(Instance::row))?;
        output.line("")?;
        output.line(&format!("The suite is {summary}."))?;
        let listeners: Vec<_> = self.listeners.iter().map(|listener| (listener.name.as_str(), listener.address.clone())).collect();
        output.facts(&listeners)
    }
}

impl Instance {
    fn row(self) -> [String; 9] {
        let absent = || "-".to_owned();
        [
            self.component,
            self.instance.to_string(),
            self.generation.to_string(),
            self.state,
            self.pid.map_or_else(absent, |pid| pid.to_string()),
            if self.pid.is_some() { span(self.uptime_ms) } else { absent() },
            self.restarts.to_string(),
            self.last_exit.unwrap_or_else(absent),
            self.detail.unwrap_or_default(),
        ]
    }
}

impl From<StatusResponse> for Suite {
    fn from(status: StatusResponse) -> Self {
        let StatusResponse { ready, draining, instances, listeners, .. } = status;
        let listeners = listeners.into_iter().map(|listener| Listener { name: listener.name, address: listener.address });
        Self { ready, draining, instances: instances.into_iter().map(Instance::from).collect(), listeners: listeners.collect() }
    }
}

impl From<InstanceStatus> for Instance {
    fn from(status: InstanceStatus) -> Self {
        let InstanceStatus { component, instance, generation, state, pid, uptime_ms, restarts, last_exit, detail, .. } = status;
        let present = |text: String| (!text.is_empty()).then_some(text);
        let (last_exit, detail) = (present(last_exit), present(detail));
        Self { component, instance, generation, state, pid, uptime_ms, restarts, last_exit, detail }
    }
}

/// A length of time by its two largest units.
fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{days}d {}h", hours % 24),
        () if hours > 0 => format!("{hours}h {}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m {}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_is_told_by_its_two_largest_units() {
        for (ms, told) in [(0, "0s"), (999, "0s"), (61_000, "1m 1s"), (7_260_000, "2h 1m"), (90_000_000, "1d 1h")] {
            assert_eq!(span(ms), told);
        }
    }
}
