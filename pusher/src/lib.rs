//! Fans events out to connected devices.
//!
//! ```text
//!  client_events ─▶ reader ─▶ hub: log + seats ◀─ pull ─ event streams ─▶ edge (local socket), clients (push socket)
//!                              ▲      ▲                      │ behind memory
//!  session_events ─▶ sessions ─┘      └── sweep              └──▶ archive: Redis, page by page
//! ```
//!
//! One [`log`](mod@log) of immutable events, indexed by user, each sealed and encoded once; a stream is a cursor into it and what a [`seat`] counts. A cursor
//! is the id of a stream entry or of a point between entries, so that any pusher can [`resume`] it, after any crash, as long as Redis is the same
//! ([`floor`]) and has not been trimmed past it.

pub mod announce;
pub mod archive;
pub mod attach;
pub mod backlog;
pub mod config;
pub mod direct;
pub mod entry;
pub mod floor;
pub mod hub;
pub mod log;
pub mod metrics;
pub mod past;
pub mod reader;
pub mod resume;
pub mod seat;
pub mod stream;
pub mod sweep;

pub use config::Config;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use gatehouse_chassis::{
    Process,
    audit::{Denied, Recorder},
    connections::Public,
    redis::Redis,
};
use gatehouse_proto::internal::v1::push_server::PushServer;
use gatehouse_sessions::{Sessions, Verifier, door};
use tokio::sync::oneshot;

use archive::Archive;
use attach::Attach;
use direct::Direct;
use floor::Floor;
use hub::Hub;
use metrics::PushMetrics;
use reader::Reader;

/// How long the sweep may stand still. It comes once a second at the least.
const SWEEP_LIMIT: Duration = Duration::from_secs(2);

/// Runs one pusher.
pub async fn serve(process: Process, config: Config) -> anyhow::Result<()> {
    // Open
    let redis = Redis::connect(&process.shared().redis).await?;
    let floor = Arc::new(Floor::open(redis.clone()).await.context("agree on the floor of cursors")?);
    let stream = redis.config().client_events_stream.clone();
    let position = redis.stream_info(&stream).await.context("find the end of the client event stream")?.last_generated;

    // Build
    config.sessions.keys.follow(&process);
    let lowest = floor.known().map(|mark| mark.floor).unwrap_or_default();
    let metrics = PushMetrics::new(&process);
    let past = past::recall(&redis, &config.push, position).await;
    let hub = Arc::new(Hub::new(config.push, config.sessions.keys.clone(), metrics, past, position, lowest));
    let archive = Arc::new(Archive::new(redis.clone(), Arc::clone(&floor), Arc::clone(&hub)));
    let revoking = Arc::clone(&hub);
    let sessions = Sessions::open(&process, redis.clone(), &config.sessions, move |id| revoking.revoke(id)).await?;
    let attach = Attach::new(Arc::clone(&hub), archive, sessions.clone());
    let reader = Reader::new(&process, &redis, Arc::clone(&hub), floor, position);

    // Bind
    let public = match process.listener("push")? {
        None => None,
        Some(listener) => {
            let verifier = Verifier::new(sessions, redis.clone(), &config.sessions, &process);
            let recorder = Recorder::open(&process, redis)?;
            let denied = Denied::open(&process, recorder.clone());
            let direct = Direct::new(attach.clone(), verifier, recorder, denied, process.shutdown().clone());
            Some((Public::open(&process, &config.connections)?, listener, door::router(&process, direct).await?))
        }
    };
    process.serve_local_until_drain(|routes| routes.add_service(PushServer::new(attach)))?;

    // Run
    process.dependency("redis", true).await;
    let (caught_up, first_read) = oneshot::channel();
    // Streams are served until their turn comes to end.
    process.shutdown().spawn_companion("reader", reader.run(caught_up));
    process.shutdown().spawn_companion("sweep", sweep::run(Arc::clone(&hub), process.pulse("sweep", SWEEP_LIMIT)));
    let began = tokio::select! {
        began = first_read => began.is_ok(),
        () = process.until_drain() => false,
    };
    if began {
        if let Some((listeners, listener, router)) = public {
            listeners.serve("push", listener, router);
        }
        process.ready().await;
        process.until_drain().await;
    }
    let budget = process.shared().budgets.pusher;
    hub.close(budget / 4).await;
    if tokio::time::timeout(budget / 2, hub.emptied()).await.is_err() {
        tracing::warn!("some streams have not taken their verdict; their clients do not read");
    }
    Ok(())
}
