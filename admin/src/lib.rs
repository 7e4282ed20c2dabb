//! The operators' process: metrics of the whole suite, sessions, the audit listing, over a local socket and HTTP.
//!
//! ```text
//! gatehouse admin … ──▶ local socket ──▶ Service ──┐
//!                                                  ├─▶ Operations ──▶ Redis (sessions), auditor, supervisor, audit stream
//! operators, scripts ──▶ HTTP, token ──▶ http ─────┘
//! Prometheus ──▶ HTTP /metrics ──▶ Scraper ──▶ every process's local socket
//! ```
//!
//! Both doors do the same operations, and every change is in the audit stream before its answer leaves.

pub mod census;
pub mod exposition;
pub mod http;
pub mod operations;
mod refusal;
pub mod scrape;
pub mod service;
pub mod sessions;
pub mod tokens;

pub use refusal::Refusal;

use std::sync::Arc;

use gatehouse_chassis::{
    Process,
    audit::Recorder,
    config::{self, Reader},
    ipc,
    members::Members,
    redis::Redis,
};
use gatehouse_migrations::{Database, Owner};
use gatehouse_proto::internal::v1::{admin_server::AdminServer, audit_trail_client::AuditTrailClient, supervisor_client::SupervisorClient};

use crate::{operations::Operations, scrape::Scraper, service::Service, sessions::Sessions, tokens::Tokens};

/// The admin process has no section of its own: the supervisor owns its listener's address.
#[derive(Clone, Copy, Debug)]
pub struct Config;

impl config::Config for Config {
    fn read(_: &mut Reader) -> Option<Self> {
        Some(Self)
    }
}

/// Runs until the drain.
pub async fn serve(process: Process, _: Config) -> anyhow::Result<()> {
    let shared = Arc::clone(process.shared());
    let redis = Redis::connect(&shared.redis).await?;
    let database = Database::of(&shared, Owner::Admin)?;
    database.ready(shared.migrate_on_start).await?;
    let tokens = Tokens::open(&database, &shared.state_dir, process.metrics()).await?;
    let recorder = Recorder::open(&process, redis.clone())?;

    let active = process.metrics().gauge("sessions_active", "Device sessions in Redis that are active.");
    let sessions = Sessions::new(redis.clone(), active.clone());
    let operations = Operations {
        sessions,
        recorder,
        trail: AuditTrailClient::new(ipc::channel(shared.local_socket("auditor", 0))),
        supervisor: SupervisorClient::new(ipc::channel(shared.local_socket("supervisor", 0))),
    };
    let scraper = Scraper::new(&process, Members::follow(&process).await);
    let router = http::router(&process, operations.clone(), scraper, tokens);

    process.serve_local_until_drain(|routes| routes.add_service(AdminServer::new(Service(operations))))?;
    if let Some(listener) = process.listener("admin")? {
        process.serve("admin", listener, router);
    }

    process.spawn("census", census::take(process.shutdown().clone(), redis, active));
    process.ready().await;
    process.until_drain().await;
    Ok(())
}
