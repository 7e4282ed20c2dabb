//! Looks at the directory once a second. A look costs two calls of stat(2) unless something has changed.

use std::{sync::Arc, time::Duration};

use gatehouse_proto::keys::Signer;
use prometheus::{IntGauge, IntGaugeVec};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Directory, Keys, Register, Ring,
    directory::{Found, Stamp},
    now_ms,
};
use crate::{Process, Shutdown, metrics::Metrics};

const PERIOD: Duration = Duration::from_secs(1);

/// What is known, and what was said.
#[derive(Debug)]
pub(super) struct Follower {
    keys: Keys,
    directory: Arc<Directory>,
    /// None until it was read, and while it cannot be.
    known: Option<(Stamp, Register, Arc<Signer>)>,
    complaint: String,
    gauges: Gauges,
}

#[derive(Clone, Debug)]
pub(super) struct Gauges {
    pub(super) broken: IntGauge,
    pub(super) active: IntGaugeVec,
}

impl Gauges {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            broken: metrics
                .gauge("signer_keys_broken", "1 while the directory of signer keys cannot be read and the keys read before are in use."),
            active: metrics.gauges("signer_key_active", "1 for the key that this process signs with.", &["key_id"]),
        }
    }

    fn sign_with(&self, key_id: &str) {
        self.active.reset();
        self.active.with_label_values(&[key_id]).set(1);
    }
}

impl Follower {
    pub(super) fn start(keys: &Keys, process: &Process) {
        let gauges = Gauges::new(process.metrics());
        gauges.sign_with(keys.signer().key_id());
        let Some(directory) = keys.directory.clone() else { return };
        let this = Self::new(keys.clone(), directory, gauges);
        process.spawn("signer-keys", this.follow(process.shutdown().clone()));
    }

    async fn follow(mut self, shutdown: Shutdown) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let broken = self.gauges.broken.clone();
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                _ = ticks.tick() => {}
            }
            // The disk may be slow.
            let looked = tokio::task::spawn_blocking(move || {
                self.look(now_ms());
                self
            });
            match looked.await {
                Ok(follower) => self = follower,
                Err(error) => {
                    broken.set(1);
                    return tracing::error!(%error, "the signer keys are followed no more");
                }
            }
        }
    }

    pub(super) fn new(keys: Keys, directory: Arc<Directory>, gauges: Gauges) -> Self {
        Self { keys, directory, known: None, complaint: String::new(), gauges }
    }

    /// Takes over what has changed.
    pub(super) fn look(&mut self, now_ms: i64) {
        if self.known.as_ref().is_none_or(|(stamp, ..)| *stamp != self.directory.stamp()) {
            match self.directory.read() {
                Ok(Found { register, signer, stamp }) => {
                    if !self.complaint.is_empty() {
                        self.complaint.clear();
                        tracing::info!("the signer keys can be read again");
                    }
                    self.known = Some((stamp, register, signer));
                }
                Err(problem) => self.complain(&problem.to_string()),
            }
        }
        self.gauges.broken.set((!self.complaint.is_empty()).into());
        if let Some((_, register, signer)) = &self.known {
            let (before, after) = (self.keys.ring(), Ring::of(register, Arc::clone(signer), now_ms));
            if before.published != after.published {
                self.swap(&before, after);
            }
        }
    }

    fn swap(&self, before: &Ring, after: Ring) {
        let (old, new) = (before.signer.key_id().to_owned(), after.signer.key_id().to_owned());
        let published: Vec<_> = after.published.iter().map(|key| key.key_id.clone()).collect();
        self.keys.ring.store(Arc::new(after));
        tracing::info!(signer.key_id = new, signer.before = old, signer.published = published.join(","), "the signer keys have changed");
        self.gauges.sign_with(&new);
    }

    /// Once for each reason.
    fn complain(&mut self, why: &str) {
        if let Some((stamp, ..)) = &mut self.known {
            // Looked at again each second, until it can be read.
            *stamp = Stamp::default();
        }
        if self.complaint != why {
            why.clone_into(&mut self.complaint);
            tracing::error!("{why}; the signer keys in use stay in use");
        }
    }
}

#[cfg(test)]
mod tests;
