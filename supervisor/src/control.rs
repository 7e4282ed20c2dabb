//! The control socket: `Status`, answered from the last published snapshot, so that it needs neither the suite's task nor Redis nor a database.

mod desk;

use std::time::{Duration, Instant};

use gatehouse_proto::internal::v1::{
    ChangeRequest, ChangeResponse, InstanceStatus, Members, StatusRequest, StatusResponse, VerdictRequest, VerdictResponse, change_request,
    supervisor_server::{Supervisor, SupervisorServer},
};
use tokio::sync::watch;

use crate::{component::Component, suite::Published};
use tonic::{Request, Response, Status};

pub(crate) use desk::{Change, Desk, DeskEnd, Order, Target};

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
    #[expect(dead_code, reason = "placeholder")]
    members: watch::Receiver<Members>,
    desk: Desk,
}

impl Control {
    /// The service, and the driver's side of what it asks and reads.
    pub(crate) fn new() -> (Self, DeskEnd, Published) {
        let (publish, snapshot) = watch::channel(Snapshot::default());
        let (publish_members, members) = watch::channel(Members::default());
        let (desk, end) = Desk::new();
        (Self { snapshot, members, desk }, end, Published { snapshot: publish, members: publish_members })
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

    async fn change(&self, request: Request<ChangeRequest>) -> Result<Response<ChangeResponse>, Status> {
        let ChangeRequest { reason, change } = request.into_inner();
        let target = |target: gatehouse_proto::internal::v1::Target| {
            let component = Component::of(&target.component).ok_or_else(|| Status::invalid_argument("no such component"))?;
            Ok::<_, Status>(Target { component, instance: target.instance })
        };
        let change = match change {
            Some(change_request::Change::Restart(of)) => Change::Restart(target(of)?),
            Some(change_request::Change::Stop(of)) => Change::Stop(target(of)?),
            Some(change_request::Change::Start(of)) => Change::Start(target(of)?),
            Some(change_request::Change::Scale(scale)) => Change::Scale { instances: scale.instances },
            Some(change_request::Change::Upgrade(upgrade)) => {
                Change::Upgrade { directory: (!upgrade.directory.is_empty()).then(|| upgrade.directory.into()) }
            }
            None => return Err(Status::invalid_argument("no change")),
        };
        let id = uuid::Uuid::now_v7().to_string();
        let order = Order { id: id.clone(), actor: "somebody".into(), reason, change, queued: std::time::SystemTime::now() };
        self.desk.orders.try_send(order).map_err(|_| Status::resource_exhausted("too many changes wait"))?;
        Ok(Response::new(ChangeResponse { change_id: id }))
    }

    async fn verdict(&self, request: Request<VerdictRequest>) -> Result<Response<VerdictResponse>, Status> {
        let id = request.into_inner().change_id;
        loop {
            let found = self.desk.find(&id);
            if found.as_ref().is_some_and(|found| found.state == "done" || found.state == "failed") {
                return Ok(Response::new(VerdictResponse { change: found }));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
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
