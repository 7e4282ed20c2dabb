//! The public door: signed gRPC commands, event streams relayed to pushers, HTTP routes.
//!
//! ```text
//! grpc ─▶ gateway ─┬─▶ commands ─▶ verify · route · downstream · sign ─┐
//!                  └─▶ relay ────▶ verify · attach to a pusher ────────┼─▶ trail
//! http ─▶ http ──────▶ health · keys · routes · proxy ─────────────────┘
//! ```
//!
//! It owns no state that outlives it: killed at any line, it loses answers that were not given, and nothing else.

mod closing;
mod commands;
pub mod config;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gateway;
mod http;
mod metrics;
mod relay;
mod trail;

use std::sync::Arc;

use gatehouse_chassis::{Process, audit::Recorder, ipc, members::Members, redis::Redis};
use gatehouse_sessions::{Sessions, Verifier, door};

pub use config::Config;

/// Runs the edge until its drain begins.
pub async fn serve(process: Process, config: Config) -> anyhow::Result<()> {
    let (shared, metrics) = (process.shared(), process.metrics());
    let redis = Redis::connect(&shared.redis).await?;
    let sessions = Sessions::open(&process, redis.clone(), &config.sessions, |_| {}).await?;
    let recorder = Recorder::open(&process, redis.clone())?;
    let members = Members::follow(&process).await;

    config.sessions.keys.follow(&process);
    let closing = closing::Closing::new(&process);
    let trail = trail::Trail::new(recorder, metrics);
    let verifier = Verifier::new(sessions, redis.clone(), &config.sessions, &process);
    let pushers = Arc::new(relay::Pushers::new(Arc::clone(shared), members.clone(), relay::RelayMetrics::new(metrics)));
    let commands = Arc::new(commands::Commands::new(&config, verifier.clone(), trail.clone(), metrics, closing.clone()));
    let relay = relay::Relay { verifier, pushers: Arc::clone(&pushers), trail: trail.clone() };
    let dependencies = http::Dependencies {
        redis,
        auditor: ipc::channel(shared.local_socket("auditor", 0)),
        pushers,
        members,
        instance: process.instance(),
    };
    let public = http::Door::new(&config, dependencies, &trail, metrics, closing);
    let gateway = door::router(&process, gateway::Door { commands, relay }).await?;

    let (grpc, http) = (process.required_listener("grpc")?, process.required_listener("http")?);
    process.serve_local_until_drain(|routes| routes)?;

    process.serve("grpc", grpc, gateway);
    process.serve("http", http, public.router());
    process.ready().await;
    process.until_drain().await;
    Ok(())
}
