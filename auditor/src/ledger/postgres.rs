//! PostgreSQL: the writer holds an advisory lock as long as its session lives; rows go in as one array a column.

use gatehouse_migrations::{Connection, Database};
use gatehouse_proto::{
    audit::Head,
    internal::v1::{AuditRecord, ChainedAuditRecord},
};
use sqlx::{PgConnection, query, query_as, query_scalar, raw_sql};

use super::{ADVANCE, HEAD, Ledger, LedgerError, POSITION, Position, columns};

/// "gateaudi" in ASCII: the advisory lock of the one writer of this database.
const WRITER: i64 = 0x6761_7465_6175_6469;

/// What a lock that did not become free in time is called.
const LOCK_NOT_AVAILABLE: &str = "55P03";

const INSERT: &str = concat!(
    "INSERT INTO audit_events (",
    columns!(),
    ") SELECT * FROM UNNEST($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], \
     $10::text[], $11::text[], $12::text[], $13::text[], $14::bigint[], $15::text[], $16::bigint[], $17::text[], $18::text[], $19::text[], \
     $20::bigint[], $21::bytea[], $22::bytea[])"
);

/// See the module's head.
#[derive(Debug)]
pub struct PostgresLedger {
    connection: PgConnection,
}

impl Ledger for PostgresLedger {
    async fn open(database: &Database, wait: bool) -> Result<Self, LedgerError> {
        let Connection::Postgres(mut connection) = database.connect().await.map_err(LedgerError::Connect)? else {
            return Err(LedgerError::Connect(anyhow::anyhow!("{database} is not PostgreSQL")));
        };
        let locked: bool = query_scalar("SELECT pg_try_advisory_lock($1)").bind(WRITER).fetch_one(&mut connection).await?;
        if locked {
            return Ok(Self { connection });
        }
        if wait {
            // For as long as the connection's lock_timeout allows; the server wakes us the moment that it is free.
            match query("SELECT pg_advisory_lock($1)").bind(WRITER).execute(&mut connection).await {
                Ok(_) => return Ok(Self { connection }),
                Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(LedgerError::Held)
    }

    async fn head(&mut self) -> Result<(i64, Vec<u8>), LedgerError> {
        Ok(query_as(HEAD).fetch_one(&mut self.connection).await?)
    }

    async fn begin(&mut self) -> sqlx::Result<()> {
        raw_sql("BEGIN").execute(&mut self.connection).await.map(|_| ())
    }

    async fn known(&mut self, ids: Vec<&str>) -> sqlx::Result<Vec<String>> {
        query_scalar("SELECT id FROM audit_events WHERE id = ANY($1)").bind(ids).fetch_all(&mut self.connection).await
    }

    async fn insert(&mut self, rows: &[ChainedAuditRecord]) -> sqlx::Result<()> {
        let whole = || rows.iter().filter_map(|row| Some((row, row.record.as_ref()?)));
        let records = || whole().map(|(_, record)| record);
        let required = |text: fn(&AuditRecord) -> &str| records().map(text).collect::<Vec<_>>();
        let optional = |text: fn(&AuditRecord) -> Option<&str>| records().map(text).collect::<Vec<_>>();
        query(INSERT)
            .bind(whole().map(|(row, _)| row.seq).collect::<Vec<_>>())
            .bind(required(|record| &record.id))
            .bind(records().map(|record| record.ts_us).collect::<Vec<_>>())
            .bind(optional(|record| record.user_id.as_deref()))
            .bind(optional(|record| record.user_email.as_deref()))
            .bind(optional(|record| record.device_session_id.as_deref()))
            .bind(optional(|record| record.api_token_id.as_deref()))
            .bind(required(|record| &record.action_type))
            .bind(required(|record| &record.action))
            .bind(optional(|record| record.resource.as_deref()))
            .bind(optional(|record| record.resource_type.as_deref()))
            .bind(required(|record| &record.status))
            .bind(optional(|record| record.rbac_decision.as_deref()))
            .bind(records().map(|record| record.http_status.map(i64::from)).collect::<Vec<_>>())
            .bind(optional(|record| record.grpc_code.as_deref()))
            .bind(records().map(|record| record.latency_ms).collect::<Vec<_>>())
            .bind(optional(|record| record.ip_address.as_deref()))
            .bind(optional(|record| record.user_agent.as_deref()))
            .bind(optional(|record| record.request_id.as_deref()))
            .bind(records().map(|record| i64::from(record.event_count)).collect::<Vec<_>>())
            .bind(whole().map(|(row, _)| row.prev_hash.as_slice()).collect::<Vec<_>>())
            .bind(whole().map(|(row, _)| row.hash.as_slice()).collect::<Vec<_>>())
            .execute(&mut self.connection)
            .await
            .map(|_| ())
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
        // The lock goes with the session.
        Connection::Postgres(self.connection).close().await;
    }
}
