//! What is done while its asker waits, without the driver: two records as of every change, before it and after it.

use std::time::Duration;

use gatehouse_chassis::audit::record;
use gatehouse_proto::{audit::MAX_TEXT_BYTES, internal::v1::AuditRecord, status::code_name};
use tonic::{Code, Status};

use super::{Trail, chunks, verdict_id};

/// What was asked, by whom, and why.
#[derive(Clone, Debug)]
pub(crate) struct Deed {
    /// A `UUIDv7`.
    pub(crate) id: String,
    /// `alice (uid 1000)`.
    pub(crate) actor: String,
    /// In the operator's words; may be empty.
    pub(crate) reason: String,
    /// `key.activate`.
    pub(crate) action: &'static str,
    /// What it is done to, and of which kind that is.
    pub(crate) resource: Option<String>,
    pub(crate) resource_type: &'static str,
}

impl Trail {
    /// Records that somebody asked for it, before it is done. `PermissionDenied`: it will not be.
    pub(crate) async fn begin(&self, deed: &Deed, answer: Code) {
        let (outcome, status, decision) = match answer {
            Code::PermissionDenied => ("denied", "denied", "deny"),
            _ => ("accepted", "success", "allow"),
        };
        self.changes.with_label_values(&[deed.action, outcome]).inc();
        let said = if deed.reason.is_empty() { deed.what() } else { format!("{}: {}", deed.what(), deed.reason) };
        let draft = AuditRecord {
            rbac_decision: Some(decision.to_owned()),
            grpc_code: Some(code_name(answer).to_owned()),
            ..deed.record("", status)
        };
        let records =
            chunks(&said).map(|words| AuditRecord { id: record("", "", "").id, user_agent: Some(words.to_owned()), ..draft.clone() });
        self.write(records.collect()).await;
    }

    /// Records what came of it.
    pub(crate) async fn end(&self, deed: &Deed, done: Result<(), &Status>, took: Duration) {
        let (outcome, status, verdict) = match done {
            Ok(()) => ("done", "success", "done"),
            Err(status) => ("failed", "error", status.message()),
        };
        self.changes.with_label_values(&[deed.action, outcome]).inc();
        let mut said = format!("{}: {verdict}", deed.what());
        said.truncate(said.floor_char_boundary(MAX_TEXT_BYTES));
        let record = AuditRecord {
            id: verdict_id(&deed.id),
            grpc_code: Some(code_name(done.err().map_or(Code::Ok, Status::code)).to_owned()),
            latency_ms: i64::try_from(took.as_millis()).ok(),
            user_agent: Some(said),
            ..deed.record(".verdict", status)
        };
        self.write(vec![record]).await;
    }
}

impl Deed {
    /// `key activate fa66b6987fc706f8`.
    fn what(&self) -> String {
        let verb = self.action.replace('.', " ");
        self.resource.as_ref().map_or_else(|| verb.clone(), |resource| format!("{verb} {resource}"))
    }

    fn record(&self, suffix: &str, status: &str) -> AuditRecord {
        AuditRecord {
            user_id: Some(self.actor.clone()),
            request_id: Some(self.id.clone()),
            resource: self.resource.clone(),
            resource_type: Some(self.resource_type.to_owned()),
            ..record("control", &format!("{}{suffix}", self.action), status)
        }
    }
}
