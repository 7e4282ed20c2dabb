//! The operator API, and its description.

use axum::{
    Extension, Json, Router,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::StatusCode,
    response::IntoResponse,
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use gatehouse_proto::{
    audit,
    internal::v1::{CreateSessionRequest, ListAuditRequest, StatusResponse, VerifyAuditResponse},
    keys::hex,
    session::SessionSnapshot,
};
use serde::{Deserialize, Serialize};
use utoipa::{
    IntoParams, Modify, OpenApi, ToSchema,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use super::problem::Problem;
use crate::{
    Refusal,
    operations::{Actor, Operations},
};

/// Everything that needs a token.
pub(super) fn routes(operations: Operations) -> Router {
    Router::new()
        .route("/api/v1/audit", get(list_audit))
        .route("/api/v1/audit/verify", post(verify_audit))
        .route("/api/v1/sessions", post(create_session))
        .route("/api/v1/sessions/{id}", get(show_session))
        .route("/api/v1/sessions/{id}/revoke", post(revoke_session))
        .route("/api/v1/status", get(status))
        .with_state(operations)
}

/// Which records of the audit trail.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
#[derive(Default)]
struct AuditQuery {
    /// How many; 50 by default, at most 1000.
    limit: u32,
    /// Only records before this place: `next_before_seq` of the page before.
    before_seq: i64,
    /// Only `command`, `http`, `push`, `admin` or `control`.
    action_type: String,
    /// Only records of this request.
    request_id: String,
}

/// A page of the audit trail.
#[derive(Debug, Serialize, ToSchema)]
struct AuditPage {
    /// The newest first, each as its JSON line.
    #[schema(value_type = Vec<Object>)]
    records: Vec<serde_json::Value>,
    /// Where the next page begins; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_before_seq: Option<i64>,
}

#[utoipa::path(get, path = "/api/v1/audit", params(AuditQuery), security(("token" = [])),
    responses((status = 200, body = AuditPage), (status = "default", body = ErrorBody)))]
async fn list_audit(
    State(operations): State<Operations>,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Json<AuditPage>, Problem> {
    let Query(AuditQuery { limit, before_seq, action_type, request_id }) = query?;
    let listed = operations.list_audit(ListAuditRequest { limit, before_seq, action_type, request_id }).await?.records;
    let next_before_seq = listed.last().map(|row| row.seq).filter(|&seq| seq > 1);
    Ok(Json(AuditPage { records: listed.iter().map(audit::json).collect(), next_before_seq }))
}

/// Whether the audit trail is whole.
#[derive(Debug, Serialize, ToSchema)]
struct Verdict {
    /// Every hash is the one that its row has.
    intact: bool,
    /// Rows that were found whole.
    records: i64,
    /// The trail's length.
    head_seq: i64,
    /// The newest row's hash, hexadecimal.
    head_hash: String,
    /// The first place whose row is not what was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_bad_seq: Option<i64>,
    /// What is wrong there.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<VerifyAuditResponse> for Verdict {
    fn from(verdict: VerifyAuditResponse) -> Self {
        let VerifyAuditResponse { intact, records, head_seq, head_hash, first_bad_seq, reason } = verdict;
        let (first_bad_seq, reason) = if intact { (None, None) } else { (Some(first_bad_seq), Some(reason)) };
        Self { intact, records, head_seq, head_hash: hex(&head_hash), first_bad_seq, reason }
    }
}

#[utoipa::path(post, path = "/api/v1/audit/verify", security(("token" = [])),
    responses((status = 200, body = Verdict), (status = "default", body = ErrorBody)))]
async fn verify_audit(State(operations): State<Operations>) -> Result<Json<Verdict>, Problem> {
    Ok(Json(operations.verify_audit().await?.into()))
}

/// A device session, as Redis holds it.
#[derive(Debug, Serialize, ToSchema)]
struct SessionView {
    device_session_id: String,
    user_id: String,
    /// Base64 of the device's raw 32-byte Ed25519 key.
    public_key: String,
    /// `active` or `revoked`.
    status: &'static str,
    updated_at_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at_ms: Option<i64>,
}

impl From<SessionSnapshot> for SessionView {
    fn from(snapshot: SessionSnapshot) -> Self {
        let SessionSnapshot { device_session_id, user_id, public_key, status, updated_at_ms, revoked_at_ms } = snapshot;
        Self { device_session_id, user_id, public_key, status: status.as_str(), updated_at_ms, revoked_at_ms }
    }
}

