//! The public door: signed gRPC commands, event streams relayed to pushers, HTTP routes.
//!
//! ```text
//! grpc ─▶ gateway ─┬─▶ commands ─▶ verify · route · downstream · sign ─┐
//!                  └─▶ relay ────▶ verify · attach to a pusher ────────┼─▶ trail
//! http ─▶ http ──────▶ health · keys · routes · proxy ─────────────────┘
//! ```
//!
//! It owns no state that outlives it: killed at any line, it loses answers that were not given, and nothing else.

mod admission;
mod backends;
mod closing;
mod commands;
pub mod config;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gateway;
mod http;
mod metrics;
mod relay;
mod requests;
mod routing;
mod trail;

use std::sync::Arc;

use gatehouse_chassis::{Process, audit::Recorder, connections::Public, ipc, members::Members, redis::Redis};
use gatehouse_sessions::{Limits, Sessions, Verifier, door};

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
    let requests = Arc::new(requests::Requests::new(&process));
    let trail = trail::Trail::new(recorder, &process);
    let limits = Limits::start(&process, &redis, &config.sessions);
    let verifier = Verifier::new(sessions, redis.clone(), &config.sessions, &process).with_limits(limits);
    let pushers = Arc::new(relay::Pushers::new(Arc::clone(shared), members.clone(), relay::RelayMetrics::new(metrics)));
    let keys = config.sessions.keys.clone();
    let listeners = Public::open(&process, &config.connections)?;
    let admission = admission::Admission::new(&config.overload, metrics);
    let backends = backends::Backends::open(process.shutdown(), metrics, &config.backends);
    let cuts = http::Cuts::new(metrics);
    let makings = routing::Makings { admission: admission.clone(), trail: trail.clone(), closing: closing.clone(), cuts };
    let (state_dir, origin) = (shared.state_dir.join("edge"), process.origin().cloned());
    let desk = Arc::new(routing::Desk::open(routing::Ground { config, makings, backends, state_dir, origin }, metrics));
    let commands = commands::Commands {
        verifier: verifier.clone(),
        routing: desk.routing(),
        admission,
        trail: trail.clone(),
        keys: keys.clone(),
        closing: closing.clone(),
    };
    let commands = Arc::new(commands);
    let relay = relay::Relay { verifier, pushers: Arc::clone(&pushers), trail: trail.clone() };
    let dependencies = http::Dependencies {
        redis,
        auditor: ipc::channel(shared.local_socket("auditor", 0)),
        pushers,
        members,
        trail: trail.clone(),
        instance: process.instance(),
    };
    let public = http::Door::new(keys, desk.routing(), dependencies, metrics, closing, Arc::clone(&requests));
    let gateway = door::router(&process, gateway::Door { commands, relay, requests }).await?;

    let (grpc, http) = (process.required_listener("grpc")?, process.required_listener("http")?);
    let control = routing::Service::new(&desk, process.shutdown().clone());
    process.serve_local_until_drain(|routes| routes.add_service(control.into_server()))?;

    listeners.serve("grpc", grpc, gateway);
    listeners.serve("http", http, public.router());
    process.ready().await;
    process.until_drain().await;
    drop(desk);
    Ok(())
}
