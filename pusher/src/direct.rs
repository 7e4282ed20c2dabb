//! The `push` socket: `gateway.v1.Gateway` for clients that come to a pusher without the hop through the edge. Same checks, same verdicts, same records.

use gatehouse_chassis::{
    Shutdown,
    audit::{Denied, NotRecorded, Recorder, Who, record},
    connections::Notice,
};
use gatehouse_proto::{
    gateway::v1::{ExecuteCommandRequest, ExecuteCommandResponse, SubscribeEventsRequest, encoded::gateway_server::Gateway},
    internal::v1::AuditRecord,
    status::code_name,
};
use gatehouse_sessions::{Refusal, Session, Verifier, door::Caller, verdict};
use tonic::{Code, Request, Response, Status};

use crate::{
    attach::{Attach, Wanted},
    stream::EventStream,
};

/// Serves clients directly.
#[derive(Clone, Debug)]
pub struct Direct {
    attach: Attach,
    verifier: Verifier,
    recorder: Recorder,
    denied: Denied,
    shutdown: Shutdown,
}

impl Direct {
    /// Serves nothing yet.
    #[must_use]
    pub const fn new(attach: Attach, verifier: Verifier, recorder: Recorder, denied: Denied, shutdown: Shutdown) -> Self {
        Self { attach, verifier, recorder, denied, shutdown }
    }

    async fn subscribe(&self, request: &SubscribeEventsRequest, caller: &Caller, notice: Notice) -> Result<EventStream, Status> {
        // Before the request id is reserved: the client comes back with the same one.
        if self.shutdown.is_draining() {
            notice.give();
            return Err(verdict::shutting_down());
        }
        let session = match self.verifier.subscribe(request).await {
            Ok(session) => session,
            Err(rejected) => {
                let status = rejected.refusal.status();
                let word = if rejected.refusal == Refusal::StoreUnavailable { "error" } else { "denied" };
                let record = record_of(request, caller, rejected.session.as_deref(), word, status.code());
                let who =
                    rejected.session.as_ref().map_or(Who::Address(caller.address()), |session| Who::Session(session.device_session_id()));
                self.denied.note(rejected.refusal.reason(), who, record);
                return Err(status);
            }
        };
        let cursor = request.last_event_id.parse().ok();
        let (user_id, device_session_id) = (session.user_id(), session.device_session_id());
        let _place = self.recorder.reserve().map_err(unavailable)?;
        let opened = self.attach.open(Wanted { user_id, device_session_id, cursor, continuation: false }).await;
        let stream = opened.inspect_err(|status| {
            let (cause, word) = if status.code() == Code::Unavailable { ("push_unavailable", "error") } else { ("push_refused", "denied") };
            let record = record_of(request, caller, Some(&session), word, status.code());
            self.denied.note(cause, Who::Session(device_session_id), record);
        })?;
        // Who listens to whose events is worth a record that is there before the first event is.
        self.recorder.write(record_of(request, caller, Some(&session), "success", Code::Ok)).await.map_err(unavailable)?;
        Ok(stream.on(notice))
    }
}

fn record_of(request: &SubscribeEventsRequest, caller: &Caller, session: Option<&Session>, word: &str, code: Code) -> AuditRecord {
    let mut record = record("push", "subscribe", word);
    record.rbac_decision = Some(if word == "denied" { "deny" } else { "allow" }.to_owned());
    record.user_id = session.map(|session| session.user_id().to_owned());
    record.device_session_id = session.map(|session| session.device_session_id().to_owned());
    record.request_id = Some(request.request_id.clone());
    record.grpc_code = Some(code_name(code).to_owned());
    caller.sign(&mut record);
    record
}

fn unavailable(_: NotRecorded) -> Status {
    Status::unavailable("audit trail is unavailable")
}

#[tonic::async_trait]
impl Gateway for Direct {
    async fn execute_command(&self, _request: Request<ExecuteCommandRequest>) -> Result<Response<ExecuteCommandResponse>, Status> {
        Err(Status::unimplemented("commands are not executed here: this address serves SubscribeEvents alone"))
    }

    type SubscribeEventsStream = EventStream;

    async fn subscribe_events(&self, request: Request<SubscribeEventsRequest>) -> Result<Response<EventStream>, Status> {
        let (metadata, extensions, subscribe) = request.into_parts();
        let caller = Caller::of(&extensions, &metadata.into_headers());
        let notice = extensions.get::<Notice>().cloned().unwrap_or_default();
        self.subscribe(&subscribe, &caller, notice).await.map(Response::new)
    }
}
