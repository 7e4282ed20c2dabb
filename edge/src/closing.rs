//! The end of the process, as requests in flight see it.

use std::time::Duration;

use gatehouse_chassis::{Process, Shutdown};

/// How long before the end of the budget those who still wait are answered: enough to write their records and to send.
const MARGIN: Duration = Duration::from_millis(500);

/// When to stop waiting for others; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Closing {
    shutdown: Shutdown,
    patience: Duration,
}

impl Closing {
    pub(crate) fn new(process: &Process) -> Self {
        let budget = process.shared().budgets.edge;
        Self { shutdown: process.shutdown().clone(), patience: budget.saturating_sub(MARGIN.min(budget / 4)) }
    }

    /// The two stages.
    pub(crate) fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Resolves shortly before the drain's budget is used up. Who waits until then is told that the gateway stops, instead of being cut off without a word.
    pub(crate) async fn last_call(&self) {
        self.shutdown.draining().await;
        tokio::time::sleep(self.patience).await;
    }
}
