//! The end of the process, as requests in flight see it.

use std::time::Duration;

use gatehouse_chassis::{Process, Shutdown};
use tokio_util::sync::CancellationToken;

/// How long before the end of the budget those who still wait are answered: enough to write their records and to send.
const MARGIN: Duration = Duration::from_millis(500);

/// When to stop waiting for others; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Closing {
    shutdown: Shutdown,
    last_call: CancellationToken,
}

impl Closing {
    pub(crate) fn new(process: &Process) -> Self {
        let (budget, shutdown, last_call) = (process.shared().budgets.edge, process.shutdown().clone(), CancellationToken::new());
        let (draining, called) = (shutdown.clone(), last_call.clone());
        process.shutdown().spawn_companion("last-call", async move {
            draining.draining().await;
            tokio::time::sleep(budget.saturating_sub(MARGIN.min(budget / 4))).await;
            called.cancel();
        });
        Self { shutdown, last_call }
    }

    /// The two stages.
    pub(crate) fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Resolves shortly before the drain's budget is used up. Who waits until then is told that the gateway stops, instead of being cut off without a word.
    pub(crate) async fn last_call(&self) {
        self.last_call.cancelled().await;
    }

    /// Whether it is too late to begin anything. Until then requests that come on connections which have not left yet are served as ever: nobody else can.
    pub(crate) fn is_over(&self) -> bool {
        self.last_call.is_cancelled()
    }
}
