//! Writes the audit trail: reads the stream in a group, chains each record to the one before, keeps them in a database.
//!
//! ```text
//! stream ──▶ Intake ──▶ Batch ──▶ Chain ──▶ rows, head and stream position in one transaction
//!              ▲                    │
//!              └──── settle ◀───────┴──▶ Output: a JSON line a record
//! ```
//!
//! An entry leaves the stream once its records are rows, never before. Whatever dies between the two is read again, and records that the trail holds
//! already are known by their id.

pub mod batch;
pub mod catch_up;
pub mod chain;
mod config;
pub mod intake;
mod lag;
pub mod ledger;
pub mod metrics;
pub mod output;
pub mod reading;
pub mod scribe;
pub mod trail;

pub use config::Config;

use std::sync::Arc;

use gatehouse_chassis::{Process, audit, redis::Redis};
use gatehouse_migrations::{Database, Owner};
use gatehouse_proto::internal::v1::audit_trail_server::AuditTrailServer;

use crate::{
    catch_up::CatchUp,
    intake::Intake,
    ledger::{PostgresLedger, SqliteLedger},
    metrics::AuditorMetrics,
    output::Output,
    scribe::Scribe,
    trail::Trail,
};

/// Runs until the drain, and then until the stream is empty.
pub async fn serve(process: Process, config: Config) -> anyhow::Result<()> {
    let shared = Arc::clone(process.shared());
    let redis = Redis::connect(&shared.redis).await?;
    let database = Database::of(&shared, Owner::Audit)?;
    database.ready(shared.migrate_on_start).await?;

    let metrics = AuditorMetrics::new(process.metrics());
    let trail = Trail::new(database.clone(), CatchUp::new(redis.clone(), redis.key(audit::STREAM)), metrics.clone());
    let intake = Intake::new(redis.clone(), redis.key(audit::STREAM));
    let output = Output::open(&process, tokio::io::stdout(), metrics.lines_skipped.clone());

    process.serve_local_until_drain(|routes| routes.add_service(AuditTrailServer::new(trail)))?;

    process.spawn("lag", lag::watch(process.shutdown().clone(), redis.clone(), redis.key(audit::STREAM), metrics.clone()));
    let scribe = Scribe { process: process.clone(), database, intake, output, metrics, batch: config.batch };
    if scribe.database.file().is_some() {
        process.spawn("scribe", scribe.run::<SqliteLedger>());
    } else {
        process.spawn("scribe", scribe.run::<PostgresLedger>());
    }
    process.dependency("database", true).await;
    process.ready().await;
    process.until_drain().await;
    Ok(())
}
