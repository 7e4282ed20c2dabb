//! The chain and its writer: one batch, one transaction, one step of the head.

use std::{collections::HashSet, time::Duration};

use gatehouse_migrations::Database;
use gatehouse_proto::{
    audit::Head,
    internal::v1::{AuditRecord, ChainedAuditRecord},
};

use crate::ledger::{Ledger, LedgerError, Position};

/// Bounds one transaction from outside. The database's own bounds come first; this one is for an answer that never comes.
const APPEND: Duration = Duration::from_secs(30);
/// Bounds the question whether the database is there.
const CHECK: Duration = Duration::from_secs(5);

/// The only writer of a chain.
#[derive(Debug)]
pub struct Chain<L> {
    ledger: L,
    head: Head,
}

/// What one batch became.
#[derive(Debug)]
pub struct Appended {
    /// The new rows, in order.
    pub rows: Vec<ChainedAuditRecord>,
    /// Records that the trail held already, or that stood twice in the batch.
    pub duplicates: usize,
}

impl<L: Ledger> Chain<L> {
    /// Becomes the writer and finds out where the chain ends; while another one is the writer, says so.
    pub async fn open(database: &Database) -> Result<Self, LedgerError> {
        Self::become_writer(database, false).await
    }

    /// The same, but waits some seconds for the other one's end.
    pub async fn stand_by(database: &Database) -> Result<Self, LedgerError> {
        Self::become_writer(database, true).await
    }

    async fn become_writer(database: &Database, wait: bool) -> Result<Self, LedgerError> {
        let open = async {
            let mut ledger = L::open(database, wait).await?;
            let head = stored_head(&mut ledger).await?;
            Ok(Self { ledger, head })
        };
        tokio::time::timeout(APPEND, open).await.unwrap_or(Err(LedgerError::Timeout))
    }

    /// Is the writer no more.
    pub async fn close(self) {
        self.ledger.close().await;
    }

    /// Where it ends.
    #[must_use]
    pub const fn head(&self) -> Head {
        self.head
    }

    /// Asks whether the chain still ends where this writer left it, and by that whether the database is there at all.
    pub async fn check(mut self) -> Result<Self, LedgerError> {
        let stored = tokio::time::timeout(CHECK, stored_head(&mut self.ledger)).await.unwrap_or(Err(LedgerError::Timeout))?;
        if stored == self.head { Ok(self) } else { Err(LedgerError::Moved) }
    }

    /// Chains what is new behind the head, and makes rows, head and position last together. Whoever cancels this, or gets an error, has no chain any
    /// more: whether the transaction was committed is known to the database alone.
    pub async fn append(self, records: Vec<AuditRecord>, position: Position<'_>) -> Result<(Self, Appended), LedgerError> {
        tokio::time::timeout(APPEND, self.transact(records, position)).await.unwrap_or(Err(LedgerError::Timeout))
    }

    async fn transact(mut self, records: Vec<AuditRecord>, position: Position<'_>) -> Result<(Self, Appended), LedgerError> {
        self.ledger.begin().await?;
        let mut seen: HashSet<String> = HashSet::with_capacity(records.len());
        if !records.is_empty() {
            seen.extend(self.ledger.known(records.iter().map(|record| record.id.as_str()).collect()).await?);
        }
        let (read, mut head) = (records.len(), self.head);
        let fresh = records.into_iter().filter(|record| seen.insert(record.id.clone()));
        let rows: Vec<_> = fresh.map(|record| head.append(record)).collect();
        if !rows.is_empty() {
            self.ledger.insert(&rows).await?;
        }
        if !self.ledger.advance(self.head, head, position).await? {
            return Err(LedgerError::Moved);
        }
        self.ledger.commit().await?;
        self.head = head;
        Ok((self, Appended { duplicates: read - rows.len(), rows }))
    }
}

async fn stored_head(ledger: &mut impl Ledger) -> Result<Head, LedgerError> {
    let (seq, hash) = ledger.head().await?;
    let hash = hash.try_into().map_err(|_| LedgerError::Head)?;
    Ok(Head { seq, hash })
}