#[utoipa::path(get, path = "/api/v1/sessions/{id}", params(("id" = String, Path, description = "device_session_id")), security(("token" = [])),
    responses((status = 200, body = SessionView), (status = "default", body = ErrorBody)))]
async fn show_session(State(operations): State<Operations>, Path(id): Path<String>) -> Result<Json<SessionView>, Problem> {
    Ok(Json(operations.show_session(&id).await?.into()))
}

/// A device session that is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSession {
    /// Left out: a new UUID.
    #[serde(default)]
    device_session_id: String,
    user_id: String,
    /// Base64 of the device's raw 32-byte Ed25519 key.
    public_key: String,
}

#[utoipa::path(post, path = "/api/v1/sessions", request_body = NewSession, security(("token" = [])),
    responses((status = 201, body = SessionView), (status = "default", body = ErrorBody)))]
async fn create_session(
    State(operations): State<Operations>,
    Extension(actor): Extension<Actor>,
    wanted: Result<Json<NewSession>, JsonRejection>,
) -> Result<impl IntoResponse, Problem> {
    let Json(NewSession { device_session_id, user_id, public_key }) = wanted?;
    let public_key = STANDARD.decode(public_key).map_err(|_| Refusal::Invalid("public_key is not base64".into()))?;
    let created = operations.create_session(&actor, CreateSessionRequest { device_session_id, user_id, public_key }).await?;
    Ok((StatusCode::CREATED, Json(SessionView::from(created))))
}

#[utoipa::path(post, path = "/api/v1/sessions/{id}/revoke", params(("id" = String, Path, description = "device_session_id")),
    security(("token" = [])), responses((status = 200, body = SessionView), (status = "default", body = ErrorBody)))]
async fn revoke_session(
    State(operations): State<Operations>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<SessionView>, Problem> {
    Ok(Json(operations.revoke_session(&actor, &id).await?.into()))
}

/// How the processes of the suite are.
#[derive(Debug, Serialize, ToSchema)]
struct SuiteStatus {
    /// Every component is ready.
    ready: bool,
    draining: bool,
    instances: Vec<InstanceView>,
    listeners: Vec<ListenerView>,
}

/// One process.
#[derive(Debug, Serialize, ToSchema)]
struct InstanceView {
    component: String,
    instance: u32,
    generation: u32,
    /// `waiting`, `starting`, `ready`, `draining`, `backing_off`, `quarantined` or `stopped`.
    state: String,
    pid: Option<u32>,
    uptime_ms: u64,
    restarts: u32,
    last_exit: String,
    detail: String,
}

/// One socket.
#[derive(Debug, Serialize, ToSchema)]
struct ListenerView {
    name: String,
    address: String,
}

impl From<StatusResponse> for SuiteStatus {
    fn from(status: StatusResponse) -> Self {
        let instances = status.instances.into_iter().map(|instance| InstanceView {
            component: instance.component,
            instance: instance.instance,
            generation: instance.generation,
            state: instance.state,
            pid: instance.pid,
            uptime_ms: instance.uptime_ms,
            restarts: instance.restarts,
            last_exit: instance.last_exit,
            detail: instance.detail,
        });
        let listeners = status.listeners.into_iter().map(|listener| ListenerView { name: listener.name, address: listener.address });
        Self { ready: status.ready, draining: status.draining, instances: instances.collect(), listeners: listeners.collect() }
    }
}

#[utoipa::path(get, path = "/api/v1/status", security(("token" = [])),
    responses((status = 200, body = SuiteStatus), (status = "default", body = ErrorBody)))]
async fn status(State(operations): State<Operations>) -> Result<Json<SuiteStatus>, Problem> {
    Ok(Json(operations.status().await?.into()))
}

/// Every error.
#[derive(Debug, Serialize, ToSchema)]
struct ErrorBody {
    error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
struct ErrorDetail {
    /// A word for programs.
    code: String,
    /// A sentence for people.
    message: String,
    /// The same as `x-request-id`.
    request_id: String,
}

/// The description of this API.
#[derive(Debug, OpenApi)]
#[openapi(
    info(title = "Gatehouse operator API", description = "Sessions, the audit trail and the state of the suite."),
    paths(list_audit, verify_audit, show_session, create_session, revoke_session, status),
    components(schemas(ErrorBody, ErrorDetail)),
    modifiers(&Bearer)
)]
pub(super) struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        document.components.get_or_insert_default().add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}
