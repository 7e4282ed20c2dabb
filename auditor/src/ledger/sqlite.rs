//! SQLite: the writer holds a lock on a file beside the database as long as it lives; rows go in several to a statement.

use std::{
    fs::{File, OpenOptions, TryLockError},
    time::{Duration, Instant},
};

use gatehouse_migrations::{Connection, Database};
use gatehouse_proto::{audit::Head, internal::v1::ChainedAuditRecord};
use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr, SqliteConnection, query, query_as, query_scalar, raw_sql};

use super::{ADVANCE, HEAD, Ledger, LedgerError, POSITION, Position, columns};

/// How long to wait for another writer's end, and how often to look.
const WAIT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

/// Rows of one INSERT. Each statement is a trip to the driver's thread and back; beyond some dozens, more rows save nothing.
const ROWS: usize = 64;

const ONE_ROW: &str = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// See the module's head.
#[derive(Debug)]
pub struct SqliteLedger {
    connection: SqliteConnection,
    one: SqlStr,
    many: SqlStr,
    /// Dropped after the connection.
    _lock: File,
}

impl Ledger for SqliteLedger {
    async fn open(database: &Database, wait: bool) -> Result<Self, LedgerError> {
        let Connection::Sqlite(connection) = database.connect().await.map_err(LedgerError::Connect)? else {
            return Err(LedgerError::Connect(anyhow::anyhow!("{database} is not SQLite")));
        };
        let path = database.file().unwrap_or_else(|| std::path::Path::new("audit.db")).with_extension("db.lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(LedgerError::Lock)?;
        let begun = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { connection, one: insert(1), many: insert(ROWS), _lock: lock }),
                // A thread that waits in the kernel could not be called off.
                Err(TryLockError::WouldBlock) if wait && begun.elapsed() < WAIT => tokio::time::sleep(LOOK).await,
                Err(TryLockError::WouldBlock) => return Err(LedgerError::Held),
                Err(TryLockError::Error(error)) => return Err(LedgerError::Lock(error)),
            }
        }
    }

    async fn head(&mut self) -> Result<(i64, Vec<u8>), LedgerError> {
        Ok(query_as(HEAD).fetch_one(&mut self.connection).await?)
    }

    async fn begin(&mut self) -> sqlx::Result<()> {
        raw_sql("BEGIN IMMEDIATE").execute(&mut self.connection).await.map(|_| ())
    }

    async fn known(&mut self, ids: Vec<&str>) -> sqlx::Result<Vec<String>> {
        let ids = serde_json::to_string(&ids).unwrap_or_default();
        let known = "SELECT id FROM audit_events WHERE id IN (SELECT value FROM json_each($1))";
        query_scalar(known).bind(ids).fetch_all(&mut self.connection).await
    }

    async fn insert(&mut self, rows: &[ChainedAuditRecord]) -> sqlx::Result<()> {
        for chunk in rows.chunks(ROWS) {
            let (sql, step) = if chunk.len() == ROWS { (&self.many, ROWS) } else { (&self.one, 1) };
            for rows in chunk.chunks(step) {
                let mut statement = query(sql.clone());
                for (row, record) in rows.iter().filter_map(|row| Some((row, row.record.as_ref()?))) {
                    statement = statement
                        .bind(row.seq)
                        .bind(record.id.as_str())
                        .bind(record.ts_us)
                        .bind(record.user_id.as_deref())
                        .bind(record.user_email.as_deref())
                        .bind(record.device_session_id.as_deref())
                        .bind(record.api_token_id.as_deref())
                        .bind(record.action_type.as_str())
                        .bind(record.action.as_str())
                        .bind(record.resource.as_deref())
                        .bind(record.resource_type.as_deref())
                        .bind(record.status.as_str())
                        .bind(record.rbac_decision.as_deref())
                        .bind(record.http_status.map(i64::from))
                        .bind(record.grpc_code.as_deref())
                        .bind(record.latency_ms)
                        .bind(record.ip_address.as_deref())
                        .bind(record.user_agent.as_deref())
                        .bind(record.request_id.as_deref())
                        .bind(i64::from(record.event_count))
                        .bind(row.prev_hash.as_slice())
                        .bind(row.hash.as_slice());
                }
                statement.execute(&mut self.connection).await?;
            }
        }
        Ok(())
    }

    async fn advance(&mut self, from: Head, to: Head, position: Position<'_>) -> sqlx::Result<bool> {
        let advance = query(ADVANCE).bind(to.seq).bind(to.hash.to_vec()).bind(from.seq).bind(from.hash.to_vec());
        let moved = advance.execute(&mut self.connection).await?.rows_affected();
        query(POSITION).bind(position.stream).bind(position.entry.to_string()).execute(&mut self.connection).await?;
        Ok(moved == 1)
    }

    async fn commit(&mut self) -> sqlx::Result<()> {
        raw_sql("COMMIT").execute(&mut self.connection).await.map(|_| ())
    }

    async fn close(self) {
        // The file is left in good order before the next one has it.
        Connection::Sqlite(self.connection).close().await;
    }
}

fn insert(rows: usize) -> SqlStr {
    let rows = vec![ONE_ROW; rows].join(", ");
    AssertSqlSafe(format!(concat!("INSERT INTO audit_events (", columns!(), ") VALUES {}"), rows)).into_sql_str()
}
