//! Reads the trail back, from either database by the same SQL.

use gatehouse_migrations::{Connection, on};
use gatehouse_proto::{
    audit::{Broken, GENESIS, Head},
    internal::v1::{AuditRecord, ChainedAuditRecord, ListAuditRequest, VerifyAuditResponse},
};
use sqlx::{ColumnIndex, Database, Decode, Row, Type, query, query_as};

use crate::ledger::columns;

/// Rows that verification holds at a time.
const PAGE: i64 = 2000;

const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM audit_events WHERE seq < $1 AND (action_type = $2 OR $2 = '') AND (request_id = $3 OR $3 = '') ORDER BY seq DESC LIMIT $4"
);
const WALK: &str = concat!("SELECT ", columns!(), " FROM audit_events WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3");
/// One statement, so that both come from one moment.
const TIP: &str = "SELECT seq, hash, (SELECT max(seq) FROM audit_events) FROM audit_head WHERE one = 1";

/// The newest rows first, as asked; `limit` has been checked.
pub async fn list(connection: &mut Connection, request: &ListAuditRequest) -> sqlx::Result<Vec<ChainedAuditRecord>> {
    let before = if request.before_seq > 0 { request.before_seq } else { i64::MAX };
    let (action_type, request_id, limit) = (request.action_type.as_str(), request.request_id.as_str(), i64::from(request.limit));
    on!(connection, c => {
        let rows = query(LIST).bind(before).bind(action_type).bind(request_id).bind(limit).fetch_all(c).await?;
        rows.iter().map(row).collect()
    })
}

/// Walks the whole chain, page by page, and compares where it ends with where it is said to end, so that rows that were cut off are missed too.
pub async fn verify(connection: &mut Connection) -> sqlx::Result<VerifyAuditResponse> {
    let (seq, hash, last): (i64, Vec<u8>, Option<i64>) = on!(&mut *connection, c => query_as(TIP).fetch_one(c).await?);
    let mut walked = GENESIS;
    let broken = walk(connection, &mut walked, seq).await?.or_else(|| {
        let end = |seq, reason| Some(Broken { seq, reason });
        match last {
            _ if walked.seq < seq => end(walked.seq + 1, "the row is missing"),
            _ if walked.hash.as_slice() != hash => end(seq, "the row is not the one that the head was taken from"),
            Some(last) if last > seq => end(seq + 1, "a row stands behind the head"),
            _ => None,
        }
    });
    Ok(VerifyAuditResponse {
        intact: broken.is_none(),
        records: walked.seq,
        head_seq: seq,
        head_hash: hash,
        first_bad_seq: broken.map_or(0, |broken| broken.seq),
        reason: broken.map_or_else(String::new, |broken| broken.reason.to_owned()),
    })
}

async fn walk(connection: &mut Connection, walked: &mut Head, until: i64) -> sqlx::Result<Option<Broken>> {
    // From below the first place, so that a row that was slipped in there is seen.
    let mut after = i64::MIN;
    loop {
        let rows: Vec<sqlx::Result<ChainedAuditRecord>> = on!(&mut *connection, c => {
            query(WALK).bind(after).bind(until).bind(PAGE).fetch_all(c).await?.iter().map(row).collect()
        });
        if rows.is_empty() {
            return Ok(None);
        }
        for row in rows {
            // A value that was never written, such as text that is not UTF-8: changed, like any other.
            let Ok(row) = row else { return Ok(Some(Broken { seq: walked.seq + 1, reason: "the row cannot be read" })) };
            if let Err(broken) = walked.verify_next(&row) {
                return Ok(Some(broken));
            }
            after = row.seq;
        }
    }
}

/// A row as it was written. Columns are taken by their place in [`columns`].
fn row<'r, R: Row>(row: &'r R) -> sqlx::Result<ChainedAuditRecord>
where
    usize: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
    Option<i64>: Decode<'r, R::Database> + Type<R::Database>,
    Option<String>: Decode<'r, R::Database> + Type<R::Database>,
    R::Database: Database,
{
    let small = |value: i64| u32::try_from(value).map_err(|error| sqlx::Error::Decode(error.into()));
    let record = AuditRecord {
        id: row.try_get(1)?,
        ts_us: row.try_get(2)?,
        user_id: row.try_get(3)?,
        user_email: row.try_get(4)?,
        device_session_id: row.try_get(5)?,
        api_token_id: row.try_get(6)?,
        action_type: row.try_get(7)?,
        action: row.try_get(8)?,
        resource: row.try_get(9)?,
        resource_type: row.try_get(10)?,
        status: row.try_get(11)?,
        rbac_decision: row.try_get(12)?,
        http_status: row.try_get::<Option<i64>, _>(13)?.map(small).transpose()?,
        grpc_code: row.try_get(14)?,
        latency_ms: row.try_get(15)?,
        ip_address: row.try_get(16)?,
        user_agent: row.try_get(17)?,
        request_id: row.try_get(18)?,
        event_count: small(row.try_get(19)?)?,
    };
    Ok(ChainedAuditRecord { record: Some(record), seq: row.try_get(0)?, prev_hash: row.try_get(20)?, hash: row.try_get(21)? })
}
