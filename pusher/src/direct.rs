//! The `push` socket: `gateway.v1.Gateway` for clients that come to a pusher without the hop through the edge. Same checks, same verdicts, same records.

mod observe;

use std::{sync::Arc, time::Instant};

use anyhow::Context as _;
use gatehouse_chassis::{
    Process,
    audit::{NotRecorded, Recorder, record},
    connections::Peer,
};
use gatehouse_proto::{
    FILE_DESCRIPTOR_SET,
    audit::MAX_TEXT_BYTES,
    gateway::v1::{
        ExecuteCommandRequest, ExecuteCommandResponse, SubscribeEventsRequest,
        encoded::gateway_server::{Gateway, GatewayServer},
    },
    limits::MAX_MESSAGE_BYTES,
};
use gatehouse_sessions::{Refusal, Session, Verifier};
use tonic::{Code, Extensions, Request, Response, Status, metadata::MetadataMap, service::Routes};
use tonic_health::ServingStatus;
use tonic_reflection::server::Builder as Reflection;

use crate::{
    attach::{Attach, Wanted},
    stream::EventStream,
};
use observe::{Observer, code_name, observe};

/// The service's name in `grpc.health.v1`.
const SERVICE: &str = "gateway.v1.Gateway";

/// Serves clients directly.
#[derive(Clone, Debug)]
pub struct Direct {
    attach: Attach,
    verifier: Verifier,
    recorder: Recorder,
}

/// Who asks, apart from who they say they are.
#[derive(Debug)]
struct Caller {
    ip: Option<String>,
    user_agent: Option<String>,
    since: Instant,
}

impl Caller {
    fn of(extensions: &Extensions, metadata: &MetadataMap) -> Self {
        let peer = extensions.get::<Peer>().and_then(|peer| peer.0);
        // Visible ASCII, so that every cut is between characters.
        let agent = metadata.get("user-agent").and_then(|agent| agent.to_str().ok());
        let user_agent = agent.map(|agent| agent[..agent.len().min(MAX_TEXT_BYTES)].to_owned());
        Self { ip: peer.map(|peer| peer.ip().to_canonical().to_string()), user_agent, since: Instant::now() }
    }
}

impl Direct {
    /// Serves nothing yet.
    #[must_use]
    pub const fn new(attach: Attach, verifier: Verifier, recorder: Recorder) -> Self {
        Self { attach, verifier, recorder }
    }

    /// The router of the `push` socket. Health says that it serves until the drain begins.
    pub async fn router(self, process: &Process) -> anyhow::Result<axum::Router> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status(SERVICE, ServingStatus::Serving).await;
        let shutdown = process.shutdown().clone();
        process.spawn("push-health", async move {
            shutdown.draining().await;
            for service in ["", SERVICE] {
                health.set_service_status(service, ServingStatus::NotServing).await;
            }
        });
        let reflection = || {
            let health = tonic_health::pb::FILE_DESCRIPTOR_SET;
            Reflection::configure().register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET).register_encoded_file_descriptor_set(health)
        };
        let routes = Routes::new(GatewayServer::new(self).max_decoding_message_size(MAX_MESSAGE_BYTES))
            .add_service(health_service)
            .add_service(reflection().build_v1().context("build server reflection")?)
            .add_service(reflection().build_v1alpha().context("build server reflection")?);
        let observer = Arc::new(Observer::new(process));
        Ok(routes.into_axum_router().layer(axum::middleware::from_fn_with_state(observer, observe)))
    }

    async fn subscribe(&self, request: &SubscribeEventsRequest, caller: &Caller) -> Result<EventStream, Status> {
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
        opened
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
        record.ip_address.clone_from(&caller.ip);
        record.user_agent.clone_from(&caller.user_agent);
        record.latency_ms = Some(i64::try_from(caller.since.elapsed().as_millis()).unwrap_or(i64::MAX));
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
        let caller = Caller::of(request.extensions(), request.metadata());
        self.subscribe(request.get_ref(), &caller).await.map(Response::new)
    }
}
