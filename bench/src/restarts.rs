//! Planned restarts, replacements of the whole suite and changes of its size under constant traffic: nobody outside should be able to tell.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use gatehouse_tests::{
    binaries,
    suite::control::{restart, scale, upgrade},
};
use tokio::time::Instant;

use crate::{
    report::Report,
    traffic::{Times, Traffic, World, noticed, tails},
};

/// Of each component in turn.
#[derive(Clone, Debug, Args)]
pub struct Restarts {
    /// Restarts of each
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// Which, in this order
    #[arg(long, value_delimiter = ',', default_value = "edge,pusher/0,pusher/1,auditor,admin")]
    components: Vec<String>,
    #[command(flatten)]
    traffic: Traffic,
}

/// From a few pushers to many and back.
#[derive(Clone, Copy, Debug, Args)]
pub struct Scales {
    /// How often 1 → 4 → 2 → 1
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[command(flatten)]
    traffic: Traffic,
}

/// Of the supervisor and then of everything, in place.
#[derive(Clone, Copy, Debug, Args)]
pub struct Upgrades {
    /// How often
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    #[command(flatten)]
    traffic: Traffic,
}

/// Restarts each component so often.
pub async fn run(restarts: &Restarts) -> Vec<Report> {
    let world = World::start(restarts.traffic.sizes(), |suite| suite).await;
    let mut times = Times::default();
    for _ in 0..restarts.rounds {
        for name in &restarts.components {
            let phase = format!("restart {name}");
            world.load.mark(&phase);
            let took = world.suite.changed(restart(name)).await.took_ms;
            world.load.streams_are_back().await;
            times.add(&phase, Duration::from_millis(took));
            world.calm().await;
        }
    }
    judged(world, format!("{} planned restarts of each: {}", restarts.rounds, restarts.traffic.title()), &times, false).await
}

/// Changes the number of pushers.
pub async fn run_scales(scales: &Scales) -> Vec<Report> {
    let world = World::start(scales.traffic.through_the_edge(), |suite| suite.set("suite", "pushers", 1)).await;
    let mut times = Times::default();
    for _ in 0..scales.rounds {
        for count in [4, 2, 1] {
            let phase = format!("scale to {count}");
            world.load.mark(&phase);
            let took = world.suite.changed(scale(count)).await.took_ms;
            times.add(&phase, Duration::from_millis(took));
            world.calm().await;
        }
    }
    judged(world, format!("pushers 1 → 4 → 2 → 1, {} times: {}", scales.rounds, scales.traffic.title()), &times, true).await
}

/// Replaces all binaries.
pub async fn run_upgrades(upgrades: &Upgrades) -> Vec<Report> {
    let releases = tempfile::tempdir().unwrap();
    let directories = ["one", "other"].map(|name| release(&releases.path().join(name)));
    // What is written later than this would be waited for by Redis, which has every command's write on the disk.
    nix::unistd::sync();
    let world = World::start(upgrades.traffic.sizes(), |suite| suite).await;
    let mut times = Times::default();
    let supervisor = world.suite.supervisor_pid();
    for directory in directories.iter().cycle().take(upgrades.rounds) {
        world.load.mark("upgrade");
        let begun = Instant::now();
        world.suite.changed(upgrade(directory)).await;
        world.load.streams_are_back().await;
        times.add("upgrade", begun.elapsed());
        assert_eq!(world.suite.status().await.pid, supervisor, "the same process");
        world.calm().await;
    }
    judged(world, format!("{} upgrades in place: {}", upgrades.rounds, upgrades.traffic.title()), &times, false).await
}

/// A directory with the same binaries.
fn release(directory: &Path) -> PathBuf {
    fs::create_dir(directory).unwrap();
    for name in ["gatehouse", "gatehouse-supervisor", "gatehouse-edge", "gatehouse-pusher", "gatehouse-auditor", "gatehouse-admin"] {
        fs::copy(binaries::ours(name), directory.join(name)).unwrap();
    }
    directory.to_owned()
}

/// The tables; whatever was noticed is an error.
pub(crate) async fn judged(world: World, title: String, times: &Times, untouched: bool) -> Vec<Report> {
    let (suite, seen, _backends) = world.stop().await;
    let mut report = noticed(title, &seen, times, ["median ms", "worst ms"]);
    let clean = if untouched { seen.is_untouched() } else { seen.is_clean() };
    if !clean {
        report.errors = 1.max(seen.failures.len() as u64);
        eprintln!("{seen}");
    }
    seen.assert_audited(&suite).await;
    vec![report, tails(&seen)]
}
