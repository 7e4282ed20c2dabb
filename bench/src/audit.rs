//! Records from the audit stream into the trail.

use clap::Args;
use gatehouse_chassis::audit::{FIELD, record};
use gatehouse_proto::internal::v1::{AuditBatch, ListAuditRequest};
use gatehouse_tests::{Builder, Suite, servers};
use prost::Message as _;
use tokio::time::{Duration, Instant, sleep};

use crate::{measure::cpu_of, report::Report};

/// What is appended.
#[derive(Clone, Copy, Debug, Args)]
pub struct Load {
    /// Records of each round
    #[arg(long, default_value_t = 100_000)]
    records: usize,
    /// Records in each entry of the stream
    #[arg(long, default_value_t = 64)]
    group: usize,
    /// Rounds after one to warm up
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Measures.
pub async fn run(load: &Load) -> Report {
    let title = format!("audit: {} records in entries of {}", load.records, load.group);
    let mut report = Report::new(title, &["rows/s", "rows/CPU-s"]);
    let postgres = servers::postgres_database().await;
    for (name, builder) in [("SQLite", Suite::builder()), ("PostgreSQL", Suite::builder().database(&postgres))] {
        let rounds = on(builder, load).await;
        report.medians(name, &rounds);
    }
    report
}

async fn on(builder: Builder, load: &Load) -> Vec<Vec<f64>> {
    let suite = builder.env("LOG_LEVEL", "warn").start().await;
    let mut rounds = Vec::new();
    for round in 0..=load.rounds {
        let entries: Vec<_> = (0..load.records / load.group).map(|_| entry(load.group)).collect();
        let (head, cpu) = (head(&suite).await, cpu_of(&suite, "auditor").await);
        let begun = Instant::now();
        let mut redis = suite.embedded_redis();
        tokio::task::block_in_place(|| {
            for entry in &entries {
                redis.xadd("gateway:audit", &[(FIELD.as_bytes(), entry)]).unwrap();
            }
        });
        let rows = entries.len() * load.group;
        let target = head + i64::try_from(rows).unwrap();
        while self::head(&suite).await < target {
            assert!(begun.elapsed() < Duration::from_mins(2), "the auditor does not keep up");
            sleep(Duration::from_millis(2)).await;
        }
        let (wall, cpu) = (begun.elapsed().as_secs_f64(), cpu_of(&suite, "auditor").await - cpu);
        if round > 0 {
            rounds.push(vec![rows as f64 / wall, rows as f64 / cpu]);
        }
    }
    rounds
}

fn entry(records: usize) -> Vec<u8> {
    let one = |i: usize| {
        let mut record = record("command", "orders.create", "success");
        record.user_id = Some("5b1f4a5e-user".into());
        record.device_session_id = Some("5b1f4a5e-device".into());
        record.grpc_code = Some("OK".into());
        record.latency_ms = Some(3);
        record.ip_address = Some("192.0.2.7".into());
        record.user_agent = Some("bench/1".into());
        record.request_id = Some(format!("{}-{i}", record.id));
        record
    };
    AuditBatch { records: (0..records).map(one).collect() }.encode_to_vec()
}

async fn head(suite: &Suite) -> i64 {
    let newest = ListAuditRequest { limit: 1, ..Default::default() };
    let answer = suite.admin().list_audit(newest).await.expect("list the audit trail").into_inner();
    answer.records.first().map_or(0, |row| row.seq)
}
