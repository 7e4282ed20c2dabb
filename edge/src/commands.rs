//! Signed commands: verified, routed, carried out by a downstream, signed, recorded, answered.
//!
//! From the moment its request id may be used up, a command goes on to its record even when the client has left: tonic drops a handler whose client
//! disconnects, and what was done, or can no longer be done, must stand in the trail.

mod finish;
mod kept;

use std::{sync::Arc, time::Duration};

use gatehouse_chassis::keys::Keys;
use gatehouse_proto::{
    downstream::v1::ExecuteResponse,
    gateway::v1::{ExecuteCommandRequest, ExecuteCommandResponse},
    keys::sha256,
    signing::{self, PROTOCOL_VERSION},
};
use gatehouse_sessions::{Refusal, Rejected, Session, Verifier, door::Caller, now_ms, verdict};
use tonic::{Code, Status};

use crate::{
    admission::{Admission, Bound, Place, Refused, Room},
    backends::{Backend, Call, Deadline, Failure},
    closing::Closing,
    config::{Audit, Priority, Replay},
    routing::Routing,
    trail::{self, Act, Outcome, Trail},
};
pub(crate) use finish::to_the_end;
use kept::Fate;

/// Carries out commands; one for the process.
#[derive(Debug)]
pub(crate) struct Commands {
    pub(crate) verifier: Verifier,
    pub(crate) routing: Arc<Routing>,
    pub(crate) admission: Admission,
    pub(crate) trail: Trail,
    pub(crate) keys: Keys,
    pub(crate) closing: Closing,
}

/// Where commands of one type go.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) backend: Arc<Backend>,
    /// What that backend may have to do at once.
    pub(crate) room: Room,
    pub(crate) timeout: Duration,
    pub(crate) audit: Audit,
    pub(crate) replay: Replay,
    pub(crate) idempotent: bool,
    pub(crate) path: Option<http::uri::PathAndQuery>,
    pub(crate) priority: Priority,
    /// An operator took it out of service.
    pub(crate) disabled: bool,
}

impl Commands {
    /// The answer, once the trail has it. `patience` is how long the client waits.
    pub(crate) async fn execute(
        self: &Arc<Self>,
        request: ExecuteCommandRequest,
        caller: Caller,
        patience: Option<Duration>,
    ) -> Result<ExecuteCommandResponse, Status> {
        if self.closing.is_over() {
            return Err(verdict::shutting_down());
        }
        let route = self.routing.now().command(&request.message_type).cloned();
        // At the door, and before anything is reserved: what is refused here may be sent again as it is.
        let (priority, room) = route.as_ref().map_or((Priority::Normal, None), |route| (route.priority, Some(&route.room)));
        let place = self.admission.enter(priority, room).await.map_err(overloaded)?;
        let route = match route {
            Some(route) if route.replay == Replay::Answer => {
                return self.execute_kept(route, place, request, caller, patience).await;
            }
            route => route,
        };
        let this = Arc::clone(self);
        let whole = async move { this.execute_once(route, place, &request, &caller, patience).await };
        to_the_end(self.closing.shutdown(), "command", whole).await
    }

    /// Carries out a command whose answer is not kept.
    async fn execute_once(
        &self,
        route: Option<Arc<Route>>,
        place: Place,
        request: &ExecuteCommandRequest,
        caller: &Caller,
        patience: Option<Duration>,
    ) -> Result<ExecuteCommandResponse, Status> {
        let session = match caller.trace.step("verify").around(self.verifier.command(request, caller.address)).await {
            Ok(session) => session,
            Err(rejected) => return Err(self.reject(request, caller, &rejected)),
        };
        let refused = |cause, status: Status| {
            self.trail.refuse(cause, act(request, None), caller, Some(&session), Outcome::Denied, status.code());
            Err(status)
        };
        let route = match route {
            None => return refused("not_routed", verdict::not_routed()),
            Some(route) if route.disabled => return refused("route_disabled", verdict::route_disabled()),
            Some(route) => route,
        };
        self.carry_out(&route, place, request, caller, &session, patience).await.0
    }

