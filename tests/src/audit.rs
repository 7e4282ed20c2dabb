//! The audit trail as an operator reads it.

use std::collections::HashMap;

use gatehouse_chassis::ipc;
use gatehouse_proto::{
    audit::GENESIS,
    internal::v1::{AuditRecord, ChainedAuditRecord, ListAuditRequest, VerifyAuditRequest, admin_client::AdminClient},
};

use crate::{Suite, wait};

/// The whole trail, oldest first.
#[derive(Debug)]
pub struct Trail(pub Vec<ChainedAuditRecord>);

impl Trail {
    /// Reads it through the admin process, page by page.
    pub async fn read(suite: &Suite) -> Self {
        Self::read_through(suite.admin()).await
    }

    /// The same through any.
    pub async fn read_through(mut admin: AdminClient<ipc::Channel>) -> Self {
        let mut rows = Vec::new();
        let mut before_seq = 0;
        loop {
            let request = ListAuditRequest { limit: 1000, before_seq, ..Default::default() };
            let page = admin.list_audit(request).await.expect("list the audit trail").into_inner().records;
            let Some(oldest) = page.last() else { break };
            before_seq = oldest.seq;
            rows.extend(page);
            if before_seq <= 1 {
                break;
            }
        }
        rows.reverse();
        Self(rows)
    }

    /// The one record of that request, once it is there.
    pub async fn record(suite: &Suite, request_id: &str) -> ChainedAuditRecord {
        let request = ListAuditRequest { request_id: request_id.to_owned(), ..Default::default() };
        let mut rows = wait::eventually(&format!("an audit row of request {request_id}"), async || {
            let rows = suite.admin().list_audit(request.clone()).await.ok()?.into_inner().records;
            (!rows.is_empty()).then_some(rows)
        })
        .await;
        assert_eq!(rows.len(), 1, "one row a request: {rows:?}");
        rows.remove(0)
    }

    /// How often each request id stands in it.
    #[must_use]
    pub fn by_request(&self) -> HashMap<&str, usize> {
        let mut counts = HashMap::new();
        for record in self.0.iter().filter_map(|row| row.record.as_ref()) {
            if let Some(id) = &record.request_id {
                *counts.entry(id.as_str()).or_default() += 1;
            }
        }
        counts
    }

    /// Fails the test unless the chain is whole, by our reckoning and by the suite's.
    pub async fn check(&self, suite: &Suite) {
        self.check_through(suite.admin()).await;
    }

    /// The same through any admin process.
    pub async fn check_through(&self, mut admin: AdminClient<ipc::Channel>) {
        let mut head = GENESIS;
        for row in &self.0 {
            head.verify_next(row).unwrap_or_else(|broken| panic!("the chain breaks: {broken}"));
        }
        let verdict = admin.verify_audit(VerifyAuditRequest {}).await.expect("verify the audit trail").into_inner();
        assert!(verdict.intact, "{verdict:?}");
        assert!(verdict.head_seq >= head.seq && verdict.records >= head.seq, "{verdict:?}, while {} rows were listed", head.seq);
    }
}

/// The record of a row.
#[must_use]
pub fn record(row: &ChainedAuditRecord) -> &AuditRecord {
    row.record.as_ref().expect("a row holds a record")
}
