//! Looks after the files of a pair, and takes what they have become.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use super::{Kind, Tls, TlsConfig, load};

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

/// What became of files that have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// They are shown, or will never be as they are.
    Settled,
    /// Another time they may be read as they are.
    Unreadable,
}

impl Tls {
    /// Until it is dropped. Files are taken when they have not changed for a round, so that a certificate and a key that are written one after the other are
    /// not tried in between; and again each round while they cannot be read, for the reason may lie in the process (no descriptor is free) and pass.
    pub(in crate::connections) async fn watch(self: Arc<Self>) {
        let mut rounds = interval(EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut taken, mut before, mut told) = (self.opened.clone(), Vec::new(), Vec::new());
        loop {
            rounds.tick().await;
            let this = Arc::clone(&self);
            // Both may wait for a disk.
            let now = match spawn_blocking(move || stamps(&this.config)).await {
                Ok(now) => now,
                Err(error) => return tracing::error!(%error, "the files of the certificate are looked after no more"),
            };
            if now == before && taken != now {
                let (this, is_told) = (Arc::clone(&self), told == now);
                match spawn_blocking(move || this.take(is_told)).await {
                    Ok(Taken::Settled) => taken.clone_from(&now),
                    Ok(Taken::Unreadable) => told.clone_from(&now),
                    Err(error) => {
                        tracing::error!(%error, "the changed certificate was not taken");
                        taken.clone_from(&now);
                    }
                }
            }
            before = now;
        }
    }

    /// A failure that was told already is neither told nor counted again.
    pub(super) fn take(&self, is_told: bool) -> Taken {
        match load(&self.config) {
            Ok(loaded) => {
                self.show(loaded);
                self.metrics.reloads.with_label_values(&["ok"]).inc();
                tracing::info!(certificate = %self.config.certificate.display(), "the changed certificate is shown from now on");
                Taken::Settled
            }
            Err(error) => {
                if !is_told {
                    self.metrics.reloads.with_label_values(&["failed"]).inc();
                    tracing::error!(%error, "the changed certificate cannot be used; the one before is shown on");
                }
                if matches!(error.kind, Kind::Unreadable(_)) { Taken::Unreadable } else { Taken::Settled }
            }
        }
    }
}
