//! The control socket. Questions are answered from what the driver last published, so that they need neither its task nor Redis nor a database. Changes are checked,
//! recorded and queued for it.

mod ask;
mod board;
mod change;
mod desk;
mod edge;
mod exits;
mod keys;
mod logs;
mod operators;
mod provenance;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::stream;
use gatehouse_chassis::{Process, connections::Credentials, exit::Fatal, ipc::Channel};
use gatehouse_proto::{
    control::{CLAIMED_USER, COMPONENTS, MAX_REASON_BYTES, target},
    internal::v1::{
        BreakersRequest, BreakersResponse, ChangeRequest, ChangeResponse, ChangesRequest, ChangesResponse, ExitsRequest, ExitsResponse,
        InstanceStatus, LogLine, LogsRequest, Members, RoutesRequest, RoutesResponse, StatusRequest, StatusResponse, VerdictRequest,
        VerdictResponse, WatchMembersRequest,
        edge_client::EdgeClient,
        supervisor_server::{Supervisor, SupervisorServer},
    },
};
use nix::unistd::Uid;
use tokio::sync::{oneshot, watch};
use tonic::{Code, Request, Response, Status, codegen::BoxStream};

pub(crate) use ask::Ask;
pub(crate) use board::{Board, is_over};
pub(crate) use change::{Change, Order, Target};
pub(crate) use desk::{Desk, DeskEnd};
pub use operators::Access;

use crate::{
    audit::{self, Trail},
    component::Component,
    ledger::Ledger,
    output::Output,
};
use desk::NoSeat;
use operators::{Admission, Operators};

/// Changes that one answer lists, unless another number was asked for.
const LISTED: u32 = 50;

/// What the suite publishes after every change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) status: StatusResponse,
    /// Since when each instance's process runs, in the order of the instances: uptimes are those of the moment of the question.
    pub(crate) started: Vec<Option<Instant>>,
}

/// The driver's ends of what the service reads and hands on.
#[derive(Debug)]
pub(crate) struct ControlEnds {
    pub(crate) snapshot: watch::Sender<Snapshot>,
    pub(crate) members: watch::Sender<Members>,
    pub(crate) desk: DeskEnd,
}

/// What children said, and how they ended.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    pub(crate) output: Output,
    pub(crate) ledger: Ledger,
}

/// The service.
#[derive(Debug)]
pub(crate) struct Control {
    process: Process,
    operators: Arc<Operators>,
    trail: Arc<Trail>,
    desk: Desk,
    snapshot: watch::Receiver<Snapshot>,
    members: watch::Receiver<Members>,
    records: Records,
    edge: EdgeClient<Channel>,
}

impl Control {
    /// For the control socket at that path, which it gives to its group. The trail is followed from here on, until the driver's ends are dropped.
    pub(crate) fn open(process: &Process, access: &Access, socket: &Path, records: Records) -> Result<(Self, ControlEnds), Fatal> {
        let operators = Operators::open(access, socket)?;
        let (snapshot_end, snapshot) = watch::channel(Snapshot::default());
        let (members_end, members) = watch::channel(Members::default());
        let (desk, desk_end) = Desk::new();
        let trail = Arc::new(Trail::new(process));
        let (follow, board) = (Arc::clone(&trail), desk.board());
        process.spawn("control-trail", async move { follow.follow(board).await });
        let ends = ControlEnds { snapshot: snapshot_end, members: members_end, desk: desk_end };
        let edge = edge::client(process.shared());
        Ok((Self { process: process.clone(), operators: Arc::new(operators), trail, desk, snapshot, members, records, edge }, ends))
    }

    /// For the local socket.
    pub(crate) fn into_server(self) -> SupervisorServer<Self> {
        SupervisorServer::new(self)
    }

