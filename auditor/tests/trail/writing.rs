//! From the stream to rows, and every record once.

use gatehouse_auditor::{
    chain::Chain,
    intake::Intake,
    ledger::{Ledger, LedgerError, Position, PostgresLedger, SqliteLedger},
};
use gatehouse_chassis::{audit, redis::Entry};
use gatehouse_proto::{
    audit::bound,
    internal::v1::{AuditBatch, AuditRecord},
};
use prost::Message as _;

use crate::{
    house::{House, STREAM, actions, eventually, numbered},
    on_both,
};

on_both!(
    records_become_rows_that_chain_and_verify,
    what_was_committed_but_not_settled_is_not_doubled,
    what_was_read_but_not_committed_is_written_by_the_successor,
    a_wiped_redis_gets_its_group_back,
    malformed_entries_are_counted_and_skipped,
    a_row_reads_back_as_it_was_hashed,
    two_auditors_do_not_both_chain,
    the_drain_writes_what_the_stream_holds,
);

async fn records_become_rows_that_chain_and_verify(house: &mut House) {
    house.append(numbered(0..3));
    let auditor = house.auditor().await;
    house.written(3).await;
    // More than a transaction, a page of verification or a multi-row INSERT holds.
    for start in (3..3003).step_by(200) {
        house.append(numbered(start..start + 200));
    }
    house.written(3003).await;
    let rows = house.rows().await;
    assert_eq!(actions(&rows), (0..3003).map(|n| format!("n.{n}")).collect::<Vec<_>>());
    let verdict = house.verify().await;
    assert!(verdict.intact, "{verdict:?}");
    assert_eq!((verdict.records, verdict.head_seq, &verdict.head_hash), (3003, 3003, &rows[0].hash));
    assert_eq!(auditor.metrics.events.with_label_values(&["written"]).get(), 3003);
    assert_eq!(house.redis.run(&["XPENDING", STREAM, "auditor"]).lines().next(), Some(":0"));
}

/// Reads what waits, as a process that dies before its next step does.
async fn read(house: &House) -> Vec<Entry> {
    house.database().ready(true).await.unwrap();
    Intake::new(house.redis().await, STREAM.to_owned()).read(true, std::future::pending()).await.unwrap()
}

async fn commit<L: Ledger>(house: &House, entries: &[Entry]) {
    let chain = Chain::<L>::open(&house.database()).await.unwrap();
    let records = entries.iter().flat_map(|entry| AuditBatch::decode(entry.fields[0].1.clone()).unwrap().records).collect();
    chain.append(records, Position { stream: STREAM, entry: entries.last().unwrap().id }).await.unwrap();
}

async fn what_was_committed_but_not_settled_is_not_doubled(house: &mut House) {
    house.append(numbered(0..5));
    let entries = read(house).await;
    if house.postgres.is_some() {
        commit::<PostgresLedger>(house, &entries).await;
    } else {
        commit::<SqliteLedger>(house, &entries).await;
    }
    house.append(numbered(5..7));
    let auditor = house.auditor().await;
    house.written(7).await;
    assert_eq!(actions(&house.rows().await), (0..7).map(|n| format!("n.{n}")).collect::<Vec<_>>());
    assert_eq!(auditor.metrics.events.with_label_values(&["duplicate"]).get(), 5);
    assert!(house.verify().await.intact);
}

async fn what_was_read_but_not_committed_is_written_by_the_successor(house: &mut House) {
    house.append(numbered(0..5));
    assert_eq!(read(house).await.len(), 1);
    house.append(numbered(5..6));
    let _auditor = house.auditor().await;
    house.written(6).await;
    assert_eq!(actions(&house.rows().await), (0..6).map(|n| format!("n.{n}")).collect::<Vec<_>>());
}

