//! The `push` socket: `gateway.v1.Gateway` for clients that come to a pusher without the hop through the edge. Same checks, same verdicts, same records.

use gatehouse_chassis::{
    Shutdown,
    audit::{NotRecorded, Recorder, record},
    connections::Notice,
};
use gatehouse_proto::{
    gateway::v1::{ExecuteCommandRequest, ExecuteCommandResponse, SubscribeEventsRequest, encoded::gateway_server::Gateway},
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
    shutdown: Shutdown,
}

impl Direct {
    /// Serves nothing yet.
    #[must_use]
    pub const fn new(attach: Attach, verifier: Verifier, recorder: Recorder, shutdown: Shutdown) -> Self {
        Self { attach, verifier, recorder, shutdown }
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
                let Some(session) = rejected.session else { return Err(status) };
                let word = if rejected.refusal == Refusal::StoreUnavailable { "error" } else { "denied" };
                self.record(request, caller, &session, word, status.code()).await?;
                return Err(status);
            }
        };
        let cursor = request.last_event_id.parse().ok();
        let (user_id, device_session_id) = (session.user_id(), session.device_session_id());
        let opened = self.attach.open(Wanted { user_id, device_session_id, cursor, continuation: false }).await;
        let (word, code) = match &opened {
            Ok(_) => ("success", Code::Ok),
            Err(status) if status.code() == Code::Unavailable => ("error", Code::Unavailable),
            Err(status) => ("denied", status.code()),
        };
        self.record(request, caller, &session, word, code).await?;
        opened.map(|stream| stream.on(notice))
    }

    /// Who listens to whose events is worth a record that is there before the first event is.
    async fn record(
        &self,
        request: &SubscribeEventsRequest,
        caller: &Caller,
        session: &Session,
        word: &str,
        code: Code,
    ) -> Result<(), Status> {
        let mut record = record("push", "subscribe", word);
        record.rbac_decision = Some(if word == "denied" { "deny" } else { "allow" }.to_owned());
        record.user_id = Some(session.user_id().to_owned());
        record.device_session_id = Some(session.device_session_id().to_owned());
        record.request_id = Some(request.request_id.clone());
        record.grpc_code = Some(code_name(code).to_owned());
        caller.sign(&mut record);
        self.recorder.write(record).await.map_err(|NotRecorded| Status::unavailable("audit trail is unavailable"))
    }
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
