//! What operators can do, whichever door they come by. A change is answered once its audit record is written, and not before.

use std::time::{Duration, Instant};

use gatehouse_chassis::{
    audit::{Recorder, record},
    ipc::Channel,
};
use gatehouse_proto::{
    internal::v1::{
        AuditRecord, CreateSessionRequest, ListAuditRequest, ListAuditResponse, StatusRequest, StatusResponse, VerifyAuditRequest,
        VerifyAuditResponse, audit_trail_client::AuditTrailClient, supervisor_client::SupervisorClient,
    },
    keys::PublicKey,
    limits::MAX_ID_BYTES,
    session::SessionSnapshot,
};
use tonic::Status;
use uuid::Uuid;

use crate::{
    Refusal,
    sessions::{Sessions, Wanted},
};

/// Bounds a question to another process of the suite.
const ASK: Duration = Duration::from_secs(15);
/// Verification reads the whole trail: it is bounded by the trail's length, and by the caller's patience.
const VERIFY: Duration = Duration::from_hours(1);

/// Clones share everything.
#[derive(Clone, Debug)]
pub struct Operations {
    /// Device sessions.
    pub sessions: Sessions,
    /// Where changes are recorded.
    pub recorder: Recorder,
    /// The auditor.
    pub trail: AuditTrailClient<Channel>,
    /// The supervisor.
    pub supervisor: SupervisorClient<Channel>,
}

/// Who asks, as the audit record keeps it.
#[derive(Clone, Debug, Default)]
pub struct Actor {
    /// The token, at the HTTP door.
    pub api_token_id: Option<String>,
    /// The address, at the HTTP door.
    pub ip_address: Option<String>,
    /// As it was sent.
    pub user_agent: Option<String>,
    /// The caller's or our own.
    pub request_id: String,
    /// At which door: whether outcomes are HTTP statuses or gRPC codes.
    pub by_http: bool,
}

impl Operations {
    /// Records of the trail, newest first.
    pub async fn list_audit(&self, request: ListAuditRequest) -> Result<ListAuditResponse, Refusal> {
        let mut trail = self.trail.clone();
        bounded(ASK, trail.list(request)).await.map_err(Refusal::Auditor)
    }

    /// Whether the trail is whole.
    pub async fn verify_audit(&self) -> Result<VerifyAuditResponse, Refusal> {
        let mut trail = self.trail.clone();
        bounded(VERIFY, trail.verify(VerifyAuditRequest {})).await.map_err(Refusal::Auditor)
    }

    /// How the processes of the suite are.
    pub async fn status(&self) -> Result<StatusResponse, Refusal> {
        let mut supervisor = self.supervisor.clone();
        bounded(ASK, supervisor.status(StatusRequest {})).await.map_err(Refusal::Supervisor)
    }

    /// One device session.
    pub async fn show_session(&self, id: &str) -> Result<SessionSnapshot, Refusal> {
        checked("device_session_id", id)?;
        self.sessions.show(id).await
    }

    /// Makes a device session; without an id it gets a new one.
    pub async fn create_session(&self, actor: &Actor, request: CreateSessionRequest) -> Result<SessionSnapshot, Refusal> {
        let begun = Instant::now();
        let CreateSessionRequest { mut device_session_id, user_id, public_key } = request;
        if device_session_id.is_empty() {
            device_session_id = Uuid::new_v4().to_string();
        }
        checked("device_session_id", &device_session_id)?;
        checked("user_id", &user_id)?;
        let public_key = PublicKey::from_bytes(&public_key).map_err(|error| Refusal::Invalid(format!("public_key: {error}")))?;
        let wanted = Wanted { device_session_id, user_id, public_key: public_key.to_base64() };
        let _place = self.recorder.reserve().map_err(|_| Refusal::NotRecorded)?;
        let outcome = self.sessions.create(&wanted).await;
        self.record(actor, "session.create", &wanted.device_session_id, begun, outcome).await
    }

    /// Revokes a device session: its requests and streams end.
    pub async fn revoke_session(&self, actor: &Actor, id: &str) -> Result<SessionSnapshot, Refusal> {
        let begun = Instant::now();
        checked("device_session_id", id)?;
        let _place = self.recorder.reserve().map_err(|_| Refusal::NotRecorded)?;
        let outcome = self.sessions.revoke(id).await;
        self.record(actor, "session.revoke", id, begun, outcome).await
    }

    /// Lets the outcome through once it is recorded. A refused change is recorded as well.
    async fn record<T>(&self, actor: &Actor, action: &str, id: &str, begun: Instant, outcome: Result<T, Refusal>) -> Result<T, Refusal> {
        let (_, grpc_code, http_status, _) =
            outcome.as_ref().map_or_else(Refusal::codes, |_| (tonic::Code::Ok, "OK", http::StatusCode::OK, ""));
        let actor = actor.clone();
        let record = AuditRecord {
            api_token_id: actor.api_token_id,
            ip_address: actor.ip_address,
            user_agent: actor.user_agent,
            request_id: Some(actor.request_id),
            resource: Some(id.to_owned()),
            resource_type: Some("device_session".to_owned()),
            rbac_decision: Some("allow".to_owned()),
            http_status: actor.by_http.then_some(u32::from(http_status.as_u16())),
            grpc_code: (!actor.by_http).then(|| grpc_code.to_owned()),
            latency_ms: i64::try_from(begun.elapsed().as_millis()).ok(),
            ..record("admin", action, if outcome.is_ok() { "success" } else { "error" })
        };
        self.recorder.write(record).await.map_err(|_| Refusal::NotRecorded)?;
        outcome
    }
}

async fn bounded<T>(bound: Duration, call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    let answer = tokio::time::timeout(bound, call).await;
    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))).map(tonic::Response::into_inner)
}

fn checked(name: &str, value: &str) -> Result<(), Refusal> {
    match value.len() {
        0 => Err(Refusal::Invalid(format!("{name} is missing"))),
        1..=MAX_ID_BYTES => Ok(()),
        _ => Err(Refusal::Invalid(format!("{name} is longer than {MAX_ID_BYTES} bytes"))),
    }
}