    /// Checks what cannot be known before the suite is: whether there is such an instance.
    fn exists(&self, change: &Change) -> Result<(), String> {
        let Some(Target { component, instance }) = change.target() else { return Ok(()) };
        let snapshot = self.snapshot.borrow();
        let mut known: Vec<_> = snapshot.status.instances.iter().filter(|known| known.component == component.name()).collect();
        known.dedup_by_key(|known| known.instance);
        // A scaling that waits may be about to make it; the driver knows when it gets there.
        let scaling = || self.desk.board().borrow().open().iter().any(|change| change.what.starts_with("scale"));
        if snapshot.status.instances.is_empty() || known.iter().any(|known| instance.is_none_or(|instance| instance == known.instance)) {
            Ok(())
        } else if known.is_empty() {
            Err(format!("this suite runs no {}: it uses one that others run", component.name()))
        } else if scaling() {
            Ok(())
        } else {
            let known: Vec<_> = known.iter().map(|known| target(&known.component, Some(known.instance))).collect();
            Err(format!("there is no {}, only {}", target(component.name(), instance), known.join(", ")))
        }
    }

    /// Whether a change may be queued as it is, whoever asks.
    fn check(&self, change: Result<Change, String>, reason: &str) -> Result<Change, Status> {
        let change = change.map_err(Status::invalid_argument)?;
        if reason.len() > MAX_REASON_BYTES {
            return Err(Status::invalid_argument(format!("the reason has {} bytes; {MAX_REASON_BYTES} are the most", reason.len())));
        }
        self.exists(&change).map_err(Status::invalid_argument)?;
        Ok(change)
    }

    /// Whether this asker may have those binaries run.
    async fn vouch(change: &Change, asker: &Admission) -> Result<(), Status> {
        let (Change::Upgrade { directory: Some(directory) }, false) = (change, asker.is_owner) else { return Ok(()) };
        let (directory, own) = (directory.clone(), Uid::effective().as_raw());
        let found = tokio::task::spawn_blocking(move || provenance::problem(&directory, own));
        let problem = found.await.map_err(|error| Status::internal(error.to_string()))?;
        problem.map_or(Ok(()), |problem| Err(Status::failed_precondition(problem)))
    }

    async fn queue(&self, order: Order) -> Result<ChangeResponse, Status> {
        let seat = match self.desk.reserve() {
            Ok(seat) => seat,
            Err(no_seat) => {
                let code = match no_seat {
                    NoSeat::Full => Code::ResourceExhausted,
                    NoSeat::Closed => Code::Unavailable,
                    NoSeat::Paused => Code::Aborted,
                };
                self.trail.asked(record_of(&order, code)).await;
                return Err(Status::new(code, no_seat.to_string()));
            }
        };
        // Recorded and queued both or neither, whether or not the asker is still there.
        let (queued, answer) = oneshot::channel();
        let (trail, desk) = (Arc::clone(&self.trail), self.desk.clone());
        self.process.spawn("control-change", async move {
            trail.asked(record_of(&order, Code::Ok)).await;
            let (change, actor, reason, id) = (order.change.to_string(), order.actor.clone(), order.reason.clone(), order.id.clone());
            seat.take(order);
            tracing::info!(change, actor, reason, change.id = id, "change queued");
            // Whoever has its id may rely on it, also when the supervisor dies.
            desk.noted().await;
            // The asker may have gone; the change has not.
            let _gone = queued.send(ChangeResponse { change_id: id });
        });
        answer.await.map_err(|_| Status::unavailable("the suite is ending"))
    }
}

fn record_of(order: &Order, answer: Code) -> audit::Request<'_> {
    audit::Request { id: &order.id, actor: &order.actor, reason: &order.reason, change: Some(&order.change), answer }
}

