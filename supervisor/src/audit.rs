//! The supervisor's trail: who asked for which change, and what came of it.
//!
//! A request is on record before it is queued, and its verdict when it is over: two records with the change's id as their `request_id`. The supervisor must not depend on
//! what it looks after: Redis may be its own child, and is away whenever that is. Records then go to the spool, and with the disk full as well to the log, whole; the
//! change goes ahead. Nobody is kept from helping at three in the morning by the trail of it.
//!
//! The record has no field for words (its layout is the chain's, and fixed), so what was asked and why stand in the one that holds the caller's own: `user_agent`,
//! `restart pusher/1: it leaks`. What is longer than that field takes more records.

mod deed;

use std::{collections::HashSet, time::Duration};

use gatehouse_chassis::{
    Process,
    audit::{Recorder, record},
    redis::Redis,
};
use gatehouse_proto::{
    audit::fitting,
    internal::v1::{AuditRecord, ChangeStatus},
};
use jiff::Timestamp;
use prometheus::{IntCounter, IntCounterVec};
use tokio::{
    sync::{Mutex, watch},
    time::timeout,
};
use tonic::Code;

pub(crate) use deed::Deed;

use crate::control::{Board, Change, is_over};

/// How long a change waits for its record. Redis has a second to answer, and the disk the rest.
const PATIENCE: Duration = Duration::from_secs(3);
/// Verdicts that a supervisor which died may have left unrecorded are this old at most when the next one starts.
const RECENT_MS: i64 = 600_000;

/// Writes it. Never fails, and never holds anybody up for long.
#[derive(Debug)]
pub(crate) struct Trail {
    process: Process,
    /// None while the spool cannot be opened.
    recorder: Mutex<Option<Recorder>>,
    changes: IntCounterVec,
    unrecorded: IntCounter,
}

/// What was asked, by whom, and what was said to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) id: &'a str,
    pub(crate) actor: &'a str,
    pub(crate) reason: &'a str,
    /// None: it named none that there is.
    pub(crate) change: Option<&'a Change>,
    pub(crate) answer: Code,
}

impl Trail {
    /// Opens nothing yet.
    pub(crate) fn new(process: &Process) -> Self {
        let metrics = process.metrics();
        Self {
            process: process.clone(),
            recorder: Mutex::default(),
            changes: metrics.counters(
                "control_changes_total",
                "Changes by operators: accepted, denied, busy (the queue was full), then done or failed.",
                &["change", "outcome"],
            ),
            unrecorded: metrics.counter(
                "control_unrecorded_total",
                "Audit records of changes that stand in the log alone: neither Redis nor the disk took them.",
            ),
        }
    }

    /// Records that somebody asked for a change, in time for the answer.
    pub(crate) async fn asked(&self, request: Request<'_>) {
        let (outcome, status, decision) = match request.answer {
            Code::Ok => ("accepted", "success", "allow"),
            // The latter for binaries that are in others' hands.
            Code::PermissionDenied | Code::FailedPrecondition => ("denied", "denied", "deny"),
            _ => ("busy", "error", "allow"),
        };
        let verb = request.change.map_or("unknown", Change::verb);
        self.changes.with_label_values(&[verb, outcome]).inc();
        let draft = AuditRecord {
            user_id: Some(request.actor.to_owned()),
            rbac_decision: Some(decision.to_owned()),
            grpc_code: Some(gatehouse_proto::status::code_name(request.answer).to_owned()),
            request_id: Some(request.id.to_owned()),
            ..of(request.change, "", status)
        };
        let what = request.change.map_or_else(|| "unknown".to_owned(), ToString::to_string);
        let said = if request.reason.is_empty() { what } else { format!("{what}: {}", request.reason) };
        let records =
            chunks(&said).map(|words| AuditRecord { id: record("", "", "").id, user_agent: Some(words.to_owned()), ..draft.clone() });
        self.write(records.collect()).await;
    }

    /// Records what came of it.
    async fn over(&self, status: &ChangeStatus) {
        let change = status.what.parse::<Change>().ok();
        let done = status.state == "done";
        self.changes.with_label_values(&[change.as_ref().map_or("unknown", Change::verb), &status.state]).inc();
        let mut said = format!("{}: {}", status.what, status.verdict);
        said.truncate(fitting(&said));
        let record = AuditRecord {
            // The same each time: the trail keeps each id once.
            id: verdict_id(&status.change_id),
            user_id: Some(status.actor.clone()),
            request_id: Some(status.change_id.clone()),
            latency_ms: i64::try_from(status.took_ms).ok(),
            user_agent: Some(said),
            ..of(change.as_ref(), ".verdict", if done { "success" } else { "error" })
        };
        self.write(vec![record]).await;
    }

