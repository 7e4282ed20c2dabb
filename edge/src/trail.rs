//! What the edge writes into the audit trail, and what waits for it.
//!
//! Whatever may be carried out has its place in the trail first, so that nothing is done whose record would be lost. Who is refused is recorded together with his
//! like, and waits for nothing.

use gatehouse_chassis::{
    Process,
    audit::{Denied, NotRecorded, Place, Recorder, Who, record},
};
use gatehouse_proto::{internal::v1::AuditRecord, status::code_name};
use gatehouse_sessions::{Session, door::Caller};
use prometheus::IntCounterVec;
use tonic::{Code, Status};

use crate::config::Audit;

/// The kind of resource of records that were written before.
const INTENT: &str = "intent";

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

    /// The record of what will be done now, if nothing comes in between: with what it is done to, and without an outcome.
    pub(crate) fn intent(self, caller: &Caller, session: Option<&Session>) -> AuditRecord {
        AuditRecord {
            user_id: session.map(|session| session.user_id().to_owned()),
            device_session_id: session.map(|session| session.device_session_id().to_owned()),
            resource_type: Some(INTENT.to_owned()),
            latency_ms: None,
            ..self.record(caller, Outcome::Success)
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
    denied: Denied,
    withheld: IntCounterVec,
    kept_from: IntCounterVec,
}

impl Trail {
    pub(crate) fn new(recorder: Recorder, process: &Process) -> Self {
        let (answers, requests) = (
            "Answers that no client got because the trail could not take their records, by what they answered.",
            "Requests that were not carried out because the trail could take no record, by what they asked for.",
        );
        Self {
            denied: Denied::open(process, recorder.clone()),
            recorder,
            withheld: process.metrics().counters("audit_answers_withheld_total", answers, &["action_type"]),
            kept_from: process.metrics().counters("audit_requests_refused_total", requests, &["action_type"]),
        }
    }

    /// Whether it could take a record now.
    pub(crate) fn takes_records(&self) -> bool {
        self.recorder.takes_records()
    }

    /// Resolves when something may be carried out, with its place in the trail, to be held until [`Trail::keep`] has resolved.
    pub(crate) async fn begin(
        &self,
        audit: Audit,
        action_type: &'static str,
        intent: impl FnOnce() -> AuditRecord,
    ) -> Result<Option<Place>, NotRecorded> {
        let begun = async {
            match audit {
                Audit::BestEffort => Ok(None),
                Audit::Required => self.recorder.reserve().map(Some),
                Audit::Intent => {
                    let place = self.recorder.reserve()?;
                    self.recorder.write(intent()).await?;
                    Ok(Some(place))
                }
            }
        };
        begun.await.inspect_err(|_| self.kept_from.with_label_values(&[action_type]).inc())
    }

    /// Resolves when the answer may leave.
    pub(crate) async fn keep(&self, audit: Audit, action_type: &'static str, record: AuditRecord) -> Result<(), NotRecorded> {
        match audit {
            Audit::BestEffort => self.recorder.try_write(record),
            Audit::Required | Audit::Intent => self.recorder.write(record).await.inspect_err(|_| {
                self.withheld.with_label_values(&[action_type]).inc();
            })?,
        }
        Ok(())
    }

    /// Takes a refusal for that cause, a bounded word; of a session when it has proven to be itself. Undecided is not denied.
    pub(crate) fn refuse(
        &self,
        cause: &'static str,
        act: Act<'_>,
        caller: &Caller,
        session: Option<&Session>,
        outcome: Outcome,
        code: Code,
    ) {
        let (record, who) = if let Some(session) = session {
            (act.grpc(caller, session, outcome, code), Who::Session(session.device_session_id()))
        } else {
            let record = act.record(caller, outcome);
            (AuditRecord { grpc_code: Some(code_name(code).to_owned()), ..record }, Who::Address(caller.address()))
        };
        self.denied.note(cause, who, record);
    }

    /// The same of an HTTP request, whose caller has no session.
    pub(crate) fn refuse_http(&self, cause: &'static str, act: Act<'_>, caller: &Caller, status: http::StatusCode) {
        self.denied.note(cause, Who::Address(caller.address()), act.http(caller, Outcome::Denied, status));
    }
}

/// What a client is told whose request or whose answer the trail could not take. What was asked may have been carried out, if the trail was lost meanwhile.
pub(crate) fn unavailable(_: NotRecorded) -> Status {
    Status::unavailable("audit trail is unavailable")
}
