//! Commands whose answers are kept (`replay = "answer"`): a retry with the same envelope is given what the first was given, byte for byte, and nothing is
//! carried out twice. Who comes while the first is being carried out waits for it, on whichever edge that is.
//!
//! The first is carried out to its end within the route's time, however long its client waits: a client that has left, or whose time was up, finds the
//! answer when it asks again.

use std::{sync::Arc, time::Duration};

use gatehouse_proto::{
    downstream::v1::ExecuteResponse,
    gateway::v1::{ExecuteCommandRequest, ExecuteCommandResponse},
};
use gatehouse_sessions::{Claimed, Found, Keepsake, Rejected, Session, door::Caller, verdict};
use prost::Message as _;
use tonic::{Code, Status};

use super::{Commands, Route, act, to_the_end};
use crate::{
    admission::Place,
    backends::Failure,
    trail::{self, Outcome},
};

/// What carrying a command out may take beyond its route's time: signing, the record, keeping the answer.
const MARGIN: Duration = Duration::from_secs(10);
/// A retry is answered by so much before its client's time is up, so that it hears it from us.
const HASTE: Duration = Duration::from_millis(100);

/// What is known of a command that was carried out, or was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The backend has answered, or has said no.
    Settled,
    /// It reached nobody.
    Untouched,
    /// It may have been carried out.
    Unknown,
}

impl Fate {
    pub(super) fn of(result: &Result<ExecuteResponse, Failure>) -> Self {
        match result {
            Ok(_) => Self::Settled,
            Err(failure) if failure.is_untouched() => Self::Untouched,
            Err(failure) if failure.is_said() => Self::Settled,
            Err(_) => Self::Unknown,
        }
    }

    /// The trail could not take the record: whatever the answer is, nobody may have it.
    pub(super) const fn withheld(self) -> Self {
        match self {
            Self::Untouched => Self::Untouched,
            Self::Settled | Self::Unknown => Self::Unknown,
        }
    }
}

impl Commands {
    pub(super) async fn execute_kept(
        self: &Arc<Self>,
        route: Arc<Route>,
        mut place: Place,
        request: ExecuteCommandRequest,
        caller: Caller,
        patience: Option<Duration>,
    ) -> Result<ExecuteCommandResponse, Status> {
        let left = || patience.map_or(Duration::MAX, |patience| patience.saturating_sub(caller.since.elapsed()));
        let verified = self.verifier.claim(&request, caller.address, route.timeout.saturating_add(MARGIN));
        let (session, claimed) = match caller.trace.step("verify").around(verified).await {
            Ok(claimed) => claimed,
            Err(rejected) => return Err(self.reject(&request, &caller, &rejected)),
        };
        let found = match claimed {
            Claimed::First(claim) => Ok(Found::First(claim)),
            Claimed::Again(retry) => tokio::select! {
                found = place.outside(self.verifier.outcome(retry, left().saturating_sub(HASTE))) => found,
                // Not that nobody knows: another edge may hear of it in a moment.
                () = self.closing.last_call() => return Err(verdict::shutting_down()),
            },
        };
        let claim = match found {
            Ok(Found::First(claim)) => claim,
            // Its own time is up: the first may be carried out still, and who asks again may hear how.
            Ok(Found::Pending) => {
                let keepsake = Keepsake::Status(verdict::with_outcome_unknown(verdict::downstream_timed_out()));
                return self.give_again(&route, &request, &caller, &session, keepsake).await;
            }
            Ok(Found::Kept(keepsake)) => return self.give_again(&route, &request, &caller, &session, keepsake).await,
            Err(refusal) => return Err(self.reject(&request, &caller, &Rejected { refusal, session: Some(session) })),
        };
        // What was given is given again; nothing new is begun on a route that is out of service now, however long this one waited.
        if self.routing.now().command(&request.message_type).is_some_and(|route| route.disabled) {
            claim.release().await;
            let status = verdict::route_disabled();
            self.trail.refuse("route_disabled", act(&request, None), &caller, Some(&session), Outcome::Denied, status.code());
            return Err(status);
        }
        let left = left();
        if left.is_zero() {
            // It has reached nobody and reaches nobody: its client would be told that it may have.
            claim.release().await;
            let status = verdict::downstream_timed_out();
            let record = act(&request, Some((route.backend.name(), "backend"))).grpc(&caller, &session, Outcome::Error, status.code());
            self.trail.keep(route.audit, "command", record).await.map_err(trail::unavailable)?;
            return Err(status);
        }
        let this = Arc::clone(self);
        let whole = async move {
            let claim = claim.begin();
            let (answer, fate) = this.carry_out(&route, place, &request, &caller, &session, None).await;
            match (fate, &answer) {
                (Fate::Untouched, _) => claim.release().await,
                (Fate::Settled, Ok(answer)) => claim.keep(Keepsake::Answer(answer.encode_to_vec().into())).await,
                (Fate::Settled, Err(status)) => claim.keep(Keepsake::Status(status.clone())).await,
                (Fate::Unknown, _) => claim.keep(Keepsake::Unknown).await,
            }
            if fate == Fate::Unknown { answer.map_err(verdict::with_outcome_unknown) } else { answer }
        };
        let whole = to_the_end(self.closing.shutdown(), "command", whole);
        // Dropped, it goes on: it has been carried out, or will be.
        tokio::time::timeout(left, whole).await.unwrap_or_else(|_| Err(verdict::with_outcome_unknown(verdict::downstream_timed_out())))
    }

    /// What the first was given, with a record of its own: the trail tells it from another execution by what it was done to.
    async fn give_again(
        &self,
        route: &Route,
        request: &ExecuteCommandRequest,
        caller: &Caller,
        session: &Session,
        keepsake: Keepsake,
    ) -> Result<ExecuteCommandResponse, Status> {
        let answer = match keepsake {
            Keepsake::Answer(bytes) => ExecuteCommandResponse::decode(bytes).map_err(|_| verdict::outcome_unknown()),
            Keepsake::Status(status) => Err(status),
            Keepsake::Unknown => Err(verdict::outcome_unknown()),
        };
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        let record = act(request, Some((route.backend.name(), "kept answer"))).grpc(caller, session, Outcome::of(code), code);
        self.trail.keep(route.audit, "command", record).await.map_err(trail::unavailable)?;
        answer
    }
}
