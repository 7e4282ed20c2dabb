//! Owns the listening sockets and the child processes: starts, watches, replaces and drains them.
//!
//! ```text
//!            ┌──────────────────────── Suite: one task, the main thread ────────────────────────┐
//!  SIGTERM ─▶│  slots: one per component and instance                                           │─▶ Status (control socket)
//!  READY=1 ─▶│    each: a Machine (pure: what to do) + a running child (pidfd, output, probe)    │─▶ metrics, READY=1, STATUS=
//!  exits ───▶│                                                                                  │─▶ spawn, SIGTERM, SIGKILL
//!  timers ──▶└──────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Everything that listens is bound here once and lent to each generation of a child by `LISTEN_FDS`, so that a dead child means a queue, not a refusal.

mod audit;
mod binaries;
mod child;
mod component;
mod config;
mod control;
mod metrics;
mod notify;
mod orphans;
mod preflight;
mod premises;
mod redis;
mod sockets;
mod state;
mod suite;

use std::sync::Arc;

use gatehouse_chassis::{Process, exit::Fatal};

pub use config::Config;
pub use preflight::preflight;
pub use suite::drain_budget;

use crate::{
    child::Launcher,
    component::{Component, roll},
    control::Control,
    metrics::SuiteMetrics,
    notify::Notifications,
    orphans::Roster,
    premises::Premises,
    sockets::Sockets,
    state::StateFile,
    suite::{Parts, Suite},
};

/// The supervisor, from the lock on its directories to the report of the drain.
pub async fn serve(process: Process, config: Config) -> anyhow::Result<()> {
    // open: what must be ours alone before anything is touched
    let shared = Arc::clone(process.shared());
    let premises = process.inherited(|inherited| Premises::open(&shared, inherited))?;
    let roster = Roster::open(&shared.state_dir);
    roster.end_orphans(&shared, process.shutdown()).await;
    if process.shutdown().is_draining() {
        // Some of them may still hold our ports; the next start ends them.
        return Ok(());
    }
    let metrics = SuiteMetrics::new(process.metrics());
    let state = StateFile::open(&shared.state_dir, metrics.state_failures.clone());
    let slots = roll(&shared, state.pushers(shared.instances(Component::Pusher.name())));

    // build
    let redis = shared.redis.embedded.then(|| redis::Embedded::open(&shared, &config.redis_server)).transpose()?;

    // bind
    let opened = process.inherited(|inherited| Sockets::open(&config.listen, &shared, &slots, inherited, &[]));
    let sockets = opened.map_err(Fatal::from)?;
    let notifications = Notifications::bind(&shared.runtime_dir)?;
    let control_socket = sockets.control()?;
    let (control, ends) = Control::open(&process, &config.access, &premises::control_socket(&shared))?;
    process.inherited(|inherited| inherited.insert("local", control_socket));
    process.serve_local(|routes| routes.add_service(control.into_server()))?;

    // run
    let launcher = Launcher::new(&config, &shared, sockets, redis, notifications.path().to_owned());
    let ended = Suite::new(Parts { process, config, launcher, notifications, roster, metrics, state, ends }).run().await;
    drop(premises);
    ended
}
