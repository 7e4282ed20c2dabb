//! Looks after the files of a pair, and takes what they have become.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use super::{Tls, TlsConfig, load};

/// How often files are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// What changes when a file does: its inode (a rename, another target of a link), its length, when it was written, its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Option<(u64, u64, i128, i128)>);

impl Stamp {
    fn of(path: &PathBuf) -> Self {
        let nanos = |seconds, nanos| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let stamp =
            |file: fs::Metadata| (file.ino(), file.len(), nanos(file.mtime(), file.mtime_nsec()), nanos(file.ctime(), file.ctime_nsec()));
        Self(fs::metadata(path).ok().map(stamp))
    }
}

pub(super) fn stamps(config: &TlsConfig) -> Vec<Stamp> {
    config.files().map(Stamp::of).collect()
}

impl Tls {
    /// Until it is dropped. Files are taken when they have not changed for a round, so that a certificate and a key that are written one after the other are
    /// not tried in between.
    pub(in crate::connections) async fn watch(self: Arc<Self>) {
        let mut rounds = interval(EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut tried, mut before) = (self.opened.clone(), Vec::new());
        loop {
            rounds.tick().await;
            let this = Arc::clone(&self);
            // Both may wait for a disk.
            let Ok(now) = spawn_blocking(move || stamps(&this.config)).await else { return };
            if now == before && tried != now {
                tried.clone_from(&now);
                let this = Arc::clone(&self);
                if spawn_blocking(move || this.take()).await.is_err() {
                    return;
                }
            }
            before = now;
        }
    }

    fn take(&self) {
        match load(&self.config) {
            Ok(loaded) => {
                self.show(loaded);
                self.metrics.reloads.with_label_values(&["ok"]).inc();
                tracing::info!(certificate = %self.config.certificate.display(), "the changed certificate is shown from now on");
            }
            Err(error) => {
                self.metrics.reloads.with_label_values(&["failed"]).inc();
                tracing::error!(%error, "the changed certificate cannot be used; the one before is shown on");
            }
        }
    }
}
