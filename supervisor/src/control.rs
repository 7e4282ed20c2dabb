//! The control socket: `Status`, answered from the last published snapshot, so that it needs neither the suite's task nor Redis nor a database.

mod exits;
mod logs;

use std::time::{Duration, Instant};

use gatehouse_proto::internal::v1::{
    ExitsRequest, ExitsResponse, InstanceStatus, LogLine, LogsRequest, StatusRequest, StatusResponse,
    supervisor_server::{Supervisor, SupervisorServer},
};
use tokio::sync::watch;
use tonic::{Request, Response, Status, codegen::BoxStream};

use crate::{component::Component, ledger::Ledger, output::Output};

/// What the suite publishes after every change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) status: StatusResponse,
    /// Since when each instance's process runs, in the order of the instances: uptimes are those of the moment of the question.
    pub(crate) started: Vec<Option<Instant>>,
}

/// The service.
#[derive(Debug)]
pub(crate) struct Control {
    snapshot: watch::Receiver<Snapshot>,
    output: Output,
    ledger: Ledger,
}

impl Control {
    /// The service and what it reads from.
    pub(crate) fn new(output: Output, ledger: Ledger) -> (Self, watch::Sender<Snapshot>) {
        let (publish, snapshot) = watch::channel(Snapshot::default());
        (Self { snapshot, output, ledger }, publish)
    }

    /// For the local socket.
    pub(crate) fn into_server(self) -> SupervisorServer<Self> {
        SupervisorServer::new(self)
    }
}

#[tonic::async_trait]
impl Supervisor for Control {
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let Snapshot { mut status, started } = self.snapshot.borrow().clone();
        for (instance, started) in status.instances.iter_mut().zip(started) {
            instance.uptime_ms = started.map_or(0, |started| millis(started.elapsed()));
        }
        Ok(Response::new(status))
    }

    async fn exits(&self, request: Request<ExitsRequest>) -> Result<Response<ExitsResponse>, Status> {
        exits::answer(&self.ledger, &request.into_inner()).map(Response::new)
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<BoxStream<LogLine>>, Status> {
        logs::answer(&self.output, &request.into_inner()).map(Response::new)
    }
}

/// The component that a request names; empty: all.
fn component(name: &str) -> Result<Option<Component>, Status> {
    if name.is_empty() {
        return Ok(None);
    }
    let unknown = || Status::invalid_argument(format!("no component {name:?}; there are redis, auditor, pusher, edge, admin"));
    Component::named(name).map(Some).ok_or_else(unknown)
}

/// As numbers on the wire and in logs.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `5 of 6 ready; pusher-1 backing_off`: for systemd's STATUS.
pub(crate) fn summary(instances: &[InstanceStatus]) -> String {
    let ready = instances.iter().filter(|instance| instance.state == "ready").count();
    let others = instances.iter().filter(|instance| instance.state != "ready");
    let others: Vec<_> = others.map(|instance| format!("{}-{} {}", instance.component, instance.instance, instance.state)).collect();
    let list = if others.is_empty() { String::new() } else { format!("; {}", others.join(", ")) };
    format!("{ready} of {} ready{list}", instances.len())
}
