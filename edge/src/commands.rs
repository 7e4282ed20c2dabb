//! Signed commands: verified, routed, carried out by a downstream, signed, recorded, answered.
//!
//! From the moment a command may be carried out, it goes on to its record even when the client has left: tonic drops a handler whose client
//! disconnects, and what was done must stand in the trail.

mod finish;

use std::{collections::HashMap, sync::Arc, time::Duration};

use gatehouse_proto::{
    downstream::v1::ExecuteResponse,
    gateway::v1::{ExecuteCommandRequest, ExecuteCommandResponse},
    keys::{Signer, sha256},
    signing::{self, PROTOCOL_VERSION},
};
use gatehouse_sessions::{Refusal, Session, Verifier, door::Caller, now_ms, verdict};
use tonic::{Code, Status};

use crate::{
    backends::{Backend, Backends, Call, Deadline, Failure},
    closing::Closing,
    config::{Audit, Config},
    trail::{self, Act, Outcome, Trail},
};
pub(crate) use finish::to_the_end;

/// Carries out commands; one for the process.
#[derive(Debug)]
pub(crate) struct Commands {
    verifier: Verifier,
    routes: HashMap<String, Route>,
    trail: Trail,
    signer: Arc<Signer>,
    closing: Closing,
}

#[derive(Clone, Debug)]
struct Route {
    backend: Arc<Backend>,
    timeout: Duration,
    audit: Audit,
    idempotent: bool,
    path: Option<http::uri::PathAndQuery>,
}

impl Commands {
    pub(crate) fn new(config: &Config, backends: &Backends, verifier: Verifier, trail: Trail, closing: Closing) -> Self {
        let route = |command: &crate::config::Command| {
            let backend = backends.get(&config.backends.get(command.backend)?.name)?;
            let path = command.path.clone();
            let route = Route { backend, timeout: command.timeout, audit: command.audit, idempotent: command.idempotent, path };
            Some((command.message_type.clone(), route))
        };
        let routes = config.commands.iter().filter_map(route).collect();
        Self { verifier, routes, trail, signer: Arc::clone(&config.sessions.signer), closing }
    }

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
        let session = match self.verifier.command(&request).await {
            Ok(session) => session,
            Err(rejected) => {
                let (status, outcome) = (rejected.refusal.status(), outcome_of(rejected.refusal));
                let (cause, session) = (rejected.refusal.reason(), rejected.session.as_deref());
                self.trail.refuse(cause, act(&request, None), &caller, session, outcome, status.code());
                return Err(status);
            }
        };
        let Some(route) = self.routes.get(&request.message_type).cloned() else {
            let status = verdict::not_routed();
            self.trail.refuse("not_routed", act(&request, None), &caller, Some(&session), Outcome::Denied, status.code());
            return Err(status);
        };
        let this = Arc::clone(self);
        let whole = async move { this.carry_out(&route, &request, &caller, &session, patience).await };
        to_the_end(self.closing.shutdown(), "command", whole).await
    }

    async fn carry_out(
        &self,
        route: &Route,
        request: &ExecuteCommandRequest,
        caller: &Caller,
        session: &Session,
        patience: Option<Duration>,
    ) -> Result<ExecuteCommandResponse, Status> {
        let on = Some((route.backend.name(), "backend"));
        let intent = || act(request, on).intent(caller, Some(session));
        let _place = self.trail.begin(route.audit, "command", intent).await.map_err(trail::unavailable)?;
        // One deadline from the request on: what verification took is no longer there for the downstream.
        let left = patience.map(|patience| patience.saturating_sub(caller.since.elapsed()));
        let call = Call { command: request, session, path: route.path.as_ref(), idempotent: route.idempotent };
        let result = tokio::select! {
            result = route.backend.execute(&call, Deadline::new(route.timeout, left)) => result.map_err(Failure::into_status),
            () = self.closing.last_call() => Err(route.backend.abandon()),
        };
        let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
        let record = act(request, on).grpc(caller, session, Outcome::of(code), code);
        // The answer is signed while the record is on its way.
        let recorded = self.trail.keep(route.audit, "command", record);
        let (recorded, answer) = tokio::join!(recorded, async { result.map(|result| self.answer(request, result)) });
        recorded.map_err(trail::unavailable)?;
        answer
    }

    fn answer(&self, request: &ExecuteCommandRequest, result: ExecuteResponse) -> ExecuteCommandResponse {
        let result_code = if result.result_code.is_empty() { "ok".to_owned() } else { result.result_code };
        let mut answer = ExecuteCommandResponse {
            protocol_version: PROTOCOL_VERSION.to_owned(),
            request_id: request.request_id.clone(),
            result_code,
            timestamp_ms: now_ms(),
            payload_hash: sha256(&result.payload_bytes).to_vec().into(),
            payload_bytes: result.payload_bytes,
            signature: bytes::Bytes::new(),
            signer_key_id: self.signer.key_id().to_owned(),
        };
        answer.signature = self.signer.sign(&signing::response(&request.device_session_id, &answer)).to_vec().into();
        answer
    }
}

fn act<'a>(request: &'a ExecuteCommandRequest, on: Option<(&'a str, &'static str)>) -> Act<'a> {
    Act { action_type: "command", action: &request.message_type, request_id: &request.request_id, on }
}

/// Undecided is not denied.
pub(crate) const fn outcome_of(refusal: Refusal) -> Outcome {
    match refusal {
        Refusal::StoreUnavailable => Outcome::Error,
        _ => Outcome::Denied,
    }
}
