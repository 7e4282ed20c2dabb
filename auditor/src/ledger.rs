//! Where rows are kept. A ledger owns one connection and the right to be the only writer.
//!
//! Everything that fails leaves the connection in doubt, so a ledger that failed is dropped, never repaired: the next one reads from the database
//! where the chain ends. That also holds when a call is cancelled, for [`crate::chain::Chain`] takes the ledger into the call with it.

mod postgres;
mod sqlite;

use std::io;

use gatehouse_migrations::Database;
use gatehouse_proto::{audit::Head, ids::StreamId, internal::v1::ChainedAuditRecord};
pub use postgres::PostgresLedger;
pub use sqlite::SqliteLedger;

/// Why nothing was written, or why it is not known whether something was.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another auditor is the writer.
    #[error("another auditor is writing this trail")]
    Held,
    /// Somebody else appended to the chain since its end was read.
    #[error("the end of the chain is not where it was left")]
    Moved,
    /// The stored end of the chain is no place in a chain.
    #[error("the stored end of the chain cannot be read")]
    Head,
    /// No answer in time.
    #[error("the database did not answer in time")]
    Timeout,
    /// The lock file cannot be used.
    #[error("lock {0}")]
    Lock(#[source] io::Error),
    /// Not reachable.
    #[error("{0:#}")]
    Connect(anyhow::Error),
    /// A statement failed.
    #[error("{0}")]
    Database(#[from] sqlx::Error),
}

/// A stream and the entry of it that is being written.
#[derive(Clone, Copy, Debug)]
pub struct Position<'a> {
    /// Its key.
    pub stream: &'a str,
    /// The last one of the batch.
    pub entry: StreamId,
}

/// One database as the chain needs it, in the order in which it is called.
pub trait Ledger: Sized + Send + 'static {
    /// Connects and becomes the only writer, or says that somebody else is; with `wait`, after some seconds in which that one did not let go.
    fn open(database: &Database, wait: bool) -> impl Future<Output = Result<Self, LedgerError>> + Send;
    /// Where the chain ends.
    fn head(&mut self) -> impl Future<Output = Result<(i64, Vec<u8>), LedgerError>> + Send;
    /// Opens the transaction.
    fn begin(&mut self) -> impl Future<Output = sqlx::Result<()>> + Send;
    /// Which of these ids the trail holds already.
    fn known(&mut self, ids: Vec<&str>) -> impl Future<Output = sqlx::Result<Vec<String>>> + Send;
    /// Adds rows.
    fn insert(&mut self, rows: &[ChainedAuditRecord]) -> impl Future<Output = sqlx::Result<()>> + Send;
    /// Moves the end of the chain and the stream position on; false when the chain does not end at `from`.
    fn advance(&mut self, from: Head, to: Head, position: Position<'_>) -> impl Future<Output = sqlx::Result<bool>> + Send;
    /// Makes it last.
    fn commit(&mut self) -> impl Future<Output = sqlx::Result<()>> + Send;
    /// Lets the next writer write.
    fn close(self) -> impl Future<Output = ()> + Send;
}

const HEAD: &str = "SELECT seq, hash FROM audit_head WHERE one = 1";
const ADVANCE: &str = "UPDATE audit_head SET seq = $1, hash = $2 WHERE one = 1 AND seq = $3 AND hash = $4";
const POSITION: &str =
    "INSERT INTO audit_position (stream, entry_id) VALUES ($1, $2) ON CONFLICT (stream) DO UPDATE SET entry_id = excluded.entry_id";

/// The columns of a row, in the order in which rows are written and read.
macro_rules! columns {
    () => {
        "seq, id, ts_us, user_id, user_email, device_session_id, api_token_id, action_type, action, resource, resource_type, status, \
         rbac_decision, http_status, grpc_code, latency_ms, ip_address, user_agent, request_id, event_count, prev_hash, hash"
    };
}
pub(crate) use columns;
