//! What the edge writes into the audit trail, and what waits for it.
//!
//! Only who has proven to be somebody is recorded: a flood of strangers must not fill the trail.

use gatehouse_chassis::{
    audit::{NotRecorded, Recorder, record},
    metrics::Metrics,
};
use gatehouse_proto::{internal::v1::AuditRecord, status::code_name};
use gatehouse_sessions::{Session, door::Caller};
use prometheus::IntCounterVec;
use tonic::{Code, Status};

use crate::config::Audit;

/// One thing that somebody did or tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Act<'a> {
    pub(crate) action_type: &'static str,
    pub(crate) action: &'a str,
    pub(crate) request_id: &'a str,
    /// What it was done to, and of what kind that is.
    pub(crate) on: Option<(&'a str, &'static str)>,
}

/// How it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    /// The gateway said no.
    Denied,
    /// The gateway let it through, and the one behind it said no.
    DeniedBehind,
    Error,
}

impl Outcome {
    /// Of something that was let through.
    pub(crate) const fn of(code: Code) -> Self {
        match code {
            Code::Ok => Self::Success,
            Code::PermissionDenied | Code::Unauthenticated => Self::DeniedBehind,
            _ => Self::Error,
        }
    }

    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Success => ("success", "allow"),
            Self::Denied => ("denied", "deny"),
            Self::DeniedBehind => ("denied", "allow"),
            Self::Error => ("error", "allow"),
        }
    }
}

impl Act<'_> {
    /// The record of an HTTP request, whose callers have no session.
    pub(crate) fn http(self, caller: &Caller, outcome: Outcome, status: http::StatusCode) -> AuditRecord {
        AuditRecord { http_status: Some(u32::from(status.as_u16())), ..self.record(caller, outcome) }
    }

    /// The record of a gRPC request of a session.
    pub(crate) fn grpc(self, caller: &Caller, session: &Session, outcome: Outcome, code: Code) -> AuditRecord {
        AuditRecord {
            user_id: Some(session.user_id().to_owned()),
            device_session_id: Some(session.device_session_id().to_owned()),
            grpc_code: Some(code_name(code).to_owned()),
            ..self.record(caller, outcome)
        }
    }

    fn record(self, caller: &Caller, outcome: Outcome) -> AuditRecord {
        let (status, decision) = outcome.words();
        let mut record = record(self.action_type, self.action, status);
        record.rbac_decision = Some(decision.to_owned());
        record.request_id = Some(self.request_id.to_owned());
        if let Some((resource, kind)) = self.on {
            (record.resource, record.resource_type) = (Some(resource.to_owned()), Some(kind.to_owned()));
        }
        caller.sign(&mut record);
        record
    }
}

/// Writes records as their routes ask for it.
#[derive(Clone, Debug)]
pub(crate) struct Trail {
    recorder: Recorder,
    withheld: IntCounterVec,
}

impl Trail {
    pub(crate) fn new(recorder: Recorder, metrics: &Metrics) -> Self {
        let help = "Answers that no client got because the trail could not take their records, by what they answered.";
        Self { recorder, withheld: metrics.counters("audit_answers_withheld_total", help, &["action_type"]) }
    }

    /// Resolves when the answer may leave.
    pub(crate) async fn keep(&self, audit: Audit, action_type: &'static str, record: AuditRecord) -> Result<(), NotRecorded> {
        match audit {
            Audit::BestEffort => self.recorder.try_write(record),
            Audit::Required => self.recorder.write(record).await.inspect_err(|_| {
                self.withheld.with_label_values(&[action_type]).inc();
            })?,
        }
        Ok(())
    }
}

/// What a client is told whose answer the trail could not take. Whatever was asked may have been carried out.
pub(crate) fn unavailable(_: NotRecorded) -> Status {
    Status::unavailable("audit trail is unavailable")
}