    /// The answer, and what a retry may make of it.
    async fn carry_out(
        &self,
        route: &Route,
        mut place: Place,
        request: &ExecuteCommandRequest,
        caller: &Caller,
        session: &Session,
        patience: Option<Duration>,
    ) -> (Result<ExecuteCommandResponse, Status>, Fate) {
        let on = Some((route.backend.name(), "backend"));
        let intent = || act(request, on).intent(caller, Some(session));
        let _place = match self.trail.begin(route.audit, "command", intent).await {
            Ok(place) => place,
            Err(error) => return (Err(trail::unavailable(error)), Fate::Untouched),
        };
        // One deadline from the request on: what verification took is no longer there for the downstream.
        let left = patience.map(|patience| patience.saturating_sub(caller.since.elapsed()));
        let (path, tracestate) = (route.path.as_ref(), caller.trace.state());
        let call = Call { command: request, session, path, idempotent: route.idempotent, tracestate };
        let calling = caller.trace.call(route.backend.name());
        let deadline = Deadline::new(route.timeout, left);
        let seat = tokio::select! {
            seat = place.outside(self.admission.seat(route.priority, &route.room, deadline.left())) => seat.map_err(|refused| no_seat(route, refused)),
            () = self.closing.last_call() => Err(verdict::shutting_down()),
        };
        let (result, fate) = match seat {
            Err(status) => (Err(status), Fate::Untouched),
            Ok(_seat) => tokio::select! {
                result = place.outside(route.backend.execute(&call, deadline)) => {
                    let fate = Fate::of(&result);
                    (result.map_err(Failure::into_status), fate)
                }
                () = self.closing.last_call() => (Err(route.backend.abandon()), Fate::Unknown),
            },
        };
        let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
        calling.end_with(code);
        let record = act(request, on).grpc(caller, session, Outcome::of(code), code);
        // The answer is signed while the record is on its way.
        let recorded = caller.trace.step("audit").around(self.trail.keep(route.audit, "command", record));
        let (recorded, answer) = tokio::join!(recorded, async { result.map(|result| self.answer(request, result)) });
        match recorded {
            Ok(()) => (answer, fate),
            Err(error) => (Err(trail::unavailable(error)), fate.withheld()),
        }
    }

    /// What somebody is told who is refused; noted in the trail.
    fn reject(&self, request: &ExecuteCommandRequest, caller: &Caller, rejected: &Rejected) -> Status {
        let (status, outcome) = (rejected.refusal.status(), outcome_of(rejected.refusal));
        let (cause, session) = (rejected.refusal.reason(), rejected.session.as_deref());
        self.trail.refuse(cause, act(request, None), caller, session, outcome, status.code());
        status
    }

    fn answer(&self, request: &ExecuteCommandRequest, result: ExecuteResponse) -> ExecuteCommandResponse {
        // Once: the id in the answer is that of the key that signs it.
        let signer = self.keys.signer();
        let result_code = if result.result_code.is_empty() { "ok".to_owned() } else { result.result_code };
        let mut answer = ExecuteCommandResponse {
            protocol_version: PROTOCOL_VERSION.to_owned(),
            request_id: request.request_id.clone(),
            result_code,
            timestamp_ms: now_ms(),
            payload_hash: sha256(&result.payload_bytes).to_vec().into(),
            payload_bytes: result.payload_bytes,
            signature: bytes::Bytes::new(),
            signer_key_id: signer.key_id().to_owned(),
        };
        answer.signature = signer.sign(&signing::response(&request.device_session_id, &answer)).to_vec().into();
        answer
    }
}

fn act<'a>(request: &'a ExecuteCommandRequest, on: Option<(&'a str, &'static str)>) -> Act<'a> {
    Act { action_type: "command", action: &request.message_type, request_id: &request.request_id, on }
}

/// What a client is told that was not let in.
fn overloaded(refused: Refused) -> Status {
    match refused.by {
        Bound::Gateway => verdict::overloaded(refused.retry_after),
        Bound::Backend => verdict::retry_after(verdict::downstream_unavailable(), refused.retry_after),
    }
}

/// What a client is told whose command was let in and found no seat until its time was up. Its id is used up, unless it is given back with the answer that there is none.
fn no_seat(route: &Route, refused: Refused) -> Status {
    match route.replay {
        Replay::Answer => overloaded(refused),
        Replay::Refuse => verdict::downstream_unavailable(),
    }
}

/// Undecided is not denied.
pub(crate) const fn outcome_of(refusal: Refusal) -> Outcome {
    match refusal {
        Refusal::StoreUnavailable => Outcome::Error,
        _ => Outcome::Denied,
    }
}