async fn a_wiped_redis_gets_its_group_back(house: &mut House) {
    let _auditor = house.auditor().await;
    house.append(numbered(0..2));
    house.written(2).await;
    assert_eq!(house.redis.run(&["FLUSHALL"]), "+OK");
    house.append(numbered(2..4));
    house.written(4).await;
    assert_eq!(house.redis.run(&["XGROUP", "DESTROY", STREAM, "auditor"]), ":1");
    house.append(numbered(4..6));
    house.written(6).await;
    assert!(house.verify().await.intact);
}

async fn malformed_entries_are_counted_and_skipped(house: &mut House) {
    house.append_raw(&[("other", b"field".to_vec())]);
    house.append_raw(&[("records", b"\xff\xff\xff\xff".to_vec())]);
    let mut records = numbered(0..2);
    let twice = records[0].clone();
    records.extend([AuditRecord { id: String::new(), ..twice.clone() }, twice]);
    house.append(records);
    let auditor = house.auditor().await;
    house.written(2).await;
    let count = |outcome| auditor.metrics.events.with_label_values(&[outcome]).get();
    assert_eq!((count("written"), count("duplicate"), count("malformed")), (2, 1, 3));
}

async fn a_row_reads_back_as_it_was_hashed(house: &mut House) {
    let full = |text: &str, number: u32| AuditRecord {
        ts_us: -i64::from(number),
        user_id: Some(text.to_owned()),
        user_email: Some(text.to_owned()),
        device_session_id: Some(text.to_owned()),
        api_token_id: Some(text.to_owned()),
        resource: Some(text.repeat(200)),
        resource_type: Some(text.to_owned()),
        rbac_decision: Some(text.to_owned()),
        http_status: Some(number),
        grpc_code: Some(text.to_owned()),
        latency_ms: Some(-i64::from(number)),
        ip_address: Some(text.to_owned()),
        user_agent: Some(text.repeat(200)),
        request_id: Some(text.to_owned()),
        event_count: number,
        ..audit::record(text, text, text)
    };
    let mut sent = vec![full("plain", 0), full("", 1), full("ü𝄞\u{200b}\n\t'\"\\%", u32::MAX), full("nul\0inside", 7)];
    sent.push(AuditRecord { ts_us: i64::MIN, latency_ms: Some(i64::MAX), ..audit::record("", "", "") });
    house.append(sent.clone());
    let _auditor = house.auditor().await;
    house.written(sent.len()).await;
    sent.iter_mut().for_each(bound);
    let kept: Vec<_> = house.rows().await.into_iter().rev().map(|row| row.record.unwrap()).collect();
    assert_eq!(kept, sent);
    assert!(house.verify().await.intact);
}

async fn two_auditors_do_not_both_chain(house: &mut House) {
    let first = house.auditor().await;
    house.append(numbered(0..1));
    house.written(1).await;
    let held = if house.postgres.is_some() {
        Chain::<PostgresLedger>::open(&house.database()).await.map(|_| ()).unwrap_err()
    } else {
        Chain::<SqliteLedger>::open(&house.database()).await.map(|_| ()).unwrap_err()
    };
    assert!(matches!(held, LedgerError::Held), "{held}");
    let second = house.auditor().await;
    house.append(numbered(1..2));
    house.written(2).await;
    assert_eq!(second.metrics.events.with_label_values(&["written"]).get(), 0, "it stands by");
    first.drain().await;
    house.append(numbered(2..3));
    house.written(3).await;
    assert_eq!(second.metrics.events.with_label_values(&["written"]).get(), 1);
    assert!(house.verify().await.intact);
}

async fn the_drain_writes_what_the_stream_holds(house: &mut House) {
    let auditor = house.auditor().await;
    house.append(numbered(0..1));
    house.written(1).await;
    for n in 1..301 {
        house.append(numbered(n..n + 1));
    }
    auditor.drain().await;
    assert_eq!((house.rows().await.len(), house.waiting().as_str()), (301, ":0"));
    eventually("the lock is free", async || {
        house.append(numbered(301..302));
        house.auditor().await.drain().await;
        house.waiting() == ":0"
    })
    .await;
}