#[tonic::async_trait]
impl Supervisor for Control {
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let Snapshot { mut status, started } = self.snapshot.borrow().clone();
        for (instance, started) in status.instances.iter_mut().zip(started) {
            instance.uptime_ms = started.map_or(0, |started| millis(started.elapsed()));
        }
        status.pid = std::process::id();
        status.changes = self.desk.board().borrow().open();
        Ok(Response::new(status))
    }

    async fn watch_members(&self, _request: Request<WatchMembersRequest>) -> Result<Response<BoxStream<Members>>, Status> {
        let mut members = self.members.clone();
        // Now, whatever was seen before.
        members.mark_changed();
        let next = async |mut members: watch::Receiver<Members>| {
            loop {
                members.changed().await.ok()?;
                let now = members.borrow_and_update().clone();
                // Before the driver's first word there are none: a supervisor that just took over from another would empty the suite.
                if !now.members.is_empty() {
                    return Some((Ok(now), members));
                }
            }
        };
        Ok(Response::new(Box::pin(stream::unfold(members, next))))
    }

    async fn change(&self, request: Request<ChangeRequest>) -> Result<Response<ChangeResponse>, Status> {
        if self.process.shutdown().is_draining() {
            return Err(Status::unavailable(NoSeat::Closed.to_string()));
        }
        let credentials = request.extensions().get::<Credentials>().cloned();
        let claimed = request.metadata().get(CLAIMED_USER).and_then(|claimed| claimed.to_str().ok()).map(ToOwned::to_owned);
        let ChangeRequest { reason, change } = request.into_inner();
        let (id, reason, change) = (uuid::Uuid::now_v7().to_string(), reason.trim().to_owned(), Change::read(change));
        let asker = self.operators.admit(credentials, claimed.as_deref()).await;
        if let Err(why) = asker.permitted {
            let (actor, reason) = (asker.actor.as_str(), &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)]);
            tracing::warn!(actor, change.id = id, "change denied");
            self.trail.asked(audit::Request { id: &id, actor, reason, change: change.as_ref().ok(), answer: Code::PermissionDenied }).await;
            return Err(Status::permission_denied(format!("{actor}: {why}")));
        }
        let change = self.check(change, &reason)?;
        let vouched = Self::vouch(&change, &asker).await;
        let order = Order { id, actor: asker.actor, reason, change, queued: SystemTime::now() };
        if let Err(refusal) = vouched {
            // Not a slip: somebody asked for binaries that may be theirs.
            let (change, actor) = (order.change.to_string(), &order.actor);
            tracing::warn!(change, actor, change.id = order.id, why = refusal.message(), "change refused");
            self.trail.asked(record_of(&order, refusal.code())).await;
            return Err(refusal);
        }
        self.queue(order).await.map(Response::new)
    }

    async fn verdict(&self, request: Request<VerdictRequest>) -> Result<Response<VerdictResponse>, Status> {
        let VerdictRequest { change_id, wait } = request.into_inner();
        let change = if wait { self.desk.over(&change_id).await } else { self.desk.board().borrow().find(&change_id) };
        let change = change.ok_or_else(|| Status::not_found("no such change is known: it was never queued, or is over for long"))?;
        Ok(Response::new(VerdictResponse { change: Some(change) }))
    }

    async fn changes(&self, request: Request<ChangesRequest>) -> Result<Response<ChangesResponse>, Status> {
        let limit = match request.into_inner().limit {
            0 => LISTED,
            limit => limit,
        };
        let changes = self.desk.board().borrow().newest(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(Response::new(ChangesResponse { changes }))
    }

    async fn exits(&self, request: Request<ExitsRequest>) -> Result<Response<ExitsResponse>, Status> {
        exits::answer(&self.records.ledger, &request.into_inner()).map(Response::new)
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<BoxStream<LogLine>>, Status> {
        logs::answer(&self.records.output, &request.into_inner()).map(Response::new)
    }

    async fn routes(&self, request: Request<RoutesRequest>) -> Result<Response<RoutesResponse>, Status> {
        edge::answer(self.edge.clone().routes(request.into_inner())).await
    }

    async fn breakers(&self, request: Request<BreakersRequest>) -> Result<Response<BreakersResponse>, Status> {
        edge::answer(self.edge.clone().breakers(request.into_inner())).await
    }
}

/// The component that a question is about; empty: all.
fn component(name: &str) -> Result<Option<Component>, Status> {
    if name.is_empty() {
        return Ok(None);
    }
    let unknown = || Status::invalid_argument(format!("no component is called `{name}`; there are {}", COMPONENTS.join(", ")));
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

#[cfg(test)]
mod tests;