    /// Opens the spool, so that it is replayed, and records verdicts as they are published, until the driver has gone.
    pub(crate) async fn follow(&self, mut board: watch::Receiver<Board>) {
        self.recorder().await;
        let mut recorded = HashSet::new();
        loop {
            let (over, closed) = {
                let board = board.borrow_and_update();
                recorded.retain(|id: &String| board.find(id).is_some());
                let recent = Timestamp::now().as_millisecond() - RECENT_MS;
                let is_recent = |status: &ChangeStatus| status.queued_ms.saturating_add_unsigned(status.took_ms) >= recent;
                let over = board.all().filter(|status| is_over(status) && is_recent(status) && !recorded.contains(&status.change_id));
                (over.cloned().collect::<Vec<_>>(), board.closed)
            };
            for status in over {
                self.over(&status).await;
                recorded.insert(status.change_id);
            }
            if closed || board.changed().await.is_err() {
                return;
            }
        }
    }

    async fn write(&self, records: Vec<AuditRecord>) {
        let writes = async {
            let recorder = self.recorder().await?;
            let written = futures_util::future::join_all(records.iter().map(|record| recorder.write(record.clone()))).await;
            written.into_iter().all(|written| written.is_ok()).then_some(())
        };
        if timeout(PATIENCE, writes).await.ok().flatten().is_some() {
            return;
        }
        self.unrecorded.inc_by(records.len() as u64);
        for record in records {
            let AuditRecord { id, user_id, action, resource, status, user_agent, request_id, .. } = record;
            tracing::error!(id, user_id, action, resource, status, user_agent, request_id, "an audit record is not on disk; here it is");
        }
    }

    /// Opened when first needed, and tried again each time while that fails.
    async fn recorder(&self) -> Option<Recorder> {
        let mut recorder = self.recorder.lock().await;
        if recorder.is_none() {
            let process = self.process.clone();
            let open = move || -> anyhow::Result<Recorder> { Recorder::open(&process, Redis::lazy(&process.shared().redis)?) };
            match tokio::task::spawn_blocking(open).await.unwrap_or_else(|error| Err(error.into())) {
                Ok(opened) => *recorder = Some(opened),
                Err(error) => tracing::error!(error = format!("{error:#}"), "the audit spool cannot be opened"),
            }
        }
        recorder.clone()
    }
}

fn of(change: Option<&Change>, suffix: &str, status: &str) -> AuditRecord {
    let action = change.map_or("component.change", Change::action);
    let (resource, kind) = change.map_or_else(|| ("suite".to_owned(), "component"), Change::resource);
    AuditRecord {
        resource: Some(resource),
        resource_type: Some(kind.to_owned()),
        ..record("control", &format!("{action}{suffix}"), status)
    }
}

/// Whole characters, as many as one field holds.
fn chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (chunk, left) = rest.split_at(fitting(rest));
        rest = left;
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// A `UUIDv7` beside the change's own: its last bit, which is random, turned over.
fn verdict_id(change_id: &str) -> String {
    let turned = |id: uuid::Uuid| uuid::Uuid::from_u128(id.as_u128() ^ 1).to_string();
    uuid::Uuid::parse_str(change_id).map_or_else(|_| record("", "", "").id, turned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_long_reason_is_lost_and_no_character_is_cut() {
        for said in [format!("restart edge: {}", "é€".repeat(300)), "\\".repeat(600)] {
            let cut: Vec<_> = chunks(&said).collect();
            assert!(cut.len() > 2 && cut.iter().all(|chunk| fitting(chunk) == chunk.len()));
            assert_eq!(cut.concat(), said);
        }
        assert_eq!(chunks("").count(), 0);
    }

    #[test]
    fn a_verdict_s_id_follows_from_the_change_s_and_is_a_uuid_of_the_same_kind() {
        let change = uuid::Uuid::now_v7();
        let verdict = uuid::Uuid::parse_str(&verdict_id(&change.to_string())).unwrap();
        assert_eq!((verdict.get_version_num(), verdict.get_timestamp()), (7, change.get_timestamp()));
        assert_ne!(verdict, change);
        assert_eq!(verdict_id(&change.to_string()), verdict.to_string());
    }
}
