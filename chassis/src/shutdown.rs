//! Shutdown in two stages: draining, in which work is finished and none begun, then aborting, in which it is dropped.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

/// One for each process; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    aborting: CancellationToken,
    tasks: TaskTracker,
    sinks: TaskTracker,
    panicked: Arc<AtomicBool>,
}

impl Shutdown {
    /// Stop taking new work. Idempotent.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Drop what is unfinished. Implies draining.
    pub fn abort(&self) {
        self.draining.cancel();
        self.aborting.cancel();
    }

    /// Whether new work is refused.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Whether unfinished work is being dropped.
    #[must_use]
    pub fn is_aborting(&self) -> bool {
        self.aborting.is_cancelled()
    }

    /// Resolves when draining begins.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Resolves when aborting begins.
    pub async fn aborting(&self) {
        self.aborting.cancelled().await;
    }

    /// Spawns a tracked task. It sees the drain by itself; when aborting begins it is dropped at its next await. A panic in it begins the drain:
    /// half a process is worse than none.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.guarded(name, task));
    }

    /// Spawns a task that ends when nobody feeds it any more, such as the writer behind a queue. It is waited for last: those that feed it
    /// end first.
    pub fn spawn_sink(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.sinks.spawn(self.guarded(name, task));
    }

    /// Spawns a task that others need for as long as they run, such as a feed of what they go by. It goes on during the drain, is waited for by nobody, and is
    /// dropped when aborting begins or with the process.
    pub fn spawn_companion(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        #[expect(clippy::disallowed_methods, reason = "a drain that waited for it would never end")]
        drop(tokio::spawn(self.guarded(name, task)));
    }

    fn guarded(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> impl Future<Output = ()> + Send + 'static {
        let this = self.clone();
        let task = async move {
            match this.aborting.run_until_cancelled(AssertUnwindSafe(task).catch_unwind()).await {
                Some(Ok(())) => {}
                Some(Err(_)) => {
                    tracing::error!(task.name = name, "task panicked; the process ends");
                    this.panicked.store(true, Ordering::Relaxed);
                    this.drain();
                }
                None => tracing::debug!(task.name = name, "task aborted"),
            }
        };
        task.instrument(tracing::info_span!("task", task.name = name))
    }

    /// Whether a task ended in a panic.
    #[must_use]
    pub fn has_panicked(&self) -> bool {
        self.panicked.load(Ordering::Relaxed)
    }

    /// Resolves when every tracked task has ended, but for sinks. Call it once nothing spawns any more.
    pub async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Resolves when every sink has ended, too. Call it when whatever feeds them has been dropped.
    pub async fn sinks_finished(&self) {
        self.sinks.close();
        self.sinks.wait().await;
    }

    /// Aborts when `budget` has passed since the drain began.
    pub(crate) fn limit(&self, budget: Duration) -> impl Future<Output = ()> + use<> {
        let this = self.clone();
        async move {
            this.draining().await;
            tokio::time::sleep(budget).await;
            if !this.is_aborting() {
                tracing::warn!(budget_ms = budget.as_millis(), "drain budget used up; aborting what is left");
                this.abort();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ignores_the_drain_ends_with_the_budget() {
        let (shutdown, budget) = (Shutdown::default(), Duration::from_millis(20));
        shutdown.spawn("deaf", std::future::pending());
        let begun = std::time::Instant::now();
        shutdown.drain();
        tokio::join!(shutdown.limit(budget), shutdown.finished());
        assert!(begun.elapsed() >= budget && shutdown.is_aborting());
    }

    #[tokio::test]
    async fn a_companion_outlives_the_beginning_of_the_drain_and_does_not_hold_it_up() {
        let (shutdown, alive) = (Shutdown::default(), Arc::new(()));
        let held = Arc::clone(&alive);
        shutdown.spawn_companion("feed", async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        shutdown.drain();
        shutdown.finished().await;
        assert_eq!(Arc::strong_count(&alive), 2);
        shutdown.abort();
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_panic_in_a_task_begins_the_drain() {
        let shutdown = Shutdown::default();
        shutdown.spawn("broken", async { panic!("as tested") });
        shutdown.draining().await;
        assert!(shutdown.has_panicked());
    }
}
