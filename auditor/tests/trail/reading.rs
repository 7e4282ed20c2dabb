//! Listing, verification, and what they find after somebody changed the tables.

use std::time::{Duration, Instant};

use gatehouse_auditor::{catch_up::CatchUp, metrics::AuditorMetrics, reading, trail::Trail};
use gatehouse_chassis::{audit, metrics::Metrics};
use gatehouse_migrations::{Connection, on};
use gatehouse_proto::internal::v1::{AuditRecord, ListAuditRequest, VerifyAuditRequest, audit_trail_server::AuditTrail as _};
use sqlx::raw_sql;
use tonic::{Code, Request};

use crate::{
    house::{House, STREAM, numbered},
    on_both,
};

on_both!(
    an_edited_row_is_found_with_its_seq,
    deleted_and_slipped_in_rows_are_found,
    the_tables_refuse_every_change,
    listing_pages_and_filters,
    the_service_checks_limits_and_answers,
    a_listing_holds_what_was_recorded_before_it_was_asked_for,
);

/// Forty records, all written.
async fn filled(house: &House) {
    house.append(numbered(0..40));
    let auditor = house.auditor().await;
    house.written(40).await;
    auditor.drain().await;
}

/// What somebody with the keys to the database can do.
async fn tamper(house: &House, sql: &'static str) {
    let mut connection = house.connection().await;
    let disarm = match connection {
        Connection::Postgres(_) => "SET session_replication_role = replica",
        Connection::Sqlite(_) => "DROP TRIGGER IF EXISTS audit_events_refuse_update; DROP TRIGGER IF EXISTS audit_events_refuse_delete",
    };
    on!(&mut connection, c => raw_sql(disarm).execute(c).await.map(|_| ())).unwrap();
    on!(&mut connection, c => raw_sql(sql).execute(c).await.map(|_| ())).unwrap();
}

async fn broken_at(house: &House) -> (i64, String) {
    let verdict = house.verify().await;
    assert!(!verdict.intact);
    assert_eq!(verdict.records + 1, verdict.first_bad_seq, "what stands before it is whole");
    (verdict.first_bad_seq, verdict.reason)
}

async fn an_edited_row_is_found_with_its_seq(house: &mut House) {
    filled(house).await;
    // Later edits first, so that each one is the first bad row when it is looked for.
    for (sql, seq) in [
        ("UPDATE audit_events SET event_count = -1 WHERE seq = 39", 39),
        ("UPDATE audit_events SET hash = prev_hash WHERE seq = 31", 31),
        ("UPDATE audit_events SET user_id = '' WHERE seq = 23", 23),
        ("UPDATE audit_events SET ts_us = ts_us + 1 WHERE seq = 17", 17),
        ("UPDATE audit_events SET status = 'denied' WHERE seq = 2", 2),
    ] {
        tamper(house, sql).await;
        assert_eq!(broken_at(house).await.0, seq, "{sql}");
    }
}

async fn deleted_and_slipped_in_rows_are_found(house: &mut House) {
    filled(house).await;
    let copy = |seq: i64, id: i64| {
        let sql = format!(
            "INSERT INTO audit_events (seq, id, ts_us, action_type, action, status, event_count, prev_hash, hash) \
             SELECT {seq}, 'slipped-in-{seq}', ts_us, action_type, action, status, event_count, prev_hash, hash FROM audit_events WHERE seq = {id}"
        );
        &*sql.leak()
    };
    tamper(house, copy(41, 40)).await;
    assert_eq!(broken_at(house).await, (41, "a row stands behind the head".into()));
    tamper(house, "DELETE FROM audit_events WHERE seq >= 40").await;
    assert_eq!(broken_at(house).await, (40, "the row is missing".into()));
    tamper(house, "DELETE FROM audit_events WHERE seq = 20").await;
    assert_eq!(broken_at(house).await.0, 20);
    tamper(house, "DELETE FROM audit_events").await;
    assert_eq!(broken_at(house).await.0, 1);
}

async fn the_tables_refuse_every_change(house: &mut House) {
    filled(house).await;
    let mut statements = vec!["UPDATE audit_events SET action = 'x' WHERE seq = 1", "DELETE FROM audit_events WHERE seq = 1"];
    if house.postgres.is_some() {
        statements.push("TRUNCATE audit_events");
    }
    for sql in statements {
        let mut connection = house.connection().await;
        let refused = on!(&mut connection, c => raw_sql(sql).execute(c).await.map(|_| ())).unwrap_err();
        assert!(refused.to_string().contains("append-only"), "{sql}: {refused}");
    }
    assert!(house.verify().await.intact);
}

