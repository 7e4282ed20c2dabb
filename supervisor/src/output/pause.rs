//! Readers put down their pipes while another supervisor is about to be executed in our place: what was read is passed on, what was not waits in the pipes for
//! it. If it cannot be executed, they go on.

use std::{future::pending, time::Duration};

use tokio::{sync::watch, time::timeout};

/// How long what was read may take to be passed on.
const PATIENCE: Duration = Duration::from_secs(1);

/// For all readers.
#[derive(Debug)]
pub(super) struct Pause {
    wanted: watch::Sender<bool>,
    reading: watch::Sender<usize>,
}

/// One reader, which reads while this is there.
pub(super) struct Turnstile {
    wanted: watch::Receiver<bool>,
    reading: watch::Sender<usize>,
}

impl Default for Pause {
    fn default() -> Self {
        Self { wanted: watch::Sender::new(false), reading: watch::Sender::new(0) }
    }
}

impl Pause {
    /// For a reader that begins.
    pub(super) fn turnstile(&self) -> Turnstile {
        self.reading.send_modify(|reading| *reading += 1);
        Turnstile { wanted: self.wanted.subscribe(), reading: self.reading.clone() }
    }

    /// Resolves when nobody reads, or one has taken too long.
    pub(super) async fn begin(&self) {
        self.wanted.send_replace(true);
        if timeout(PATIENCE, self.reading.subscribe().wait_for(|reading| *reading == 0)).await.is_err() {
            tracing::warn!("nobody reads our stdout; what waits for it is left out");
        }
    }

    /// All go on.
    pub(super) fn end(&self) {
        self.wanted.send_replace(false);
    }
}

impl Turnstile {
    /// Resolves when a pause is wanted.
    pub(super) async fn is_wanted(&self) {
        let mut wanted = self.wanted.clone();
        if wanted.wait_for(|wanted| *wanted).await.is_err() {
            // Nobody is left to want one.
            pending::<()>().await;
        }
    }

    /// Everything is put down; resolves when it is over.
    pub(super) async fn rest(&self) {
        self.reading.send_modify(|reading| *reading -= 1);
        let mut wanted = self.wanted.clone();
        // Or nobody is left to end it.
        let _over = wanted.wait_for(|wanted| !*wanted).await;
        self.reading.send_modify(|reading| *reading += 1);
    }
}

impl Drop for Turnstile {
    fn drop(&mut self) {
        self.reading.send_modify(|reading| *reading -= 1);
    }
}
