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
//!
//! A supervisor that dies leaves all of it running. The next one finds the processes by their lanes, takes the sockets, and goes on.

mod audit;
mod binaries;
mod child;
mod component;
mod config;
mod control;
mod dump;
mod held;
mod ledger;
mod metrics;
mod notify;
mod output;
mod preflight;
mod premises;
mod redis;
mod reexec;
mod sockets;
mod state;
mod suite;
mod systemd;
mod upgrade;
mod watch;

use std::{collections::BTreeSet, sync::Arc};

use anyhow::Context as _;
use futures_util::future::join_all;
use gatehouse_chassis::{Process, connections::Gate, exit::Fatal};

pub use config::{Config, Limits};
pub use dump::run_helper;
pub use preflight::preflight;
pub use suite::drain_budget;

use crate::{
    binaries::Binaries,
    child::{
        Lanes, Launcher,
        adopt::{self, Found},
    },
    component::{Component, SlotId, roll},
    control::{Control, Records},
    held::Held,
    ledger::Ledger,
    metrics::SuiteMetrics,
    notify::Notifications,
    output::Output,
    premises::Premises,
    sockets::{OpenError, Sockets},
    state::StateFile,
    suite::{Parts, Suite},
    upgrade::Before,
};

/// The supervisor, from the lock on its directories to the report of the drain.
pub async fn serve(process: Process, config: Config) -> anyhow::Result<()> {
    let mut before = process.inherited(Before::take).context("take what the supervisor before handed on")?;
    let opened = open(process, config, before.as_mut()).await;
    match (opened, before) {
        (Ok(Some((parts, left))), before) => Suite::new(Parts { before, ..parts }).run(left).await,
        (Ok(None), _) => Ok(()),
        (Err(error), Some(before)) => Err(upgrade::go_back(before, error)),
        (Err(error), None) => Err(error),
    }
}

/// Everything that the driver needs, and what runs already. `None`: it took so long that we were asked to stop.
async fn open(process: Process, config: Config, before: Option<&mut Before>) -> anyhow::Result<Option<(Parts, Vec<Found>)>> {
    // open: what must be ours alone before anything is touched
    let shared = Arc::clone(process.shared());
    let premises = process.inherited(|inherited| Premises::open(&shared, inherited))?;
    let lanes = Lanes::open(&shared.runtime_dir, &shared.state_dir).context("make the directory of the lanes")?;
    let mut left = adopt::find(&lanes);
    let metrics = SuiteMetrics::new(process.metrics());
    let state = StateFile::open(&shared.state_dir, metrics.state_failures.clone()).context("start the thread that writes the state")?;
    let binaries = match (before.as_deref(), state.upgrade()) {
        (Some(before), Some(upgrade)) if before.back().is_some() => before.binaries(&upgrade.before),
        (Some(before), Some(upgrade)) => before.next(&upgrade.directory),
        _ => Binaries::pin(&binaries::directory()?),
    };
    let binaries = binaries.map_err(Fatal::config)?;
    let roll = roll(&shared, state.pushers(shared.instances(Component::Pusher.name())));

    // build
    let redis = shared.redis.embedded.then(|| redis::Embedded::open(&shared, &config.redis_server)).transpose()?;
    let output = Output::open(&config.logs, &shared, process.metrics());
    let ledger = Ledger::open(&shared.state_dir);

    // bind
    let Some(sockets) = open_sockets(&process, &config, &roll, &lanes, &mut left).await? else { return Ok(None) };
    let notifications = Notifications::bind(&shared.runtime_dir)?;
    let control_socket = sockets.control()?;
    let (control, ends) = Control::open(
        &process,
        &config.access,
        &premises::control_socket(&shared),
        Records { output: output.clone(), ledger: ledger.clone() },
    )?;
    process.inherited(|inherited| inherited.insert("local", control_socket));
    let keys = control.signer_keys(config.path.clone());
    process.serve_local_to_the_end(|routes| routes.add_service(keys).add_service(control.into_server()))?;
    let gate = Gate::of(&process, &config.connections)?;
    let held = Held::new(config.held_answer_after, gate, process.metrics(), process.connections(), sockets.public()?);
    let launcher = Launcher::new(&config, binaries, lanes, sockets, redis, notifications.path().to_owned(), output);

    // from here on there is no way back but by the driver
    if let Some(before) = before {
        before.opened();
    }
    let parts = Parts { process, config, launcher, notifications, metrics, ledger, state, ends, held, premises, before: None };
    Ok(Some((parts, left)))
}

/// The sockets of all slots and of what is left running: handed on, taken from these processes, or bound. When the kernel keeps an address from us, those
/// processes that hold it end first, and the others serve on. `None`: it took so long that we were asked to stop.
async fn open_sockets(
    process: &Process,
    config: &Config,
    roll: &[SlotId],
    lanes: &Lanes,
    left: &mut Vec<Found>,
) -> anyhow::Result<Option<Sockets>> {
    let shared = process.shared();
    loop {
        let slots: BTreeSet<_> = roll.iter().copied().chain(left.iter().map(Found::slot)).collect();
        let orphans: Vec<_> = left.iter().map(|found| (found.component, found.pid)).collect();
        let opened = process.inherited(|inherited| Sockets::open(&config.listen, shared, &Vec::from_iter(slots), inherited, &orphans));
        let held = match opened {
            Err(OpenError::Held(held)) => held,
            opened => return Ok(Some(opened.map_err(Fatal::from)?)),
        };
        let (holders, others): (Vec<_>, Vec<_>) = left.drain(..).partition(|found| held.components.contains(&found.component));
        let names: Vec<_> = holders.iter().map(|found| found.slot().to_string()).collect();
        tracing::error!("{held}. {} must be stopped now and started anew; whoever else is there serves on", names.join(", "));
        let endings = holders.iter().map(|found| adopt::end(lanes, found, shared.budgets.of(found.component.name())));
        tokio::select! {
            _ = join_all(endings) => {}
            // Some of them may still hold our ports; the next start ends them.
            () = process.shutdown().draining() => return Ok(None),
        }
        *left = others;
    }
}