async fn listing_pages_and_filters(house: &mut House) {
    let tagged = |n: usize| AuditRecord {
        request_id: Some(format!("r-{}", n % 4)),
        ..audit::record(if n.is_multiple_of(2) { "command" } else { "admin" }, &format!("n.{n}"), "success")
    };
    house.append((1..=20).map(tagged).collect());
    let auditor = house.auditor().await;
    house.written(20).await;
    auditor.drain().await;
    let mut connection = house.database().connect_to_read().await.unwrap();
    let mut seqs = async |request: ListAuditRequest| -> Vec<i64> {
        reading::list(&mut connection, &request).await.unwrap().iter().map(|row| row.seq).collect()
    };
    let request = |limit| ListAuditRequest { limit, ..ListAuditRequest::default() };
    assert_eq!(seqs(request(3)).await, [20, 19, 18]);
    assert_eq!(seqs(ListAuditRequest { before_seq: 3, ..request(50) }).await, [2, 1]);
    assert_eq!(seqs(ListAuditRequest { action_type: "command".into(), ..request(2) }).await, [20, 18]);
    assert_eq!(seqs(ListAuditRequest { request_id: "r-1".into(), before_seq: 10, ..request(50) }).await, [9, 5, 1]);
    assert_eq!(seqs(ListAuditRequest { request_id: "' OR 1=1 --".into(), ..request(50) }).await, [0_i64; 0]);
    let refused = on!(&mut connection, c => raw_sql("UPDATE audit_head SET seq = 0").execute(c).await.map(|_| ()));
    assert!(refused.is_err(), "a connection for reading cannot write");
}

async fn service(house: &House) -> Trail {
    let stream = CatchUp::new(house.redis().await, STREAM.to_owned());
    Trail::new(house.database(), stream, AuditorMetrics::new(&Metrics::new("auditor", 0)))
}

async fn a_listing_holds_what_was_recorded_before_it_was_asked_for(house: &mut House) {
    filled(house).await;
    let trail = service(house).await;
    let newest = async |before_seq| {
        let request = ListAuditRequest { limit: 1, before_seq, ..ListAuditRequest::default() };
        trail.list(Request::new(request)).await.unwrap().into_inner().records.remove(0)
    };
    // Nobody writes: what there is, rather than nothing.
    house.append(numbered(40..41));
    let begun = Instant::now();
    assert_eq!(newest(40).await.seq, 39, "pages behind the first are written for long");
    assert_eq!(newest(0).await.seq, 40);
    assert!(begun.elapsed() >= Duration::from_secs(2));
    let auditor = house.auditor().await;
    for n in 41..91 {
        house.append(numbered(n..n + 1));
        let (action, mut begun) = (format!("n.{n}"), Instant::now());
        let mut row = newest(0).await;
        // A listing gives up when the machine stood still for longer than it waits; otherwise it holds the record at once.
        while row.record.as_ref().unwrap().action != action && begun.elapsed() >= Duration::from_millis(900) {
            begun = Instant::now();
            row = newest(0).await;
        }
        assert_eq!((row.seq, row.record.unwrap().action), (i64::try_from(n).unwrap() + 1, action));
    }
    auditor.drain().await;
    house.redis.kill9();
    assert_eq!(newest(0).await.seq, 91, "without Redis as well");
}

async fn the_service_checks_limits_and_answers(house: &mut House) {
    filled(house).await;
    let trail = service(house).await;
    let list = async |limit| trail.list(Request::new(ListAuditRequest { limit, ..ListAuditRequest::default() })).await;
    assert_eq!(list(0).await.unwrap().get_ref().records.len(), 40);
    assert_eq!(list(1).await.unwrap().get_ref().records[0].seq, 40);
    assert_eq!(list(1001).await.unwrap_err().code(), Code::InvalidArgument);
    if let Some(postgres) = &mut house.postgres {
        postgres.kill9();
        let refused = list(1).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "the audit database is unavailable"));
        postgres.restart();
        assert_eq!(list(1).await.unwrap().get_ref().records[0].seq, 40);
    }
    assert!(trail.verify(Request::new(VerifyAuditRequest {})).await.unwrap().get_ref().intact);
}
