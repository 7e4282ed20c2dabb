//! `gatehouse status`: what the supervisor knows of every process.

use std::path::Path;

use gatehouse_proto::internal::v1::{ChangeStatus, InstanceStatus, StatusRequest, StatusResponse};
use serde::Serialize;
use serde_json::Value;

use super::{
    change::{document, sentence},
    supervisor::{BOUND, PEER, connect},
    time::span,
};
use crate::{failure::Failure, local, output::Output};

#[derive(Serialize)]
struct Suite {
    ready: bool,
    draining: bool,
    supervisor: Supervisor,
    instances: Vec<Instance>,
    /// Queued and running.
    changes: Vec<Value>,
    listeners: Vec<Listener>,
}

#[derive(Serialize)]
struct Supervisor {
    pid: u32,
    build: Option<String>,
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
    build: Option<String>,
}

#[derive(Serialize)]
struct Listener {
    name: String,
    address: String,
}

pub async fn status(config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let status = local::answer(PEER, BOUND, connect(config).await?.status(StatusRequest {})).await?;
    let changes: Vec<_> = status.changes.iter().map(asked).collect();
    let suite = Suite::from(status);
    if output.is_json() { output.document(&suite) } else { suite.print(&changes, output) }
}

impl Suite {
    fn print(self, changes: &[String], output: &mut Output) -> Result<(), Failure> {
        let summary = match (self.draining, self.ready) {
            (true, _) => "draining",
            (false, true) => "ready",
            (false, false) => "not ready",
        };
        // All of one build is as it should be, and needs no column.
        let mut builds: Vec<_> =
            self.instances.iter().filter_map(|instance| instance.build.as_ref()).chain(&self.supervisor.build).collect();
        builds.sort();
        builds.dedup();
        let differ = builds.len() > 1;
        let rows = self.instances.into_iter().map(|instance| instance.row(differ));
        if differ {
            let heading = ["COMPONENT", "INSTANCE", "GENERATION", "STATE", "PID", "UPTIME", "RESTARTS", "LAST EXIT", "BUILD", "DETAIL"];
            output.table(heading, rows)?;
        } else {
            let heading = ["COMPONENT", "INSTANCE", "GENERATION", "STATE", "PID", "UPTIME", "RESTARTS", "LAST EXIT", "DETAIL"];
            output.table(heading, rows.map(|[a, b, c, d, e, f, g, h, _, detail]| [a, b, c, d, e, f, g, h, detail]))?;
        }
        output.line("")?;
        output.line(&format!("The suite is {summary}."))?;
        for change in changes {
            output.sentence(change)?;
        }
        let supervisor = self.supervisor.build.filter(|_| differ).map(|build| ("supervisor", build));
        let listeners = self.listeners.iter().map(|listener| (listener.name.as_str(), listener.address.clone()));
        output.facts(&supervisor.into_iter().chain(listeners).collect::<Vec<_>>())
    }
}

/// `restart pusher: running for 1.2 s, by alice (uid 1000): it leaks`.
fn asked(change: &ChangeStatus) -> String {
    let reason = if change.reason.is_empty() { String::new() } else { format!(": {}", change.reason) };
    format!("{}, by {}{reason}", sentence(change), change.actor)
}

impl Instance {
    /// With its build before the last column.
    fn row(self, differ: bool) -> [String; 10] {
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
            self.build.filter(|_| differ).unwrap_or_else(absent),
            self.detail.unwrap_or_default(),
        ]
    }
}

impl From<StatusResponse> for Suite {
    fn from(status: StatusResponse) -> Self {
        let StatusResponse { ready, draining, instances, listeners, pid, build, changes } = status;
        let listeners = listeners.into_iter().map(|listener| Listener { name: listener.name, address: listener.address });
        Self {
            ready,
            draining,
            supervisor: Supervisor { pid, build: present(build) },
            instances: instances.into_iter().map(Instance::from).collect(),
            changes: changes.iter().map(document).collect(),
            listeners: listeners.collect(),
        }
    }
}

impl From<InstanceStatus> for Instance {
    fn from(status: InstanceStatus) -> Self {
        let InstanceStatus { component, instance, generation, state, pid, uptime_ms, restarts, last_exit, detail, build } = status;
        let (last_exit, detail, build) = (present(last_exit), present(detail), present(build));
        Self { component, instance, generation, state, pid, uptime_ms, restarts, last_exit, detail, build }
    }
}

fn present(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
